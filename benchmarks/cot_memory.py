"""Peak memory of the CoT builder against the number of rows, up to EmoSet's 118,102.

    python -m benchmarks.cot_memory [--rows 10000 --rows 118102] [--side 64]

Makes an image folder of that many rows (hard links to a few hundred drawn pictures), builds it through the real command line
against a local server (tests/fault_server.py in a process of its own) and reads the builder's peak resident memory from the
kernel, the check of all pictures and the writing of the rows included.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from PIL import Image

from pipeline import command_line

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
_PICTURES = 256


def draw(folder: Path, rows: int, side: int) -> None:
    """An image folder of `rows` pictures, most of them further names of the same files."""
    rng = random.Random(0)
    originals = []
    (originals_folder := folder.parent / "originals").mkdir(parents=True)
    for number in range(_PICTURES):
        path = originals_folder / f"{number}.jpg"
        noise = Image.frombytes("RGB", (8, 8), rng.randbytes(192))
        noise.resize((side, side)).save(path, quality=92)
        originals.append(path)
    for label in LABELS:
        (folder / "train" / label).mkdir(parents=True)
    for number in range(rows):
        os.link(originals[number % _PICTURES], folder / "train" / LABELS[number % 8] / f"{number:06d}.jpg")


def measure(rows: int, side: int) -> dict[str, float]:
    """Build once; gives rows, seconds, megabytes at the peak and what was kept."""
    with tempfile.TemporaryDirectory(prefix="cot-memory-") as name:
        folder = Path(name)
        draw(folder / "data", rows, side)
        words = [sys.executable, str(ROOT / "tests" / "fault_server.py"), "--latency", "0.05"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                teacher = {"kind": "openai", "model": "stub", "base_urls": [url], "image_size": 512}
                (folder / "stub.yaml").write_text(yaml.safe_dump(teacher))
                run = {
                    "name": "memory",
                    "output_dir": str(folder / "runs"),
                    "task": {"name": "imagefolder", "path": str(folder / "data")},
                    "cot": {"teachers": [str(folder / "stub.yaml")], "prompt": "answer_given_v1"},
                }
                (folder / "run.yaml").write_text(yaml.safe_dump(run))
                command = [sys.executable, "-m", "cot_builder", "build", "--config", str(folder / "run.yaml")]
                started = time.monotonic()
                builder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(builder.pid, 0)
                seconds = time.monotonic() - started
            finally:
                server.kill()
        manifest = json.loads((folder / "runs" / "memory" / "cot" / "manifest.json").read_text())
        assert os.waitstatus_to_exitcode(status) == 0, manifest["why"]
        return {
            "rows": rows,
            "kept": manifest["rows"]["kept"],
            "seconds": seconds,
            "asking": manifest["seconds"],
            "megabytes": usage.ru_maxrss / 1024,
            "cpu": usage.ru_utime + usage.ru_stime,
        }


def main() -> None:
    parser = command_line.doc_parser("benchmarks.cot_memory", __doc__)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture's side")
    words = parser.parse_args()
    print("| rows | kept | peak memory, MB | whole build, s | asking, s | rows/s while asking | CPU, ms a row |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for rows in words.rows or [10_000, 118_102]:
        found = measure(rows, words.side)
        print(
            f"| {rows:,} | {found['kept']:,} | {found['megabytes']:.0f} | {found['seconds']:.0f} | {found['asking']:.0f} "
            f"| {rows / found['asking']:.0f} | {1000 * found['cpu'] / rows:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
