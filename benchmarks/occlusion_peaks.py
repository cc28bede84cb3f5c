"""Where a student looks: how often the peak of an answer's occlusion map lies in the part of the picture that decides.

    python -m benchmarks.occlusion_peaks RUN [--rows 100] [--phase sft_labels …] [--into PAGE] [--table-only]

RUN is a finished run of a task whose drawing tells which part that is: of `scenes`, whose emotion follows from the place and the
face while the person's body and the object say nothing, or of `trails`, where it is the fields of the walk. Maps that are missing
are made first, in RUN. A cell of a map belongs to the part with most of its pixels, and chance is the part's share of the
cells: what a peak at a random cell would earn. Pictures of scenes with a neutral face, whose emotion nothing decides, are left
out and counted. The table takes the place of what stands between its two marks of --into.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.seeds import add_into, check_marks, publish
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.errors import UserError, did_you_mean
from pipeline.files import read_jsonl
from pipeline.formatting import percent
from pipeline.metrics.intervals import rate
from pipeline.reports.occlusion import FOLDER, cells, mapped_rows
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import trained_phases
from pipeline.tasks import scenes, trails

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Mapping[str, Any]
"""Of predictions.jsonl."""


@dataclass(frozen=True)
class DecidingParts:
    """What is known of the pictures of a task.

    Args:
        parts: of a picture.
        columns: of the table, and the parts each is of.
        draw: gives the part of each pixel of a row's picture, as its place in `parts`, by the task's options.
        decided: whether anything in a row's picture decides its answer.
    """

    parts: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    draw: Callable[[Row, Mapping[str, Any]], Image]
    decided: Callable[[Row], bool] = lambda row: True


def draw_walk(row: Row, options: Mapping[str, Any]) -> Image:
    """Draw which pixels of a board are of a field of its walk, from the ring to the face: 0, the others 1."""
    from PIL import Image

    words = trails.follow(trails.board_of(row["attributes"]["board"]))
    fields = Image.new("L", (trails.SIDE, trails.SIDE), 1)
    for number in words[::2]:
        line, column = divmod(int(number) - 1, trails.SIDE)
        fields.putpixel((column, line), 0)
    return fields.resize((trails.SIDE * trails.FIELD, trails.SIDE * trails.FIELD), Image.Resampling.NEAREST)


SHOWN = 6
"""Maps of right answers in a line of the figure."""
KNOWN = {
    "scenes": DecidingParts(
        scenes.PARTS,
        {"face": ("face",), "place": ("place",), "neither": ("body", "object")},
        lambda row, options: scenes.parts_of(row["id"], options),
        lambda row: row["attributes"]["facial_expression"] != "neutral",
    ),
    "trails": DecidingParts(("walk", "rest"), {"walk": ("walk",), "other fields": ("rest",)}, draw_walk),
}
"""By task."""


def cell_parts(known: DecidingParts, row: Row, options: Mapping[str, Any]) -> list[list[str]]:
    """Return the part of each cell of a row's map, in lines from the top: that of most pixels, the first of equals."""
    drawn = known.draw(row, options)

    def part(box: tuple[int, int, int, int]) -> str:
        counts = drawn.crop(box).histogram()[: len(known.parts)]
        return known.parts[counts.index(max(counts))]

    return [[part(box) for box in line] for line in cells(drawn.size)]


def lines_of(
    phase: str, known: DecidingParts, found: Iterable[tuple[Row, Row]], options: Mapping[str, Any]
) -> list[list[str]]:
    """Return the lines of a phase's table: of each prompt style the right and the wrong answers.

    Args:
        phase: its name.
        known: of its task.
        found: lines of maps.jsonl, each with its row of predictions.jsonl.
        options: of the task.
    """
    groups: dict[tuple[str, bool], list[tuple[Row, Row]]] = defaultdict(list)
    for mapped, row in found:
        groups[mapped["style"], not mapped["correct"]].append((mapped, row))
    lines = []
    for (style, wrong), pairs in sorted(groups.items(), key=lambda group: group[0]):
        peaks: Counter[str] = Counter()
        shares: Counter[str] = Counter()
        for mapped, row in pairs:
            parts = cell_parts(known, row, options)
            every = [part for line in parts for part in line]
            shares.update({part: every.count(part) / len(every) / len(pairs) for part in known.parts})
            if (peak := mapped["pictures"][0]["peak"]) is not None:
                peaks[parts[peak[0]][peak[1]]] += 1
        told = [
            f"{rate(sum(peaks[part] for part in of), len(pairs))}, {percent(sum(shares[part] for part in of))}"
            for of in known.columns.values()
        ]
        without = len(pairs) - sum(peaks.values())
        lines.append([phase, style, "wrong" if wrong else "right", str(len(pairs)), *told, str(without)])
    return lines


@dataclass(frozen=True)
class Sheet:
    """A figure of overlays, a line of at most `SHOWN` for each phase.

    Args:
        phases: name: files of its overlays.
    """

    phases: Mapping[str, Sequence[Path]]

    @property
    def said(self) -> str:
        """What it says to those who do not see it."""
        return f"maps of right answers, a line each of {', '.join(self.phases)}"

    def png(self) -> bytes:
        """Return it as a file."""
        from PIL import Image, ImageOps

        side, gap = 200, 6
        lines = list(self.phases.values())
        width = gap + (side + gap) * max(map(len, lines))
        sheet = Image.new("RGB", (width, gap + (side + gap) * len(lines)), "white")
        for line, files in enumerate(lines):
            for place, file in enumerate(files):
                with Image.open(file) as overlay:
                    shown = ImageOps.contain(overlay.convert("RGB"), (side, side))
                sheet.paste(shown, (gap + place * (side + gap), gap + line * (side + gap)))
        kept = io.BytesIO()
        sheet.save(kept, "PNG", optimize=True)
        return kept.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Make the maps that are missing, then write the table."""
    parser = command_line.doc_parser("benchmarks.occlusion_peaks", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run of scenes or trails")
    parser.add_argument("--rows", type=command_line.from_one, default=100, help="of each phase and prompt style")
    parser.add_argument(
        "--phase", action="append", help="stage or baseline; again for more (default: all but the base)"
    )
    add_into(parser)
    parser.add_argument("--table-only", action="store_true", help="make no map; read those there are")
    arguments = command_line.parse(parser, argv)
    root = arguments.run.resolve()
    config = load(root / "config.yaml", [f"output_dir={root.parent}", f"name={root.name}"])
    task = config.task.name
    if (known := KNOWN.get(task)) is None:
        raise UserError(f"{root}: which part decides is not known of the task {task!r}; {did_you_mean(task, KNOWN)}")
    check_marks(arguments.into, f"occlusion_{task}")
    names = [config.stage_name(name) for name in arguments.phase or ()]
    names = names or [name for name in trained_phases(config) if name != BASE]
    if not arguments.table_only:
        command = [sys.executable, "-m", "stages.explain", "--config", str(root / "config.yaml")]
        command += ["--rows", str(arguments.rows), *(word for name in names for word in ("--phase", name))]
        # What it refuses it has told.
        if code := subprocess.run([*command, f"output_dir={root.parent}", f"name={root.name}"], check=False).returncode:
            return code
    lines, undecided = [], 0
    shown: dict[str, list[Path]] = {}
    for name in names:
        folder = RunDir(root.parent, root.name).phase(name)
        rows = {
            (row["style"], row["id"]): row
            for row in read_jsonl(folder / "predictions.jsonl")
            if row["decoding"] == "greedy"
        }
        found = [(mapped, rows[mapped["style"], mapped["id"]]) for mapped in mapped_rows(folder)]
        decided = [pair for pair in found if known.decided(pair[1])]
        undecided += len(found) - len(decided)
        lines += lines_of(name, known, decided, config.task.options)
        right = [folder / FOLDER / mapped["pictures"][0]["overlay"] for mapped, _ in decided if mapped["correct"]]
        if right:
            shown[name] = right[:SHOWN]
    if not lines:
        raise UserError(f"{root}: there is no occlusion map; run it without --table-only")
    head = ["phase", "prompt", "answers", "rows", *(f"peak in {part}, %, chance" for part in known.columns), "no peak"]
    note = "Share of the rows whose peak lies there with its 95 % interval (Wilson), then chance."
    note += f" {undecided} rows whose picture decides nothing are left out." if undecided else ""
    written = f"{markdown_table(head, lines)}\n{note}\n"
    publish(written, arguments.into, f"occlusion_{task}", Sheet(shown) if shown else None)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
