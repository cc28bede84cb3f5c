"""A run whose rows ask their own questions, letters and numbers mixed: trained on, rewarded, judged and reported by kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_runs import CONFIG, Small

from pipeline.data.training_rows import read_rows
from pipeline.files import read_jsonl
from pipeline.reports.entries import read_run
from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def write_questions(root: Path) -> None:
    """24 rows to train on and 12 to be judged on: two of three ask for a letter, the third for a number; one picture each."""
    root.mkdir()
    for split, count in (("train", 24), ("test", 12)):
        rows = []
        for number in range(count):
            colour = list(COLOURS)[number % 2]
            name = f"{split}_{number}.png"
            Image.new("RGB", (64, 64), COLOURS[colour]).save(root / name)
            asked = (
                {"question": "How many squares are there?", "answer": number % 4}
                if number % 3 == 2
                else {"question": "Which colour is it?", "options": list(COLOURS), "answer": "AB"[number % 2]}
            )
            rows.append({"id": f"{split}-{number}", "image": name, **asked, "source": ["even", "odd"][number % 2]})
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def asked(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, str]:
    """The run and what its terminal said."""
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder / "data")
    config = yaml.safe_load(CONFIG.read_text())
    config["task"] = {
        "name": "questions",
        "path": str(folder / "data"),
        "options": {"group_columns": ["source"]},
    }
    stages = config["stages"]
    validated = {"data": "labels", "prompt": "direct", "validation": {"split": "test[:4]", "steps": 4}}
    config["stages"] = {
        "stage1_sft": {**stages["stage1_sft"], **validated},
        "stage2_grpo": {**stages["stage3_grpo_accuracy"], "init_from": "stage1", "prompt": "direct"},
    }
    config["stages"]["stage1_sft"]["trainer"] |= {"max_steps": 8, "save_steps": 4}
    for key in ("cot", "baselines"):
        del config[key]
    file = folder / "asked.yaml"
    file.write_text(yaml.safe_dump(config))
    own = Small(small.root, small.repo, file)
    return own.run_dir("asked"), own.run("pipeline run", name="asked")


def test_the_plan_s_notes_say_which_kinds_are_asked(asked):
    assert "evaluation.split: 'test' asks for 8 letters, 4 numbers" in asked[1]


def test_each_row_is_trained_on_with_its_own_question_and_answer(asked):

    columns, problems = read_rows(asked[0].phase("stage1_sft"))
    assert problems == {}
    texts = {
        row_id: (turns[0]["content"][1]["text"], answer[0]["content"][0]["text"])
        for row_id, turns, answer in zip(columns["id"], columns["prompt"], columns["completion"], strict=True)
    }
    assert texts["train-0"][0].startswith("Which colour is it?\n(A) red\n(B) blue\n")
    assert texts["train-0"][1] == "A"
    assert texts["train-5"] == ("How many squares are there?\nAnswer with the number and nothing else.", "1")


def test_a_reward_judges_each_row_by_its_kind(asked):
    columns, _ = read_rows(asked[0].phase("stage2_grpo"))
    kinds = {row_id: json.loads(text)["kind"] for row_id, text in zip(columns["id"], columns["question"], strict=True)}
    assert (kinds["train-0"], kinds["train-2"]) == ("letter", "number")


def test_the_report_tells_accuracy_by_kind_and_group_and_no_classes(asked):
    run, _ = asked
    rows = read_jsonl(run.phase("stage1_sft") / "predictions.jsonl")
    greedy = [row for row in rows if row["decoding"] == "greedy" and row["style"] == "direct"]
    summary = json.loads((run.root / "report" / "summary.json").read_text())
    (scores,) = [entry["scores"] for entry in summary["entries"] if entry["name"] == "stage1_sft"]
    assert (scores["n"], scores["labels"], summary["labels"]) == (12, None, [])
    assert scores["accuracy"]["count"] == sum(row["correct"] for row in greedy)
    assert {kind: one["n"] for kind, one in scores["groups"]["kind"].items()} == {"letter": 8, "number": 4}
    assert {name: one["n"] for name, one in scores["groups"]["source"].items()} == {"even": 6, "odd": 6}
    # Half of eight letters by chance, nothing on a number; A and one of four numbers are the commonest.
    assert scores["chance"] == pytest.approx(4 / 12)
    assert scores["commonest"]["accuracy"] == pytest.approx((4 + 1) / 12)
    assert "confusion" not in scores
    assert json.loads((run.phase("stage1_sft") / "evaluation.json").read_text())["official"]["direct"]["accuracy"] == (
        pytest.approx(100 * scores["accuracy"]["value"])
    )
    tests = {(one["entry"], one["name"]) for one in summary["tests"]}
    assert ("stage2_grpo", "stage1_sft") in tests
    assert read_run(run.root, ["stage1_sft"], None, stored=True)[0].scores is not None


def test_the_best_validation_is_that_of_accuracy(asked):
    record = asked[0].record("stage1_sft")
    assert set(record["best"]) >= {"eval_accuracy", "eval_format"}
    assert "eval_macro_f1" not in record["best"]
