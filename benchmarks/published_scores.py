"""Do the judges give the scores that were published, from the outputs they were published for?

    python -m benchmarks.published_scores DATA_DIR [--rows FILE]

Reads what it finds of

- ``mathvista/testmini.json`` and ``mathvista/outputs/{output,scores}_<model>.json`` (github.com/lupantech/MathVista): once from
  the stored extractions, by the published normalisation; once from the raw responses, by the judge an evaluation uses;
- ``mmmu_pro/*.jsonl``, ``.jsonl.gz`` (github.com/MMMU-Benchmark/MMMU, mmmu-pro/output), with the published verdict ``if_right``
  in every row: under the published rule (the default of the task) and under ``rule: stated``.

The published code of MathVista had two ways to read an integer (``int(text)``, later ``int(float(text))``); a file is scored in
the one whose predictions are the stored ones. Of free answers it is also counted how many are read as GPT-4 read them. A row
that lacks its verdict, or another key, is left out and named with its file. --rows writes every row that is right in one and
wrong in the other, with the reason, as JSON lines. Nothing is downloaded, and no figure is known beforehand: published ones are
read from the files.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.questions.pictures import LocatedImage
from pipeline.errors import UserError
from pipeline.files import json_lines
from pipeline.scoring.mathvista import extracted, published_prediction
from pipeline.scoring.mmmu import RULES, published_choice
from pipeline.scoring.multiple_choice import letters
from pipeline.scoring.numbers import numbers, stated_list
from pipeline.tasks import mathvista, mmmu
from pipeline.types import Judgement, Question

_PROGRAM = re.compile(r"^\s*(?:print\(|def \w+\(|import \w+|return |for \w+ in |\w+ = )", re.MULTILINE)


@dataclass
class Score:
    """One line of the table.

    Args:
        name: what was scored, and how.
        published: right rows as published.
        ours: right rows by our judge.
        rows: how many rows there are.
        note: what holds for the whole line.
        differ: rows right in one and wrong in the other.
    """

    name: str
    published: int
    ours: int
    rows: int
    note: str = ""
    differ: list[dict[str, Any]] = field(default_factory=list)

    def line(self) -> str:
        """The line as Markdown."""
        reasons = Counter(row["reason"] for row in self.differ)
        why = "; ".join(
            [*([self.note] if self.note else []), *(f"{reason} {count}" for reason, count in reasons.most_common())]
        )
        published, ours = (100 * right / self.rows for right in (self.published, self.ours))
        return f"| {self.name} | {self.rows:,} | {published:.2f} | {ours:.2f} | {ours - published:+.2f} | {why or 'equal'} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="See the file's docstring for DATA_DIR."
    )
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--rows", type=Path, help="file for the rows that differ, as JSON lines")
    options = parser.parse_args()
    try:
        found = scores(options.data)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    print("| benchmark | rows read | published | ours | difference | reason |\n|---|---|---|---|---|---|")
    for score in found:
        print(score.line())
    if options.rows:
        rows = [{"score": score.name, **row} for score in found for row in score.differ]
        options.rows.write_text(json_lines(rows))


def scores(data: Path) -> list[Score]:
    """Every score of a folder.

    Raises:
        UserError: when there is none.
    """
    found = [*_mathvista(data / "mathvista"), *_mmmu_pro(data / "mmmu_pro")]
    if not found:
        raise UserError(f"{data}: holds neither mathvista/outputs/output_*.json nor mmmu_pro/*.jsonl(.gz)")
    return found


def _whole(file: Path, rows: Iterable[tuple[str, Any]], keys: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The rows of a file that hold every key, and a note of the others.

    Args:
        file: where they are from.
        rows: (name, row).
        keys: what a row needs.

    Raises:
        UserError: when none does.
    """
    kept: dict[str, Any] = {}
    lacking: list[str] = []
    for name, row in rows:
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            lacking.append(f"{file.name}, row {name}: no {', '.join(missing)}")
        else:
            kept[name] = row
    if lacking and not kept:
        raise UserError(f"{file}: none of {len(lacking)} rows can be scored; {lacking[0]}")
    return kept, f"{len(lacking)} left out ({'; '.join(lacking[:5])})" if lacking else ""


# ---- MathVista


def _mathvista(folder: Path) -> Iterator[Score]:
    files = sorted((folder / "outputs").glob("output_*.json"))
    problems = json.loads((folder / "testmini.json").read_bytes()) if files else {}
    for file in files:
        stored = json.loads(file.read_bytes())
        outputs, lacking = _whole(file, stored.items(), ("response", "extraction", "prediction", "true_false"))
        scored = file.with_name(file.name.replace("output_", "scores_", 1))
        right = sum(row["true_false"] for row in outputs.values())
        published = json.loads(scored.read_bytes()) if scored.exists() else {"average": {"correct": right}}
        # The published total counts rows that cannot be compared.
        if lacking:
            published = {**published, "average": {"correct": right}}
        model = file.stem.removeprefix("output_")
        for score in (_stored(model, outputs, published, problems), _raw(model, outputs, published, problems)):
            score.note = "; ".join(part for part in (score.note, lacking) if part)
            yield score


def _predictions(outputs: dict[str, Any], problems: dict[str, Any], whole_floats: bool) -> dict[str, str | None]:
    return {
        pid: published_prediction(
            row["extraction"],
            problems[pid]["choices"] or [],
            problems[pid]["answer_type"],
            problems[pid]["precision"],
            whole_floats,
        )
        for pid, row in outputs.items()
    }


def _stored(model: str, outputs: dict[str, Any], published: dict[str, Any], problems: dict[str, Any]) -> Score:
    """From the stored extractions, the groups of the published file included."""
    versions = {name: _predictions(outputs, problems, name == "int(float)") for name in ("int", "int(float)")}
    others = {name: sum(made[pid] != outputs[pid]["prediction"] for pid in outputs) for name, made in versions.items()}
    version = min(others, key=lambda name: others[name])
    right = {pid: made == problems[pid]["answer"] for pid, made in versions[version].items()}
    differ = [
        {"id": pid, "reason": "prediction differs", "ours": made, "published": outputs[pid]["prediction"]}
        for pid, made in versions[version].items()
        if right[pid] != outputs[pid]["true_false"]
    ]
    equal, groups = _groups(right, published, problems)
    note = f"integers by {version}, {others[version]} other predictions, {equal} of {groups} groups equal"
    return Score(
        f"MathVista {model}, stored extractions",
        published["average"]["correct"],
        sum(right.values()),
        len(right),
        note,
        differ,
    )


def _groups(right: dict[str, bool], published: dict[str, Any], problems: dict[str, Any]) -> tuple[int, int]:
    """How many of the published groups (question type, task, skill, …) have as many right rows, and how many there are."""
    equal = total = 0
    for key, values in published.items():
        if key == "average":
            continue
        for value, score in values.items():
            rows = [pid for pid in right if _is_in(problems[pid], key, value)]
            equal += (sum(right[pid] for pid in rows), len(rows)) == (score["correct"], score["total"])
            total += 1
    return equal, total


def _is_in(problem: dict[str, Any], key: str, value: str) -> bool:
    held = problem[key] if key in problem else problem["metadata"].get(key)
    return value in held if isinstance(held, list) else held == value


def _raw(model: str, outputs: dict[str, Any], published: dict[str, Any], problems: dict[str, Any]) -> Score:
    """From the raw responses, by the judge of the task."""
    correct = 0
    differ = []
    replaced = free = same = 0
    for pid, row in outputs.items():
        (question,) = mathvista.build({"pid": pid, **problems[pid], "image": LocatedImage(Path("unread"))})
        verdict = mathvista.judge(question, row["response"], "direct")
        correct += verdict.correct
        replaced += verdict.guessed is not None
        free += not question.options
        same += not question.options and _same_reading(question, row)
        if verdict.correct != row["true_false"]:
            differ.append(
                {
                    "id": pid,
                    "reason": _why(question, row, verdict),
                    "ours": verdict.answer or verdict.guessed,
                    "unparsable": verdict.reason,
                    "published": row["prediction"],
                    "extraction": row["extraction"],
                    "gold": problems[pid]["answer"],
                    "response": row["response"],
                }
            )
    note = f"{same} of {free} free answers read as GPT-4 read them; {replaced} replaced by the nearest choice"
    return Score(
        f"MathVista {model}, raw responses", published["average"]["correct"], correct, len(outputs), note, differ
    )


def _same_reading(question: Question, row: dict[str, Any]) -> bool:
    """Whether the number or list read from a response is the one GPT-4 extracted, or neither found one."""
    ours = extracted(row["response"], (), question.facts["answer_type"])
    if question.facts["answer_type"] == "list":
        return list(ours.values) == (stated_list(str(row["extraction"])) or [])
    theirs = [number.value for number in numbers(str(row["extraction"]))]
    if len(theirs) != 1 or ours.text is None:
        return len(theirs) != 1 and ours.text is None
    return any(math.isclose(value, theirs[0], rel_tol=1e-6) for value in ours.values)


def _why(question: Question, row: dict[str, Any], verdict: Judgement) -> str:
    """Why a response is judged differently than GPT-4's extraction of it was."""
    if len(_PROGRAM.findall(row["response"])) > 1:
        return "program, not run"
    if re.search(r"\n\s*(?:Question|Q)\s*:", row["response"]):
        return "goes on with questions of its own"
    if verdict.answer is None:
        return "implied, not stated" if verdict.reason != "several_answers" else "several answers named"
    if row["prediction"] is None:
        return "number in a form the published code refuses"
    if not question.options:
        return "another number read"
    letter = letters(len(question.options))[list(question.options).index(row["prediction"])]
    named = row["prediction"] in row["response"] or re.search(rf"\b{letter}\b", row["response"])
    return "another choice read" if named else "extraction names a choice the response does not"


# ---- MMMU-Pro


def _mmmu_pro(folder: Path) -> Iterator[Score]:
    for file in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        stored = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
        rows, lacking = _whole(
            file,
            ((str(number), row) for number, row in enumerate(stored, 1)),
            ("id", "options", "answer", "response", "if_right", "pred_indexs"),
        )
        for rule in RULES:
            score = _judged(file.name.partition(".jsonl")[0], list(rows.values()), rule)
            score.note = "; ".join(part for part in (score.note, lacking) if part)
            yield score


def _judged(name: str, rows: list[dict[str, Any]], rule: str) -> Score:
    correct = guesses = 0
    differ = []
    for row in rows:
        options = tuple(str(option) for option in ast.literal_eval(str(row["options"])))
        # The published code takes a failed request for "".
        text = row["response"] if isinstance(row["response"], str) else ""
        verdict = mmmu.judge(Question(row["id"], (), "", options, row["answer"]), text, "direct", rule, pro=True)
        correct += verdict.correct
        guesses += verdict.guessed is not None
        if verdict.correct != row["if_right"]:
            if published_choice(text, options, pro=True) is None:
                reason = "guessed in both" if verdict.answer is None else "guessed as published, stated in the text"
            else:
                reason = "letter within the text taken as published"
            differ.append(
                {
                    "id": row["id"],
                    "reason": reason,
                    "ours": verdict.answer or verdict.guessed,
                    "published": row["pred_indexs"],
                    "gold": row["answer"],
                    "response": text,
                }
            )
    return Score(
        f"MMMU-Pro {name}, rule {rule}",
        sum(row["if_right"] for row in rows),
        correct,
        len(rows),
        f"{guesses} guessed",
        differ,
    )


if __name__ == "__main__":
    main()
