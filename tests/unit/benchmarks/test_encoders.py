"""Encoders are compared at equal all else, which is checked, and what a picture costs is what made-up runs did."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NoReturn

import pytest
from made_up import cells_of, entry

from benchmarks import equal_arms
from benchmarks.encoders import ENCODER, main
from benchmarks.equal_arms import Made, config_problems, find_arms, made_problems
from pipeline.config.loader import CONFIGS, load
from pipeline.errors import UserError

GRIDS = {grid: find_arms([grid]) for grid in ("encoders", "encoders/parts")}


@pytest.mark.parametrize("grid", GRIDS)
def test_the_shipped_grids_differ_in_the_encoder_alone(grid: str) -> None:
    configs = {name: load(file) for name, file in GRIDS[grid].items()}
    assert len(configs) == len(list((CONFIGS / grid).glob("[!_]*.yaml")))
    assert not list(config_problems(configs, ENCODER))
    # Runs of two arms never share a folder.
    assert len({config.name for config in configs.values()}) == len(configs)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stages.stage0.trainer.max_steps=65", r"stages\.stage0_align\.trainer\.max_steps: 64 -> 65"),
        ("task.options.train=100", r"task\.options\.train: 2000 -> 100"),
        ("model.compose.language=parts/smollm2", r"model\.compose\.language: 'parts/minimind2' -> 'parts/smollm2'"),
        ("model.compose.image_size=64", r"model\.compose\.image_size: 128 -> 64"),
        ("seed=1", r"seed: 0 -> 1"),
        ("stages.stage0.freeze=[language]", r"other: stage0_align trains the encoder.*add vision to its freeze"),
        ("model.compose=null", r"other: model\.compose is not set, so there is no encoder"),
    ],
)
def test_arms_that_differ_in_more_than_the_encoder_are_refused_with_the_difference(setting: str, told: str) -> None:
    arms = {
        "first": load("encoders/parts/lite0"),
        "other": load("encoders/parts/lite0", [setting]),
    }
    with pytest.raises(UserError, match=told):
        raise UserError(list(config_problems(arms, ENCODER)))


def test_one_encoder_is_no_comparison_and_its_layer_is_its_own(tmp_path: Path) -> None:
    one = load("encoders/dinov2_small")
    assert any("is one encoder" in problem for problem in config_problems({"dinov2_small": one}, ENCODER))
    assert not list(
        config_problems(
            {"last but one": one, "last": load("encoders/dinov2_small", ["model.compose.layer=-1", "name=last"])},
            ENCODER,
        )
    )
    assert any("both called" in problem for problem in config_problems({"last but one": one, "last": one}, ENCODER))
    with pytest.raises(UserError, match="without configurations"):
        find_arms([str(tmp_path)])
    with pytest.raises(UserError, match="have one name"):
        find_arms(["encoders/dinov2_small", str(CONFIGS / "encoders" / "dinov2_small.yaml")])


MADE = Made("a" * 64, {"stage0_align": '"1"\taa\tbb\n"2"\tcc\tdd\n'}, {"stage0_align": 64}, frozenset({("t", "A")}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": "b" * 64}, "language model: weights aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ({"rows": {"stage0_align": '"1"\taa\tbb\n'}}, "data of stage0_align: 1 of 1 rows are gone (first: 2)"),
        (
            {"rows": {"stage0_align": '"1"\taa\tbb\n"2"\tcc\tee\n'}},
            "data of stage0_align: 1 of 2 images changed (first: 2)",
        ),
        ({"steps": {"stage0_align": 60}}, "steps of stage0_align: 64 -> 60"),
        ({"judged": frozenset({("t", "B")})}, "rows judged on: 2 are in one and not in the other"),
    ],
)
def test_runs_that_were_made_otherwise_are_refused_with_the_difference(change: dict[str, object], told: str) -> None:
    other = dataclasses.replace(MADE, **change)
    assert list(made_problems(MADE, other, "language model")) == [told]
    with pytest.raises(UserError, match="seed 3: b was made otherwise than a: "):
        equal_arms.refuse_unlike({"a": [MADE], "b": [other]}, [3], "language model")


def test_a_picture_costs_what_the_records_say() -> None:
    (row,) = cells_of(equal_arms.costs("encoder", "tokens of a picture", {"a": "16"}, {"a": [entry([1, 1])]}))
    # The median step takes 2 seconds, whatever one of them waited for.
    assert list(row.values()) == ["a", "16", "4.0", "2.0 GB"]


@pytest.mark.parametrize("every", [1, 3])
def test_rows_a_second_are_the_same_however_often_a_stage_logs(every: int) -> None:
    made = entry([1, 1])
    assert equal_arms.rows_per_second(dataclasses.replace(made, log=made.log[::every])) == pytest.approx(4.0, rel=0.5)


def test_an_arm_that_fails_keeps_no_other_from_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table of encoders_x -->\n<!-- end of encoders_x -->\n")

    def failed(file: str, arguments: object, overrides: list[str]) -> NoReturn:
        raise UserError(f"{overrides[-1]} failed")

    monkeypatch.setattr(equal_arms, "run_over_seeds", failed)
    with pytest.raises(UserError) as told:
        main(["encoders/parts", "--name", "x", "--into", str(page)])
    assert len(told.value.problems) == len(find_arms(["encoders/parts"])) > 1
    assert all(problem.endswith("-x failed") for problem in told.value.problems)
