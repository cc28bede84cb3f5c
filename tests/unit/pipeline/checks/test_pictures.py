"""Rows of so many pictures as the student's family is not tested on, or several processes cannot train, are refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from pipeline.checks.pictures import picture_problems
from pipeline.checks.splits import check_splits
from pipeline.config.families import PLACES
from pipeline.config.loader import load
from pipeline.data.task import labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Split, labelled_image

LABELS = ["bird", "cat", "dog"]
MIXED = {0: 2, 1: 5, 2: 3}


@pytest.mark.parametrize(
    ("counts", "family", "processes", "words"),
    [
        ({1: 9}, "gemma3", 8, None),
        (MIXED, "qwen3_vl", 1, None),
        (MIXED, None, 1, None),
        ({0: 9}, "qwen3_vl", 8, None),
        ({2: 3}, "qwen3_vl", 8, None),
        (MIXED, "gemma3", 1, "5 of 10 rows have 0 or 2 pictures, and no test holds that gemma3"),
        ({1: 7, 2: 3}, "gemma3", 1, "3 of 10 rows have 2 pictures"),
        (MIXED, "qwen3_vl", 2, "2 of 10 rows have no picture: of 2 processes"),
    ],
)
def test_what_cannot_be_trained_is_counted(
    counts: dict[int, int], family: str | None, processes: int, words: str | None
) -> None:
    found = list(picture_problems("train", counts, family, processes))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(("family", "problems"), [*((family, 0) for family in PLACES), ("gemma3", 1), (None, 0)])
def test_a_plan_refuses_rows_that_a_stage_trains_on_and_not_those_it_is_judged_on(
    family: str | None, problems: int
) -> None:
    def read(split: str) -> Split:
        rows = [labelled_image(str(n), Path("a.png"), LABELS[n % 3]) for n in range(120)]
        return Split((*rows, dataclasses.replace(rows[0], id="two", images=(Path("a.png"), Path("b.png")))))

    listed = Counter(dict.fromkeys(LABELS, 41))
    task = labelled_task(
        "own", LabelSet.of(LABELS), "Which?", ("train", "val", "test"), read, listed=lambda split: listed
    )
    stages = [f"stages.{number}.split=train" for number in (2, 3, 4)]
    config = load("demo_scenes", ["cot.split=train", "baselines.sft_labels.split=train", *stages])
    told: list[str] = []
    try:
        check_splits(config, task, family=family)
    except UserError as error:
        told = [problem for problem in error.problems if "pictures" in problem]
    assert len(told) == problems
    assert not problems or told[0].endswith("or leave these rows out")
    assert not problems or "'train': 1 of 121 rows have 2 pictures" in told[0]
    assert not problems or told[0].startswith("cot.split, baselines.sft_labels.split, stages.stage2_grpo_format.split")
