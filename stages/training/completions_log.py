"""Tables of what a GRPO stage generates while it trains: pictures, prompt, completions, rewards, advantage.

A few groups, some twenty times a stage, in `completions/step-00010.parquet`; `pipeline.reports.completions_page` makes a page of
them. TRL's own log_completions has no pictures in its files, and prints every completion at every step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pipeline.data.images import encode_picture
from pipeline.reports.completions_page import COMPLETIONS, REWARD
from pipeline.reports.page import THUMBNAIL
from stages.processes.work import Work

TABLES = 20
"""Tables a stage writes, about."""
GROUPS = 4
"""Groups (prompts) in a table; each has num_generations rows."""


class Completions(TrainerCallback):
    """Writes a table after a rollout, at about `TABLES` evenly spaced steps and at the first."""

    def __init__(self, trainer: Any, folder: Path) -> None:
        self.trainer = trainer
        self.folder = folder
        self.next = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.next = state.global_step
        if state.is_world_process_zero:
            # On resume the steps after the checkpoint come again.
            for path in self.folder.glob("step-*.parquet"):
                if int(path.stem.removeprefix("step-")) > state.global_step:
                    path.unlink()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "reward" not in (logs or {}) or state.global_step < self.next:
            # Steps that use a rollout again log no reward.
            return
        self.next = state.global_step + max(1, state.max_steps // TABLES)
        write_table(self.trainer, self.folder / f"step-{state.global_step:05d}.parquet", state.global_step)


def write_table(trainer: Any, path: Path, step: int) -> None:
    """Write the first groups of the last rollout, which TRL keeps, gathered from all ranks, in `trainer._logs`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    logs, size = trainer._logs, trainer.num_generations
    count = GROUPS * size
    completions = list(logs["completion"])[:count]
    # One a group; empty where log_multimodal is false.
    images = list(logs["images"])[:count:size]
    pictures = [[_thumbnail(image) for image in one or ()] for one in images] or [[] for _ in range(GROUPS)]
    table = {
        "step": [step] * len(completions),
        "group": [index // size for index in range(len(completions))],
        "images": pa.array([pictures[index // size] for index in range(len(completions))], pa.list_(pa.binary())),
        "prompt": [_text(prompt) for prompt in list(logs["prompt"])[:count]],
        "completion": [_text(completion) for completion in completions],
        **{f"{REWARD}{name}": list(values)[:count] for name, values in logs["rewards"].items()},
        "advantage": list(logs["advantages"])[:count],
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)


def _text(messages: Any) -> str:
    """The words of a conversation's last turn."""
    content = messages[-1]["content"] if isinstance(messages, list) else messages
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _thumbnail(image: Any) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return encode_picture(small, "PNG")


def add_completions(trainer: Any, work: Work) -> None:
    """Have the stage write its tables."""
    trainer.add_callback(Completions(trainer, work.folder / COMPLETIONS))
