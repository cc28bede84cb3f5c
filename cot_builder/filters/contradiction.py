"""Reasoning that contradicts what is annotated of its image. Made for precision: it speaks up only where a sentence says the
opposite of an annotation, of the whole picture, its light, its colors, its place or a face, and does not negate it.

EmoSet annotates each image as a whole, so a dark coat, a bright smile, a lamp's bright light or muted colors of the background
contradict nothing. Where an annotation is high or low is what the offline teacher calls bright or dark, vivid or muted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cot_builder.filters.text_rules import sentences
from cot_builder.teachers.attribute import describe

_PICTURE = "(?:picture|image|photo|photograph|shot|scene|setting)"
_ADVERB = "(?:(?:very|quite|rather|really|so|too|all|extremely|mostly|overall|fairly|generally|clearly|completely|entirely) )?"
_IS = "(?:is|was|looks|appears|seems)"
_END = r"(?=\s*(?:[.,;:!?]|$))"

_DARK = "(?:dark|dim|dimly lit|poorly lit|gloomily lit|pitch[- ](?:black|dark)|underexposed)"
_BRIGHT = "(?:bright|brightly lit|sunlit|well[- ]lit|sunny)"
_DULL = "(?:muted|desaturated|dull|faded|drab|washed[- ]out)"
_VIVID = "(?:vivid|vibrant|colou?rful|saturated)"
_GRAY = "(?:(?:in )?black[- ]and[- ]white|monochrome|monochromatic|gr[ae]yscale|desaturated)"


def _of_the_picture(word: str, *, light: str, rooms: str = "") -> str:
    """`word` said of the whole: The picture is …, It is …, a … scene. `light` and `rooms` are more subjects it may have."""
    return (
        rf"(?:\b(?:the|this|its) (?:overall )?(?:{_PICTURE}{light}{rooms}) {_IS} {_ADVERB}{word}{_END}"
        rf"|^(?:it is|it's) {_ADVERB}{word}{_END}"
        rf"|\b(?:a|an|this|the) {_ADVERB}{word} {_PICTURE}\b)"
    )


_ROOMS = "|room|place|street|surroundings|environment"
_LIGHT = "|light|lighting"
_COLORS = r"(?:^|\b(?:the|its|all|overall) )(?:overall )?(?:colou?rs|palette|tones|colou?r palette)"
_OPPOSITES: dict[tuple[str, str], str] = {
    ("brightness", "bright"): "|".join(
        [
            _of_the_picture(_DARK, light=_LIGHT, rooms=_ROOMS),
            rf"\b(?:the|this) (?:{_PICTURE}) {_IS} dark and (?:dim|gloomy|shadowy|murky)\b",
            rf"\ba (?:night|night-?time) (?:picture|image|photo|photograph|shot|scene)\b|^(?:it is|it's) night{_END}",
            rf"\b(?:picture|image|photo|photograph|shot|scene) (?:is |was )?(?:taken |shot |set )?at night{_END}",
        ]
    ),
    ("brightness", "dark"): "|".join(
        [
            _of_the_picture(_BRIGHT, light=_LIGHT, rooms=_ROOMS),
            rf"\b(?:the|this) (?:{_PICTURE}{_LIGHT}) {_IS} {_ADVERB}bright and (?:sunny|airy|cheerful|warm|clear|colou?rful)\b",
        ]
    ),
    ("colorfulness", "vivid"): "|".join(
        [
            rf"{_COLORS} (?:are|is|look|looks) {_ADVERB}{_DULL}\b(?! (?:in|at|on)\b)",
            rf"\b(?:a|an|the) {_ADVERB}{_DULL} (?:colou?r )?palette\b",
            _of_the_picture(_GRAY, light=""),
        ]
    ),
    ("colorfulness", "muted"): "|".join(
        [
            rf"{_COLORS} (?:are|is|look|looks) {_ADVERB}{_VIVID}\b(?! (?:in|at|on)\b)",
            r"(?<!\bin )\b(?:vivid|vibrant) (?:colou?rs|palette)\b(?! (?:of|in|on|from)\b)",
            _of_the_picture("colou?rful", light=""),
        ]
    ),
}

_FACES = {
    "glad": "happy|happiness|smiling|joyful|joy|cheerful|delighted|grinning|laughing",
    "low": "sad|sadness|angry|anger|fear|fearful|afraid|scared|frightened|terrified|disgust|disgusted|frowning|furious|miserable"
    "|sorrowful|mournful|tearful|unhappy|grim",
    "blank": "neutral|blank|expressionless",
}
"""Words said of a face, by group. Surprise is in none: it may be glad or not."""
_SMILE = (
    r"|\b(?:a|the) (?:(?:big|broad|wide|bright|happy|warm|gentle) )?(?:smile|grin) on (?:his|her|their|the) faces?\b"
)
_AGAINST = {
    "happy": ("low", "blank"), "happiness": ("low", "blank"), "smiling": ("low", "blank"),
    "sad": ("glad",), "sadness": ("glad",), "angry": ("glad",), "anger": ("glad",), "fear": ("glad",), "disgust": ("glad",),
    "frowning": ("glad", "blank"), "neutral": ("glad", "low"),
}  # fmt: skip
"""The groups an annotated expression excludes. EmoSet's sad and angry faces often look blank, so only drawn ones exclude it."""
_FACE_PATTERNS = {
    group: re.compile(
        r"\b(?:the|his|her|their|its) (?:facial )?(?:faces?|expressions?)"
        rf" (?:is|are|looks?|appears?|seems?|shows?|conveys?|expresses) {_ADVERB}(?:{said})\b"
        rf"|\b(?:a|an|the|his|her|their|its) {_ADVERB}(?:{said}) (?:facial )?expressions?\b"
        + (_SMILE if group == "glad" else "")
    )
    for group, said in _FACES.items()
}

_INDOORS = (
    "attic auditorium basement bathroom bedroom bookstore bowling_alley cafeteria classroom computer_room corridor dining_room"
    " dorm_room dressing_room elevator home_office hospital_room hotel_room kitchen lecture_room living_room office_cubicles"
    " operating_room recreation_room supermarket television_room waiting_room"
)
_OUTDOORS = (
    "badlands beach butte canyon cliff coast corn_field creek desert desert_road farm field field_road forest forest_path"
    " forest_road glacier hayfield highway iceberg islet lagoon lake mountain mountain_path mountain_snowy ocean orchard pasture"
    " rainforest rice_paddy river ski_slope sky snowfield street swamp tundra valley vineyard volcano waterfall wave wheat_field"
    " wind_farm"
)
_SCENES = {"indoor": frozenset(_INDOORS.split()), "outdoor": frozenset(_OUTDOORS.split())}
"""Scenes that are clearly one of the two; a church, a bar or a stadium may be seen from either side."""
_TAKEN = rf"\b(?:the|this) {_PICTURE} (?:is|was|takes place|seems to be|appears to be) (?:set |taken |shot |clearly )?"
_PLACES = {
    "indoor": rf"{_TAKEN}(?:indoors?|inside){_END}|\b(?:a|an|the|this) (?:\w+ )?indoor {_PICTURE}\b",
    "outdoor": rf"{_TAKEN}(?:outdoors?|outside){_END}|\b(?:a|an|the|this) (?:\w+ )?outdoor {_PICTURE}\b",
}
_SAID = {
    **_OPPOSITES,
    ("scene", "indoor"): _PLACES["outdoor"],
    ("scene", "outdoor"): _PLACES["indoor"],
}
_PATTERNS = {key: re.compile(pattern) for key, pattern in _SAID.items()}

_UNSAID = re.compile(
    r"\b(?:not|no|never|without|neither|nor|hardly|barely|than|instead|unlike|opposed|contrast\w*|far from|if|would|could|like|"
    r"resembl\w*|reminiscent)\b|n't\b"
)
"""Words before a statement in its sentence that take it back, or compare."""


def contradiction(text: str, attributes: Mapping[str, Any]) -> str | None:
    """Check whether a text says the opposite of an annotated attribute.

    Args:
        text: reasoning or a description, in English.
        attributes: EmoSet's annotation of the image; unknown names and odd values are passed over.

    Returns:
        The attribute, its value and the words against it (``brightness 0.9: the picture is dark``), or None.
    """
    said = [" ".join(sentence.casefold().replace("’", "'").split()) for sentence in sentences(text)]
    for name, value in attributes.items():
        if name == "facial_expression":
            found = _face_against(said, value)
        else:
            found = _first(said, _PATTERNS.get(_kind(name, value)))
        if found:
            return f"{name} {value}: {found}"
    return None


def _kind(name: str, value: Any) -> tuple[str, str]:
    """What the annotation is, in the words of `_PATTERNS`; of no use there when it is nothing clear."""
    if name != "scene":
        return name, describe(name, value) or ""
    scene = value if isinstance(value, str) else ""
    for place, scenes in _SCENES.items():
        if scene in scenes or scene.endswith(f"/{place}"):
            return name, place
    return name, ""


def _face_against(said: list[str], value: Any) -> str | None:
    """An expression said of a face that the annotated one excludes, unless a face is also said to have the annotated one."""
    expression = describe("facial_expression", value) or ""
    excluded = _AGAINST.get(expression, ())
    if any(_first(said, _FACE_PATTERNS[group]) for group in _FACES if group not in excluded):
        return None
    return next((found for group in excluded if (found := _first(said, _FACE_PATTERNS[group]))), None)


def _first(said: list[str], pattern: re.Pattern[str] | None) -> str | None:
    """The first words that match and are not taken back earlier in their sentence."""
    if pattern is None:
        return None
    for sentence in said:
        match = pattern.search(sentence)
        if match and not _UNSAID.search(sentence[max(0, match.start() - 80) : match.end()]):
            return match.group().strip()
    return None
