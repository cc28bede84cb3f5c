"""The model a run starts from: made here when it is the tiny one, else found on the hub or on disk and checked.

python -m stages.base --config configs/demo.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import command_line
from pipeline.errors import UserError
from pipeline.families import REFUSED, model_type, tiny_families
from pipeline.handoff import file_digests, weights_of
from pipeline.phases import phase_inputs
from pipeline.provenance import provenance
from pipeline.run import BASE, COT, write_json
from pipeline.schema import ModelConfig
from pipeline.tasks import load_task
from stages import _launch, evaluate
from stages._launch import Work, guarded
from stages._stage import made
from stages._workers import as_worker, run_workers


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the base phase."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = command_line.parse(_launch.parser("base", (__doc__ or "").split("\n")[0]), argv)
    config, run = _launch.load_checked(arguments)
    work = Work(config, BASE, run)
    if arguments.worker:
        with as_worker():
            make(work)
        return 0
    if arguments.dry_run:
        print(f"base: {config.model.name_or_path or f'a tiny random model, {config.model.tiny}'}")
        return 0
    with _launch.only_one(work.folder):
        if arguments.clean:
            _launch.clean(work.folder)
        if not made(work):
            _launch.say_here(f"base: {config.model.name_or_path or f'making a tiny random {config.model.tiny.family}'}")
            run_workers("base", work, [word for word in argv if word != "--clean"])
        return evaluate.evaluate(config, run, BASE)


def make(work: Work) -> None:
    """Build or locate the model in this process and write its record."""
    config, run = work.config, work.run
    tiny = config.model.name_or_path is None
    if tiny:
        from pipeline.rows import tokenizer_texts
        from stages.tiny import build_tiny

        folder = run.final(BASE)
        texts = tokenizer_texts(load_task(config.task, run.cache), run.cot if config.cot else None)
        build_tiny(folder, config.model.tiny, texts, config.seed)
    else:
        folder = locate(config.model)
        family = model_type(folder)
        if family in REFUSED:
            raise UserError(f"model.name_or_path: {config.model.name_or_path!r} is a {family}: {REFUSED[family]}")
        if family not in tiny_families():
            _launch.say(f"base: no test trains the family {family}; docs/families.md lists those that are trained")
    files = file_digests(folder)
    weights = weights_of(files)
    if weights is None:
        raise UserError(
            f"model.name_or_path: {config.model.name_or_path!r} has no *.safetensors; only safetensors are read"
        )
    from stages._verify import unfit

    problems = unfit(folder, config, load_task(config.task, run.cache))
    if problems:
        raise UserError([f"base: {folder}: {problem}" for problem in problems])
    record = {
        "status": "complete",
        "phase": BASE,
        "checkpoint": "final" if tiny else str(folder.resolve()),
        "weights": weights,
        "files": files,
        "inputs": phase_inputs(config, BASE),
        "data_digest": (run.record(COT) or {}).get("data_digest") if tiny and config.cot else None,
        "seed": config.seed,
        **provenance(),
    }
    write_json(run.record_path(BASE), record)


def locate(model: ModelConfig) -> Path:
    """The local folder of a model, downloading safetensors and processor files when it is a hub id.

    Raises:
        UserError: when it is neither a folder nor a hub model that can be had.
    """
    assert model.name_or_path is not None
    folder = Path(model.name_or_path).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        wanted += ["*.py"] if model.trust_remote_code else []
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"model.name_or_path: {model.name_or_path!r} is no local folder and cannot be had from the hub "
            f"({str(error).splitlines()[0]}); check the name and the connection, or download it and give the folder"
        ) from error


if __name__ == "__main__":
    guarded(main)
