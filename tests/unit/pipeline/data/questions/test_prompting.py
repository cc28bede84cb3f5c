"""A prompt asks for the kind of answer that the question's judge reads."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.questions.prompting import asked_by_kind
from pipeline.data.task import labelled_task
from pipeline.scoring.kinds import KINDS
from pipeline.scoring.labels import LabelSet
from pipeline.types import Question, Split

END = "inside <answer> </answer>."


def asked(kind: str, style: str, **facts: Any) -> str:
    return asked_by_kind(Question("1", (), "Which?", ("awe", "fear"), kind=kind, facts=facts), style)


@pytest.mark.parametrize(
    ("kind", "facts", "direct", "think"),
    [
        ("letter", {}, "the option's letter from the given choices directly.", "the letter of your choice"),
        ("number", {}, "the number and nothing else.", "the number"),
        (
            "number",
            {"unit": "cm", "precision": 1},
            "the number in cm with 1 decimal and nothing",
            "the number in cm with 1 dec",
        ),
        ("number", {"precision": 0}, "the number, a whole one, and nothing", "the number, a whole one, "),
        ("yes_no", {}, "yes or no and nothing else.", "yes or no"),
        ("text", {}, "a word or a short phrase and nothing else.", "a word or a short phrase"),
        (
            "list",
            {},
            "the entries of the list, separated by commas, and nothing",
            "the entries of the list, separated by commas, ",
        ),
        ("list", {"ordered": True}, "separated by commas, in order and nothing", "separated by commas, in order"),
    ],
)
def test_each_kind_is_asked_for_in_both_styles(kind: str, facts: dict[str, Any], direct: str, think: str) -> None:
    assert asked(kind, "direct", **facts).startswith("Which?\nAnswer with ")
    assert direct in asked(kind, "direct", **facts)
    asked_to_think = asked(kind, "think", **facts)
    assert asked_to_think.startswith("Which?\nReason inside <think> </think>, then give ")
    assert think in asked_to_think
    assert asked_to_think.endswith(END)


def test_a_label_is_asked_for_as_labelled_image_sets_do() -> None:
    task = labelled_task("t", LabelSet.of(("awe", "fear")), "Which?", ("train",), lambda split: Split(()))
    for style in ("direct", "think"):
        assert asked("label", style) == task.prompt(task.stand_ins("")[0], style)


@pytest.mark.parametrize("kind", KINDS)
def test_another_style_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="prompt style 'loud' is not one of"):
        asked(kind, "loud")
