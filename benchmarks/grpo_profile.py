"""Where the seconds of a GRPO step go, bare TRL's and ours, with the model, options and rows of `benchmarks.grpo_step`.

    OMP_NUM_THREADS=1 python -m benchmarks.grpo_profile [--points 8,350,128] [--size mini] [--rounds 2] [--steps 3]

Both trainers train in turns, round after round; the first step of each training is not counted. A part's time is what is spent
in it and in no part within it. On a CPU the seconds are those of the process, with one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.grpo_step import SIZES, build, made, now, point, settle
from pipeline import command_line

PARTS = {
    "prefill": "generation: prompts are read",
    "decode": "generation: new tokens",
    "rollout": "the rest of a rollout: templates, pictures, padding, rewards",
    "score": "log-probabilities",
    "backward": "backward",
    "rest": "all else: optimizer, logging, data",
}


class Parts:
    """Seconds of parts that lie within each other, each without those within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._since = now()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, whose time goes to a part."""

        def wrapped(*how: Any, **options: Any) -> Any:
            self._turn()
            self._open.append(name)
            try:
                return work(*how, **options)
            finally:
                self._turn()
                self._open.pop()

        return wrapped

    def begin(self) -> None:
        """Count from here on."""
        self._since = now()

    def end(self) -> None:
        """Count no further."""
        self._turn()

    def drop(self) -> None:
        """Forget what went on since the beginning."""
        self.seconds.clear()
        self._since = now()

    def _turn(self) -> None:
        turned = now()
        self.seconds[self._open[-1]] += turned - self._since
        self._since = turned


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the points and print a table of each."""
    parser = command_line.doc_parser("benchmarks.grpo_profile", __doc__)
    parser.add_argument("--points", nargs="*", type=point, default=[(8, 350, 128)], help="G,P,C")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="of a training; the first does not count")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    arguments = parser.parse_args(argv)
    settle(arguments.device)
    for where in arguments.points:
        with tempfile.TemporaryDirectory() as scratch:
            print(table(where, *measured(where, Path(scratch), arguments)), flush=True)
    return 0


def table(where: tuple[int, int, int], theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Seconds of a step, part by part."""
    lines = [f"| seconds of a step at {','.join(map(str, where))} | TRL | here |", "|---|---|---|"]
    lines += [f"| {words} | {theirs[part]:.2f} | {ours[part]:.2f} |" for part, words in PARTS.items()]
    sums = [sum(one.values()) for one in (theirs, ours)]
    return "\n".join([*lines, f"| sum | {sums[0]:.2f} | {sums[1]:.2f} = 1/{sums[0] / sums[1]:.2f} |"])


def measured(where: tuple[int, int, int], scratch: Path, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of a step of TRL and of ours."""

    from trl import GRPOTrainer

    from stages.training.grpo_trainer import PolicyTrainer

    folder = build(SIZES[arguments.size], scratch)
    both = [made(cls, folder, scratch, where, arguments) for cls in (GRPOTrainer, PolicyTrainer)]
    assert both[1].sharing
    parts = [watched(trainer) for trainer in both]
    found: list[dict[str, float]] = [dict.fromkeys(PARTS, 0.0) for _ in both]
    for _ in range(arguments.rounds):
        for trainer, part, sums in zip(both, parts, found, strict=True):
            trainer._buffered_inputs, trainer._step = None, 0
            part.begin()
            trainer.train()
            for name, seconds in part.seconds.items():
                sums[name] += seconds
            part.seconds.clear()
    counted = arguments.rounds * (arguments.steps - 1)
    return [{name: seconds / counted for name, seconds in sums.items()} for sums in found]


def watched(trainer: Any) -> Parts:
    """The clock of a trainer's steps."""
    from transformers import PrinterCallback, TrainerCallback

    from stages.models import finished_rows
    from stages.shared_prefix.rollouts import complete_once
    from stages.training import grpo_trainer

    parts = Parts()
    if isinstance(trainer, grpo_trainer.PolicyTrainer):
        mock.patch.object(grpo_trainer, "complete_once", parts.timed("decode", complete_once)).start()
        mock.patch.object(finished_rows, "read_prompts", parts.timed("prefill", finished_rows.read_prompts)).start()
    else:
        trainer.model._prefill = parts.timed("prefill", trainer.model._prefill)
        trainer._generate_single_turn = parts.timed("decode", trainer._generate_single_turn)
    for name, method in (
        ("rollout", "_generate_and_score_completions"),
        ("score", "_get_per_token_logps_and_entropies"),
    ):
        setattr(trainer, method, parts.timed(name, getattr(trainer, method)))
    trainer.accelerator.backward = parts.timed("backward", trainer.accelerator.backward)

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 1:
                parts.drop()
            elif state.global_step == state.max_steps:
                parts.end()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    return parts


if __name__ == "__main__":
    sys.exit(main())
