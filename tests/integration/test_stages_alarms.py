"""Alarms, stops and the best checkpoint with the real trainers, one process for all of them; and one stop as a user sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
from small_runs import Small, accept, moved

from pipeline.errors import UserError
from pipeline.files import read_jsonl, weights_digest, write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.handover import checkpoint
from stages.processes.work import Work
from stages.training import validation

pytestmark = pytest.mark.slow
S3, S4, BASELINE = "stage3_grpo_accuracy", "stage4_clgrpo", "baseline_sft_labels"
PLAIN = ("cot=null", "stages.1.data=labels", "stages.1.prompt=direct", "stages.3.init_from=base")
"""No CoT rows are needed, nor a stage before the third."""
SHORT = ("evaluation.max_new_tokens=4", "task.options.train=32", "task.options.test=8")

Train = Callable[..., Work]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of these runs."""
    return tmp_path_factory.mktemp("alarms")


@pytest.fixture(scope="module")
def train(root: Path) -> Train:
    """`train(stage, run, a.b=c …)` trains one stage in this process, as a worker does."""
    return lambda stage, name, *words: small_runs.train(root, stage, name, *PLAIN, *SHORT, *words)


def rows(work: Work) -> list[dict[str, Any]]:
    return list(read_jsonl(work.folder / "metrics.jsonl"))


def record(work: Work) -> dict[str, Any]:
    return work.run.record(work.name) or {}


def begun(work: Work) -> dict[str, int]:
    """The step each alarm began with, from alarms.jsonl."""
    return {event["alarm"]: event["step"] for event in read_jsonl(work.folder / "alarms.jsonl")}


def misfits(folder: Path) -> list[str]:
    """What does not fit when plain transformers loads a checkpoint, without arguments of ours."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    AutoProcessor.from_pretrained(folder)
    return [name for name, problems in info.items() if problems]


@pytest.fixture(scope="module")
def validated(train: Train) -> Work:
    """Stage 3, validated at its two saves."""
    work = train("3", "validated", "stages.3.validation.split=val")
    accept(work)
    return work


def test_validation_and_other_pictures_change_no_bit_of_training(train: Train, validated: Work) -> None:
    plain = train("3", "plain", "alarms.images_unseen=null")
    times = ("seconds", "step_time", "eval_runtime")
    figures = [[{k: v for k, v in row.items() if k not in times} for row in rows(work)] for work in (plain, validated)]
    swapped = [{key: row.pop(key) for key in list(row) if key.startswith("images/swap_")} for row in figures[1]]
    # Before the first step, and after the last.
    assert [row["step"] for row, found in zip(figures[1], swapped, strict=True) if found] == [1, 4]
    found = [{key: row.pop(key) for key in list(row) if key.startswith("eval_")} for row in figures[1]]
    assert figures[0] == figures[1]
    assert record(plain)["weights"] == record(validated)["weights"]
    assert [sorted(one) for one in found] == [[], ["eval_accuracy", "eval_format", "eval_macro_f1"]] * 2
    assert record(plain)["best"] is None


def test_the_next_stage_starts_from_the_best_and_a_void_stage_is_told_live(train: Train, validated: Work) -> None:
    best = checkpoint(validated.run, S3, which="best")
    assert misfits(best) == []
    # All are equally bad; the first of equals is kept.
    assert record(validated)["best"]["step"] == 2
    assert record(validated)["best"]["weights"] == weights_digest(best) != record(validated)["weights"]
    stage = ("stages.3.validation.split=val", "stages.4.init_from=stage3:best", "stages.4.trainer.learning_rate=1e-12")
    with pytest.raises(UserError, match=r"the alarm clip_void of step 4 ended it.*is 3, above 2.*num_iterations"):
        train("4", "validated", *stage, "alarms.clip_void=2", "alarms.stop=[clip_void]")
    # Goes on; a threshold makes nothing stale.
    work = train("4", "validated", *stage, "alarms.clip_void=5")
    assert record(work)["parent_weights"] == record(validated)["best"]["weights"]
    assert max(moved(best, work.run.final(S4)).values()) < 1e-6
    assert [row["step"] for row in rows(work)] == list(range(1, 9))
    # The rows before the stop were read again under the new threshold.
    assert begun(work)["clip_void"] == 8
    assert record(work)["alarms"]["clip_void"]["worst"] == 6
    assert record(work)["clip"]["void"] is True


def test_a_best_that_no_stage_could_start_from_is_not_accepted(validated: Work) -> None:
    from stages.checkpoints.verify import _best_problems

    best, parent = record(validated)["best"], validated.run.final(BASE)
    assert _best_problems(validated, best, parent) == []
    other = {**best["files"], "config.json": 64 * "0"}
    assert ["config.json changed" in problem for problem in _best_problems(validated, {"files": other}, parent)] == [
        True
    ]


def test_the_best_survives_a_crash_and_one_of_later_steps_does_not(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen figures stand for a model that gets better, then worse."""
    chosen = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.5}

    def figures(self: validation.Validation) -> dict[str, float]:
        return {"eval_accuracy": 0.5, "eval_macro_f1": chosen[self.trainer.state.global_step], "eval_format": 1.0}

    monkeypatch.setattr(validation.Validation, "figures", figures)
    words = ("baselines.sft_labels.validation.steps=2",)
    work = train("baseline", "crashed", *words)
    before = record(work)
    assert before["best"]["step"] == 4
    assert max(moved(work.folder / "checkpoint-4", work.folder / "best").values()) == 0.0
    logged = [{key: row.get(key) for key in ("step", "loss", "eval_macro_f1")} for row in rows(work)]

    # As after a crash behind step 6.
    (work.folder / "best").rename(work.folder / "best-4")
    later = work.folder / "best-6"
    shutil.copytree(work.folder / "best-4", later)
    write_json(later / "validation.json", {"step": 6, "eval_accuracy": 1.0, "eval_macro_f1": 0.9, "eval_format": 1.0})
    (work.folder / "best-8.torn").mkdir()
    for folder in ("checkpoint-8", "final"):
        shutil.rmtree(work.folder / folder)
    write_json(work.run.record_path(BASELINE), {**before, "status": "running", "best": None})
    train("baseline", "crashed", *words)
    assert record(work)["best"] == before["best"]
    assert record(work)["weights"] == before["weights"]
    assert [{key: row.get(key) for key in ("step", "loss", "eval_macro_f1")} for row in rows(work)] == logged
    assert list(work.folder.glob("best-*")) == []


def test_a_best_with_adapters_is_merged_and_training_goes_on_unmerged(train: Train) -> None:
    words = (
        "model.peft={r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}",
        "baselines.sft_labels.trainer.max_steps=4",
    )
    plain = train("baseline", "lora_plain", *words, "baselines.sft_labels.validation=null")
    work = train(
        "baseline",
        "lora",
        *words,
        "baselines.sft_labels.validation.steps=2",
        "baselines.sft_labels.validation.split=val[:4]",
    )
    assert record(work)["best"]["step"] == 2
    assert record(work)["weights"] == record(plain)["weights"]
    assert misfits(work.folder / "best") == []
    assert max(moved(work.folder / "best", work.run.final(BASELINE)).values()) > 0


def test_completions_that_are_all_alike_and_cut_are_told_and_counted(train: Train) -> None:
    words = ("reward_funcs=[rewards_for_tests.constant_reward]", "trainer.temperature=0.001")
    # So cold, the entropy is next to nothing from the start.
    off = ("alarms.window=2", "alarms.entropy=null")
    # More than pictures can move the logits.
    work = train("3", "alike", *(f"stages.3.{word}" for word in words), *off, "alarms.images_unseen=9")
    assert begun(work) == {"truncated": 1, "zero_std": 1, "duplicates": 1, "images_unseen": 1}
    assert rows(work)[-1]["completions/duplicate_ratio"] == 1.0
    unseen = record(work)["alarms"]["images_unseen"]
    swapped = [row["images/swap_change"] for row in rows(work) if "images/swap_change" in row]
    # Before the first step and after the last.
    assert len(swapped) == 2
    assert min(swapped) == unseen["worst"] > 1e-3
    assert (unseen["first"], unseen["last"]) == (1, 4)
    found = {name: (one["first"], one["last"], one["worst"]) for name, one in record(work)["alarms"].items()}
    del found["images_unseen"]
    assert found == dict.fromkeys(("truncated", "zero_std", "duplicates"), (1, 4, 1.0))


def test_a_reward_that_is_not_finite_ends_the_stage_and_nothing_is_saved(train: Train, root: Path) -> None:
    words = ("reward_funcs=[rewards_for_tests.infinite_reward]", "trainer.save_steps=1")
    with pytest.raises(UserError, match=r"the alarm nan of step 1 ended it") as caught:
        train("3", "infinite", *(f"stages.3.{word}" for word in words))
    assert "mend the reward" in str(caught.value)
    assert list(root.glob(f"infinite/{S3}/checkpoint-*")) == []


def test_a_loss_that_is_not_a_number_stops_the_command_with_the_alarm(
    small: Small, whole_run: tuple[RunDir, str]
) -> None:
    run = small.copy_of("small", "diverged", "base", "cot")
    words = ("--stage", "baseline", "baselines.sft_labels.trainer.learning_rate=1e30")
    output = small.run("stages.sft", *words, name="diverged", code=2)
    assert "ALARM nan in baseline_sft_labels at step 2" in output
    assert "error: baseline_sft_labels: the alarm nan of step 2 ended it" in output
    assert "lower learning_rate" in output
    stage = run.record(BASELINE) or {}
    assert stage["status"] == "running"
    assert "the alarm nan" in stage["stopped"]
    assert list(run.phase(BASELINE).glob("checkpoint-*")) == []
    assert not run.final(BASELINE).exists()
