"""What each part of the method is worth: the grid of configs/ablations/grid.yaml over several seeds, and its table.

    python -m benchmarks.ablation [--seeds 0 1 2] [--output-dir runs] [--into docs/results.md] [--table-only]

Every seed is one run (`python -m pipeline run --config ablations/grid`), which goes on where it stopped when this is run
again. The table takes the place of what stands between the two `ablation` marks of --into. About half an hour a seed on one
idle core.

An arm ends at one stage of the grid and is compared with the four stages as the demo has them (stage 4): per seed on the same
rows (McNemar), and over the seeds by the mean difference with its 95 % interval (Student's t over seeds, which covers the luck
of training, as the intervals of one run do not). With three seeds such an interval is wide, and that is the truth.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.files import write_atomic
from pipeline.metrics.paired_tests import paired
from pipeline.reports.entries import Entry, read_run
from pipeline.reports.summary import clip_of
from pipeline.runs.phases import trained_phases

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "ablations/grid"
REFERENCE = "stage4_clgrpo"
ARMS = {
    "four stages, ε_high 0.1 below ε_low 0.2: our ClipLow (stage 4)": REFERENCE,
    "clip range symmetric, 0.2 / 0.2": "stage5_clip_symmetric",
    "clip range low-tight, ε_low 0.1, ε_high 0.2": "stage6_clip_low_tight",
    "clip range tight on both sides, 0.1 / 0.1": "stage7_clip_both_tight",
    "without stage 4": "stage3_grpo_accuracy",
    "without stage 2": "stage9_clgrpo_without_format",
    "stage 1 on labels, then stages 2 to 4": "stage12_clgrpo_from_labels",
    "direct answers: labels, GRPO on accuracy, ClipLow": "stage14_clgrpo_direct",
    "stage 1 alone (CoT rows)": "stage1_sft",
    "labels alone (the baseline)": "baseline_sft_labels",
}
"""What is left out or changed, and the stage whose model shows it."""
MARKS = ("<!-- ablation: written by python -m benchmarks.ablation -->", "<!-- end of ablation -->")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "results.md", help="page with the two marks")
    parser.add_argument("--table-only", action="store_true", help="train nothing; read the runs there are")
    arguments = parser.parse_args(argv)
    runs = []
    for seed in arguments.seeds:
        settings = [f"name=ablation-seed{seed}", f"seed={seed}", f"output_dir={arguments.output_dir}"]
        if not arguments.table_only:
            command = [sys.executable, "-m", "pipeline", "run", "--config", CONFIG, *settings]
            subprocess.run(command, cwd=ROOT, check=True)
        runs.append(read(settings))
    written = table(arguments.seeds, runs)
    print(written)
    page = arguments.into.read_text()
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    write_atomic(arguments.into, f"{before}{MARKS[0]}\n\n{written}\n{MARKS[1]}{after}")
    return 0


def read(settings: Sequence[str]) -> dict[str, Entry]:
    """The evaluated phases of one run of the grid, by name."""
    config = load(CONFIG, settings)
    labels = load_task(config.task, Path(config.output_dir) / ".cache").labels
    return {
        entry.name: entry for entry in read_run(Path(config.output_dir) / config.name, trained_phases(config), labels)
    }


def table(seeds: Sequence[int], runs: Sequence[dict[str, Entry]]) -> str:
    """The arms as markdown: accuracy per seed with its interval, means over seeds, differences from the reference."""
    head = ["arm", *(f"seed {seed}, accuracy %" for seed in seeds)]
    head += [
        "mean",
        "macro-F1, mean",
        "against the four stages, points [95 % over seeds]",
        "per seed (p)",
        "clipped low / high, %",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, name in ARMS.items():
        entries = [run[name] for run in runs]
        scores = [entry.scores for entry in entries if entry.scores]
        cells = [arm, *(str(one.accuracy) for one in scores), spread([one.accuracy.share for one in scores])]
        cells.append(spread([one.classes.macro.f1 for one in scores if one.classes]))
        if name == REFERENCE:
            cells += ["", ""]
        else:
            against = [paired(e.predictions, r[REFERENCE].predictions) for e, r in zip(entries, runs, strict=True)]
            cells.append(interval([100 * one.gain.share for one in against]))
            cells.append(", ".join(f"{100 * one.gain.share:+.1f} ({probability(one.p or 0.0)})" for one in against))
        clips = [clip for entry in entries if (clip := clip_of(entry.record))]
        cells.append(", ".join(f"{100 * clip.low:.2f} / {100 * clip.high:.2f}" for clip in clips))
        lines.append(f"| {' | '.join(cells)} |")
    rows = {entry.scores.n for run in runs for entry in run.values() if entry.scores}
    note = (
        f"{' or '.join(map(str, sorted(rows)))} test rows; [95 % interval of one run, Wilson]; mean ± sample standard deviation; "
        "p of McNemar's exact test on the same rows, not corrected for the number of arms."
    )
    return "\n".join([*lines, "", note, ""])


def probability(p: float) -> str:
    """A p value to three places."""
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def spread(shares: Sequence[float]) -> str:
    """Mean ± sample standard deviation in percent; the mean alone of a single run."""
    values = [100 * share for share in shares]
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def interval(differences: Sequence[float]) -> str:
    """Mean difference over seeds with Student's 95 % interval; the difference alone of a single run."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


if __name__ == "__main__":
    sys.exit(main())
