"""What contradicts an image's annotation, and how much more does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline import EXPRESSIONS, SCENES, written

from cot_builder.filters.contradiction import contradiction
from cot_builder.teachers.attribute import describe
from pipeline.types import labelled_image

LEVELS = [n / 10 for n in range(11)]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("brightness", 0.9, "The picture is dark."),
        ("brightness", 0.7, "A man stands in the room. It is dark, and he is alone."),
        ("brightness", 0.8, "It shows a dark scene with a man."),
        ("brightness", 0.8, "The room is dimly lit."),
        ("brightness", 0.8, "The image is dark and gloomy."),
        ("brightness", 1.0, "The photo was taken at night."),
        ("brightness", 0.3, "The light is bright."),
        ("brightness", 0.1, "The scene is brightly lit, so it feels happy."),
        ("brightness", 0.2, "The image is bright and cheerful."),
        ("brightness", 0, "A sunlit scene."),
        ("colorfulness", 0.6, "The colors are muted."),
        ("colorfulness", 0.9, "This is a black and white photo."),
        ("colorfulness", 0.9, "The image is in black-and-white."),
        ("colorfulness", 0.2, "Vibrant colors fill the frame."),
        ("colorfulness", 0.0, "The colours are very vivid."),
        ("colorfulness", 0.1, "It is a colorful picture."),
        ("facial_expression", "happy", "Her face looks sad."),
        ("facial_expression", "sad", "A woman with a happy expression waves."),
        ("facial_expression", "angry", "There is a broad smile on his face."),
        ("facial_expression", "smiling", "The expression is neutral."),
        ("scene", "church/indoor", "This is an outdoor scene."),
        ("scene", "beach", "The photo was taken indoors."),
        ("scene", "kitchen", "The scene is set outdoors."),
    ],
)
def test_a_contradiction_is_named(name, value, text):
    found = contradiction(text, {name: value})
    assert found
    assert found.startswith(f"{name} {value}: ")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("brightness", 0.9, "A man with dark hair wears a dark coat."),
        ("brightness", 0.9, "The picture is not dark. It isn't dark at all."),
        ("brightness", 0.9, "The picture is dark blue in the corners."),
        ("brightness", 0.9, "The scene is dark and unsettling in its humor."),
        ("brightness", 0.9, "Far from a dark scene, it shows a meadow."),
        ("brightness", 0.9, "Without a dark scene behind it, the face stands out."),
        ("brightness", 0.5, "The picture is dark. The picture is bright."),
        ("brightness", 0.6, "The picture is dark."),
        ("brightness", 0.1, "She has a bright smile and bright eyes."),
        ("brightness", 0.1, "A bright light shines through the window."),
        ("brightness", 0.1, "The stage lighting is bright. The picture is bright in the middle."),
        ("brightness", 0.1, "The image is hardly bright. It is no bright scene."),
        ("colorfulness", 0.9, "A black and white cat sits on a muted carpet."),
        ("colorfulness", 0.9, "The muted colors of the wall let the flowers stand out."),
        ("colorfulness", 0.1, "There are no vivid colors."),
        ("colorfulness", 0.1, "A girl in vivid colors stands in the gray street."),
        ("colorfulness", 0.1, "A colorful kite hangs in the sky, and the memory is vivid."),
        ("colorfulness", 0.5, "The colors are muted, the colors are vivid."),
        ("facial_expression", "happy", "The mood is sad. The face is not sad."),
        ("facial_expression", "happy", "His face is happy, her face is sad."),
        ("facial_expression", "sad", "A happy dog runs past. She smiles no more, without a smile on her face."),
        ("facial_expression", "sad", "The face is angry. The expression is blank."),
        ("facial_expression", "surprise", "The face looks happy. The face looks afraid."),
        ("facial_expression", "unheard of", "The face looks happy."),
        ("scene", "beach", "The house behind has an indoor pool, and the people inside look outside."),
        ("scene", "church", "This is an outdoor scene. The photo was taken indoors."),
        ("scene", "kitchen", "Through the window one sees the outdoors."),
    ],
)
def test_what_is_negated_or_said_of_a_part_contradicts_nothing(name, value, text):
    assert contradiction(text, {name: value}) is None


def test_the_offline_teacher_never_contradicts_what_it_was_given():
    for seed in range(40):
        for light, color in itertools.product(LEVELS, LEVELS):
            attributes = {"brightness": light, "colorfulness": color}
            assert contradiction(written(attributes, seed=seed), attributes) is None
        for scene, face in itertools.product(SCENES, (*EXPRESSIONS, *DRAWN)):
            attributes = {
                "scene": scene,
                "facial_expression": face,
                "object": ["Human face", "Dark box"],
                "human_action": "crying",
            }
            assert contradiction(written(attributes, seed=seed), attributes) is None


DRAWN = ["smiling", "frowning", "neutral"]
OPPOSED = {face: set(DRAWN) - {face} for face in DRAWN}
OPPOSED |= {
    "happy": {"sad", "angry", "fear", "disgust"},
    **{low: {"happy"} for low in ("sad", "angry", "fear", "disgust")},
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("brightness", LEVELS),
        ("colorfulness", LEVELS),
        ("facial_expression", EXPRESSIONS),
        ("facial_expression", DRAWN),
    ],
)
def test_the_offline_teachers_misreadings_are_caught(name, values):
    rows = [labelled_image(str(value), Path("none.jpg"), "awe", {name: value}) for value in values]
    misread = 0
    for value, seed in itertools.product(values, range(40)):
        think = written({name: value}, seed=seed, rows=rows, misread_rate=1.0)
        said = next((v for v in values if describe(name, v) and f" {describe(name, v)}." in think), None)
        opposed = said in OPPOSED.get(value, ()) if name == "facial_expression" else said is not None
        misread += opposed
        assert (contradiction(think, {name: value}) is not None) == opposed, (value, think)
    assert misread > 40


VALUES = st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers())


# Its first draw makes tables of all characters.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["brightness", "scene", "facial_expression", "object", "x"]), VALUES))
def test_odd_annotations_are_passed_over(attributes):
    contradiction("The picture is dark. The face is sad. A photo taken indoors.", attributes)
