"""One build split over machines: each shard asks about its own rows, into its own journal; a merge writes the whole.

A shard's rows are every n-th of the split, so shards are alike. It works in ``cot/shards/i-of-n/`` and writes no rows. The merge
checks that every shard is there, complete and of this very configuration, takes over their replies and writes what an unsharded
build would have written, byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import BuildPlan, Shard
from cot_builder.build.run import BuildOutcome
from cot_builder.output.write import inputs, not_answered, write_unasked
from pipeline.errors import UserError
from pipeline.files import differences, write_json

_RECORD = "shard.json"


def start(plan: BuildPlan) -> None:
    """Say that this shard is under way."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_json(plan.folder / _RECORD, {"status": "incomplete", "why": "it is under way or was stopped", **inputs(plan)})


def finish(plan: BuildPlan, asked: BuildOutcome, replies: int, seconds: float) -> dict[str, Any]:
    """Write the shard's record, which the merge reads.

    Returns:
        The record; its `status` is incomplete when rows are unasked.
    """
    rows = plan.split.rows
    unasked = [{"id": rows[at].id, "label": rows[at].gold, "why": why} for at, why in sorted(asked.unasked.items())]
    write_unasked(plan, unasked)
    record = {
        "status": "incomplete" if unasked or asked.down else "complete",
        "why": not_answered(unasked) if unasked else "; ".join(asked.down) or None,
        "rows": len(plan.rows),
        "unasked": len(asked.unasked),
        "requests_this_time": asked.requests,
        "replies_in_journal": replies,
        "teachers_down": asked.down,
        "seconds": round(seconds, 2),
        **inputs(plan),
    }
    write_json(plan.folder / _RECORD, record)
    return record


def take_over(plan: BuildPlan, journal: ReplyCache, shards: int) -> list[str]:
    """Copy the replies of every shard into the whole build's journal.

    Returns:
        One line per shard.

    Raises:
        UserError: naming every shard that is missing, incomplete or of another configuration.
    """
    folders = [plan.folder / "shards" / Shard(number, shards).name for number in range(shards)]
    problems = [problem for folder in folders if (problem := _problem(folder, plan))]
    if problems:
        raise UserError(problems)
    return [f"{folder.name}: {journal.take_over(folder / 'journal' / 'replies.sqlite')} replies" for folder in folders]


def _problem(folder: Path, plan: BuildPlan) -> str | None:
    number, _, of = folder.name.partition("-of-")
    again = f"python -m cot_builder build --config … --shard {number}/{of}"
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return f"{folder}: there is no such shard; build it with `{again}`"
    except ValueError:
        return f"{folder / _RECORD}: is not JSON; build the shard again with `{again}`, which asks nothing twice"
    now = json.loads(json.dumps(inputs(plan), default=str))
    changed = differences(record.get("inputs"), now["inputs"]) + differences(
        record.get("prompts"), now["prompts"], "prompts"
    )
    if changed:
        return f"{folder}: was built with other settings ({'; '.join(changed[:3])}); build it again with `{again}`"
    if record["status"] != "complete":
        return f"{folder}: is incomplete ({record['why']}); go on with `{again}`"
    return None
