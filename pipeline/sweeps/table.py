"""What a person reads of a sweep's cells: the columns of its page and of results.md, and their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.reports.table import Column, Noted


def way(row: Mapping[str, Any]) -> str:
    """Return how a cell was asked: its mode, and its reasoner."""
    return f"{row['mode']} + {row['reasoner']}" if row["reasoner"] else str(row["mode"])


def _accuracy(row: Mapping[str, Any]) -> Noted:
    low, chance = row["accuracy_low"], row["chance"]
    told = "not above chance" if low is not None and chance is not None and low <= chance else ""
    return Noted(row["accuracy"], told, low, row["accuracy_high"])


def _megabytes(key: str) -> Callable[[Mapping[str, Any]], int | None]:
    return lambda row: None if row[key] is None else round(row[key])


def _estimated(row: Mapping[str, Any]) -> Noted:
    error = row["memory_error"]
    return Noted(_megabytes("memory_estimated_mb")(row), "" if error is None else f"{100 * error:+.0f} %")


def _latency(row: Mapping[str, Any]) -> Noted:
    slow = row["latency_p95_s"]
    return Noted(row["latency_p50_s"], "" if slow is None else f"p95 {slow:.2f}")


SHOWN = (
    Column("model", "model", of=lambda row: row["model"] + " ◆" * bool(row.get("front"))),
    Column("precision", "precision"),
    Column("mode", "mode", of=way),
    Column("accuracy", "accuracy, %", "percent", _accuracy),
    Column("chance", "chance, %", "percent"),
    Column("official", "official", "number", lambda row: Noted(row["official_value"], row["official_score"] or "")),
    Column("unparsable", "unparsable", "count", least_first=True),
    Column("truncated", "cut", "count", least_first=True),
    Column("memory", "memory, MB", "count", _megabytes("memory_measured_mb"), least_first=True),
    Column("estimated", "estimated, MB", "count", _estimated, least_first=True),
    Column("latency_p50_s", "p50, s", "number", _latency, least_first=True),
    Column("rows_per_second", "rows/s", "number"),
    Column("n", "rows", "count"),
    Column("seconds", "time", "duration", least_first=True),
    Column("status", "status", of=lambda row: row["status"] + (f": {row['reason']}" if row["reason"] else "")),
)
"""The columns of a sweep that a person reads."""


def best_first(row: Mapping[str, Any]) -> tuple[float, str]:
    """Return what cells are sorted by."""
    return -(row["accuracy"] if row["accuracy"] is not None else -1.0), row["cell"]
