"""Which sizes a preflight with --fit tries on a device, and which it takes: the fastest that fit, at the same global batch."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.loader import load
from pipeline.config.schema import stage_key
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import RunDir
from stages import preflight
from stages.trial import fit, fitting, plan

GB = 10**9


def device(memory: float, fixed: float = 1 * GB, per_row: float = 0.1 * GB, overhead: float = 1.0) -> Any:
    """A device of so many bytes, as a measurement of a size: each call costs `overhead` seconds and each row 10 ms."""

    def measure(size: int) -> fit.Measured:
        used = fixed + per_row * size
        measure.tried.append(size)
        return fit.Measured(used, overhead / size + 0.01) if used <= memory else fit.Measured(math.inf, math.inf)

    measure.tried = []
    return measure


@pytest.mark.parametrize(("memory", "largest"), [(1.15, 1), (1.35, 2), (2.0, 8), (4.3, 32), (100, 64)])
@pytest.mark.parametrize("start", [1, 4, 64])
def test_the_largest_size_that_fits_is_found_from_wherever_one_starts(memory: float, largest: int, start: int) -> None:
    measure = device(memory * GB)
    seen = fit.measure_sizes([1, 2, 4, 8, 16, 32, 64], start, measure, memory * GB)
    assert max(size for size, one in seen.items() if one.memory <= memory * GB) == largest
    assert len(measure.tried) == len(set(measure.tried)) <= 7
    assert fit.best(seen, memory * GB) == largest


def test_nothing_fits_where_one_row_does_not() -> None:
    measure = device(1.05 * GB)
    assert fit.best(fit.measure_sizes([1, 2, 4], 4, measure, 1.05 * GB), 1.05 * GB) is None
    assert measure.tried == [4, 2, 1]


def test_a_size_is_never_far_beyond_what_is_known_to_fit() -> None:
    measure = device(1000 * GB)
    fit.measure_sizes([2**n for n in range(12)], 4, measure, 1000 * GB)
    assert measure.tried == [4, 2, 16, 64, 256, 1024, 2048]


def test_of_sizes_that_are_as_fast_the_one_with_the_least_memory_is_taken() -> None:
    seen = {size: fit.Measured(size * GB, 1 + 0.001 / size) for size in (8, 16, 32)}
    assert fit.best(seen, 100 * GB) == 8
    assert fit.best({**seen, 64: fit.Measured(64 * GB, 0.9)}, 100 * GB) == 64
    assert fit.best({**seen, 64: fit.Measured(64 * GB, 0.9)}, 60 * GB) == 8


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ([], [1, 2, 4, 8, 16, 32, 64]),
        (["stages.stage3.trainer.gradient_accumulation_steps=3"], [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 192]),
        (["stages.stage3.trainer.steps_per_generation=2"], [1, 2, 4, 8, 16, 32, 64]),
        (["stages.stage3.trainer.loss_type=bnpo"], [64]),
    ],
)
def test_micro_batches_keep_the_rows_of_a_step_and_hold_whole_groups_or_parts_of_one(words: Any, sizes: Any) -> None:
    stage = load("demo_scenes", words).stage("3")
    assert fit.micro_batches(stage) == sizes


def test_a_rollout_keeps_its_rows() -> None:
    stage = load("demo_scenes", ["stages.stage3.trainer.steps_per_generation=2"]).stage("3")
    chosen = fit.Choice(16, 4, False).trainer(stage)
    assert chosen["steps_per_generation"] * chosen["per_device_train_batch_size"] == 2 * 64
    assert "steps_per_generation" not in fit.Choice(16, 4, False).trainer(load("demo_scenes").stage("3"))


def test_checkpointing_is_tried_only_where_a_step_does_not_fit_without_it() -> None:
    # 32 rows a step
    stage = load("demo_scenes").stage("1")

    def measure(choice: fit.Choice) -> fit.Measured:
        rows = choice.size * (0.02 if choice.checkpointing else 0.1)
        return fit.Measured((1 + rows) * GB, (32 / choice.size + 1) * (4 / 3 if choice.checkpointing else 1))

    roomy = fit.measure_stage(stage, measure, 10 * GB)
    assert not any(checkpointing for _, checkpointing in roomy)
    assert fit.choose(stage, roomy, 10 * GB) == fit.Choice(32, 1, False)
    tight = fit.measure_stage(stage, measure, 2 * GB)
    # 2.7 s against 5 s for 8 rows without.
    assert fit.choose(stage, tight, 2 * GB) == fit.Choice(32, 1, True)
    assert fit.choose(stage, fit.measure_stage(stage, measure, 0.5 * GB), 0.5 * GB) is None


def test_the_first_cycle_is_not_timed() -> None:
    assert fit.step_seconds([10, 12, 14], 1) == 2
    assert fit.step_seconds([6, 10, 11, 12], 2) == 1
    assert fit.step_seconds([8, 10], 2) == 5
    assert fit.step_seconds([], 1) == math.inf


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Workers of a preflight on a pretended machine: what a process needs is 1 GB and a part for each of its rows."""

    def make(memory: float, gpus: int = 0, family: str = "idefics3", vllm: bool = True, served: float = 0.5) -> Any:
        tried: list[list[str]] = []
        run = RunDir(str(tmp_path), "demo_scenes")

        def workers(module: str, work: Any, argv: list[str]) -> None:
            tried.append(argv)
            name = argv[argv.index("--only") + 1]
            words = dict(word.split("=", 1) for word in argv if "=" in word and not word.startswith("--"))
            where = "evaluation." if name == plan.EVALUATION else f"{stage_key(name)}.trainer."
            value = {key.removeprefix(where): json.loads(one) for key, one in words.items() if key.startswith(where)}
            folder = plan.scratch_of(run).phase(name)
            write_json(plan.scratch_of(run).final("base") / "config.json", {"model_type": family})
            rows = value["batch_size" if name == plan.EVALUATION else "per_device_train_batch_size"]
            used = (1 + rows * (0.02 if value.get("gradient_checkpointing") else 0.1)) * GB
            if used > memory * GB:
                write_json(folder / plan.TOO_LARGE, {"error": "CUDA out of memory"})
                raise UserError("failed with exit status 1")
            if name == plan.EVALUATION:
                write_json(folder / "asking.json", {"peak": used, "seconds": [1, 1 + rows / 100], "rows": rows})
                return
            step = value["gradient_accumulation_steps"] + 1.0
            by = [word for word in argv if word.startswith(f"{stage_key(name)}.rollouts=")]
            step *= served if by and json.loads(by[-1].partition("=")[2]) == "vllm" else 1
            stage = work.config.stage(name)
            count = 3 * plan.checkpoint_cycle(stage)
            folder.mkdir(parents=True, exist_ok=True)
            text = "".join(
                json.dumps({"step": number, "seconds": step * number}) + "\n" for number in range(1, count + 1)
            )
            (folder / "metrics.jsonl").write_text(text)
            facts = {"steps": 9, "created": 0, "imports": 0, "load": 0, "save_steps": 0, "save_total_limit": 2}
            write_json(folder / "look.json", facts)
            usage = {"peak_memory_bytes": [used], "checkpoint_bytes": 0, "final_bytes": 0}
            write_json(folder / "stage.json", {"usage": usage})

        split = SimpleNamespace(rows=[None] * 800)
        monkeypatch.setattr(preflight, "load_task", lambda *_: SimpleNamespace(select=lambda _: split))
        monkeypatch.setattr(preflight, "run_workers", workers)
        monkeypatch.setattr(fitting, "free_memory", lambda *_: [int(memory * GB)])
        for module in ("stages.trial.fitting", "pipeline.config.derived"):
            monkeypatch.setattr(f"{module}.visible_gpus", lambda: gpus)
        find = importlib.util.find_spec
        installed = object() if vllm else None
        monkeypatch.setattr("importlib.util.find_spec", lambda name: installed if name == "vllm" else find(name))
        return tried

    return make


def test_a_large_device_is_filled_and_the_file_is_a_configuration_with_the_same_global_batches(
    machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(80, gpus=1)
    file = tmp_path / "fitted.yaml"
    accumulated = [
        "stages.stage3.trainer.per_device_train_batch_size=8",
        "stages.stage3.trainer.gradient_accumulation_steps=8",
    ]
    words = ["--config", "demo_scenes", f"output_dir={tmp_path}", "launch.num_processes=1", *accumulated]
    assert preflight.main([*words, "--fit", "--write", str(file)]) == 0
    told = capsys.readouterr().out
    assert "64 x 1 rows" in told
    assert "8 x 8 rows" in told
    fitted, before = load(file), load("demo_scenes", accumulated)
    for name, stage in fitted.all_stages.items():
        rows = stage.trainer["per_device_train_batch_size"] * stage.trainer.get("gradient_accumulation_steps", 1)
        old = before.stage(name).trainer
        assert rows == old["per_device_train_batch_size"] * old.get("gradient_accumulation_steps", 1)
    assert fitted.evaluation.batch_size == 512
    assert {fitted.stage(name).rollouts for name in "234"} == {"vllm"}
    assert not plan.scratch_of(RunDir(str(tmp_path), "demo_scenes")).root.exists()


def test_a_small_device_gets_smaller_micro_batches_and_checkpointing(machine: Any, tmp_path: Path) -> None:
    machine(3)
    file = tmp_path / "fitted.yaml"
    assert preflight.main(["--config", "demo_scenes", f"output_dir={tmp_path}", "--fit", f"--write={file}"]) == 0
    fitted = load(file)
    assert fitted.stage("1").trainer["gradient_checkpointing"] is True
    assert fitted.stage("1").trainer["per_device_train_batch_size"] == 32
    assert fitted.evaluation.batch_size == 16
    assert {fitted.stage(name).rollouts for name in "234"} == {"transformers"}


def test_memory_may_be_limited_below_what_is_free(machine: Any, tmp_path: Path) -> None:
    machine(80)
    file = tmp_path / "fitted.yaml"
    words = ["--config", "demo_scenes", f"output_dir={tmp_path}", "--fit", "--write", str(file)]
    preflight.main([*words, "--memory", "3"])
    assert load(file).stage("1").trainer["gradient_checkpointing"] is True


@pytest.mark.parametrize("family", ["llava", "fast_vlm"])
def test_a_server_is_tried_for_composed_models(family: str, machine: Any, tmp_path: Path) -> None:
    machine(80, gpus=1)
    run = RunDir(str(tmp_path), "demo_scenes")
    write_json(plan.scratch_of(run).final("base") / "config.json", {"model_type": family})
    assert fitting.unserved(run, load("demo_scenes").stage("3")) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpus": 0}, "on a CPU a server takes the trainer's cores"),
        ({"vllm": False}, "vLLM is not installed"),
        ({"family": "gemma3"}, "no test holds that vLLM computes gemma3 alike"),
        ({"served": 1.2}, "2.4 s a step with a vLLM server, 2 without"),
    ],
)
def test_it_says_why_transformers_samples(
    changes: dict[str, Any], reason: str, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(80, **{"gpus": 1, **changes})
    words = ["--config", "demo_scenes", f"output_dir={tmp_path}", "launch.num_processes=1"]
    preflight.main([*words, "--fit"])
    told = capsys.readouterr().out
    assert f"stage3_grpo_accuracy: rollouts: transformers, {reason}" in told
    assert "rollouts: vllm" not in told


@pytest.mark.parametrize(("served", "chosen"), [(0.5, "vllm"), (1.2, "transformers")])
def test_a_stage_that_asks_for_a_server_is_measured_without_one_too(
    served: float, chosen: str, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Presets ask for one; a server that is held against itself is never faster."""
    tried = machine(80, gpus=1, served=served)
    file = tmp_path / "fitted.yaml"
    stage = "stages.stage2_grpo_format"
    asked = [f'{stage}.rollouts="vllm"', f"{stage}.rollouts_ahead=true"]
    words = ["--config", "demo_scenes", f"output_dir={tmp_path}", "launch.num_processes=1", *asked]
    assert preflight.main([*words, "--fit", "--write", str(file)]) == 0
    assert f"stage2_grpo_format: rollouts: {chosen}, " in capsys.readouterr().out
    fitted = load(file, asked).stage("2") if chosen == "vllm" else load(file).stage("2")
    assert (fitted.rollouts, fitted.rollouts_ahead) == (chosen, chosen == "vllm")
    of_stage = [argv for argv in tried if argv[argv.index("--only") + 1] == "stage2_grpo_format"]
    without = [argv for argv in of_stage if f'{stage}.rollouts="transformers"' in argv]
    assert all(f"{stage}.rollouts_ahead=false" in argv for argv in without)
    # One trial has the server.
    assert len(of_stage) - len(without) == 1 < len(of_stage)


def test_stages_whose_steps_are_of_one_size_are_measured_once(machine: Any, tmp_path: Path) -> None:
    tried = machine(80)
    preflight.main(["--config", "demo_scenes", f"output_dir={tmp_path}", "--fit"])
    names = {words[words.index("--only") + 1] for words in tried}
    assert names == {plan.EVALUATION, "baseline_sft_labels", "stage1_sft", "stage2_grpo_format", "stage4_clgrpo"}


def test_what_fits_nowhere_is_told_and_nothing_is_written(machine: Any, tmp_path: Path) -> None:
    machine(1.01)
    file = tmp_path / "fitted.yaml"
    with pytest.raises(UserError) as caught:
        preflight.main(["--config", "demo_scenes", f"output_dir={tmp_path}", "--fit", "--write", str(file)])
    assert len(caught.value.problems) == 6
    assert "does not fit into 909 MB of memory with 1 rows at a time" in caught.value.problems[1]
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--write", "x.yaml"], "go with --fit"),
        (["--fit", "--memory", "0"], "no number of GB above 0"),
        (["--fit", "--memory", "nan"], "no number of GB above 0"),
        (["--fit", "--write", "/no/such/folder/x.yaml"], "is no folder"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_measured(
    words: list[str], told: str, machine: Any, tmp_path: Path
) -> None:
    tried = machine(80)
    with pytest.raises(UserError, match=told):
        preflight.main(["--config", "demo_scenes", f"output_dir={tmp_path}", *words])
    assert tried == []


def test_another_fault_than_memory_ends_it(machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(80)

    def crash(*_: Any) -> None:
        raise UserError("failed with exit status 1")

    monkeypatch.setattr(preflight, "run_workers", crash)
    with pytest.raises(UserError, match="exit status 1"):
        preflight.main(["--config", "demo_scenes", f"output_dir={tmp_path}", "--fit"])
