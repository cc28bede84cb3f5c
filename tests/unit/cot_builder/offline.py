"""What the offline teacher writes, for tests of the rules that its own texts must pass."""

from __future__ import annotations

from cot_builder.teachers.attribute import AttributeTeacher
from cot_builder.teachers.config import AttributeConfig
from pipeline.scoring.response import parse

EXPRESSIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise"]
SCENES = [
    "amusement_park",
    "attic",
    "beach",
    "church/indoor",
    "church/outdoor",
    "kitchen",
    "mountain_snowy",
    "street",
    "bar",
]


def written(attributes, label="awe", seed=0, rows=(), **config):
    """What the offline teacher thinks."""
    teacher = AttributeTeacher("t", AttributeConfig(**config), rows, 0)
    return parse(teacher.write(attributes, label, seed)).think
