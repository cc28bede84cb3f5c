"""What `rollouts_ahead` gains: steps without it and with it, in turns, in one training on one vLLM server.

    OMP_NUM_THREADS=1 python -m benchmarks.rollouts_ahead [--size mini] [--tokens 128] [--turns 4] [--steps 4]

The model is random (`benchmarks.grpo_step` has the sizes), two prompts are asked at each step. Told are, over the steps of a turn
but its first: seconds of a step by the clock; the share of it in which the trainer waits for completions; the share in which the
server has none to sample. On a CPU each of the two computes with one thread: it takes two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.grpo_step import SIZES, build
from benchmarks.rollout_logprobs import trainer_of
from pipeline import command_line

PROMPTS = 2
NAMES = ("without", "with")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print the table."""
    parser = command_line.doc_parser("benchmarks.rollouts_ahead", __doc__)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="of a completion, at most")
    parser.add_argument("--turns", type=int, default=4, help="of each kind")
    parser.add_argument("--steps", type=int, default=4, help="of a turn, the one that does not count among them")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        turns = measured(arguments, Path(scratch))
    print("| rollouts_ahead | s a step | trainer waits | server has nothing to do |\n|---|---|---|---|")
    for name, kind in zip(NAMES, (turns[::2], turns[1::2]), strict=True):
        cells = [_spread([turn[key] for turn in kind]) for key in ("step", "trainer waits", "server idle")]
        print(f"| {name} | {' | '.join(cells)} |")
    ratios = [off["step"] / on["step"] for off, on in zip(turns[::2], turns[1::2], strict=True)]
    print(f"without / with, turn by turn: {_spread(ratios)}")
    return 0


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def measured(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, float]]:
    """Per turn, the first without: means of its steps."""
    from stages.rollouts.vllm_rollouts import policy_server

    steps = 2 * arguments.turns * arguments.steps
    arguments.rows, arguments.image_size, arguments.ahead = PROMPTS * steps, 512, True
    arguments.flags = {"max-model-len": 2048}
    folder = build(SIZES[arguments.size], scratch)
    batch = PROMPTS * arguments.generations
    trainer, work = trainer_of(
        folder, arguments, scratch, per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-6
    )
    ends = _ends_of_steps(trainer)
    with policy_server(trainer, work, folder):
        asked, lookahead = _requests(trainer.server), trainer.server.lookahead
        after = lookahead.after

        def in_turn(rows: Any, left: int) -> Any:
            return after(rows, left) if trainer.state.global_step // arguments.steps % 2 else None

        lookahead.after = in_turn
        trainer.train()
    waits = [row["sampling/wait_seconds"] for row in trainer.state.log_history if "reward" in row]
    turns = []
    for first in range(0, steps, arguments.steps):
        last, count = first + arguments.steps - 1, arguments.steps - 1
        seconds = ends[last] - ends[first]
        turns.append(
            {
                "step": seconds / count,
                "trainer waits": sum(waits[first + 1 : last + 1]) / seconds,
                "server idle": 1 - covered(asked, ends[first], ends[last]) / seconds,
            }
        )
    return turns


def covered(spans: list[tuple[float, float]], begin: float, end: float) -> float:
    """How much of the time from `begin` to `end` lies in any of the spans."""
    total, reached = 0.0, begin
    for start, stop in sorted(spans):
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            total, reached = total + stop - start, stop
    return total


def _ends_of_steps(trainer: Any) -> list[float]:
    """Filled while it trains."""
    from transformers import PrinterCallback, TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.monotonic())

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    return ends


def _requests(server: Any) -> list[tuple[float, float]]:
    """Filled while it trains: when each request for completions began and ended."""
    spans: list[tuple[float, float]] = []
    post = server.post

    def timed(path: str, body: Any = None) -> Any:
        began = time.monotonic()
        reply = post(path, body)
        if path.endswith("completions"):
            spans.append((began, time.monotonic()))
        return reply

    server.post = timed
    return spans


if __name__ == "__main__":
    sys.exit(main())
