"""Made-up evaluated stages, and the cells of a table in markdown: what the tests of benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.metrics.classification import score
from pipeline.reports.entries import Entry


def entry(right: Sequence[int], compares: str = "Closer") -> Entry:
    """100 rows of counting and 100 that compare, of which the first so many are right; each other gold answer is A."""
    rows = tuple(
        {
            "id": f"{task}{number}",
            "decoding": "greedy",
            "sample": 0,
            "label": gold if number < hits else None,
            "gold": gold,
            "correct": number < hits,
            "style": "direct",
            "completion": "",
            "kind": kind,
            "groups": {"task": task},
        }
        for task, kind, hits in (("Count", "number", right[0]), (compares, "letter", right[1]))
        for number in range(100)
        for gold in ["AB"[number % 2]]
    )
    log = tuple({"step": step, "seconds": 2.0 * step + 5 * (step > 3), "loss": 1.0} for step in range(1, 8))
    trainer = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    record = {"steps": 7, "trainer": trainer, "usage": {"peak_memory_bytes": [2_000_000_000]}}
    return Entry("stage0_align", "stage0_align", rows, score(rows, None), record, log)


def cells_of(markdown: str) -> list[dict[str, str]]:
    head, _, *lines = [
        [*map(str.strip, line[1:-1].split("|"))] for line in markdown.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, line, strict=True)) for line in lines]
