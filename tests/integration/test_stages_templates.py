"""Students whose chat template opens the thought, or whose tokenizer counts the tags as special, learn well-formed answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from family_runs import make_tags_special, open_thought
from small_runs import Small

from pipeline.config.loader import load
from pipeline.data.conversations import tokenizer_texts
from pipeline.data.load import load_task
from pipeline.files import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(900)]
QUICK = [
    "task.options={seed: 0, train: 48, val: 8, test: 8, size: 64}",
    "baselines={}",
    "stages.stage1.trainer.max_steps=160",
    "stages.stage1.trainer.save_steps=160",
    "stages.stage2.reward_funcs=[format]",
    "stages.stage2.trainer.max_completion_length=128",
    "stages.stage2.gate.action=continue",
    "evaluation.max_new_tokens=128",
]


@pytest.mark.parametrize("quirk", [open_thought, make_tags_special])
def test_a_students_answers_are_well_formed(small: Small, tmp_path: Path, quirk: Callable[[Path], None]):
    from stages.models.tiny import build_tiny

    name, folder = f"templates_{quirk.__name__}", tmp_path / "model"
    words = [*QUICK, f"model.name_or_path={folder}"]
    draft = load(small.config, [*QUICK, "model.tiny.family=qwen3_vl"])
    small.run("cot_builder build", *QUICK, name=name)
    task = load_task(draft.task, tmp_path / "cache")
    texts = tokenizer_texts(task, task.stand_ins("test"), small.run_dir(name).cot)
    build_tiny(folder, draft.model.tiny, texts, seed=0)
    quirk(folder)
    planned = small.run("pipeline plan", *words, name=name)
    assert ("opens <think> itself" in planned) == (quirk is open_thought)
    output = small.run("pipeline run", "--to", "stage2", *words, name=name)
    parsed = [int(count) for count in re.findall(r"(\d) of 8 answers well formed", output)]
    assert len(parsed) == 2
    assert parsed[0] >= 5
    run = small.run_dir(name)
    rewards = [
        row["reward"] for row in read_jsonl(run.phase("stage2_grpo_format") / "metrics.jsonl") if "reward" in row
    ]
    assert max(rewards) > 0.2
    for row in read_jsonl(run.phase("stage1_sft") / "predictions.jsonl"):
        assert row["completion"].lstrip().startswith("<think>"), json.dumps(row)
