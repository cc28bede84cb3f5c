"""Which of several options a text answers with, where it says so plainly.

Published rules of multiple-choice benchmarks look for a letter somewhere: the first character, the last " B ". They read
"Based on the picture" as B and cannot read "**C**". `stated_choice` reads statements, in this order (our reading):

0. of a text with one ``<answer>…</answer>``, or one that follows ``</think>``, that part alone; of an unfinished thought nothing;
1. ``\\boxed{B}``;
2. the whole text: "b", "(B)", "**B**", "Option B", "B. a dog", "a dog";
3. the last declaration: "Answer: B", "the correct option is a dog", "option B is correct", "I choose B", "so it is (B)", "故选B";
4. what opens the text: "B. a dog, because …", "Yes, it is", or a letter that opens its last line; not in a list of options;
5. the first or the last line, if it is as in 2;
6. the one marked letter, "(B)" or "option B", that the text names and does not negate, after any refusal;
7. where all options are numbers, the number the text states; else the one option whose text occurs in it and is not negated.
   A text that says it cannot answer states nothing here;
8. in a short text, the one capital letter that stands alone.

`stated_label` reads the labels of a task in the same way, from the same text; a label has no letter, so what asks for one (6, 8)
does not apply. Whatever names several ("A or C", "(A)(D)", "amusement, awe") states none.

A letter is meant before an option's text, since letters are what a prompt asks for: of the options "B", "A", the answer "B" is
the second. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.markup import REFUSAL, after_refusal, answer_part, bare, boxes, plain
from pipeline.scoring.numbers import stated_number
from pipeline.scoring.options import (
    SEVERAL,
    Options,
    Stated,
    common_values,
    ends_word,
    mentioned_option,
    text_key,
)
from pipeline.scoring.statements import (
    ADJACENT,
    ANOTHER,
    BUT,
    CAPITAL,
    CONCLUSION,
    CONNECTOR,
    DECLARATION,
    JOINED,
    LEADING,
    LINE_LETTER,
    MARKED,
    NEGATED,
    NONE_OF,
    NOT_AFTER,
    OPENING_WORD,
    SAID_RIGHT,
    is_negated,
    is_undecided,
)

_SHORT = 80
_MARKS = tuple(".,;:!。；，、")


def letters(count: int) -> str:
    """Return the letters of `count` options, A first.

    Raises:
        ValueError: when there are more options than letters.
    """
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} options have no letters; there are {len(string.ascii_uppercase)}")
    return string.ascii_uppercase[:count]


def stated_choice(text: str, options: Sequence[str]) -> Stated:
    """Return the option `text` answers with.

    Args:
        text: an answer or a whole completion, untrusted.
        options: their texts in order; A is the first.
    """
    options = [plain(option) for option in options]
    return _stated(text, Options(letters(len(options)), [text_key(option) for option in options]), options)


def stated_label(text: str, labels: LabelSet) -> str | None:
    """Return the label `text` answers with; None when it states none, or several.

    Args:
        text: an answer or a whole completion, untrusted.
        labels: of the task.
    """
    whole = labels.normalise(text)
    if whole is not None:
        return whole
    ids, keys = [name for _, name in labels.spellings], [text_key(spelling) for spelling, _ in labels.spellings]
    return _stated(text, Options(ids, keys, labels), labels.names).letter


def _stated(text: str, options: Options, texts: Sequence[str]) -> Stated:
    if not text.strip():
        return Stated(None, "empty")
    part = answer_part(text)
    if part is None:
        return SEVERAL if "</answer>" in text else Stated(None, "no_answer")
    text = part
    told = boxes(text)
    in_boxes = {found for box in told if (found := _whole(plain(box), options))}
    if in_boxes:
        return in_boxes.pop() if len(in_boxes) == 1 else SEVERAL
    if told and told[-1].strip() and not options.lettered:
        # What stands beside a box is no answer; a letter may, where the box holds a formula.
        text = told[-1]
    text = plain(text)
    # "Q: … A: no, it is …", where no is another option's text.
    if text.lstrip().startswith("A:"):
        after = text.lstrip()[2:]
        turn = options.same(after) or _opening_option(after, options)
        if turn:
            return turn
    return (
        _whole(text, options)
        or _declared(text, options)
        or _opening(text, options)
        or _first_or_last_line(text, options)
        or (_marked(text, options) if options.lettered else None)
        or _content(text, options, texts)
        or (_lone(text, options) if options.lettered else None)
        or Stated(None, "no_answer")
    )


def _whole(text: str, options: Options) -> Stated | None:
    """The option that the whole of `text` is."""
    match = LEADING.match(text) if options.lettered else None
    if match and (found := _several(text, match, options)):
        return found
    rest = bare(text[match.end("close") :]) if match else ""
    if match and not rest:
        stated = options.letter(match["letter"])
        # An option may be the word "x".
        return stated if stated.letter else options.same(text) or stated
    if same := options.same(text):
        return same
    letter = match["letter"].upper() if match else ""
    if letter and letter in options.ids and text_key(rest) == options.keys[options.ids.index(letter)] != "":
        return Stated(letter)
    return None


def _several(text: str, match: re.Match[str], options: Options) -> Stated | None:
    """`SEVERAL` when the letter found is joined with another one, as in "A or C" and "(A)(C)"."""
    letter = match["letter"]
    if not letter.isupper():
        return None
    for pattern in (ANOTHER, ADJACENT):
        other = pattern.match(text, match.end("close"))
        second = other[other.lastindex or 1] if other else letter
        # "B (A)"
        is_text = letter in options.ids and options.keys[options.ids.index(letter)] == second.casefold()
        if second != letter and second in options.ids and not is_text:
            return SEVERAL
    return None


def _start(text: str, options: Options) -> Stated | None:
    """The option that `text` starts with: what follows "the answer is"."""
    if NEGATED.match(text):
        turn = BUT.search(text.split("\n", 1)[0])
        return _start(text[turn.end() :], options) if turn else None
    match = LEADING.match(text) if options.lettered else None
    if match and (found := _several(text, match, options)):
        return found
    if match and _stands_alone(text, match):
        return options.letter(match["letter"])
    return _starting_text(text, options)


def _starting_text(text: str, options: Options, listed: bool = False) -> Stated | None:
    """The option whose text `text` starts with, several where another is joined to it; `listed`: only one that ends at a mark."""
    first, *rest_of = re.split(r"\n|(?<=\w)[.;!?。](?=\s|$|[^\x00-\x7f])", text.strip(), maxsplit=1)
    if not options.lettered and (same := options.same(first)):
        more = _starting_text(rest_of[0], options, listed=True) if rest_of and rest_of[0].strip() else None
        return SEVERAL if more and more != same else same
    head = text_key(first)
    for each, key in sorted(zip(options.ids, options.keys, strict=True), key=lambda pair: -len(pair[1])):
        if key and head.startswith(key) and ends_word(head, len(key)):
            rest = JOINED.match(head, len(key))
            more = _start(head[rest.end() :], options) if rest else None
            # "amusement awe"
            if not rest and len(head) > len(key):
                more = _starting_text(head[len(key) :], options, listed=True)
                if listed and more is None:
                    return None
            if more and more.letter != each:
                return SEVERAL
            return options.only({other for other, same in zip(options.ids, options.keys, strict=True) if same == key})
    return None


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a leading letter is an answer and no word: "A because", "(b)", "B the dog"; not "a dog", "A dog", "I think"."""
    if match["close"] or match["next"] in tuple(".,;:!?)*<"):
        return True
    if not match["next"]:
        return match["letter"].isupper() or not match["after"].strip()
    if not match["letter"].isupper():
        return False
    if not match["next"].isascii():
        return True
    return match["letter"] not in "AI" or "\n" in match["after"] or bool(CONNECTOR.match(text, match.start("next")))


def _declared(text: str, options: Options) -> Stated | None:
    """The last of the text's declarations that names an option."""
    found: list[tuple[int, Stated]] = []
    for match in DECLARATION.finditer(text):
        stated = _start(text[match.end() : match.end() + 400], options)
        if stated is not None and not is_undecided(text, match.start()):
            found.append((match.end(), stated))
    for pattern in (SAID_RIGHT, CONCLUSION) if options.lettered else ():
        for match in pattern.finditer(text):
            if not is_undecided(text, match.start()):
                group = match.lastindex or 1
                found.append((match.start(group), options.letter(match[group])))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _opening(text: str, options: Options) -> Stated | None:
    """The letter or option that opens the text, or the letter that opens its last line; None in a list of options."""
    text = text.strip()
    if not options.lettered:
        return _opening_option(text, options)
    opening = {match[1] for match in LINE_LETTER.finditer(text)} & set(options.ids)
    last = text.rfind("\n") + 1
    match = LINE_LETTER.match(text) or OPENING_WORD.match(text)
    if not match and not (last and _whole(text.partition("\n")[0], options)):
        match = LINE_LETTER.match(text, last)
    if match:
        wrong = opening - {match[1]} or NOT_AFTER.match(text[match.end(1) : match.end(1) + 60])
        return None if wrong else options.letter(match[1])
    return _opening_option(text, options)


def _opening_option(text: str, options: Options) -> Stated | None:
    """The one option whose text opens this one and ends at a mark: "Yes, it is"; several where more of them follow."""
    head = " ".join(text[: 2 * options.longest + 400].casefold().split())
    same: dict[str, int] = {}
    for each, key in zip(options.ids, options.keys, strict=True):
        if len(key) > 1 and not key.isdigit() and head.startswith(key) and head[len(key) : len(key) + 1] in _MARKS:
            same[each] = len(key)
    if len(same) != 1:
        return None
    [(each, length)] = same.items()
    joined = JOINED.match(head, length)
    other = _starting_text(head[joined.end() :], options, listed=True) if joined else None
    return SEVERAL if other and other.letter != each else Stated(each)


def _first_or_last_line(text: str, options: Options) -> Stated | None:
    """The option that the first or the last of several lines is; several where lines are different ones."""
    lines = [line for line in text.splitlines() if line.strip()]
    listed = {match[1] for match in LINE_LETTER.finditer(text)} & set(options.ids)
    if len(lines) < 2 or (options.lettered and len(listed) > 1):
        return None
    first, last = _whole(lines[0], options), _whole(lines[-1], options)
    stated = {found for found in (first, last) if found}
    if len(stated) == 1:
        stated |= {found for line in lines[1:-1] if (found := options.same(line))}
        # "I think awe", and "fear" on the next line.
        stated |= {Stated(label) for label in options.ending(lines[-2])}
    return SEVERAL if len(stated) > 1 else last or first


def _marked(text: str, options: Options) -> Stated | None:
    """The one letter in parentheses, or after "option", that is not negated and that no refusal holds."""
    text = after_refusal(text)
    named: set[str] = set()
    negated: set[str] = set()
    for match in MARKED.finditer(text):
        letter = match[1] or match[2]
        if letter in options.ids:
            denied = is_negated(text, match.start(), match.end()) or is_undecided(text, match.start())
            (negated if denied else named).add(letter)
            other = ANOTHER.match(text, match.end())
            # "option A or B"
            if other and other[1] in options.ids:
                named.add(other[1])
    named -= negated
    if len(named) > 1:
        return SEVERAL
    return Stated(named.pop()) if named else None


def _lone(text: str, options: Options) -> Stated | None:
    """The one capital letter that stands alone in a short text ("I'm not sure, but B"); A and I only at its end, being words."""
    if len(text) > _SHORT or REFUSAL.search(text) or NONE_OF.search(text):
        return None
    found: set[str] = set()
    for match in CAPITAL.finditer(text):
        other = ANOTHER.match(text, match.end())
        is_word = (
            match[1] in "AI" and bool(text[match.end() :].strip(" .!")) and not (other and other[1] in options.ids)
        )
        denied = is_negated(text, match.start(), match.end()) or is_undecided(text, match.start())
        if match[1] in options.ids and not is_word and not denied:
            found.add(match[1])
    if len(found) > 1:
        return SEVERAL
    return Stated(found.pop()) if found else None


def _content(text: str, options: Options, texts: Sequence[str]) -> Stated | None:
    """The option whose text the text holds, or whose number it states; None where it says that it cannot answer."""
    if REFUSAL.search(text) and not any(REFUSAL.search(key) for key in options.keys):
        return None
    values = common_values(texts)
    if values is None:
        return mentioned_option(text, options)
    found = stated_number(text)
    ids = options.ids if options.lettered else texts
    return options.only({each for each, value in zip(ids, values, strict=True) if found and value == found.value})
