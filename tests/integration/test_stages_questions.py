"""Rows of several kinds of question, as others publish them, train with GRPO from the file to the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import FaultServer, parts
from question_files import put, write_lines
from small_runs import Small

from pipeline.files import read_jsonl, weights_digest
from pipeline.runs.handover import checkpoint_folder

pytestmark = pytest.mark.slow

CONFIG = """
name: questions
task: {name: questions, path: DATA}
model:
  tiny: {hidden_size: 64, layers: 2, intermediate_size: 128, vision_hidden_size: 64, vision_layers: 1, vocab_size: 384}
stages:
  stage1_grpo:
    algorithm: grpo
    init_from: base
    split: train[:50%]
    reward_funcs: [format, accuracy, rewards_for_tests.parity_reward]  # parity moves the weights of a random student
    gate: {action: warn}
    trainer:
      max_steps: 2
      per_device_train_batch_size: 8
      num_generations: 4
      max_completion_length: 16
      learning_rate: 1.0e-3
      lr_scheduler_type: constant
      gradient_checkpointing: false
evaluation: {split: "train[50%:]", batch_size: 4, max_new_tokens: 24, samples: 1}
"""
ASKED = (
    {"problem": "How many dogs?", "solution": "<answer>2</answer>"},
    {"problem": "Is it red?", "solution": "<answer>yes</answer>"},
    {"problem": "What is it? (A) a dog (B) a cat", "solution": "<answer>B</answer>"},
    {"problem": "Which is darker, <image> or <image>?", "solution": "<answer>the first</answer>"},
)
KINDS = {"number", "yes_no", "letter", "text"}
GOLD = {"How many dogs?": "2", "Is it red?": "yes", "What is it?": "B", "Which is darker,": "the first"}


def write_rows(folder: Path, count: int) -> None:
    """Every fourth of two pictures, one of them at a mark in the text."""
    rows = []
    for number in range(count):
        images = [f"{number}.png", f"{number}b.png"][: 2 if number % 4 == 3 else 1]
        for place, name in enumerate(images):
            put(folder / name, (4 * number + 100 * place) % 256)
        rows.append({"images": images, **ASKED[number % 4]})
    write_lines(folder / "train.jsonl", rows)


def test_two_grpo_steps_train_on_rows_of_several_kinds(tmp_path: Path, repo_root: Path) -> None:
    write_rows(tmp_path / "data", 16)
    config = tmp_path / "questions.yaml"
    config.write_text(CONFIG.replace("DATA", str(tmp_path / "data")))
    small = Small(tmp_path / "runs", repo_root, config)
    small.run("pipeline run", name="questions")
    run = small.run_dir("questions")
    steps = [
        row for row in read_jsonl(run.phase("stage1_grpo") / "metrics.jsonl") if "rewards/accuracy_reward/mean" in row
    ]
    assert [row["step"] for row in steps] == [1, 2]
    before, after = (weights_digest(checkpoint_folder(run, phase)) for phase in ("base", "stage1_grpo"))
    assert before != after
    kinds = Counter(row["kind"] for row in read_jsonl(run.phase("stage1_grpo") / "predictions.jsonl"))
    assert set(kinds) <= KINDS
    assert kinds.total() == 16, kinds


TINY = "{hidden_size: 64, layers: 2, intermediate_size: 128, vision_hidden_size: 64, vision_layers: 1, vocab_size: 384}"
SHORT = [
    *("stages.1.trainer.max_steps=2", "baselines.sft_labels.trainer.max_steps=2"),
    *(f"stages.{number}.trainer.max_steps=2" for number in (2, 3, 4)),
    *(f"stages.{number}.trainer.max_completion_length=16" for number in (2, 3, 4)),
    # What two steps leave of a random student has no form.
    *(f"stages.{number}.gate.action=warn" for number in (1, 2, 3, 4)),
]


@pytest.mark.nightly
def test_the_preset_for_own_questions_runs_to_its_end_on_rows_of_several_pictures(
    tmp_path: Path, repo_root: Path
) -> None:
    """With a stand-in for the teacher's model, which knows the answers; everything else is what a user of the preset runs."""
    write_rows(tmp_path / "data", 60)
    said: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        gold = next(gold for question, gold in GOLD.items() if question in parts(body)[0])
        said.append(gold)
        return f"<think>Look at what the picture shows, here at shade {len(said)}: {gold}.</think>\n<answer>{gold}</answer>"

    server = FaultServer(reply=answer)
    small = Small(tmp_path / "runs", repo_root, repo_root / "configs" / "own_questions.yaml")
    words = [f"task.path={tmp_path}/data", f"cot.endpoints.own=[{server.url}]", f"model.tiny={TINY}", *SHORT]
    try:
        small.run("pipeline run", *words, "evaluation.max_new_tokens=16", name="own")
    finally:
        server.stop()
    run = small.run_dir("own")
    pictures = pq.read_table(run.phase("cot") / "train.parquet")["images"].to_pylist()
    assert {len(one) for one in pictures} == {1, 2}
    phases = [
        "base",
        "baseline_sft_labels",
        "stage1_sft",
        "stage2_grpo_format",
        "stage3_grpo_accuracy",
        "stage4_clgrpo",
    ]
    for phase in phases:
        assert run.record(phase)["status"] == "complete", phase
        greedy = [row for row in read_jsonl(run.phase(phase) / "predictions.jsonl") if row["decoding"] == "greedy"]
        # 15 % of 60, drawn.
        assert len({row["id"] for row in greedy}) == 9
        assert {"text"} < {row["kind"] for row in greedy} <= KINDS
