"""A small image set judged on every picture: one run per fold, trained on the others, beside a linear probe of its encoder.

    python -m benchmarks.folds oasis_parts task.path=DATA [--folds 5] [--seeds 0 1 2] [--into docs/results.md] [--table-only]

DATA is in EmoSet's layout. Its rows, of all its splits, are dealt into folds with as many of each label (scikit-learn, the same
whatever the seed); a run per fold and seed, `<its name>-fold<k>-seed<seed>`, judges the fold and goes on where it stopped. The
answers of the folds are put together, so that a stage has one per picture. The probe is a logistic regression on the mean
features of the encoder that the student is composed with, fitted to the same rows: what they tell without a language model.

Tables take the place of what stands between the marks of `<its name>-folds` on the page of --into.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.seeds import (
    check_marks,
    interval,
    joined,
    known_p,
    make_parser,
    run_over_seeds,
    told_per_seed,
    write_between_marks,
)
from benchmarks.stages_over_seeds import table as stages_table
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.files import write_atomic
from pipeline.metrics import classification
from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.paired_tests import Prediction, paired, right
from pipeline.metrics.scores import Rate
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import trained_phases
from pipeline.scoring.labels import LabelSet
from pipeline.tasks.emoset import SPLITS

JUDGED, TRAINED = "val", "train"


def write_folds(root: Path, folder: Path, count: int) -> list[Path]:
    """Write a set in EmoSet's layout once per fold, the fold being its split `val` and all other rows `train`.

    Args:
        root: the set.
        folder: where the folds go, as `fold0`, `fold1`, …; pictures and annotations are linked where the disk can, else copied.
        count: how many; at least 2.

    Raises:
        UserError: when a label has fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    lists = [root / f"{split}.json" for split in SPLITS if (root / f"{split}.json").is_file()]
    rows = [row for file in lists for row in json.loads(file.read_text())]
    if not rows:
        raise UserError(
            f"task.path: {root} has no rows in train.json, val.json or test.json; folds need EmoSet's layout"
        )
    few = sorted(f"{label} ({n})" for label, n in Counter(row[0] for row in rows).items() if n < count)
    if few:
        raise UserError(f"--folds: {count} folds need as many rows of every label; fewer have {', '.join(few)}")
    made: list[Path] = []
    dealt = StratifiedKFold(count, shuffle=True, random_state=0).split(rows, [row[0] for row in rows])
    for number, (trained, judged) in enumerate(dealt):
        fold = folder / f"fold{number}"
        for name in ("image", "annotation"):
            # Of the first fold, which lies on the same disk.
            source = made[0] if made else root
            if (source / name).is_dir() and not (fold / name).is_dir():
                shutil.copytree(source / name, fold / name, copy_function=_link if made else shutil.copy2)
        write_atomic(fold / "info.json", (root / "info.json").read_text())
        for split, places in ((TRAINED, trained), (JUDGED, judged)):
            write_atomic(fold / f"{split}.json", json.dumps([rows[place] for place in places]))
        made.append(fold)
    return made


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def pool(runs: Sequence[Mapping[str, Entry]], labels: LabelSet | None) -> dict[str, Entry]:
    """Return the phases of one run per fold as those of one run, which judged every picture.

    Raises:
        UserError: when two folds judged one row.
    """
    pooled = {}
    for phase in runs[0]:
        rows = [row for run in runs for row in run[phase].predictions]
        keys = Counter((row["id"], row["decoding"], row.get("sample"), row.get("style")) for row in rows)
        if twice := [key[0] for key, times in keys.items() if times > 1]:
            raise UserError(
                f"{phase}: {len(twice)} rows were judged in two folds (first: {twice[0]}); clear the runs and begin anew"
            )
        pooled[phase] = Entry(phase, phase, tuple(rows), classification.score(rows, labels))
    return pooled


def probe(folds: Sequence[Sequence[Prediction]], features: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return what a linear probe answers to every row of the folds, each fitted to the rows of the others.

    Args:
        folds: a student's answers to each fold, of which rows and gold answers are taken.
        features: of each row, by its id.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    answers = []
    for number, fold in enumerate(folds):
        others = [row for place, rows in enumerate(folds) if place != number for row in rows]
        # The strength of its penalty is chosen on the rows it is fitted to.
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        fitted = GridSearchCV(line, {"logisticregression__C": [10.0**power for power in range(-4, 2)]}, cv=3)
        fitted.fit([features[row["id"]] for row in others], [row["gold"] for row in others])
        for row, label in zip(fold, fitted.predict([features[row["id"]] for row in fold]), strict=True):
            answers.append({**row, "label": str(label), "correct": str(label) == row["gold"]})
    return answers


def encoder_features(config: RunConfig, base: Path, rows: Iterable[Prediction]) -> dict[str, list[float]]:
    """Return the mean over all tokens of what the projector reads of each row's picture, by the row's id.

    Args:
        config: of a run whose model is composed.
        base: its composed folder, whose processor prepares pictures as the student's are.
        rows: answers to rows of one picture each.
    """
    from pipeline.system.library_patches import prepare_libraries

    prepare_libraries()
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    from stages.models.compose.source import find_part
    from stages.models.compose.vision import features, load_tower, measure

    compose = config.model.compose
    assert compose is not None
    tower = load_tower(compose.vision, find_part(compose.vision, "model.compose.vision"))
    reading = measure(tower, compose.image_size, compose.layer)
    prepare = AutoProcessor.from_pretrained(base).image_processor
    found = {}
    for row in rows:
        with Image.open(row["image"]) as picture, torch.inference_mode():
            pixels = prepare(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
            found[row["id"]] = features(tower.model, reading, pixels)[0].mean(0).tolist()
    return found


def probe_table(
    config: RunConfig, seeds: Sequence[int], runs: Sequence[Mapping[str, Entry]], probed: Sequence[Prediction]
) -> str:
    """Return the phases beside the probe, and beside giving every picture the commonest label, as markdown."""
    golds = Counter(str(row["gold"]) for row in probed)
    n = len(probed)
    lines = [
        ["commonest label", f"{100 * max(golds.values()) / n:.1f}", "", ""],
        ["linear probe", str(_rate(probed)), "", ""],
    ]
    for phase in trained_phases(config):
        if phase != BASE:
            tests = [paired(run[phase].predictions, probed) for run in runs]
            gains = [100 * one.gain.share for one in tests]
            told = told_per_seed(gains, [known_p(one) for one in tests])
            lines.append([phase, str(joined([_rate(run[phase].greedy) for run in runs])), interval(gains), told])
    head = ["judge", "accuracy, %", "against the probe, points", "per seed (p)"]
    note = f"{n} pictures, each judged by what was trained without its fold; p of McNemar's exact test, not corrected."
    return f"{markdown_table(head, lines)}\n{note}\n"


def _rate(rows: Sequence[Prediction]) -> Rate:
    return clustered_rate([right(row) for row in rows], [str(row["id"]) for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a configuration once per fold and seed, then write the tables."""
    parser = make_parser("folds", __doc__ or "", [0, 1, 2])
    parser.add_argument("config", help="of a composed student (model.compose) on a set in EmoSet's layout")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings of every run")
    parser.add_argument("--folds", type=int, default=5)
    arguments = command_line.parse(parser, argv)
    config = load(arguments.config, arguments.overrides)
    problems = []
    if arguments.folds < 2:
        problems.append(f"--folds: {arguments.folds} leaves nothing to train on; name 2 or more")
    if config.task.name != "emoset":
        problems.append(f"task.name: {config.task.name!r} is not in EmoSet's layout, which folds are dealt from")
    if config.model.compose is None:
        problems.append(
            "model.compose is not set, so there is no encoder to probe; compare with configs/oasis_parts.yaml"
        )
    if config.evaluation.split != JUDGED:
        problems.append(f"evaluation.split: {config.evaluation.split!r} must be {JUDGED!r}, which is the fold")
    if problems:
        raise UserError(problems)
    mark = f"{config.name}-folds"
    check_marks(arguments.into, mark)
    folds = write_folds(Path(config.task.path or ""), arguments.output_dir / mark, arguments.folds)
    # A run per fold and seed; those of a seed are put together.
    by_fold = [
        run_over_seeds(
            arguments.config, arguments, [*arguments.overrides, f"task.path={fold}", f"name={config.name}-{fold.name}"]
        )
        for fold in folds
    ]
    first = RunDir(arguments.output_dir, f"{config.name}-{folds[0].name}-seed{arguments.seeds[0]}")
    labels = load_task(load(arguments.config, [*arguments.overrides, f"task.path={folds[0]}"]).task, first.cache).labels
    runs = [pool([fold[place] for fold in by_fold], labels) for place in range(len(arguments.seeds))]
    judged = [_judged(fold[0]) for fold in by_fold]
    features = encoder_features(config, first.final(BASE), [row for rows in judged for row in rows])
    probed = probe(judged, features)
    written = f"{stages_table(config, arguments.seeds, runs)}\n{probe_table(config, arguments.seeds, runs, probed)}"
    print(written)
    write_between_marks(arguments.into, mark, written)
    return 0


def _judged(run: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The greedy answers of a run's last stage: a row per picture."""
    return list(run.values())[-1].greedy


if __name__ == "__main__":
    sys.exit(command_line.status(main))
