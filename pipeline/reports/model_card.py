"""The model card of a trained stage, filled from its record and its report: markdown with the metadata the Hub reads.

The front matter's ``model-index`` holds the evaluation's results (the layout of Papers with Code, which
`huggingface_hub.ModelCard` reads); what a run cannot know, such as a licence, is left for a person and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.formatting import percent
from pipeline.metrics.scores import Rate, Scores
from pipeline.reports.class_tables import per_class
from pipeline.reports.entries import Entry
from pipeline.reports.table import cell, markdown_rows, table


def model_card(entries: Sequence[Entry]) -> str | None:
    """Return the card of the last evaluated stage as markdown; None where nothing trained has been evaluated.

    Args:
        entries: of a run or a stage, in order.
    """
    trained = [one for one in entries if one.scores and one.record.get("algorithm") and not one.is_baseline]
    if not trained:
        return None
    entry = trained[-1]
    record, scores = entry.record, entry.scores
    assert scores is not None
    inputs = record.get("inputs") or {}
    task = str((inputs.get("task") or {}).get("name") or "unknown")
    split = entry.split or "unknown"
    lineage = _lineage(entry, entries)
    parts = [
        f"---\n{_front(entry, scores, task, split)}\n---\n",
        f"# {cell(entry.name)}\n",
        f"A small vision-language model trained with CLGRPO (arXiv 2506.18048): {' → '.join(map(cell, lineage))}.\n",
        "## Use\n",
        "It answers one question about one picture"
        + (
            " as `<think>…</think>` `<answer>…</answer>`"
            if scores.style == "think"
            else " with the bare label and nothing else"
        )
        + ". Ask it exactly as below; it was trained on no other prompt.\n",
        f"```text\n{_prompt(entry)}\n```\n",
        "## Evaluation\n",
        f"{scores.n} rows of `{cell(split)}` of task `{cell(task)}`, greedy decoding, 95 % intervals. An answer that "
        f"cannot be read is wrong ({scores.unparsable.n} rows).\n",
        table(["metric", "value, %"], [[name, str(rate)] for name, _, rate in _metrics(scores)]),
        *([markdown_rows(per_class(entry.name, scores.classes))] if scores.classes else []),
        "## Training\n",
        table(["setting", "value"], _settings(record)),
        "## Limits\n",
        "- The intervals cover the rows drawn for evaluation, not the luck of the seed trained with.\n"
        "- Chains of thought were verified by their answer, not by a person; a right answer may stand below a wrong reason.\n"
        f"{_agreement(scores)}"
        "- The epsilons of ClipLow are our reading of the paper, which publishes none.\n",
        "## Licence\n",
        "That of the base model and of the data; a run does not know it. Add `license:` above before you publish.\n",
    ]
    return "\n".join(parts)


def _front(entry: Entry, scores: Scores, task: str, split: str) -> str:
    """YAML that the Hub reads, with the results as ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    model = ((entry.record.get("inputs") or {}).get("model") or {}).get("name_or_path")
    kind = "image-text-to-text"
    results = [
        EvalResult(kind, task, task, metric, round(100 * rate.value, 2), task, dataset_split=split, metric_name=name)
        for name, metric, rate in _metrics(scores)
        if rate.value is not None
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=kind,
        tags=["clgrpo", str(entry.record["algorithm"])],
        base_model=model if isinstance(model, str) and not model.startswith(("/", ".")) else None,
        model_name=entry.name,
        eval_results=results,
    ).to_yaml()


def _metrics(scores: Scores) -> list[tuple[str, str, Rate]]:
    """(name, the Hub's type, rate) of what a card states."""
    rates = (
        ("Accuracy", "accuracy", scores.accuracy),
        ("Macro-F1", "f1", scores.macro_f1),
        ("Macro recall (balanced accuracy)", "recall", scores.classes and scores.classes.balanced),
        ("Well-formed answers", "format", scores.format),
    )
    return [(name, kind, rate) for name, kind, rate in rates if rate]


def _settings(record: Mapping[str, Any]) -> list[list[str]]:
    trainer, versions = record.get("trainer") or {}, record.get("versions") or {}
    named = {
        "algorithm": record.get("algorithm"),
        "started from": record.get("init_from"),
        "steps": record.get("steps"),
        "rows": record.get("rows"),
        "rewards": ", ".join(record.get("reward_funcs") or ()) or None,
        "learning rate": trainer.get("learning_rate"),
        "epsilon (low)": (record.get("clip") or {}).get("epsilon"),
        "epsilon_high": (record.get("clip") or {}).get("epsilon_high"),
        "seed": record.get("seed"),
        "commit": record.get("commit"),
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("torch", "transformers", "trl") if name in versions
        ),
        "sha256 of the weights": record.get("weights"),
    }
    return [[name, cell(str(value))] for name, value in named.items() if value not in (None, "")]


def _lineage(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    """The phases from the first to this one, as far as the entries know them."""
    by_phase = {other.phase: other for other in entries}
    line = [entry.phase]
    while (parent := str(by_phase[line[0]].record.get("init_from") or "")) and parent not in line:
        line.insert(0, parent)
        if parent not in by_phase:
            break
    return line


def _prompt(entry: Entry) -> str:
    """The text that was asked, in which no fence can end the block."""
    return str(entry.greedy[0].get("prompt") or "").replace("```", "'''")


def _agreement(scores: Scores) -> str:
    if not scores.agreement:
        return ""
    return f"- In {percent(scores.agreement.value)} % of the parsed rows the reasoning ends on the label that is answered.\n"
