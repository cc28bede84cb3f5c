"""The typed description of a run, and the one way to load it: defaults < file(s) < ``a.b=c``.

A file may name another as its `base:` (relative to itself), which is merged beneath it, or a list of them, the first lowest.
Unknown keys are errors that name the nearest right key. `pipeline.checks` then tests the combinations; nothing here imports
torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError
from pipeline.misfits import misfits
from pipeline.run import write_atomic

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class TaskConfig:
    """The labelled image set. `name` is a file of pipeline/tasks; the other keys mean what that file says."""

    name: str = MISSING
    path: str | None = None
    """Root of the data; None only for tasks that make their own (scenes)."""
    question: str | None = None
    """What the student is asked; None for the task's own question."""
    labels: list[str] | None = None
    """Canonical labels in table order; None to read them from the data."""
    aliases: dict[str, list[str]] = field(default_factory=dict)
    """Other spellings per label."""
    descriptions: dict[str, str] = field(default_factory=dict)
    """What a label means; shown to teachers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the one task file, checked by it."""


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the tiny random Idefics3 that demo and tests train; the defaults make about 1.4 million parameters.

    Heads are 32 wide because vLLM's CPU attention refuses narrower ones.
    """

    image_size: int = 64
    patch_size: int = 16
    scale_factor: int = 2
    """Pixel shuffle: (image_size / patch_size / scale_factor) squared image tokens."""
    vision_hidden_size: int = 128
    vision_layers: int = 3
    hidden_size: int = 128
    layers: int = 3
    intermediate_size: int = 384
    vocab_size: int = 640
    max_positions: int = 512


@dataclass(frozen=True)
class ModelConfig:
    """The small VLM the run starts from."""

    name_or_path: str | None = None
    """Hub id or folder. None builds the model `tiny` describes."""
    revision: str | None = None
    tiny: TinyConfig = field(default_factory=TinyConfig)
    """Sizes of the random tiny Idefics3 that is made when name_or_path is None."""
    dtype: str = "auto"
    """auto: bfloat16 on a GPU that has it, float32 elsewhere. Or bfloat16 | float32."""
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False
    peft: dict[str, Any] | None = None
    """Fields of peft.LoraConfig (r, lora_alpha, target_modules, …); None trains all weights. `final/` is always merged."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of AutoProcessor.from_pretrained, such as min_pixels or size."""


@dataclass(frozen=True)
class FilterConfig:
    """What a reply of a served teacher must be like to become a row; the offline teacher's templates are judged by
    grammar, label, leaked words and contradiction alone. Changing a filter judges the replies again; only what a stricter one
    makes necessary (a further attempt, a fallback) is asked."""

    min_words: int = 3
    max_words: int = 1000
    language: str | None = "en"
    """ISO 639-1 code of the language the reasoning must be in; None takes any."""
    max_repetition: float = 0.3
    """Largest share of a text's word 4-grams that occur more than once."""
    near_duplicate: float | None = 0.9
    """Jaccard similarity of word 3-grams from which a row repeats an earlier one; None keeps them all."""
    contradiction: bool = True
    """Whether reasoning that contradicts the image's annotated attributes (brightness, expression, …) is rejected."""
    min_agreement: float = 0.0
    """Share of a row's answer_hidden replies that must answer with the label."""


@dataclass(frozen=True)
class CrossCheckConfig:
    """A second teacher reads the reasoning without its conclusion, and must arrive at the label."""

    teacher: str | None = None
    """Which one reads; None: another of `cot.teachers` than the author, by row id."""
    samples: int = 1
    """Times it is asked per view; the score is the share that give the label. One sample is greedy."""
    views: list[str] = field(default_factory=lambda: ["text", "image"])
    """`text` reads the reasoning alone, `image` sees the picture too."""
    min_score: float = 0.5
    """Score every view needs; 0 only records the scores."""


@dataclass(frozen=True)
class CotConfig:
    """How rows are asked of the teachers and verified."""

    recipe: str = "reasoning"
    """File of cot_builder/recipes: reasoning, extraction."""
    split: str = "train"
    """Rows to ask about, in slicing syntax: train, train[:4000], train[:70%]."""
    teachers: list[str] = field(default_factory=lambda: ["attribute"])
    """Names of configs/teachers/*.yaml, or paths to such files."""
    teachers_per_row: int = 1
    """How many of them each row is asked of; they take turns by row id."""
    weights: dict[str, float] = field(default_factory=dict)
    """Teacher: its share of the rows against the others'; 1 where it is not named."""
    quotas: dict[str, int] = field(default_factory=dict)
    """Teacher: most rows it is asked about; the rest go to the others."""
    endpoints: dict[str, list[str]] = field(default_factory=dict)
    """Teacher: addresses that take the place of its file's base_urls."""
    prompt: str | None = None
    """File of cot_builder/prompts; None: the recipe's own (answer_hidden_v1, describe_v1)."""
    attempts: int = 1
    """Times each teacher of a row is asked (with another seed) until a reply is kept."""
    temperatures: list[float] = field(default_factory=list)
    """Temperature of each attempt; the last one repeats. Empty: the teacher's own."""
    fallback: str | None = None
    """Prompt that shows the label, asked once when every attempt failed; its rows have mode answer_given. None: reject."""
    per_class: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Label: its own attempts, temperatures or fallback."""
    hints: list[str] = field(default_factory=list)
    """Annotated attributes shown to the teacher, where a row has them; recorded with the row."""
    cross_check: CrossCheckConfig | None = None
    filters: FilterConfig = field(default_factory=FilterConfig)
    balance: float | None = None
    """Most rows a class may keep, as a multiple of the rarest class's; None keeps all."""
    concurrency: int = 256
    """Most requests in flight per endpoint; how many really are follows from its latency."""
    min_rows: int = 1
    """Kept rows below which the build fails."""
    min_rows_per_class: int = 1
    """The same for each class that has rows in the split."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage."""

    algorithm: str = MISSING
    """A file of stages/: sft or grpo."""
    init_from: str = MISSING
    """What it starts from: base, or the name of an earlier stage (stage2 is enough)."""
    data: str = "task"
    """cot: the built CoT rows; labels: the task's labels alone; task: prompts with gold labels for the rewards (grpo)."""
    split: str = "train"
    """Rows of the task, in slicing syntax (not used with data: cot, whose rows the builder chose)."""
    prompt: str = "think"
    """think or direct: what the student is asked to write."""
    reward_funcs: list[str] = field(default_factory=list)
    """Files of rewards/, or dotted paths module.function."""
    freeze: list[str] = field(default_factory=list)
    """Parts held fixed: vision, connector, language."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Word for word the fields of trl.SFTConfig or trl.GRPOConfig."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What every stage is judged on, after it has been saved."""

    split: str = "test"
    batch_size: int = 16
    max_new_tokens: int = 512
    samples: int = 1
    """Completions per row at temperature 1, beside the greedy one; 0 for none."""


@dataclass(frozen=True)
class LaunchConfig:
    """How stages are started."""

    num_processes: int | None = None
    """Processes (one per GPU); None: the GPUs that are visible, or 1."""
    deepspeed: str | None = None
    """A JSON of configs/deepspeed (zero1, zero2, zero3, zero3_offload) or a path; None: no DeepSpeed."""


@dataclass(frozen=True)
class RunConfig:
    """One whole run."""

    name: str = MISSING
    """The run's folder under `output_dir`."""
    output_dir: str = "runs"
    seed: int = 0
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    cot: CotConfig | None = None
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Stages in order; a name is stage<number>_<word>."""
    baseline: StageConfig | None = None
    """The comparison every claim needs: SFT on the original labels."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def stage_name(self, short: str) -> str:
        """The full name of a stage given as 3, stage3 or stage3_grpo_accuracy.

        Raises:
            UserError: when no stage, or more than one, answers to it.
        """
        if short in (BASELINE, "baseline") and self.baseline is not None:
            return BASELINE
        names = _match_stage(short, self.stages)
        if len(names) != 1:
            raise UserError(f"stage {short!r} is not one of this run's stages: {', '.join(self.stages) or 'none'}")
        return names[0]

    def stage(self, short: str) -> StageConfig:
        """The block of a stage, by any of its names."""
        name = self.stage_name(short)
        return self.baseline if name == BASELINE else self.stages[name]  # type: ignore[return-value]


BASELINE = "baseline_sft_labels"
"""Folder and name of the baseline stage."""


def load(file: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Load a run's configuration.

    Args:
        file: a YAML file, or the bare name of one in configs/.
        overrides: ``a.b=c`` words; c is read as YAML. A stage may go by its short name (stages.stage3.trainer.beta=0).

    Returns:
        The merged, type-checked, frozen configuration. Cross-field rules are `pipeline.checks.check`'s.

    Raises:
        UserError: naming every unknown key, every missing one and every value of a wrong type.
    """
    path = find_config(file)
    merged: Any = OmegaConf.create({})
    for layer in _layers(path):
        try:
            merged = OmegaConf.merge(merged, _with_full_stage_names(layer, merged))
        except (OmegaConfBaseException, TypeError) as error:
            raise UserError(f"{path}: does not fit on its base: {error}") from error
    problems = []
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            problems.append(f"override {word!r} is not of the form a.b=c")
            continue
        try:
            key = _full_stage_key(key, merged)
            OmegaConf.update(merged, key, OmegaConf.from_dotlist([f"value={text}"])["value"], force_add=True)
        except (OmegaConfBaseException, yaml.YAMLError, UserError) as error:
            problems.append(f"override {word!r}: {str(error).splitlines()[0]}")
    if problems:
        raise UserError(problems)
    return typing.cast(RunConfig, _typed(RunConfig, merged, path))


def load_typed(cls: type, path: Path) -> Any:
    """Load one YAML file as the dataclass `cls`.

    Raises:
        UserError: naming every unknown key, every missing one and every value of a wrong type.
    """
    return _typed(cls, _read(path), path)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain dicts and lists, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def write_config(config: RunConfig, path: Path) -> Path:
    """Write the resolved configuration as YAML, for the record and for child processes; gives the path."""
    write_atomic(path, yaml.safe_dump(to_plain(config), sort_keys=False))
    return path


def find_config(file: str | Path) -> Path:
    """The path of a config named by path or by its bare name in configs/.

    Raises:
        UserError: when there is none; lists the shipped ones and the nearest.
    """
    path = Path(file)
    for candidate in (path, CONFIGS / path, CONFIGS / f"{file}.yaml"):
        if candidate.is_file():
            return candidate
    shipped = [str(path.relative_to(CONFIGS)) for path in shipped_configs()]
    near = difflib.get_close_matches(str(file), shipped, 1)
    hint = f"did you mean configs/{near[0]}? " if near else ""
    raise UserError(f"config {str(file)!r} does not exist; {hint}shipped: {', '.join(shipped)}")


def shipped_configs() -> list[Path]:
    """The files of configs/ that describe a run; those whose name begins with an underscore are parts of others."""
    files = CONFIGS.rglob("*.yaml")
    return sorted(file for file in files if file.parent.name != "teachers" and not file.name.startswith("_"))


def _read(path: Path) -> DictConfig:
    """One YAML file. OmegaConf's reader takes 1e-5 for a number (plain YAML 1.1 wants 1.0e-5) and refuses a key given twice."""
    try:
        read = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(read, DictConfig):
        raise UserError(f"{path}: must be a mapping of keys, not a list")
    return read


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
            raise UserError(f"{path}: base: {base} does not exist beside it")
        layers += _layers(below, (*above, path.resolve()))
    return [*layers, layer]


_KEY = re.compile(r"[^.=\[\]\s]+(\.[^.=\[\]\s]+)*")


def _match_stage(short: str, names: typing.Iterable[str]) -> list[str]:
    """The names that 3, stage3 or a full name stands for."""
    short = f"stage{short}" if short.isdigit() else short
    return [name for name in names if name == short or name.startswith(f"{short}_")]


def _with_full_stage_names(layer: DictConfig, below: Any) -> DictConfig:
    """`layer` with short stage names written out as those of the layers below, so that it changes stages, not adds them."""
    stages = layer.get("stages")
    if isinstance(stages, DictConfig) and isinstance(below.get("stages"), DictConfig):
        full = {name: _match_stage(str(name), below.stages) for name in stages}
        layer.stages = {names[0] if len(names) == 1 else name: stages[name] for name, names in full.items()}
    return layer


def _full_stage_key(key: str, merged: Any) -> str:
    """`key` with a short stage name written out.

    Raises:
        UserError: when it names a stage the run does not have.
    """
    first, *rest = key.split(".")
    stages = merged.get("stages")
    if first != "stages" or not rest or not isinstance(stages, DictConfig):
        return key
    names = _match_stage(rest[0], stages)
    if len(names) != 1:
        known = [str(name) for name in stages]
        near = difflib.get_close_matches(rest[0], known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{rest[0]!r} is not one of this run's stages; {hint}there are: {', '.join(known) or 'none'}")
    return ".".join([first, names[0], *rest[1:]])


def _typed(cls: type, merged: DictConfig, path: Path) -> Any:
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
        problems = list(misfits(plain, cls))
        if problems:
            raise UserError([f"{path}: {problem}" for problem in problems])
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), plain))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the file"
        raise UserError(f"{path}: {key}: {str(error).splitlines()[0]}") from error
