"""Rows of several kinds of question, as others publish them, train with GRPO from the file to the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
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


def test_two_grpo_steps_train_on_rows_of_several_kinds(tmp_path: Path, repo_root: Path) -> None:
    rows = []
    for number in range(16):
        images = [f"{number}.png", f"{number}b.png"][: 2 if number % 4 == 3 else 1]
        for name in images:
            put(tmp_path / "data" / name, 10 * number)
        rows.append({"images": images, **ASKED[number % 4]})
    write_lines(tmp_path / "data" / "train.jsonl", rows)
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
