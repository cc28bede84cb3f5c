"""What a worker does around the trainer: which weights are held fixed, what is recorded, where it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from pipeline.config.families import PART_PREFIXES, part_of
from pipeline.config.schema import RunConfig, StageConfig, TinyConfig
from pipeline.errors import UserError
from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir
from pipeline.runs import checkpoint_folders
from pipeline.runs import checkpoint_folders as _checkpoints
from stages.checkpoints import handover
from stages.models import loading
from stages.processes.work import Work
from stages.processes.workers import LOGS
from stages.training import (
    metrics_log,
    setup,
)
from stages.training.stop import Stop

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
SIGLIP = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
FAMILIES = {
    "idefics3": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1},
    },
    "smolvlm": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1},
    },
    "qwen2_vl": {
        "text_config": TEXT,
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
    },
    "qwen2_5_vl": {"text_config": TEXT, "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [0]}},
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 16},
        "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0, 1]},
    },
    "internvl": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    },
    "llava": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **SIGLIP},
    },
    "llava_onevision": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **SIGLIP},
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **SIGLIP},
    },
}
CONNECTORS = {
    "idefics3": ("model.connector.",),
    "smolvlm": ("model.connector.",),
    "qwen2_vl": ("model.visual.merger.",),
    "qwen2_5_vl": ("model.visual.merger.",),
    "qwen3_vl": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "internvl": ("model.multi_modal_projector.",),
    "llava": ("model.multi_modal_projector.",),
    "llava_onevision": ("model.multi_modal_projector.", "model.image_newline"),
    "paligemma": ("model.multi_modal_projector.",),
}
VISIONS = {
    "idefics3": "model.vision_model.",
    "smolvlm": "model.vision_model.",
    "qwen2_vl": "model.visual.",
    "qwen2_5_vl": "model.visual.",
    "qwen3_vl": "model.visual.",
}


def model_of(family: str) -> torch.nn.Module:
    """A model of a family with the parameter names of the real one and no memory."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(family, **FAMILIES[family])
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_every_family_belongs_to_the_right_part(family):
    found: dict[str, set[str]] = {}
    for name, _ in model_of(family).named_parameters():
        if name.startswith(CONNECTORS[family]):
            expected = "connector"
        elif name.startswith(VISIONS.get(family, "model.vision_tower.")):
            expected = "vision"
        else:
            expected = "language"
        assert part_of(name) == expected, name
        found.setdefault(expected, set()).add(name)
    assert set(found) == set(PART_PREFIXES)


@pytest.mark.parametrize(
    "parts", [["vision"], ["connector"], ["language"], ["vision", "connector"], ["vision", "language"]]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_holds_exactly_the_named_parts(family, parts):
    model = model_of(family)
    loading.freeze(model, parts)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (part_of(name) not in parts), name


def test_freezing_a_part_the_model_lacks_or_everything_is_refused():
    with pytest.raises(UserError, match="no part named vision"):
        loading.freeze(torch.nn.Linear(2, 2), ["vision"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        loading.freeze(model_of("smolvlm"), ["vision", "connector", "language"])


def test_weights_under_peft_names_belong_to_the_same_parts():
    adapter = "self_attn.q_proj.lora_A.default.weight"
    assert part_of(f"base_model.model.model.vision_model.encoder.layers.0.{adapter}") == "vision"
    assert part_of("base_model.model.model.visual.merger.mlp.0.weight") == "connector"


def test_the_same_sizes_and_seed_make_the_same_tiny_model(tmp_path):
    from pipeline.files import weights_digest
    from stages.models.tiny import build_tiny

    sizes = TinyConfig(
        hidden_size=32, layers=1, intermediate_size=32, vision_hidden_size=32, vision_layers=1, vocab_size=330
    )
    for folder, seed in [("a", 0), ("b", 0), ("c", 1)]:
        build_tiny(tmp_path / folder, sizes, ["some words to learn"] * 3, seed)
    digests = [weights_digest(tmp_path / folder) for folder in "abc"]
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def work(tmp_path) -> Work:
    stages = {
        "stage3_plain": StageConfig(algorithm="grpo", init_from="base"),
        "stage4_clip": StageConfig(algorithm="grpo", init_from="base", trainer={"epsilon": 0.2, "epsilon_high": 0.1}),
        "stage5_reuse": StageConfig(algorithm="grpo", init_from="base", trainer={"num_iterations": 4}),
    }
    config = RunConfig(name="run", output_dir=str(tmp_path), stages=stages)
    work = Work(config, "stage4_clip", RunDir(tmp_path, "run"))
    work.folder.mkdir(parents=True)
    return work


def state(step: int, last: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=True)


def test_a_resumed_journal_drops_the_steps_after_the_checkpoint_and_a_torn_line(work):
    path = work.folder / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "seconds": 2.0 * step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "sec'
    )
    journal = metrics_log.MetricsCallback(work)
    journal.on_train_begin(None, state(2), None)
    for step in (3, 4):
        journal.on_log(None, state(step), None, {"loss": 0.5})
    rows = list(read_jsonl(path))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # Goes on from the seconds of the checkpoint.
    assert rows[2]["seconds"] >= 4.0
    assert rows[3]["loss"] == 0.5


def test_a_resumed_journal_has_no_alarm_of_a_step_twice(work):
    path = work.folder / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": n, "seconds": 1.0, "images/dropped_ratio": n / 4}) + "\n" for n in (1, 2))
    )
    (work.folder / "alarms.jsonl").write_text('{"step": 2, "alarm": "from a step that is taken anew"}\n')
    journal = metrics_log.MetricsCallback(work)
    journal.on_train_begin(None, state(1), None)
    journal.on_log(None, state(2), None, {"images/dropped_ratio": 0.5})
    journal.on_log(None, state(3), None, {"images/dropped_ratio": 0.0})
    found = [(one["step"], one["event"]) for one in read_jsonl(work.folder / "alarms.jsonl")]
    assert found == [(1, "begin"), (3, "end")]


def test_a_stage_whose_last_step_is_saved_trains_no_more(work, tmp_path):
    class Trainer:
        steps = 0
        accelerator = SimpleNamespace(is_main_process=True, num_processes=1, wait_for_everyone=lambda: None)
        args = SimpleNamespace(save_total_limit=None)
        is_deepspeed_enabled = False
        model = torch.nn.Linear(1, 1)

        def add_callback(self, callback: object) -> None: ...

        def _get_train_sampler(self) -> None: ...

        def train(self, resume_from_checkpoint: str | None) -> None:
            step = int(resume_from_checkpoint.rpartition("-")[2]) if resume_from_checkpoint else 0
            metrics_log.MetricsCallback(work).on_train_begin(None, state(step), None)
            self.steps += 1

    trainer = Trainer()
    setup.train(trainer, work, tmp_path)
    assert trainer.steps == 1
    (work.folder / "checkpoint-10").mkdir()
    (work.folder / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 0.5}')
    (work.folder / "checkpoint-10" / checkpoint_folders.COMPLETE).touch()
    setup.train(trainer, work, tmp_path)
    assert trainer.steps == 1


@pytest.mark.parametrize("step", [7, 8])
def test_the_alarms_see_the_step_that_a_gentle_stop_saves(work, tmp_path, monkeypatch, step):
    monkeypatch.setenv(LOGS, str(tmp_path))
    accelerator = SimpleNamespace(is_main_process=True, set_trigger=lambda: None, check_trigger=lambda: True)
    stop, control = Stop(accelerator, replace(work, name="stage5_reuse")), TrainerControl()
    stop.on_step_end(None, state(step), control)
    # Its cycle is of four steps.
    ends = step == 8
    assert (control.should_log, control.should_save, control.should_training_stop) == (ends, ends, ends)


def test_the_order_of_prompts_goes_on_in_the_epoch_a_checkpoint_was_written_in():
    from trl.trainer.utils import RepeatSampler

    def sampler(*rows: object) -> RepeatSampler:
        return RepeatSampler(range(12), mini_repeat_count=1, seed=7)

    undisturbed = sampler()
    epochs = [list(undisturbed) for _ in range(3)]
    assert epochs[0] != epochs[2]
    trainer = SimpleNamespace(_get_train_sampler=sampler)
    setup.go_on_in_order(trainer, epochs=2)
    assert list(trainer._get_train_sampler(None)) == epochs[2]


def test_a_checkpoint_a_crash_tore_is_deleted_and_a_whole_one_is_not(work):
    for step in (4, 8):
        (work.folder / f"checkpoint-{step}").mkdir()
        (work.folder / f"checkpoint-{step}" / "model.safetensors").touch()
    (work.folder / "checkpoint-4" / checkpoint_folders.COMPLETE).touch()
    assert _checkpoints.remove_torn(work.folder) == ["checkpoint-8"]
    assert [path.name for path in work.folder.glob("checkpoint-*")] == ["checkpoint-4"]


def test_the_newest_whole_checkpoint_is_chosen_by_number(work):
    assert checkpoint_folders.last_checkpoint(work.folder) is None
    for step, whole in [(5, True), (10, True), (9, True), (20, False)]:
        folder = work.folder / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / checkpoint_folders.COMPLETE).touch()
    assert checkpoint_folders.last_checkpoint(work.folder) == str(work.folder / "checkpoint-10")


def test_a_clip_report_names_a_stage_that_never_clipped_void(work):
    quiet = [{"step": 1, "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0}]
    busy = [*quiet, {"step": 2, "clip_ratio/low_mean": 0.2, "clip_ratio/high_mean": 0.0}]
    assert handover.clip_report(work, quiet)["void"] is True
    report = handover.clip_report(work, busy)
    assert (report["low"], report["high"], report["void"], report["clips"]) == (0.1, 0.0, False, True)
    assert handover.clip_report(Work(work.config, "stage3_plain", work.run), busy) is None


def test_a_disk_that_will_hardly_do_is_told_before_the_first_step(work, monkeypatch):
    layer = torch.nn.Linear(10_000, 1000, bias=False)
    trainer = SimpleNamespace(model=layer, args=SimpleNamespace(save_total_limit=2))
    said: list[str] = []
    monkeypatch.setattr(setup.log, "info", said.append)
    for free in (410e6, 390e6):
        assert said == []
        monkeypatch.setattr(setup.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        setup.warn_of_a_small_disk(trainer, work)
    assert "3 checkpoints and final/ of stage4_clip take about 400 MB, and 390 MB are free" in said[0]


@pytest.mark.parametrize(
    ("gpu", "cores", "processes", "free", "workers"),
    [
        # A CPU's cores all train.
        (False, 64, 1, 64 * 2**30, 0),
        (True, 64, 1, 64 * 2**30, 4),
        (True, 16, 4, 64 * 2**30, 2),
        (True, 1, 1, 64 * 2**30, 0),
        # A container as it is by default: batches would not fit in /dev/shm.
        (True, 64, 1, 64 * 2**20, 0),
    ],
)
def test_data_processes_are_as_many_as_a_gpu_s_machine_bears(monkeypatch, gpu, cores, processes, free, workers):
    monkeypatch.setattr(setup, "use_cpu", lambda: not gpu)
    monkeypatch.setattr(setup.os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert setup.data_workers() == workers


def test_a_stage_s_own_number_of_data_processes_is_kept(work, monkeypatch):
    monkeypatch.setattr(setup, "data_workers", lambda: 4)
    assert setup.trainer_arguments(work)["dataloader_num_workers"] == 4
    work.stage.trainer["dataloader_num_workers"] = 1
    assert setup.trainer_arguments(work)["dataloader_num_workers"] == 1


def test_a_picture_is_opened_once_while_a_rollout_is_read_again_and_again(tmp_path, monkeypatch):
    opened: list[str] = []

    def count(path):
        opened.append(path.name)
        return object()

    monkeypatch.setattr(setup, "open_rgb", count)
    rows = setup.image_dataset(
        {"images": [[f"{name}.png"] for name in "aabbc"] + [["c.png", "a.png"]], "text": list("123456")}
    )
    once, again = rows[[0, 1, 2, 3]], rows[[0, 1, 2, 3]]
    assert opened == ["a.png", "b.png"]
    assert once["images"][0][0] is once["images"][1][0] is again["images"][0][0]
    assert rows[[2, 4]]["images"][0][0] is once["images"][2][0]
    assert opened == ["a.png", "b.png", "c.png"]
    assert [len(images) for images in rows[[4, 5]]["images"]] == [1, 2]
    assert opened == ["a.png", "b.png", "c.png", "a.png"]
