"""What a user sees of a build: yields, files, resuming, and refusals at the door."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cot_builder.__main__ import main
from pipeline.scoring.response import parse


def test_kept_rows_agree_with_their_labels_and_nothing_disappears(project, capsys):
    project.configure({"t": {"kind": "attribute", "omit_think_rate": 0.3}})
    assert project.build() == 0
    rows = pq.read_table(project.cot / "train.parquet").to_pylist()
    rejected = [json.loads(line) for line in (project.cot / "rejected.jsonl").read_text().splitlines()]
    manifest = project.manifest()
    assert {row["teacher"] for row in rows} == {"t"}
    assert {row["mode"] for row in rows} == {"attribute"}
    for row in rows:
        assert row["label"] == row["answer"] == parse(row["completion"]).answer
        assert (Path(manifest["image_root"]) / row["image"]).is_file()
    assert {entry["reason"] for entry in rejected} == {"no_think"}
    assert manifest["status"] == "complete"
    # Nobody was asked with one.
    assert manifest["prompts"] == {}
    assert manifest["rows"] == {"selected": 40, "kept": len(rows), "rejected": len(rejected), "unasked": 0}
    assert sum(label["kept"] for label in manifest["per_class"].values()) == len(rows)
    assert f"{len(rows)} kept, {len(rejected)} rejected (no_think {len(rejected)})" in capsys.readouterr().out


def test_the_same_build_elsewhere_gives_the_same_bytes(tmp_path, project):
    project.configure({"t": {"kind": "attribute"}})
    project.build()
    other = type(project)(tmp_path / "other")
    other.configure({"t": {"kind": "attribute"}})
    other.build()
    assert project.parquet() == other.parquet()
    assert project.manifest()["data_digest"] == other.manifest()["data_digest"]


def test_a_second_build_asks_nothing_and_changes_nothing(project, serve):
    stub = serve()
    project.ask(stub)
    assert project.build() == 0
    first, asked = project.parquet(), len(stub.requests)
    assert project.build() == 0
    assert len(stub.requests) == asked == 40
    assert project.parquet() == first
    assert project.manifest()["requests_this_time"] == 0


def test_a_rejected_row_is_asked_again_with_another_seed(project, serve):
    stub = serve()
    project.ask(stub, attempts=3)
    project.build()
    rows = pq.read_table(project.cot / "train.parquet").to_pylist()
    assert {row["attempt"] for row in rows} > {0}
    assert len({request["seed"] for request in stub.requests}) == len(stub.requests) > 40
    manifest = project.manifest()
    assert sum(manifest["rejected_replies_by_reason"].values()) == len(stub.requests) - len(rows)


def test_a_killed_build_is_never_taken_for_the_complete_one_before(project, monkeypatch):
    project.configure({"t": {"kind": "attribute"}})
    project.build()
    monkeypatch.setattr("cot_builder.build.run.ask", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        project.build()
    assert project.manifest()["status"] == "incomplete"


def test_rows_are_shared_between_teachers_by_id(project):
    project.configure({"one": {"kind": "attribute"}, "two": {"kind": "attribute"}})
    project.build()
    forty = {row["id"]: row["teacher"] for row in pq.read_table(project.cot / "train.parquet").to_pylist()}
    project.configure({"one": {"kind": "attribute"}, "two": {"kind": "attribute"}}, rows=80)
    project.build()
    eighty = {row["id"]: row["teacher"] for row in pq.read_table(project.cot / "train.parquet").to_pylist()}
    assert set(forty.values()) == {"one", "two"}
    assert forty.items() <= eighty.items()


def test_too_few_kept_rows_fail_loudly_with_the_yields(project, capsys):
    project.configure({"t": {"kind": "attribute", "omit_think_rate": 1.0}}, min_rows=5)
    assert project.build() == 2
    message = capsys.readouterr().err
    assert "0 rows were kept, fewer than cot.min_rows = 5" in message
    assert "no_think 40" in message
    assert project.manifest()["status"] == "incomplete"
    assert not (project.cot / "train.parquet").exists()


def test_the_picture_is_sent_once_and_no_larger_than_asked(project, serve):
    stub = serve()
    project.ask(stub, rows=3)
    project.build()
    assert [stub.picture(number).size for number in range(3)] == [(16, 16)] * 3


def test_an_unreadable_picture_is_a_rejected_row(project, serve, monkeypatch):
    from pipeline.data.images import ImageError

    def broken(path, *_, **__):
        raise ImageError("truncated_image", path)

    monkeypatch.setattr("cot_builder.teachers.images.open_rgb", broken)
    stub = serve()
    project.ask(stub, rows=3)
    assert project.build() == 2
    assert project.manifest()["rejected_rows_by_reason"] == {"unreadable_image": 3}
    assert stub.requests == []


def test_the_folder_loads_as_a_data_set(project, tmp_path):
    datasets = pytest.importorskip("datasets")
    project.configure({"t": {"kind": "attribute"}})
    project.build()
    loaded = datasets.load_dataset(str(project.cot), cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == {"train": 40}


def test_no_key_reaches_any_file_or_message(project, serve, monkeypatch, capsys):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("CLGRPO_TEST_KEY", key)
    stub = serve(fault=lambda n, seed: "400" if n % 5 == 0 else "500" if n % 7 == 0 else None)
    project.ask(stub, teacher={"api_key_env": "CLGRPO_TEST_KEY", "patience": 30.0})
    assert project.build() == 0
    assert {headers["authorization"] for headers in stub.headers} == {f"Bearer {key}"}
    shown = capsys.readouterr()
    assert key not in shown.out + shown.err
    for file in project.folder.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("scheme", ["http://", "ftp://", "http//"])
def test_an_address_with_a_password_is_refused_and_reaches_no_file_or_message(project, serve, capsys, scheme):
    stub = serve()
    project.ask(stub)
    assert project.build() == 0
    url = stub.url.replace("http://", f"{scheme}user:very-secret@")
    assert project.build(f"cot.endpoints.stub=[{url}]") == 2
    shown = capsys.readouterr()
    assert "cot.endpoints.stub: an address must not carry a user, password or query; see api_key_env" in shown.err
    assert "very-secret" not in shown.out + shown.err
    for file in project.folder.rglob("*"):
        if file.is_file():
            assert b"very-secret" not in file.read_bytes(), file


@pytest.mark.parametrize("urls", ["[]", "[localhost:8000/v1]", "[ftp://x]"])
def test_addresses_of_the_run_must_be_some(project, serve, capsys, urls):
    project.ask(serve())
    assert project.build(f"cot.endpoints.stub={urls}") == 2
    assert "cot.endpoints.stub: " in capsys.readouterr().err


def test_an_offline_teacher_does_not_hold_up_the_served_one(project, serve):
    stub = serve(latency=0.1)
    served = {"kind": "openai", "model": "stub", "base_urls": [stub.url], "image_size": 16}
    # Every row prefers the offline one.
    weights = {"offline": 1e6, "served": 1.0}
    both = {"offline": {"kind": "attribute"}, "served": served}
    project.configure(both, teachers_per_row=2, concurrency=8, weights=weights)
    assert project.build() == 0
    assert stub.count == 40
    assert stub.most_in_flight >= 6


def test_a_missing_key_is_refused_before_anything_is_asked(project, serve, monkeypatch, capsys):
    monkeypatch.delenv("CLGRPO_TEST_KEY", raising=False)
    stub = serve()
    project.ask(stub, teacher={"api_key_env": "CLGRPO_TEST_KEY"})
    assert project.build() == 2
    assert "CLGRPO_TEST_KEY" in capsys.readouterr().err
    assert stub.requests == []


def test_everything_wrong_with_a_configuration_is_said_at_once(project, capsys):
    project.configure(
        {"t": {"kind": "openai", "model": "", "base_urls": ["ftp://x"], "top_p": 3}}, prompt="answer_hiden_v1"
    )
    assert project.build() == 2
    message = capsys.readouterr().err
    for part in ("model: missing", "'ftp://x' is not", "top_p: 3", "did you mean answer_hidden_v1?"):
        assert part in message


def test_confusions_must_name_labels_of_the_task(project, capsys):
    project.configure({"t": {"kind": "attribute", "confusions": {"joy": "awe"}, "confusion_rate": 0.5}})
    assert project.build() == 2
    assert "'joy' is not a label of task scenes" in capsys.readouterr().err


def test_two_builds_do_not_share_a_journal(project, capsys):
    from cot_builder.build.journal import ReplyCache

    project.configure({"t": {"kind": "attribute"}})
    with ReplyCache(project.cot / "journal"):
        assert project.build() == 2
    assert "another build is using this journal" in capsys.readouterr().err


def test_the_journal_holds_each_request_and_reply(project, serve):
    stub = serve()
    project.ask(stub, rows=5)
    project.build()
    with sqlite3.connect(project.cot / "journal" / "replies.sqlite") as journal:
        rows = journal.execute("SELECT row_id, teacher, attempt, request, reply FROM replies").fetchall()
    assert len(rows) == 5
    request, reply = json.loads(rows[0][3]), json.loads(rows[0][4])
    assert request["model"] == "stub"
    assert len(request["image_sha256"]) == 64
    assert "answer" in reply["text"]


def test_dry_run_writes_and_asks_nothing(project, serve, capsys):
    stub = serve()
    project.ask(stub)
    assert project.build("--dry-run") == 0
    assert "train[:40]: 40 rows" in capsys.readouterr().out
    assert stub.requests == []
    assert not project.cot.exists()


def test_stats_and_preview(project, serve, capsys):
    stub = serve()
    config = project.ask(stub)
    assert main(["stats", "--config", str(config)]) == 2
    assert "no build here yet" in capsys.readouterr().err
    for rows in ("0", "-1"):
        assert main(["preview", "--config", str(config), "--rows", rows]) == 2
        assert f"--rows: {rows} is less than 1" in capsys.readouterr().err
    assert stub.requests == []
    assert main(["preview", "--config", str(config), "--rows", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("stub, answer_given: ") == 3
    assert "its 40 rows come to about 40 in and 40 out" in shown
    page = (project.cot / "preview.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert project.build() == 0
    # The preview's three are not asked again.
    assert len(stub.requests) == 40
    assert main(["stats", "--config", str(config)]) == 0
    assert "complete" in capsys.readouterr().out
