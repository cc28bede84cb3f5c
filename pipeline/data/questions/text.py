"""What a row of somebody's own data says, in our form: a text with ``<image 1>`` marks, its options, the gold answer.

Read are the forms that trainers and benchmarks publish rows in: LLaVA's ``conversations``, the ``messages`` of chat templates
with text or parts, options listed in the text, answers in ``<answer>`` tags, in a box or behind "####". Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.questions.cells import Unusable, listed
from pipeline.scoring.markup import answer_part, boxed
from pipeline.scoring.multiple_choice import letters, stated_choice

MARK = re.compile(r"<(?:image|img|IMAGE|IMG)(?:[ _]?(\d{1,2}))?>")
OTHER_MEDIA = re.compile(r"<(?:video|audio)>")
_ASKING, _ANSWERING = ("human", "user"), ("gpt", "assistant", "model", "bot")
_IMAGE_PARTS = ("image", "image_url", "input_image")
# What these three end on is tried behind text alone, not at each of thousands of blanks.
_LINE = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]+(\S.*?)(?<![ \t])[ \t]*$", re.MULTILINE)
_MARKED = re.compile(
    r"\(([A-Z])\)[ \t]*(?=\S)([^\n]+?)(?<![ \t])(?=[ \t]*(?:[,;][ \t]*)?\([A-Z]\)|[ \t]*$)", re.MULTILINE
)
_HEAD = re.compile(r"\b(?:options|choices)[ \t]*:[ \t]*(?=A[.):])", re.IGNORECASE)
_RUNNING = re.compile(
    r"(?<![^\s,;:])([A-Z])[.):][ \t]+(?=\S)([^\n]+?)(?<![ \t])(?=[ \t,;]+[A-Z][.):][ \t]|[ \t]*$)", re.MULTILINE
)
_LETTERED = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(\S.*)$", re.DOTALL)
_INSTRUCTION = re.compile(
    r"</?(?:think|answer)>|\\boxed\b"
    r"|^\W*(?:please\s+)?(?:answer|respond|reply)\s+(?:(?:the|this)\s+question\s+)?(?:directly|with|using|in\s+(?:one|a))\b"
    r"|^\W*(?:please\s+)?(?:output|give|provide|write)\s+(?:\w+\s+){0,4}?(?:letter|option)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?:])[ \t]+|\n+")


@dataclass
class Conversation:
    """The turns of a row: what was asked, what was answered, and the pictures that stand in the turns themselves."""

    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)
    system: list[str] = field(default_factory=list)


def is_conversation(value: Any) -> bool:
    """Check whether a cell holds turns: a list of {from, value} or of {role, content}."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, Mapping) and ({"from", "value"} <= set(turn) or {"role", "content"} <= set(turn))
            for turn in value
        )
    )


def read_conversation(value: Sequence[Mapping[str, Any]]) -> Conversation:
    """Return the turns of a cell that `is_conversation`; a part that is a picture leaves a mark where it stood.

    Raises:
        Unusable: on a turn of an unknown role, or answers without a question.
    """
    found = Conversation()
    for turn in value:
        role = str(turn.get("role") or turn.get("from")).lower()
        text = _turn_text(turn.get("content", turn.get("value")), found.pictures)
        if role == "system":
            found.system.append(text)
        elif role in _ASKING:
            found.asked.append(text)
        elif role in _ANSWERING:
            if len(found.answered) + 1 != len(found.asked):
                raise Unusable("malformed_row", "an answer without a question before it")
            found.answered.append(text)
        else:
            raise Unusable("malformed_row", f"a turn of {role[:20]!r}; known are {', '.join((*_ASKING, *_ANSWERING))}")
    if not found.asked:
        raise Unusable("missing_question", "no turn asks anything")
    return found


def _turn_text(content: Any, pictures: list[Any]) -> str:
    if not isinstance(content, list):
        return str(content or "")
    texts = []
    for part in content:
        if not isinstance(part, Mapping):
            texts.append(str(part))
        elif part.get("type") in _IMAGE_PARTS:
            texts.append("<image>")
            if (given := _picture_in(part)) is not None:
                pictures.append(given)
        else:
            texts.append(str(part.get("text") or ""))
    return "\n".join(texts)


def _picture_in(part: Mapping[str, Any]) -> Any:
    return next((part[key] for key in ("image", "path", "url", "image_url") if part.get(key)), None)


def turn_pictures(cells: Iterable[Any]) -> list[Any]:
    """Return the pictures that stand in turns, of the cells that hold turns."""
    turns = [turn for cell in cells if is_conversation(cell) for turn in cell]
    parts = [part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"]]
    found = [_picture_in(part) for part in parts if isinstance(part, Mapping) and part.get("type") in _IMAGE_PARTS]
    return [picture for picture in found if picture is not None]


def marked(text: str, pictures: int) -> str:
    """Return a text whose marks say which picture belongs there: the n-th ``<image>`` is ``<image n>``, numbered ones stay.

    Args:
        text: with marks as data write them, or none.
        pictures: how many the row has.

    Raises:
        Unusable: on marks of other pictures than the row has, and of other media.
    """
    if found := OTHER_MEDIA.search(text):
        raise Unusable("other_media", f"the text holds {found[0]}; only pictures are read")
    seen = 0

    def numbered(match: re.Match[str]) -> str:
        nonlocal seen
        seen += match[1] is None
        return f"<image {match[1] or seen}>"

    text = MARK.sub(numbered, text).strip()
    most = max((int(number) for number in re.findall(r"<image (\d+)>", text)), default=0)
    if most > pictures:
        raise Unusable("missing_image", f"the text marks picture {most}, the row has {pictures}")
    # A mark that opens a text of one picture says nothing: it goes there anyway.
    return text.removeprefix("<image 1>").lstrip() if pictures == 1 and text.count("<image 1>") == 1 else text


def without_instructions(text: str) -> tuple[str, str]:
    """Return a question without the sentences at its end that say how to answer, and those sentences ("" where there are none).

    A prompt style says how to answer, and it is what the judge reads; two instructions would contradict each other.
    """
    removed: list[str] = []
    text = text.rstrip()
    cuts = list(_SENTENCE.finditer(text))
    while cuts and _INSTRUCTION.search(text[cuts[-1].end() :]):
        removed.append(text[cuts[-1].end() :].strip())
        text = text[: cuts[-1].start()].rstrip()
        while cuts and cuts[-1].start() >= len(text):
            cuts.pop()
    return text, " ".join(reversed(removed))


def options_in(text: str) -> list[str]:
    """Return the options that a text lists, in order: lines "A. …", "(A) … (B) …" in a line, or what follows "Options:".

    Returns:
        [] where the letters do not run from A, or there is but one.
    """
    head = _HEAD.search(text)
    for found in (
        [(match[1] or match[2], match[3]) for match in _LINE.finditer(text)],
        [(match[1], match[2]) for match in _MARKED.finditer(text)],
        [(match[1], match[2]) for match in _RUNNING.finditer(text, head.end())] if head else [],
    ):
        if 2 <= len(found) <= 26 and "".join(letter for letter, _ in found) == letters(len(found)):
            return [option.strip(" \t,;") for _, option in found]
    return []


def options_of(value: Any) -> list[str]:
    """Return the options a cell holds: a list, its text as JSON or Python, {"A": …} or {"text": […]}; their letters are cut.

    Raises:
        Unusable: when it is none of these, or has one option or more than there are letters.
    """
    if isinstance(value, str) and value.strip().startswith("{"):
        value = json.loads(value)
    if isinstance(value, str) and not value.strip().startswith("["):
        value = options_in(value) or [part for part in re.split(r"[;\n]", value) if part.strip()]
    if isinstance(value, Mapping):
        texts = value.get("text")
        value = texts if isinstance(texts, list) else [value[key] for key in sorted(value) if value[key] is not None]
    given = listed(value)
    while given and _is_blank(given[-1]):
        given.pop()
    if not given:
        return []
    if any(map(_is_blank, given)):
        raise Unusable("unusable_options", "an empty option stands before others")
    options = [str(option) for option in given]
    if not 2 <= len(options) <= 26:
        raise Unusable("unusable_options", f"{len(options)} options")
    lettered = [_LETTERED.match(option) for option in options]
    if all(lettered) and "".join((each[1] or each[2]) for each in lettered if each) == letters(len(options)):
        return [each[3].strip() for each in lettered if each]
    return options


def _is_blank(option: Any) -> bool:
    return option is None or not str(option).strip()


def option_names(value: Any) -> list[str]:
    """Return what a cell of options calls them, in their order: the keys of {"1": …} or the label of {"text": […], "label": […]}.

    Returns:
        [] where it calls them nothing.
    """
    if isinstance(value, str) and value.strip().startswith("{"):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        return []
    if isinstance(value.get("text"), list):
        return [str(name) for name in value["label"]] if isinstance(value.get("label"), list) else []
    return [str(key) for key in sorted(value) if value[key] is not None]


def same_texts(text: str, options: Sequence[str]) -> list[str]:
    """Return the letters of the options whose text is this one, its case aside where none is so written."""
    texts = [(name, " ".join(option.split())) for name, option in zip(letters(len(options)), options, strict=True)]
    return [name for name, option in texts if option == text] or [
        name for name, option in texts if option.casefold() == text.casefold()
    ]


def option_letter(value: Any, options: Sequence[str]) -> str:
    """Return the letter of the gold option, out of its letter, its text, both, or its index from 0.

    A letter is meant before a text, and a text before an index: of the options "2", "1", the answer 1 is the second.

    Raises:
        Unusable: when it is none of the options.
    """
    known, text = letters(len(options)), " ".join(str(value).split())
    if (letter := text.strip("().: ").upper()) in known and len(letter) == 1:
        return letter
    same = same_texts(text, options)
    if len(same) > 1:
        raise Unusable("unusable_options", f"the answer {text[:40]!r} is the text of options {', '.join(same)}")
    if same:
        return same[0]
    if re.fullmatch(r"\d{1,2}", text) and int(text) < len(options):
        return known[int(text)]
    stated = stated_choice(text, options)
    if stated.letter is None:
        raise Unusable("answer_not_an_option", f"the answer is {text[:40]!r}, the options are {list(options)}"[:200])
    return stated.letter


def unwrapped(value: Any) -> Any:
    """Return a gold answer without what data wrap it in: tags, a box, "####", {"ground_truth": …}, a list of one."""
    if isinstance(value, Mapping):
        value = next(
            (value[key] for key in ("ground_truth", "answer", "value", "text") if value.get(key) is not None), value
        )
    if isinstance(value, list) and len(value) == 1:
        return unwrapped(value[0])
    if not isinstance(value, str):
        return value
    if "<answer>" in value or "</think>" in value:
        value = answer_part(value) or value
    in_box = boxed(value)
    if in_box is not None and in_box.strip():
        value = in_box
    elif "\n#### " in f"\n{value}":
        value = f"\n{value}".rpartition("\n#### ")[2]
    return value.strip()


def read_answers(value: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the turns of a completion answer."""
    return read_conversation([{"role": "user", "content": ""}, *value]).answered
