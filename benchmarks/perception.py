"""What visual extraction tuning teaches to name: annotated attributes that base and student name rightly, over several seeds.

    python -m benchmarks.perception [--config demo_extraction] [--task scenes] [--split 'test[:200]'] [--seeds 0 1 2]
                                    [--into PAGE] [--table-only]

Every seed is one run of the configuration, which goes on where it stopped. The base model and the run's last stage are then asked
for a description of each picture of --task, in the words the run was trained on; an attribute counts as named when one of its
annotated values stands in the text (pipeline/metrics/descriptions.py). The table takes the place of what stands between the
configuration's two marks of --into.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.seeds import check_marks, interval, make_parser, publish, spread, train
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.files import ROOT, read_json
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE

Perception = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Attribute: precision and recall, each with its ``value``; as evaluation.json has it."""


def describe(run: Path, phase: str, task: str, split: str, tokens: int) -> None:
    """Ask a phase's checkpoint for descriptions, unless it has been asked."""
    command = [sys.executable, "-m", "stages.evaluate", "--mode", "extract-think", "--model", f"{run}:{phase}"]
    command += ["--task", task, "--split", split, "--max-new-tokens", str(tokens), "--smoke", "0"]
    command += [
        "--contents",
        str(run / "cot" / "contents.json"),
        "--output-dir",
        str(run / "perception"),
        "--name",
        phase,
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def config_problems(config: RunConfig) -> Iterator[str]:
    """Yield why a configuration trains nobody to describe."""
    recipe = config.cot and config.cot.recipe
    if recipe != "extraction":
        yield f"cot.recipe: {recipe!r} teaches no descriptions; the extraction recipe does"
    if not config.stages:
        yield f"stages: {config.name} has none, so nobody is trained"


def read_perception(folder: Path, task: str, split: str) -> Perception:
    """Return precision and recall per attribute of an evaluation of one model.

    Raises:
        UserError: when it was not made on this task and split, or its pictures have no annotated attributes.
    """
    made = [read_json(file) for file in sorted(folder.glob("cells/*/evaluation.json"))]
    # Evaluations of other tasks are other cells of the folder.
    asked = [(one["inputs"]["task"]["name"], one["inputs"]["split"]) for one in made]
    found = [one for one, what in zip(made, asked, strict=True) if what == (task, split)]
    if not found or not found[0].get("perception"):
        of = ", ".join(map(" ".join, asked)) or "nothing"
        raise UserError(
            f"{folder}: holds no perception of {task} {split}, but evaluations of {of}; run without --table-only, on a task "
            "whose pictures are annotated"
        )
    return dict(found[0]["perception"])


def table(stage: str, seeds: Sequence[int], base: Sequence[Perception], tuned: Sequence[Perception]) -> str:
    """Return what is named rightly as markdown: a row per attribute, recall of base and student and precision of the student.

    Args:
        stage: the student's phase.
        seeds: one per run.
        base, tuned: of each run.
    """
    head = ["attribute", "recall of base, %", *(f"recall of {stage}, seed {seed}" for seed in seeds)]
    head += ["mean ± sd", "against base, points [95 % over seeds]", "precision, mean ± sd"]
    lines = []
    for name in tuned[0]:
        before, after = ([one[name]["recall"]["value"] or 0.0 for one in runs] for runs in (base, tuned))
        gains = [100 * (new - old) for new, old in zip(after, before, strict=True)]
        # A model that names nothing has no precision.
        precisions = [value for one in tuned if (value := one[name]["precision"]["value"]) is not None]
        cells = [
            name,
            spread(before),
            *(f"{100 * share:.1f}" for share in after),
            spread(after),
            interval(gains, least=-100.0, most=100.0),
        ]
        lines.append([*cells, spread(precisions) if precisions else "–"])
    return markdown_table(head, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the configuration over the seeds, have pictures described, then write the table."""
    parser = make_parser("perception", __doc__ or "", [0, 1, 2])
    parser.add_argument("--config", default="demo_extraction", help="the run's configuration")
    parser.add_argument("--task", default="scenes", help="whose pictures are described; annotated ones")
    parser.add_argument("--split", default="test[:200]")
    arguments = parser.parse_args(argv)
    config = load(arguments.config)
    if problems := list(config_problems(config)):
        raise UserError(problems)
    check_marks(arguments.into, config.name)
    stage, results = list(config.stages)[-1], []
    for seed in arguments.seeds:
        run = Path(arguments.output_dir).resolve() / f"{config.name}-seed{seed}"
        if not arguments.table_only:
            settings = [f"name={run.name}", f"seed={seed}", f"output_dir={run.parent}"]
            train(arguments.config, settings)
            for phase in (BASE, stage):
                describe(run, phase, arguments.task, arguments.split, config.evaluation.max_new_tokens)
        results.append(
            [read_perception(run / "perception" / phase, arguments.task, arguments.split) for phase in (BASE, stage)]
        )
    asked = read_json(run / "cot" / "manifest.json")["distinct_prompts"]
    note = (
        f"Descriptions of {arguments.task}, {arguments.split}; the last run was trained on {asked} different prompts."
    )
    written = table(stage, arguments.seeds, *zip(*results, strict=True)) + f"\n{note}\n"
    publish(written, arguments.into, config.name)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
