"""CoT rows of another run: taken over with no request where they fit, refused key by key where they do not."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fault_server import FaultServer
from PIL import Image

from cot_builder.__main__ import main as builder
from cot_builder.output import taken
from pipeline.__main__ import main as pipeline
from pipeline.conductor import run as conductor_run
from pipeline.conductor.contamination import check_run
from pipeline.config.loader import load, to_plain
from pipeline.data.load import load_task
from pipeline.data.training_rows import training_columns
from pipeline.errors import UserError
from pipeline.files import file_digest, read_json, write_json
from pipeline.reports.compare import _by_rows, _without_seed, gather
from pipeline.reports.summary import read_cot, summarise
from pipeline.run_dir import RunDir
from pipeline.runs.phases import stale_reasons, start_record
from pipeline.system.locks import acquire
from stages import preflight
from stages.trial import plan as trial_plan

EMPTY = {"title": "r", "labels": [], "entries": [], "tests": [], "cot": None, "warnings": []}
"""A report without entries, as `compare` reads it."""


class Runs:
    """Runs on twenty pictures in two folders, whose rows the first one builds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.output = folder, folder / "data", folder / "runs"
        for label, color in (("red", 200), ("blue", 40)):
            (self.data / "train" / label).mkdir(parents=True)
            for number in range(10):
                picture = Image.new("RGB", (16, 16), (color, number, 255 - color))
                picture.save(self.data / "train" / label / f"{number}.png")
        (folder / "t.yaml").write_text(yaml.safe_dump({"kind": "attribute", "attributes": ["description"]}))
        self.settings: dict[str, Any] = {
            "output_dir": str(self.output),
            "task": {"name": "imagefolder", "path": str(self.data), "descriptions": {"red": "warm", "blue": "cold"}},
            "cot": {"teachers": [str(folder / "t.yaml")]},
            "evaluation": {"split": "train"},
            "stages": {"stage1_sft": {"algorithm": "sft", "init_from": "base", "data": "cot"}},
        }

    def write(self, name: str, **cot: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**self.settings, "name": name, "cot": {**self.settings["cot"], **cot}}))
        return path

    def build(self, name: str, *words: str, **cot: Any) -> int:
        return builder(["build", "--config", str(self.write(name, **cot)), *words])

    def cot(self, name: str) -> Path:
        return self.output / name / "cot"

    def manifest(self, name: str) -> dict[str, Any]:
        return read_json(self.cot(name) / "manifest.json")

    def rows(self, name: str) -> list[dict[str, Any]]:
        return pq.read_table(self.cot(name) / "train.parquet").to_pylist()

    def plan(self, name: str, *words: str) -> int:
        return pipeline(["plan", "--config", str(self.folder / f"{name}.yaml"), *words])


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """The first one is built."""
    made = Runs(tmp_path)
    assert made.build("first") == 0
    return made


@pytest.fixture
def server() -> Iterator[FaultServer]:
    made = FaultServer(reply=lambda body: "<think>The light of it is plainly warm here.</think>\n<answer>red</answer>")
    yield made
    made.stop()


def source(runs: Runs) -> str:
    return str(runs.output / "first")


def test_a_second_student_learns_from_the_first_ones_rows_with_no_request(
    tmp_path: Path, server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path)
    teacher = {"kind": "openai", "model": "m", "base_urls": [server.url], "patience": 0.0, "image_size": 16}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(teacher))
    asked = {"teachers": [str(tmp_path / "served.yaml")], "min_rows_per_class": 0, "filters": {"near_duplicate": None}}
    assert runs.build("first", **asked) == 0
    assert len(runs.rows("first")) == 10
    paid = server.count
    assert paid == 20
    server.stop()
    # Nobody is there to be asked, and the teacher's file is gone.
    (tmp_path / "served.yaml").unlink()
    capsys.readouterr()
    second = runs.write("second", **{**asked, "from": source(runs), "attempts": 3})
    student = ["seed=7", "model.tiny.layers=1", "model.peft={target_modules: [q_proj]}"]
    assert runs.plan("second", *student) == 0
    told = capsys.readouterr().out
    assert f"train taken over from {source(runs)}" in told
    assert f"10 rows of {source(runs)}, kept of the 20 of train that first built from (sha256 " in told
    assert "not used with cot.from, for these rows are made: cot.teachers, cot.attempts, cot.filters" in told
    assert builder(["build", "--config", str(second), *student]) == 0
    assert server.count == paid
    assert runs.rows("second") == runs.rows("first")
    assert file_digest(runs.cot("second") / "train.parquet") == file_digest(runs.cot("first") / "train.parquet")
    manifest = runs.manifest("second")
    assert manifest["requests_this_time"] == 0
    assert manifest["source"] == {
        "folder": source(runs),
        "run": "first",
        "built_by": "first",
        "data_digest": runs.manifest("first")["data_digest"],
        "rows": 10,
    }
    for key in ("rows", "per_class", "per_teacher", "rejected_rows_by_reason", "teachers", "prompts", "question"):
        assert manifest[key] == runs.manifest("first")[key]
    card = (runs.cot("second") / "README.md").read_text()
    assert card.startswith("---\n")
    assert (
        f"Taken over from run `first`: 10 rows, sha256 of train.parquet `{manifest['data_digest']}`; 0 requests" in card
    )
    found = read_cot(runs.output / "second")
    assert found is not None
    (remark,) = summarise("second", [], ["red", "blue"], found).warnings
    assert remark.text.startswith("The CoT rows are the 10 that first built (sha256 ")
    assert remark.text.endswith("taken over with 0 requests.")


def test_what_the_stage_trains_on_and_what_is_held_out_sees_are_the_same_rows(runs: Runs) -> None:
    held = {"copy": {"task": {"name": "imagefolder", "path": str(runs.folder / "held")}, "split": "train"}}
    shutil.copytree(runs.data, runs.folder / "held")
    assert runs.build("second", **{"from": source(runs)}) == 0
    columns = {}
    for name in ("first", "second"):
        config = load(runs.folder / f"{name}.yaml")
        run = RunDir(config.output_dir, name)
        columns[name] = training_columns(config, run, "stage1_sft", load_task(config.task, run.cache))[0]
    assert columns["first"] == columns["second"]
    assert len(columns["second"]["id"]) == 20
    path = runs.folder / "second.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "held_out": held}))
    config = load(path)
    with pytest.raises(UserError, match="of 20 rows 20 have a picture of the 20 training rows"):
        check_run(config, RunDir(config.output_dir, "second"))


def spoil(runs: Runs, what: str) -> None:
    """One way in which a source is not there, or not whole."""
    cot = runs.cot("first")
    if what == "deleted":
        shutil.rmtree(runs.output / "first")
    elif what == "never built":
        shutil.rmtree(cot)
        (runs.output / "first" / "base").mkdir()
    elif what == "not finished":
        write_json(
            cot / "manifest.json", {**runs.manifest("first"), "status": "incomplete", "why": "3 rows were not answered"}
        )
    elif what == "rows gone":
        (cot / "train.parquet").unlink()
    elif what == "rows edited":
        pq.write_table(pq.read_table(cot / "train.parquet").slice(1), cot / "train.parquet")
    elif what == "manifest gone":
        (cot / "manifest.json").unlink()
    elif what == "manifest torn":
        (cot / "manifest.json").write_text('{"status": "comp')


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("deleted", "is no folder; "),
        ("never built", "holds no manifest.json, which says what its rows were made of; finish the run first"),
        ("not finished", "are not finished (3 rows were not answered); finish them first: python -m cot_builder build"),
        ("rows gone", "train.parquet is gone; restore it"),
        ("rows edited", "is not the file that its manifest.json names: it was edited, or copied in part"),
        ("manifest gone", "holds no manifest.json"),
        ("manifest torn", "are not finished"),
    ],
)
def test_a_source_that_is_not_there_or_not_whole_is_one_clear_error(runs: Runs, what: str, words: str) -> None:
    runs.write("second", **{"from": source(runs)})
    spoil(runs, what)
    for command in ("plan", "run"):
        with pytest.raises(UserError) as caught:
            pipeline([command, "--config", str(runs.folder / "second.yaml")])
        (problem,) = caught.value.problems
        assert problem.startswith("cot.from: ")
        assert words in problem
    assert not runs.cot("second").exists()


@pytest.mark.parametrize("name", ["second", "second/cot"])
def test_a_run_is_no_source_of_itself(runs: Runs, name: str) -> None:
    runs.write("second", **{"from": str(runs.output / name)})
    runs.cot("second").mkdir(parents=True)
    with pytest.raises(UserError, match="is this run itself"):
        runs.plan("second")


def other_labels(runs: Runs) -> list[str]:
    (runs.data / "train" / "blue").rename(runs.data / "train" / "azure")
    runs.settings["task"]["descriptions"] = {"red": "warm", "azure": "cold"}
    return []


def question(runs: Runs) -> list[str]:
    return ["task.question=Is it warm?"]


def other_split(runs: Runs) -> list[str]:
    return ["cot.split=train[:10]"]


def other_task(runs: Runs) -> list[str]:
    """The same labels, of a task of another kind."""
    (runs.folder / "tables").mkdir()
    paths = sorted(runs.data.glob("train/*/*.png"))
    table = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
    pq.write_table(pa.table(table), runs.folder / "tables" / "train.parquet")
    return ["task.name=parquet", f"task.path={runs.folder / 'tables'}"]


def other_recipe(runs: Runs) -> list[str]:
    manifest = runs.manifest("first")
    manifest["config"]["cot"]["recipe"] = manifest["recipe"] = "extraction"
    write_json(runs.cot("first") / "manifest.json", manifest)
    return []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_labels, ["task.labels: azure only here", "task.labels: blue only in "]),
        (question, ["task.question: 'Is it warm?' here, 'What does this image show?' in "]),
        (other_split, ["cot.split: 'train[:10]' here, 'train' in "]),
        (other_task, ["task.name: 'parquet' here, 'imagefolder' in "]),
        (other_recipe, ["cot.recipe: 'reasoning' here, 'extraction' in "]),
    ],
)
def test_rows_that_were_made_otherwise_are_refused_key_by_key(
    runs: Runs, change: Callable[[Runs], list[str]], told: list[str]
) -> None:
    words = change(runs)
    path = runs.write("second", **{"from": source(runs)})
    for command in ("plan", "run"):
        with pytest.raises(UserError) as caught:
            pipeline([command, "--config", str(path), *words])
        *problems, cure = caught.value.problems
        assert len(problems) == len(told)
        for problem, word in zip(problems, told, strict=True):
            assert problem.startswith("cot.from: " + word), problem
        assert "were made otherwise: set these keys as they are there, or leave cot.from out" in cure
    assert builder(["build", "--config", str(path), *words]) == 2
    assert not runs.cot("second").exists()


def test_the_question_of_rows_whose_manifest_does_not_say_it_is_known_nevertheless(runs: Runs) -> None:
    """As builds of before left it."""
    manifest = runs.manifest("first")
    del manifest["question"]
    write_json(runs.cot("first") / "manifest.json", manifest)
    runs.write("second", **{"from": source(runs)})
    assert runs.plan("second", "task.question=What does this image show?") == 0
    with pytest.raises(UserError, match=r"task.question: 'Is it warm\?' here, 'What does this image show\?' in "):
        runs.plan("second", "task.question=Is it warm?")


def test_several_keys_are_told_at_once(runs: Runs) -> None:
    runs.write("second", **{"from": source(runs), "split": "train[:10]", "recipe": "extraction"})
    with pytest.raises(UserError) as caught:
        runs.plan("second", "task.question=Is it warm?")
    assert [problem.split(":")[1].strip() for problem in caught.value.problems[:-1]] == [
        "task.question",
        "cot.recipe",
        "cot.split",
    ]


def renamed(data: Path) -> None:
    (data / "train" / "red" / "3.png").rename(data / "train" / "red" / "three.png")


def repainted(data: Path) -> None:
    Image.new("RGB", (16, 16), "green").save(data / "train" / "red" / "3.png")


def relabelled(data: Path) -> None:
    """Every picture keeps its name and bytes, and one moves: its id has its folder, so it is gone under the old one."""
    (data / "train" / "red" / "3.png").rename(data / "train" / "blue" / "30.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed, "1 of 20 rows have no picture of their name in cot.split 'train' (first: train/red/3.png)"),
        (repainted, "1 of 20 rows are about other pictures than those here (first: train/red/3.png)"),
        (relabelled, "1 of 20 rows have no picture of their name in cot.split 'train' (first: train/red/3.png)"),
    ],
)
def test_rows_that_are_of_other_pictures_are_refused(runs: Runs, change: Callable[[Path], None], told: str) -> None:
    change(runs.data)
    runs.write("second", **{"from": source(runs)})
    with pytest.raises(UserError) as caught:
        runs.plan("second")
    assert caught.value.problems == [f"cot.from: {told}"]


def replace_rows(runs: Runs, rows: list[dict[str, Any]]) -> None:
    """Leave a build that came to these rows."""
    file = runs.cot("first") / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    write_json(file.parent / "manifest.json", {**runs.manifest("first"), "data_digest": file_digest(file)})


def test_a_row_that_has_another_label_now_is_refused(runs: Runs) -> None:
    table = runs.rows("first")
    table[0]["label"] = {"red": "blue", "blue": "red"}[table[0]["label"]]
    replace_rows(runs, table)
    runs.write("second", **{"from": source(runs)})
    with pytest.raises(UserError, match=f"1 of 20 rows have another label here \\(first: {table[0]['id']}\\)"):
        runs.plan("second")


def test_the_pictures_may_lie_elsewhere_and_the_rows_then_name_them_there(runs: Runs) -> None:
    moved = runs.folder / "elsewhere" / "pictures"
    shutil.copytree(runs.data, moved)
    shutil.rmtree(runs.data)
    assert runs.build("second", f"task.path={moved}", **{"from": source(runs)}) == 0
    root = Path(runs.manifest("second")["image_root"])
    assert all((root / row["image"]).is_file() for row in runs.rows("second"))
    assert root.is_relative_to(moved)


def test_other_pictures_under_the_same_names_are_told_with_what_was_described_otherwise(runs: Runs) -> None:
    other = runs.folder / "other"
    for path in runs.data.glob("train/*/*.png"):
        (other / path.relative_to(runs.data)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "white").save(other / path.relative_to(runs.data))
    runs.write("second", **{"from": source(runs)})
    with pytest.raises(UserError) as caught:
        runs.plan("second", f"task.path={other}")
    assert "20 of 20 rows are about other pictures than those here" in caught.value.problems[0]
    assert f"described otherwise there: task.path: {str(runs.data)!r} -> {str(other)!r}" in caught.value.problems[1]


def test_a_folder_with_the_rows_alone_is_a_source_and_paths_may_be_relative(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As somebody passes them on: the file and its manifest."""
    (runs.cot("first") / "rejected.jsonl").write_text(json.dumps({"id": runs.rows("first")[0]["id"]}) + "\n")
    replace_rows(runs, runs.rows("first")[1:])
    passed_on = runs.folder / "passed_on"
    passed_on.mkdir()
    for name in ("train.parquet", "manifest.json"):
        shutil.copy(runs.cot("first") / name, passed_on)
    shutil.rmtree(runs.output / "first")
    monkeypatch.chdir(runs.folder)
    assert runs.build("second", **{"from": "passed_on"}) == 0
    assert runs.manifest("second")["source"]["folder"] == "passed_on"
    assert "Taken over from run `first`" in (runs.cot("second") / "README.md").read_text()
    # Nothing tells rejected pictures from new ones here, so none is called new.
    assert runs.plan("second") == 0
    assert "came after the rows were built" not in capsys.readouterr().out
    # A third takes the second's, and says who built them.
    assert runs.build("third", **{"from": "runs/second"}) == 0
    assert (runs.manifest("third")["source"]["run"], runs.manifest("third")["source"]["built_by"]) == (
        "second",
        "first",
    )
    assert runs.rows("third") == runs.rows("second")


def test_a_source_that_is_built_again_with_more_rows_is_noticed_and_not_trained_on(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.build("second", **{"from": source(runs)}) == 0
    Image.new("RGB", (16, 16), "red").save(runs.data / "train" / "red" / "new.png")
    assert runs.build("first") == 0
    capsys.readouterr()
    runs.plan("second")
    told = f"cot.from: {source(runs)} has other rows now (20 were taken over, 21 are there)"
    assert f"STALE; {told}" in capsys.readouterr().out
    with pytest.raises(UserError, match=re.escape(told)):
        pipeline(["run", "--config", str(runs.folder / "second.yaml")])
    assert len(runs.rows("second")) == 20
    # The cure that the message names, up to the first stage.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            conductor_run, "run_child", lambda command, **_: builder(["build", *command[command.index("--config") :]])
        )
        patch.setattr(conductor_run, "report", lambda config, run: "")
        pipeline(["run", "--config", str(runs.folder / "second.yaml"), "--to", "cot", "--clean", "cot"])
    assert len(runs.rows("second")) == 21
    runs.plan("second")
    assert "STALE" not in capsys.readouterr().out


def test_a_source_that_is_deleted_or_being_built_again_leaves_the_rows_that_were_taken_over(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.build("second", **{"from": source(runs)}) == 0
    spoil(runs, "not finished")
    assert runs.plan("second") == 0
    assert (
        f"cot: {source(runs)} is being built again; the rows that were taken over of it are here"
        in capsys.readouterr().out
    )
    spoil(runs, "deleted")
    assert runs.plan("second") == 0
    printed = capsys.readouterr().out
    assert f"cot: {source(runs)} is gone; the rows that were taken over of it are here" in printed
    assert "STALE" not in printed
    # What cannot be had again is not deleted.
    with pytest.raises(UserError, match="is no folder"):
        pipeline(["run", "--config", str(runs.folder / "second.yaml"), "--clean", "cot"])
    assert len(runs.rows("second")) == 20


def test_rows_that_were_damaged_here_are_taken_over_again(runs: Runs) -> None:
    assert runs.build("second", **{"from": source(runs)}) == 0
    (runs.cot("second") / "train.parquet").write_bytes(b"torn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            conductor_run, "run_child", lambda command, **_: builder(["build", *command[command.index("--config") :]])
        )
        patch.setattr(conductor_run, "report", lambda config, run: "")
        pipeline(["run", "--config", str(runs.folder / "second.yaml"), "--to", "cot"])
    assert runs.rows("second") == runs.rows("first")


def test_turning_to_another_runs_rows_and_back_is_told_and_a_finished_run_of_before_holds(runs: Runs) -> None:
    config = load(runs.folder / "first.yaml")
    run = RunDir(config.output_dir, "first")
    record = runs.manifest("first")
    # As it was written before there was such a key.
    del record["inputs"]["cot"]["from"]
    write_json(run.record_path("cot"), record)
    write_json(run.record_path("stage1_sft"), start_record(config, run, "stage1_sft"))
    assert stale_reasons(config, run, "cot") == stale_reasons(config, run, "stage1_sft") == []
    shutil.copytree(runs.cot("first"), runs.folder / "copy", ignore=shutil.ignore_patterns("journal"))
    turned = load(runs.folder / "first.yaml", [f"cot.from={runs.folder / 'copy'}"])
    assert stale_reasons(turned, run, "cot") == [
        f"the rows were built here, and cot.from names those of {runs.folder / 'copy'} now"
    ]
    assert runs.build("second", **{"from": source(runs)}) == 0
    back = load(runs.folder / "second.yaml", ["cot.from=null"])
    assert stale_reasons(back, RunDir(back.output_dir, "second"), "cot") == [
        f"the rows are those of {source(runs)}, and cot.from does not name them any more"
    ]
    # The same rows by another name are the same rows; a teacher or the seed are no part of them.
    same = load(runs.folder / "second.yaml", [f"cot.from={runs.folder / 'copy'}", "cot.attempts=5", "seed=3"])
    assert stale_reasons(same, RunDir(back.output_dir, "second"), "cot") == []


def test_a_finished_stage_holds_while_its_rows_are_taken_over_and_not_with_other_ones(runs: Runs) -> None:
    assert runs.build("second", **{"from": source(runs)}) == 0
    config = load(runs.folder / "second.yaml")
    run = RunDir(config.output_dir, "second")
    write_json(run.record_path("stage1_sft"), start_record(config, run, "stage1_sft"))
    assert stale_reasons(config, run, "stage1_sft") == []
    Image.new("RGB", (16, 16), "red").save(runs.data / "train" / "red" / "new.png")
    assert runs.build("first") == runs.build("second", **{"from": source(runs)}) == 0
    assert stale_reasons(config, run, "stage1_sft") == ["the CoT rows are other rows now"]


def test_a_killed_take_over_is_done_again(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(taken.os, "fsync", lambda _: None)
        patch.setattr(taken, "file_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            taken.take_over(load(runs.write("second", **{"from": source(runs)})))
    manifest = runs.manifest("second")
    assert (manifest["status"], manifest["why"]) == ("incomplete", "its rows are being taken over, or that was stopped")
    assert "data_digest" not in manifest
    assert not (runs.cot("second") / "train.parquet").exists()
    assert runs.build("second", **{"from": source(runs)}) == 0
    assert runs.rows("second") == runs.rows("first")


def test_kill_minus_9_at_any_moment_leaves_nothing_or_all(runs: Runs) -> None:
    path = runs.write("second", **{"from": source(runs)})
    words = "import sys; from cot_builder.__main__ import main; print('up', flush=True); sys.exit(main(sys.argv[1:]))"
    for wait in (0.05, 0.4):
        child = subprocess.Popen([sys.executable, "-c", words, "build", "--config", str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if runs.manifest("second").get("status") == "complete":
            assert runs.rows("second") == runs.rows("first")
    assert runs.build("second", **{"from": source(runs)}) == 0
    assert runs.rows("second") == runs.rows("first")


def test_a_source_that_changes_while_it_is_copied_is_told(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    copyfile = shutil.copyfile

    def late(there: Path, here: Path) -> None:
        if Path(there).name == "train.parquet":
            pq.write_table(pq.read_table(there).slice(1), there)
        copyfile(there, here)

    monkeypatch.setattr(taken.shutil, "copyfile", late)
    with pytest.raises(UserError, match="changed while it was taken over"):
        taken.take_over(load(runs.write("second", **{"from": source(runs)})))
    assert runs.manifest("second")["status"] == "incomplete"


def test_a_full_disk_and_a_source_that_cannot_be_read_are_told_without_a_traceback(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = str(runs.write("second", **{"from": source(runs)}))
    with monkeypatch.context() as patch:
        patch.setattr(taken.shutil, "copyfile", fails)
        assert builder(["build", "--config", path]) == 2
    assert "cannot be copied to" in (told := capsys.readouterr().err)
    assert "No space left on device" in told
    assert runs.manifest("second")["status"] == "incomplete"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.cot_source.file_digest", fails)
        assert builder(["build", "--config", path]) == 2
    assert "train.parquet cannot be read (No space left on device)" in capsys.readouterr().err
    assert builder(["build", "--config", path]) == 0


def test_another_take_over_of_the_same_run_is_refused(runs: Runs) -> None:
    path = runs.write("second", **{"from": source(runs)})
    with acquire(runs.cot("second") / ".lock"), pytest.raises(UserError, match="in use by another process"):
        taken.take_over(load(path))


def test_rows_that_replace_others_leave_none_of_them_where_it_is_stopped(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stage would train on, were it started by itself."""
    assert runs.build("second") == 0
    path = runs.write("second", **{"from": source(runs)})
    monkeypatch.setattr(taken, "file_digest", lambda path: "other")
    with pytest.raises(UserError, match="changed while it was taken over"):
        taken.take_over(load(path))
    assert not (runs.cot("second") / "train.parquet").exists()


def test_who_asks_or_serves_is_told_that_nobody_is_asked(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(runs.write("second", **{"from": source(runs)}))
    for words in (
        ["preview", "--config", path],
        ["export", "--config", path, "--out", str(runs.folder)],
        ["merge", "--config", path, "--shards", "2"],
        ["build", "--config", path, "--shard", "0/2"],
        ["build", "--config", path, "--retry"],
    ):
        assert builder(words) == 2
        assert "so nobody is asked" in capsys.readouterr().err
    assert builder(["build", "--config", path, "--dry-run"]) == 0
    assert f"20 rows of {source(runs)}, kept of the 20 of train that first built from" in capsys.readouterr().out
    assert not runs.cot("second").exists()
    assert builder(["build", "--config", path]) == builder(["stats", "--config", path]) == 0
    assert "20 kept, 0 rejected" in capsys.readouterr().out


def test_too_few_rows_and_control_tokens_of_this_student_are_told_before(runs: Runs) -> None:
    runs.write("second", **{"from": source(runs), "min_rows": 15, "min_rows_per_class": 10})
    assert runs.plan("second") == 0
    rows = runs.rows("first")
    rows = [{**row, "completion": row["completion"].replace("<think>", "<think><|im_end|>")} for row in rows[:12]]
    replace_rows(runs, rows)
    with pytest.raises(UserError) as caught:
        runs.plan("second")
    told = "\n".join(caught.value.problems)
    assert "12 of 12 rows hold a control token of this student" in told
    assert "has 12 rows, fewer than cot.min_rows = 15" in told
    assert "fewer rows of some classes than cot.min_rows_per_class = 10" in told


def test_rows_that_no_longer_answer_with_their_label_are_told(runs: Runs) -> None:
    """As the grammar or the judge has changed since they were built."""
    rows = runs.rows("first")
    rows[3]["completion"] = rows[3]["completion"].replace(f"<answer>{rows[3]['label']}", "<answer>green")
    replace_rows(runs, rows)
    runs.write("second", **{"from": source(runs)})
    with pytest.raises(UserError, match=f"1 of 20 rows do not answer with their label.*first: {rows[3]['id']}"):
        runs.plan("second")


def test_rows_that_do_not_name_their_pictures_are_no_source(runs: Runs) -> None:
    replace_rows(runs, [{key: row[key] for key in row if key != "image_digest"} for row in runs.rows("first")])
    runs.write("second", **{"from": source(runs)})
    with pytest.raises(UserError, match="do not name their pictures"):
        runs.plan("second")


def test_rows_of_the_extraction_recipe_are_taken_over_with_their_prompts(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    words = "A narrow street runs between old houses; a woman in a coat smiles at a child near a fountain"

    def reply(body: dict[str, Any]) -> str:
        return f"{words} number {body['seed']}."

    server = FaultServer(reply=reply)
    teacher = {"kind": "openai", "model": "m", "base_urls": [server.url], "patience": 0.0, "image_size": 16}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(teacher))
    asked = {
        "teachers": [str(tmp_path / "served.yaml")],
        "recipe": "extraction",
        "filters": {"near_duplicate": None, "max_repetition": 1.0},
    }
    assert runs.build("first", **asked) == 0
    paid = server.count
    server.stop()
    assert runs.build("second", **{"from": source(runs), "recipe": "extraction"}) == 0
    assert server.count == paid
    config = load(tmp_path / "second.yaml")
    run = RunDir(config.output_dir, "second")
    columns = training_columns(config, run, "stage1_sft", load_task(config.task, run.cache))[0]
    prompts = [row["prompt"] for row in runs.rows("first")]
    assert [turns[0]["content"][1]["text"] for turns in columns["prompt"]] == prompts


def test_a_preflight_tries_the_rows_before_they_are_taken_over(runs: Runs) -> None:
    config = load(runs.write("second", **{"from": source(runs)}))
    run = RunDir(config.output_dir, "second")
    scratch = trial_plan.scratch_of(run)
    assert trial_plan.write_rows(config, run, scratch, load_task(config.task, run.cache))
    lengths = {"stand_in": False, "p99": 9, "rows": 20}
    assert not any("building" in one for one in preflight._assumptions(config, lengths, False))
    assert any("building" in one for one in preflight._assumptions(load(runs.folder / "first.yaml"), lengths, False))
    assert sorted(pq.read_table(scratch.cot / "train.parquet")["id"].to_pylist()) == sorted(
        row["id"] for row in runs.rows("first")
    )


def test_drawn_pictures_may_be_of_other_options_as_long_as_they_are_the_same_pictures(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    options = {"train": 24, "val": 1, "test": 8, "size": 32}
    runs.settings["task"] = {"name": "scenes", "options": options}
    runs.settings["cot"] = {"teachers": ["attribute"], "min_rows_per_class": 0}
    assert runs.build("first") == 0
    assert runs.build("second", "task.options.test=2", "seed=4", **{"from": source(runs)}) == 0
    assert runs.rows("second") == runs.rows("first")
    with pytest.raises(UserError) as caught:
        taken.check(load(runs.write("third", **{"from": source(runs)}), ["task.options.seed=1"]))
    assert "rows are about other pictures than those here" in "".join(caught.value.problems)
    assert "the data were described otherwise there: task.options.seed: None -> 1" in "".join(caught.value.problems)


def test_large_sets_are_compared_when_the_run_begins_and_the_plan_says_so(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.checks.splits.FEW", 10)
    repainted(runs.data)
    runs.write("second", **{"from": source(runs)})
    assert runs.plan("second") == 0
    assert "cot: their pictures are compared with those here when the run begins" in capsys.readouterr().out
    with pytest.raises(UserError, match="1 of 20 rows are about other pictures"):
        pipeline(["run", "--config", str(runs.folder / "second.yaml")])


def test_the_key_is_from_in_files_on_the_command_line_and_in_the_record(runs: Runs) -> None:
    path = runs.write("second", **{"from": source(runs)})
    assert load(path).cot.from_ == source(runs)  # type: ignore[union-attr]
    assert to_plain(load(path))["cot"]["from"] == source(runs)
    assert load(runs.folder / "first.yaml", ["cot.from=x"]).cot.from_ == "x"  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"cot.from_ is not a known key; did you mean from\?"):
        load(path, ["cot.from_=x"])
    with pytest.raises(UserError, match=r"cot.from: \[1\] must be text"):
        load(path, ["cot.from=[1]"])
    with pytest.raises(UserError, match=r"cot\.from: is blank"):
        runs.plan("second", "cot.from=' '")
    assert json.loads(json.dumps(to_plain(load(path))))["cot"]["from"] == source(runs)


def test_runs_of_one_runs_rows_are_one_group_of_seeds(runs: Runs) -> None:
    for number, name in enumerate(("first", "second", "third")):
        if number:
            assert runs.build(name, f"seed={number}", **{"from": source(runs)}) == 0
        config = to_plain(load(runs.folder / f"{name}.yaml", [f"seed={number}"]))
        (runs.output / name / "config.yaml").write_text(yaml.safe_dump(config))
        write_json(runs.output / name / "report" / "summary.json", EMPTY)
    grouped = gather([runs.output / name for name in ("first", "second", "third")])
    assert grouped.settings[0][1] == f"cot.from: None -> {source(runs)!r}; seed: 0 -> 1"
    configs = {
        name: yaml.safe_load((runs.output / name / "config.yaml").read_text()) for name in ("first", "second", "third")
    }
    rows = {name: runs.manifest(name)["data_digest"] for name in configs}
    assert len({_without_seed(name, config) for name, config in _by_rows(configs, rows).items()}) == 1
    # Other rows are another group, and without `cot.from` all is as it was.
    assert len({_without_seed(name, config) for name, config in _by_rows(configs, {**rows, "third": "x"}).items()}) == 2
    assert _by_rows({"first": configs["first"]}, rows) == {"first": configs["first"]}
