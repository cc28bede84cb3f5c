"""Rows of questions as people have them: columns found by name, kinds inferred, marks read, what cannot be asked counted."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from question_files import SCHEMAS, cell, png, put, write_json, write_lines, write_parquet

from pipeline.config.schema import TaskConfig
from pipeline.data import parquet_images
from pipeline.data.conversations import grpo_columns
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.scoring.response import render
from pipeline.types import Question
from rewards import load_rewards


def load(root: Path, options: Mapping[str, Any] | None = None, **keys: Any) -> Task:
    return load_task(TaskConfig("questions", str(root), options=dict(options or {}), **keys), root.parent / "cache")


def only(benchmark: Task, split: str = "train") -> Question:
    found = benchmark.read(split)
    assert len(found.rows) == 1, found.problems
    return found.rows[0]


def asked(root: Path, row: Mapping[str, Any], options: Mapping[str, Any] | None = None, **keys: Any) -> Question:
    """The one question of a file with one row beside a.png."""
    put(root / "a.png")
    write_lines(root / "train.jsonl", [{"image": "a.png", "question": "What?", "answer": "a dog", **row}])
    return only(load(root, options, **keys))


def refused(root: Path, row: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Why the only row of a file is not asked."""
    put(root / "a.png")
    write_lines(root / "train.jsonl", [{"image": "a.png", "question": "What?", "answer": "a dog", **row}])
    found = load(root, options).read("train")
    assert not found.rows
    return found.problems[0].reason, found.problems[0].detail


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_published_form_is_read_as_it_is_meant(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    schema.write(tmp_path / "data", 3)
    benchmark = load(tmp_path / "data")
    (split,) = benchmark.splits
    found = benchmark.read(split)
    assert [problem.reason for problem in found.problems] == (["later_turns"] * 3 if name == "llava" else [])
    assert len({row.id for row in found.rows}) == 3
    row = found.rows[0]
    assert (row.text, row.options, row.answer, row.kind) == (schema.text, schema.options, schema.answer, schema.kind)
    assert len(row.images) == schema.pictures
    assert all(Image.open(image).size == (32, 32) for image in row.images)
    for said, right in ((schema.right, True), (schema.wrong, False)):
        assert benchmark.judge(row, render("I look.", said), "think").correct is right
        assert benchmark.judge(row, said, "direct").correct is right


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_reward_pays_a_right_completion_and_no_wrong_one(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    schema.write(tmp_path / "data", 2)
    task = load(tmp_path / "data")
    rows = task.read(task.splits[0]).rows
    columns = grpo_columns(task, rows, "think")
    assert [len(paths) for paths in columns["images"]] == [schema.pictures] * 2
    for turns in columns["prompt"]:
        parts = [part["type"] for turn in turns for part in turn["content"]]
        assert parts.count("image") == schema.pictures
        assert not any("<image" in part.get("text", "") for turn in turns for part in turn["content"])
    reward = load_rewards(["accuracy"], task)[0]
    completions = [[{"role": "assistant", "content": render("I look.", said)}] for said in (schema.right, schema.wrong)]
    assert reward(completions, **columns) == [1.0, 0.0]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_plan_tells_columns_kinds_and_the_first_two_rows(name: str, tmp_path: Path) -> None:
    schema = SCHEMAS[name]
    schema.write(tmp_path / "data", 3)
    benchmark = load(tmp_path / "data")
    said = "\n".join(benchmark.told())
    assert schema.told in said
    assert f"{benchmark.splits[0]}: 3 " in said
    assert said.count(f"gold {schema.answer}; ") == 2
    assert said.count(f"    {schema.text.splitlines()[0]}") == 2
    assert said.count("inside <answer> </answer>.") == 2
    assert not (tmp_path / "cache").exists(), "a plan takes no picture out"


def test_rows_of_many_kinds_are_counted_by_kind_and_reason(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    answers: list[Any] = [3, "12 cm", "yes", True, "a dog", "[1, 2]", "word " * 30, None]
    rows = [{"image": "a.png", "question": "What?", "answer": answer} for answer in answers]
    write_json(
        tmp_path / "data" / "train.json", [*rows, {**rows[0], "image": "../x.png"}, {**rows[0], "image": "b.png"}]
    )
    benchmark = load(tmp_path / "data")
    found = benchmark.read("train")
    assert Counter(row.kind for row in found.rows) == {"number": 2, "yes_no": 2, "text": 1, "list": 1}
    assert found.problem_counts == {"unfit_answer": 1, "missing_answer": 1, "outside_root": 1, "missing_image": 1}
    said = "\n".join(benchmark.told())
    assert (
        "train: 4 numbers, 2 of yes and no, 1 short texts, 1 lists; not asked: unfit_answer 1, missing_answer 1" in said
    )


def test_a_question_is_asked_by_its_kind(tmp_path: Path) -> None:
    question = asked(tmp_path / "data", {"answer": "12 cm", "precision": 1})
    prompt = load(tmp_path / "data").prompt(question, "direct")
    assert prompt == "What?\nAnswer with the number in cm with 1 decimal and nothing else."


@pytest.mark.parametrize(
    ("row", "options", "want"),
    [
        ({"answer": ["a", "b"], "ordered": True}, {}, ("list", '["a", "b"]', {"ordered": True})),
        ({"answer": "5", "tolerance": 2}, {}, ("number", "5", {"tolerance": 2})),
        ({"answer": "5 cm", "unit": "m"}, {}, ("number", "5", {"unit": "cm"})),
        ({"answer": "5"}, {"relative_tolerance": 0.05}, ("number", "5", {"relative_tolerance": 0.05})),
        ({"answer": "5"}, {"kind": "text"}, ("text", "5", {})),
        ({"answer": "5", "kind": "text"}, {}, ("text", "5", {})),
        ({"answer": "5", "problem_type": "free-form"}, {}, ("number", "5", {})),
        ({"answer": "no", "aliases": ["nope"]}, {}, ("yes_no", "no", {})),
        ({"answer": "dog", "aliases": ["puppy", "dog"]}, {}, ("text", "dog", {"aliases": ["puppy"]})),
        ({"answer": "\\boxed{dog}"}, {}, ("text", "dog", {})),
        ({"answer": "So 1 + 1\n#### 2"}, {}, ("number", "2", {})),
    ],
)
def test_the_kind_and_its_facts_are_what_the_data_say(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], want: tuple[str, str, dict[str, Any]]
) -> None:
    question = asked(tmp_path / "data", row, options)
    assert (question.kind, question.answer, question.facts) == want


def test_answers_of_ten_people_count_as_vqa_wants(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    said = ["dog"] * 5 + ["puppy"] * 3 + ["cat", "horse"]
    rows = [{"image": "a.png", "question": "What?", "answers": [{"answer": word} for word in said]}]
    write_lines(tmp_path / "data" / "train.jsonl", rows)
    question = only(load(tmp_path / "data"))
    assert (question.answer, question.facts) == ("dog", {"aliases": ["puppy"]})


def test_labels_of_the_configuration_close_the_answers(tmp_path: Path) -> None:
    labels = {"labels": ["cat", "dog"], "aliases": {"dog": ["puppy"]}}
    question = asked(tmp_path / "data", {"answer": "Puppy"}, **labels)
    assert (question.kind, question.answer, question.options) == ("label", "dog", ("cat", "dog"))
    benchmark = load(tmp_path / "data", **labels)
    assert benchmark.prompt(question, "direct") == "What? Options: cat, dog. Answer with one of them and nothing else."
    assert benchmark.chance(question) == 0.5
    assert benchmark.judge(question, "puppy", "direct").correct


def test_one_question_is_asked_of_every_row_where_the_configuration_says_so(tmp_path: Path) -> None:
    put(tmp_path / "data" / "train" / "a.png")
    (tmp_path / "data" / "train" / "metadata.csv").write_text("file_name,answer\na.png,a dog\n")
    question = only(load(tmp_path / "data", question="What is it?"))
    assert (question.text, question.answer, question.images[0].name) == ("What is it?", "a dog", "a.png")


# ---- where rows come from


def test_a_folder_that_datasets_saved_is_read_with_its_splits(tmp_path: Path) -> None:
    columns = {
        "images": datasets.Sequence(datasets.Image()),
        "problem": datasets.Value("string"),
        "answer": datasets.Value("string"),
    }
    rows = {
        "images": [[Image.new("RGB", (32, 32), "red")]] * 3,
        "problem": ["How many?"] * 3,
        "answer": ["1", "2", "3"],
    }
    one = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(str(tmp_path / "data"))
    benchmark = load(tmp_path / "data")
    assert benchmark.splits == ("train", "test")
    assert [len(benchmark.read(split).rows) for split in benchmark.splits] == [3, 1]
    assert "a picture in the file" in "\n".join(benchmark.told())


def test_files_and_folders_name_their_splits(tmp_path: Path) -> None:
    row = {"image": "images/a.png", "question": "What?", "answer": "a dog"}
    put(tmp_path / "data" / "images" / "a.png")
    for name in ("vqa_train.jsonl", "vqa-val.jsonl", "test-00000-of-00001.jsonl", "notes.jsonl"):
        write_lines(tmp_path / "data" / name, [row])
    benchmark = load(tmp_path / "data")
    assert benchmark.splits == ("train", "val", "test")
    assert "all rows are train" not in "\n".join(benchmark.told())
    assert any("notes.jsonl" in line for line in benchmark.told())


def test_without_names_of_splits_all_rows_are_train_and_the_plan_says_so(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    for name in ("clevr.jsonl", "geo.jsonl"):
        write_lines(tmp_path / "data" / name, [{"image": "a.png", "question": "What?", "answer": "a dog"}])
    benchmark = load(tmp_path / "data")
    assert [row.id for row in benchmark.read("train").rows] == ["train-0", "train-1"]
    assert "so all rows are train; slice it" in next(iter(benchmark.told()))


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "data" / "train-00000-of-00002.parquet", [{"image": cell(), "question": "Q?", "answer": "1"}]
    )
    assert load(tmp_path / "data").read("train").problem_counts == {"missing_shards": 1}


def test_pictures_in_turns_are_read(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    parts = [{"type": "image", "image": "file:///home/me/a.png"}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]}]
    write_lines(tmp_path / "data" / "train.jsonl", [{"messages": turns}])
    question = only(load(tmp_path / "data"))
    assert (question.text, question.answer, question.images) == ("What?", "a dog", (tmp_path / "data" / "a.png",))


def test_each_turn_may_be_asked_alone(tmp_path: Path) -> None:
    SCHEMAS["llava"].write(tmp_path / "data", 1)
    found = load(tmp_path / "data", {"turns": "each"}).read("train")
    assert [(row.id, row.kind, row.answer) for row in found.rows] == [("r0", "letter", "B"), ("r0-1", "text", "red")]
    assert found.problems == ()


def test_a_completion_of_turns_is_the_answer(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "a dog"}]}
    question = asked(tmp_path / "data", row, {"question_column": "prompt", "answer_column": "completion"})
    assert (question.text, question.answer) == ("What?", "a dog")


def test_an_id_that_is_not_one_is_completed_unless_it_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    rows = [{"id": 7, "image": "a.png", "question": "What?", "answer": word} for word in ("a dog", "a cat")]
    write_lines(tmp_path / "data" / "train.jsonl", rows)
    assert [row.id for row in load(tmp_path / "data").read("train").rows] == ["7", "7-1"]
    assert load(tmp_path / "data", {"id_column": "id"}).read("train").problem_counts == {"duplicate_id": 1}


def test_a_second_read_gives_the_same_rows(tmp_path: Path) -> None:
    SCHEMAS["mmmu_like"].write(tmp_path / "data", 2)
    benchmark = load(tmp_path / "data")
    assert benchmark.read("validation") == benchmark.read("validation") == load(tmp_path / "data").read("validation")


# ---- pictures as text, and options in columns of their own


def as_text(form: str) -> Any:
    code = base64.b64encode(png(7)).decode()
    forms: dict[str, Any] = {
        "base64": code,
        "in lines": "\n".join(code[i : i + 60] for i in range(0, len(code), 60)),
        "for addresses, unpadded": base64.urlsafe_b64encode(png(7)).decode().rstrip("="),
        "uri": f"data:image/png;base64,{code}",
        "bytes": {"bytes": code, "path": "/etc/passwd"},
        "url": {"url": f"data:image/png;base64,{code}"},
        "list": [code],
    }
    return forms[form]


@pytest.mark.parametrize("form", ["base64", "in lines", "for addresses, unpadded", "uri", "bytes", "url", "list"])
def test_a_picture_as_text_is_written_under_the_hash_of_its_bytes(tmp_path: Path, form: str) -> None:
    question = asked(tmp_path / "data", {"image": as_text(form)})
    (image,) = question.images
    assert image.read_bytes() == png(7)
    assert image.name == f"{hashlib.sha256(png(7)).hexdigest()[:32]}.png"
    assert (tmp_path / "cache") in image.parents
    assert question.cluster == image.name
    shutil.rmtree(tmp_path / "cache")
    benchmark = load(tmp_path / "data")
    said = "\n".join(benchmark.told())
    assert "a picture in the file" in said or form == "bytes"
    assert as_text("base64")[:40] not in said
    assert not benchmark.in_place
    assert not (tmp_path / "cache").exists(), "a plan takes no picture out"


def test_a_picture_as_text_in_parquet_and_in_a_turn_is_read(tmp_path: Path) -> None:
    rows = [{"image": as_text(form), "question": "What?", "answer": "a dog"} for form in ("base64", "uri")]
    write_parquet(tmp_path / "table" / "train.parquet", rows)
    parts = [{"type": "image_url", "image_url": as_text("url")}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a dog"}]
    write_lines(tmp_path / "turns" / "train.jsonl", [{"messages": turns}])
    found = [row for name in ("table", "turns") for row in load(tmp_path / name).read("train").rows]
    assert [[image.read_bytes() for image in row.images] for row in found] == [[png(7)]] * 3


def test_a_row_is_the_same_question_in_parquet_and_in_lines(tmp_path: Path) -> None:
    cells = [{"path": "/home/ann/data/a.png"}, {"path": "file://a.png"}, {"path": "a.png"}, {"path": "../a.png"}]
    rows = [{"image": cell, "question": "What?", "answer": "a dog", "id": str(n)} for n, cell in enumerate(cells)]
    write_parquet(tmp_path / "data" / "train.parquet", rows)
    write_lines(tmp_path / "data" / "lines" / "train.jsonl", rows)
    (tmp_path / "data" / "images").mkdir()
    tables = load(tmp_path / "data")
    assert not tables.read("train").rows
    for folder in (tmp_path / "data" / "images", tmp_path / "data" / "lines"):
        put(folder / "a.png")
    # A path is looked for at every read.
    found, lines = tables.read("train"), load(tmp_path / "data" / "lines").read("train")
    assert [one.id for one in found.rows] == [one.id for one in lines.rows] == ["0", "1", "2"]
    assert {image.name for one in found.rows for image in one.images} == {"a.png"}
    assert [one.reason for one in found.problems] == [one.reason for one in lines.problems] == ["outside_root"]


@pytest.mark.parametrize(("cell", "kind"), [({"bytes": [137, 80]}, "list"), (5, "int"), ({"path": 5}, "int")])
def test_what_is_no_picture_in_parquet_is_counted(tmp_path: Path, cell: Any, kind: str) -> None:
    write_parquet(tmp_path / "train.parquet", [{"image": cell, "question": "What?", "answer": "a dog"}])
    (problem,) = load(tmp_path, {"image_column": "image"}).read("train").problems
    assert (problem.reason, problem.detail) == (
        "missing_image",
        f"the picture is given as {kind}; bytes and text are read",
    )


def test_a_line_with_more_cells_than_columns_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("image,question,answer\na.png,Well, what?,a dog\na.png,What?,a cat\n")
    found = load(tmp_path)
    assert [row.answer for row in found.read("train").rows] == ["a cat"]
    assert "1 more cells than columns" in found.read("train").problems[0].detail
    assert "not asked: malformed_row 1" in "\n".join(found.told())


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("image,question,question,answer\na.png,What?,Why?,a dog\n", "several columns are called question"),
        (
            'image,question,answer\na.png,What?,a dog\na.png,"What?,a cat\na.png,Who?,a cat\n',
            "never closed opens in the row",
        ),
    ],
)
def test_a_table_of_which_something_would_be_lost_is_refused(tmp_path: Path, rows: str, told: str) -> None:
    (tmp_path / "train.csv").write_text(rows)
    with pytest.raises(UserError, match=f"not readable as csv rows: .*{told}"):
        load(tmp_path)


def test_lines_nested_too_deep_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("[" * 5000)
    with pytest.raises(UserError, match="not readable as jsonl rows"):
        load(tmp_path)


def test_a_picture_as_text_that_is_damaged_or_too_large_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = as_text("base64")
    assert refused(tmp_path / "data", {"image": code[:-40]})[0] == "truncated_image"
    monkeypatch.setattr(parquet_images, "MOST_EMBEDDED", 60)
    assert "characters, more than a picture of" in refused(tmp_path / "data", {"image": code})[1]


def test_options_are_read_from_columns_of_single_letters(tmp_path: Path) -> None:
    table = "index\timage\thint\tquestion\tA\tB\tC\tD\tE\tanswer\n"
    table += f"3\t{as_text('base64')}\tIt is night.\tWhat?\ta dog\ta cat\tA. nan\t\t\tB\n"
    table += f'4\t{as_text("base64")}\tnan\t"What\nnow?"\tA. 2\tB. 1\tnan\tnan\t\t1\n'
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mmbench_dev.tsv").write_text(table)
    benchmark = load(tmp_path / "data")
    first, second = benchmark.read("dev").rows
    assert first.text == "It is night.\nWhat?\n(A) a dog\n(B) a cat\n(C) A. nan"
    assert (first.id, first.kind, first.answer, first.options) == ("3", "letter", "B", ("a dog", "a cat", "A. nan"))
    assert (second.text, second.options, second.answer) == ("What\nnow?\n(A) 2\n(B) 1", ("2", "1"), "B")
    assert "options <- A, B, C, D, E" in "\n".join(benchmark.told())
    (row,) = load(tmp_path / "data", {"options_column": [], "hint_column": "index"}).select("dev[:1]").rows
    assert row.options == ()
    assert load(tmp_path / "data", {"options_column": ["A", "B"]}).read("dev").rows[0].options == ("a dog", "a cat")


def test_what_splits_lines_elsewhere_is_text_here(tmp_path: Path) -> None:
    put(tmp_path / "lines" / "a.png")
    row = {"image": "a.png", "question": "What\u2028is\x85it?", "answer": "a dog"}
    (tmp_path / "lines" / "train.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    put(tmp_path / "cells" / "a.png")
    (tmp_path / "cells" / "train.csv").write_text('image,question,answer\na.png,"What\nis it?",a dog\n')
    texts = [only(load(tmp_path / name)).text for name in ("lines", "cells")]
    assert texts == ["What\u2028is\x85it?", "What\nis it?"]


def test_an_option_that_only_a_later_row_has_is_read(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "A", "A": "x", "B": "y"}
    write_lines(tmp_path / "data" / "train.jsonl", [*[row] * 9, {**row, "C": "z"}])
    assert {row.options for row in load(tmp_path / "data").read("train").rows} == {("x", "y"), ("x", "y", "z")}


# ---- what is refused, and what is counted


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"image": None}, "missing_image", "it has no picture"),
        (
            {"image": ["a.png", "https://x.org/a.png"]},
            "remote_image",
            "download the pictures first and give their paths",
        ),
        ({"image": "data:image/png;base64,iVBORw0KGgo?"}, "unreadable_image", "is no picture as text"),
        ({"image": "data:text/plain,hello"}, "unreadable_image", "no known image format"),
        ({"A": "x", "B": "", "C": "z"}, "unusable_options", "option B is empty, and C is not"),
        ({"A": "x", "B": "nan", "C": None}, "unusable_options", "1 options"),
        ({"A": "x", "B": "y", "D": "z"}, "unusable_options", "option C is empty, and D is not"),
        ({"image": "/etc/passwd"}, "outside_root", "/etc/passwd is not inside"),
        ({"image": "x" * 300}, "missing_image", "xxx"),
        ({"image": "PHN2Zz4K" * 1000}, "unreadable_image", "of 8,000 characters is neither a path nor a picture"),
        ({"image": "\ud800.png"}, "malformed_row", "half a character"),
        ({"question": "What\udfff?"}, "malformed_row", "half a character"),
        ({"image": ["a.png", " https://x.org/a.png"]}, "remote_image", "is an address"),
        ({"image": ["a.png", "b.png"]}, "missing_image", "b.png"),
        ({"question": "<image> or <image>?"}, "missing_image", "the text marks picture 2, the row has 1"),
        ({"question": "<video> What?"}, "other_media", "<video>"),
        ({"question": "<image>"}, "missing_question", "no text"),
        ({"answer": ""}, "missing_answer", "no gold answer"),
        ({"answer": float("nan")}, "missing_answer", "no gold answer"),
        ({"answer": "y", "options": ["y", "y", "x"]}, "unusable_options", "'y' is the text of options A, B"),
        ({"answer": "a", "options": '{"a":' * 5000}, "malformed_row", "RecursionError"),
        ({"answer": "E", "options": ["a", "b"]}, "answer_not_an_option", "'E'"),
        ({"answer": "A", "options": ["a"]}, "unusable_options", "1 options"),
        ({"answer": ["A", "B"], "options": ["a", "b"]}, "several_answers", "2 options are right"),
        ({"answer": "a", "options": "{bad"}, "malformed_row", "JSONDecodeError"),
        ({"answer": "5", "tolerance": "little"}, "malformed_row", "'little'"),
        (
            {"question": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "a"}] * 2},
            "several_turns",
            "2 turns",
        ),
        ({"question": [{"role": "tool", "content": "A?"}]}, "malformed_row", "a turn of 'tool'"),
        ({"answer": "a dog", "kind": "number"}, "unfit_answer", "as number: 'a dog' is no number"),
    ],
)
def test_a_row_that_cannot_be_asked_is_counted_with_its_reason(
    tmp_path: Path, row: dict[str, Any], reason: str, detail: str
) -> None:
    found = refused(tmp_path / "data", row)
    assert found[0] == reason
    assert detail in found[1]


def test_columns_that_nobody_knows_are_all_told_at_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "train.jsonl", [{"bild": "a.png", "frage": "Was?", "antwort": "ein Hund"}])
    with pytest.raises(UserError) as error:
        load(tmp_path / "data")
    assert [problem.split(": say which with ")[1][:30] for problem in error.value.problems] == [
        "task.options.image_column",
        "task.options.question_column, ",
        "task.options.answer_column",
    ]
    put(tmp_path / "data" / "a.png")
    columns = {"image_column": "bild", "question_column": "frage", "answer_column": "antwort"}
    assert only(load(tmp_path / "data", columns)).text == "Was?"


def test_addresses_alone_are_refused_with_the_cure_before_a_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column image holds addresses of pictures.*download.* first.*pipeline fetch"):
        asked(tmp_path / "data", {"image": "https://x.org/a.png"})
    # Another column has the files.
    assert asked(tmp_path / "data", {"image": "https://x.org/a.png", "image_path": "a.png"}).images


def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.options\.answer_column: train\.jsonl has no column 'anser'; .*answer"):
        asked(tmp_path / "data", {}, {"answer_column": "anser"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, r"task\.options\.speed: the questions task has no such option"),
        ({"kind": "essay"}, r"task\.options\.kind: 'essay' is no kind"),
        ({"relative_tolerance": "5%"}, r"task\.options\.relative_tolerance: '5%' is not a number from 0 to 1"),
        ({"turns": "all"}, r"task\.options\.turns: 'all' is no turns"),
        ({"id_column": ["id", "uid"]}, r"task\.options\.id_column: .* is not a name"),
        (
            {"image_column": {"a": 1}, "group_columns": "task"},
            r"a list of names\n.*group_columns: .task. is not a list",
        ),
        ({"group_columns": ["taks"]}, r"task\.options\.group_columns: train\.jsonl has no column 'taks'"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked(tmp_path / "data", {"task": "Count"}, options)


def test_groups_are_the_columns_that_were_asked_for(tmp_path: Path) -> None:
    question = asked(tmp_path / "data", {"task": "Count", "source": None}, {"group_columns": ["task", "source"]})
    assert question.groups == {"task": "Count", "source": ""}


@pytest.mark.parametrize(("value", "name"), [(0, "0"), (False, "False"), (0.0, "0.0"), ("", ""), (None, "")])
def test_a_group_may_be_zero_or_false(value: Any, name: str, tmp_path: Path) -> None:
    assert asked(tmp_path / "data", {"level": value}, {"group_columns": ["level"]}).groups == {"level": name}


def test_an_empty_folder_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="holds none of the files"):
        load(tmp_path / "data")
    (tmp_path / "data" / "train.json").write_text("[]")
    with pytest.raises(UserError, match="holds no rows"):
        load(tmp_path / "data")
    (tmp_path / "data" / "train.json").write_text("{")
    with pytest.raises(UserError, match="not readable as json rows"):
        load(tmp_path / "data")


def test_questions_about_one_picture_stay_together_on_every_machine(tmp_path: Path) -> None:
    rows = [
        {"image": f"{i}.png", "question": f"{word}?", "answer": "a dog"} for word in ("What", "Who") for i in range(9)
    ]
    chosen = []
    for machine in ("one", "two"):
        for i in range(9):
            put(tmp_path / machine / f"{i}.png", i)
        write_lines(tmp_path / machine / "train.jsonl", rows)
        task = load(tmp_path / machine)
        chosen.append([row.id for row in task.select("train[:8]").rows])
        assert {row.cluster for row in task.select("train[:8]").rows}.isdisjoint(
            row.cluster for row in task.select("train[8:]").rows
        )
    assert chosen[0] == chosen[1]


def test_json_with_rows_under_a_key_is_read(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    rows = [{"image": "a.png", "question": "What?", "answer": "a dog"}]
    (tmp_path / "data" / "train.json").write_text(json.dumps({"version": 1, "data": rows}))
    assert only(load(tmp_path / "data")).answer == "a dog"


LATER_COLUMNS = {"options": ["a dog", "a cat"], "choices": ["a dog", "a cat"], "A": "a dog", "B": "a cat"}


@pytest.mark.parametrize("names", [("options",), ("choices",), ("A", "B")])
@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
def test_options_that_the_first_rows_have_not_are_read(names: tuple[str, ...], form: str, tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "a dog"}
    rows = [dict(row) for _ in range(20)] + [{**row, "answer": "B", **{name: LATER_COLUMNS[name] for name in names}}]
    if form == "parquet":
        write_parquet(tmp_path / "a.parquet", [{**dict.fromkeys(names), **row} for row in rows])
    else:
        (write_lines if form == "jsonl" else write_json)(tmp_path / f"a.{form}", rows)
    task = load(tmp_path)
    *free, chosen = task.read("train").rows
    assert {row.kind for row in free} == {"text"}
    assert (chosen.kind, chosen.options, chosen.answer) == ("letter", ("a dog", "a cat"), "B")
    assert any(line.startswith("train: 1 letters, 20 short texts") for line in task.told())


def test_a_picture_that_the_first_rows_have_not_is_found_and_they_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    row = {"question": "What?", "answer": "a dog"}
    write_lines(tmp_path / "train.jsonl", [*[row] * 9, {**row, "image": "a.png"}])
    found = load(tmp_path).read("train")
    assert [row.id for row in found.rows] == ["train-9"]
    assert found.problem_counts == {"missing_image": 9}


def test_columns_of_the_first_rows_come_before_those_of_later_ones(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    row = {"question": "What?", "answer": "a dog"}
    write_lines(tmp_path / "train.jsonl", [*[{**row, "image": "a.png"}] * 9, {**row, "images": ["a.png"]}])
    found = load(tmp_path).read("train")
    assert len(found.rows) == 9
    assert found.problem_counts == {"missing_image": 1}


@pytest.mark.parametrize("empty", ["images", "decoded_image"])
def test_a_column_of_pictures_without_any_is_not_taken_for_them(empty: str, tmp_path: Path) -> None:
    assert asked(tmp_path, {empty: None}).images == (tmp_path / "a.png",)


def test_a_picture_in_the_file_is_taken_before_its_path_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    row = {"image": "images/1.jpg", "decoded_image": cell(), "question": "What?", "answer": "3"}
    write_parquet(tmp_path / "train.parquet", [row])
    assert only(load(tmp_path)).images[0].suffix == ".png"


@pytest.mark.parametrize(
    ("rows", "want", "code"),
    [
        # As ScienceQA and AI2D: the second row alone would be read as a text.
        ([(["dog", "cat", "cow"], 0), (["1", "2", "3"], 1), (["4", "2", "3"], "2")], "ABC", "counted from 0"),
        ([(["dog", "cat", "cow"], 1), (["dog", "cat", "cow"], 2), (["2", "1", "3"], "3")], "ABC", "counted from 1"),
        ([(["E", "F", "B", "A"], "A"), (["dog", "cat"], "cat")], "DB", "the texts of options"),
        ([(["2", "1"], 1), (["7", "5"], "5")], "BB", "the texts of options"),
        # Where nothing tells, a letter comes before a text, and a text before a place from 0.
        ([(["B", "A"], "A"), (["dog", "cat"], "B")], "AB", "the letters of options"),
        ([(["2", "1", "0"], 1), (["1", "0", "2"], 2)], "BC", None),
        ([(["dog", "cat", "cow"], 1)], "B", None),
        ([(["dog", "cat"], "B"), (["dog", "cat"], "dog"), (["2", "1"], 1)], "BAB", None),
    ],
)
def test_all_rows_say_which_option_an_answer_means_that_may_be_several(
    rows: list[tuple[list[str], Any]], want: str, code: str | None, tmp_path: Path
) -> None:
    put(tmp_path / "a.png")
    write_lines(
        tmp_path / "train.jsonl",
        [{"image": "a.png", "question": "Which?", "options": options, "answer": answer} for options, answer in rows],
    )
    task = load(tmp_path)
    found = task.read("train")
    assert "".join(str(row.answer) for row in found.rows) == want
    assert not found.problems
    told = [line for line in load(tmp_path).told() if "answers that could mean several options" in line]
    assert (code in told[0]) if code else not told


@pytest.mark.parametrize(
    "options",
    [{"1": "a dog", "2": "a cat"}, '{"1": "a dog", "2": "a cat"}', {"text": ["a dog", "a cat"], "label": ["1", "2"]}],
)
def test_options_with_names_of_their_own_are_chosen_by_them(options: Any, tmp_path: Path) -> None:
    assert asked(tmp_path, {"options": options, "answer": "1"}).answer == "A"
    assert asked(tmp_path, {"options": options, "answer": "a cat"}).answer == "B"


def test_an_empty_cell_of_a_table_is_no_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    (tmp_path / "train.csv").write_text(
        "image_1,image_2,question,answer\na.png,,What?,3\na.png,b.png,What?,4\n,,What?,5\n"
    )
    found = load(tmp_path).read("train")
    assert [len(row.images) for row in found.rows] == [1, 2]
    assert found.problem_counts == {"missing_image": 1}


@pytest.mark.parametrize("embedded", [False, True])
def test_a_list_of_pictures_that_a_table_holds_as_text_is_read(embedded: bool, tmp_path: Path) -> None:
    named = []
    for number, name in enumerate(("a.png", "b.png")):
        put(tmp_path / "data" / name, number)
        named.append(base64.b64encode(png(number)).decode() if embedded else name)
    (tmp_path / "data" / "train.tsv").write_text(
        f"image\tquestion\tanswer\n{named}\tWhich?\t3\n{named[:1]}\tWhat?\t4\n"
    )
    task = load(tmp_path / "data")
    assert [len(row.images) for row in task.read("train").rows] == [2, 1]
    assert task.in_place is not embedded
    assert any("(number; gold 3; " in line for line in task.told())


def test_a_picture_whose_name_looks_like_a_list_is_a_path(tmp_path: Path) -> None:
    put(tmp_path / "[1].png")
    put(tmp_path / "[b]")
    write_lines(
        tmp_path / "train.jsonl",
        [{"image": name, "question": "What?", "answer": "3"} for name in ("[1].png", "[b]")],
    )
    assert [row.images[0].name for row in load(tmp_path).read("train").rows] == ["[1].png", "[b]"]
