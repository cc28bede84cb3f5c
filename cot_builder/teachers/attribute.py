"""The offline teacher: writes reasoning from an image's annotated attributes, without any server.

A useful baseline for EmoSet in its own right, and the demo's default. It knows the label, so its rows are as good as
the annotation; its configuration can declare a seeded imperfection (confused labels, forgotten thinking, misread
attributes), because with a perfect teacher SFT leaves reinforcement nothing to do. It is a pure function of
(configuration, run seed, row, attempt). Sentences are short: a small student has few tokens to spend.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cot_builder.teachers.base import OfflineTeacher, TeacherQuestion
from cot_builder.teachers.config import DESCRIPTION, AttributeConfig
from pipeline.files import digest
from pipeline.scoring.response import render
from pipeline.types import Question

_DARK, _BRIGHT = 0.3, 0.7
_MUTED, _VIVID = 0.2, 0.6
_MOST_OBJECTS = 3
_SAYINGS = {
    "scene": ("The scene is {a_value}.", "This is {a_value}.", "The place is {a_value}."),
    "object": ("It shows {a_value}.", "There is {a_value}.", "I see {a_value}."),
    "facial_expression": ("The face is {value}.", "The expression is {value}.", "The face looks {value}."),
    "human_action": ("Someone is {value}.", "A person is {value}.", "The action is {value}."),
    "brightness": ("The light is {value}.", "The picture is {value}.", "It is {value}."),
    "description": ("It has {value}.", "I see {value}.", "It shows {value}."),
    "colorfulness": ("The colors are {value}.", "Its colors are {value}.", "Colors are {value}."),
}
_LOOK = {
    "scene": "the place",
    "object": "the objects",
    "facial_expression": "the face",
    "human_action": "the action",
    "brightness": "the light",
    "colorfulness": "the colors",
}
"""Attribute: what to look for, the last word of which a question may hold."""
EXTRACTION = ("observe", "statements", "description")
"""Modes of the extraction recipe."""
_CONCLUSIONS = ("Together they suggest {label}.", "This suggests {label}.", "So the feeling is {label}.")
_ANSWERS = ("So the answer is {label}.", "This gives {label}.", "The answer is {label}.")
_CONCLUSIONS_ALONE = ("The picture suggests {label}.", "It suggests {label}.", "The feeling is {label}.")


class AttributeTeacher(OfflineTeacher[AttributeConfig]):
    """See the module.

    Args:
        name: recorded with every row.
        config: what it names, and what it does wrong.
        examples: the rows of the build: a misreading takes its wrong value from theirs.
        run_seed: part of every seed.
        descriptions: what each label means.
        own_answers: whether each row has answers of its own in place of labels: then a row's true steps are its reasoning,
            where the task knows them.
    """

    version = "2bcdce56b3282d9af95f8d8e80bcb67eae1cbde5ce1721e398c4cf4ea4c168aa"
    """The digest this file once had, so that builds of before still find their replies."""

    def __init__(
        self,
        name: str,
        config: AttributeConfig,
        examples: Sequence[Question],
        run_seed: int,
        descriptions: Mapping[str, str] | None = None,
        own_answers: bool = False,
    ) -> None:
        self._descriptions, self._own_answers = dict(descriptions or {}), own_answers
        self._seen = _values_seen(examples, config.attributes) if config.misread_rate else {}
        self._things = _any_of(_things_seen(examples)) if own_answers else None
        super().__init__(name, config, run_seed, values_seen=digest(self._seen))

    def _told(self, question: TeacherQuestion) -> dict[str, Any]:
        row = question.row
        known = {**row.attributes, DESCRIPTION: self._descriptions.get(row.gold)}
        named = {name: known[name] for name in self._config.attributes if known.get(name) is not None}
        steps = {"trace": row.trace} if self._own_answers and row.trace else {}
        asked: dict[str, Any] = {}
        if question.mode in EXTRACTION:
            asked = {"mode": question.mode, "question": row.text}
        if question.mode == "observe" and (things := self._things_in(row.text)):
            asked["things"] = things
        return {"label": row.gold, "attributes": named, **asked, **steps}

    def _reply(self, told: Mapping[str, Any]) -> str:
        if "mode" in told:
            return self._extract(told["mode"], told)
        return self.write(told["attributes"], told["label"], told["seed"], told.get("trace", ""))

    def _extract(self, mode: str, told: Mapping[str, Any]) -> str:
        """Return what the extraction recipe asks for: what to observe, the answer as a statement, or a description."""
        if mode == "observe":
            asked = {
                name
                for name in self._config.attributes
                if name in _LOOK and _LOOK[name].split()[-1] in told["question"]
            }
            if things := told.get("things"):
                return ", ".join([*(f"the {thing}" for thing in things), *(_LOOK[name] for name in sorted(asked))])
            return ", ".join(_LOOK[name] for name in self._config.attributes if name in (asked or _LOOK))
        if mode == "statements":
            return f"It is true of the picture: {told['label']}."
        draws = {name: random.Random(f"{told['seed']}:{name}") for name in ("misread", "words")}
        values = self._phrases(told["attributes"])
        if draws["misread"].random() < self._config.misread_rate:
            values = self._misread(values, draws["misread"])
        return " ".join(_sentences(values, draws["words"]))

    def _things_in(self, question: str) -> list[str]:
        """The objects that a question names in the words some picture is annotated with, in its order."""
        return list(dict.fromkeys(self._things.findall(question.lower()))) if self._things else []

    def _phrases(self, attributes: Mapping[str, Any]) -> dict[str, str]:
        return {name: phrase for name in self._config.attributes if (phrase := describe(name, attributes.get(name)))}

    def write(self, attributes: Mapping[str, Any], label: str, seed: int, trace: str = "") -> str:
        """Return the reply about one row.

        Args:
            attributes: EmoSet annotation keys and values; those it does not know are left out.
            label: the gold label.
            seed: fixes the imperfections and the choice of words.
            trace: the true steps, which are then the whole reasoning.
        """
        # Each choice has its own generator, so that changing one rate leaves the other rows and choices as they were.
        draws = {name: random.Random(f"{seed}:{name}") for name in ("confuse", "omit", "misread", "words")}
        answer = label
        if label in self._config.confusions and draws["confuse"].random() < self._config.confusion_rate:
            answer = self._config.confusions[label]
        if draws["omit"].random() < self._config.omit_think_rate:
            return f"<answer>{answer}</answer>"
        if trace:
            return render(trace, answer)
        values = self._phrases(attributes)
        if draws["misread"].random() < self._config.misread_rate:
            values = self._misread(values, draws["misread"])
        words = draws["words"]
        sentences = _sentences(values, words)
        endings = _ANSWERS if self._own_answers else _CONCLUSIONS if values else _CONCLUSIONS_ALONE
        sentences.append(words.choice(endings).format(label=answer))
        return render(" ".join(sentences), answer)

    def _misread(self, values: dict[str, str], rng: random.Random) -> dict[str, str]:
        """`values` with one of them replaced by another value seen for it; unchanged when there is no other."""
        others = {name: [v for v in self._seen.get(name, ()) if v != value] for name, value in values.items()}
        open_to_error = sorted(name for name in others if others[name])
        if not open_to_error:
            return values
        name = rng.choice(open_to_error)
        return {**values, name: rng.choice(others[name])}


def _sentences(values: Mapping[str, str], words: random.Random) -> list[str]:
    """A sentence for each attribute."""
    return [
        words.choice(_SAYINGS[name]).format(value=value, a_value=value if name == "object" else _a(value))
        for name, value in values.items()
    ]


def describe(name: str, value: Any) -> str | None:
    """Return an annotated attribute in words, or None when there is nothing to say about it."""
    if isinstance(value, bool) or value is None:
        return None
    if name in ("brightness", "colorfulness"):
        if not isinstance(value, int | float):
            return None
        low, high = (_DARK, _BRIGHT) if name == "brightness" else (_MUTED, _VIVID)
        below, above = ("dark", "bright") if name == "brightness" else ("muted", "vivid")
        return below if value <= low else above if value >= high else None
    if name == "object":
        things = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        plain = list(dict.fromkeys(text for thing in things if (text := _plain(thing))))[:_MOST_OBJECTS]
        return " and ".join(_a(thing) for thing in plain) or None
    return _plain(value)


def _things_seen(examples: Iterable[Question]) -> set[str]:
    """Every object that a picture is annotated with."""
    values = (row.attributes.get("object") for row in examples)
    lists = ([value] if isinstance(value, str) else value for value in values if isinstance(value, str | list | tuple))
    return {text for things in lists for thing in things if (text := _plain(thing))}


def _any_of(things: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of these as whole words, made once, for a set may name thousands; None where there are none."""
    # The longest first: of a red ball in the question, not the ball as well.
    names = "|".join(re.escape(thing) for thing in sorted(things, key=lambda thing: (-len(thing), thing)))
    return re.compile(rf"(?<!\w)(?:{names})(?!\w)") if names else None


def _plain(value: Any) -> str | None:
    """`amusement_park/outdoor` as `amusement park outdoor`; None for what is not text, or holds a tag."""
    if not isinstance(value, str) or "<" in value:
        return None
    # JSON may hold lone surrogates, which no file can.
    written = value.encode("utf-8", "replace").decode()
    return " ".join(written.replace("_", " ").replace("/", " ").split()).lower() or None


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _values_seen(examples: Sequence[Question], names: Sequence[str]) -> dict[str, list[str]]:
    """Per attribute, every phrase the rows have for it, sorted."""
    seen: dict[str, set[str]] = {name: set() for name in names}
    for example in examples:
        for name in names:
            phrase = describe(name, example.attributes.get(name))
            if phrase:
                seen[name].add(phrase)
    return {name: sorted(values) for name, values in seen.items()}
