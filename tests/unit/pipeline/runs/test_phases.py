"""What a phase depends on: a change makes it stale, a change elsewhere does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config import loader
from pipeline.config.loader import CONFIGS, load, to_plain
from pipeline.config.schema import RunConfig
from pipeline.files import differences, file_digest, weights_digest, write_json
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.phases import (
    evaluation_inputs,
    parent_of,
    phase_inputs,
    phase_names,
    stale_reasons,
    start_record,
    teacher_weights,
    trained_phases,
)

BASELINE = "baseline_sft_labels"
STAGES = ["stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """The demo, every phase finished under its own settings."""
    config, run = load("demo_scenes"), RunDir(tmp_path, "demo_scenes")
    finish(config, run)
    return run


def finish(config: RunConfig, run: RunDir) -> None:
    for name in phase_names(config):
        if name in (COT, BASE):
            record = {"status": "complete", "inputs": phase_inputs(config, name), "weights": f"weights of {name}"}
            record["data_digest"] = "rows"
        else:
            record = {**start_record(config, run, name), "status": "complete", "weights": f"weights of {name}"}
        write_json(run.record_path(name), record)


def stale(run: RunDir, *overrides: str) -> dict[str, list[str]]:
    """The phases that no longer hold under these overrides, with the reasons."""
    config = load("demo_scenes", overrides)
    reasons = {name: stale_reasons(config, run, name) for name in phase_names(config)}
    return {name: why for name, why in reasons.items() if why}


def test_phases_run_in_order_and_only_those_the_run_has() -> None:
    assert phase_names(load("demo_scenes")) == [COT, BASE, BASELINE, *STAGES]
    config = load("demo_scenes", ["baselines={}"])
    assert trained_phases(config) == [BASE, *STAGES]


def below(tmp_path: Path, text: str) -> RunConfig:
    """A file that stands on a shipped one, loaded."""
    (tmp_path / "run.yaml").write_text(f"base: {CONFIGS / 'demo_scenes.yaml'}\n{text}")
    return load(tmp_path / "run.yaml")


def test_a_baseline_runs_after_its_parent_and_before_its_children(tmp_path: Path) -> None:
    config = below(
        tmp_path,
        """
baselines:
  grpo: {algorithm: grpo, init_from: stage1}
  labels: {algorithm: sft, init_from: grpo}
  sft: {algorithm: sft, init_from: base}
stages: {stage3: {init_from: labels}}
""",
    )
    expected = ["baseline_sft_labels", "baseline_sft", "stage1_sft", "baseline_grpo", "baseline_labels", *STAGES[1:]]
    assert phase_names(config)[2:] == expected
    assert [parent_of(config, name) for name in expected[:5]] == [BASE, BASE, BASE, "stage1_sft", "baseline_grpo"]


def test_a_record_of_the_former_single_baseline_holds(run: RunDir, tmp_path: Path) -> None:
    """What earlier versions wrote of it, where it was `baseline:` and the parent of a stage."""
    former = tmp_path / "former.yaml"
    plain = to_plain(load("demo_scenes", ["stages.4.init_from=baseline"]))
    plain["baseline"] = plain.pop("baselines")["sft_labels"]
    former.write_text(yaml.safe_dump(plain))
    config = load(former)
    assert config == load("demo_scenes", ["stages.4.init_from=baseline"])
    assert [stale_reasons(config, run, name) for name in (BASELINE, "stage1_sft")] == [[], []]


def test_a_phase_that_was_not_begun_is_neither_stale_nor_sound(tmp_path: Path) -> None:
    assert stale_reasons(load("demo_scenes"), RunDir(tmp_path, "demo_scenes"), "stage1_sft") is None


def test_a_finished_run_holds_under_the_same_settings(run: RunDir) -> None:
    assert stale(run) == {}


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "output_dir=elsewhere",
        "evaluation.split=val",
        "evaluation.batch_size=7",
        "evaluation.samples=0",
        "cot.concurrency=1",
        "cot.min_rows=5",
        "stages.3.gate.action=warn",
        "baselines.sft_labels.gate.format_rate=0.5",
        "keep_checkpoints=true",
    ],
)
def test_what_changes_no_result_makes_nothing_stale(run: RunDir, override: str) -> None:
    assert stale(run, override) == {}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.4.trainer.learning_rate=1e-6", ["stage4_clgrpo"]),
        ("stages.4.trainer.epsilon_high=0.2", ["stage4_clgrpo"]),
        ("stages.3.reward_funcs=[accuracy]", ["stage3_grpo_accuracy"]),
        ("stages.1.trainer.max_steps=5", ["stage1_sft"]),
        ("baselines.sft_labels.split=train[:10]", [BASELINE]),
        ("cot.split=train[:10]", [COT]),
        ("cot.attempts=3", [COT]),
        ("cot.teachers=[attribute]", [COT]),
        ("model.tiny.layers=2", [BASE]),
        ("model.dtype=float32", [BASELINE, *STAGES]),
        ("model.peft={r: 4}", [BASELINE, *STAGES]),
        ("model.processor={do_image_splitting: true}", [BASE, BASELINE, *STAGES]),
        ("launch.deepspeed=zero2", [BASELINE, *STAGES]),
        ("launch.num_processes=2", [BASELINE, *STAGES]),
        ("seed=1", [COT, BASE, BASELINE, *STAGES]),
        ("task.options.train=10", [COT, BASE, BASELINE, *STAGES]),
        ("task.question=What now?", [COT, BASE, BASELINE, *STAGES]),
    ],
)
def test_a_change_makes_stale_what_depends_on_it_directly(run: RunDir, override: str, expected: list[str]) -> None:
    found = stale(run, override)
    assert list(found) == expected
    key = override.partition("=")[0].rpartition(".")[2]
    assert all(key in " ".join(why) for why in found.values())


def test_new_parent_weights_make_the_child_stale_and_not_the_grandchild(run: RunDir) -> None:
    record = run.record("stage2_grpo_format") or {}
    write_json(run.record_path("stage2_grpo_format"), {**record, "weights": "others"})
    assert stale(run) == {"stage3_grpo_accuracy": ["its parent stage2_grpo_format now has other weights"]}


def test_a_parent_that_is_gone_makes_the_child_stale(run: RunDir) -> None:
    run.record_path(BASE).unlink()
    assert list(stale(run)) == [BASELINE, "stage1_sft"]


def test_another_parent_makes_a_stage_stale(run: RunDir) -> None:
    why = stale(run, "stages.4.init_from=stage2")["stage4_clgrpo"]
    assert "stage.init_from: 'stage3' -> 'stage2'" in why


def test_other_cot_rows_make_only_the_stages_trained_on_them_stale(run: RunDir) -> None:
    write_json(run.record_path(COT), {**(run.record(COT) or {}), "data_digest": "other rows"})
    # base: its tokenizer is made from them
    assert list(stale(run)) == [BASE, "stage1_sft"]
    assert stale(run)["stage1_sft"] == ["the CoT rows are other rows now"]


def test_rows_asked_with_a_prompt_that_was_edited_since_are_stale(run: RunDir, repo_root: Path) -> None:
    record = run.record(COT) or {}
    digest = file_digest(repo_root / "cot_builder" / "prompts" / "answer_given_v1.jinja")
    write_json(run.record_path(COT), {**record, "prompts": {"answer_given_v1": {"digest": digest}}})
    assert stale(run) == {}
    write_json(run.record_path(COT), {**record, "prompts": {"answer_given_v1": {"digest": "of another text"}}})
    assert stale(run) == {COT: ["the prompt answer_given_v1 was edited"]}


def test_a_stage_under_way_is_judged_like_a_finished_one(run: RunDir) -> None:
    config = load("demo_scenes")
    write_json(run.record_path("stage4_clgrpo"), start_record(config, run, "stage4_clgrpo"))
    assert stale(run) == {}
    assert list(stale(run, "stages.4.trainer.beta=0.1")) == ["stage4_clgrpo"]


def test_moving_a_teacher_to_another_address_keeps_its_rows(tmp_path: Path) -> None:
    teacher = tmp_path / "mine.yaml"
    text = "kind: openai\nmodel: m\nbase_urls: [http://a:1/v1]\nconcurrency: 4\ntemperature: 0.7\n"
    config = load("demo_scenes", [f"cot.teachers=[{teacher}]"])
    teacher.write_text(text)
    before = phase_inputs(config, COT)
    teacher.write_text(text.replace("a:1", "b:2").replace("concurrency: 4", "concurrency: 64"))
    assert phase_inputs(config, COT) == before
    teacher.write_text(text.replace("0.7", "0.9"))
    assert phase_inputs(config, COT) != before


def test_a_teacher_s_template_makes_rows_stale_by_what_it_holds_and_not_where_it_is_gone(tmp_path: Path) -> None:
    teacher, template, run = tmp_path / "mine.yaml", tmp_path / "a.jinja", RunDir(tmp_path, "demo_scenes")
    config = load("demo_scenes", [f"cot.teachers=[{teacher}]"])

    def stale_when(text: str | None, file: Path = template) -> list[str] | None:
        teacher.write_text(f"kind: openai\nmodel: m\nbase_urls: [http://a:1/v1]\nserve: {{chat-template: {file}}}\n")
        file.unlink(missing_ok=True) if text is None else file.write_text(text)
        return stale_reasons(config, run, COT)

    def record() -> None:
        write_json(run.record_path(COT), {"status": "complete", "inputs": phase_inputs(config, COT)})

    stale_when("one")
    record()
    assert stale_when("one", tmp_path / "moved.jinja") == []
    assert stale_when("two") != []
    # The rows are there; the machine that trains on them needs no template.
    assert stale_when(None) == []
    assert stale_when(None, tmp_path / "other.jinja") != []
    # As of a build that read no template.
    stale_when(None)
    record()
    assert stale_when("one") == []
    assert stale_when("one", tmp_path / "moved.jinja") != []


def test_the_text_of_a_deepspeed_file_counts_and_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text((loader.CONFIGS / "deepspeed" / "zero2.json").read_text())
    mine, shipped = (
        phase_inputs(load("demo_scenes", [f"launch.deepspeed={name}"]), "stage1_sft") for name in (path, "zero2")
    )
    assert mine == shipped


def test_inputs_survive_being_written_down() -> None:
    for name in phase_names(load("demo_scenes")):
        inputs = phase_inputs(load("demo_scenes"), name)
        assert differences(json.loads(json.dumps(inputs, default=str)), inputs) == []


def test_predictions_depend_on_the_evaluation_block_and_not_on_the_stages() -> None:
    before = evaluation_inputs(load("demo_scenes"))
    assert evaluation_inputs(load("demo_scenes", ["stages.4.trainer.beta=0.5", "name=x"])) == before
    assert differences(before, evaluation_inputs(load("demo_scenes", ["evaluation.split=val"]))) == [
        "evaluation.split: 'test' -> 'val'"
    ]


def test_differences_name_the_key_and_both_values() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "gone": 2}, {"a": {"b": 1, "c": [2]}, "new": None, "late": 3}
    assert differences(old, new) == ["a.c: [1] -> [2]", "gone: 2 -> None", "late: None -> 3"]
    assert differences(new, new) == []


def test_a_teacher_of_logits_with_other_weights_makes_the_stage_stale_and_one_that_is_gone_does_not(
    run: RunDir, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    settings = f"stages.1.distill.teacher={folder}"
    config = load("demo_scenes", [settings])
    taught = {"folder": str(folder), "weights": teacher_weights(folder, run.cache)}
    assert taught["weights"] == weights_digest(folder)
    record = {**start_record(config, run, "stage1_sft"), "status": "complete", "weights": "weights of stage1_sft"}
    write_json(run.record_path("stage1_sft"), record | {"teacher": taught})
    assert stale(run, settings) == {}
    (folder / "model.safetensors").write_text("other weights")
    assert stale(run, settings) == {"stage1_sft": [f"its teacher {folder} now has other weights"]}
    (why,) = stale(run, settings, "stages.1.distill.weight=0.9")["stage1_sft"][:1]
    assert why == "stage.distill.weight: 0.5 -> 0.9"
    (folder / "model.safetensors").unlink()
    assert stale(run, settings) == {}


def test_alarms_make_nothing_stale(run: RunDir) -> None:
    assert stale(run, "alarms.stop=[nan,kl]", "alarms.truncated=0.1", "alarms.window=3") == {}


def test_starting_from_the_best_makes_a_stage_stale(run: RunDir) -> None:
    config = load("demo_scenes")
    record = run.record("stage3_grpo_accuracy") or {}
    write_json(run.record_path("stage3_grpo_accuracy"), {**record, "best": {"weights": "better"}})
    assert stale_reasons(config, run, "stage4_clgrpo") == []
    reasons = stale(run, "stages.stage4.init_from=stage3:best")["stage4_clgrpo"]
    assert any("its parent stage3_grpo_accuracy now has other weights" in reason for reason in reasons)


def test_a_run_of_a_preset_from_before_it_summed_gradients_in_float32_goes_on(run: RunDir) -> None:
    """And with the number of data processes that presets once named."""
    for name in STAGES:
        record = run.record(name) or {}
        record["inputs"]["stage"]["trainer"]["dataloader_num_workers"] = 4
        settings = json.loads((loader.CONFIGS / "deepspeed" / "zero2.json").read_text())
        assert settings.pop("data_types") == {"grad_accum_dtype": "fp32"}
        record["inputs"]["launch"]["deepspeed"] = json.dumps(settings, indent=2)
        write_json(run.record_path(name), record)
    assert set(stale(run, "launch.deepspeed=zero2")) == {BASELINE}
    assert set(stale(run, "launch.deepspeed=zero3")) == {BASELINE, *STAGES}


def test_a_stage_is_stale_once_a_reward_of_the_user_s_own_was_edited(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own are judged by their release; a stage begun before this was recorded is taken as it is."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine_for_phases.py"
    file.write_text("def brevity_reward(completions, **columns): return [1.0 for _ in completions]\n")
    words = ["stages.stage3_grpo_accuracy.reward_funcs=[format, mine_for_phases.brevity_reward]"]
    finish(load("demo_scenes", words), run)
    assert run.record("stage3_grpo_accuracy")["rewards"] == {"mine_for_phases.brevity_reward": file_digest(file)}
    assert run.record("stage4_clgrpo")["rewards"] == {}
    assert stale(run, *words) == {}
    file.write_text(file.read_text().replace("1.0", "-1.0"))
    reason = {"stage3_grpo_accuracy": ["the reward mine_for_phases.brevity_reward was edited"]}
    assert stale(run, *words) == reason
    record = run.record("stage3_grpo_accuracy")
    write_json(run.record_path("stage3_grpo_accuracy"), {key: record[key] for key in record if key != "rewards"})
    assert stale(run, *words) == {}
