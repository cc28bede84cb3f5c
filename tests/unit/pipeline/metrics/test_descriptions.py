"""What a description names rightly and wrongly."""

from __future__ import annotations

import pytest

from cot_builder.teachers.attribute import describe
from pipeline.metrics.descriptions import LEVELS, named, totals, vocabulary, words
from pipeline.metrics.intervals import rate

PARK = {
    "scene": "park",
    "object": ["ball"],
    "brightness": 0.9,
    "facial_expression": "smiling",
    "image_id": "a",
    "emotion": "awe",
}
ROOM = {"scene": "dining_room", "object": ["lamp", "box"], "brightness": 0.1, "facial_expression": "frowning"}
KNOWN = vocabulary([PARK, ROOM])


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("The scene is a park.", ["park"], []),
        ("A dining room with a table.", [], ["dining room"]),
        ("A park, or a dining room?", ["park"], ["dining room"]),
        ("This is not a park. It is a street.", [], []),
        ("There is no lamp; a PARK it is.", ["park"], []),
        ("Cars are parked.", [], []),
        ("", [], []),
    ],
)
def test_values_count_as_whole_words_that_are_not_taken_back(text, right, wrong):
    found = named(text, PARK, KNOWN)["scene"]
    assert (found["right"], found["wrong"]) == (right, wrong)
    assert found["missed"] == ([] if right else ["park"])


def test_lists_count_each_value():
    assert named("A lamp and a ball.", ROOM, KNOWN)["object"] == {
        "right": ["lamp"],
        "wrong": ["ball"],
        "missed": ["box"],
    }


def test_an_attribute_without_a_clear_value_is_not_scored():
    assert "brightness" not in named("It is dark.", {**PARK, "brightness": 0.5}, KNOWN)
    assert named("It is dark.", PARK, KNOWN)["brightness"]["wrong"] == ["dark"]


def test_keys_and_labels_are_not_perceived():
    assert {"image_id", "emotion"}.isdisjoint(named("awe", PARK, KNOWN))


def test_precision_is_over_what_is_named_and_recall_over_what_is_annotated():
    rows = [named("A park.", PARK, KNOWN), named("A park.", ROOM, KNOWN), named("Nothing.", ROOM, KNOWN)]
    scene = totals(zip("abc", rows, strict=True))["scene"]
    assert (scene["precision"].count, scene["precision"].n) == (1, 2)
    assert (scene["recall"].count, scene["recall"].n) == (1, 3)
    assert totals([("a", named("", PARK, KNOWN))])["scene"]["precision"].value is None


def test_the_values_of_one_picture_count_as_one_observation():
    five = list("abcde")
    rows = [
        (f"{n}.png", {"object": {"right": five if n % 2 else [], "wrong": [], "missed": [] if n % 2 else five}})
        for n in range(40)
    ]
    recall = totals(rows)["object"]["recall"]
    assert (recall.count, recall.n, recall.clusters) == (100, 200, 40)
    assert recall.low < rate(20, 40).low + 0.02


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("tenth", range(11))
def test_dark_and_bright_begin_where_the_offline_teacher_says_so(name, tenth):
    said = describe(name, tenth / 10)
    assert words(name, tenth / 10) == ({said} if said else set())
