"""What each part of the method is worth: the grid of configs/ablations/grid.yaml over several seeds, and its table.

    python -m benchmarks.ablation [--seeds 0 1 2] [--output-dir runs] [--into PAGE] [--table-only]

Every seed is one run (`python -m pipeline run --config ablations/grid`), which goes on where it stopped when this is run
again. The table takes the place of what stands between the two marks of --into. About half an hour a seed on one
idle core.

An arm ends at one stage of the grid and is compared with the four stages as the demo has them (stage 4): per seed on the same
rows (McNemar), and over the seeds by the mean difference with its 95 % interval (Student's t over seeds, which covers the luck
of training, as the intervals of one run do not). With three seeds such an interval is wide, and that is the truth.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.seeds import (
    check_marks,
    interval,
    make_parser,
    publish,
    run_over_seeds,
    spread,
    told_per_seed,
)
from pipeline import command_line
from pipeline.metrics.paired_tests import paired
from pipeline.reports.entries import Entry
from pipeline.reports.summary import clip_of

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, then write the table."""
    arguments = make_parser("ablation", __doc__ or "", [0, 1, 2]).parse_args(argv)
    check_marks(arguments.into, "ablation")
    written = table(arguments.seeds, run_over_seeds(CONFIG, arguments))
    publish(written, arguments.into, "ablation")
    return 0


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
            gains = [100 * one.gain.share for one in against]
            cells += [interval(gains), told_per_seed(gains, [one.p or 0.0 for one in against])]
        clips = [clip for entry in entries if (clip := clip_of(entry.record))]
        cells.append(", ".join(f"{100 * clip.low:.2f} / {100 * clip.high:.2f}" for clip in clips))
        lines.append(f"| {' | '.join(cells)} |")
    rows = {entry.scores.n for run in runs for entry in run.values() if entry.scores}
    note = (
        f"{' or '.join(map(str, sorted(rows)))} test rows; [95 % interval of one run, Wilson]; mean ± sample standard deviation; "
        "p of McNemar's exact test on the same rows, not corrected for the number of arms."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    sys.exit(command_line.status(main))
