"""The arms of a grid of clip ranges: which of its stages differ in the epsilons alone, and what they are called."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass

from pipeline.config.derived import clip_range
from pipeline.config.loader import to_plain
from pipeline.config.schema import RunConfig
from pipeline.config.trainer_options import trainer_fields
from pipeline.errors import UserError
from pipeline.runs.phases import parent_of

SYMMETRIC = (0.2, 0.2)
"""Epsilon below and above of the arm the others are compared with: PPO's usual range."""
NAMES = {
    SYMMETRIC: "symmetric",
    (0.2, 0.1): "high-tight: our ClipLow",
    (0.1, 0.2): "low-tight",
    (0.1, 0.1): "both-tight",
    (0.2, 0.28): "clip-higher: DAPO",
}
"""What ranges are called; one that reaches `NEVER` is no clip."""
NEVER = 1000.0
"""An epsilon above from which on nothing clips."""


@dataclass(frozen=True)
class Arm:
    """A stage of a grid and its clip range."""

    stage: str
    low: float
    high: float

    @property
    def name(self) -> str:
        known = "no clip" if self.high >= NEVER else NAMES.get((self.low, self.high), "")
        bounds = "" if self.high >= NEVER else f"{self.low:g} / {self.high:g}"
        return ", ".join(filter(None, (known, bounds)))


@dataclass(frozen=True)
class Regime:
    """Arms that differ in the clip range alone."""

    name: str
    """The options in which it differs from the other regimes of its grid; "" where there is no other."""
    parent: str
    symmetric: Arm
    others: tuple[Arm, ...]


def find_regimes(config: RunConfig) -> list[Regime]:
    """Return the regimes of a grid, in the order of their first arms.

    Raises:
        UserError: naming the regimes without a symmetric arm, or without another.
    """
    found: dict[str, list[Arm]] = defaultdict(list)
    for name, stage in config.stages.items():
        if bounds := clip_range(stage):
            # A gate judges and changes nothing.
            plain = {key: value for key, value in to_plain(stage).items() if key != "gate"}
            plain["trainer"] = {key: value for key, value in plain["trainer"].items() if key not in _BOUNDS}
            found[json.dumps(plain, sort_keys=True)].append(Arm(name, *bounds))
    settings = [_settings(config, arms[0].stage) for arms in found.values()]
    told = [key for key in settings[0] if len({one[key] for one in settings}) > 1] if settings else []
    regimes, problems = [], []
    for arms, own in zip(found.values(), settings, strict=True):
        reference = next((arm for arm in arms if (arm.low, arm.high) == SYMMETRIC), None)
        if reference is None or len(arms) < 2:
            names = ", ".join(arm.stage for arm in arms)
            problems.append(
                f"{names}: needs an arm of epsilon {SYMMETRIC[0]} on both sides, and another, that differ in nothing else"
            )
            continue
        parent = parent_of(config, reference.stage)
        assert parent is not None
        others = tuple(arm for arm in arms if arm != reference)
        regimes.append(Regime(", ".join(f"{key} {own[key]}" for key in told), parent, reference, others))
    if problems or not regimes:
        raise UserError(problems or f"{config.name}: no stage names an epsilon, so there is nothing to compare")
    return regimes


_BOUNDS = ("epsilon", "epsilon_high")


def _settings(config: RunConfig, stage: str) -> dict[str, str]:
    """What may tell regimes apart, for people."""
    options = {**trainer_fields("grpo"), **config.stage(stage).trainer}
    told = {
        "lr": "learning_rate",
        "updates per rollout": "num_iterations",
        "group": "num_generations",
        "steps": "max_steps",
    }
    return {"from": str(parent_of(config, stage)), **{name: f"{options[key]:g}" for name, key in told.items()}}
