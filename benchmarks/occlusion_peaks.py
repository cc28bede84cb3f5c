"""Where a student of the drawn scenes looks: how often the peak of an answer's occlusion map lies in the part that decides.

    python -m benchmarks.occlusion_peaks RUN [--rows 100] [--phase sft_labels …] [--into docs/reports.md] [--table-only]

RUN is a finished run of the task scenes, whose emotion follows from the place and the face; person and object say nothing
(pipeline/tasks/scenes.py). Maps that are missing are made first, in RUN. A cell of a map belongs to the part with most of its
pixels, and chance is the part's share of the cells: what a peak at a random cell would earn. Pictures with a neutral face, whose
emotion nothing decides, are left out and counted. The table takes the place of what stands between its two marks of --into.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.seeds import check_marks, write_between_marks
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.files import ROOT, read_jsonl
from pipeline.formatting import percent
from pipeline.metrics.intervals import rate
from pipeline.reports.occlusion import cells, mapped_rows
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import trained_phases
from pipeline.tasks.scenes import PARTS, parts_of

NAME = "occlusion_peaks"
SHOWN = {"face": ("face",), "place": ("place",), "says nothing": ("body", "object")}
"""Columns of the table, and the parts each is of."""


def cell_parts(row_id: str, options: Mapping[str, Any]) -> list[list[str]]:
    """Return the part of each cell of a row's map, in lines from the top: that of most pixels, the first of `PARTS` of equals."""
    parts = parts_of(row_id, options)

    def part(box: tuple[int, int, int, int]) -> str:
        counts = parts.crop(box).histogram()[: len(PARTS)]
        return PARTS[counts.index(max(counts))]

    return [[part(box) for box in line] for line in cells(parts.size)]


def lines_of(phase: str, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of a phase's table: of each prompt style the right and the wrong answers.

    Args:
        phase: its name.
        rows: of its maps.
        options: of the task.
    """
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["style"], not row["correct"]].append(row)
    lines = []
    for (style, wrong), found in sorted(groups.items()):
        peaks: Counter[str] = Counter()
        chance: Counter[str] = Counter()
        for row in found:
            parts = cell_parts(row["id"], options)
            every = [part for line in parts for part in line]
            chance.update({part: every.count(part) / len(every) for part in PARTS})
            if (peak := row["pictures"][0]["peak"]) is not None:
                peaks[parts[peak[0]][peak[1]]] += 1
        shares = [
            f"{rate(sum(peaks[part] for part in of), len(found))}, {percent(sum(chance[part] for part in of) / len(found))}"
            for of in SHOWN.values()
        ]
        without = len(found) - sum(peaks.values())
        lines.append([phase, style, "wrong" if wrong else "right", str(len(found)), *shares, str(without)])
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Make the maps that are missing, then write the table."""
    parser = command_line.doc_parser("benchmarks.occlusion_peaks", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run of the task scenes")
    parser.add_argument("--rows", type=command_line.from_one, default=100, help="of each phase and prompt style")
    parser.add_argument(
        "--phase", action="append", help="stage or baseline; again for more (default: all but the base)"
    )
    parser.add_argument(
        "--into", type=Path, default=ROOT / "docs" / "reports.md", help="page with the table's two marks"
    )
    parser.add_argument("--table-only", action="store_true", help="make no map; read those there are")
    arguments = command_line.parse(parser, argv)
    root = arguments.run.resolve()
    config = load(root / "config.yaml", [f"output_dir={root.parent}", f"name={root.name}"])
    if config.task.name != "scenes":
        raise UserError(f"{root}: of the task {config.task.name}; which part decides is known of scenes alone")
    check_marks(arguments.into, NAME)
    names = [config.stage_name(name) for name in arguments.phase or ()]
    names = names or [name for name in trained_phases(config) if name != BASE]
    if not arguments.table_only:
        command = [sys.executable, "-m", "stages.explain", "--config", str(root / "config.yaml")]
        command += ["--rows", str(arguments.rows), *(word for name in names for word in ("--phase", name))]
        subprocess.run([*command, f"output_dir={root.parent}", f"name={root.name}"], check=True)
    lines, neutral = [], 0
    for name in names:
        folder = RunDir(root.parent, root.name).phase(name)
        faces = {row["id"]: row["attributes"]["facial_expression"] for row in read_jsonl(folder / "predictions.jsonl")}
        rows = mapped_rows(folder)
        decided = [row for row in rows if faces[row["id"]] != "neutral"]
        neutral += len(rows) - len(decided)
        lines += lines_of(name, decided, config.task.options)
    if not lines:
        raise UserError(f"{root}: there is no occlusion map; run it without --table-only")
    head = ["phase", "prompt", "answers", "rows", *(f"{part}, %, chance" for part in SHOWN), "no peak"]
    note = f"Share of the peaks with its 95 % interval (Wilson), then chance. {neutral} rows with a neutral face are left out."
    written = f"{markdown_table(head, lines)}\n{note}\n"
    print(written)
    write_between_marks(arguments.into, NAME, written)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
