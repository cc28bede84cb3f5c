"""Units of length, mass and time: which one follows a number, and by how much two differ.

Only what a picture question is asked in; any other word behind a number is no unit here. "in" stands for no inch, since prose
says "12 in the picture".
"""

from __future__ import annotations

import re

_SORTS: dict[str, dict[str, float]] = {
    "length": {
        "mm millimeter millimeters millimetre millimetres": 0.001,
        "cm centimeter centimeters centimetre centimetres": 0.01,
        "m meter meters metre metres": 1,
        "km kilometer kilometers kilometre kilometres": 1000,
        "inch inches": 0.0254,
        "ft foot feet": 0.3048,
        "yd yard yards": 0.9144,
        "mi mile miles": 1609.344,
    },
    "mass": {
        "mg milligram milligrams": 1e-6,
        "g gram grams": 0.001,
        "kg kilogram kilograms": 1,
        "lb lbs pound pounds": 0.45359237,
        "oz ounce ounces": 0.028349523125,
    },
    "time": {
        "ms millisecond milliseconds": 0.001,
        "s sec secs second seconds": 1,
        "min mins minute minutes": 60,
        "h hr hrs hour hours": 3600,
        "day days": 86_400,
    },
    "angle": {"° deg degree degrees": 1},
}
_UNITS = {
    word: (sort, size) for sort, units in _SORTS.items() for words, size in units.items() for word in words.split()
}
_FOLLOWING = re.compile(r"\s{0,3}\\?(?:text\{|mathrm\{)?\s?(°|[A-Za-z]{1,12})(?![\w^²³])")


def unit_after(text: str) -> str:
    """Return the unit that a text begins with, as written; "" where that is none."""
    match = _FOLLOWING.match(text)
    word = match[1] if match else ""
    return word if word in _UNITS or (word.lower() in _UNITS and len(word) > 2) else ""


def same_unit(given: str, wanted: str) -> float | None:
    """Return what a value in one unit is multiplied by to be in the other: 1 where either is no unit known here.

    Returns:
        None where they measure different things.
    """
    one, other = (_UNITS.get(unit) or _UNITS.get(unit.lower()) for unit in (given, wanted))
    if one is None or other is None:
        return 1.0
    return one[1] / other[1] if one[0] == other[0] else None
