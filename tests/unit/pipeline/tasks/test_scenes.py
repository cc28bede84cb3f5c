"""The parts of a drawn scene are where its pixels change when nothing but that part is another one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.tasks.scenes import PARTS, draw, parts_of, sample

PLACE, FACE, BODY, OBJECT = range(len(PARTS))
NUMBERS = range(0, 40)


def drawn(number: int, **changed: Any) -> tuple[dict[str, Any], Any]:
    """A row's annotation and pixels, some attributes other ones."""
    rng = random.Random(f"0-{number}")
    annotation = sample(rng, 0.17)
    return annotation, np.asarray(draw({**annotation, **changed}, rng, 64), dtype=int)


def parts(number: int, **options: Any) -> Any:
    annotation, _ = drawn(number)
    return np.asarray(parts_of(f"{annotation['emotion']}_{number:05d}", options))


def moved(attribute: str, value: Any, instead: Any) -> list[set[int]]:
    """Of each row that has a value of an attribute, the parts of the pixels that another value changes."""
    found = []
    for number in NUMBERS:
        annotation, picture = drawn(number)
        if annotation[attribute] == value:
            _, other = drawn(number, **{attribute: instead})
            found.append(set(parts(number)[(picture != other).any(axis=-1)].tolist()))
    assert len(found) > 3
    return found


def test_another_face_changes_the_face_alone() -> None:
    found = moved("facial_expression", "smiling", "neutral")
    assert found == [{FACE}] * len(found)


@pytest.mark.parametrize("thing", ["kite", "box"])
def test_another_object_changes_the_object_alone(thing: str) -> None:
    found = moved("object", [thing], ["ball"])
    assert found == [{OBJECT}] * len(found)


def test_other_arms_change_the_body_and_what_is_behind_it_and_no_face() -> None:
    for found in moved("human_action", "waving", "standing"):
        assert BODY in found
        assert FACE not in found


def test_parts_are_as_large_as_they_are_drawn() -> None:
    """A face is a circle of 33 pixels, a body a rectangle of 13 by 22 less the chin, and two arms."""
    for number in NUMBERS:
        found = parts(number)
        assert (found == FACE).sum() == pytest.approx(np.pi * 16.5**2, rel=0.06)
        assert 200 < (found == BODY).sum() < 420
        assert 60 < (found == OBJECT).sum() < 170
    large = parts(0, size=128)
    assert large.shape == (128, 128)
    assert (large == FACE).mean() == pytest.approx((parts(0) == FACE).mean(), abs=0.02)


def test_the_parts_are_of_the_very_rows_that_the_task_reads(tmp_path: Path) -> None:
    options = {"seed": 3, "train": 4, "val": 2, "test": 6, "size": 32, "ambiguous": 0.5}
    task = load_task(TaskConfig(name="scenes", options=options), tmp_path)
    for row in task.select("test").rows:
        assert parts_of(row.id, options).size == (32, 32)


@pytest.mark.parametrize("row_id", ["joy_00000", "fear", "fear_x", "", "fear_000-1"])
def test_a_row_that_is_not_drawn_has_no_parts(row_id: str) -> None:
    with pytest.raises(UserError, match="draws no row"):
        parts_of(row_id, {})


def test_options_of_another_seed_or_unknown_ones_are_refused() -> None:
    annotation, _ = drawn(5)
    row_id = f"{annotation['emotion']}_00005"
    others = [
        seed for seed in range(1, 40) if sample(random.Random(f"{seed}-5"), 0.17)["emotion"] != annotation["emotion"]
    ]
    with pytest.raises(UserError, match="draws no row"):
        parts_of(row_id, {"seed": others[0]})
    with pytest.raises(UserError, match="no such option"):
        parts_of(row_id, {"sed": 1})
