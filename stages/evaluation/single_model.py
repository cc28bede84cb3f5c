"""`python -m stages.evaluate --model …`: a model of its own, or a grid of perceivers and reasoners, as a lab of few cells.

The lab is written beside its cells (lab.yaml), and each cell is answered in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.checks.evaluation import load_lab, read_lab
from pipeline.config.evaluation import BACKENDS, MODES, PRECISIONS, TWO_STEPS, Cell, LabConfig, cell_folder, cells
from pipeline.errors import UserError
from pipeline.files import write_atomic, write_json
from pipeline.metrics.stored import to_json
from pipeline.reports.table import text_table
from pipeline.sweeps.results import Cells
from pipeline.sweeps.table import seeing
from pipeline.system.processes import run_child
from stages.evaluation import lmms_eval
from stages.evaluation.backends.checkpoint import find

OWN = (
    "model", "perceiver", "reasoner", "grid", "task", "data", "split", "mode", "backend", "precision", "name", "batch_size",
    "max_new_tokens", "contents", "prompts", "rotate_options", "smoke", "seed", "output_dir", "api_key_env", "harness",
    "harness_python", "retry",
)  # fmt: skip
"""The options that describe a model of its own; none of them goes with --stage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model of its own. None of them has a default here, so that a mixture with --stage shows."""
    own = parser.add_argument_group("a model of its own, on any task")
    what = "folder, hub id, run (runs/demo, runs/demo:stage3) or served model (NAME@http://host:8000/v1)"
    own.add_argument("--model", help=what)
    own.add_argument("--task", help="file of pipeline/tasks")
    own.add_argument("--data", help="root of the task's data")
    own.add_argument("--split", help="val, 'test[:200]', 'test[:10%%]'; a slice is a random subset")
    own.add_argument(
        "--mode", choices=MODES, help="default: direct; blind asks direct too, and says what seeing is worth"
    )
    own.add_argument(
        "--perceiver", action="append", help="in the two-step modes, who describes; with --grid again and again"
    )
    own.add_argument("--reasoner", action="append", help="in the two-step modes, who answers from the description")
    own.add_argument(
        "--grid", action="store_true", help="every --perceiver with every --reasoner, in every mode but blind"
    )
    own.add_argument("--backend", choices=BACKENDS[:2], help="of folders and hub ids; default: transformers")
    own.add_argument("--precision", choices=PRECISIONS, help="default: auto")
    own.add_argument("--api-key-env", help="environment variable with the key of a served model")
    own.add_argument("--batch-size", type=int, help="rows generated at once, or requests in flight; default: 16")
    own.add_argument("--max-new-tokens", type=int, help="default: 512")
    own.add_argument(
        "--contents", metavar="FILE", help="in the extract modes: what to observe, in place of asking for it"
    )
    own.add_argument(
        "--prompts", metavar="FOLDER", help="your own observe_v1, perceive_v1, reason_v1.jinja for two steps"
    )
    own.add_argument(
        "--rotate-options", type=int, metavar="N", help="ask each question with its options in N orders; default: 1"
    )
    own.add_argument("--smoke", type=int, help="first rows of which one must be readable; 0 for none; default: 2")
    own.add_argument("--seed", type=int, help="of a reasoner's draws; default: 0")
    own.add_argument(
        "--retry", action="store_true", help="ask again the rows that a server failed at while it answered others"
    )
    own.add_argument("--name", help="folder of its results; default: from the model and the task")
    own.add_argument("--output-dir", help="default: evaluations")
    own.add_argument(
        "--harness",
        choices=lmms_eval.HARNESSES,
        help="then the same through another harness, both numbers side by side",
    )
    own.add_argument("--harness-python", help="interpreter of the environment that has it")


def single_model_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of this kind that are on the command line."""
    values = {name: getattr(arguments, name, None) for name in OWN}
    return [name for name, value in values.items() if value is not None and value is not False]


def main(arguments: argparse.Namespace) -> int:
    """Write the lab down, answer its cells, and tell where the results lie."""
    plain = lab_of(arguments)
    folder = Path(plain["output_dir"]) / plain["name"]
    path = folder / "lab.yaml"
    text = yaml.safe_dump(plain, sort_keys=False)
    if arguments.dry_run:
        from stages.evaluation.dry_run import describe_lab

        with tempfile.TemporaryDirectory() as aside:
            draft = Path(aside) / path.name
            draft.write_text(text)
            print(describe_lab(read_lab(draft)))
        return 0
    write_atomic(path, text)
    config = load_lab(path)
    found = cells(config)
    for cell in found:
        _answer(path, cell, clean=arguments.clean, retry=arguments.retry)
    if arguments.grid:
        from stages.evaluation.grid import write_grid

        for made in write_grid(config):
            print(made)
        return 0
    folder = cell_folder(config, found[-1])
    if arguments.harness:
        _through_harness(arguments, config, folder)
    if arguments.mode == "blind":
        _tell_seeing(config, found[-1])
    print(folder / "evaluation.json")
    return 0


def _tell_seeing(config: LabConfig, blind: Cell) -> None:
    """Write down and tell how much the answers depend on seeing."""
    known = Cells(config)
    lines = known.seeing(blind)
    write_json(cell_folder(config, blind) / "seeing.json", to_json(lines))
    for one in seeing(lines, [known.row(blind)]):
        print(f"{one.title}\n{text_table(one)}\n")


def _through_harness(arguments: argparse.Namespace, config: LabConfig, cell: Path) -> None:
    """Ask the other harness too, and tell both numbers."""
    model = next(iter(config.models.values()))
    record = json.loads((cell / "evaluation.json").read_text())
    folder = cell / arguments.harness
    checkpoint = find(model, config.precisions[0])
    theirs = lmms_eval.run(checkpoint, arguments.task, arguments.harness_python, folder, config.batch_size)
    print(lmms_eval.compare_with_lmms_eval(record, arguments.task, theirs, folder))


def _answer(lab: Path, cell: Cell, *, clean: bool, retry: bool) -> None:
    words = ["--config", str(lab), "--cell", cell.id, *(["--clean"] if clean else []), *(["--retry"] if retry else [])]
    code = run_child([sys.executable, "-m", "stages.cell", *words])
    if code:
        raise UserError(f"{cell.id}: ended with exit code {code}; what it answered is kept, the same command goes on")


def lab_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the lab that a command line describes, as plain values.

    Raises:
        UserError: naming everything that is missing or does not go together.
    """
    problems = list(_problems(arguments))
    if problems:
        raise UserError(problems)
    perceivers, reasoners = _parts(arguments)
    modes = [arguments.mode or "direct"]
    if arguments.grid:
        modes = [mode for mode in MODES if mode != "blind"]
    elif arguments.mode == "blind":
        modes = ["direct", "blind"]
    own = _overrides(arguments.overrides)
    lab: dict[str, Any] = {
        "name": arguments.name
        or _folder_name(f"{_short(perceivers[0])}-{arguments.task}{'-grid' if arguments.grid else ''}"),
        "output_dir": arguments.output_dir or "evaluations",
        "models": {name: {**_model(spec, arguments), **own["model"]} for name, spec in _named(perceivers).items()},
        "reasoners": {name: {**_model(spec, arguments), **own["reasoner"]} for name, spec in _named(reasoners).items()},
        "tasks": {
            arguments.task: {
                "task": {"name": arguments.task, **({"path": arguments.data} if arguments.data else {}), **own["task"]},
                "split": arguments.split,
                **({"max_new_tokens": arguments.max_new_tokens} if arguments.max_new_tokens is not None else {}),
                **({"contents": arguments.contents} if arguments.contents is not None else {}),
            }
        },
        "precisions": [arguments.precision or "auto"],
        "modes": modes,
    }
    return lab | {
        key: value
        for key in ("batch_size", "prompts", "rotate_options", "smoke", "seed")
        if (value := getattr(arguments, key)) is not None
    }


def _problems(arguments: argparse.Namespace) -> Iterator[str]:
    perceivers, reasoners = arguments.perceiver or [], arguments.reasoner or []
    for key in ("task", "split"):
        if getattr(arguments, key) is None:
            yield f"--{key} is missing; for example --task scenes --split 'test[:200]'"
    if arguments.harness and arguments.task and arguments.split:
        yield from lmms_eval.problems(arguments.task, arguments.split, arguments.harness_python)
    if arguments.harness and (
        arguments.grid or arguments.mode not in (None, "direct") or "@" in (arguments.model or "")
    ):
        yield "--harness: other harnesses ask one checkpoint for direct answers; leave --grid, --mode and servers out"
    if arguments.harness and (arguments.rotate_options or 1) > 1:
        yield "--harness: other harnesses ask each question in its own order; leave --rotate-options out"
    if arguments.harness_python and not arguments.harness:
        yield "--harness-python: is of --harness; name it too"
    two_steps = arguments.grid or arguments.mode in TWO_STEPS
    if (perceivers or reasoners) and not two_steps:
        yield f"--perceiver and --reasoner are for --mode {' or '.join(TWO_STEPS)}, and for --grid"
    if arguments.grid:
        if arguments.mode:
            yield "--mode: --grid asks in every mode but blind; leave --mode out"
        if arguments.model:
            yield "--model: --grid takes --perceiver and --reasoner, each again and again; leave --model out"
        if not perceivers or not reasoners:
            yield "--grid needs at least one --perceiver and one --reasoner"
        return
    for key, given_ones in (("perceiver", perceivers), ("reasoner", reasoners)):
        if len(given_ones) > 1:
            yield f"--{key}: {len(given_ones)} of them need --grid"
    if arguments.model and perceivers and reasoners:
        yield "--model: with both --perceiver and --reasoner nothing is left for it to do; leave it out"
    if not arguments.model and not perceivers:
        yield "--model is missing: a folder, a hub id, a run, or NAME@http://host:8000/v1"


def _parts(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(perceivers or the one model, reasoners). --model stands for whichever of the two is not named."""
    perceivers, reasoners = arguments.perceiver or [], arguments.reasoner or []
    if not arguments.model:
        return perceivers, reasoners
    return (perceivers, [arguments.model]) if perceivers else ([arguments.model], reasoners)


def _model(spec: str, arguments: argparse.Namespace) -> dict[str, Any]:
    name, at, address = spec.partition("@")
    if at and re.match(r"https?://", address):
        key = {"api_key_env": arguments.api_key_env} if arguments.api_key_env else {}
        return {"name_or_path": name, "backend": "openai", "base_url": address, **key}
    backend = {"backend": arguments.backend} if arguments.backend else {}
    folder, _, phase = spec.partition(":")
    root = Path(folder).expanduser()
    if (root / "config.yaml").is_file() and not (root / "config.json").is_file():
        return {"run": folder, **({"phase": phase} if phase else {}), **backend}
    return {"name_or_path": spec, **backend}


def _overrides(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What ``model.a=b``, ``reasoner.a=b`` and ``task.options.c=d`` words set, by their first part."""
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error
    parts = ("model", "reasoner", "task")
    if strange := sorted(set(read) - set(parts)):
        raise UserError(
            [f"{key}: a model of its own has model.…, reasoner.… and task.… settings alone" for key in strange]
        )
    return {part: read.get(part) or {} for part in parts}


def _named(specs: Sequence[str]) -> dict[str, str]:
    """A short name per model, each once."""
    named: dict[str, str] = {}
    for spec in specs:
        short, number = _short(spec), 2
        while short in named:
            short, number = f"{_short(spec)}_{number}", number + 1
        named[short] = spec
    return named


def _short(spec: str) -> str:
    """What tells a model's results apart: a folder's name, or for a phase of a run run and phase."""
    name = spec.partition("@")[0].rstrip("/")
    *above, last = name.split("/")
    if last in ("final", "best") and len(above) > 1:
        last = "-".join([*above[-2:], *([last] if last == "best" else [])])
    return _folder_name(last)


def _folder_name(text: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w.-]+", "-", text)).strip(".-") or "model"
