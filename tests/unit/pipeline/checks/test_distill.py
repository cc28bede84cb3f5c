"""What two folders must have in common before one teaches the other by its logits, read without loading a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.checks.distill import mismatches, teacher_problems, token_mismatch
from pipeline.config.loader import load
from pipeline.files import write_json
from tests.unit.pipeline.checks.test_model_folder import TEMPLATE, tensors

TOKENS = {"a": 0, "b": 1}


def model(folder: Path, vocab: Any = None, family: str = "idefics3", **sizes: Any) -> Path:
    """The files of a model that say what it is, with one added token behind those of the vocabulary."""
    tokenizer = {
        "model": {"vocab": TOKENS if vocab is None else vocab},
        "added_tokens": [{"content": "<image>", "id": 2}],
    }
    write_json(folder / "config.json", {"model_type": family, **(sizes or {"text_config": {"vocab_size": 3}})})
    write_json(folder / "tokenizer.json", tokenizer)
    return folder


def told(tmp_path: Path, **other: Any) -> list[str]:
    return list(mismatches(model(tmp_path / "teacher", **other), model(tmp_path / "student")))


def test_a_model_of_the_same_family_tokens_and_width_may_teach(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    # As a unigram model lists its tokens, with their scores; and where a configuration leaves the width out.
    assert told(tmp_path, vocab=[["a", -1.0], ["b", -2.0]]) == []
    assert told(tmp_path, hidden_size=64) == []
    # Beyond the last token logits are of none.
    assert told(tmp_path, text_config={"vocab_size": 1024}) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"family": "smolvlm"}, "is a smolvlm, and the student"),
        (
            {"vocab": {"a": 0, "c": 1}},
            "2 differ (first: 'b' is no token there and 1 of the student), 3 there and 3 here",
        ),
        ({"vocab": {"a": 1, "b": 0}}, "2 differ (first: 'a' is 1 there and 0 of the student), 3 there and 3 here"),
        ({"vocab": {"a": 0}}, "1 differ (first: 'b' is no token there and 1 of the student), 2 there and 3 here"),
        (
            {"text_config": {"vocab_size": 2}},
            "gives 2 logits for a token and the student 3, and the tokens are numbered up to 2",
        ),
    ],
)
def test_each_difference_is_told_with_both_sides_and_the_cure(tmp_path: Path, other: Any, words: str) -> None:
    (problem,) = told(tmp_path, **other)
    assert words in problem
    assert "; " in problem.partition(words)[2]


def test_of_a_tokenizer_that_is_not_known_nothing_is_said() -> None:
    assert token_mismatch({}, TOKENS) is None
    assert token_mismatch(TOKENS, {}) is None


def test_a_teacher_whose_run_has_not_finished_it_is_refused_with_what_else_is_wrong(tmp_path: Path) -> None:
    final = tmp_path / "runs" / "large" / "stage1_sft" / "final"
    model(final)
    write_json(final.parent / "stage.json", {"status": "running"})
    config = load("demo_scenes", [f"stages.1.distill.teacher={final}"])
    problems = list(teacher_problems(config))
    assert all(problem.startswith(f"stages.stage1_sft.distill.teacher: '{final}' ") for problem in problems)
    assert "is of stage1_sft, which is running; finish its run first" in problems[0]
    assert any("has no *.safetensors" in problem for problem in problems)
    write_json(final.parent / "stage.json", {"status": "complete"})
    assert not any("finish its run" in problem for problem in teacher_problems(config))


@pytest.mark.parametrize(("status", "needed"), [("running", True), ("trained", False), ("complete", False)])
def test_a_teacher_is_not_needed_once_its_stage_is_trained_unless_it_is_trained_again(
    tmp_path: Path, status: str, needed: bool
) -> None:
    config = load("demo_scenes", [f"output_dir={tmp_path}", "stages.1.distill.teacher=/gone/to/make/room"])
    write_json(tmp_path / config.name / "stage1_sft" / "stage.json", {"status": status})
    assert bool(list(teacher_problems(config))) is needed
    (problem,) = teacher_problems(config, ["stage1_sft"])
    assert "'/gone/to/make/room' does not exist" in problem


def test_a_student_that_is_a_folder_is_compared_before_anything_runs(tmp_path: Path) -> None:
    folders = [model(tmp_path / name, vocab=vocab) for name, vocab in (("student", TOKENS), ("teacher", {"a": 0}))]
    for folder in folders:
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Idefics3ImageProcessor"}))
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        tensors(folder / "model.safetensors")
    student, teacher = folders
    (problem,) = teacher_problems(
        load("demo_scenes", [f"model.name_or_path={student}", f"stages.1.distill.teacher={teacher}"])
    )
    assert "has other tokens than the student: 1 differ" in problem
