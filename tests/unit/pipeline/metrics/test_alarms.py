"""Every alarm fires on what it is for, keeps quiet on what is well, and ends when the figure recovers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from counted_calls import count_calls

from pipeline.config.schema import AlarmConfig
from pipeline.metrics.alarms import RULES, Watch, describe_alarm, summary

MEAN = {
    "truncated": ("completions/clipped_ratio", 0.9, 0.1),
    "zero_std": ("frac_reward_zero_std", 0.97, 0.5),
    "duplicates": ("completions/duplicate_ratio", 0.9, 0.2),
    "unscored": ("rewards/unscored_ratio", 1.0, 0.1),
    "not_a_label": ("answers/not_a_label_ratio", 0.09, 0.01),
    "kl": ("kl", 2.0, 0.05),
    "drift": ("sampling/sampling_logp_difference/mean", 0.4, 0.01),
    "left_out": ("sampling/left_out_ratio", 0.3, 0.02),
}
"""Alarm: its key, a value that is bad, one that is well."""
AT_ONCE = {
    "images_dropped": ("images/dropped_ratio", 0.125, 0.0),
    "image_tokens": ("images/token_mismatch_ratio", 0.01, 0.0),
    "unsupervised": ("labels/empty_ratio", 0.25, 0.0),
    "nan": ("loss", math.nan, 0.5),
    "skipped": ("skipped_steps", 1.0, None),
}
OF_START = {"entropy": ("entropy", 0.01, 0.5), "length": ("completions/mean_length", 9.0, 120.0)}


def rows(*figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"step": step, "seconds": 1.0 * step, **one} for step, one in enumerate(figures, 1)]


def events(log: list[dict[str, Any]], clips: bool = False, **settings: Any) -> list[tuple[str, str, int]]:
    """(alarm, begin or end, step) of a GRPO stage."""
    watch = Watch(AlarmConfig(**settings), "grpo", clips)
    return [(event["alarm"], event["event"], event["step"]) for row in log for event in watch.see(row)]


def test_every_alarm_has_a_threshold_and_every_threshold_an_alarm():
    fields = {field.name for field in dataclasses.fields(AlarmConfig)} - {"stop", "window"}
    others = {"images_unseen", "reward_hacking", "clip_void"}
    assert {rule.name for rule in RULES} == fields == {*MEAN, *AT_ONCE, *OF_START, *others}


@pytest.mark.parametrize("name", MEAN)
def test_a_mean_is_awaited_for_half_a_window_and_ends_when_it_recovers(name):
    key, bad, well = MEAN[name]
    assert events(rows(*[{key: bad}] * 20)) == [(name, "begin", 4)]
    assert events(rows(*[{key: well}] * 20)) == []
    assert events(rows(*[{key: bad}] * 3)) == []
    recovered = events(rows(*[{key: bad}] * 8, *[{key: well}] * 8))
    assert recovered[0] == (name, "begin", 4)
    assert recovered[1][:2] == (name, "end")
    assert len(recovered) == 2


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_must_never_happen_is_told_at_its_first_step(name):
    key, bad, well = AT_ONCE[name]
    assert events(rows({key: well}, {key: bad}, {key: bad}, {key: well})) == [(name, "begin", 2), (name, "end", 4)]


@pytest.mark.parametrize("name", OF_START)
def test_a_collapse_is_measured_from_the_stage_s_start(name):
    key, bad, well = OF_START[name]
    log = rows(*[{key: well}] * 4, *[{key: bad}] * 12, *[{key: well}] * 8)
    first, second = events(log)
    # Half a window for the start, half a window for what it is now.
    assert first == (name, "begin", 8)
    assert second[:2] == (name, "end")
    # It began like this.
    assert events(rows(*[{key: bad}] * 20)) == []


def test_the_entropy_of_supervised_training_is_meant_to_fall():
    log = rows(*[{"entropy": 6.0}] * 4, *[{"entropy": 0.1}] * 20)
    assert summary(log, AlarmConfig(), "sft", clips=False) == {}
    assert set(summary(log, AlarmConfig(), "grpo", clips=False)) == {"entropy"}


def test_any_figure_may_be_the_one_that_is_not_finite():
    assert events(rows({"grad_norm": math.inf})) == [("nan", "begin", 1)]
    assert events(rows({"reward": -math.inf, "kl": math.nan})) == [("nan", "begin", 1)]
    assert events(rows({"rewards/a/mean": None, "learning_rate": 1e-6})) == []


def test_a_skipped_step_is_told_and_is_no_broken_weight_until_half_a_window_in_a_row_is_skipped():
    skip = {"loss": math.nan, "grad_norm": math.inf, "skipped_steps": 1.0}
    once = [("skipped", "begin", 2), ("skipped", "end", 3)]
    assert events(rows({}, skip, {})) == once
    assert summary(rows({}, skip, {}, skip), AlarmConfig(), "grpo", clips=False)["skipped"]["steps"] == 2
    # The four updates of one rollout may all be skipped.
    assert events(rows({}, *[skip] * 4, {})) == [once[0], ("skipped", "end", 6)]
    assert events(rows({}, *[skip] * 5, {})) == [once[0], ("nan", "begin", 6), ("nan", "end", 7), ("skipped", "end", 7)]
    # One row of ten steps.
    window = [{"step": step, "loss": math.nan, "skipped_steps": count} for step, count in ((10, 3.0), (20, 10.0))]
    assert events(window) == [("skipped", "begin", 10), ("nan", "begin", 20)]
    assert events(rows({"loss": math.nan, "grad_norm": math.inf})) == [("nan", "begin", 1)]


def test_a_student_that_other_pictures_do_not_move_is_named_until_they_do() -> None:
    def moved(change: float, rounding: float = 6e-8) -> dict[str, float]:
        return {"images/swap_change": change, "images/swap_rounding": rounding}

    blind = [("images_unseen", "begin", 1), ("images_unseen", "end", 3)]
    assert events(rows(moved(0.0), {"loss": 0.1}, moved(0.2))) == blind
    # As much as rounding makes in bfloat16, which float32 would not.
    assert events(rows(moved(2e-3, 4e-3), moved(2e-3, 4e-3), moved(2e-3))) == blind
    assert events(rows(moved(2e-3)), images_unseen=0.01) == blind[:1]
    assert events(rows(moved(0.0)), images_unseen=None) == []


def test_rows_without_the_key_change_nothing():
    """Steps that use a rollout again log no rewards."""
    key = "frac_reward_zero_std"
    log = rows(*[{key: 1.0}, {"loss": 0.1}] * 6)
    assert events(log) == [("zero_std", "begin", 7)]
    assert summary(log, AlarmConfig(), "grpo", clips=False)["zero_std"] == {
        "first": 7,
        "last": 12,
        "steps": 6,
        "worst": 1.0,
        "threshold": 0.9,
    }


def clip_rows(count: int, low: float = 0.0, iterations: int = 4) -> list[dict[str, Any]]:
    """Rows of a stage with several updates per rollout; the first of each has rewards."""
    figures = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": 0.0}
    return rows(*[{**figures, **({"reward": 1.0} if n % iterations == 0 else {})} for n in range(count)])


def test_a_clipping_stage_that_does_not_clip_is_void_after_the_steps_that_could():
    # 28 steps, 7 of them a rollout's first.
    assert events(clip_rows(28), clips=True) == [("clip_void", "begin", 28)]
    assert events(clip_rows(27), clips=True) == []
    assert events(clip_rows(400, low=0.001), clips=True) == []
    # It did not ask for clipping.
    assert events(clip_rows(400)) == []


def test_a_void_ends_with_the_first_clipped_token_for_good():
    late = [{**row, "step": row["step"] + 40} for row in clip_rows(1, low=0.1)]
    quiet = [{**row, "step": row["step"] + 41} for row in clip_rows(100)]
    assert events(clip_rows(40) + late + quiet, clips=True) == [("clip_void", "begin", 28), ("clip_void", "end", 41)]


def test_rows_of_several_steps_count_as_those_steps():
    log = [{"step": 10 * n, "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0, "reward": 1.0} for n in (1, 2, 3)]
    assert events(log, clips=True) == [("clip_void", "begin", 30)]


def validated(*figures: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of (reward, accuracy of the validation at that step)."""
    return rows(*[{"reward": reward, "eval_accuracy": accuracy} for reward, accuracy in figures])


def test_reward_that_stays_up_while_accuracy_falls_is_called_out():
    assert events(validated((1.0, 0.5), (1.2, 0.7), (1.6, 0.55), (1.9, 0.5)), window=1) == [
        ("reward_hacking", "begin", 3)
    ]
    # Noise.
    assert events(validated((1.0, 0.5), (1.2, 0.7), (1.2, 0.69), (1.9, 0.65)), window=1) == []
    # Both fall: no secret.
    assert events(validated((1.0, 0.7), (0.5, 0.4), (0.4, 0.3)), window=1) == []
    assert events(validated((1.0, 0.7), (1.0, 0.4), (1.0, 0.75)), window=1)[-1] == ("reward_hacking", "end", 3)


def test_null_turns_an_alarm_off():
    assert events(rows({"loss": math.nan}), nan=None) == []


def test_an_alarm_says_figure_threshold_meaning_and_cure():
    watch = Watch(AlarmConfig(window=1), "grpo", clips=False)
    [event] = watch.see({"step": 1, "completions/clipped_ratio": 0.75})
    assert (event["value"], event["threshold"]) == (0.75, 0.5)
    for said in ("cut at max_completion_length is 0.75, above 0.5", "raise trainer.max_completion_length"):
        assert said in event["text"]
    [over] = watch.see({"step": 2, "completions/clipped_ratio": 0.25})
    assert over["text"] == "the share of completions cut at max_completion_length is 0.25 again"
    assert describe_alarm("truncated", watch.summary["truncated"]).startswith(
        "in training (step 1, 1 in all), the share of"
    )


def test_a_step_costs_few_calls_and_no_more_after_thousands():
    row = {f"key{n}": 0.5 for n in range(30)} | {key: well for key, _, well in [*MEAN.values(), *OF_START.values()]}
    watch = Watch(AlarmConfig(), "grpo", clips=True)
    counts = [count_calls(lambda step=step: watch.see({"step": step, **row})) for step in range(2000)]
    assert counts[-1] <= max(counts[:100]) < 500
