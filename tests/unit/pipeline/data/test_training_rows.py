"""The rows of a stage: a picture, a text or a row that is not what it was is named; a copy of the data is the same data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.data import images as images_module
from pipeline.data.conversations import assistant_turn, user_turn
from pipeline.data.image_digests import image_digests
from pipeline.data.training_rows import changes, data_lines, read_rows, write_rows


@pytest.fixture
def columns(tmp_path: Path) -> dict[str, list]:
    images = []
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode() * 100)
        images.append([str(tmp_path / f"{name}.png")])
    return {"id": ["a", "b", "c"], "prompt": ["Which?"] * 3, "images": images, "label": ["cat", "dog", "cat"]}


def test_the_same_rows_are_the_same_also_when_their_pictures_were_copied(columns, tmp_path):
    before = data_lines(columns, tmp_path / "cache")
    assert data_lines(columns, tmp_path / "cache") == before
    copies = [[shutil.copy(path, f"{path}.copy")] for (path,) in columns["images"]]
    assert changes(before, data_lines({**columns, "images": copies}, tmp_path / "cache")) == []


def test_a_row_of_one_picture_has_the_line_it_always_had_and_one_of_several_names_each(columns, tmp_path):
    several = {**columns, "images": [columns["images"][0], [], columns["images"][1] + columns["images"][2]]}
    one, none, two = data_lines(several, tmp_path / "cache").splitlines()
    # As runs wrote it whose rows had a column `image`.
    assert one == '"a"\t07d2cfb3e91067cf\t2816597888e4a0d3'
    assert none.split("\t")[2] == ""
    assert len(two.split("\t")[2].split(" ")) == 2
    turned = {**several, "images": [*several["images"][:2], several["images"][2][::-1]]}
    assert changes(data_lines(several, tmp_path / "cache"), data_lines(turned, tmp_path / "cache")) == [
        "1 of 3 images changed (first: c)"
    ]


def test_a_changed_picture_is_named_also_when_its_size_is_the_same(columns, tmp_path):
    before = data_lines(columns, tmp_path / "cache")
    Path(columns["images"][1][0]).write_bytes(b"x" * 100)
    assert changes(before, data_lines(columns, tmp_path / "cache")) == ["1 of 3 images changed (first: b)"]


def test_other_labels_and_rows_that_come_and_go_are_named(columns, tmp_path):
    before = data_lines(columns, tmp_path / "cache")
    other = {**columns, "id": ["a", "b", "d"], "label": ["dog", "dog", "cat"]}
    assert changes(before, data_lines(other, tmp_path / "cache")) == [
        "1 of 3 rows have another prompt, answer or completion (first: a)",
        "1 of 3 rows are gone (first: c)",
        "1 of 3 rows are new (first: d)",
    ]


def test_another_order_is_noticed_since_training_follows_it(columns, tmp_path):
    turned = {name: values[::-1] for name, values in columns.items()}
    before, after = (data_lines(rows, tmp_path / "cache") for rows in (columns, turned))
    assert changes(before, after) == ["the rows come in another order"]


def test_several_rows_of_one_id_are_told_apart(columns, tmp_path):
    twice = {**columns, "id": ["a", "a", "a"]}
    before = data_lines(twice, tmp_path / "cache")
    Path(columns["images"][2][0]).write_bytes(b"other")
    assert changes(before, data_lines(twice, tmp_path / "cache")) == ["1 of 3 images changed (first: a (3))"]


def test_an_unchanged_file_is_read_once(columns, tmp_path, monkeypatch):
    paths = [Path(path) for (path,) in columns["images"]]
    before = image_digests(paths, tmp_path / "digests.json")
    read: list[str] = []
    digest = images_module.file_digest
    monkeypatch.setattr(images_module, "file_digest", lambda path: read.append(str(path)) or digest(path))
    os.utime(paths[0], ns=(0, 0))
    assert image_digests(paths, tmp_path / "digests.json") == before
    assert read == [str(paths[0])]


def test_a_picture_that_is_gone_is_a_change_and_no_crash(columns, tmp_path):
    before = data_lines(columns, tmp_path / "cache")
    Path(columns["images"][0][0]).unlink()
    assert changes(before, data_lines(columns, tmp_path / "cache")) == ["1 of 3 images changed (first: a)"]


@pytest.mark.parametrize("rows", [2, 0])
def test_workers_read_the_very_rows_that_were_built(rows, tmp_path):
    columns = {
        "id": ["a", "ü"][:rows],
        "prompt": [user_turn("Which?"), user_turn('He said "0.1", \\n or {}')][:rows],
        "images": [["/a.png"], ["/b c.png", "/a.png"]][:rows],
        "completion": [assistant_turn("<think>…</think>"), assistant_turn("")][:rows],
        "label": ["12", "null"][:rows],
    }
    write_rows(tmp_path, columns, {"missing_image": 3})
    found, problems = read_rows(tmp_path)
    assert found == columns
    assert list(found) == list(columns)
    assert problems == {"missing_image": 3}
    before = (tmp_path / "rows.parquet").read_bytes()
    write_rows(tmp_path, columns, {"missing_image": 3})
    assert (tmp_path / "rows.parquet").read_bytes() == before
