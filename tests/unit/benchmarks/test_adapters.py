"""Adapters are compared at equal all else but their learning rates, and a row says how many weights trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made_up import entry

from benchmarks.adapters import ADAPTERS
from benchmarks.equal_arms import config_problems, find_arms
from pipeline.config.loader import load
from pipeline.run_dir import RunDir

ARMS = find_arms(["ablations/adapters"])


def test_the_shipped_arms_differ_in_adapters_and_learning_rates_alone() -> None:
    configs = {name: load(file) for name, file in ARMS.items()}
    assert not list(config_problems(configs, ADAPTERS))
    first, *others = configs.values()
    assert first.model.peft is None
    assert all(config.model.peft for config in others)


@pytest.mark.parametrize("preset", ["smolvlm_256m", "internvl3_1b"])
def test_presets_whose_baseline_has_a_rate_of_its_own_too_are_arms(preset: str) -> None:
    configs = {name: load(f"emoset/{name}") for name in (preset, f"{preset}_lora")}
    rates = [config.baselines["sft_labels"].trainer["learning_rate"] for config in configs.values()]
    assert rates[0] != rates[1]
    parts = load(f"emoset/{preset}_lora", ["stages.stage1.learning_rates={language: 1e-4, connector: 1e-3}"])
    assert not list(config_problems({**configs, f"{preset}_lora": parts}, ADAPTERS))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stages.stage1.trainer.max_steps=9", "stages.stage1_sft.trainer.max_steps: 120 -> 9"),
        ("stages.stage1.freeze=[]", "stages.stage1_sft.freeze"),
        ("model.dtype=bfloat16", "model.dtype: 'auto' -> 'bfloat16'"),
        ("seed=1", "seed: 0 -> 1"),
    ],
)
def test_arms_that_differ_in_more_are_refused_with_the_difference(setting: str, told: str) -> None:
    arms = {"all_weights": load("ablations/adapters/all_weights"), "lora": load("ablations/adapters/lora", [setting])}
    (problem,) = config_problems(arms, ADAPTERS)
    assert problem.startswith("lora differs from all_weights in more than its adapter: ")
    assert told in problem


def test_a_row_says_how_many_weights_trained() -> None:
    column, cell = ADAPTERS.cost
    assert column == "weights trained"
    made = entry([1, 1])
    run = RunDir(Path("runs"), "x")
    # Of a record that was written before they were counted.
    assert cell(run, made) == "–"
    counted = {**made.record, "usage": {"parameters": 30_119_936, "trained_parameters": 10_240}}
    assert cell(run, dataclasses.replace(made, record=counted)) == "10,240 (0.034 %)"
