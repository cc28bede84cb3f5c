"""Tasks: a labelled image set and how its answers are judged. One file per task; the file name is its name.

A task file defines ``load(config: TaskConfig, cache: Path) -> Task``. `load_task` finds it by name, so adding
``pipeline/tasks/fi8.py`` is all it takes to add the task ``fi8``.

A file that gives a `pipeline.data.benchmark.Benchmark` instead, which can be evaluated but not trained on, says so with
``EVALUATED_ONLY = True``; `pipeline.data.load.load_benchmark` loads both.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.splits import named_split, sliced
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import stated_label
from pipeline.scoring.response import Malformed, parse
from pipeline.types import Example, Problem, Split, Verdict

PROMPT_STYLES = ("think", "direct")
"""`think` asks for ``<think>…</think><answer>…</answer>``; `direct` asks for the bare label."""


@dataclass(frozen=True)
class Task:
    """A labelled image set, its question and its judge.

    Args:
        name: the task file's name.
        labels: the closed list of answers.
        question: what the student is asked about an image, without answer options or format instructions.
        splits: the names `read` accepts.
        read: reads one whole split; called at most once per use, no caching promised.
    """

    name: str
    labels: LabelSet
    question: str
    splits: tuple[str, ...]
    read: Callable[[str], Split]
    unfit: Callable[[Sequence[Example]], Mapping[Path, str]] | None = None
    """Pictures among rows that the student's processor refuses, and why; None where it takes all."""
    listed: Callable[[str], Counter[str]] | None = None
    """Rows of a whole split by label as the data spell it, told without opening a picture: at most so many are usable."""
    in_place: bool = False
    """Whether the pictures lie there as files, so that reading a split writes nothing but what was found of them."""

    def select(self, spec: str) -> Split:
        """Return rows of a split in the usual slicing syntax: ``train``, ``train[:4000]``, ``train[4000:]``, ``train[:10%]``.

        Rows are ordered by a hash of their id first, so that a slice of a class-sorted file holds every class, and
        two disjoint slices never share a row.

        Raises:
            UserError: on a malformed spec, an unknown split or an empty slice.
        """
        whole = self.read(named_split(self.name, spec, self.splits))
        rows = sorted(whole.examples, key=lambda row: hashlib.sha256(row.id.encode()).digest())
        chosen = sliced(self.name, spec, rows, whole.problem_counts)
        refused = self.unfit(chosen) if self.unfit else {}
        unfit = [Problem(row.id, "unfit_image", refused[row.image]) for row in chosen if row.image in refused]
        usable = tuple(row for row in chosen if row.image not in refused)
        if not usable:
            raise UserError(f"task {self.name}: {spec!r}: no row is left; the first: {unfit[0].id}, {unfit[0].detail}")
        return Split(usable, (*whole.problems, *unfit), len(whole.examples))

    def prompt(self, style: str) -> str:
        """Return the text the student reads beside the image, in one of `PROMPT_STYLES`."""
        options = ", ".join(self.labels.names)
        if style == "think":
            how = "Reason inside <think> </think>, then give one of them inside <answer> </answer>."
        elif style == "direct":
            how = "Answer with one of them and nothing else."
        else:
            raise ValueError(f"prompt style {style!r} is not one of {PROMPT_STYLES}")
        return f"{self.question} Options: {options}. {how}"

    def judge(self, completion: str, label: str, style: str = "think") -> Verdict:
        """Judge one completion against the gold label; the single judge behind filters, rewards and reports.

        In think style the whole of the <answer> part has to spell the label. In direct style, where no form was asked for, the
        label that the text states is read, as benchmarks' options are ("The answer is awe."); stating several is wrong.
        """
        if style == "direct":
            answer, think = completion, None
            found = stated_label(completion, self.labels)
        else:
            response = parse(completion)
            if isinstance(response, Malformed):
                return Verdict(None, False, response.reason)
            answer, think = response.answer, response.think
            found = self.labels.normalise(answer)
        if found is None:
            return Verdict(None, False, "not_a_label" if answer.strip() else "empty", think)
        return Verdict(found, found == label, None, think)
