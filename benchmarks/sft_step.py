"""A supervised step beside bare TRL's, with the same model, options and rows, in turns in one process.

    python -m benchmarks.sft_step [--points 8,350,64] [--size mini] [--vocabulary 49280] [--pictures 512x512 512x256]

A point is B,P,C: rows of a micro-batch, tokens of the prompt with the largest picture, tokens of the completion. Told are, as
TRL's figure, ours, and their ratio: seconds of whole steps (data, optimizer, log row and journal included); of loss and backward
of one batch, and their floating point operations; of its data (pictures opened from JPEG files, processor, padding); memory at
its peak above the model; tokens a second of a step, padding not counted. Models are random. Seconds are medians over the rounds;
on a CPU those of the process, with one thread. `--workers` gives ours so many data processes and TRL none, and adds the seconds
of a step by the wall clock.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import copy
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.grpo_step import SIZES as GRPO_SIZES
from benchmarks.grpo_step import add, build, now, peak, point, settle
from pipeline import command_line

ROWS = 64
QWEN = {**GRPO_SIZES["mini"], "family": "qwen2_5_vl", "tiny": {**GRPO_SIZES["mini"]["tiny"], "scale_factor": 2}}
SIZES: dict[str, dict[str, Any]] = {**GRPO_SIZES, "mini-qwen": QWEN}
"""Those of `benchmarks.grpo_step`, and `mini` as a Qwen2.5-VL, whose pictures keep their shapes."""
LORA = {"r": 8, "target_modules": r".*(text_model|language_model).*\.(q|k|v|o)_proj"}
POINTS = [(8, 90, 64), (8, 350, 64), (4, 350, 256)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the points and print the table."""
    parser = command_line.doc_parser("benchmarks.sft_step", __doc__)
    parser.add_argument("--points", nargs="*", type=point, default=POINTS, help="B,P,C")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--vocabulary", type=int, help="tokens the head scores (default: the size's)")
    parser.add_argument("--pictures", nargs="*", default=["512x512"], help="WIDTHxHEIGHT, given to the rows in turn")
    parser.add_argument("--freeze", nargs="*", default=[], choices=("vision", "connector", "language"))
    parser.add_argument("--lora", action="store_true", help="adapters of rank 8 on the language model's attention")
    parser.add_argument("--workers", type=int, default=0, help="data processes of ours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="whole steps of a round; the first does not count")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--no-gradient-checkpointing", dest="checkpointing", action="store_false")
    arguments = parser.parse_args(argv)
    settle(arguments.device)
    columns = ["B,P,C", "step, s", "loss + backward, s", "their operations, 10⁹"]
    columns += ["data of a batch, s", "peak, MB", "tokens/s of a step"]
    columns += ["step by the clock, s"] * bool(arguments.workers)
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for where in arguments.points:
        with tempfile.TemporaryDirectory() as scratch:
            print(row(where, *(measured(where, Path(scratch), arguments))), flush=True)
    return 0


def row(where: tuple[int, int, int], theirs: dict[str, float], ours: dict[str, float]) -> str:
    """A line of the table."""
    cells = {}
    for key, places in {"step": 2, "loss": 2, "operations": 0, "data": 3, "peak": 0, "clock": 2}.items():
        if key in theirs:
            ratio = theirs[key] / max(ours[key], 1e-9)
            cells[key] = f"{theirs[key]:.{places}f} / {ours[key]:.{places}f} = **{ratio:.2f}**"
    rates = " / ".join(f"{one['tokens'] / one['step']:.0f}" for one in (theirs, ours))
    clock = [cells.pop("clock")] if "clock" in cells else []
    return f"| {' | '.join([','.join(map(str, where)), *cells.values(), rates, *clock])} |"


def measured(where: tuple[int, int, int], scratch: Path, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """The figures of TRL and ours at a point."""

    size = copy.deepcopy(SIZES[arguments.size])
    if arguments.vocabulary:
        size["text"]["vocab_size"] = arguments.vocabulary
    folder = build(size, scratch)
    figures: list[dict[str, list[float]]] = [{}, {}]
    both = [made(ours, folder, scratch, where, arguments) for ours in (False, True)]
    batches = [batch(trainer) for trainer in both]
    for trainer in both:
        if arguments.checkpointing:
            # As its train() does.
            trainer.model.gradient_checkpointing_enable()
    operations: list[float] = []
    for number in range(1 + arguments.rounds):
        for ours, trainer, inputs, found in zip((False, True), both, batches, figures, strict=True):
            with as_in_a_stage(ours):
                if number == 0:
                    operations.append(counted(trainer, inputs))
                timed = functools.partial(add, found.setdefault("loss", []), functools.partial(loss, trainer, inputs))
                found.setdefault("peak", []).append(peak(timed))
                # So short a time is told by several.
                for _ in range(5):
                    add(found.setdefault("data", []), functools.partial(batch, trainer))
            # Warm.
            if number == 0:
                found.clear()
    del both, batches, trainer, inputs
    for _ in range(arguments.rounds):
        for ours, found in zip((False, True), figures, strict=True):
            with as_in_a_stage(ours):
                for name, values in steps(made(ours, folder, scratch, where, arguments)).items():
                    found.setdefault(name, []).extend(values)
    if not arguments.workers:
        for found in figures:
            del found["clock"]
    return [
        {"operations": count, **{name: statistics.median(values) for name, values in found.items()}}
        for count, found in zip(operations, figures, strict=True)
    ]


@contextlib.contextmanager
def as_in_a_stage(ours: bool) -> Iterator[None]:
    """What a stage changes in TRL for its process, where it is ours that is measured."""
    from trl.trainer import utils

    from pipeline.system.library_patches import score_labels_alone

    with mock.patch.object(utils, "_use_triton", utils._use_triton):
        if ours:
            score_labels_alone()
        yield


def made(ours: bool, folder: Path, scratch: Path, where: tuple[int, int, int], arguments: argparse.Namespace) -> Any:
    """The trainer of a stage with its journal, or TRL's as a script has it, on the same rows."""
    from trl import SFTConfig, SFTTrainer

    from pipeline.config.schema import ModelConfig, RunConfig, StageConfig
    from pipeline.run_dir import RunDir
    from stages.models import loading
    from stages.processes.work import Work
    from stages.training import metrics_log, setup
    from stages.training.sft_trainer import SupervisedTrainer

    options = {
        "per_device_train_batch_size": where[0],
        "gradient_accumulation_steps": arguments.accumulate,
        "max_steps": arguments.steps,
        "learning_rate": 1e-6,
        "gradient_checkpointing": arguments.checkpointing,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_num_workers": arguments.workers if ours else 0,
    }
    stage = StageConfig(algorithm="sft", init_from="base", data="labels", trainer=options, freeze=arguments.freeze)
    model = ModelConfig(peft=LORA if arguments.lora else None)
    config = RunConfig(name="measured", output_dir=str(scratch), stages={"stage1_sft": stage}, model=model)
    work = Work(config, "stage1_sft", RunDir(scratch, config.name))
    work.folder.mkdir(parents=True, exist_ok=True)
    processor = loading.load_processor(folder, config)
    columns = rows(processor, scratch, where, arguments.pictures)
    how: dict[str, Any] = {
        "model": str(folder),
        "processing_class": processor,
        "peft_config": loading.peft_config(work, processor.tokenizer),
    }
    if ours:
        settings = SFTConfig(**setup.trainer_arguments(work))
        trainer = SupervisedTrainer(args=settings, train_dataset=setup.image_dataset(columns), **how)
        loading.prepare(trainer, work)
        metrics_log.add_journal(trainer, work)
        return trainer
    settings = SFTConfig(
        **options,
        output_dir=str(scratch / "bare"),
        max_length=None,
        use_cpu=arguments.device == "cpu",
        bf16=arguments.device == "cuda",
        report_to="none",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    trainer = SFTTrainer(args=settings, train_dataset=_opened(columns), **how)
    loading.freeze(trainer.model, arguments.freeze)
    return trainer


def rows(processor: Any, scratch: Path, where: tuple[int, int, int], pictures: list[str]) -> dict[str, list[Any]]:
    """The columns of a data set: texts of the point's lengths, and the paths of pictures."""
    from PIL import Image

    from pipeline.data.conversations import user_turn

    _, prompt, completion = where
    shapes = [tuple(map(int, word.split("x"))) for word in pictures]
    paths = [scratch / f"{width}x{height}.jpg" for width, height in shapes]
    for (width, height), path in zip(shapes, paths, strict=True):
        if not path.exists():
            Image.effect_noise((width, height), 80).convert("RGB").save(path)
    largest = Image.open(paths[max(range(len(shapes)), key=lambda number: shapes[number][0] * shapes[number][1])])

    def tokens(words: int) -> int:
        turn = processor.apply_chat_template(user_turn("a " * words), add_generation_prompt=True)
        return len(processor(text=[turn], images=[[largest]])["input_ids"][0])

    # As near to it from above as whole words come.
    words = bisect.bisect_left(range(prompt), prompt, key=tokens)
    answer = [{"role": "assistant", "content": "b " * completion}]
    return {
        "prompt": [user_turn("a " * words)] * ROWS,
        "completion": [answer] * ROWS,
        "images": [[str(path)] for path, _ in zip(itertools.cycle(paths), range(ROWS), strict=False)],
    }


def _opened(columns: dict[str, list[Any]]) -> Any:
    """The rows as a script has them: each picture is opened when its row is read."""
    from datasets import Dataset
    from PIL import Image

    def opened(read: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**read, "images": [[Image.open(path).convert("RGB") for path in one] for one in read["images"]]}

    return Dataset.from_dict(columns).with_transform(opened)


def batch(trainer: Any) -> Any:
    """The first rows as the trainer makes a batch of them."""
    read = [trainer.train_dataset[number] for number in range(trainer.args.per_device_train_batch_size)]
    return trainer._prepare_inputs(trainer.data_collator(read))


def loss(trainer: Any, inputs: dict[str, Any]) -> None:
    """Loss and backward of a batch."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    tokens = trainer._get_num_items_in_batch([inputs], trainer.args.device)
    trainer.training_step(trainer.model, dict(inputs), tokens)


def counted(trainer: Any, inputs: dict[str, Any]) -> float:
    """Floating point operations of loss and backward, in thousands of millions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss(trainer, inputs)
    return float(counter.get_total_flops()) / 1e9


def steps(trainer: Any) -> dict[str, list[float]]:
    """Of each step of a training but the first: seconds, seconds by the clock, and tokens."""
    from transformers import PrinterCallback, TrainerCallback

    moments: list[tuple[float, float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append((now(), time.perf_counter(), trainer._total_train_tokens))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    found = [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(moments)]
    return dict(zip(("step", "clock", "tokens"), map(list, zip(*found, strict=True)), strict=True))


if __name__ == "__main__":
    sys.exit(main())
