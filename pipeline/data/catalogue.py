"""The data sets that `python -m pipeline fetch` knows: catalogue.yaml, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("catalogue.yaml")
DATA = "data"
"""Where data lie unless a path says otherwise."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One entry; catalogue.yaml says what its keys mean."""

    name: str
    title: str
    licence: str
    page: str
    folder: str
    repo: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    note: str = ""


@cache
def catalogue() -> dict[str, DataSet]:
    """Return every data set by its name."""
    read: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for entry in read.values():
        entry.update({key: tuple(entry[key]) for key in ("files", "steps") if key in entry})
    return {name: DataSet(name=name, **entry) for name, entry in read.items()}


def fetch_hint(task: str, path: str | None) -> str:
    """Return the command that gets a task's data, as the end of a message; "" for a task whose data are not in the catalogue.

    Args:
        task: its name, which the catalogue's entry has too.
        path: where the data were looked for.
    """
    found = catalogue().get(task)
    if found is None:
        return ""
    to = Path(path or "")
    above = str(to.parent) if to.name == found.folder else DATA
    what = "gets it" if found.repo else "tells how to get it"
    return f"; python -m pipeline fetch {task} --to {above} {what}"
