"""Every picture of a small set is judged once, by a run that was trained without it, beside a probe that was too."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks import folds, seeds
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.metrics.classification import score
from pipeline.reports.entries import Entry
from pipeline.runs.phases import trained_phases
from pipeline.scoring.labels import LabelSet

LABELS = LabelSet(("awe", "fear"))


@pytest.fixture
def oasis(tmp_path: Path) -> Path:
    """Twelve pictures of awe and six of fear, in two splits, in EmoSet's layout."""
    root = tmp_path / "oasis"
    rows = []
    for number in range(18):
        label = "awe" if number < 12 else "fear"
        name = f"{label}_{number}"
        for kind in ("image", "annotation"):
            (root / kind / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(root / "image" / label / f"{name}.jpg")
        (root / "annotation" / label / f"{name}.json").write_text("{}")
        rows.append([label, name, f"image/{label}/{name}.jpg", f"annotation/{label}/{name}.json"])
    (root / "info.json").write_text(json.dumps({"emotion": {"label2idx": {"awe": 0, "fear": 1}}}))
    (root / "train.json").write_text(json.dumps(rows[::2]))
    (root / "val.json").write_text(json.dumps(rows[1::2]))
    return root


def rows_of(fold: Path, split: str) -> list[list[str]]:
    rows: list[list[str]] = json.loads((fold / f"{split}.json").read_text())
    return rows


def test_every_row_lies_in_one_fold_with_as_many_of_each_label(oasis: Path, tmp_path: Path) -> None:
    made = folds.write_folds(oasis, tmp_path / "folds", 3)
    judged = [[row[1] for row in rows_of(fold, "val")] for fold in made]
    assert sorted(name for fold in judged for name in fold) == sorted(
        row[1] for split in ("train", "val") for row in rows_of(oasis, split)
    )
    for fold, names in zip(made, judged, strict=True):
        assert Counter(name.partition("_")[0] for name in names) == {"awe": 4, "fear": 2}
        trained = {row[1] for row in rows_of(fold, "train")}
        assert len(trained) == 12
        assert not trained & set(names)
        assert all((fold / row[2]).is_file() and (fold / row[3]).is_file() for row in rows_of(fold, "val"))
    # The same again, so that a run that was stopped goes on with its own rows.
    before = [(fold / "val.json").read_bytes() for fold in made]
    assert [(fold / "val.json").read_bytes() for fold in folds.write_folds(oasis, tmp_path / "folds", 3)] == before


def test_more_folds_than_a_label_has_rows_are_refused(oasis: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"7 folds need as many rows of every label; fewer have fear \(6\)"):
        folds.write_folds(oasis, tmp_path / "folds", 7)


def test_a_copy_that_was_interrupted_or_is_of_other_pictures_is_made_whole(oasis: Path, tmp_path: Path) -> None:
    made = folds.write_folds(oasis, tmp_path / "folds", 3)
    gone, half, changed = (f"image/awe/awe_{number}.jpg" for number in range(3))
    (made[0] / gone).unlink()
    (made[0] / half).unlink()
    (made[0] / half).write_bytes((oasis / half).read_bytes()[:99])
    Image.new("RGB", (24, 24), "blue").save(oasis / changed)
    folds.write_folds(oasis, tmp_path / "folds", 3)
    for fold in made:
        for path in (gone, half, changed):
            assert (fold / path).read_bytes() == (oasis / path).read_bytes()
        assert not list(fold.glob("image/*/.*"))


def test_a_picture_that_would_be_trained_on_and_judged_is_refused_with_entries_that_are_no_rows(
    oasis: Path, tmp_path: Path
) -> None:
    _, val = (json.loads((oasis / f"{split}.json").read_text()) for split in ("train", "val"))
    again = ["awe", "another_name", "image/awe/../awe/awe_0.jpg", val[0][3]]
    # As published copies are, whose id is the name of the file.
    no_id = ["awe", "image/other/awe_2.jpg", val[0][3]]
    (oasis / "val.json").write_text(json.dumps([*val, again, no_id, ["awe", None, "a.jpg", "a.json"]]))
    with pytest.raises(UserError) as refused:
        folds.write_folds(oasis, tmp_path / "folds", 3)
    entries, twice = refused.value.problems
    assert "1 entries are not [emotion, (image_id), image path, annotation path] (first: val.json[11])" in entries
    assert (
        "2 rows are in its lists already (first: val.json[9] has the picture image/awe/awe_0.jpg of train.json[0])"
        in twice
    )
    assert not (tmp_path / "folds").exists()
    (oasis / "val.json").write_text("[")
    with pytest.raises(UserError, match=r"val\.json: not JSON"):
        folds.write_folds(oasis, tmp_path / "folds", 3)


def test_lists_without_image_ids_and_a_set_without_info_are_dealt(oasis: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        file = oasis / f"{split}.json"
        file.write_text(json.dumps([[row[0], *row[2:]] for row in json.loads(file.read_text())]))
    (oasis / "info.json").unlink()
    made = folds.write_folds(oasis, tmp_path / "folds", 3)
    assert sum(len(rows_of(fold, "val")) for fold in made) == 18
    assert not (made[0] / "info.json").exists()


def answers(names: list[str], wrong: int, fold: int = 0) -> list[dict[str, Any]]:
    """Greedy answers, the first `wrong` of them wrong."""
    return [
        {
            "id": name,
            "decoding": "greedy",
            "sample": 0,
            "style": "think",
            "gold": name.partition("_")[0],
            "label": "awe" if (name.startswith("awe")) != (place < wrong) else "fear",
            "correct": place >= wrong,
            "image": f"{name}.jpg",
            "completion": "",
        }
        for place, name in enumerate(names)
    ]


def test_folds_are_put_together_and_a_row_that_two_judged_is_refused() -> None:
    def run(names: list[str], wrong: int) -> dict[str, Entry]:
        rows = tuple(answers(names, wrong))
        return {"stage1_sft": Entry("stage1_sft", "stage1_sft", rows, score(rows, LABELS))}

    pooled = folds.pool([run(["awe_0", "fear_1"], 1), run(["awe_2", "fear_3"], 0)], LABELS)["stage1_sft"]
    assert pooled.scores is not None
    assert pooled.scores.n == 4
    assert pooled.scores.accuracy.value == 0.75
    with pytest.raises(UserError, match=r"stage1_sft: 1 rows were judged in two folds \(first: fear_1\)"):
        folds.pool([run(["awe_0", "fear_1"], 1), run(["awe_2", "fear_1"], 0)], LABELS)


def test_a_run_of_other_folds_than_those_that_are_asked_for_is_refused(oasis: Path, tmp_path: Path) -> None:
    (fold, *_) = folds.write_folds(oasis, tmp_path / "folds", 3)
    names = [row[1] for row in rows_of(fold, "val")]
    rows = tuple(answers(names, 0))
    folds.check_judged(fold, {"stage1_sft": Entry("stage1_sft", "stage1_sft", rows, score(rows, LABELS))})
    folds.write_folds(oasis, tmp_path / "folds", 6)
    with pytest.raises(UserError, match=r"fold0: stage1_sft judged \d rows that are not in .*val\.json \(first: "):
        folds.check_judged(fold, {"stage1_sft": Entry("stage1_sft", "stage1_sft", rows, score(rows, LABELS))})


def test_a_run_that_fails_keeps_no_other_seed_from_being_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def run(words: list[str], **how: Any) -> SimpleNamespace:
        asked.append(words[-3])
        return SimpleNamespace(returncode=0 if "name=oasis_parts-seed1" in words else 2)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    monkeypatch.setattr(seeds, "read_one", lambda grid, settings: {})
    arguments = seeds.make_parser("folds", "", [0, 1, 2]).parse_args(["--output-dir", str(tmp_path)])
    with pytest.raises(UserError) as refused:
        seeds.run_over_seeds("oasis_parts", arguments)
    assert asked == [f"name=oasis_parts-seed{seed}" for seed in range(3)]
    told = "its run failed (exit status 2), as told above; the same command goes on where it stopped"
    assert refused.value.problems == [f"name=oasis_parts-seed{seed}: {told}" for seed in (0, 2)]
    monkeypatch.setattr(seeds.subprocess, "run", lambda *words, **how: SimpleNamespace(returncode=130))
    with pytest.raises(KeyboardInterrupt):
        seeds.run_over_seeds("oasis_parts", arguments)


def test_a_seed_that_is_named_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        seeds.make_parser("folds", "", [0]).parse_args(["--seeds", "0", "1", "0"])
    assert "argument --seeds: 0 is named twice; name each seed once" in capsys.readouterr().err


def test_a_probe_answers_each_fold_from_the_others_alone() -> None:
    """One feature tells the label, but in the last fold it is turned round: who had seen that fold would know."""
    drawn = random.Random(0)
    names = [[f"{label}_{fold}_{number}" for label in ("awe", "fear") for number in range(20)] for fold in range(3)]
    features = {}
    for fold, members in enumerate(names):
        for name in members:
            sign = (1 if name.startswith("awe") else -1) * (-1 if fold == 2 else 1)
            features[name] = [sign + drawn.gauss(0, 0.1), drawn.gauss(0, 1)]
    found = folds.probe([answers(members, 0) for members in names], features)
    shares = [sum(row["correct"] for row in found[40 * fold : 40 * fold + 40]) / 40 for fold in range(3)]
    assert shares[2] == 0.0
    assert [row["id"] for row in found] == [name for members in names for name in members]


def test_the_whole_command_on_made_up_runs(oasis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table of oasis_parts-folds -->\n<!-- end of oasis_parts-folds -->\n")
    asked: list[list[str]] = []
    monkeypatch.setattr(seeds, "train", lambda grid, settings: asked.append(settings))

    def read_one(grid: str, settings: list[str]) -> dict[str, Entry]:
        config = load(grid, settings)
        names = [row[1] for row in rows_of(Path(str(config.task.path)), "val")]
        wrong = {"stage3_grpo_accuracy": 1}
        entries = {}
        for phase in trained_phases(config):
            rows = tuple(answers(names, wrong.get(phase, 2)))
            entries[phase] = Entry(phase, phase, rows, score(rows, LABELS))
        return entries

    monkeypatch.setattr(seeds, "read_one", read_one)
    monkeypatch.setattr(
        folds,
        "encoder_features",
        lambda config, base, pictures: {name: [float(name.startswith("awe")), 0.0] for name in pictures},
    )
    words = ["oasis_parts", f"task.path={oasis}", "--folds", "3", "--seeds", "0", "1"]
    assert folds.main([*words, "--output-dir", str(tmp_path / "runs"), "--into", str(page)]) == 0
    assert len(asked) == 6
    told = page.read_text()
    # Of three folds of six, two wrong in each, and one in each: 12 and 15 of 18.
    assert "| stage2_grpo_format | 66.7 [" in told
    assert "| stage3_grpo_accuracy | 83.3 [" in told
    assert "| commonest label | 66.7 |" in told
    assert "| linear probe | 100.0 [" in told
    assert "18 pictures" in told
    with pytest.raises(UserError) as refused:
        folds.main(["demo", "--folds", "1", "--into", str(page)])
    assert [problem.partition(":")[0].partition(" ")[0] for problem in refused.value.problems] == [
        "--folds",
        "task.name",
        "model.compose",
        "evaluation.split",
    ]


def test_rows_of_the_fold_neither_train_nor_choose_weights(tmp_path: Path) -> None:
    words = ["oasis_parts", "cot.split=val", "stages.1.validation.split=val[:9]", "stages.0.split=train[:99]"]
    with pytest.raises(UserError) as refused:
        folds.main([*words, "--into", str(tmp_path / "page.md")])
    told = "is of the fold, which is judged by what has not seen it; name a slice of 'train'"
    assert refused.value.problems == [
        f"cot.split: 'val' {told}",
        f"stages.stage1_sft.validation.split: 'val[:9]' {told}",
    ]
