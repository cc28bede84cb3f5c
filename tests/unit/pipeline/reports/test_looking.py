"""What answers without looking is named, with the phase it is so since, and what looks is not."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.reports.entries import Entry
from pipeline.reports.looking import looks_at_nothing
from pipeline.reports.summary import entry_parent

ONCE = {"first": 8, "last": 8, "steps": 1, "worst": 0.0, "threshold": 1e-5}
ALWAYS = {**ONCE, "first": 1, "steps": 8}


def rows(number: int = 30, **more: Any) -> list[dict[str, Any]]:
    """Answers that are one text to different pictures with two right answers."""
    row = {"decoding": "greedy", "completion": "It is joy.", "prompt": "Which?", **more}
    return [{"image": f"{n}.png", "gold": ("joy", "fear")[n % 2], **row} for n in range(number)]


def entry(name: str, parent: str = "", alarm: dict[str, Any] | None = None, said: Any = ()) -> Entry:
    record = {"init_from": parent, "alarms": {"images_unseen": alarm} if alarm else {}}
    return Entry(name, name, tuple(said), record=record, log=tuple({"step": step} for step in range(1, 9)))


def told(*entries: Entry) -> dict[str, str]:
    return looks_at_nothing(entries, {one.name: entry_parent(one, entries) for one in entries})


def test_the_phase_since_which_none_looks_is_named() -> None:
    found = told(
        entry("base"), entry("stage1_sft", "base"), entry("stage2", "stage1", ONCE), entry("stage3", "stage2", ONCE)
    )
    sentence = "it answers without looking at its pictures, since stage2: other pictures move its logits no more than"
    assert list(found) == ["stage2", "stage3"]
    assert all(text.startswith(sentence) for text in found.values())
    # Asked before its first step, the base model moved as little.
    (text,) = told(entry("base"), entry("stage1_sft", "base", ALWAYS)).values()
    assert ", since base: " in text


def test_a_stage_that_learns_to_look_or_whose_threshold_is_another_is_told_by_it() -> None:
    assert told(entry("base"), entry("stage1_sft", "base", {**ALWAYS, "last": 7})) == {}
    (text,) = told(entry("stage1_sft", "base", {**ONCE, "worst": 0.004, "threshold": 0.01})).values()
    assert "move its logits by 0.004 of the largest, below 0.01." in text


def test_one_text_for_all_pictures_is_named_without_any_logits() -> None:
    found = told(entry("base", said=rows()), entry("stage1_sft", "base", said=rows()))
    assert "pictures: 30 pictures with different right answers got one and the same text." in found["base"]
    assert ", since base: 30 pictures" in found["stage1_sft"]
    by_question = [row | {"prompt": text, "completion": text} for text in "ab" for row in rows(12)]
    (text,) = told(entry("base", said=by_question)).values()
    assert "24 pictures with different right answers got one and the same text to each of 2 questions." in text


@pytest.mark.parametrize(
    "said",
    [
        rows(19),
        rows(gold="joy"),
        rows(image="one.png"),
        rows(image=None),
        rows(mode="blind"),
        [*rows(), *rows(1, image="another.png", completion="It is fear.")],
        [row | {"completion": row["gold"]} for row in rows()],
    ],
    ids=["few", "one right answer", "one picture", "text alone", "blind", "one other text", "answers differ"],
)
def test_what_may_have_looked_is_not_named(said: list[dict[str, Any]]) -> None:
    assert told(entry("base", said=said)) == {}
