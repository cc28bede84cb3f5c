"""What is tabulated as perception is of the task and split that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.perception import config_problems, read_perception
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.files import write_json


def test_evaluations_of_another_task_or_split_are_not_taken_for_the_one_that_was_asked(tmp_path: Path) -> None:
    for number, task in enumerate(("emoset", "scenes")):
        inputs = {"task": {"name": task}, "split": "test[:200]"}
        figures = {"scene": {"recall": {"value": number}}}
        (folder := tmp_path / "cells" / task).mkdir(parents=True)
        write_json(folder / "evaluation.json", {"inputs": inputs, "perception": figures})
    assert read_perception(tmp_path, "scenes", "test[:200]") == {"scene": {"recall": {"value": 1}}}
    with pytest.raises(
        UserError, match=r"no perception of scenes test, but evaluations of emoset test\[:200\], scenes"
    ):
        read_perception(tmp_path, "scenes", "test")


def test_a_configuration_that_teaches_no_descriptions_is_refused_before_it_is_trained() -> None:
    assert not list(config_problems(load("demo_extraction")))
    assert len(list(config_problems(load("demo", ["stages={}"])))) == 2
