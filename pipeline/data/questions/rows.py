"""One row of somebody's own data as a question: its text, options and gold answer, and which kind of answer it asks for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.image_sets import label_set
from pipeline.data.questions.answer_codes import code_of, readings
from pipeline.data.questions.cells import MALFORMED, MORE_CELLS, RawRow, Unusable, is_empty
from pipeline.data.questions.columns import RowColumns
from pipeline.data.questions.prompting import lettered
from pipeline.data.questions.text import (
    MARK,
    is_conversation,
    marked,
    option_letter,
    option_names,
    options_in,
    options_of,
    read_answers,
    read_conversation,
    unwrapped,
    without_instructions,
)
from pipeline.scoring.kinds import OPEN_KINDS, gold_answer, infer_kind
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Problem, Question

_SAID_KINDS = {
    "multiple choice": "letter",
    "multi choice": "letter",
    "mcq": "letter",
    "numerical": "number",
    "numeric": "number",
    "integer": "number",
    "float": "number",
    "yes/no": "yes_no",
    "yes no": "yes_no",
    "boolean": "yes_no",
    "bool": "yes_no",
}
"""What other data call the kinds; any other word leaves the kind to be inferred."""
_MANY_PEOPLE, _AGREED = 10, 3
# More pictures than a mark can number.
_ANY_NUMBER = 100


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def _whole(value: Any) -> int:
    return int(float(value))


_NUMBER_FACTS: Mapping[str, Callable[[Any], Any]] = {"unit": str, "precision": _whole, "tolerance": float}


@dataclass
class RowReader:
    """Reads the rows of one split; `removed` and `later_turns` then tell what of them was left out.

    Args:
        split: its name.
        root: the data's folder.
        columns: what is read of a row.
        config: the ``task:`` block, for its labels.
        options: values of its options, see pipeline/tasks/questions.py.
        every: all rows of the split without their pictures; read where one row does not tell which option its answer means.
    """

    split: str
    root: Path
    columns: RowColumns
    config: TaskConfig
    options: Mapping[str, Any]
    every: Callable[[], Iterable[RawRow]] = tuple
    removed: Counter[str] = field(default_factory=Counter)
    later_turns: list[Problem] = field(default_factory=list)
    code: str | None = None
    """What the answers that could mean several options are read as; None until there was one."""
    chosen: list[tuple[Any, tuple[str, ...]]] | None = None
    """Collects the answers of rows with options, in place of reading them."""

    @functools.cached_property
    def labels(self) -> LabelSet:
        """Return the labels of the configuration."""
        return label_set(self.config, ())

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the columns that may hold a row's id."""
        return (*([self.columns.roles["id"]] if "id" in self.columns.roles else []), "_key")

    def name(self, row: RawRow, number: int, seen: set[str]) -> str:
        """Return a row's id; one that was only guessed to be an id gets a row's number where it is not the only one."""
        if number == 0:
            self.removed.clear()
            self.later_turns.clear()
        given = next((str(row[column]) for column in self.ids if not is_empty(row.get(column))), None)
        if given is None:
            return f"{self.split}-{number}"
        name = f"{given}-{number}" if given in seen and self.options["id_column"] is None else given
        seen.add(given)
        return name

    def questions(
        self, row: RawRow, name: str, images: tuple[Path, ...] | None, find: Callable[[Any], Path]
    ) -> Iterator[Question]:
        """Yield what a row asks: one question, or one per turn.

        Args:
            row: as read; its pictures are `images`.
            name: its id.
            images: of the picture columns; None where only kinds are counted, and neither these nor those in turns matter.
            find: where a picture is that stands in a turn; raises `Unusable` where there is none.

        Raises:
            Unusable: see `pipeline.data.questions.text`.
        """
        if more := row.get(MORE_CELLS):
            raise Unusable("malformed_row", f"{len(more)} more cells than columns; one with the delimiter needs quotes")
        asked: Any = self.columns.question or self.columns.of("question", row)
        gold = unwrapped(self._gold(row))
        if not is_conversation(asked):
            text = str(asked or "").strip()
            if "input" in self.columns.read and row.get("input"):
                text = f"{text}\n{row['input']}"
            if not is_empty(hint := self.columns.of("hint", row)):
                text = f"{str(hint).strip()}\n{text}"
            yield self._question(row, name, text, gold, images)
            return
        turns = read_conversation(asked)
        if images is not None:
            images += tuple(map(find, turns.pictures))
        if gold is not None:
            if len(turns.asked) > 1:
                raise Unusable("several_turns", f"one answer to {len(turns.asked)} turns; a row asks one question")
            turns.answered = [gold]
        pairs = list(zip(turns.asked, turns.answered, strict=False))
        if not pairs:
            raise Unusable("missing_answer", "the turns have no answer")
        for place, (text, said) in enumerate(pairs):
            if place and self.options["turns"] == "first":
                left = f"{len(pairs) - 1} later turns are not asked; task.options.turns=each asks each alone"
                self.later_turns.append(Problem(name, "later_turns", f"row kept; {left}"))
                return
            yield self._question(row, f"{name}-{place}" if place else name, text, unwrapped(said), images)

    def _gold(self, row: RawRow) -> Any:
        """The gold answer as the data have it: a completion's turn, or the answer that most people gave."""
        value = self.columns.of("answer", row)
        if is_conversation(value):
            return "\n".join(read_answers(value))
        if isinstance(value, list) and self.columns.roles.get("aliases") == self.columns.roles.get("answer"):
            return _people(value)[0] if value else None
        return value

    def _question(self, row: RawRow, name: str, text: str, gold: Any, images: tuple[Path, ...] | None) -> Question:
        text, removed = without_instructions(text)
        if not MARK.sub("", text).strip():
            raise Unusable("missing_question", "it has no text")
        # NaN alone is not itself: it stands where a column of numbers has nothing.
        if gold is None or gold == "" or gold != gold:
            raise Unusable("missing_answer", "it has no gold answer")
        if removed:
            self.removed[removed] += 1
        given = self._in_columns(row) if self.columns.lettered else self.columns.of("options", row)
        options, called = (options_of(given), option_names(given)) if given else ([], [])
        if images is not None and options and not options_in(text):
            text = f"{text}\n{lettered(options)}"
        options = options or options_in(text)
        text = marked(text, _ANY_NUMBER if images is None else len(images))
        if images is not None and not images:
            raise Unusable("missing_image", "it has no picture")
        kind, answer, facts = self._answer(row, gold, options, called)
        pictures = "+".join(_machine_independent(image, self.root) for image in images or ())
        return Question(
            id=name,
            images=images or (),
            text=text,
            options=tuple(self.config.labels or ()) if kind == "label" else tuple(options),
            answer=answer,
            kind=kind,
            groups={column: "" if is_empty(row.get(column)) else str(row[column]) for column in self.columns.groups},
            cluster=pictures,
            # A slice then holds all questions about a picture, so that none is trained on and judged on.
            pair=pictures,
            facts=facts,
        )

    def _in_columns(self, row: RawRow) -> list[str]:
        """The options that stand in columns of their own; rows of fewer leave the last ones empty."""
        columns = list(self.columns.lettered)
        if self.options["options_column"] is None:
            # Rows of JSON may leave out columns that others have.
            columns += itertools.takewhile(lambda letter: letter in row, string.ascii_uppercase[len(columns) :])
            # One that is farther from the others may be anything.
            beyond = string.ascii_uppercase[len(columns) :][:2]
            columns += beyond if len(beyond) > 1 and not is_empty(row.get(beyond[1])) else ()
        while columns and is_empty(row.get(columns[-1])):
            columns.pop()
        if holes := [column for column in columns if is_empty(row.get(column))]:
            raise Unusable("unusable_options", f"option {holes[0]} is empty, and {columns[-1]} is not")
        return [str(row[column]).strip() for column in columns]

    def _answer(
        self, row: RawRow, gold: Any, options: Sequence[str], called: Sequence[str]
    ) -> tuple[str, str, dict[str, Any]]:
        """(kind, the gold answer as its judge wants it, the facts it tells itself)."""
        if options:
            if isinstance(gold, list):
                raise Unusable("several_answers", f"{len(gold)} options are right, where one is asked for")
            return "letter", self._letter(gold, options, called), {}
        if self.config.labels:
            return "label", self._label(str(gold)), {"aliases": dict(self.config.aliases)}
        said = str(self.columns.of("kind", row) or "").lower().replace("_", " ").replace("-", " ")
        named = said.replace(" ", "_") if said.replace(" ", "_") in OPEN_KINDS else _SAID_KINDS.get(said)
        kind = self.options["kind"] or (named if named != "letter" else None) or infer_kind((), gold)
        try:
            answer, facts = gold_answer(kind, gold)
        except ValueError as error:
            raise Unusable("unfit_answer", f"as {kind}: {error}") from error
        return kind, answer, {**self._facts(kind, answer, row), **facts}

    def _letter(self, gold: Any, options: Sequence[str], called: Sequence[str]) -> str:
        """The letter of the gold option: the one of its name in the data, else what nearly all answers of the split are."""
        # The last ones may be of options that are empty.
        names = called[: len(options)] if len(called) >= len(options) else ()
        if str(gold) in names:
            return letters(len(options))[names.index(str(gold))]
        if self.chosen is not None:
            self.chosen.append((gold, tuple(options)))
            return letters(len(options))[0]
        found = readings(gold, options)
        # A place counted from 1 is none that a row alone is read as.
        if (len(set(found.values())) > 1 or [*found] == ["from 1"]) and self._split_code in found:
            self.code = self._split_code
            return found[self.code]
        return option_letter(gold, options)

    @functools.cached_property
    def _split_code(self) -> str | None:
        chosen: list[tuple[Any, tuple[str, ...]]] = []
        reader = dataclasses.replace(self, removed=Counter(), later_turns=[], chosen=chosen)
        for row in self.every():
            with contextlib.suppress(*MALFORMED):
                list(reader.questions(row, "", None, Path))
        return code_of(chosen)

    def _facts(self, kind: str, answer: str, row: RawRow) -> dict[str, Any]:
        """What the row's own columns tell the judge of its kind."""
        if kind == "text":
            others = unwrapped(self.columns.of("aliases", row))
            return {"aliases": [each for each in _people(others) if each != answer]} if others else {}
        roles = {"number": _NUMBER_FACTS, "list": {"ordered": _is_true}}.get(kind, {})
        given = {role: value for role in roles if (value := self.columns.of(role, row)) not in (None, "")}
        facts = {role: roles[role](value) for role, value in given.items()}
        share = self.options["relative_tolerance"]
        return {**facts, "relative_tolerance": share} if kind == "number" and share is not None else facts

    def _label(self, gold: str) -> str:
        found = self.labels.normalise(gold)
        if found is None:
            raise Unusable("unknown_label", f"{gold[:40]!r} is not one of {', '.join(self.config.labels or ())}")
        return found


def _machine_independent(image: Path, root: Path) -> str:
    """A picture below the data by its path there, one that was taken out of a file by its name, which is its content's hash."""
    try:
        return image.relative_to(root).as_posix()
    except ValueError:
        return image.name


def _people(value: Any) -> list[str]:
    """The answers of a list, the commonest first; of ten or more people those that three gave, as VQA wants for a full point."""
    entries = value if isinstance(value, list) else [value]
    texts = [
        str(entry.get("answer") if isinstance(entry, Mapping) else entry) for entry in entries if entry is not None
    ]
    counts = Counter(texts).most_common()
    agreed = [text for text, count in counts if count >= _AGREED] if len(texts) >= _MANY_PEOPLE else []
    return agreed or [text for text, _ in (counts[:1] if len(texts) >= _MANY_PEOPLE else counts)]
