"""What it gains that finished rows leave the batch, on a trained student: its evaluation, its rollouts, and whole GRPO steps.

    OMP_NUM_THREADS=1 python -m benchmarks.decoding runs/oasis/stage4_clgrpo [--rounds 5] [--batches 2] [--steps 12]

The stage that trained the student is asked its evaluation split, greedily and in samples, and trains again from its parent; in
turns with every row computed until the longest of its batch is finished, and with finished rows gone. Tokens must be equal.
Seconds are those of the process; the first turn of each and the first step of a training do not count. Positions are rows of the
forward passes after the prompts'.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline import command_line
from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.run_dir import RunDir
from stages.processes.work import Work

Turn = tuple[float, Any]
"""Seconds, and what came of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all and print the table."""
    parser = command_line.doc_parser("benchmarks.decoding", __doc__)
    parser.add_argument("stage", type=Path, help="the folder of a GRPO stage of a run that still has its checkpoints")
    parser.add_argument("settings", nargs="*", help="a.b=c, as for the run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2, help="of the evaluation")
    parser.add_argument("--steps", type=int, default=12, help="of the stage")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| | to the end, s | finished rows gone, s | ratio | positions | tokens |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        config = load(
            str(arguments.stage.parent / "config.yaml"),
            [
                *arguments.settings,
                f"output_dir={scratch}",
                f"stages.{arguments.stage.name}.trainer.max_steps={arguments.steps}",
                f"stages.{arguments.stage.name}.trainer.save_steps=100000",
            ],
        )
        work = Work(config, arguments.stage.name, RunDir(scratch, config.name))
        parent = arguments.stage.parent / config.stage_name(work.stage.init_from)
        ignored = shutil.ignore_patterns("checkpoint-*", "*.jsonl", "report")
        shutil.copytree(parent, work.run.phase(parent.name), ignore=ignored)
        for sample in (False, True):
            ask = evaluation(work, arguments.stage / "final", arguments.batches, sample)
            told(f"evaluation, {'sampled' if sample else 'greedy'}", ask, arguments.rounds)
        told("GRPO step", functools.partial(training, work), max(1, arguments.rounds // 2))
    return 0


def told(name: str, ask: Callable[[], dict[str, Turn]], rounds: int) -> None:
    """Take turns; print medians and the range of the ratios."""
    found: dict[str, list[dict[str, Turn]]] = {"end": [], "gone": []}
    for number in range(rounds + 1):
        for kind in ("end", "gone")[:: 1 if number % 2 else -1]:
            with all_rows() if kind == "end" else contextlib.nullcontext():
                found[kind].append(ask())
    for part in found["end"][0]:
        (end, before), (gone, after) = (
            ([turn[part][0] for turn in turns[1:]], turns[1][part][1]) for turns in found.values()
        )
        assert before["said"] == after["said"], "tokens differ"
        ratios = sorted(a / b for a, b in zip(end, gone, strict=True))
        spread = f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        counts = (
            f"{before['positions']:,} / {after['positions']:,} | {after['tokens']:,}" if "positions" in after else " | "
        )
        print(
            f"| {name}{part} | {statistics.median(end):.3f} | {statistics.median(gone):.3f} | {spread} | {counts} |",
            flush=True,
        )


@contextlib.contextmanager
def all_rows() -> Iterator[None]:
    """Every row is computed until the longest is finished."""
    with mock.patch("stages.models.finished_rows.LiveRows.drop_finished", lambda self, unfinished, kwargs: kwargs):
        yield


def evaluation(work: Work, folder: Path, batches: int, sample: bool) -> Callable[[], dict[str, Turn]]:
    """Asks a few batches of the evaluation."""
    from stages.models.generate import Answerer

    task, config = load_task(work.config.task, work.run.cache), work.config
    rows = task.select(config.evaluation.split).rows
    answer, size = Answerer(folder, config, 0), config.evaluation.batch_size
    style, most = work.stage.prompt, config.evaluation.max_new_tokens
    parts = [rows[number * size : (number + 1) * size] for number in range(batches)]
    asked = [([task.prompt(row, style) for row in part], part, most, sample, at) for at, part in enumerate(parts)]
    computed: list[int] = []
    answer.model.get_output_embeddings().register_forward_pre_hook(lambda _, states: computed.append(len(states[0])))

    def ask() -> dict[str, Turn]:
        computed.clear()
        began = time.process_time()
        said = [one for batch in answer.each(asked) for one in batch]
        seconds = time.process_time() - began
        counts = {"positions": sum(computed) - len(said), "tokens": sum(length for _, length in said)}
        return {"": (seconds, {"said": said, **counts})}

    return ask


def training(work: Work) -> dict[str, Turn]:
    """Trains the stage for some steps: seconds of a step, and of the generation in it."""
    from transformers import Trainer

    from stages import grpo
    from stages.shared_prefix.rollouts import complete_once

    shutil.rmtree(work.folder, ignore_errors=True)
    work.folder.mkdir()
    ends: list[float] = []
    spent: list[float] = [0.0]
    said: list[Any] = []
    log = Trainer.log

    def logged(self: Any, *rest: Any, **more: Any) -> None:
        ends.append(time.process_time())
        spent.append(0.0)
        log(self, *rest, **more)

    def generated(*args: Any) -> Any:
        began = time.process_time()
        tokens = complete_once(*args)
        spent[-1] += time.process_time() - began
        said.append(tokens)
        return tokens

    with (
        mock.patch.object(Trainer, "log", logged),
        mock.patch("stages.training.grpo_trainer.complete_once", generated),
        mock.patch("stages.checkpoints.handover.hand_over"),
        mock.patch("stages.training.setup.exit_worker"),
        contextlib.redirect_stdout(sys.stderr),
    ):
        grpo.train(work)
    whole = [after - before for before, after in itertools.pairwise(ends)][:-1]
    return {
        "": (statistics.mean(whole), {"said": said}),
        ", its generation": (statistics.mean(spent[1 : len(whole) + 1]), {"said": said}),
    }


if __name__ == "__main__":
    sys.exit(main())
