"""Pages that let a person judge rows: `cot/gallery.html` after a build, and a preview before money is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cot_builder.output.page import alt_text, cut, picture, render
from cot_builder.output.yields import (
    class_table,
    group_tables,
    mode_table,
    mode_words,
    question_line,
    reason_table,
    teacher_table,
)
from pipeline.formatting import join_counts
from pipeline.reports.table import Column, Table

_MOST_CARDS = 150
"""Kept rows, and rejected replies, on one page: each takes some 15 kB."""
_REASONING = {"question": "Question", "think": "Reasoning", "answer": "Answer"}
_DESCRIPTION = {"question": "Question", "prompt": "Prompt", "statements": "Statements", "completion": "Description"}
"""Columns that hold text: how the page calls them."""


class GroupSample:
    """Keeps the first few records of every group that stream by, so that memory stays flat over any number of rows.

    Args:
        per_group: how many of each group.
    """

    def __init__(self, per_group: int) -> None:
        self._per_group = per_group
        self._groups: dict[Hashable, list[dict[str, Any]]] = {}

    def offer(self, group_key: Hashable, record: dict[str, Any]) -> None:
        """Keep a record while its group is not full."""
        group = self._groups.setdefault(group_key, [])
        if len(group) < self._per_group:
            group.append(record)

    def records(self) -> list[dict[str, Any]]:
        """Return the first of every group, then the second of every group, …: any beginning of it is spread over the groups."""
        turns = range(max(map(len, self._groups.values()), default=0))
        return [group[turn] for turn in turns for group in self._groups.values() if turn < len(group)]


@dataclass(frozen=True)
class PreviewReply:
    """What one teacher wrote about a row, and what would become of it."""

    teacher: str
    mode: str
    text: str
    state: str
    """kept, the reason why not, or unasked when there was no reply."""
    detail: str = ""
    tokens: int | None = None
    """Read and written; None or 0 where the server does not say."""


@dataclass(frozen=True)
class PreviewRow:
    """A row and every teacher's reply to it."""

    id: str
    label: str
    picture: Path | None
    replies: list[PreviewReply] = field(default_factory=list)
    question: str = ""
    """What is asked, where each row asks its own."""


def gallery_page(
    title: str,
    manifest: Mapping[str, Any],
    kept: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Path],
    prompts: Mapping[str, str],
) -> str:
    """Return the page of a build: yields, reasons, prompts, and pictures with what was written about them.

    Args:
        title: the page's heading.
        manifest: the build's manifest.
        kept: a sample of rows of train.parquet, best from `GroupSample.records`; the first 150 are shown.
        rejected: a sample of lines of rejected.jsonl, likewise.
        pictures: row id: its file. Pictures are read here; one that cannot be is replaced by the reason.
        prompts: name: the whole text.
    """
    kept, rejected = kept[:_MOST_CARDS], rejected[:_MOST_CARDS]
    shown = cache(lambda row_id: picture(pictures.get(row_id)))
    labels = list(manifest["per_class"])
    reasons = manifest["rejected_replies_by_reason"] | dict.fromkeys(row["reason"] for row in rejected)
    return render(
        "gallery.html.jinja",
        "_filter.js.jinja",
        title=title,
        rows=manifest["rows"],
        why=manifest.get("why"),
        digest=manifest.get("data_digest"),
        classes=class_table(manifest).less("modes", "teachers"),
        groups=group_tables(manifest),
        kinds=manifest.get("classes") == "kind",
        questions=question_line(manifest),
        teachers=teacher_table(manifest).less("revision"),
        modes=mode_table(manifest),
        reasons=reason_table(manifest),
        prompts=prompts,
        kept=_grouped([_kept_card(row, shown(row["id"])) for row in kept], "group", labels),
        rejected=_grouped([_rejected_card(row, shown(row["id"])) for row in rejected], "reason", list(reasons)),
        filters=_filters([*kept, *rejected], labels, "Kind" if manifest.get("classes") == "kind" else "Class"),
    )


def preview_page(title: str, rows: Sequence[PreviewRow], prompts: Mapping[str, str], forecast: str) -> str:
    """Return the page of a preview: every row's picture, and beside it what every teacher made of it.

    Args:
        title: the page's heading.
        rows: the rows and their replies. Pictures are read here, as for `gallery_page`.
        prompts: name: the whole text.
        forecast: what the whole build would take, in a sentence.
    """
    replies: dict[tuple[str, str], list[PreviewReply]] = {}
    for row in rows:
        for reply in row.replies:
            replies.setdefault((reply.teacher, reply.mode), []).append(reply)
    return render(
        "preview.html.jinja",
        "_sort.js.jinja",
        title=title,
        forecast=forecast,
        prompts=prompts,
        teachers=Table("teachers", "Teachers", _PREVIEWED, tuple(_preview_yields(*one) for one in replies.items())),
        rows=[
            {
                "id": row.id,
                "label": row.label,
                "question": row.question,
                "alt": alt_text(row.id, row.label),
                "picture": picture(row.picture),
                "replies": [{**vars(reply), "text": cut(reply.text)} for reply in row.replies],
            }
            for row in rows
        ],
    )


def _preview_yields(origin: tuple[str, str], replies: Sequence[PreviewReply]) -> dict[str, Any]:
    states = Counter(reply.state for reply in replies)
    tokens = [reply.tokens for reply in replies if reply.tokens]
    return {
        "teacher": origin[0],
        "mode": mode_words(origin[1]),
        "replies": len(replies),
        "kept": states.pop("kept", 0),
        "tokens": round(sum(tokens) / len(tokens)) if tokens else None,
        "reasons": join_counts(dict(states.most_common())) or None,
    }


_PREVIEWED = (
    Column("teacher", "teacher"),
    Column("mode", "mode"),
    Column("replies", "replies", "count"),
    Column("kept", "kept", "count"),
    Column("tokens", "tokens a reply", "count"),
    Column("reasons", "not kept"),
)


def _kept_card(row: Mapping[str, Any], picture: dict[str, str]) -> dict[str, Any]:
    columns = _REASONING if "think" in row else _DESCRIPTION
    checks = [
        f"{view} {row[f'check_{view}']:.2f}" for view in ("text", "image") if row.get(f"check_{view}") is not None
    ]
    votes = row.get("votes") or []
    return {
        **_origin(row, picture),
        "prompt_version": row.get("prompt_version"),
        "agreement": None if row.get("agreement") is None else f"{row['agreement']:.0%}",
        "tally": join_counts(dict(Counter(vote["answer"] or "no label" for vote in votes).most_common())),
        "votes": [
            f"{vote['teacher']}, {vote['mode']}, attempt {vote['attempt']}: {vote['answer'] or 'no label'}"
            + (f" ({vote['reason']})" if vote["reason"] else "")
            for vote in votes
        ],
        "checks": ", ".join(checks),
        "hints": ", ".join(row.get("hints") or ()),
        "texts": [(heading, cut(row[name])) for name, heading in columns.items() if row.get(name)],
    }


def _rejected_card(row: Mapping[str, Any], picture: dict[str, str]) -> dict[str, Any]:
    told = {"reason": row["reason"], "detail": row["detail"], "texts": [*_asked(row), ("Reply", cut(row["reply"]))]}
    return {**_origin(row, picture), **told}


def _asked(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [("Question", cut(row["question"]))] if row.get("question") else []


def _origin(row: Mapping[str, Any], picture: dict[str, str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "alt": alt_text(row["id"], row["label"]),
        "picture": picture,
        "label": row["label"],
        "group": row.get("class") or row["label"],
        "teacher": row.get("teacher") or "",
        "mode": row.get("mode") or "",
        "attempt": row["attempt"],
    }


def _grouped(cards: list[dict[str, Any]], key: str, order: list[str]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for card in sorted(cards, key=lambda card: order.index(card[key])):
        groups.setdefault(card[key], []).append(card)
    return groups


def _filters(
    records: Sequence[Mapping[str, Any]], labels: list[str], what: str
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(key, heading, [(value, its words)]) of each choice that the page offers."""

    def of(key: str) -> list[tuple[str, str]]:
        values = sorted({row.get(key) or "" for row in records} - {""})
        return [(value, value.replace("_", " ") if key == "mode" else value) for value in values]

    present = {row.get("class") or row["label"] for row in records}
    outcomes = [("kept", "kept"), ("rejected", "rejected"), *((name, f"rejected: {name}") for name, _ in of("reason"))]
    classes = [(label, label) for label in labels if label in present]
    return [
        ("label", what, classes),
        ("outcome", "Outcome", outcomes),
        ("teacher", "Teacher", of("teacher")),
        ("mode", "Mode", of("mode")),
    ]
