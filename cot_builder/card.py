"""The dataset card of a build, `cot/README.md`: its front matter lets `datasets.load_dataset(folder)` find the rows."""

from __future__ import annotations

import json
from typing import Any

from cot_builder.build import Plan

_FRONT = """---
pretty_name: {name} chain-of-thought rows
task_categories: [image-text-to-text]
tags: [chain-of-thought, synthetic]
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
---
"""
_ORIGIN = """Every row was written by a model or a program and kept because it parses under the grammar
`<think>…</think><answer>…</answer>` and its answer agrees with the image's label. No person checked the reasoning.
"""
_COLUMNS = """`id` (the task's row id), `image` (relative to `image_root` in manifest.json), `label` (gold), `think`, `answer`,
`completion` (the canonical text to train on), `teacher`, `mode`, `attempt` (from 0), `prompt_version`.
"""


def card(plan: Plan, manifest: dict[str, Any], kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> str:
    """The card of a build as Markdown."""
    rows = manifest["rows"]
    parts = [
        _FRONT.format(name=json.dumps(plan.config.name)[1:-1]),
        f"# Chain-of-thought rows for task `{plan.task.name}`\n",
        f"Question: {plan.task.question}\n",
        f"Of {rows['selected']} images, {rows['kept']} rows were kept and {rows['rejected']} rejected"
        + (f"; {rows['unasked']} are not answered yet: the build is INCOMPLETE.\n" if rows["unasked"] else ".\n"),
        _ORIGIN,
        "## Yields\n",
        *_yield_table(manifest),
        "## Teachers\n",
        *_teacher_table(plan, manifest),
        "## Columns\n",
        _COLUMNS,
        "## Examples\n",
        *(_quoted(f"kept, {row['id']} ({row['label']})", row["completion"]) for row in kept),
        *(_quoted(f"rejected as {row['reason']}, {row['id']} ({row['label']})", row["reply"]) for row in rejected),
    ]
    return "\n".join(parts)


def _yield_table(manifest: dict[str, Any]) -> list[str]:
    lines = ["| label | kept | rejected | unasked | reasons |", "|---|--:|--:|--:|---|"]
    for label, counts in manifest["per_class"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items())
        rejected = sum(counts["rejected"].values())
        lines.append(f"| {label} | {counts['kept']} | {rejected} | {counts['unasked']} | {reasons} |")
    return [*lines, ""]


def _teacher_table(plan: Plan, manifest: dict[str, Any]) -> list[str]:
    lines = ["| teacher | what | kept | rejected | unasked |", "|---|---|--:|--:|--:|"]
    for name, config in plan.teachers.items():
        what = getattr(config, "model", None) or "offline, writes from annotated attributes"
        counts = manifest["per_teacher"].get(name, {})
        cells = [name, what, *(str(counts.get(key, 0)) for key in ("kept", "rejected", "unasked"))]
        lines.append(f"| {' | '.join(cells)} |")
    prompt = f"`{plan.prompt.name}` ({plan.prompt.mode}, sha256 {plan.prompt.digest[:12]})"
    return [*lines, "", f"Prompt of served teachers: {prompt}.", ""]


def _quoted(title: str, text: str) -> str:
    shown = text if len(text) <= 1000 else f"{text[:1000]} … ({len(text)} characters)"
    return f"{title}:\n\n" + "\n".join(f"    {line}" for line in shown.splitlines() or [""]) + "\n"
