"""Scores as types: what reports read of the mapping that `classification.score` returns and metrics.json holds.

The mapping is the file format and stays; its compound keys (``macro avg``, ``f1-score_low``) are spelled here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.formatting import percent


@dataclass(frozen=True)
class Rate:
    """A share from 0 to 1 with its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, key: str = "") -> Rate | None:
        """Read ``value``, ``low``, ``high``, or ``<key>``, ``<key>_low``, ``<key>_high``; None of nothing."""
        if stored is None:
            return None
        names = (key, f"{key}_low", f"{key}_high") if key else ("value", "low", "high")
        return cls(stored[names[0]], stored.get(names[1]), stored.get(names[2]))

    def __str__(self) -> str:
        """Return it in percent: 88.8 [85.1, 91.7]."""
        return f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"

    def cell(self) -> dict[str, float | None]:
        """Return it as a table's cell."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Scores:
    """The figures of one evaluated model in one prompt style that tables and cards share."""

    n: int
    accuracy: Rate
    format: Rate
    unparsable: int
    """Rows without a readable answer; they stay in n."""
    macro_f1: Rate | None
    balanced: Rate | None
    """Macro recall; both None where answers are no classes."""
    format_sampled: Rate | None
    accuracy_sampled: Rate | None
    """At temperature 1; None where nothing was sampled."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Scores:
        """Read the mapping as `classification.score` returns it and metrics.json and summary.json hold it."""
        accuracy, shape = Rate.of(stored["accuracy"]), Rate.of(stored["format"])
        assert accuracy is not None
        assert shape is not None
        sample = stored.get("sample") or {}
        return cls(
            n=stored["n"],
            accuracy=accuracy,
            format=shape,
            unparsable=stored["unparsable"]["n"],
            macro_f1=Rate.of(stored.get("macro avg"), "f1-score"),
            balanced=Rate.of(stored.get("balanced_accuracy")),
            format_sampled=Rate.of(sample.get("format")),
            accuracy_sampled=Rate.of(sample.get("accuracy")),
        )
