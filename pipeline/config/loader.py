"""The one way to load a run's configuration (`pipeline.config.schema`): defaults < file(s) < ``a.b=c``.

A file may name another as its `base:` (relative to itself), which is merged beneath it, or a list of them, the first lowest.
Unknown keys are errors that name the nearest right key. `pipeline.checks` then tests the combinations; nothing here imports
torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.schema import RunConfig, match_stage
from pipeline.config.validation import find_misfits, key_of, make_typed, without_nulls
from pipeline.errors import UserError
from pipeline.files import ROOT, write_atomic

CONFIGS = ROOT / "configs"


def load(file: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Load a run's configuration.

    Args:
        file: a YAML file, or the bare name of one in configs/.
        overrides: ``a.b=c`` words; c is read as YAML. A stage may go by its short name (stages.stage3.trainer.beta=0).

    Returns:
        The merged, type-checked, frozen configuration. Cross-field rules are `pipeline.checks.run.check`'s.

    Raises:
        UserError: naming every unknown key, every missing one and every value of a wrong type.
    """
    return typing.cast(RunConfig, load_merged(RunConfig, find_config(file), overrides))


def load_merged(cls: type, path: Path, overrides: typing.Sequence[str] = ()) -> Any:
    """Return a YAML file on its `base:` files, changed by ``a.b=c`` words, as the dataclass `cls`.

    Raises:
        UserError: naming every unknown key, every missing one and every value of a wrong type.
    """
    merged: Any = OmegaConf.create({})
    lowest: list[Any] = []
    for layer in _layers(path):
        try:
            layer = _with_full_stage_names(layer, merged)
            _leave_other_task(merged, OmegaConf.select(layer, "task.name"))
            _drop_emptied(merged, layer)
            merged = OmegaConf.unsafe_merge(merged, layer)
            if not lowest and isinstance(merged.get("stages"), DictConfig):
                lowest = list(merged["stages"])
        except (OmegaConfBaseException, TypeError) as error:
            raise UserError(f"{path}: does not fit on its base: {error}") from error
    problems = []
    # Before the others, which may stand before it.
    _leave_other_task(
        merged, next((word.partition("=")[2] for word in overrides if word.startswith("task.name=")), None)
    )
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            problems.append(f"override {word!r} is not of the form a.b=c")
            continue
        try:
            key = _full_stage_key(key, merged)
            value = OmegaConf.from_dotlist([f"value={text}"])["value"]
            OmegaConf.update(merged, key, value, force_add=True, merge=value != {})
        except (OmegaConfBaseException, yaml.YAMLError, UserError) as error:
            problems.append(f"override {word!r}: {str(error).splitlines()[0]}")
    if problems:
        raise UserError(problems)
    _order_stages(merged, lowest)
    if isinstance(merged.get("output_dir"), str):
        # Here and nowhere else, so that every file of a run goes to one place.
        merged["output_dir"] = str(Path(merged["output_dir"]).expanduser())
    return _typed(cls, merged, path)


def _order_stages(merged: Any, lowest: typing.Sequence[Any]) -> None:
    """Put stages that a file adds to those of its base where their numbers belong: stage0 of a preset's student that is
    composed comes before the preset's stage1.

    Args:
        merged: the configuration.
        lowest: the stages of the first file that has some, which stay in the order they are written in.
    """
    stages = merged.get("stages")
    if not isinstance(stages, DictConfig) or not (added := [name for name in stages if name not in lowest]):
        return
    ordered = list(lowest)
    for name in added:
        after = (place for place, one in enumerate(ordered) if _number(one) > _number(name))
        ordered.insert(next(after, len(ordered)), name)
    merged["stages"] = {name: stages[name] for name in ordered if name in stages}


def _number(stage: Any) -> float:
    found = re.match(r"stage(\d+)", str(stage))
    # A name that the checks refuse.
    return int(found[1]) if found else float("inf")


def load_typed(cls: type, path: Path) -> Any:
    """Load one YAML file as the dataclass `cls`.

    Raises:
        UserError: naming every unknown key, every missing one and every value of a wrong type.
    """
    return _typed(cls, _read(path), path)


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as plain dicts and lists, ready for YAML or JSON, with the keys that files have."""
    return dataclasses.asdict(config, dict_factory=lambda fields: {key_of(name): value for name, value in fields})


def write_config(config: RunConfig, path: Path) -> Path:
    """Write the resolved configuration as YAML, for the record and for child processes; gives the path."""
    write_atomic(path, yaml.safe_dump(to_plain(config), sort_keys=False))
    return path


def find_config(file: str | Path, folder: Path = CONFIGS) -> Path:
    """Return the path of a config named by path or by its bare name in configs/ (or in `folder`, a folder of it).

    Raises:
        UserError: when there is none; lists the shipped ones and the nearest.
    """
    path = Path(file)
    for candidate in (path, folder / path, folder / f"{file}.yaml"):
        if candidate.is_file():
            return candidate
    files = shipped_configs() if folder == CONFIGS else sorted(folder.glob("*.yaml"))
    shipped = [str(path.relative_to(CONFIGS)) for path in files]
    near = difflib.get_close_matches(str(file), shipped, 1)
    hint = f"did you mean configs/{near[0]}? " if near else ""
    raise UserError(f"config {str(file)!r} does not exist; {hint}shipped: {', '.join(shipped)}")


def shipped_configs() -> list[Path]:
    """Return the files of configs/ that describe a run; those whose name begins with an underscore are parts of others."""
    files = CONFIGS.rglob("*.yaml")
    return sorted(
        file for file in files if file.parent.name not in ("teachers", "sweeps") and not file.name.startswith("_")
    )


def _read(path: Path) -> DictConfig:
    """One YAML file. OmegaConf's reader takes 1e-5 for a number (plain YAML 1.1 wants 1.0e-5) and refuses a key given twice."""
    try:
        read = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(read, DictConfig):
        raise UserError(f"{path}: must be a mapping of keys, not a list")
    if "baseline" in read and "baselines" in read:
        raise UserError(f"{path}: baseline: is the former key of baselines.{SFT_LABELS}; move it there")
    rename_baseline(read)
    return read


SFT_LABELS = "sft_labels"
"""The name of the baseline that `baseline:` was the key of."""


def rename_baseline(settings: MutableMapping[Any, Any]) -> None:
    """Rename the former key `baseline`, which files and the config.yaml of finished runs have, to `baselines.sft_labels`."""
    if "baseline" in settings:
        settings["baselines"] = {SFT_LABELS: settings.pop("baseline")}


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[DictConfig]:
    """The files to merge, lowest first."""
    if path.resolve() in above:
        raise UserError(f"{path}: base: names itself in a circle")
    layer = _read(path)
    bases = layer.pop("base", None)
    layers = []
    for base in [bases] if isinstance(bases, str) else bases or []:
        below = path.parent / str(base)
        if not below.is_file():
            shipped = next((one for one in (CONFIGS / str(base), CONFIGS / f"{base}.yaml") if one.is_file()), None)
            cure = f"write base: {shipped}" if shipped else "a base is named as seen from the file that names it"
            raise UserError(f"{path}: base: {base} does not exist beside it; {cure}")
        layers += _layers(below, (*above, path.resolve()))
    return [*layers, layer]


_KEY = re.compile(r"[^.=\[\]\s]+(\.[^.=\[\]\s]+)*")


def _with_full_stage_names(layer: DictConfig, below: Any) -> DictConfig:
    """`layer` with short stage names written out as those of the layers below, so that it changes stages, not adds them."""
    stages = layer.get("stages")
    if isinstance(stages, DictConfig) and isinstance(below.get("stages"), DictConfig):
        full = {name: _match(str(name), below.stages) for name in stages}
        layer.stages = {names[0] if len(names) == 1 else name: stages[name] for name, names in full.items()}
    return layer


def _match(short: str, stages: DictConfig) -> list[str]:
    """The stages that a name may mean: one that a file took away with null, by its full name alone."""
    return [short] if short in stages else match_stage(short, _kept(stages))


def _kept(stages: DictConfig) -> list[str]:
    return [str(name) for name, stage in stages.items() if stage is not None]


def _leave_other_task(merged: Any, name: object) -> None:
    """Forget what was set for the task below when another one is named: its path, labels, question and options."""
    below = merged.get("task")
    if isinstance(below, DictConfig) and name is not None and "name" in below and below.name != name:
        merged.task = {"name": below.name}


def _drop_emptied(below: Any, layer: DictConfig) -> None:
    """Drop the mappings that a file sets to ``{}``; merging would leave what they inherit."""
    for key, value in layer.items():
        if isinstance(value, DictConfig) and isinstance(below.get(key), DictConfig):
            if value:
                _drop_emptied(below[key], value)
            else:
                below[key] = {}


def _full_stage_key(key: str, merged: Any) -> str:
    """`key` with a short stage name written out.

    Raises:
        UserError: when it names a stage or a baseline the run does not have.
    """
    first, *rest = key.split(".")
    if first == "baseline":
        raise UserError(f"a run may have several baselines; write {'.'.join(['baselines', SFT_LABELS, *rest])}")
    stages = merged.get(first)
    if first not in ("stages", "baselines") or not rest or not isinstance(stages, DictConfig):
        return key
    names = _match(rest[0], stages) if first == "stages" else [rest[0]] if rest[0] in stages else []
    if len(names) != 1:
        known = _kept(stages)
        near = difflib.get_close_matches(rest[0], known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{rest[0]!r} is not one of this run's {first}; {hint}there are: {', '.join(known) or 'none'}")
    return ".".join([first, names[0], *rest[1:]])


def _typed(cls: type, merged: DictConfig, path: Path) -> Any:
    try:
        plain = without_nulls(OmegaConf.to_container(merged, resolve=True), cls)
        problems = list(find_misfits(plain, cls))
        if problems:
            raise UserError([f"{path}: {problem}" for problem in problems])
        return make_typed(plain, cls)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the file"
        raise UserError(f"{path}: {key}: {str(error).splitlines()[0]}") from error
