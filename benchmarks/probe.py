"""A linear probe of the encoder that a student is composed with: what its features tell without a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.seeds import interval, joined, known_p, told_per_seed
from pipeline.config.schema import RunConfig
from pipeline.data.images import open_rgb
from pipeline.metrics.intervals import rate
from pipeline.metrics.paired_tests import Prediction, paired, right
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE
from pipeline.runs.phases import trained_phases

Features = Mapping[str, Sequence[float]]
"""Of a picture, by its row's id."""


def encoder_features(config: RunConfig, base: Path, pictures: Mapping[str, Path]) -> dict[str, list[float]]:
    """Return the mean over all tokens of what the projector reads of each picture.

    Args:
        config: of a run whose model is composed.
        base: its composed folder, whose processor prepares pictures as the student's are.
        pictures: by the ids of their rows.
    """
    from pipeline.system.library_patches import prepare_libraries

    prepare_libraries()
    import torch
    from transformers import AutoProcessor

    from stages.models.compose.source import find_part
    from stages.models.compose.vision import features, load_tower, measure

    compose = config.model.compose
    assert compose is not None
    tower = load_tower(compose.vision, find_part(compose.vision, "model.compose.vision"))
    reading = measure(tower, compose.image_size, compose.layer)
    prepare = AutoProcessor.from_pretrained(base).image_processor
    found = {}
    for name, picture in pictures.items():
        with torch.inference_mode():
            pixels = prepare(open_rgb(picture), return_tensors="pt")["pixel_values"]
            found[name] = features(tower.model, reading, pixels)[0].mean(0).tolist()
    return found


def answer_by_probe(features: Features, known: Mapping[str, str], asked: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return what a logistic regression answers to rows.

    Args:
        features: of all rows.
        known: id: gold answer of the rows it is fitted to. The strength of its penalty is chosen on them, by cross-validation.
        asked: a student's answers, of which rows and gold answers are taken.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    fitted = GridSearchCV(line, {"logisticregression__C": [10.0**power for power in range(-4, 2)]}, cv=3)
    fitted.fit([features[name] for name in known], list(known.values()))
    labels = map(str, fitted.predict([features[row["id"]] for row in asked]))
    return [{**row, "label": label, "correct": label == row["gold"]} for row, label in zip(asked, labels, strict=True)]


def probe_table(config: RunConfig, runs: Sequence[Mapping[str, Entry]], probed: Sequence[Prediction], told: str) -> str:
    """Return the phases beside the probe, and beside giving every picture the commonest label, as markdown.

    Args:
        config: of the runs.
        runs: the phases of each seed, by name.
        probed: answers of the probe.
        told: of the pictures, how they were judged.
    """
    golds = Counter(str(row["gold"]) for row in probed)
    n = len(probed)
    lines = [
        ["commonest label", f"{100 * max(golds.values()) / n:.1f}", "", ""],
        ["linear probe", str(rate(sum(map(right, probed)), n)), "", ""],
    ]
    for phase in trained_phases(config):
        if phase != BASE:
            tests = [paired(run[phase].predictions, probed) for run in runs]
            gains = [100 * one.gain.share for one in tests]
            per_seed = told_per_seed(gains, [known_p(one) for one in tests])
            accuracies = [scores.accuracy for run in runs if (scores := run[phase].scores)]
            lines.append([phase, str(joined(accuracies)), interval(gains), per_seed])
    head = ["judge", "accuracy, %", "against the probe, points", "per seed (p)"]
    return f"{markdown_table(head, lines)}\n{n} pictures{told}; p of McNemar's exact test, not corrected.\n"
