"""The dataset card of a build, `cot/README.md`: its front matter lets `datasets.load_dataset(folder)` find the rows."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from cot_builder.output.traces import trace_line, trace_tables
from cot_builder.output.yields import class_table, group_tables, mode_table, question_line, reason_table, teacher_table
from cot_builder.teachers.config import declared_imperfection
from pipeline.data.usable_rows import usable_line
from pipeline.formatting import join_counts, printable
from pipeline.reports.table import markdown_rows, table

if TYPE_CHECKING:
    from cot_builder.build.plan import BuildPlan

_HOW = {
    "reasoning": """Every row was written by a model or a program. It was kept because it parses under the grammar
`<think>…</think><answer>…</answer>`, its answer agrees with the gold one, and its reasoning passed the filters
below.""",
    "extraction": """Every row describes a picture and was written by a model that knew the answer to the question. It was
kept because the description passed the filters below.""",
}
_LIMITS = """- No person checked the texts. What is verified is the answer against the label, and the form of the text; whether
  the text is true of the picture is not, beyond the filters and cross-checks named here.
- Rows of mode `answer_given` were written by a teacher that was shown the label. Their reasoning may justify the answer
  instead of leading to it.
- Labels are the data set's, mistakes included: a right answer to a wrongly labelled picture was rejected.
- Filters leave the rows that teachers find easy: a class with a low yield is thinner here than among the pictures.
"""
_LICENCE = """The texts fall under the licences of the teachers' models and of the annotations they were shown; the pictures,
which are not part of this folder, under the data set's. Look them up before you pass these rows on.
"""

_OF_NO_EFFECT = ("endpoints", "concurrency")
"""Settings that change no row; addresses are nobody's business."""
_MEANING = {
    "id": "the task's row id",
    "image": "path of the picture, relative to `image_root` in manifest.json",
    "image_digest": "the first 16 hexadecimal digits of the sha256 of the picture's file; of several, of the list of theirs",
    "label": "gold answer: the label, or what the row's question asks for",
    "images": "paths of all pictures of the row in order, relative to `image_root`; `image` is the first",
    "prompt": "what the student is asked; ``<image 1>`` marks the place of a picture, those without a mark come first",
    "think": "the reasoning",
    "answer": "the answer, spelled as the label",
    "completion": "the canonical text to train on",
    "statements": "question and answer as declarative statements; the description was to work them in",
    "observe": "what to look for in a picture to answer the question",
    "teacher": "who wrote it",
    "mode": "`answer_hidden` (the teacher was not shown the label), `answer_given` (it was), `attribute` (offline, from "
    "annotations) or `description`",
    "attempt": "which attempt it is, from 0",
    "prompt_version": "file of the prompt, with @ and a digest where it is not the builder's own; null for offline teachers",
    "hints": "names of the annotated attributes the teacher was shown",
    "votes": "every reply about the row until it was settled: teacher, mode, attempt, answer, and the reason if rejected",
    "agreement": "share of the row's `answer_hidden` replies that answered with the label; null when there were none",
    "check_text": "share of a second teacher's readings of the reasoning alone, without its conclusion, that gave the "
    "label; null when there were none",
    "check_image": "the same with the picture beside it",
}


def card(
    plan: BuildPlan,
    manifest: Mapping[str, Any],
    kept: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
) -> str:
    """Return the card of a build as Markdown.

    Args:
        plan: the build.
        manifest: what it came to.
        kept: a few rows of train.parquet, as examples.
        rejected: a few lines of rejected.jsonl.
    """
    parts = [
        _front(plan, manifest),
        f"# Chain-of-thought rows for task `{plan.task.name}`\n",
        *_summary(plan, manifest),
        "## Load\n",
        '```python\nimport datasets\n\nrows = datasets.load_dataset("path/of/this/folder", split="train")\n```\n',
        "Pictures are not inside: `image` is relative to `image_root` in manifest.json. gallery.html shows a sample with them.\n",
        "## Columns\n",
        *_table(("column", "meaning"), ((f"`{name}`", _MEANING.get(name, "")) for name in plan.columns.names)),
        "## Yields\n",
        markdown_rows(class_table(manifest)),
        *map(markdown_rows, group_tables(manifest)),
        *([markdown_rows(mode_table(manifest))] if manifest["kept_rows_by_mode"] else []),
        *_traces(manifest),
        "## Why replies were rejected\n",
        *_reasons(manifest),
        "## Teachers and prompts\n",
        *_teachers(plan, manifest),
        "## Filters and policy\n",
        "As configured; a reply's first broken rule is its reason.\n",
        _fenced(_yaml({"cot": _without(manifest["config"]["cot"], *_OF_NO_EFFECT)}), "yaml"),
        "## How it was made\n",
        *_made(manifest),
        f"## Limitations\n\n{_LIMITS}",
        f"## Licence\n\n{_LICENCE}",
        "## Examples\n",
        *(_example(f"Kept: {_of(row)}", row["completion"]) for row in kept),
        *(_example(f"Rejected as {row['reason']}: {_of(row)}", row["reply"]) for row in rejected),
    ]
    return printable("\n".join(parts))


def _front(plan: BuildPlan, manifest: Mapping[str, Any]) -> str:
    """YAML that the Hub and `datasets` read; a run may be called anything."""
    from huggingface_hub import DatasetCardData

    rows = manifest["rows"]["kept"]
    sizes = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"))
    front = DatasetCardData(
        pretty_name=f"{plan.config.name} chain-of-thought rows",
        task_categories=["image-text-to-text"],
        size_categories=[next((name for limit, name in sizes if rows < limit), "1M<n<10M")],
        tags=["chain-of-thought", "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}],
    )
    return f"---\n{front.to_yaml()}\n---\n"


def _summary(plan: BuildPlan, manifest: Mapping[str, Any]) -> Iterator[str]:
    rows = manifest["rows"]
    if plan.task.question is not None:
        yield f"Question: {_inline(plan.task.question)}\n"
    else:
        first = next(iter(plan.split.rows)).text
        yield f"Each row asks its own question: {question_line(manifest)}. The first: {_inline(first)}\n"
        yield from _stepped_aside(manifest)
    yield f"Recipe: `{plan.recipe.name}`. {_HOW.get(plan.recipe.name, '')}\n"
    if manifest.get("pictures", {}).get("unusable"):
        yield f"{_inline(usable_line(plan.cot.split.partition('[')[0], manifest['pictures']))}\n"
    counts = f"Of {rows['selected']} images, {rows['kept']} rows were kept and {rows['rejected']} rejected"
    if manifest["status"] == "complete":
        yield f"{counts}.\n"
    else:
        unasked = f"; {rows['unasked']} are not answered yet" if rows["unasked"] else ""
        yield f"{counts}{unasked}. **The build is INCOMPLETE**: {_inline(manifest['why'] or '')}\n"


def _stepped_aside(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Which rules could not be asked of which rows."""
    if rows := manifest.get("rows_without_closed_answers"):
        yield (
            f"Where an answer is one of no closed list ({join_counts(rows)}), nothing tells which answer a sentence names: "
            "`other_conclusion` and a named answer as `leakage` are not asked of these rows, and a cross-check reads their "
            "reasoning without its last sentence. In the others they are asked of the row's own options.\n"
        )


def _traces(manifest: Mapping[str, Any]) -> Iterator[str]:
    if traces := manifest.get("traces"):
        yield f"The task knows the true steps of every row, which the filters do not ask: {trace_line(traces)}.\n"
        yield from map(markdown_rows, trace_tables(traces))


def _reasons(manifest: Mapping[str, Any]) -> Iterator[str]:
    reasons = reason_table(manifest)
    if not reasons.rows:
        yield "No reply was rejected.\n"
        return
    yield markdown_rows(reasons)
    yield "A row is rejected when none of its replies was kept, and counts under the reason of the reply that came furthest.\n"


def _teachers(plan: BuildPlan, manifest: Mapping[str, Any]) -> Iterator[str]:
    yield markdown_rows(teacher_table(manifest))
    for name, config in plan.teachers.items():
        if declared := declared_imperfection(config):
            yield f"`{name}` is wrong on purpose, as its file declares: it {declared}.\n"
    if all(plan.is_offline(name) for name in plan.teachers):
        return
    prompts = ((f"`{each.version}`", each.mode, f"`{each.digest[:12]}`") for each in plan.prompts.values())
    yield from _table(("prompt", "mode", "sha256"), prompts)
    yield f"First attempts are asked with `{plan.prompt.version}`. gallery.html has the prompts in full.\n"
    if any(prompt.own for prompt in plan.prompts.values()):
        yield "A name with @ is of words that whoever built the rows wrote in the place of the builder's own.\n"
    if "contents" in manifest:
        told = manifest["contents"]
        yield f"What to observe was read from a file of {told['entries']:,} entries, sha256 `{told['digest']}`, not asked.\n"


def _made(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield _fenced("python -m cot_builder build --config run.yaml\n", "")
    yield "with `run.yaml` holding the `cot:` block above and\n"
    yield _fenced(_yaml(_without(manifest["config"], "cot")), "yaml")
    yield "The same replies give the same bytes; the journal beside the rows holds every reply.\n"
    if "data_digest" in manifest:
        yield f"sha256 of train.parquet: `{manifest['data_digest']}`\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    cells = [[_inline(str(cell)) for cell in row] for row in rows]
    return [table(header, cells, ())] if cells else []


def _inline(text: str) -> str:
    """Text that breaks out of neither its line nor a table's cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _yaml(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text}```\n"


def _of(row: Mapping[str, Any]) -> str:
    origin = ", ".join(filter(None, (row.get("teacher"), row.get("mode"))))
    return _inline(f"{row['id']} ({row['label']}), {origin}")


def _example(title: str, text: str) -> str:
    shown = text if len(text) <= 1000 else f"{text[:1000]} … ({len(text)} characters)"
    return f"{title}\n\n" + "\n".join(f"    {line}" for line in shown.splitlines() or [""]) + "\n"
