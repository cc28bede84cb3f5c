"""A small image set judged on every picture: one run per fold, trained on the others, beside a linear probe of its encoder.

    python -m benchmarks.folds oasis_parts task.path=DATA [--folds 5] [--seeds 0 1 2] [--into PAGE] [--table-only]

DATA is in EmoSet's layout. Its rows, of all its splits, are dealt into folds with as many of each label (scikit-learn, the same
whatever the seed); a run per fold and seed, `<its name>-fold<k>-seed<seed>`, judges the fold and goes on where it stopped. The
answers of the folds are put together, so that a stage has one per picture. The probe is a logistic regression on the mean
features of the encoder that the student is composed with, fitted to the same rows: what they tell without a language model.

Tables take the place of what stands between the marks of `<its name>-folds` on the page of --into.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.probe import Features, answer_by_probe, encoder_features, probe_table
from benchmarks.seeds import check_marks, make_parser, publish, run_over_seeds
from benchmarks.stages_over_seeds import table as stages_table
from pipeline import command_line
from pipeline.checks.splits import selections
from pipeline.config.loader import load
from pipeline.data.image_sets import data_root
from pipeline.data.images import paths_inside
from pipeline.data.load import load_task
from pipeline.data.splits import parse_split
from pipeline.errors import UserError
from pipeline.files import write_atomic
from pipeline.metrics import classification
from pipeline.metrics.paired_tests import Prediction
from pipeline.reports.entries import Entry
from pipeline.run_dir import BASE, RunDir
from pipeline.scoring.labels import LabelSet
from pipeline.tasks.emoset import SPLITS, id_of, is_row, read_list

JUDGED, TRAINED = "val", "train"


def write_folds(root: Path, folder: Path, count: int) -> list[Path]:
    """Write a set in EmoSet's layout once per fold, the fold being its split `val` and all other rows `train`.

    Args:
        root: the set.
        folder: where the folds go, as `fold0`, `fold1`, …. Pictures and annotations are copied into the first as they are now,
            whatever lies there from before, and linked from it into the others where the disk can.
        count: how many; at least 2.

    Raises:
        UserError: when the set's lists cannot be dealt: entries that are no rows, rows that share an id or a picture, labels with
            fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    rows = _dealable(root, count)
    inside = paths_inside(root)
    found = {path: inside(path) for path in dict.fromkeys(path for row in rows for path in row[-2:])}
    made: list[Path] = []
    dealt = StratifiedKFold(count, shuffle=True, random_state=0).split(rows, [row[0] for row in rows])
    for number, (trained, judged) in enumerate(dealt):
        fold = folder / f"fold{number}"
        for path, source in found.items():
            # One that is not there, or not in the set, is counted by the task.
            if source is not None and source.is_file():
                # The first fold lies on the same disk.
                _place(made[0] / path if made else source, fold / path, _link if made else shutil.copy2)
        if (root / "info.json").is_file():
            write_atomic(fold / "info.json", (root / "info.json").read_text())
        for split, places in ((TRAINED, trained), (JUDGED, judged)):
            write_atomic(fold / f"{split}.json", json.dumps([rows[place] for place in places]))
        made.append(fold)
    return made


def _dealable(root: Path, count: int) -> list[list[str]]:
    """The rows of all lists of a set."""
    listed = [
        (f"{split}.json[{number}]", row)
        for split in SPLITS
        if (root / f"{split}.json").is_file()
        for number, row in enumerate(read_list(root, split))
    ]
    if not listed:
        raise UserError(
            f"task.path: {root} has no rows in train.json, val.json or test.json; folds need EmoSet's layout"
        )
    problems = []
    if strange := [place for place, row in listed if not is_row(row)]:
        problems.append(
            f"task.path: {root}: {len(strange)} entries are not [emotion, (image_id), image path, annotation path] (first: "
            f"{strange[0]}), so they are in no fold; mend them or take them out"
        )
    listed = [(place, row) for place, row in listed if is_row(row)]
    seen: dict[tuple[str, str], str] = {}
    twice = []
    for place, row in listed:
        keys = [("the id", id_of(row)), ("the picture", posixpath.normpath(row[-2]))]
        twice += [f"{place} has {' '.join(key)} of {seen[key]}" for key in keys if key in seen][:1]
        seen |= dict.fromkeys(keys, place)
    if twice:
        problems.append(
            f"task.path: {root}: {len(twice)} rows are in its lists already (first: {twice[0]}), and one that is trained on "
            "may not be judged; leave one of each, and name different pictures apart"
        )
    few = sorted(f"{label} ({n})" for label, n in Counter(row[0] for _, row in listed).items() if n < count)
    if few:
        problems.append(f"--folds: {count} folds need as many rows of every label; fewer have {', '.join(few)}")
    if problems:
        raise UserError(problems)
    return [row for _, row in listed]


def _place(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> None:
    """Have a file in another place too, as it is now; a copy that was interrupted is none."""
    if target.is_file() and _stamp(target) == _stamp(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    copy(source, partial)
    partial.replace(target)


def _stamp(file: Path) -> tuple[int, int]:
    """Size and second of change, which a copy has too on any disk."""
    found = file.stat()
    return found.st_size, int(found.st_mtime)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def check_judged(fold: Path, run: Mapping[str, Entry]) -> None:
    """Check that a run judged rows of a fold's list and no others.

    Raises:
        UserError: when it did not, as with another --folds or another set than it was made with.
    """
    listed = {id_of(row) for row in read_list(fold, JUDGED)}
    for phase, entry in run.items():
        if strange := sorted({row["id"] for row in entry.predictions} - listed):
            raise UserError(
                f"{fold.name}: {phase} judged {len(strange)} rows that are not in {fold / JUDGED}.json (first: "
                f"{strange[0]}); give the --folds and the set that the runs were made with, or clear the runs"
            )


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


def probe(folds: Sequence[Sequence[Prediction]], features: Features) -> list[dict[str, Any]]:
    """Return what a linear probe answers to every row of the folds, each fitted to the rows of the others.

    Args:
        folds: a student's answers to each fold, of which rows and gold answers are taken.
        features: of each row, by its id.
    """
    answers = []
    for number, fold in enumerate(folds):
        known = {row["id"]: row["gold"] for place, rows in enumerate(folds) if place != number for row in rows}
        answers += answer_by_probe(features, known, fold)
    return answers


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
    problems += [
        f"{key}: {spec!r} is of the fold, which is judged by what has not seen it; name a slice of {TRAINED!r}"
        for key, spec in selections(config).items()
        if key != "evaluation.split" and parse_split(spec)[0] == JUDGED
    ]
    if problems:
        raise UserError(problems)
    mark = f"{config.name}-folds"
    check_marks(arguments.into, mark)
    root = data_root(config.task, "a folder in EmoSet's layout, which folds are dealt from")
    folds = write_folds(root, arguments.output_dir / mark, arguments.folds)
    # A run per fold and seed; those of a seed are put together.
    by_fold: list[list[dict[str, Entry]]] = []
    for fold in folds:
        own = [*arguments.overrides, f"task.path={fold}", f"name={config.name}-{fold.name}"]
        try:
            by_fold.append(run_over_seeds(arguments.config, arguments, own))
            for run in by_fold[-1]:
                check_judged(fold, run)
        except UserError as error:
            # The other folds need not wait until it is mended.
            problems += error.problems
    if problems:
        raise UserError(problems)
    first = RunDir(arguments.output_dir, f"{config.name}-{folds[0].name}-seed{arguments.seeds[0]}")
    labels = load_task(load(arguments.config, [*arguments.overrides, f"task.path={folds[0]}"]).task, first.cache).labels
    runs = [pool([fold[place] for fold in by_fold], labels) for place in range(len(arguments.seeds))]
    judged = [_judged(fold[0]) for fold in by_fold]
    pictures = {row["id"]: Path(row["image"]) for rows in judged for row in rows}
    probed = probe(judged, encoder_features(config, first.final(BASE), pictures))
    listed = sum(len(read_list(fold, JUDGED)) for fold in folds)
    without = f" of {listed}, the others could not be used" if len(probed) < listed else ""
    told = f"{without}, each judged by what was trained without its fold"
    written = f"{stages_table(config, arguments.seeds, runs)}\n{probe_table(config, runs, probed, told)}"
    publish(written, arguments.into, mark)
    return 0


def _judged(run: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The greedy answers of a run's last stage: a row per picture."""
    return list(run.values())[-1].greedy


if __name__ == "__main__":
    sys.exit(command_line.status(main))
