"""The table of a run's stages over several seeds says what the runs did."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import seeds, stages_over_seeds
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.metrics.classification import score
from pipeline.reports.entries import Entry
from pipeline.run_dir import RunDir
from pipeline.runs.phases import trained_phases
from pipeline.scoring.labels import LabelSet

CONFIG = load("demo")
LABELS = LabelSet(("awe", "fear"))


def entry(name: str, right: int, walks: int = 8) -> Entry:
    """100 rows, the first `right` of them right; row n has a walk of n % walks + 1."""
    rows = tuple(
        {
            "id": str(number),
            "decoding": "greedy",
            "sample": 0,
            "label": "awe" if number < right else "fear",
            "gold": "awe",
            "correct": number < right,
            "style": "think",
            "completion": "",
            "groups": {"label": "awe", "walk": str(number % walks + 1)},
        }
        for number in range(100)
    )
    return Entry(name, name, rows, score(rows, LABELS))


def run_of(stage3: int) -> dict[str, Entry]:
    return {name: entry(name, stage3 if name.startswith("stage3") else 50) for name in trained_phases(CONFIG)}


def lines_of(table: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {cells[0]: cells for cells in rows}


def test_a_stage_is_compared_with_its_parent_over_the_seeds_and_on_each_ones_rows() -> None:
    lines = lines_of(stages_over_seeds.table(CONFIG, [0, 1], [run_of(60), run_of(70)]))
    head, stage3 = lines["greedy accuracy, %"], lines["stage3_grpo_accuracy"]
    cell = dict(zip(head, stage3, strict=True))
    assert cell["seed 0"] == "60.0 [50.2, 69.1]"
    assert cell["mean ± sd"] == "65.0 ± 7.1"
    # +10 and +20 points: mean 15, half width 12.706 * 7.0711 / sqrt(2) = 63.5.
    assert cell["against its parent, points [95 % over seeds]"] == "+15.0 [-48.5, +78.5]"
    # Ten rows only stage 3 has right: p = 2 / 2**10.
    assert cell["per seed (p)"] == "+10.0 (.002), +20.0 (< .001)"


def test_what_starts_from_the_untrained_model_is_compared_with_nothing() -> None:
    lines = lines_of(stages_over_seeds.table(CONFIG, [0], [run_of(60)]))
    cell = dict(zip(lines["greedy accuracy, %"], lines["stage1_sft"], strict=True))
    assert cell["against its parent, points [95 % over seeds]"] == ""


def test_many_values_of_a_group_are_two_columns_and_few_are_one_each() -> None:
    # Of 50 right rows in order, walks 1 and 2 have 7 of 13, 3 and 4 have 6 of 13 and 6 of 12, and so on.
    rows = entry("stage1_sft", 50).predictions
    by_hand = [row["correct"] for row in rows if int(row["groups"]["walk"]) <= 4]
    halves = stages_over_seeds.group_figures([entry("stage1_sft", 50)])
    assert list(halves) == ["walk 1 to 4", "walk 5 to 8"]
    assert halves["walk 1 to 4"](entry("stage1_sft", 50)) == 100 * sum(by_hand) / len(by_hand)
    few = stages_over_seeds.group_figures([entry("stage1_sft", 50, walks=2)])
    assert list(few) == ["walk 1", "walk 2"]
    # The odd walk numbers are rows 0, 2, 4, …: 25 of 50 are below 50.
    assert few["walk 1"](entry("stage1_sft", 50, walks=2)) == 50.0


def test_the_figure_lies_beside_the_page_and_is_the_same_twice(tmp_path: Path) -> None:
    runs = [run_of(60), run_of(70)]
    page, figure = tmp_path / "docs" / "page.md", tmp_path / "docs" / "figures" / "demo.png"
    seeds.publish("a table\n", page, "demo", seeds.draw_over_seeds(runs, {"stage3_grpo_accuracy": "stage 3"}))
    assert page.read_text() == (
        "<!-- table of demo -->\n\na table\n\n![accuracy, %: mean over 2 seeds (95 % interval, Student's t): stage 3]"
        "(figures/demo.png)\n\n<!-- end of demo -->\n"
    )
    drawn = figure.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    seeds.publish("a table\n", page, "demo", seeds.draw_over_seeds(runs, {"stage3_grpo_accuracy": "stage 3"}))
    assert figure.read_bytes() == drawn


def test_without_a_page_a_table_is_printed_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds.check_marks(None, "demo")
    seeds.publish("a table", None, "demo", seeds.draw_over_seeds([run_of(60)], {"stage3_grpo_accuracy": "stage 3"}))
    assert capsys.readouterr().out == "a table\n"
    assert not list(tmp_path.iterdir())


def test_words_change_every_run_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table of demo -->\n<!-- end of demo -->\n")
    asked: list[list[str]] = []

    def train(grid: str, settings: list[str]) -> None:
        asked.append(settings)

    monkeypatch.setattr(seeds, "train", train)
    monkeypatch.setattr(seeds, "read_one", lambda grid, settings: run_of(60))
    words = ["cot.from=runs/rows", "--into", str(page), "--output-dir", str(tmp_path), "--seeds", "3", "4"]
    assert stages_over_seeds.main(words) == 0
    own = [["name=demo-seed3", "seed=3"], ["name=demo-seed4", "seed=4"]]
    assert asked == [["cot.from=runs/rows", *one, f"output_dir={tmp_path}"] for one in own]
    assert "| stage3_grpo_accuracy | 60.0 [50.2, 69.1] | 60.0 [50.2, 69.1] |" in page.read_text()
    assert "\nEvery run was made with `cot.from=runs/rows`.\n" in page.read_text()


def test_composed_students_stand_beside_a_probe_fitted_to_what_their_first_stage_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["task.name=scenes", "task.options={seed: 0, train: 48, val: 16, test: 8}", "stages.0.split=train[:40]"]
    config, run = load("oasis_parts", words), RunDir(tmp_path, "one")
    rows = load_task(config.task, run.cache).select("val").rows
    labels = sorted({str(row.answer) for row in rows})
    answers = tuple(
        {"id": row.id, "decoding": "greedy", "sample": 0, "label": labels[0], "gold": row.answer, "style": "think"}
        | {"correct": row.answer == labels[0], "completion": "", "groups": {}, "image": str(row.images[0])}
        for row in rows
    )
    phases = {
        name: Entry(name, name, answers, score(answers, LabelSet(tuple(labels)))) for name in trained_phases(config)
    }
    read: dict[str, Path] = {}

    def features(config: RunConfig, base: Path, pictures: dict[str, Path]) -> dict[str, list[float]]:
        read.update(pictures)
        known = {
            row.id: row for split in ("train", "val") for row in load_task(config.task, run.cache).select(split).rows
        }
        return {name: [float(known[name].answer == label) for label in labels] for name in pictures}

    monkeypatch.setattr(stages_over_seeds, "encoder_features", features)
    told = stages_over_seeds.beside_probe(config, run, [phases])
    assert told is not None
    assert lines_of(told)["linear probe"][1].startswith("100.0")
    assert "16 pictures; the probe was fitted to 40 of train[:40]" in told
    assert len(read) == 56
    assert stages_over_seeds.beside_probe(load("demo_scenes"), run, [phases]) is None
    blind = tuple({**one, "image": None} for one in answers)
    unseen = {name: Entry(name, name, blind, entry.scores) for name, entry in phases.items()}
    assert stages_over_seeds.beside_probe(config, run, [unseen]) is None
