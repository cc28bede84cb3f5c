"""Which rows of a data set are used, which are not and why, and how answers are judged."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.schema import TaskConfig
from pipeline.data import parquet_images
from pipeline.data.load import load_task, task_names
from pipeline.data.options import TaskOption, check_options
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.response import render
from pipeline.tasks import parquet
from pipeline.tasks.emoset import EMOTIONS
from pipeline.types import Split, labelled_image

REPOSITORY = Path(__file__).resolve().parents[4]
SHARED = REPOSITORY.parent / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name}: the measuring data are not part of the repository")
    return SHARED / name


def jpeg(number: int = 0) -> bytes:
    """A small JPEG, another one for each number."""
    buffer = io.BytesIO()
    seed = hashlib.sha256(str(number).encode()).digest()
    Image.frombytes("RGB", (16, 16), (seed * 24)[: 16 * 16 * 3]).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def reasons(split: Split) -> dict[str, str]:
    return {problem.id: problem.reason for problem in split.problems}


def ids(split: Split) -> list[str]:
    return [row.id for row in split.rows]


# --- slicing and judging -------------------------------------------------------------


def numbered(rows: int, labels: Sequence[str] = ("awe", "fear")) -> Task:
    examples = tuple(labelled_image(f"row-{n:04d}", Path("x"), labels[n * len(labels) // rows]) for n in range(rows))
    return labelled_task("toy", LabelSet.of(labels), "What?", ("train",), lambda _: Split(examples))


@pytest.mark.parametrize(
    ("first", "second"), [("[:40]", "[40:]"), ("[:10%]", "[10%:]"), ("[:33%]", "[33%:]"), ("[0:1]", "[1:]")]
)
def test_two_slices_share_no_row_and_lose_none(first: str, second: str) -> None:
    task = numbered(101)
    a, b = set(ids(task.select(f"train{first}"))), set(ids(task.select(f"train{second}")))
    assert not a & b
    assert a | b == set(ids(task.select("train")))
    assert len(a | b) == 101


@pytest.mark.parametrize(
    ("spec", "rows"),
    [("train", 200), ("train[:50%]", 100), ("train[10%:20%]", 20), ("train[190:]", 10), ("train[:900]", 200)],
)
def test_a_slice_has_the_rows_it_says(spec: str, rows: int) -> None:
    assert len(numbered(200).select(spec).rows) == rows


def test_a_slice_of_a_sorted_file_holds_every_class() -> None:
    labels = ("amusement", "awe", "anger", "fear")
    counts = Counter(row.gold for row in numbered(400, labels).select("train[:25%]").rows)
    assert min(counts[label] for label in labels) >= 10


def test_a_slice_does_not_depend_on_the_order_of_the_file() -> None:
    task = numbered(50)
    rows = task.read("train").rows
    turned = labelled_task("toy", task.labels, "What?", ("train",), lambda _: Split(rows[::-1]))
    assert task.select("train[:7]") == turned.select("train[:7]")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train[4000", "not of the form"),
        ("train[:1e3]", "not of the form"),
        ("train[-5:]", "not of the form"),
        ("train[5]", "not of the form"),
        ("", "not of the form"),
        ("training", "it has train"),
        ("train[:0]", "selects no row"),
        ("train[900:]", "has 20 usable rows"),
        ("train[10:5]", "selects no row"),
    ],
)
def test_a_wrong_slice_says_what_is_right(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        numbered(20).select(spec)


def test_every_gold_answer_is_judged_right_and_every_other_wrong() -> None:
    task = numbered(8, ("amusement", "awe", "t-shirt", "ankle_boot"))
    for gold in task.labels.names:
        for answer in task.labels.names:
            for style, text in (("think", render("because", answer)), ("direct", answer)):
                verdict = task.judge(labelled_image("", Path(), gold), text, style)
                assert (verdict.answer, verdict.correct, verdict.reason) == (answer, answer == gold, None)


@pytest.mark.parametrize(
    ("completion", "style", "reason"),
    [
        (render("awe it is", "the feeling of awe"), "think", "not_a_label"),
        (render("t", "awe or fear"), "think", "not_a_label"),
        ("awe", "think", "no_think"),
        ("<think>awe, clearly</think>", "think", "no_answer"),
        ("", "think", "empty"),
        (" ", "direct", "empty"),
        ("awe fear", "direct", "not_a_label"),
        ("awe or fear", "direct", "not_a_label"),
        (render("t", "awe or fear"), "direct", "not_a_label"),
    ],
)
def test_an_answer_nobody_can_read_is_wrong_and_says_why(completion: str, style: str, reason: str) -> None:
    verdict = numbered(2).judge(labelled_image("", Path(), "awe"), completion, style)
    assert (verdict.answer, verdict.correct, verdict.reason) == (None, False, reason)


@pytest.mark.parametrize("style", ["think", "direct"])
def test_the_prompt_offers_every_label(style: str) -> None:
    prompt = numbered(2).prompt(numbered(2).stand_ins("")[0], style)
    assert prompt.startswith("What? Options: awe, fear.")
    assert ("<answer>" in prompt) == (style == "think")


# --- finding tasks -------------------------------------------------------------------


def test_a_misspelled_task_names_the_nearest_there_is(tmp_path: Path) -> None:
    assert {"emoset", "imagefolder", "parquet"} <= set(task_names())
    assert not [name for name in task_names() if name.startswith("_")]
    with pytest.raises(UserError, match=r"did you mean emoset\?"):
        load_task(TaskConfig(name="emosett"), tmp_path)


def test_a_misspelled_option_and_a_wrong_choice_name_the_right_ones() -> None:
    allowed = {"id_column": TaskOption("id", ""), "mode": TaskOption("fast", "", ("fast", "slow"))}
    options = {"id_colum": 1, "zzz": 2, "id_column": 3, "mode": "fats"}
    with pytest.raises(UserError) as caught:
        check_options(TaskConfig(name="toy", options=options), allowed)
    assert caught.value.problems == [
        "task.options.id_colum: the toy task has no such option; did you mean id_column?",
        "task.options.zzz: the toy task has no such option; there are: id_column, mode",
        "task.options.mode: 'fats' is no mode; did you mean fast?",
    ]
    with pytest.raises(UserError, match=r"\['fast'\] is no mode"):
        check_options(TaskConfig(name="toy", options={"mode": ["fast"]}), allowed)


@pytest.mark.parametrize(
    ("name", "cure"),
    [("emoset", "github.com/JingyuanYY/EmoSet"), ("imagefolder", "<label>"), ("parquet", r"\.parquet")],
)
def test_missing_data_says_what_belongs_there(tmp_path: Path, name: str, cure: str) -> None:
    for path in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError, match=f"task.path.*{cure}"):
            load_task(TaskConfig(name=name, path=path), tmp_path / "cache")


@pytest.mark.parametrize("name", ["emoset", "imagefolder", "parquet"])
def test_every_reader_refuses_unknown_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"task\.options\.image_colunm"):
        load_task(TaskConfig(name=name, path=str(tmp_path), options={"image_colunm": "x"}), tmp_path)


def test_reading_data_never_loads_torch() -> None:
    code = "import sys; from pipeline.tasks import emoset, imagefolder, parquet; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


# --- emoset --------------------------------------------------------------------------


def emoset_folder(root: Path, rows: Sequence[object], info: object = None, split: str = "train") -> Path:
    info = info or {"emotion": {"label2idx": {"fear": 1, "awe": 0}}}
    put(root / "info.json", json.dumps(info))
    put(root / f"{split}.json", json.dumps(rows))
    return root


def emoset(root: Path, **keys: Any) -> Task:
    return load_task(TaskConfig(name="emoset", path=str(root), **keys), root.parent / "cache")


def row_of(name: str, emotion: str = "awe") -> list[str]:
    return [emotion, name, f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]


def test_an_emoset_folder_is_read(tmp_path: Path) -> None:
    root = emoset_folder(tmp_path / "data", [row_of("awe_1"), row_of("fear_2", "fear")])
    put(root / "image/awe/awe_1.jpg", jpeg())
    put(root / "image/fear/fear_2.jpg", jpeg())
    put(
        root / "annotation/awe/awe_1.json",
        json.dumps({"emotion": "awe", "valence": 6, "scene": "sky", "object": ["sun"]}),
    )
    put(root / "annotation/fear/fear_2.json", "{}")
    task = emoset(root)
    assert (task.labels.names, task.splits) == (("awe", "fear"), ("train",))
    assert task.question == "Which emotion does this image evoke?"
    split = task.read("train")
    assert split.problems == ()
    assert {row.text for row in split.rows} == {task.question}
    assert tuple(dataclasses.replace(row, text="") for row in split.rows) == (
        # Neither the emotion nor a rating it follows from may reach a teacher as an attribute.
        labelled_image("awe_1", root / "image/awe/awe_1.jpg", "awe", {"scene": "sky", "object": ["sun"]}),
        labelled_image("fear_2", root / "image/fear/fear_2.jpg", "fear", {}),
    )


def test_a_list_without_image_ids_gives_the_same_rows(tmp_path: Path) -> None:
    four = [row_of("awe_1"), row_of("fear_2", "fear")]
    root = emoset_folder(tmp_path / "data", four)
    put(root / "val.json", json.dumps([[row[0], *row[2:]] for row in four]))
    for emotion, name, image, annotation in four:
        put(root / image, jpeg())
        put(root / annotation, json.dumps({"scene": name + emotion}))
    task = emoset(root)
    assert task.read("val") == task.read("train")


def test_every_unusable_emoset_row_is_counted_by_reason(tmp_path: Path) -> None:
    outside = put(tmp_path / "secret.jpg", jpeg())
    names = [
        "good",
        "gone",
        "cut",
        "blank",
        "text",
        "label",
        "link",
        "notjson",
        "noannotation",
        "alist",
        "leak",
        "deep",
    ]
    rows: list[Any] = [row_of(name) for name in names]
    rows[5][0] = "joy"
    rows[10][3] = "../secret.json"
    rows += [["awe", "up", "../secret.jpg", "a.json"], ["awe", "absolute", str(outside), "a.json"]]
    rows += [row_of("good"), ["awe", "x.jpg"], ["awe", None, "x.jpg", "y.json"], "awe"]
    root = emoset_folder(tmp_path / "data", rows)
    for name in names:
        put(root / f"image/awe/{name}.jpg", jpeg())
        put(root / f"annotation/awe/{name}.json", '{"scene": "sky"}')
    (root / "image/awe/gone.jpg").unlink()
    put(root / "image/awe/cut.jpg", jpeg()[:-200])
    put(root / "image/awe/blank.jpg", "")
    put(root / "image/awe/text.jpg", "not found")
    (root / "image/awe/link.jpg").unlink()
    (root / "image/awe/link.jpg").symlink_to(outside)
    put(root / "annotation/awe/notjson.json", "{scene: sky")
    (root / "annotation/awe/noannotation.json").unlink()
    put(root / "annotation/awe/alist.json", "[]")
    put(root / "annotation/awe/deep.json", "[" * 100_000)
    put(tmp_path / "secret.json", '{"scene": "secret"}')

    split = emoset(root).read("train")
    assert reasons(split) == {
        "gone": "missing_image",
        "cut": "truncated_image",
        "blank": "empty_image",
        "text": "unreadable_image",
        "label": "unknown_label",
        "link": "outside_root",
        "up": "outside_root",
        "absolute": "outside_root",
        "good": "duplicate_id",
        "train.json[15]": "malformed_row",
        "train.json[16]": "malformed_row",
        "train.json[17]": "malformed_row",
        "notjson": "unreadable_annotation",
        "noannotation": "unreadable_annotation",
        "alist": "unreadable_annotation",
        "leak": "unreadable_annotation",
        "deep": "unreadable_annotation",
    }
    # A row without its annotation is still a labelled image.
    assert {row.id: row.attributes for row in split.rows} == {
        "good": {"scene": "sky"},
        "notjson": {},
        "noannotation": {},
        "alist": {},
        "leak": {},
        "deep": {},
    }
    assert all("row kept" in problem.detail for problem in split.problems if problem.reason == "unreadable_annotation")


def test_an_image_bomb_is_a_problem_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = emoset_folder(tmp_path / "data", [row_of("big"), row_of("small")])
    for name, size in (("big", (200, 200)), ("small", (10, 10))):
        (root / "image/awe").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / f"image/awe/{name}.jpg")
        put(root / f"annotation/awe/{name}.json", "{}")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10_000)
    split = emoset(root).read("train")
    assert (ids(split), reasons(split)) == (["small"], {"big": "decompression_bomb"})


def test_the_splits_are_those_whose_file_exists(tmp_path: Path) -> None:
    root = emoset_folder(tmp_path / "data", [], split="val")
    assert emoset(root).splits == ("val",)
    with pytest.raises(UserError, match="split 'train' does not exist; it has val"):
        emoset(root).select("train")


def test_what_takes_every_row_out_is_told_with_the_first_and_the_cure(tmp_path: Path) -> None:
    far = [put(tmp_path / "far" / f"{number}.jpg", jpeg()) for number in range(3)]
    for number, picture in enumerate(far):
        link = tmp_path / "linked" / "cat" / f"{number}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(picture)
    linked = folder_task(tmp_path / "linked")
    with pytest.raises(UserError, match=r"0 usable rows .*link that leaves .*linked: copy what it points to$"):
        linked.select(linked.splits[0])
    rows = [{"image": str(picture), "question": "What is it?", "answer": "cat"} for picture in far]
    file = put(tmp_path / "asked" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    inside = load_task(TaskConfig(name="questions", path=str(tmp_path / "asked")), tmp_path / "cache")
    with pytest.raises(
        UserError, match=r"\(problems: outside_root 3\); the first: .*/far/0.jpg is not inside .*set task.path to that$"
    ):
        inside.select("train")
    file.rename(tmp_path / "train.jsonl")
    above = load_task(TaskConfig(name="questions", path=str(tmp_path)), tmp_path / "cache")
    assert len(above.select("train").rows) == 3


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.json", "{", "train.json: not JSON"),
        ("train.json", "{}", "must be a list"),
        ("info.json", "[]", "label2idx"),
        ("info.json", '{"emotion": {"label2idx": ["awe"]}}', "label2idx"),
        ("info.json", '{"emotion": {"label2idx": {"awe": "first"}}}', "label2idx"),
    ],
)
def test_a_broken_index_file_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    root = emoset_folder(tmp_path / "data", [])
    put(root / file, text)
    with pytest.raises(UserError, match=message):
        emoset(root).select("train")


def test_labels_and_aliases_of_the_configuration_come_first(tmp_path: Path) -> None:
    root = emoset_folder(tmp_path / "data", [row_of("a"), row_of("b", "fear"), row_of("c", "Terror")])
    (root / "info.json").unlink()
    for emotion, name in (("awe", "a"), ("fear", "b"), ("Terror", "c")):
        put(root / f"image/{emotion}/{name}.jpg", jpeg())
        put(root / f"annotation/{emotion}/{name}.json", "{}")
    with pytest.raises(UserError, match=r"info\.json.*set task\.labels"):
        emoset(root)
    task = emoset(
        root, labels=["fear", "sadness"], aliases={"fear": ["terror"]}, descriptions={"fear": "mine"}, question="Q?"
    )
    assert (task.labels.names, task.question) == (("fear", "sadness"), "Q?")
    assert task.labels.descriptions["fear"] == "mine"
    assert task.labels.descriptions["sadness"]
    split = task.read("train")
    assert {row.id: row.gold for row in split.rows} == {"b": "fear", "c": "fear"}
    assert reasons(split) == {"a": "unknown_label"}
    with pytest.raises(UserError, match="would mean both"):
        emoset(root, labels=["fear", "Fear "])


@pytest.mark.parametrize(
    ("answer", "emotion"),
    [
        ("sad", "sadness"), ("Angry.", "anger"), ("fearful", "fear"), ("scared", "fear"), ("disgusted", "disgust"),
        ("excited", "excitement"), ("amused", "amusement"), ("content", "contentment"), ("awed", "awe"), ("in awe", "awe"),
        ("happy", None), ("calm", None), ("sad or angry", None), ("awesome", None), ("discontent", None), ("unafraid", None),
    ],
)  # fmt: skip
def test_emotions_said_as_adjectives_are_answers_and_no_mentions(
    tmp_path: Path, answer: str, emotion: str | None
) -> None:
    root = emoset_folder(tmp_path / "folder", [row_of("a")])
    (root / "info.json").write_text(
        json.dumps({"emotion": {"label2idx": {name: n for n, name in enumerate(EMOTIONS)}}})
    )
    copy = tmp_path / "copy"
    copy.mkdir()
    pq.write_table(
        pa.table({"image": [{"bytes": jpeg(), "path": "a.jpg"}], "image_id": ["a"], "emotion": ["awe"]}),
        copy / "train.parquet",
    )
    for place in (root, copy):
        task = emoset(place)
        for style in ("direct", "think"):
            text = answer if style == "direct" else render("look", answer)
            assert task.judge(labelled_image("", Path(), emotion or "awe"), text, style).answer == emotion
        assert (
            task.judge(labelled_image("", Path(), emotion or "awe"), f"The answer is {answer}.", "direct").answer
            == emotion
        )
        assert task.labels.mentioned("A sad, angry man; the content of the sign is exciting.") == []


def test_an_alias_of_the_configuration_comes_before_the_tasks_own_words(tmp_path: Path) -> None:
    root = emoset_folder(tmp_path / "data", [row_of("a")])
    task = emoset(root, labels=["sadness", "contentment"], aliases={"sadness": ["content"]})
    assert task.judge(labelled_image("", Path(), "sadness"), "content", "direct").correct
    assert task.judge(labelled_image("", Path(), "contentment"), "contented", "direct").correct


def test_classes_that_read_the_same_are_refused_all_at_once_where_they_were_found(tmp_path: Path) -> None:
    for name in ("red", "(red)", "hot dog", "hot dog!"):
        put(tmp_path / "data" / name / "1.jpg", jpeg())
    config = TaskConfig(name="imagefolder", path=str(tmp_path / "data"))
    with pytest.raises(
        UserError, match=r"task\.path: the labels of .*'hot dog!' would.*'red' would.*rename all but one"
    ):
        load_task(config, tmp_path / "cache")
    one = dataclasses.replace(config, labels=["red", "hot dog"])
    rows = [row for split in ("train", "test") for row in load_task(one, tmp_path / "cache").read(split).rows]
    assert sorted(row.gold for row in rows) == ["hot dog", "hot dog", "red", "red"]


def test_letters_of_two_cases_and_numbers_of_two_signs_are_classes(tmp_path: Path) -> None:
    for name in ("a", "A", "-5", "5"):
        put(tmp_path / "data" / name / "1.jpg", jpeg())
    task = load_task(TaskConfig(name="imagefolder", path=str(tmp_path / "data")), tmp_path / "cache")
    rows = [row for split in ("train", "test") for row in task.read(split).rows]
    assert sorted(row.gold for row in rows) == ["-5", "5", "A", "a"]
    assert not task.judge(labelled_image("", Path(), "-5"), "5", "direct").correct


def test_an_empty_selection_says_what_was_wrong_with_the_rows(tmp_path: Path) -> None:
    root = emoset_folder(tmp_path / "data", [row_of("a"), row_of("b")])
    with pytest.raises(UserError, match=r"0 usable rows \(problems: .*missing_image 2"):
        emoset(root).select("train")


def test_real_photographs_in_emoset_layout(tmp_path: Path) -> None:
    root = shared("oasis_emoset")
    task = load_task(TaskConfig(name="emoset", path=str(root)), tmp_path)
    split = task.read("val")
    assert (len(split.rows), split.problems) == (113, ())
    assert task.labels.names == ("contentment", "excitement", "fear", "sadness")
    assert all({"brightness", "colorfulness"} <= set(row.attributes) for row in split.rows)
    for row in split.rows:
        assert task.judge(row, render("…", row.gold), "think").correct


def test_the_published_three_field_list_of_emoset(tmp_path: Path) -> None:
    root = shared("emoset_meta")
    listed = json.loads((root / "val_three_fields.json").read_text())
    data = tmp_path / "data"
    put(data / "info.json", (root / "info.json").read_bytes())
    put(data / "val.json", json.dumps(listed[:200]))
    for _, image, _ in listed[:3]:
        put(data / image, jpeg())
    task = emoset(data)
    assert task.labels.names == ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
    split = task.read("val")
    assert ids(split) == [Path(image).stem for _, image, _ in listed[:3]]
    assert Counter(p.reason for p in split.problems) == {"unreadable_annotation": 200, "missing_image": 197}


# --- imagefolder ---------------------------------------------------------------------


def folder_task(root: Path, **keys: Any) -> Task:
    return load_task(TaskConfig(name="imagefolder", path=str(root), **keys), root.parent / "cache")


def test_folders_of_labels_in_folders_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for path in ("train/cat/1.jpg", "train/dog/2.JPEG", "test/cat/1.jpg", "test/owl/3.png"):
        put(root / path, jpeg())
    task = folder_task(root)
    assert (task.labels.names, set(task.splits)) == (("cat", "dog", "owl"), {"train", "test"})
    assert [(row.id, row.gold) for row in task.read("train").rows] == [
        ("train/cat/1.jpg", "cat"),
        ("train/dog/2.JPEG", "dog"),
    ]
    assert ids(task.read("test")) == ["test/cat/1.jpg", "test/owl/3.png"]
    with pytest.raises(UserError, match="has the splits test, train already"):
        folder_task(root, options={"test_share": 0.5})


def test_a_folder_without_splits_is_split_the_same_way_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "data"
    data = jpeg()
    for number in range(200):
        put(root / f"{'cat' if number % 2 else 'dog'}/{number}.jpg", data)
    task = folder_task(root)
    train, test = ids(task.read("train")), ids(task.read("test"))
    assert len({*train, *test}) == len(train) + len(test) == 200
    assert 25 <= len(test) <= 55
    put(root / "cat/new.jpg", data)
    again = folder_task(root)
    assert set(train) <= set(ids(again.read("train")))
    assert set(test) <= set(ids(again.read("test")))
    assert 80 <= len(folder_task(root, options={"test_share": 0.5}).read("test").rows) <= 120


@pytest.mark.parametrize("share", [0, 1, -0.1, "0.2", True, None])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: object) -> None:
    put(tmp_path / "data/cat/1.jpg", jpeg())
    with pytest.raises(UserError, match="between 0 and 1"):
        folder_task(tmp_path / "data", options={"test_share": share})


def test_files_out_of_place_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    secret = put(tmp_path / "secret.jpg", jpeg())
    put(tmp_path / "elsewhere/9.jpg", jpeg())
    put(root / "train/cat/good.jpg", jpeg())
    put(root / "train/cat/cut.jpg", jpeg()[:-200])
    put(root / "train/cat/notes.txt", "…")
    put(root / "train/cat/.DS_Store", "…")
    put(root / "train/cat/more/deep.jpg", jpeg())
    put(root / "README.md", "…")
    (root / "train/cat/link.jpg").symlink_to(secret)
    (root / "train/dog").symlink_to(tmp_path / "elsewhere")
    split = folder_task(root).read("train")
    assert ids(split) == ["train/cat/good.jpg"]
    assert reasons(split) == {
        "train/cat/cut.jpg": "truncated_image",
        "train/cat/notes.txt": "not_an_image",
        "train/cat/more": "misplaced_folder",
        "train/cat/link.jpg": "outside_root",
        "train/dog/9.jpg": "outside_root",
    }


def test_a_folder_of_both_layouts_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "data/cat/1.jpg", jpeg())
    put(tmp_path / "data/train/cat/1.jpg", jpeg())
    with pytest.raises(UserError, match="mixes two layouts"):
        folder_task(tmp_path / "data")


def test_a_file_is_no_image_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a file"):
        folder_task(put(tmp_path / "data.zip", b"PK"))


# --- parquet -------------------------------------------------------------------------


def table(
    root: Path, name: str, columns: dict[str, Any], features: dict[str, Any] | None = None, **types: pa.DataType
) -> Path:
    """Write a parquet file; `features` go where `datasets` keeps them."""
    arrow = pa.table({key: pa.array(values, types.get(key)) for key, values in columns.items()})
    if features:
        arrow = arrow.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow, root / name, row_group_size=3)
    return root / name


def parquet_task(root: Path, **keys: Any) -> Task:
    return load_task(TaskConfig(name="parquet", path=str(root), **keys), root.parent / "cache")


def extracted(cache: Path) -> Path:
    """Where the one parquet task of a test keeps the images of its train split."""
    (own,) = cache.glob("parquet-*")
    return own / "images" / "train"


def images(rows: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": jpeg(n), "path": f"{n}.png"} for n in range(start, start + rows)]


def test_a_parquet_folder_is_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(
        root, "train.parquet", {"image": images(5), "label": ["cat", "dog", "cat", "cat", "dog"], "id": list("abcde")}
    )
    table(root, "test.parquet", {"image": images(2, 5), "label": ["owl", "dog"], "id": list("fg")})
    task = parquet_task(root)
    assert (task.labels.names, task.splits) == (("cat", "dog", "owl"), ("train", "test"))
    split = task.read("train")
    assert [(row.id, row.gold) for row in split.rows] == list(
        zip("abcde", ["cat", "dog", "cat", "cat", "dog"], strict=True)
    )
    assert [row.images[0].read_bytes() for row in split.rows] == [jpeg(n) for n in range(5)]
    # By the bytes, not by the name they came with.
    assert {row.images[0].suffix for row in split.rows} == {".jpg"}
    assert {row.images[0].parent for row in split.rows} == {extracted(tmp_path / "cache")}


@pytest.mark.parametrize("folder", ["", "data"])
def test_shards_as_datasets_writes_them_make_one_split(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "data"
    for shard in range(2):
        table(
            root / folder,
            f"train-{shard:05d}-of-00002.parquet",
            {"image": images(2, 2 * shard), "label": ["cat", "dog"]},
        )
    split = parquet_task(root).read("train")
    assert ids(split) == ["train-0", "train-1", "train-2", "train-3"]
    assert split.problems == ()
    (root / folder / "train-00001-of-00002.parquet").unlink()
    split = parquet_task(root).read("train")
    assert (ids(split), reasons(split)) == (["train-0", "train-1"], {"train": "missing_shards"})


def test_a_single_parquet_file_is_a_split(tmp_path: Path) -> None:
    file = table(
        tmp_path / "data",
        "pets.parquet",
        {"picture": images(1), "kind": ["cat"], "name": ["Tom"], "age": [3], "fur": ["red"]},
    )
    options = {"image_column": "picture", "label_column": "kind", "id_column": "name", "attribute_columns": ["age"]}
    task = parquet_task(file, options=options)
    assert task.splits == ("pets",)
    (row,) = task.read("pets").rows
    assert (row.id, row.gold, row.attributes) == ("Tom", "cat", {"age": 3})


def test_integers_are_named_by_the_files_own_features(tmp_path: Path) -> None:
    names = ["shirt", "bag", "coat"]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table(tmp_path / "data", "train.parquet", {"image": images(4), "label": [2, 0, -1, 9]}, features)
    task = parquet_task(tmp_path / "data")
    assert task.labels.names == tuple(names)
    split = task.read("train")
    assert [row.gold for row in split.rows] == ["coat", "shirt"]
    assert reasons(split) == {"train-2": "missing_label", "train-3": "missing_label"}
    # Another order in the tables does not change what the numbers mean.
    turned = parquet_task(tmp_path / "data", labels=names[::-1]).read("train")
    assert [row.gold for row in turned.rows] == ["coat", "shirt"]


def test_integers_without_names_need_them(tmp_path: Path) -> None:
    table(tmp_path / "data", "train.parquet", {"image": images(2), "label": [1, 0]})
    with pytest.raises(UserError, match=r"set task\.labels to the names in index order"):
        parquet_task(tmp_path / "data")
    split = parquet_task(tmp_path / "data", labels=["shirt", "bag"]).read("train")
    assert [row.gold for row in split.rows] == ["bag", "shirt"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_are_images_too(tmp_path: Path, kind: pa.DataType) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "WEBP")
    table(tmp_path / "data", "train.parquet", {"image": [jpeg(), buffer.getvalue()], "label": ["a", "b"]}, image=kind)
    split = parquet_task(tmp_path / "data").read("train")
    assert [row.images[0].suffix for row in split.rows] == [".jpg", ".webp"]


def test_paths_in_a_parquet_file_stay_inside_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(root / "pictures/1.jpg", jpeg())
    secret = put(tmp_path / "secret.jpg", jpeg())
    (root / "link.jpg").symlink_to(secret)
    paths = ["pictures/1.jpg", "../secret.jpg", str(secret), "link.jpg", "pictures/gone.jpg", ""]
    for name, column in (("train.parquet", paths), ("test.parquet", [{"bytes": None, "path": path} for path in paths])):
        types = {} if name == "train.parquet" else {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
        table(root, name, {"image": column, "label": ["cat"] * 6}, **types)
    task = parquet_task(root)
    for name in ("train", "test"):
        split = task.read(name)
        assert [row.images[0] for row in split.rows] == [root / "pictures/1.jpg"]
        assert [p.reason for p in split.problems] == ["outside_root"] * 3 + ["missing_image"] * 2


def test_unusable_parquet_rows_are_counted(tmp_path: Path) -> None:
    bad = [jpeg()[:-200], b"", b"<html>", None, jpeg(5), jpeg(6), jpeg(7)]
    rows = {
        "image": [jpeg(), *bad],
        "label": ["cat"] * 5 + [None, "cat", "cat"],
        "id": ["a", "cut", "empty", "html", "none", "nolabel", "a", None],
    }
    table(tmp_path / "data", "train.parquet", rows)
    split = parquet_task(tmp_path / "data").read("train")
    assert ids(split) == ["a", "train-7"]
    assert reasons(split) == {
        "cut": "truncated_image",
        "empty": "empty_image",
        "html": "unreadable_image",
        "none": "missing_image",
        "nolabel": "missing_label",
        "a": "duplicate_id",
    }


def test_no_id_can_choose_where_its_image_is_written(tmp_path: Path) -> None:
    names = ["../../escape", "/etc/passwd", "a/b", ".", "x" * 5000, "a\0b"]
    table(tmp_path / "data", "train.parquet", {"image": images(6), "label": ["cat"] * 6, "id": names})
    split = parquet_task(tmp_path / "data").read("train")
    assert ids(split) == names
    assert {row.images[0].parent for row in split.rows} == {extracted(tmp_path / "cache")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]


def test_images_are_taken_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "data", "train.parquet", {"image": images(4), "label": list("abab")})
    task = parquet_task(tmp_path / "data")
    first = task.read("train")
    monkeypatch.setattr(parquet, "_extract", lambda *_: pytest.fail("taken out again"))
    assert task.read("train") == first
    assert parquet_task(tmp_path / "data").read("train") == first


def test_a_killed_extraction_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "data", "train.parquet", {"image": images(6), "label": list("ababab")})
    real = parquet_images.write_once
    written: list[str] = []

    def killed_at_the_fourth(folder: Path, data: bytes, extension: str) -> str:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(real(folder, data, extension))
        return written[-1]

    monkeypatch.setattr(parquet_images, "write_once", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        parquet_task(tmp_path / "data").read("train")
    folder = extracted(tmp_path / "cache")
    before = {name: (folder / name).stat().st_mtime_ns for name in written}
    monkeypatch.setattr(parquet_images, "write_once", real)
    assert len(parquet_task(tmp_path / "data").read("train").rows) == 6
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == before


def test_lost_and_replaced_data_are_noticed(tmp_path: Path) -> None:
    file = table(tmp_path / "data", "train.parquet", {"image": images(3), "label": list("aba")})
    task = parquet_task(tmp_path / "data")
    first = task.read("train")
    first.rows[0].images[0].unlink()
    assert task.read("train") == first
    # What a power cut can leave.
    os.truncate(first.rows[1].images[0], 0)
    assert task.read("train") == first
    table(tmp_path / "data", file.name, {"image": images(3, 10), "label": list("aba")})
    assert [row.images[0].read_bytes() for row in task.read("train").rows] == [jpeg(10), jpeg(11), jpeg(12)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": ["a"], "label": ["cat"]}, r"no column image; it has picture, label"),
        ({"image": [3], "label": ["cat"]}, "column image holds int64"),
        ({"image": ["a"], "label": [0.5]}, "column label holds double"),
        ({"image": ["a"], "label": ["..."]}, "empty after normalisation"),
    ],
)
def test_a_wrong_column_is_named_before_anything_is_read(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    table(tmp_path / "data", "train.parquet", columns)
    with pytest.raises(UserError, match=message):
        parquet_task(tmp_path / "data")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    put(tmp_path / "data/train.parquet", "version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"train\.parquet: not readable as parquet"):
        parquet_task(tmp_path / "data")


@pytest.mark.parametrize("label", ["names", "text", "numbers"])
def test_the_hubs_parquet_copy_of_emoset_is_read(tmp_path: Path, label: str) -> None:
    names = ["amusement", "anger", "awe"]
    features = {"emotion": {"names": names, "_type": "ClassLabel"}} if label == "names" else None
    emotion = {"names": [2, 1], "text": ["awe", "anger"], "numbers": [1, 4]}[label]
    columns = {"image": images(2), "image_id": ["awe_1", "anger_2"], "emotion": emotion}
    table(tmp_path / "data" / "data", "train-00000-of-00001.parquet", columns, features)
    task = emoset(tmp_path / "data", labels=["awe", "anger"] if label == "numbers" else None)
    assert (task.name, task.question) == ("emoset", "Which emotion does this image evoke?")
    assert task.labels.names[:2] == (("awe", "anger") if label == "numbers" else ("amusement", "awe"))
    assert task.labels.descriptions["awe"]
    assert [(row.id, row.gold) for row in task.read("train").rows] == [("awe_1", "awe"), ("anger_2", "anger")]


def test_real_pictures_in_parquet(tmp_path: Path) -> None:
    root = shared("fashion_mnist")
    task = load_task(TaskConfig(name="parquet", path=str(root)), tmp_path)
    assert task.splits == ("train", "val", "test")
    split = task.read("val")
    assert (len(split.rows), split.problems) == (600, ())
    assert "t-shirt" in task.labels.names
    for row in split.rows[:50]:
        assert task.judge(row, render("…", row.gold), "think").correct
