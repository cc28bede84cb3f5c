"""What a preflight tries, in which processes, and what it does when a trial ends for want of memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.derived import prompts_per_rollout
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.task import Task, labelled_task
from pipeline.data.training_rows import read_rows
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import RunDir
from pipeline.scoring.labels import LabelSet
from pipeline.types import Question, Split, labelled_image
from stages import preflight
from stages.trial import plan

NAMES = ["baseline_sft_labels", "stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load("demo_scenes", [f"output_dir={tmp_path}"])


@pytest.fixture
def run(config: RunConfig) -> RunDir:
    return RunDir(config.output_dir, config.name)


def pretend(monkeypatch: pytest.MonkeyPatch, run: RunDir, **faults: str) -> list[list[str]]:
    """Workers that finish every trial but those of `faults`: "noted" runs out of memory, "killed" is killed, else it crashes."""
    groups: list[list[str]] = []

    def workers(module: str, work: Any, argv: list[str]) -> None:
        groups.append(argv[argv.index("--only") + 1].split(","))
        for name in groups[-1]:
            folder = plan.scratch_of(run).phase(name)
            fault = faults.get(name)
            if fault == "noted":
                write_json(folder / "too_large.json", {"error": "CUDA out of memory"})
            if fault:
                raise UserError(f"failed with exit status 1{', ended by SIGKILL' if fault == 'killed' else ''}")
            write_json(folder / "timing.json", {})

    monkeypatch.setattr(preflight, "run_workers", workers)
    return groups


def listing(rows: int) -> Task:
    examples = tuple(labelled_image(str(number), Path(f"{number}.png"), "cat") for number in range(rows))
    return labelled_task("own", LabelSet.of(["cat"]), "Which?", ("train",), lambda name: Split(examples))


def test_every_stage_is_cut_to_three_cycles_from_the_base_and_keeps_its_sizes(config: RunConfig) -> None:
    trial = plan.trial_config(config)
    for name, stage in trial.all_stages.items():
        assert stage.init_from == "base"
        assert stage.trainer["max_steps"] == (12 if name == "stage4_clgrpo" else 3)
        for key in ("per_device_train_batch_size", "num_generations", "max_completion_length", "learning_rate"):
            assert stage.trainer.get(key) == config.stage(name).trainer.get(key)
        assert stage.freeze == config.stage(name).freeze
    assert trial.stages["stage3_grpo_accuracy"].trainer["generation_kwargs"] == {"min_new_tokens": 48}


def test_a_stage_on_a_vllm_server_keeps_the_options_the_server_is_sent() -> None:
    trial = plan.trial_config(load("demo_scenes", ["stages.stage3.rollouts=vllm"]))
    assert "generation_kwargs" not in trial.stages["stage3_grpo_accuracy"].trainer


def test_the_longest_rows_come_first_and_none_is_lost(config: RunConfig, run: RunDir) -> None:
    task = listing(100)
    assert not plan.write_rows(config, run, plan.scratch_of(run), task)
    run.cot.mkdir(parents=True)
    texts = ["x" * (7 * number % 101) for number in range(100)]
    pq.write_table(pa.table({"id": list(map(str, range(100))), "completion": texts}), run.cot / "train.parquet")
    write_json(run.record_path("cot"), {"status": "complete"})
    assert plan.write_rows(config, run, plan.scratch_of(run), task)
    written = pq.read_table(plan.scratch_of(run).cot / "train.parquet")["completion"].to_pylist()
    assert sorted(written) == sorted(texts)
    # the demo's batch
    assert written[:32] == sorted(texts, key=len, reverse=True)[:32]
    assert written[32:] != sorted(written[32:], key=len, reverse=True)


def test_rows_with_most_pictures_come_first(run: RunDir) -> None:
    config = load("demo_scenes", ["stages.stage2.split=train"])
    rows = tuple(Question(str(n), (Path("a.png"),) * (n % 3), "Which?", answer="cat") for n in range(100))
    task = dataclasses.replace(listing(1), read=lambda name: Split(rows))
    run.cot.mkdir(parents=True)
    texts = ["x" * (7 * number % 101) for number in range(100)]
    pq.write_table(pa.table({"id": [row.id for row in rows], "completion": texts}), run.cot / "train.parquet")
    write_json(run.record_path("cot"), {"status": "complete"})
    scratch = plan.scratch_of(run)
    assert plan.write_rows(config, run, scratch, task)
    first = pq.read_table(scratch.cot / "train.parquet").to_pylist()[:32]
    assert [int(row["id"]) % 3 for row in first] == [2] * 32
    assert [len(row["completion"]) for row in first] == sorted((len(row["completion"]) for row in first), reverse=True)
    # Of a GRPO stage as many as the first rollout asks, and then all others as they were.
    plan.write_stage_rows(config, scratch, "stage2_grpo_format", task)
    columns, _ = read_rows(scratch.phase("stage2_grpo_format"))
    asked = prompts_per_rollout(config, config.stage("stage2_grpo_format"))
    counts = [len(images) for images in columns["images"]]
    assert counts[:asked] == [2] * asked
    assert sorted(columns["id"]) == sorted(row.id for row in rows)
    rest = [row.id for row in task.select("train").rows if row.id not in columns["id"][:asked]]
    assert columns["id"][asked:] == rest
    assert plan.trial_config(config).stages["stage2_grpo_format"].trainer["shuffle_dataset"] is False


def test_a_stage_with_a_slice_of_its_own_finds_its_longest_rows_first(run: RunDir) -> None:
    config, task = (
        load(
            "demo_scenes",
            ["stages.stage1.split=train[:50]", "baselines.sft_labels.trainer.per_device_train_batch_size=8"],
        ),
        listing(100),
    )
    run.cot.mkdir(parents=True)
    texts = ["x" * (7 * number % 101) for number in range(100)]
    pq.write_table(pa.table({"id": list(map(str, range(100))), "completion": texts}), run.cot / "train.parquet")
    write_json(run.record_path("cot"), {"status": "complete"})
    assert plan.write_rows(config, run, plan.scratch_of(run), task)
    written = pq.read_table(plan.scratch_of(run).cot / "train.parquet")
    held = {row.id for row in task.select("train[:50]").rows}
    seen = [text for row_id, text in zip(*written.to_pydict().values(), strict=True) if row_id in held]
    assert len(seen) == 50
    assert seen[:32] == sorted(seen, key=len, reverse=True)[:32]


def test_one_process_tries_all_and_several_try_each_apart(
    config: RunConfig, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = pretend(monkeypatch, run)
    launched = preflight.launch(config, run, [*NAMES, "evaluation"], [])
    assert groups == [[*NAMES, "evaluation"]]
    assert list(launched) == [*NAMES, "evaluation"]
    groups.clear()
    preflight.launch(load("demo_scenes", ["launch.num_processes=2"]), run, [*NAMES, "evaluation"], [])
    assert groups == [[name] for name in [*NAMES, "evaluation"]]


@pytest.mark.parametrize(("fault", "said"), [("noted", "CUDA out of memory"), ("killed", "the kernel killed it")])
def test_after_a_trial_without_memory_the_rest_is_tried(
    config: RunConfig, run: RunDir, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    groups = pretend(monkeypatch, run, stage2_grpo_format=fault)
    preflight.launch(config, run, [*NAMES, "evaluation"], [])
    assert groups[1:] == [[*NAMES[3:], "evaluation"]]
    folder = plan.scratch_of(run).phase("stage2_grpo_format")
    assert said in json.loads((folder / "too_large.json").read_text())["error"]
    trial = plan.read_trial(config.stage("stage2"), folder, 0.0)
    assert trial.too_large is not None
    assert said in trial.too_large


def test_a_trial_that_fails_otherwise_ends_the_preflight(
    config: RunConfig, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, run, stage2_grpo_format="crashed")
    with pytest.raises(UserError, match="exit status 1"):
        preflight.launch(config, run, [*NAMES, "evaluation"], [])


def test_stages_that_do_not_share_their_prompts_are_named_with_the_cure(tmp_path: Path) -> None:
    assert preflight.unshared_stages(load("demo_scenes", [f"output_dir={tmp_path}"])) == {}
    dropout = load(
        "demo_scenes", [f"output_dir={tmp_path}", "model.peft={target_modules: [q_proj], lora_dropout: 0.1}"]
    )
    found = preflight.unshared_stages(dropout)
    assert list(found) == NAMES[2:]
    assert all(reason.startswith("model.peft.lora_dropout: 0.1; set it to 0") for reason in found.values())
