"""Arms of a clip grid differ in the clip range alone, and the table and its sentence say what made-up runs did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import clip_ranges, seeds
from benchmarks.clip_arms import Arm, Regime, find_regimes
from pipeline.checks.run import check
from pipeline.config.derived import clip_range
from pipeline.config.loader import load, to_plain
from pipeline.errors import UserError
from pipeline.metrics.classification import score
from pipeline.reports.entries import Entry
from pipeline.scoring.labels import LabelSet

LABELS = LabelSet(("awe", "fear"))
RANGES = {"symmetric": (0.2, 0.2), "tight": (0.2, 0.1), "higher": (0.2, 0.28)}
SYMMETRIC, TIGHT, HIGHER = (Arm(name, *bounds) for name, bounds in RANGES.items())
REGIME = Regime("", "parent", SYMMETRIC, (TIGHT, HIGHER))


def test_the_six_ranges_are_one_regime_and_differ_in_nothing_else() -> None:
    config = load("ablations/clip_ranges")
    (regime,) = find_regimes(config)
    ranges = {arm.name.partition(":")[0].partition(",")[0]: (arm.low, arm.high) for arm in regime.others}
    assert ranges == {
        "high-tight": (0.2, 0.1),
        "low-tight": (0.1, 0.2),
        "both-tight": (0.1, 0.1),
        "clip-higher": (0.2, 0.28),
        "no clip": (0.999999, 1e6),
    }
    assert {arm.stage for arm in (regime.symmetric, *regime.others)} == set(list(config.stages)[3:])


def test_every_regime_of_the_search_has_both_arms_and_they_differ_from_each_other() -> None:
    config = load("ablations/clip_regimes")
    regimes = find_regimes(config)
    assert {tuple((arm.low, arm.high) for arm in regime.others) for regime in regimes} == {((0.2, 0.1),)}
    assert len({regime.name for regime in regimes}) == len(regimes)
    assert 2 * len(regimes) == sum(clip_range(stage) is not None for stage in config.stages.values())


@pytest.mark.parametrize("name", ["clip_ranges", "clip_regimes"])
def test_a_grid_trains_stages_one_and_two_as_the_demo_does_and_stage_three_for_fewer_steps(name: str) -> None:
    config, demo = load(f"ablations/{name}"), load("demo")
    assert not config.baselines
    for stage in "123":
        mine, its = (to_plain(one.stage(stage)) for one in (config, demo))
        for plain in (mine, its):
            del plain["gate"]
        if stage == "3":
            assert mine["trainer"].pop("max_steps") < its["trainer"].pop("max_steps")
        assert mine == its


def test_the_ranges_are_compared_in_a_regime_that_was_searched() -> None:
    (chosen,) = find_regimes(load("ablations/clip_ranges"))
    ranges, search = load("ablations/clip_ranges"), load("ablations/clip_regimes")
    searched = [to_plain(search.stage(regime.symmetric.stage)) for regime in find_regimes(search)]
    assert to_plain(ranges.stage(chosen.symmetric.stage)) in searched
    assert to_plain(ranges.stage("3")) == to_plain(search.stage("3"))


def test_the_search_is_judged_on_other_rows_than_the_comparison() -> None:
    ranges, search = load("ablations/clip_ranges"), load("ablations/clip_regimes")
    assert (search.evaluation.split, ranges.evaluation.split) == ("val", "test[:400]")


def test_arms_that_differ_in_more_than_the_range_are_refused() -> None:
    apart = load("ablations/clip_ranges", ["stages.stage8.trainer.learning_rate=1e-4"])
    with pytest.raises(UserError, match=r"stage8_clip_higher: needs an arm of epsilon 0\.2 on both sides"):
        find_regimes(apart)


def test_a_range_that_never_clips_breaks_no_rule() -> None:
    config = load("ablations/clip_ranges")
    check(config)
    assert clip_range(config.stage("9")) == (0.999999, 1e6)


def sample(row: str, *hits: bool) -> list[dict[str, object]]:
    return [{"id": row, "decoding": "sample", "sample": number, "correct": hit} for number, hit in enumerate(hits)]


def test_pass_at_k_is_the_chance_that_a_draw_of_k_samples_holds_a_right_one() -> None:
    rows = [*sample("a", True, False, False, False), *sample("b", False, False, False, False)]
    assert clip_ranges.pass_at(rows, 1) == pytest.approx(1 / 8)
    # Of the six pairs of four samples three hold the right one.
    assert clip_ranges.pass_at(rows, 2) == pytest.approx(1 / 4)
    # Any of them, where all are drawn.
    assert clip_ranges.pass_at(rows, 4) == pytest.approx(1 / 2)


def test_pass_at_k_is_not_told_of_fewer_samples() -> None:
    assert clip_ranges.pass_at(sample("a", True, True), 8) is None
    assert clip_ranges.pass_at([{"id": "a", "decoding": "greedy", "correct": True}], 1) is None


def entry(name: str, right: int, sampled: int | None = None) -> Entry:
    """A model with `right` of 100 rows right, and of their 8 samples all of the first `sampled`."""
    rows = tuple(
        {
            "id": str(number),
            "decoding": decoding,
            "sample": repeat,
            "label": "awe" if number < hits else "fear",
            "gold": "awe",
            "correct": number < hits,
            "style": "think",
            "completion": "",
            "exact_trace": number < hits - 10,
        }
        for number in range(100)
        for decoding, hits, repeats in (("greedy", right, 1), ("sample", right if sampled is None else sampled, 8))
        for repeat in range(repeats)
    )
    log = tuple({"step": step, "entropy": 0.5 - step / 100} for step in range(1, 9))
    bounds = RANGES.get(name)
    record = {"clip": {"low": 0.01, "high": 0.02, "epsilon": bounds[0], "epsilon_high": bounds[1]}} if bounds else {}
    return Entry(name, name, rows, score(rows, LABELS), record, log)


def run(**right: int) -> Mapping[str, Entry]:
    """A run whose arms have so many rows right; the others have 60."""
    return {name: entry(name, right.get(name, 60)) for name in ("parent", *RANGES)}


def verdict(*runs: Mapping[str, Entry]) -> str:
    return clip_ranges.verdict(clip_ranges.effects([REGIME], runs))


def test_the_table_shows_every_figure_over_the_seeds_and_the_tests_of_each() -> None:
    lines = clip_ranges.table([REGIME], [10, 11], [run(tight=70), run(tight=74)]).splitlines()
    head = lines[0].strip("| ").split(" | ")
    rows = {
        cells[0]: dict(zip(head, cells, strict=True))
        for cells in ([*map(str.strip, line[1:-1].split("|"))] for line in lines[2:6])
    }
    assert list(rows) == [
        "where they start: parent",
        "symmetric, 0.2 / 0.2",
        "high-tight: our ClipLow, 0.2 / 0.1",
        "clip-higher: DAPO, 0.2 / 0.28",
    ]
    tight = rows["high-tight: our ClipLow, 0.2 / 0.1"]
    # Mean of 70 and 74, Student's t with one degree of freedom: 12.706 * sqrt(8) / sqrt(2).
    assert tight["greedy accuracy, %"] == "72.0 [46.6, 97.4]"
    assert tight["exact traces, %"] == "62.0 [36.6, 87.4]"
    assert tight["pass@8, %"] == "72.0 [46.6, 97.4]"
    assert tight["entropy at the end, nats"] == "0.425 [0.425, 0.425]"
    assert tight["clipped high, %"] == "2.00 [2.00, 2.00]"
    assert tight["against symmetric, points of greedy accuracy"] == "+12.0 [-13.4, +37.4]"
    # McNemar of 10 rows to none is 2 / 2**10; there are two arms.
    assert tight["per seed (p, Holm)"] == "+10.0 (.004), +14.0 (< .001)"
    assert rows["clip-higher: DAPO, 0.2 / 0.28"]["per seed (p, Holm)"] == "+0.0 (1.000), +0.0 (1.000)"
    assert rows["where they start: parent"]["clipped low, %"] == ""


def test_a_range_that_helps_in_every_seed_is_said_to_help() -> None:
    said = verdict(*(run(tight=70 + more) for more in range(5)))
    assert said.startswith(
        "A tighter upper range helps: greedy accuracy +12.0 [+10.0, +14.0] points (p < .001) with high-tight"
    )
    assert "no fall of greedy accuracy, accuracy at T = 1, pass@8, exact traces is beyond chance" in said
    assert said.endswith("no other range differs from it either.")


def test_what_a_range_costs_is_said_beside_what_it_gains() -> None:
    runs = [{**run(), "tight": entry("tight", 70 + more, sampled=50 - more)} for more in range(5)]
    said = verdict(*runs)
    assert "helps: greedy accuracy +12.0" in said
    assert "it costs accuracy at T = 1 -12.0" in said
    assert "pass@8 -12.0" in said.partition("costs")[2]


def test_a_range_that_changes_nothing_is_said_to_help_nowhere() -> None:
    said = verdict(*(run(tight=60 + more) for more in (-2, 1, 0, 2, -1)))
    assert said.startswith("A tighter upper range helps nowhere here: no change of greedy accuracy, accuracy at T = 1,")


def test_two_seeds_that_gain_the_same_are_no_proof() -> None:
    assert verdict(run(tight=70), run(tight=70)).startswith("A tighter upper range helps nowhere here")


def test_another_range_that_helps_is_named() -> None:
    said = verdict(*(run(higher=70 + more) for more in range(5)))
    assert said.startswith("A tighter upper range helps nowhere here")
    assert "other ranges raise greedy accuracy +12.0" in said
    assert "clip-higher" in said


def test_a_single_seed_is_judged_by_its_rows_and_in_greedy_accuracy_alone() -> None:
    found = clip_ranges.effects([REGIME], [run(tight=70)])
    assert [(one.arm, one.ability, round(one.p, 4)) for one in found] == [
        (TIGHT, "greedy accuracy", 0.0039),
        (HIGHER, "greedy accuracy", 1.0),
    ]
    assert "helps: greedy accuracy +10.0 points (p = .004)" in clip_ranges.verdict(found)


def test_the_table_takes_the_place_between_its_marks_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(
        "a\n<!-- table of one -->\nold\n<!-- end of one -->\nb\n<!-- table of two -->\nkept\n<!-- end of two -->\n"
    )
    seeds.publish("new", page, "one")
    assert page.read_text() == (
        "a\n<!-- table of one -->\n\nnew\n<!-- end of one -->\nb\n<!-- table of two -->\nkept\n<!-- end of two -->\n"
    )


def test_a_page_without_marks_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("a page\n")
    with pytest.raises(UserError, match="add the lines <!-- table of clip_ranges -->"):
        clip_ranges.main(["--into", str(page)])
    assert page.read_text() == "a page\n"


def test_a_run_that_is_not_there_yet_is_named(tmp_path: Path) -> None:
    arguments = seeds.make_parser("clip_ranges", "", [3]).parse_args(["--table-only", "--output-dir", str(tmp_path)])
    with pytest.raises(UserError, match=r"clip_ranges-seed3: base, .*stage9_no_clip not evaluated"):
        seeds.run_over_seeds("ablations/clip_ranges", arguments)


@pytest.mark.parametrize(
    ("values", "p"), [([1.0, 1.0], 1.0), ([10.0, 10.000000000000007], 1.0), ([0.0, 0.0], 1.0), ([-1.0, 1.0], 1.0)]
)
def test_differences_without_a_spread_are_no_certainty(values: list[float], p: float) -> None:
    assert seeds.mean_p(values) == p
