"""The whole pipeline through `python -m pipeline run`: order, hand-over, clipping, skipping, refusals, doing a part anew."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from small_runs import STAGES, Small, moved, snapshot, steps, weights

from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
BASELINE = STAGES[0]
PHASES = ["base", *STAGES]
PARENTS = dict(zip(STAGES, ["base", "base", *STAGES[1:4]], strict=True))


@pytest.fixture(scope="module")
def run(whole_run: tuple[RunDir, str]) -> RunDir:
    return whole_run[0]


def test_phases_complete_in_order(whole_run):
    run, output = whole_run
    told = [line.split("] ")[1] for line in output.splitlines() if line.startswith("[") and "] " in line]
    begun = [text for text in told if not text.endswith(" is done")]
    assert sorted(begun) == sorted(["cot", *PHASES, "report"])
    assert [name for name in begun if name != BASELINE] == ["cot", "base", *STAGES[1:], "report"]
    assert all(run.record(name)["status"] == "complete" for name in ["cot", *PHASES])
    assert f"report: {run.report / 'index.html'}" in output


def test_the_baseline_is_trained_beside_the_stages(whole_run):
    """Each with the weights it has alone, as the tests that train one again compare."""
    _, output = whole_run
    lines = [line.split("] ")[-1] for line in output.splitlines()]
    assert lines.index(BASELINE) < lines.index("stage2_grpo_format") < lines.index("stage4_clgrpo")
    assert lines.index("stage1_sft") < lines.index(f"{BASELINE} is done")


def test_every_stage_starts_from_its_parents_weights(run):
    for name, parent in PARENTS.items():
        record = run.record(name)
        assert record["init_from"] == parent
        assert record["parent_weights"] == run.record(parent)["weights"]
    assert {name: run.record(name)["weights"] for name in PHASES} == weights(run, *PHASES)


def test_every_stage_moves_its_weights_and_frozen_ones_stay(run):
    for name, parent in PARENTS.items():
        by_weight = moved(run.final(parent), run.final(name))
        vision = {key: by for key, by in by_weight.items() if ".vision_model." in key}
        rest = {key: by for key, by in by_weight.items() if key not in vision}
        assert vision
        assert all(by > 0 for key, by in rest.items() if key.endswith("_proj.weight")), name
        # freeze: [vision]
        if name == "stage2_grpo_format":
            assert set(vision.values()) == {0.0}
        else:
            assert any(by > 0 for by in vision.values()), name


def test_a_reward_named_by_dotted_path_is_logged_beside_ours(run):
    rows = list(read_jsonl(run.phase("stage3_grpo_accuracy") / "metrics.jsonl"))
    assert all(row["rewards/format_reward/mean"] == row["rewards/accuracy_reward/mean"] == 0 for row in rows)
    assert any(row["rewards/parity_reward/mean"] > 0 for row in rows)
    # What a reward logs of its own, through TRL.
    assert all(row["answers/not_a_label_ratio"] == 0 for row in rows)


def test_every_row_is_answered_once_in_every_pass(run):
    for name in PHASES:
        rows = list(read_jsonl(run.phase(name) / "predictions.jsonl"))
        # greedy and one sample; the base is asked to answer directly too
        passes = 3 if name == "base" else 2
        asked = {(row["style"], row["decoding"], row["sample"], row["id"]) for row in rows}
        assert len(asked) == len(rows) == 16 * passes
        for file in (
            "metrics.json",
            "report.md",
            "tables/per_class.csv",
            "tables/confusion.csv",
            "confusion.png",
            "index.html",
        ):
            assert (run.phase(name) / "report" / file).stat().st_size > 0
    for file in ("index.html", "summary.md", "summary.json", "model_card.md", "tables/per_class.csv"):
        assert (run.report / file).stat().st_size > 0


def test_metrics_hold_every_step_once(run):
    for name in STAGES:
        assert steps(run, name) == list(range(1, run.record(name)["steps"] + 1))


def test_stage_four_clips_on_both_sides(run):
    clip = run.record("stage4_clgrpo")["clip"]
    assert (clip["epsilon"], clip["epsilon_high"]) == (0.2, 0.1)
    assert clip["low"] > 0
    assert clip["high"] > 0
    assert clip["clips"] is True
    assert clip["void"] is False
    assert run.record("stage3_grpo_accuracy")["clip"] is None


def test_a_stage_four_that_cannot_clip_is_refused_at_planning(small):
    output = small.run("pipeline plan", "stages.stage4_clgrpo.trainer.num_iterations=1", code=2)
    assert "stages.stage4_clgrpo" in output
    assert "cannot clip" in output
    assert "num_iterations" in output


def test_a_second_run_skips_everything(small, run):
    before = snapshot(run.root)
    small.run("pipeline run")
    after = snapshot(run.root)
    # No worker was started: it would have left a log.
    assert set(before) == set(after)
    written = {Path(path).relative_to(run.root).parts[0] for path in after if after[path] != before[path]}
    # Both are put together anew from what is there.
    assert written <= {"config.yaml", "report"}


def test_a_run_on_another_ones_rows_asks_no_teacher_and_trains_the_same_bits(small, run):
    others = [f"stages.{name}=null" for name in STAGES[2:]]
    output = small.run("pipeline run", f"cot.from={run.root}", "baselines=null", *others, name="taken")
    taken = small.run_dir("taken")
    assert "Taken over from run `small`: " in output
    assert "0 requests" in output
    assert not (taken.cot / "journal").exists()
    assert (taken.cot / "train.parquet").read_bytes() == (run.cot / "train.parquet").read_bytes()
    assert weights(taken, "base", "stage1_sft") == weights(run, "base", "stage1_sft")
    assert (taken.phase("stage1_sft") / "report" / "index.html").exists()


def test_a_changed_setting_of_a_finished_stage_is_refused_by_name(small, run):
    change = "stages.stage3_grpo_accuracy.trainer.learning_rate=2e-3"
    before = snapshot(run.root)
    for module, words in [("pipeline run", []), ("stages.grpo", ["--stage", "3"])]:
        output = small.run(module, *words, change, code=2)
        assert "stage.trainer.learning_rate: 0.001 -> 0.002" in output
        assert "--clean" in output
    assert snapshot(run.root) == before


def test_tampered_weights_are_refused_before_any_worker_starts(small, run):
    copy = small.copy_of("small", "tampered", "base", "cot", "stage1_sft")
    file = copy.final("stage1_sft") / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    output = small.run("stages.grpo", "--stage", "2", name="tampered", code=2)
    assert "stage1_sft cannot be handed over" in output
    assert "model.safetensors changed since it was recorded" in output
    assert list(copy.phase("stage2_grpo_format").rglob("*.log")) == []
    assert copy.record("stage2_grpo_format") is None


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [("stage3_grpo_accuracy", 2), pytest.param("stage4_clgrpo", 4, marks=pytest.mark.nightly)],
)
def test_clean_does_a_stage_anew_and_a_kill_changes_nothing(name: str, checkpoint: int, small: Small, run: RunDir):
    """`--clean`, killed in the middle of GRPO, then the plain command: the same bits."""
    own = f"redone_{name}"
    copy = small.copy_of("small", own, "base", "cot", *STAGES)
    kept = [copy.final("base"), copy.phase("stage1_sft") / "logs", copy.final("stage2_grpo_format")]
    before = [snapshot(folder) for folder in kept]
    marker = copy.phase(name) / f"checkpoint-{checkpoint}" / "complete"

    def halfway() -> bool:
        return marker.exists() and (copy.record(name) or {}).get("status") == "running"

    small.end_when(halfway, signal.SIGKILL, "pipeline run", "--clean", name, name=own)
    assert copy.record(name)["status"] == "running"
    small.run("pipeline run", "--to", name, name=own)
    assert copy.record(name)["status"] == "complete"
    assert weights(copy, name) == weights(run, name)
    assert steps(copy, name) == steps(run, name)
    assert len(list((copy.phase(name) / "logs").glob("grpo-*"))) == 2
    assert [snapshot(folder) for folder in kept] == before
