"""Reports without a configuration: what is found in folders, what labels rows imply, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pipeline import __main__
from pipeline.errors import UserError
from pipeline.reports.entries import labels_of, read_folders, read_phase
from pipeline.reports.model_card import model_card
from pipeline.reports.write import write_folder_report
from pipeline.scoring.labels import LabelSet


def row(number: int, gold: str | None = "A", label: str | None = "A", **more: Any) -> dict[str, Any]:
    plain = {"id": f"r{number}", "image": "a.png", "gold": gold, "label": label, "correct": gold == label}
    asked = {"style": "direct", "decoding": "greedy", "sample": 0, "prompt": "?", "completion": str(label)}
    return {**plain, **asked, "reason": None if label else "empty", "think": None, "truncated": False, **more}


def question(number: int, **more: Any) -> dict[str, Any]:
    return row(number, question=f"what is {number}?", options=["x", "y"], groups={"task": "Count"}, cluster="", **more)


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def test_letters_of_a_multiple_choice_are_no_classes() -> None:
    assert labels_of([question(1), question(2, gold="B")]) is None


def test_a_labelled_set_gives_its_labels_by_group_or_by_having_no_question() -> None:
    asked = [question(n, gold=name, label="joy") | {"groups": {"label": name}} for n, name in enumerate(["joy", "awe"])]
    for rows in (asked, [row(1, "joy", "fear"), row(2, "awe", None)]):
        found = labels_of(rows)
        assert found is not None
        assert list(found.names) == sorted({one for r in rows for one in (r["gold"], r["label"]) if one})


def test_a_question_that_is_null_is_none() -> None:
    assert labels_of([row(1, "joy", "joy", question=None), row(2, "awe", None, question=None)]) is not None


def test_groups_whose_names_are_alike_long_or_those_of_a_column_each_have_their_table(tmp_path: Path) -> None:
    long = "\u00e9" * 200
    groups = ("a b", "a-b", "A_b", "n", "chance", long, long + "x")
    rows = [row(n, groups={name: f"{place}{n % 2}" for place, name in enumerate(groups)}) for n in range(8)]
    folder = write(tmp_path / "one", rows)
    write_folder_report([folder])
    found = [json.loads(file.read_text()) for file in (folder / "report" / "tables").glob("group_*.json")]
    assert {one["title"] for one in found} == {f"By {name}" for name in groups}
    for one in found:
        place = groups.index(one["title"].removeprefix("By "))
        assert [next(iter(line.values())) for line in one["rows"]] == [f"{place}0", f"{place}1"]
        assert [line["n"] for line in one["rows"]] == [4, 4]
    markdown = (folder / "report" / "tables" / "group_n.md").read_text()
    assert "| 30 | 4 |" in markdown


def test_too_many_answers_are_no_closed_list() -> None:
    assert labels_of([row(n, f"label {n}", None) for n in range(60)]) is not None
    assert labels_of([row(n, f"label {n}", None) for n in range(61)]) is None


def test_chance_is_of_the_options_and_an_open_question_adds_none(tmp_path: Path) -> None:
    rows = [question(1), question(2, gold="7", label=None), question(3)]
    rows[1]["options"] = []
    (entry,) = read_folders([write(tmp_path / "one", rows)])
    assert entry.scores is not None
    assert entry.scores.chance == pytest.approx(1 / 3)
    assert entry.scores.groups["task"]["Count"].n == 3
    assert entry.scores.classes is None


def test_rows_without_a_published_answer_take_no_part_and_are_counted(tmp_path: Path) -> None:
    (entry,) = read_folders([write(tmp_path / "one", [question(1), question(2, gold=None), question(3, label=None)])])
    assert entry.scores is not None
    assert (entry.scores.n, entry.scores.unjudged, entry.scores.accuracy.value) == (2, 1, 0.5)


def test_a_guess_that_its_benchmark_allows_counts_as_the_judge_says_and_is_told(tmp_path: Path) -> None:
    rows = [question(1, label=None, guessed="A") | {"correct": True}, question(2, label=None)]
    (entry,) = read_folders([write(tmp_path / "one", rows)])
    assert entry.scores is not None
    assert (entry.scores.accuracy.count, entry.scores.guessed, entry.scores.unparsable.n) == (1, 1, 2)


def test_official_scores_are_read_of_a_phase_and_of_a_cell(tmp_path: Path) -> None:
    phase = write(tmp_path / "stage3", [question(1, style=style) for style in ("think", "direct")])
    (phase / "evaluation.json").write_text(json.dumps({"official": {"think": {"accuracy": 50.0}}}))
    cell = write(tmp_path / "cell", [question(1)])
    (cell / "evaluation.json").write_text(json.dumps({"official": {"accuracy": 25.0}}))
    assert [entry.official for entry in read_folders([phase, cell])] == [{"accuracy": 50.0}, {}, {"accuracy": 25.0}]
    # Its table is written.
    assert __main__.main(["report", str(phase), "--out", str(tmp_path / "out")]) == 0


def test_cells_are_told_apart_by_task_and_folders_of_one_name_by_their_parents(tmp_path: Path) -> None:
    for task in ("count", "depth"):
        write(tmp_path / "cells" / f"m--{task}--auto--direct", [question(1)])
    assert [entry.task for entry in read_folders([tmp_path])] == ["count", "depth"]
    folders = [write(tmp_path / name / "stage1", [row(1, "joy", "joy")]) for name in ("a", "b")]
    assert [entry.name for entry in read_folders(folders)] == ["a/stage1", "b/stage1"]


def test_every_folder_that_cannot_be_reported_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    strange = write(tmp_path / "strange", [{"id": 1}])
    hidden = write(tmp_path / "hidden", [question(1, gold=None)])
    with pytest.raises(UserError) as refused:
        read_folders([tmp_path / "empty", tmp_path / "none", strange, hidden])
    for sign in ("empty: there is no", "none: there is no", "are no predictions", "gold answer is known"):
        assert sign in str(refused.value)


def test_a_folder_is_reported_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "one", [question(n) for n in range(3)])
    assert __main__.main(["report", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'out' / 'index.html'}"
    names = {file.name for file in (tmp_path / "out" / "tables").iterdir()}
    assert {"results.csv", "results.json", "results.md", "group_task.csv"} <= names
    # Nobody was trained here.
    assert not (tmp_path / "out" / "model_card.md").exists()


def test_folders_and_settings_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not both"):
        __main__.main(["report", str(tmp_path), "name=x"])
    with pytest.raises(UserError, match="--out goes with folders"):
        __main__.main(["report", "--out", str(tmp_path)])


def test_answers_to_classes_that_the_task_no_longer_has_are_refused_in_a_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "stage1_sft", [row(1, "joy", "joy"), row(2, "awe", "joy")])
    with pytest.raises(UserError, match=r"labels \['awe'\] are not .*: python -m stages\.evaluate --stage stage1_sft"):
        read_phase(folder, LabelSet.of(["joy", "fear"]))


def test_a_trained_stage_has_a_card_the_hub_can_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "stage4_clgrpo", [row(n, "joy", "joy" if n else None) for n in range(10)])
    task = {"name": "scenes | <b>"}
    record = {"algorithm": "grpo", "init_from": "stage3", "inputs": {"task": task, "model": {"name_or_path": "a/b"}}}
    (folder / "stage.json").write_text(json.dumps({"status": "complete", "steps": 6, "seed": 0, **record}))
    (folder / "evaluation.json").write_text(json.dumps({"inputs": {"evaluation": {"split": "test"}}}))
    text = model_card(read_phase(folder, LabelSet.of(["joy", "awe"])))
    assert text is not None
    # Wherever the page of it lies.
    assert __main__.main(["report", str(folder), "--out", str(tmp_path / "elsewhere")]) == 0
    assert "10 rows of `test`" in (tmp_path / "elsewhere" / "model_card.md").read_text()
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == "a/b"
    assert data.eval_results is not None
    results = {one.metric_type: one.metric_value for one in data.eval_results}
    assert results["accuracy"] == 90.0
    assert {one.dataset_split for one in data.eval_results} == {"test"}
    assert "scenes \\| &lt;b>" in text
