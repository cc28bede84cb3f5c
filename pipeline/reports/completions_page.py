"""The page of a GRPO stage's completion tables: pictures, prompts, and each group's completions with rewards and advantage.

The tables are `<stage>/completions/step-*.parquet` (columns step, group, image as PNG bytes, prompt, completion, one
``reward:<name>`` per reward, advantage). The page stands beside them, holds everything it shows, and can be made at any time.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic
from pipeline.formatting import printable
from pipeline.reports.page import render
from pipeline.system.chat_api import data_url

COMPLETIONS = "completions"
"""Folder of a stage that holds its tables and the page."""
REWARD = "reward:"
"""Beginning of the columns that hold rewards."""
SHOWN = 6
"""Tables on the page: the first, the last, and others evenly between."""


def write_completions_page(stage: Path) -> Path | None:
    """Write `stage`/completions/index.html unless it is newer than the tables; its path, or None when there is no table."""
    import pyarrow.parquet as pq

    files = sorted((stage / COMPLETIONS).glob("step-*.parquet"))
    if not files:
        return None
    page = stage / COMPLETIONS / "index.html"
    if page.exists() and page.stat().st_mtime >= max(file.stat().st_mtime for file in files):
        return page
    places = sorted({round(place * (len(files) - 1) / max(1, SHOWN - 1)) for place in range(SHOWN)})
    steps = [_step(pq.ParquetFile(files[place]).read().to_pylist()) for place in places]
    text = render(
        "completions.html.jinja",
        style="_completions.css.jinja",
        script=None,
        title=f"{stage.name}: completions",
        stage=stage.name,
        steps=steps,
    )
    write_atomic(page, text)
    return page


def _step(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One table for the page: its step, the names of its rewards, its groups."""
    names = [key for key in rows[0] if key.startswith(REWARD)]
    groups = []
    for _, members in itertools.groupby(rows, key=lambda row: row["group"]):
        group = list(members)
        # Tables of older runs have one picture a row.
        pictures = group[0].get("images") or [png for png in (group[0].get("image"),) if png]
        groups.append(
            {
                "pictures": [data_url(png, "png") for png in pictures],
                "prompt": printable(group[0]["prompt"]),
                "rows": [
                    {
                        "text": printable(row["completion"]).strip() or "(nothing)",
                        "rewards": [row[name] for name in names],
                        "advantage": row["advantage"],
                    }
                    for row in sorted(group, key=lambda row: -row["advantage"])
                ],
            }
        )
    return {"step": rows[0]["step"], "names": [name.removeprefix(REWARD) for name in names], "groups": groups}
