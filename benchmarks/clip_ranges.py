"""Which clip range serves GRPO best, and where it matters at all: arms that differ in nothing else, over several seeds.

    python -m benchmarks.clip_ranges [--seeds 10 11 12 13 14] [--output-dir runs] [--into PAGE] [--table-only]
    python -m benchmarks.clip_ranges --grid ablations/clip_regimes --seeds 1        # the search for a regime

A grid is a run's configuration. Its stages that name an epsilon are the arms; those that differ in the epsilons alone are one
regime, and are compared with its symmetric arm: per seed on the same rows (McNemar), and over the seeds by the mean difference
of each figure (Student's t). Both are corrected by Holm: over the arms of one seed, and over the arms for one figure. Every seed
is one run, which goes on where it stopped; the table and the sentence made from it take the place of what stands between the
grid's two marks of --into.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.clip_arms import SYMMETRIC, Arm, Regime, find_regimes
from benchmarks.seeds import (
    check_marks,
    draw_over_seeds,
    interval,
    known_p,
    make_parser,
    mean_p,
    publish,
    run_over_seeds,
    scored,
    told_per_seed,
)
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.formatting import p_value
from pipeline.metrics.paired_tests import Paired, Prediction, holm, paired, right
from pipeline.reports.entries import Entry
from pipeline.reports.summary import clip_of

K = 8
"""Completions of pass@k."""
Runs = Sequence[Mapping[str, Entry]]
"""A run per seed: its evaluated phases by name."""


def pass_at(rows: Iterable[Prediction], k: int) -> float | None:
    """Return the mean chance that one of `k` samples of a row is right, from the row's n samples: the unbiased estimator
    1 - C(n - right, k) / C(n, k) (Chen et al. 2021), which for n = k is whether any is.

    Args:
        rows: predictions; those sampled count.
        k: samples that may be looked at.

    Returns:
        The mean over rows; None without samples, or where a row has fewer than `k`.
    """
    by_row: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["decoding"] == "sample":
            by_row[row["id"]].append(right(row))
    if not by_row or any(len(samples) < k for samples in by_row.values()):
        return None
    return statistics.mean(1 - math.comb(len(one) - sum(one), k) / math.comb(len(one), k) for one in by_row.values())


def end_entropy(entry: Entry) -> float | None:
    """Return the mean entropy of the policy over the last quarter of a stage's updates, in nats per token."""
    logged = [row["entropy"] for row in entry.log if row.get("entropy") is not None]
    return statistics.mean(logged[-max(1, len(logged) // 4) :]) if logged else None


def _passed(entry: Entry) -> float | None:
    found = pass_at(entry.predictions, K)
    return None if found is None else 100 * found


def _clipped(entry: Entry, side: str) -> float | None:
    clip = clip_of(entry.record)
    return None if clip is None else 100 * float(getattr(clip, side))


ABILITIES: dict[str, Callable[[Entry], float | None]] = {
    "greedy accuracy": lambda entry: scored(entry, "greedy"),
    "accuracy at T = 1": lambda entry: scored(entry, "sampled"),
    f"pass@{K}": _passed,
    "exact traces": lambda entry: scored(entry, "trace"),
}
"""Figures of which more is better, in percent."""
FIGURES: dict[str, tuple[Callable[[Entry], float | None], str]] = {
    **{f"{name}, %": (of, ".1f") for name, of in ABILITIES.items()},
    "entropy at the end, nats": (end_entropy, ".3f"),
    "clipped low, %": (lambda entry: _clipped(entry, "low"), ".2f"),
    "clipped high, %": (lambda entry: _clipped(entry, "high"), ".2f"),
}
"""The columns of the table, and how their numbers are written."""


@dataclass(frozen=True)
class Effect:
    """What an arm changes in one ability against the symmetric arm, in points, with the p corrected for the arms."""

    regime: Regime
    arm: Arm
    ability: str
    differences: tuple[float, ...]
    """One per seed."""
    p: float

    @property
    def beyond_chance(self) -> bool:
        return self.p < 0.05

    def __str__(self) -> str:
        return f"{self.ability} {interval(self.differences)} points (p {p_value(self.p)})"


def effects(regimes: Sequence[Regime], runs: Runs) -> list[Effect]:
    """Return what every arm changes in every ability that all runs tell: by Student's t over seeds; of a single seed greedy
    accuracy alone, by McNemar's test. p is corrected by Holm over the arms.
    """
    arms = [(regime, arm) for regime in regimes for arm in regime.others]
    found = []
    for ability, of in ABILITIES.items():
        changes, raw = [], []
        for regime, arm in arms:
            pairs = [(of(run[arm.stage]), of(run[regime.symmetric.stage])) for run in runs]
            differences = tuple(a - b for a, b in pairs if a is not None and b is not None)
            if len(differences) < len(runs) or (len(runs) == 1 and ability != _TESTED):
                break
            changes.append((regime, arm, differences))
            raw.append(mean_p(differences) if len(runs) > 1 else _against(regime, arm, runs[0]))
        else:
            corrected = holm(raw)
            found += [Effect(*change[:2], ability, change[2], p) for change, p in zip(changes, corrected, strict=True)]
    return found


_TESTED = "greedy accuracy"
"""The ability McNemar's test is of."""


def _paired(regime: Regime, arm: Arm, run: Mapping[str, Entry]) -> Paired:
    return paired(run[arm.stage].predictions, run[regime.symmetric.stage].predictions)


def _against(regime: Regime, arm: Arm, run: Mapping[str, Entry]) -> float:
    return known_p(_paired(regime, arm, run))


def verdict(found: Sequence[Effect]) -> str:
    """Return one sentence: whether a tighter upper range alone helps, where, what it costs, and whether another range does."""
    tighter = [one for one in found if one.arm.low == SYMMETRIC[0] and one.arm.high < SYMMETRIC[1]]
    rest = [one for one in found if one not in tighter]
    gains, losses = _told(tighter, 1), _told(tighter, -1)
    tested = ", ".join(dict.fromkeys(one.ability for one in found))
    if gains:
        cost = f"it costs {losses}" if losses else f"no fall of {tested} is beyond chance"
        said = f"A tighter upper range helps: {gains}; {cost}"
    else:
        cost = f", and costs: {losses}" if losses else f": no change of {tested} is beyond chance"
        said = f"A tighter upper range helps nowhere here{cost}"
    if rest:
        others = [f"{word} {told}" for word, told in (("raise", _told(rest, 1)), ("lower", _told(rest, -1))) if told]
        said += f"; other ranges {' and '.join(others)}" if others else "; no other range differs from it either"
    return f"{said}."


def _told(found: Iterable[Effect], sign: int) -> str:
    """The effects beyond chance in one direction."""
    told = []
    for one in found:
        if one.beyond_chance and sign * statistics.mean(one.differences) > 0:
            told.append(f"{one} with {' at '.join(filter(None, (one.arm.name, one.regime.name)))}")
    return ", ".join(told)


def table(regimes: Sequence[Regime], seeds: Sequence[int], runs: Runs) -> str:
    """Return the arms as markdown, each regime's symmetric one first, beneath what all start from, and the sentence.

    Figures that no arm tells have no column.
    """
    arms = [(regime, arm) for regime in regimes for arm in regime.others]
    figures = [
        name
        for name, (of, _) in FIGURES.items()
        if any(of(run[arm.stage]) is not None for _, arm in arms for run in runs)
    ]
    head = ["regime", "arm", *figures, "against symmetric, points of greedy accuracy", "per seed (p, Holm)"]
    lines = [head, ["---"] * len(head)]
    for parent in dict.fromkeys(regime.parent for regime in regimes):
        lines.append(["", f"where they start: {parent}", *_cells(parent, figures, runs), "", ""])
    by_seed = [holm([_against(regime, arm, run) for regime, arm in arms]) for run in runs]
    for regime in regimes:
        lines.append([regime.name, regime.symmetric.name, *_cells(regime.symmetric.stage, figures, runs), "", ""])
        for arm in regime.others:
            gains = [100 * _paired(regime, arm, run).gain.share for run in runs]
            ps = [corrected[arms.index((regime, arm))] for corrected in by_seed]
            cells = [*_cells(arm.stage, figures, runs), interval(gains), told_per_seed(gains, ps)]
            lines.append([regime.name, arm.name, *cells])
    # A grid of one regime need not name it.
    shown = [line[len(regimes) == 1 :] for line in lines]
    rows = {entry.scores.n for run in runs for entry in run.values() if entry.scores}
    note = (
        f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}; {' or '.join(map(str, sorted(rows)))} rows. "
        + ("Mean over seeds [95 % interval, Student's t]. " if len(seeds) > 1 else "")
        + "Per seed: McNemar's exact test on the same rows, corrected by Holm over all arms of the table. "
        "Entropy: mean over the last quarter of the updates."
    )
    markdown = [f"| {' | '.join(line)} |" for line in shown]
    return "\n".join([*markdown, "", note, "", f"**{verdict(effects(regimes, runs))}**", ""])


def _cells(stage: str, figures: Iterable[str], runs: Runs) -> list[str]:
    """The figures of a stage over the runs; empty where one does not tell."""
    cells = []
    for name in figures:
        of, form = FIGURES[name]
        values = [value for run in runs if (value := of(run[stage])) is not None]
        most = 100.0 if name.endswith("%") else math.inf
        cells.append(interval(values, form, 0.0, most) if len(values) == len(runs) else "")
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid over the seeds, then write the table, the sentence and, of one regime, the figure."""
    parser = make_parser("clip_ranges", __doc__ or "", [10, 11, 12, 13, 14])
    parser.add_argument("--grid", default="ablations/clip_ranges", help="the run's configuration")
    arguments = parser.parse_args(argv)
    config = load(arguments.grid)
    regimes = find_regimes(config)
    check_marks(arguments.into, config.name)
    runs = run_over_seeds(arguments.grid, arguments)
    written = table(regimes, arguments.seeds, runs)
    figure = None
    if len(regimes) == 1:
        # More have names too long for an axis.
        drawn = {regimes[0].parent: f"{regimes[0].parent} (start)"}
        drawn |= {arm.stage: arm.name.split(", ")[0] for arm in (regimes[0].symmetric, *regimes[0].others)}
        figure = draw_over_seeds(runs, drawn)
    publish(written, arguments.into, config.name, figure)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
