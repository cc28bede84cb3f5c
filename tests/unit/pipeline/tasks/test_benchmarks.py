"""Benchmarks are read in the hub's schema and in local copies of it; what cannot be asked is counted; prompts and scores hold."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task, task_names
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.tasks.vcr import sentence
from pipeline.types import Question, Split

BENCHMARKS = ("cv_bench", "mathvista", "mmmu", "mmmu_pro", "mmstar", "vcr")


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(color))
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def picture(color: int = 0) -> dict[str, Any]:
    return {"bytes": png(color), "path": None}


def load(name: str, root: Path, **options: Any) -> Task:
    return load_task(TaskConfig(name=name, path=str(root), options=options), root.parent / "cache")


def predictions(benchmark: Task, split: str, answers: dict[str, str]) -> list[dict[str, Any]]:
    """Prediction rows as an evaluation keeps them."""
    rows = []
    for question in benchmark.read(split).rows:
        verdict = benchmark.judge(question, answers[question.id], "direct")
        rows.append(
            {
                "id": question.id,
                "groups": dict(question.groups),
                "correct": verdict.correct,
                "guessed": verdict.guessed,
            }
        )
    return rows


# ---- all of them


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_data_are_named_with_where_to_get_them(name: str, tmp_path: Path) -> None:
    for config in (TaskConfig(name=name), TaskConfig(name=name, path=str(tmp_path))):
        with pytest.raises(UserError) as error:
            load_task(config, tmp_path / "cache")
        assert "https://" in str(error.value)
        assert len(error.value.problems) == 1
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_mistyped_option_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.options\.speed: the \w+ task has no such option"):
        load(name, tmp_path, speed=1)


def test_every_benchmark_is_a_task_file() -> None:
    assert set(BENCHMARKS) <= set(task_names())


def test_a_labelled_image_set_is_a_benchmark_too(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        put(tmp_path / "data" / "test" / label / "1.png")
    benchmark = load_task(TaskConfig(name="imagefolder", path=str(tmp_path / "data")), tmp_path / "cache")
    row = next(row for row in benchmark.read("test").rows if row.answer == "cat")
    assert benchmark.judge(row, "Cat.", "direct").correct
    assert benchmark.chance(row) == 0.5
    assert benchmark.labels is not None


def test_a_split_that_scores_are_of_is_not_trained_on(tmp_path: Path) -> None:
    benchmark = cv_bench(tmp_path / "data")
    assert benchmark.untrainable == benchmark.splits == ("test", "2d", "3d")
    for split in ("test", "2d[:2]"):
        with pytest.raises(UserError) as refused:
            benchmark.select_for_training(split)
        assert repr(split) in str(refused.value)
        assert "bring rows of the same columns as train.parquet or train.jsonl, and name this one in held_out" in str(
            refused.value
        )


def test_rows_that_a_benchmark_is_built_from_are_a_train_split(tmp_path: Path) -> None:
    cv_bench(tmp_path / "data")
    own = [cv_row(90 + i, "2D", "Count", "COCO", image=picture(90 + i)) for i in range(3)]
    table(tmp_path / "data" / "train.parquet", own)
    benchmark = load("cv_bench", tmp_path / "data")
    assert benchmark.splits == ("test", "2d", "3d", "train")
    assert {row.id for row in benchmark.select_for_training("train").rows} == {"90", "91", "92"}
    assert len(benchmark.read("test").rows) == 8
    with pytest.raises(
        UserError, match=r"'test' is what published scores of cv_bench are of.*train on train, and name"
    ):
        benchmark.select_for_training("test")


def test_rows_without_a_published_answer_are_counted_and_not_trained_on(tmp_path: Path) -> None:
    rows = [Question("1", (), answer="A"), Question("2", ())]
    some = Task("t", ("train",), lambda _: Split(tuple(rows)))
    found = some.select_for_training("train")
    assert ([row.id for row in found.rows], found.problem_counts, found.whole) == (["1"], {"no_answer": 1}, 2)
    none = Task("t", ("train",), lambda _: Split(tuple(rows[1:])))
    with pytest.raises(UserError, match="the answers of its rows are not published"):
        none.select_for_training("train")


# ---- CV-Bench


def cv_row(idx: int, kind: str, task: str, source: str, answer: str = "(A)", **more: Any) -> dict[str, Any]:
    return {
        "idx": idx,
        "type": kind,
        "task": task,
        "question": "How many cups are in the image?",
        "choices": ["3", "2", "1", "0", "4"],
        "answer": answer,
        "prompt": "How many cups are in the image? Select from the following choices.\n(A) 3\n(B) 2\n(C) 1\n(D) 0\n(E) 4",
        "source": source,
        **more,
    }


def cv_bench(root: Path) -> Task:
    two = [cv_row(i, "2D", "Count", source, image=picture(i)) for i, source in enumerate(["ADE20K"] * 4 + ["COCO"] * 2)]
    three = [cv_row(10 + i, "3D", "Depth", "Omni3D", image=picture(50 + i)) for i in range(2)]
    table(root / "test_2d.parquet", two)
    table(root / "test_3d.parquet", three)
    return load("cv_bench", root)


def test_cv_bench_reads_the_hub_files(tmp_path: Path) -> None:
    benchmark = cv_bench(tmp_path / "data")
    found = benchmark.read("test")
    assert len(found.rows) == 8
    assert not found.problems
    assert [len(benchmark.read(split).rows) for split in ("2d", "3d")] == [6, 2]
    row = found.rows[0]
    assert (row.options, row.answer) == (("3", "2", "1", "0", "4"), "A")
    assert row.images[0].read_bytes() == png(0)
    assert benchmark.chance(row) == 0.2
    assert benchmark.prompt(row, "direct").endswith(
        "(E) 4\nAnswer with the option's letter from the given choices directly."
    )
    assert benchmark.prompt(row, "think").count("(E) 4") == 1
    assert benchmark.read("test") == found


def test_cv_bench_official_score_weights_its_sources(tmp_path: Path) -> None:
    benchmark = cv_bench(tmp_path / "data")
    # ADE20K 1/4, COCO 2/2, Omni3D 1/2
    right = {"0", "4", "5", "10"}
    rows = predictions(
        benchmark, "test", {row.id: "A" if row.id in right else "B" for row in benchmark.read("test").rows}
    )
    scores = benchmark.official(rows)
    assert scores["2D"] == pytest.approx((25 + 100) / 2)
    assert scores["official"] == pytest.approx((62.5 + 50) / 2)
    assert scores["micro"] == pytest.approx(50)
    assert scores["Count"] == pytest.approx(50)
    assert "official" not in benchmark.official([row for row in rows if row["groups"]["source"] != "COCO"])
    assert benchmark.official([]) == {}


def test_cv_bench_reads_rows_beside_a_folder_of_pictures(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(root / "img" / "2D" / "count" / "ade20k_10.png")
    row = cv_row(3, "2D", "Count", "ADE20K", filename="img/2D/count/ade20k_10.png")
    lines(root / "test_2d.jsonl", [row])
    (found,) = load("cv_bench", root).read("test").rows
    assert found.images == (root / "img" / "2D" / "count" / "ade20k_10.png",)


def test_cv_bench_reads_a_republished_subset(tmp_path: Path) -> None:
    """Options in the text, the source only in the picture's name, paths of another machine."""
    root = tmp_path / "data"
    put(root / "img" / "3D" / "depth" / "omni3d_hypersim_52.jpg")
    row = {
        "question": "Which is closer, the door (in a red box) or the lamp?\n(A) door\n(B) lamp\nThe boxes are: red: [1, 2]",
        "answer": "(B)",
        "img_paths": ["./dataset/CV-Bench/img/3D/depth/omni3d_hypersim_52.jpg"],
        "source": "cvbench",
        "index_origin": 1490,
        "category_origin": "Depth",
    }
    (root / "cv_bench_rows.json").write_text(json.dumps([row]))
    benchmark = load("cv_bench", root)
    (found,) = benchmark.read("test").rows
    assert (found.options, found.answer, found.groups["source"], found.id) == (("door", "lamp"), "B", "Omni3D", "1490")
    assert benchmark.prompt(found, "direct").count("(A) door") == 1
    assert benchmark.judge(found, "The lamp is closer.", "direct").correct


def test_every_published_row_of_cv_bench_is_asked(shared_data: Path, tmp_path: Path) -> None:
    rows = json.loads((shared_data / "cv_bench_rows.json").read_text())
    for row in rows:
        put(tmp_path / "data" / row["img_paths"][0].split("CV-Bench/")[1])
    (tmp_path / "data" / "cv_bench_rows.json").write_text(json.dumps(rows))
    benchmark = load("cv_bench", tmp_path / "data")
    found = benchmark.read("test")
    assert (len(found.rows), found.problems) == (len(rows), ())
    assert Counter(row.groups["task"] for row in found.rows) == Counter(row["category_origin"] for row in rows)
    for row in found.rows:
        for style in ("direct", "think"):
            assert all(
                benchmark.prompt(row, style).count(f"({letter}) ") == 1 for letter in "ABCDEF"[: len(row.options)]
            )
        answer = row.options["ABCDEF".index(row.answer or "")]
        assert benchmark.judge(row, f"({row.answer}) {answer}", "direct").correct
        assert benchmark.judge(row, answer, "direct").correct
    nothing = load("cv_bench", _only_rows(tmp_path / "bare", rows)).read("test")
    assert nothing.problem_counts == {"missing_image": len(rows)}


def _only_rows(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir()
    (root / "cv_bench_rows.json").write_text(json.dumps(rows))
    return root


# ---- rows that cannot be asked


def test_rows_that_cannot_be_asked_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(root / "ok.png")
    (root / "cut.png").write_bytes(png()[:40])
    rows = [
        cv_row(0, "2D", "Count", "COCO", filename="ok.png"),
        cv_row(1, "2D", "Count", "COCO", filename="gone.png"),
        cv_row(2, "2D", "Count", "COCO", filename="cut.png"),
        cv_row(3, "2D", "Count", "COCO", filename="../../etc/passwd"),
        cv_row(4, "2D", "Count", "COCO", filename=None),
        cv_row(5, "2D", "Count", "COCO", "(Q)", filename="ok.png"),
        {**cv_row(6, "2D", "Count", "COCO", filename="ok.png"), "choices": "[3, 2"},
        cv_row(0, "2D", "Count", "COCO", filename="ok.png"),
        {**cv_row(7, "2D", "", "COCO", filename="ok.png")},
    ]
    lines(root / "test.jsonl", rows)
    benchmark = load("cv_bench", root)
    found = benchmark.read("test")
    assert [row.id for row in found.rows] == ["0"]
    assert sum(found.problem_counts.values()) == len(rows) - 1
    assert {problem.id: problem.reason for problem in found.problems} == {
        "1": "missing_image",
        "2": "unreadable_image",
        "3": "outside_root",
        "4": "missing_image",
        "5": "answer_not_an_option",
        "6": "malformed_row",
        "0": "duplicate_id",
        "7": "malformed_row",
    }


def test_a_damaged_picture_inside_parquet_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [cv_row(i, "2D", "Count", "COCO", image=picture(i)) for i in range(3)]
    rows[1]["image"] = {"bytes": b"nonsense", "path": None}
    rows[2]["image"] = {"bytes": None, "path": None}
    table(root / "test.parquet", rows)
    found = load("cv_bench", root).read("test")
    assert [row.id for row in found.rows] == ["0"]
    assert found.problem_counts == {"unreadable_image": 1, "missing_image": 1}


def test_a_missing_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    table(tmp_path / "data" / "test_2d.parquet", [{"idx": 1, "question": "?", "image": picture()}])
    with pytest.raises(UserError, match="has no column answer; it has idx, question, image"):
        load("cv_bench", tmp_path / "data").read("test")


def test_a_missing_shard_is_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "data" / "testmini-00000-of-00002.parquet", [math_row("1", decoded_image=picture())])
    assert load("mathvista", root).read("testmini").problem_counts == {"missing_shards": 1}


def test_pictures_are_taken_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = cv_bench(tmp_path / "data")
    first = benchmark.read("test")
    monkeypatch.setattr("pipeline.data.questions.read.taken_out", lambda *_: pytest.fail("taken out again"))
    assert benchmark.read("test") == first
    monkeypatch.undo()
    first.rows[0].images[0].unlink()
    assert benchmark.read("test") == first
    assert first.rows[0].images[0].read_bytes() == png(0)


# ---- MMMU


def mmmu_row(number: int, subject: str = "Math", **more: Any) -> dict[str, Any]:
    return {
        "id": f"validation_{subject}_{number}",
        "question": "What is shown in <image 1>?",
        "options": "['a cat', 'a dog', 'a cow', 'a pig', 'an emu', 'an ant', 'a bee', 'a fox', 'a yak']",
        "answer": "I",
        "question_type": "multiple-choice",
        "subfield": "Zoo",
        "topic_difficulty": "Easy",
        **{f"image_{place}": None for place in range(1, 8)},
        "image_1": picture(number),
        **more,
    }


def test_mmmu_keeps_every_picture_and_every_option(tmp_path: Path) -> None:
    root = tmp_path / "data"
    row = mmmu_row(
        1,
        question="Compare <image 2> with <image 1>, see <image 2>.",
        options="['<image 3>', 'B is <image 4>', 'x']",
        answer="B",
        **{f"image_{place}": picture(place) for place in range(1, 6)},
    )
    table(root / "Math" / "validation-00000-of-00001.parquet", [row, mmmu_row(2)])
    benchmark = load("mmmu", root)
    many, nine = benchmark.read("validation").rows
    assert [image.read_bytes() for image in many.images] == [png(place) for place in (2, 1, 3, 4, 5)]
    assert "Compare <image 1> with <image 2>, see <image 1>." in many.text
    assert "(A) <image 3>\n(B) B is <image 4>" in many.text
    assert len(nine.options) == 9
    assert "(I) a yak" in benchmark.prompt(nine, "direct")
    assert benchmark.judge(nine, "(I)", "direct").correct
    assert benchmark.chance(nine) == pytest.approx(1 / 9)


def test_mmmu_reads_subjects_from_one_file_and_keeps_those_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "data" / "validation-00000-of-00001.parquet", [mmmu_row(1), mmmu_row(1, "Art_Theory")])
    assert [row.groups["subject"] for row in load("mmmu", root).read("validation").rows] == ["Math", "Art_Theory"]
    (row,) = load("mmmu", root, subjects=["Art_Theory"]).read("validation").rows
    assert row.groups["domain"] == "Art and Design"
    with pytest.raises(UserError, match="'Arts' is no subject; did you mean Art"):
        load("mmmu", root, subjects=["Arts"])
    with pytest.raises(UserError, match="'guess' is no rule"):
        load("mmmu", root, rule="guess")


def test_mmmu_reads_json_beside_pictures(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(root / "images" / "1.png", 7)
    (root / "validation.json").write_text(json.dumps([mmmu_row(1, image_1="1.png")]))
    (row,) = load("mmmu", root).read("validation").rows
    assert row.images[0].read_bytes() == png(7)


def test_a_part_of_a_benchmark_that_is_not_there_is_counted(tmp_path: Path) -> None:
    table(tmp_path / "mmmu" / "Art" / "validation-00000-of-00002.parquet", [mmmu_row(1, "Art")])
    found = load("mmmu", tmp_path / "mmmu", subjects=["Art", "Math"]).read("validation")
    assert found.problem_counts == {"missing_shards": 1, "missing_subject": 1}
    table(tmp_path / "cv" / "test_2d.parquet", [cv_row(1, "2D", "Count", "COCO", image=picture())])
    assert load("cv_bench", tmp_path / "cv").read("test").problem_counts == {"missing_file": 1}


def test_mmmu_counts_a_mark_without_a_picture(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "validation.parquet", [mmmu_row(1, question="See <image 1> and <image 3>."), mmmu_row(2)])
    found = load("mmmu", root, subjects=["Math"]).read("validation")
    assert [(problem.id, problem.reason) for problem in found.problems] == [("validation_Math_1", "missing_image")]
    assert "image_3" in found.problems[0].detail


def test_mmmu_asks_and_judges_open_questions(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [
        mmmu_row(1, options="[]", answer="['5.75', 'five']", question_type="open"),
        mmmu_row(2, options="[]", answer="?", question_type="open"),
        mmmu_row(3, answer="?"),
    ]
    table(root / "test.parquet", [{**row, "id": row["id"].replace("validation", "test")} for row in rows])
    benchmark = load("mmmu", root)
    known, unknown, unlabelled = benchmark.read("test").rows
    assert "single word or phrase" in benchmark.prompt(known, "direct")
    assert benchmark.judge(known, "So the result is 5.752.", "direct").correct
    assert benchmark.judge(known, "<think>hm</think><answer>\\frac{23}{4}</answer>", "think").correct
    assert not benchmark.judge(known, "6", "direct").correct
    for question in (unknown, unlabelled):
        for text in ("", "?", "A", "(A)", "nonsense without an answer at all", "None"):
            assert not benchmark.judge(question, text, "direct").correct
    assert benchmark.chance(known) == 0


def test_mmmu_guesses_where_the_published_rule_does_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "validation.parquet", [mmmu_row(number) for number in range(300)])
    benchmark = load("mmmu", root)
    rows = benchmark.read("validation").rows
    verdicts = [benchmark.judge(row, "Hard to say.", "direct") for row in rows]
    assert {verdict.answer for verdict in verdicts} == {None}
    assert {verdict.reason for verdict in verdicts} == {"no_answer"}
    assert set(Counter(verdict.guessed for verdict in verdicts)) == set("ABCDEFGHI")
    assert [verdict.correct for verdict in verdicts] == [verdict.guessed == "I" for verdict in verdicts]
    assert verdicts == [benchmark.judge(row, "Hard to say.", "direct") for row in rows]
    malformed = benchmark.judge(rows[0], "I", "think")
    assert (malformed.answer, malformed.correct, malformed.reason, malformed.guessed) == (None, False, "no_think", None)


def test_mmmu_scores_are_micro_and_per_domain(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "validation.parquet", [mmmu_row(1), mmmu_row(2), mmmu_row(3, "Art")])
    benchmark = load("mmmu", root)
    answers = {"validation_Math_1": "(I)", "validation_Math_2": "(A)", "validation_Art_3": "(I)"}
    scores = benchmark.official(predictions(benchmark, "validation", answers))
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert (scores["Science"], scores["Art and Design"]) == (50, 100)


# ---- MMMU-Pro


def test_mmmu_pro_reads_its_three_settings(tmp_path: Path) -> None:
    root = tmp_path / "data"
    ten = {
        **mmmu_row(1),
        "subject": "Math",
        "options": str([f"option {number}" for number in range(10)]),
        "answer": "J",
    }
    table(root / "standard (10 options)" / "test-00000-of-00001.parquet", [ten])
    table(
        root / "standard (4 options)" / "test-00000-of-00001.parquet",
        [{**ten, "options": "['1', '2', '3', '4']", "answer": "D"}],
    )
    seen = {"id": "test_Math_1", "image": picture(9), "options": "['1', '2', '3']", "answer": "C", "subject": "Math"}
    table(root / "vision" / "test-00000-of-00001.parquet", [seen])
    benchmark = load("mmmu_pro", root)
    (row,) = benchmark.read("test").rows
    assert (len(row.options), row.answer) == (10, "J")
    assert "J. option 9" in benchmark.prompt(row, "direct")
    assert benchmark.judge(row, "I looked closely.\n\nAnswer: J", "direct").correct
    (four,) = load("mmmu_pro", root, setting="standard_4").read("test").rows
    assert len(four.options) == 4
    vision = load("mmmu_pro", root, setting="vision")
    (row,) = vision.read("test").rows
    assert row.images[0].read_bytes() == png(9)
    assert vision.prompt(row, "direct").startswith("Answer with the option letter")
    assert vision.judge(row, "Answer: C", "direct").correct
    with pytest.raises(UserError, match="did you mean standard_10"):
        load("mmmu_pro", root, setting="standard10")
    (alone,) = load("mmmu_pro", root / "standard (4 options)").read("test").rows
    assert len(alone.options) == 4


# ---- MathVista


def math_row(pid: str, **more: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "question": "How old is he?",
        "choices": None,
        "unit": "years",
        "precision": None,
        "answer": "7",
        "question_type": "free_form",
        "answer_type": "integer",
        "metadata": {
            "task": "visual question answering",
            "category": "general-vqa",
            "skills": ["arithmetic reasoning"],
        },
        **more,
    }


def test_mathvista_reads_parquet_and_the_authors_json(tmp_path: Path) -> None:
    hub, local = tmp_path / "hub", tmp_path / "local"
    rows = [
        math_row("1", image="images/1.jpg", decoded_image=picture(1)),
        math_row("2", image="images/2.jpg", decoded_image=picture(2), answer="1.2", answer_type="float", precision=1.0),
    ]
    table(hub / "data" / "testmini-00000-of-00001-725687bf7a18d64b.parquet", rows)
    for number in (1, 2):
        put(local / "images" / f"{number}.jpg", number)
    stored = {
        row["pid"]: {key: value for key, value in row.items() if key not in ("pid", "decoded_image")} for row in rows
    }
    (local / "testmini.json").write_text(json.dumps(stored))
    for root in (hub, local):
        benchmark = load("mathvista", root)
        one, two = benchmark.read("testmini").rows
        assert [row.images[0].read_bytes() for row in (one, two)] == [png(1), png(2)]
        assert "How old is he? (Unit: years)" in benchmark.prompt(one, "direct")
        assert "one decimal place" in benchmark.prompt(two, "think")
        assert benchmark.judge(one, "He is 7 years old.", "direct").correct
        assert benchmark.judge(two, "<think>so</think><answer>$\\frac{6}{5}$</answer>", "think").correct
        assert one.groups["task"] == "visual question answering"


def test_mathvista_replaces_an_answer_that_is_no_choice_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "data"
    put(root / "images" / "1.jpg")
    choices = {
        "question_type": "multi_choice",
        "answer_type": "text",
        "image": "images/1.jpg",
        "choices": ["Yes", "No"],
    }
    (root / "testmini.json").write_text(json.dumps({"1": math_row("1", answer="No", **choices)}))
    benchmark = load("mathvista", root)
    (row,) = benchmark.read("testmini").rows
    assert row.answer == "B"
    verdict = benchmark.judge(row, "The question cannot be answered without the picture.", "direct")
    assert (verdict.answer, verdict.guessed, verdict.correct, verdict.reason) == (None, "B", True, "no_answer")
    assert benchmark.judge(row, "No.", "direct").answer == "B"
    empty = benchmark.judge(row, " ", "direct")
    # The shortest, as published.
    assert (empty.answer, empty.correct, empty.reason, empty.guessed) == (
        None,
        True,
        "empty",
        "B",
    )
    scores = benchmark.official(predictions(benchmark, "testmini", {"1": "It is impossible to say."}))
    assert (scores["accuracy"], scores["without replaced answers"]) == (100, 0)


# ---- MMStar


def star_row(index: int, l2: str, **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "question": "Where is the cat?\nOptions: A: left, near B: or C, B: right, C: above, D: below",
        "image": picture(index),
        "answer": "B",
        "category": "math",
        "l2_category": l2,
        "meta_info": {"source": "x"},
        **more,
    }


def test_mmstar_average_is_the_mean_over_l2_categories(tmp_path: Path) -> None:
    root = tmp_path / "data"
    table(root / "mmstar.parquet", [star_row(i, "geometry" if i else "statistics") for i in range(4)])
    benchmark = load("mmstar", root)
    row = benchmark.read("val").rows[0]
    assert row.options == ("left, near B: or C", "right", "above", "below")
    answers = {"0": "B", "1": "A", "2": "A", "3": "right"}
    scores = benchmark.official(predictions(benchmark, "val", answers))
    assert scores["average"] == pytest.approx((100 + 100 / 3) / 2)
    assert scores["micro"] == 50
    # The headline, by the benchmark's own code.
    assert next(iter(scores)) == "micro"
    assert not benchmark.judge(row, "Based on the picture, above.", "direct").correct


def test_mmstar_reads_rows_beside_pictures(tmp_path: Path) -> None:
    put(tmp_path / "data" / "images" / "3.png", 3)
    lines(tmp_path / "data" / "mmstar.jsonl", [star_row(3, "geometry", image="images/3.png")])
    (row,) = load("mmstar", tmp_path / "data").read("val").rows
    assert row.images[0].read_bytes() == png(3)


# ---- VCR


def vcr_row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "annot_id": f"val-{number}",
        "img_id": "val-0",
        "img_fn": "film/1.jpg",
        "metadata_fn": "film/1.json",
        "objects": ["person", "person", "bottle", "person"],
        "question": ["Why", "is", [3], "looking", "at", [0, 1], "?"],
        "answer_choices": [
            [[3], "is", "angry", "."],
            [[0], "is", "n't", "there", "."],
            [[2], "fell", ",", "and", [1], "'s", "glad", "."],
            ["Nobody", "knows", "."],
        ],
        "answer_label": 2,
        "rationale_choices": [
            [[1], "smiles", "."],
            ["It", "is", "dark", "."],
            [[3], "stares", "."],
            ["No", "reason", "."],
        ],
        "rationale_label": 0,
        **more,
    }


def vcr(root: Path, rows: list[dict[str, Any]], boxes: bool = True, **options: Any) -> Task:
    put(root / "vcr1images" / "film" / "1.jpg")
    if boxes:
        stored = {
            "width": 200,
            "height": 100,
            "boxes": [[0, 0, 20, 50, 0.9], [20, 0, 40, 50, 1], [50, 50, 60, 60, 1], [100, 0, 200, 100, 1]],
        }
        (root / "vcr1images" / "film" / "1.json").write_text(json.dumps(stored))
    lines(root / "vcr1annots" / "val.jsonl", rows)
    return load("vcr", root, **options)


def test_people_of_vcr_keep_their_identity(tmp_path: Path) -> None:
    benchmark = vcr(tmp_path / "data", [vcr_row()])
    answer, rationale = benchmark.read("val").rows
    assert "Why is [person4] looking at [person1] and [person2]?" in answer.text
    assert answer.options[1] == "[person1] isn't there."
    assert answer.options[2] == "[bottle3] fell, and [person2]'s glad."
    assert "[person1] (0, 0, 10, 50); [person2] (10, 0, 20, 50); [bottle3]" in answer.text
    assert "[person4] (50, 0, 100, 100)" in answer.text
    # The gold answer.
    assert "Answer: [bottle3] fell, and [person2]'s glad." in rationale.text
    assert (answer.answer, rationale.answer) == ("C", "A")
    assert answer.cluster == rationale.cluster
    assert benchmark.chance(answer) == 0.25


def test_a_rationale_is_never_conditioned_on_a_prediction(tmp_path: Path) -> None:
    (row,) = vcr(tmp_path / "data", [vcr_row()], mode="qar").read("val").rows
    assert row.text.count("Answer:") == 1
    assert row.groups == {"mode": "QA→R"}


def test_vcr_scores_both_together(tmp_path: Path) -> None:
    benchmark = vcr(tmp_path / "data", [vcr_row(number) for number in range(4)])
    right = {"qa": {0, 1, 2}, "qar": {0, 1, 3}}
    gold = {"qa": "C", "qar": "A"}
    answers = {
        f"val-{number}/{mode}": gold[mode] if number in right[mode] else "D" for number in range(4) for mode in gold
    }
    rows = predictions(benchmark, "val", answers)
    assert benchmark.official(rows) == {"Q→A": 75, "QA→R": 75, "Q→AR": 50}
    assert benchmark.official([row for row in rows if row["id"].endswith("/qa")]) == {"Q→A": 75}


def test_a_slice_of_vcr_holds_whole_pairs(tmp_path: Path) -> None:
    benchmark = vcr(tmp_path / "data", [vcr_row(number) for number in range(20)])
    chosen = benchmark.select("val[:8]", seed=3).rows
    assert Counter(Counter(row.pair for row in chosen).values()) == {2: 4}


def test_vcr_counts_rows_without_boxes_and_rows_it_cannot_ask(tmp_path: Path) -> None:
    rows = [
        vcr_row(0),
        vcr_row(1, answer_label=4),
        vcr_row(2, question=["Is", [9], "there", "?"]),
        vcr_row(3, img_fn="film/2.jpg"),
    ]
    found = vcr(tmp_path / "data", rows, boxes=False).read("val")
    assert {row.id for row in found.rows} == {"val-0/qa", "val-0/qar"}
    assert found.problem_counts == {
        "missing_image": 2,
        "missing_boxes": 2,
        "answer_not_an_option": 1,
        "malformed_row": 1,
    }
    assert "Boxes" not in found.rows[0].text


def test_vcr_takes_no_path_out_of_its_pictures(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg")
    found = vcr(tmp_path / "data", [vcr_row(img_fn="../../secret.jpg")]).read("val")
    assert found.rows == ()
    assert found.problem_counts == {"outside_root": 1}


def test_an_unlabelled_row_is_never_right(tmp_path: Path) -> None:
    question = Question("1", (), "?", ("yes", "no"), answer=None)
    benchmark = vcr(tmp_path / "data", [vcr_row()])
    assert not any(benchmark.judge(question, text, "direct").correct for text in ("A", "B", "", "yes", "None"))


def test_tokens_become_text() -> None:
    objects = ["person"] * 3
    assert sentence(["Is", [2], "'", "s", "hat", "red", "?"], objects) == "Is [person3]'s hat red?"
    assert sentence(["They", "'re", "do", "n't", "care", "!"], objects) == "They're don't care!"
