"""What waits for what, what goes first, how many at once, and when the memory would not hold one more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.conductor import schedule
from pipeline.config import derived
from pipeline.config.loader import CONFIGS, load
from pipeline.config.schema import RunConfig
from pipeline.files import digest, write_json
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.phases import evaluation_inputs, phase_inputs, phase_names
from pipeline.system import multinode

LABELS, S1, S2, S3, S4 = (
    "baseline_sft_labels",
    "stage1_sft",
    "stage2_grpo_format",
    "stage3_grpo_accuracy",
    "stage4_clgrpo",
)
LONGER = (
    "baselines: {longer: {algorithm: sft, init_from: stage1, data: cot}, alone: {algorithm: grpo, init_from: base}}"
)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NNODES", raising=False)
    monkeypatch.setattr(schedule, "usable_cores", lambda: 2)
    give(monkeypatch, 0)


def give(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    for module in (schedule, derived):
        monkeypatch.setattr(module, "visible_gpus", lambda: gpus)


@pytest.fixture
def several(tmp_path: Path) -> RunConfig:
    """The demo with three baselines, one of which goes on from stage 1."""
    (tmp_path / "run.yaml").write_text(f"base: {CONFIGS / 'demo_scenes.yaml'}\n{LONGER}")
    return load(tmp_path / "run.yaml")


def needs_of(config: RunConfig, names: Sequence[str] | None = None) -> dict[str, set[str]]:
    return schedule.requirements(config, names or phase_names(config))


def test_a_phase_waits_for_its_parent_and_for_the_rows_it_is_made_from(several: RunConfig) -> None:
    assert needs_of(several) == {
        COT: set(),
        BASE: {COT},
        LABELS: {BASE},
        "baseline_alone": {BASE},
        S1: {COT, BASE},
        "baseline_longer": {COT, S1},
        S2: {S1},
        S3: {S2},
        S4: {S3},
    }


def test_a_model_that_is_there_waits_for_no_rows(tmp_path: Path) -> None:
    assert needs_of(load("demo_scenes", [f"model.name_or_path={tmp_path}"]))[BASE] == set()


def test_what_is_not_run_is_waited_for_by_none() -> None:
    assert needs_of(load("demo_scenes"), [BASE, S1]) == {BASE: set(), S1: {BASE}}


def test_the_phase_that_most_others_wait_for_in_turn_goes_first(several: RunConfig) -> None:
    order = schedule.by_urgency(needs_of(several))
    assert order[:4] == [COT, BASE, S1, S2]
    # Equals as they were.
    assert order[4:] == [S3, LABELS, "baseline_alone", "baseline_longer", S4]


def test_phases_that_do_not_wait_for_each_other_may_run_side_by_side(several: RunConfig) -> None:
    assert schedule.beside(needs_of(load("demo_scenes"))) == {LABELS: [S1, S2, S3, S4]}
    found = schedule.beside(needs_of(several))
    assert list(found) == [LABELS, "baseline_alone", "baseline_longer"]
    assert found["baseline_longer"] == [S2, S3, S4]


@pytest.mark.parametrize(
    ("words", "cores", "threads", "expected"),
    [
        ([], 2, None, 2),
        ([], 8, None, 8),
        ([], 1, None, 1),
        ([], 8, "4", 2),
        ([], 2, "4", 1),
        (["launch.num_processes=2"], 2, None, 1),
        (["launch.num_processes=2"], 4, None, 2),
        (["stages.3.rollouts=vllm"], 8, None, 1),
        (["launch.parallel_phases=1"], 8, None, 1),
        (["launch.parallel_phases=3"], 2, None, 3),
    ],
)
def test_by_default_there_are_as_many_at_once_as_cores_allow(
    monkeypatch: pytest.MonkeyPatch, words: list[str], cores: int, threads: str | None, expected: int
) -> None:
    monkeypatch.setattr(schedule, "usable_cores", lambda: cores)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert schedule.parallel_phases(load("demo_scenes", words)) == expected


def test_on_gpus_and_on_several_nodes_there_is_one_at_a_time_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 8)
    assert schedule.parallel_phases(load("demo_scenes")) == 1
    asked = load("demo_scenes", ["launch.parallel_phases=2"])
    assert schedule.parallel_phases(asked) == 2
    monkeypatch.setattr(multinode, "count", lambda: 2)
    assert schedule.parallel_phases(asked) == 1


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A demo whose base is made: its weights are 100 MB, so that a stage may take 2.6 GB."""
    run = RunDir(tmp_path, "demo")
    run.final(BASE).mkdir(parents=True)
    with (run.final(BASE) / "model.safetensors").open("wb") as file:
        file.truncate(100_000_000)
    write_json(run.record_path(BASE), {"status": "complete", "checkpoint": "final"})
    return run


NEEDED = schedule.LIBRARIES + schedule.COPIES * 100_000_000


def test_a_phase_may_take_what_a_preflight_measured_or_else_what_its_weights_say(run: RunDir) -> None:
    config = load("demo_scenes")
    assert schedule.memory_needed(config, run, S1) == NEEDED
    assert schedule.memory_needed(load("demo_scenes", ["launch.num_processes=2"]), run, S1) == 2 * NEEDED
    entry = {"peak_memory_bytes": 5, "inputs": digest(phase_inputs(config, S1))}
    write_json(run.root / "forecast.json", {"stages": {S1: entry}})
    assert schedule.memory_needed(config, run, S1) == 5
    # Of other settings, the forecast says nothing.
    assert schedule.memory_needed(load("demo_scenes", ["stages.1.trainer.max_steps=9"]), run, S1) == NEEDED


@pytest.mark.parametrize(
    ("gpus", "dtype", "each"), [(0, "auto", 4), (0, "bfloat16", 2), (8, "auto", 2), (8, "float32", 4)]
)
def test_a_teacher_of_logits_is_counted_in_every_process_in_the_precision_it_computes_in(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, dtype: str, each: int
) -> None:
    give(monkeypatch, gpus)
    (tmp_path / "teacher").mkdir()
    save_file({"a": np.zeros((10, 100), np.float32)}, tmp_path / "teacher" / "model.safetensors")
    config = load(
        "demo_scenes",
        [f"stages.1.distill.teacher={tmp_path}/teacher", f"model.dtype={dtype}", "launch.num_processes=2"],
    )
    assert schedule.teacher_bytes(config, config.stage("1")) == each * 1000
    assert schedule.memory_needed(config, run, S1) == (1 if gpus else 2) * (NEEDED + each * 1000)
    unknown = load("demo_scenes", ["stages.1.distill.teacher=hub/model"])
    assert schedule.memory_needed(unknown, run, S1) is None


def test_of_a_model_that_is_not_here_yet_nothing_is_known(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "new")
    assert schedule.memory_needed(load("demo_scenes"), run, BASE) == schedule.LIBRARIES
    elsewhere = load("demo_scenes", ["model.name_or_path=hub/model"])
    assert schedule.memory_needed(elsewhere, run, BASE) is None
    why = schedule.lacks_room(elsewhere, run, BASE, [COT], 10**12)
    assert why == "nothing is known of the memory that base takes before its weights are here"


@pytest.mark.parametrize(
    ("at_start", "now", "words"),
    [
        (2 * NEEDED, NEEDED, None),
        (2 * NEEDED - 1, 10**12, "together they may take 5.2 GB, and 5.2 GB of memory were free at the start"),
        (10**12, NEEDED - 1, "it may take 2.6 GB, and 2.6 GB of memory are free"),
    ],
)
def test_a_second_phase_needs_what_both_may_take_of_what_was_free_and_its_own_of_what_is(
    monkeypatch: pytest.MonkeyPatch, run: RunDir, at_start: int, now: int, words: str | None
) -> None:
    monkeypatch.setattr(schedule, "free_memory", lambda *_: [now])
    config = load("demo_scenes")
    assert schedule.lacks_room(config, run, S1, [LABELS], at_start) == words
    # Alone, a phase is not kept waiting.
    assert schedule.lacks_room(config, run, S1, [], 0) is None


@pytest.mark.parametrize(("gpus", "waits"), [(1, True), (0, False)])
def test_on_a_gpu_a_stage_with_a_rollout_server_has_no_neighbour(
    monkeypatch: pytest.MonkeyPatch, run: RunDir, gpus: int, waits: bool
) -> None:
    """vLLM counts what is free while it starts, and no forecast knows of its share."""
    for name, value in (("free_memory", lambda *_: [10**12]), ("visible_gpus", lambda: gpus)):
        monkeypatch.setattr(schedule, name, value)
    served = load("demo_scenes", ["stages.2.rollouts=vllm"])
    for name, running in (("stage2_grpo_format", LABELS), (LABELS, "stage2_grpo_format")):
        why = schedule.lacks_room(served, run, name, [running], 10**12)
        assert (why or "").startswith("stage2_grpo_format has a rollout server") == waits
    assert schedule.lacks_room(served, run, COT, ["stage2_grpo_format"], 10**12) is None


def hand_over(config: RunConfig, run: RunDir, name: str, **record: object) -> None:
    """Leave a phase verified and evaluated, with one right answer of one."""
    kept = {"status": "complete", "weights": "w", "checkpoint": "final", "gate": None, **record}
    write_json(run.record_path(name), kept)
    inputs = {**evaluation_inputs(config), "weights": "w"}
    write_json(run.phase(name) / "evaluation.json", {"status": "complete", "inputs": inputs})
    row = {"id": "1", "style": "think", "decoding": "greedy", "gold": "awe", "label": "awe", "reason": None}
    (run.phase(name) / "predictions.jsonl").write_text(json.dumps(row) + "\n")


def test_a_stage_starts_from_a_phase_that_is_verified_evaluated_and_through_its_gate(run: RunDir) -> None:
    config = load("demo_scenes")
    assert not schedule.hands_on(config, run, BASE)
    hand_over(config, run, BASE)
    assert schedule.hands_on(config, run, BASE)
    assert schedule.memory_needed(config, run, BASE) == 0
    # Evaluated otherwise: that is done anew first.
    assert not schedule.hands_on(load("demo_scenes", ["evaluation.split=val"]), run, BASE)
    hand_over(config, run, BASE, status="trained")
    assert not schedule.hands_on(config, run, BASE)
    hand_over(config, run, COT)
    assert not schedule.hands_on(config, run, COT)


def test_a_phase_hands_on_once_its_gate_was_judged_and_lets_it_through(run: RunDir) -> None:
    config = load("demo_scenes")
    hand_over(config, run, S1)
    # Its own process has not judged it yet.
    assert not schedule.hands_on(config, run, S1)
    hand_over(config, run, S1, gate=schedule.gates.judge(config, run, S1))
    assert schedule.hands_on(config, run, S1)
    (run.phase(S1) / "predictions.jsonl").write_text(
        (run.phase(S1) / "predictions.jsonl").read_text().replace("null", '"no_think"').replace('"awe"', "null")
    )
    missed = schedule.gates.judge(config, run, S1)
    assert missed is not None
    assert missed["missed"]
    write_json(run.record_path(S1), {**(run.record(S1) or {}), "gate": missed})
    assert not schedule.hands_on(config, run, S1)
    warned = load("demo_scenes", ["stages.1.gate.action=warn"])
    write_json(run.record_path(S1), {**(run.record(S1) or {}), "gate": schedule.gates.judge(warned, run, S1)})
    assert schedule.hands_on(warned, run, S1)
