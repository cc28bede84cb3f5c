"""Maps of a phase's answers: of which rows, kept from one command to the next, and what has none is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from occlusion_fakes import WATCHED, Speller, Watcher, picture
from PIL import Image

from pipeline.config.schema import EvaluationConfig, ModelConfig, RunConfig, StageConfig
from pipeline.errors import UserError
from pipeline.files import json_lines, read_json, read_jsonl, write_json
from pipeline.reports.occlusion import mapped_rows, read_maps
from pipeline.run_dir import RunDir
from stages import explain as entry_point
from stages.evaluation import explaining
from stages.evaluation.explaining import choose, explain
from stages.processes.work import folder_lock

CONFIG = RunConfig(name="run", model=ModelConfig())
PHASE = "stage1_sft"


def prediction(number: int, gold: str = "joy", right: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "id": f"row/{number}",
        "image": "pictures/a.png",
        "gold": gold,
        "style": "think",
        "decoding": "greedy",
        "prompt": "What?",
        "completion": "a",
        "label": gold if right else "fear",
        "correct": right,
        **more,
    }


def write_phase(run: RunDir, name: str, rows: list[dict[str, Any]], weights: str = "w") -> Path:
    folder = run.phase(name)
    (folder / "final").mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text(json_lines(rows))
    write_json(folder / "stage.json", {"status": "complete", "checkpoint": "final", "weights": weights, "files": {}})
    write_json(folder / "evaluation.json", {"status": "complete", "inputs": {"weights": weights}})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "run" / "pictures").mkdir(parents=True)
    picture().save(tmp_path / "run" / "pictures" / "a.png")
    return RunDir(tmp_path, "run")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Watcher]:
    """Phases have the hand-made model; each that is loaded."""
    loaded: list[Watcher] = []

    def load(folder: Path, config: RunConfig, rank: int, dtype: str) -> Any:
        # The rounding of bfloat16 would be mapped, too.
        assert dtype == "float32"
        loaded.append(Watcher())
        return SimpleNamespace(model=loaded[-1], processor=Speller())

    monkeypatch.setattr(explaining, "Answerer", load)
    return loaded


def test_rows_are_chosen_in_turns_the_first_wrong_and_the_first_right_of_each_gold_answer() -> None:
    rows = [prediction(number, "joy") for number in range(4)]
    rows += [prediction(4, "fear", right=False), prediction(5, "fear"), prediction(6, "joy", right=False)]
    rows += [prediction(7, "fear", image=None), prediction(8, "awe", style="direct")]
    chosen = [(row["style"], row["id"]) for row in choose(rows, 5)]
    assert chosen == [("think", f"row/{number}") for number in (6, 0, 4, 5, 1)] + [("direct", "row/8")]
    assert len(list(choose(rows, 10**30))) == 8
    assert [(row["style"], row["id"]) for row in choose(rows, 2)] == [chosen[0], chosen[1], chosen[-1]]


def test_maps_are_written_for_each_picture_and_found_again(run: RunDir, asked: list[Watcher]) -> None:
    folder = write_phase(run, PHASE, [prediction(0), prediction(1, images=["pictures/a.png", "pictures/a.png"])])
    assert explain(CONFIG, run, PHASE, 3) == (
        f"{PHASE}: occlusion maps of 2 rows, 0 of them from before, in {folder / 'occlusion'}"
    )
    first, second = mapped_rows(folder)
    assert [one["peak"] for row in (first, second) for one in row["pictures"]] == [list(WATCHED), list(WATCHED), None]
    line, column = WATCHED
    assert first["pictures"][0]["falls"][line][column] > 1
    found = read_maps(folder)["think"]
    assert {row_id: len(overlays) for row_id, overlays in found.rows.items()} == {"row/0": 1, "row/1": 2}
    overlay = found.rows["row/0"][0]
    assert overlay.largest == max(map(max, first["pictures"][0]["falls"]))
    with Image.open(overlay.path) as image:
        assert (image.format, image.size) == ("PNG", (320, 320))


def test_what_is_mapped_is_not_asked_again_and_more_rows_are_added(run: RunDir, asked: list[Watcher]) -> None:
    folder = write_phase(run, PHASE, [prediction(number) for number in range(3)])
    explain(CONFIG, run, PHASE, 2)
    explain(CONFIG, run, PHASE, 2)
    assert len(asked) == 1
    assert "occlusion maps of 3 rows, 2 of them from before" in explain(CONFIG, run, PHASE, 3)
    assert sum(asked[1].rows) == 65
    assert [row["id"] for row in mapped_rows(folder)] == ["row/0", "row/1", "row/2"]


def test_batches_are_no_larger_than_those_of_the_evaluation(run: RunDir, asked: list[Watcher]) -> None:
    write_phase(run, PHASE, [prediction(0)])
    explain(dataclasses.replace(CONFIG, evaluation=EvaluationConfig(batch_size=5)), run, PHASE, 1)
    assert (sum(asked[0].rows), max(asked[0].rows)) == (65, 5)


@pytest.mark.parametrize(("size", "most"), [(1, 1), (7, 3), (64, 16)])
def test_a_run_in_bfloat16_computes_half_as_many_rows_in_float32(
    run: RunDir, asked: list[Watcher], size: int, most: int
) -> None:
    write_phase(run, PHASE, [prediction(0)])
    sizes = {"evaluation": EvaluationConfig(batch_size=size), "model": ModelConfig(dtype="bfloat16")}
    explain(dataclasses.replace(CONFIG, **sizes), run, PHASE, 1)
    assert max(asked[0].rows) == most


def test_a_killed_command_goes_on_with_the_rows_that_are_missing(
    run: RunDir, asked: list[Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_phase(run, PHASE, [prediction(number) for number in range(3)])
    real, calls = explaining.occlude, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(explaining, "occlude", killed)
    with pytest.raises(KeyboardInterrupt):
        explain(CONFIG, run, PHASE, 3)
    # As a kill inside a write leaves it.
    with (folder / "occlusion" / "maps.jsonl").open("a") as file:
        file.write('{"id": "row/1", "sty')
    assert "occlusion maps of 3 rows, 1 of them from before" in explain(CONFIG, run, PHASE, 3)
    assert [row["id"] for row in read_jsonl(folder / "occlusion" / "maps.jsonl")] == ["row/0", "row/1", "row/2"]
    assert read_json(folder / "occlusion" / "occlusion.json")["status"] == "complete"


@pytest.mark.parametrize("changed", ["predictions", "weights"])
def test_maps_of_other_answers_or_weights_are_not_shown_and_made_anew(
    run: RunDir, asked: list[Watcher], changed: str
) -> None:
    folder = write_phase(run, PHASE, [prediction(0)])
    explain(CONFIG, run, PHASE, 1)
    if changed == "predictions":
        write_phase(run, PHASE, [prediction(0, completion="aa")])
        assert (read_maps(folder), mapped_rows(folder)) == ({}, [])
    else:
        write_phase(run, PHASE, [prediction(0)], weights="other")
    assert "of 1 rows, 0 of them from before" in explain(CONFIG, run, PHASE, 1)
    assert len(mapped_rows(folder)) == 1


def test_rows_that_cannot_be_mapped_are_counted_and_do_not_stop_the_rest(run: RunDir, asked: list[Watcher]) -> None:
    (run.root / "pictures" / "bad.png").write_bytes(b"no picture")
    rows = [prediction(0, image="pictures/gone.png"), prediction(1, image="pictures/bad.png")]
    rows += [prediction(2, image=None), prediction(3, completion=""), prediction(4)]
    folder = write_phase(run, PHASE, rows)
    told = explain(CONFIG, run, PHASE, 9)
    assert told.endswith("; without one: no_picture 1, missing_image 1, unreadable_image 1, empty_answer 1")
    assert [row["id"] for row in mapped_rows(folder)] == ["row/4"]
    left_out = {"no_picture": 1, "missing_image": 1, "unreadable_image": 1, "empty_answer": 1}
    assert read_maps(folder)["think"].left_out == left_out


def _unfinished(folder: Path) -> None:
    (folder / "stage.json").unlink()


def _unanswered(folder: Path) -> None:
    (folder / "predictions.jsonl").unlink()


def _other_weights(folder: Path) -> None:
    write_json(folder / "evaluation.json", {"status": "complete", "inputs": {"weights": "before"}})


def _changed_files(folder: Path) -> None:
    (folder / "final" / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_unfinished, "has not been run"),
        (_unanswered, "is not evaluated"),
        (_other_weights, "its answers are of other weights"),
        (_changed_files, "config.json was added since it was recorded"),
    ],
)
def test_a_phase_without_a_checkpoint_of_its_answers_is_refused(
    run: RunDir, asked: list[Watcher], spoil: Callable[[Path], None], why: str
) -> None:
    spoil(write_phase(run, PHASE, [prediction(0)]))
    with pytest.raises(UserError, match=why):
        explain(CONFIG, run, PHASE, 1)
    assert not asked


def test_pictures_are_made_as_they_were_for_the_answers(run: RunDir, asked: list[Watcher]) -> None:
    folder = write_phase(run, PHASE, [prediction(0)])
    write_json(
        folder / "evaluation.json",
        {"status": "complete", "inputs": {"weights": "w", "model": {"processor": {"size": {"longest_edge": 64}}}}},
    )
    with pytest.raises(UserError, match=r"\(model\.processor\.size: \{'longest_edge': 64\} -> None\)"):
        explain(CONFIG, run, PHASE, 1)
    made = dataclasses.replace(CONFIG, model=ModelConfig(processor={"size": {"longest_edge": 64}}))
    assert "occlusion maps of 1 rows" in explain(made, run, PHASE, 1)


def test_a_model_that_fits_no_gpu_in_float32_is_told_with_what_helps(
    run: RunDir, asked: list[Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(explaining, "occlude", full)
    write_phase(run, PHASE, [prediction(0)])
    with pytest.raises(
        UserError, match=r"does not fit the GPU in float32 with 16 rows at once; lower evaluation\.batch_size"
    ):
        explain(CONFIG, run, PHASE, 1)


def test_a_phase_that_is_worked_on_is_left_alone(run: RunDir, asked: list[Watcher]) -> None:
    folder = write_phase(run, PHASE, [prediction(0)])
    with folder_lock(folder), pytest.raises(UserError, match="in use by another process"):
        explain(CONFIG, run, PHASE, 1)


def test_phases_that_cannot_be_mapped_are_named_and_only_all_of_them_are_an_error(
    run: RunDir, asked: list[Watcher], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stages = {PHASE: StageConfig(algorithm="sft", init_from="base", data="labels")}
    config = dataclasses.replace(CONFIG, output_dir=str(run.root.parent), stages=stages)
    monkeypatch.setattr(entry_point, "load", lambda path, overrides: config)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_phase(run, PHASE, [prediction(0)])
    caplog.set_level("INFO")
    assert entry_point.main(["--rows", "1"]) == 0
    assert "warning: no occlusion maps of base: base has not been run" in caplog.text
    assert f"{PHASE}: occlusion maps of 1 rows" in caplog.text
    (run.phase(PHASE) / "predictions.jsonl").unlink()
    with pytest.raises(UserError) as told:
        entry_point.main(["--rows", "1"])
    assert len(told.value.problems) == 2
    assert all(problem.startswith("no occlusion maps: ") for problem in told.value.problems)


@pytest.mark.parametrize("rows", ["0", "-3", "1.5", "many"])
def test_fewer_rows_than_one_are_refused(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        entry_point.main([f"--rows={rows}"])
    assert stopped.value.code == 2
    assert f"{rows!r} is no whole number from 1" in capsys.readouterr().err


def test_every_line_is_json_that_others_can_read(run: RunDir, asked: list[Watcher]) -> None:
    folder = write_phase(run, PHASE, [prediction(0)])
    explain(CONFIG, run, PHASE, 1)
    (line,) = (folder / "occlusion" / "maps.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert list(row) == ["id", "style", "gold", "label", "correct", "logprob", "tokens", "pictures"]
    assert (row["tokens"], row["pictures"][0]["size"]) == (1, [80, 80])
