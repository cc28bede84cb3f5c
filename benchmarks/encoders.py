"""Which vision encoder serves a small VLM, all else equal: accuracy per kind of question, and what a picture costs.

    python -m benchmarks.encoders encoders/parts [--seeds 0 1 2] [--output-dir runs] [--into docs/encoders.md] [--table-only]
    python -m benchmarks.encoders encoders/dinov2_small encoders/siglip_b16 task.path=DATA --name emoset

The arms are configurations, or a folder of configs/ that holds them; words of the form a.b=c change them all. They may differ in
their encoder alone, and train everything but it. Whatever else differs is named and refused: every setting, before anything is
trained, and in the finished runs the weights of the language model, the rows trained and judged on, and the steps. A run per arm
and seed, `<its name>-<NAME>-seed<seed>`, goes on where it stopped.

The others are compared with the first arm at the end of the last stage (or --stage): over all questions and each kind of them, on
the same rows. Tables and figure take the place of what stands between the marks of `encoders_<NAME>` on the page of --into.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import kinds
from benchmarks.equal_arms import Made, config_problems, made_problems, read_made
from benchmarks.seeds import check_marks, make_parser, run_over_seeds, save_beside, write_between_marks
from pipeline import command_line
from pipeline.config.loader import CONFIGS, load
from pipeline.errors import UserError
from pipeline.formatting import size
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import RunDir


def find_arms(words: Sequence[str]) -> dict[str, str]:
    """Return name: configuration of the arms that words name, each a configuration or a folder of them.

    Raises:
        UserError: when a folder holds none, or two arms have one name.
    """
    files: list[str] = []
    for word in words:
        folder = next((path for path in (Path(word), CONFIGS / word) if path.is_dir()), None)
        inside = sorted(path for path in folder.glob("*.yaml") if path.name[0] != "_") if folder else []
        if folder and not inside:
            raise UserError(f"{word!r} is a folder without configurations")
        files += [str(path) for path in inside] or [word]
    arms = {Path(file).stem: file for file in files}
    if len(arms) < len(files):
        raise UserError(f"two of {', '.join(files)} have one name; rename a file")
    return arms


def costs(runs: Mapping[str, Sequence[Entry]], made: Mapping[str, Made]) -> str:
    """Return what a picture of each arm costs as markdown: tokens, rows a second, memory.

    Args:
        runs: arm: the compared stage of each seed.
        made: arm: what one of its runs was made of.
    """
    lines = []
    for name, entries in runs.items():
        speeds = [speed for entry in entries if (speed := rows_per_second(entry))]
        peaks = [max(peak) for entry in entries if (peak := (entry.record.get("usage") or {}).get("peak_memory_bytes"))]
        told = f"{statistics.mean(speeds):.1f}" if speeds else "–"
        lines.append([name, str(made[name].image_tokens), told, size(max(peaks)) if peaks else "–"])
    return markdown_table(["encoder", "tokens of a picture", "rows trained a second", "peak memory"], lines)


def rows_per_second(entry: Entry) -> float | None:
    """Return the rows a stage trained on a second in its median step, which neighbours on the machine and a resume move least;
    None where its log tells of fewer than two steps.
    """
    trainer = entry.record.get("trainer") or {}
    batch = trainer.get("per_device_train_batch_size", 1) * trainer.get("gradient_accumulation_steps", 1)
    processes = ((entry.record.get("inputs") or {}).get("launch") or {}).get("num_processes") or 1
    seconds = [row["seconds"] for row in entry.log if "seconds" in row and "loss" in row]
    steps = [later - earlier for earlier, later in itertools.pairwise(seconds) if later > earlier]
    return batch * processes / statistics.median(steps) if steps else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run every arm over the seeds, refuse what is unlike, then write the tables and the figure."""
    parser = make_parser("encoders", __doc__ or "", [0, 1, 2], page="encoders.md")
    parser.add_argument(
        "overrides", nargs="+", metavar="CONFIG|a.b=c", help="arms, or folders of them; settings of all"
    )
    parser.add_argument("--name", help="of this comparison; the name of its task where it is not given")
    parser.add_argument("--stage", help="the stage whose model is compared; the last one where it is not given")
    arguments = command_line.parse(parser, argv)
    settings = [word for word in arguments.overrides if "=" in word]
    arms = find_arms([word for word in arguments.overrides if "=" not in word])
    if not arms:
        raise UserError("no arm is named; give configurations, or a folder of configs/ such as encoders/parts")
    configs = {name: load(file, settings) for name, file in arms.items()}
    if problems := list(config_problems(configs)):
        raise UserError(problems)
    reference = next(iter(configs.values()))
    called = arguments.name or reference.task.name
    stage = reference.stage_name(arguments.stage) if arguments.stage else list(reference.stages)[-1]
    check_marks(arguments.into, mark := f"encoders_{called}")
    entries, made = {}, {}
    for name, file in arms.items():
        title = f"{configs[name].name}-{called}"
        try:
            of_seeds = run_over_seeds(file, arguments, [*settings, f"name={title}"])
        except UserError as error:
            # The other arms need not wait until it is mended.
            problems += error.problems
            continue
        folders = [RunDir(arguments.output_dir, f"{title}-seed{seed}") for seed in arguments.seeds]
        entries[name] = [run[stage] for run in of_seeds]
        made[name] = [read_made(folder, run) for folder, run in zip(folders, of_seeds, strict=True)]
    if problems:
        raise UserError(problems)
    refuse_unlike(made, arguments.seeds)
    cost = costs(entries, {name: one[0] for name, one in made.items()})
    written = f"{cost}\n{kinds.table('encoder', entries, arguments.seeds)}"
    print(written)
    written += "\n" + save_beside(arguments.into, mark, kinds.figure(entries, arguments.seeds))
    write_between_marks(arguments.into, mark, written)
    return 0


def refuse_unlike(made: Mapping[str, Sequence[Made]], seeds: Sequence[int]) -> None:
    """Refuse finished runs that differ in more than their encoder.

    Args:
        made: arm: what its run of each seed was made of.
        seeds: theirs.

    Raises:
        UserError: naming each difference from the first arm's run of the same seed.
    """
    first, *others = made
    problems = [
        f"seed {seed}: {name} was made otherwise than {first}: {problem}"
        for name in others
        for seed, one, reference in zip(seeds, made[name], made[first], strict=True)
        for problem in made_problems(reference, one)
    ]
    if problems:
        raise UserError([*problems, "train them anew under another --name, or with --clean"])


if __name__ == "__main__":
    sys.exit(command_line.status(main))
