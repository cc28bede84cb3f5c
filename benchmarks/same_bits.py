"""Compare two runs file by file, bit for bit: what a change that only moves code must leave equal.

    python -m benchmarks.same_bits OLD/runs/small NEW/runs/small

Run one configuration with the code before and after (from two checkouts, under the same relative output_dir), then this. Weights,
rows, predictions and digests are compared as bytes. Figures that a clock or the commit decides are left out of JSON and of tables
(`VOLATILE`); logs, and pages that show such figures, are counted and not compared. Exits with 1 when anything else differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOLATILE = re.compile(
    r"seconds|runtime|step_time|per_second|(^|_)bytes$|_at$|^(usage|commit|versions|resumed_with|image_root)$"
)
"""Keys whose values follow from the clock, the machine, the checkout or the commit."""
SHOWS_SECONDS = {".log", ".html", ".md", ".sqlite"}
"""Files that show such values in their text; an SQLite file holds its pages in the order they came."""


def settled(value: Any) -> Any:
    """Return a JSON value without the entries whose key says that they are volatile."""
    if isinstance(value, dict):
        return {key: settled(entry) for key, entry in value.items() if not VOLATILE.search(key)}
    return [settled(entry) for entry in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """Return what of a file has to be equal: its bytes, or its JSON without volatile entries."""
    if path.suffix == ".json":
        return settled(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [settled(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def compare(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Yield (what, file) for every file of two runs: same, other, gone, new, or uncompared."""
    before, after = ({path.relative_to(run) for path in run.rglob("*") if path.is_file()} for run in (old, new))
    for file in sorted(before | after):
        if file not in after or file not in before:
            yield "gone" if file in before else "new", str(file)
        elif (old / file).read_bytes() == (new / file).read_bytes():
            yield "same", str(file)
        elif file.suffix in SHOWS_SECONDS or file.name == "results.csv":
            yield "uncompared", str(file)
        else:
            yield "same" if content(old / file) == content(new / file) else "other", str(file)


def main() -> int:
    """Print the counts and every file that differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_bits", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    results = list(compare(arguments.old, arguments.new))
    for kind in ("same", "uncompared", "other", "gone", "new"):
        files = [file for found, file in results if found == kind]
        print(f"{kind:<11} {len(files)}")
        if kind not in ("same", "uncompared"):
            print("".join(f"    {file}\n" for file in files), end="")
    return int(any(found in ("other", "gone", "new") for found, _ in results))


if __name__ == "__main__":
    sys.exit(main())
