"""The typed description of a run: every key a configuration file may have, its default and its meaning."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.errors import UserError


@dataclass(frozen=True)
class TaskConfig:
    """The labelled image set. `name` is a file of pipeline/tasks; the other keys mean what that file says."""

    name: str = MISSING
    """A file of pipeline/tasks."""
    path: str | None = None
    """Root of the data; None only for tasks that make their own (scenes, trails, shapes, spatial)."""
    question: str | None = None
    """What the student is asked; None for the task's own question."""
    prompt: str | None = None
    """A Jinja template with `question`, and where wanted `options`, `instruction`, `style`; it replaces the task's prompt."""
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
    """Family and sizes of the tiny random model that demo and tests train; the defaults make about 1.4 million parameters.

    Heads are 32 wide because vLLM's CPU attention refuses narrower ones.
    """

    family: str = "idefics3"
    """File of stages/models/tiny: idefics3, smolvlm, qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, llava, fast_vlm."""
    image_size: int = 64
    """Side of the square every picture is resized to, in pixels."""
    patch_size: int = 16
    """Side of a patch, in pixels."""
    scale_factor: int = 2
    """Pixel shuffle or patch merger: (image_size / patch_size / scale_factor) squared image tokens. llava has none."""
    vision_hidden_size: int = 128
    """Width of the vision tower."""
    vision_layers: int = 3
    """Layers of the vision tower."""
    hidden_size: int = 128
    """Width of the language model."""
    layers: int = 3
    """Layers of the language model."""
    intermediate_size: int = 384
    """Width of its MLPs, between their two projections."""
    vocab_size: int = 640
    """Most tokens of its tokenizer, which is trained on the texts of the run."""
    max_positions: int = 512
    """Most tokens of a prompt and its answer."""


@dataclass(frozen=True)
class ComposeConfig:
    """A VLM of a vision tower and a language model, with a new projector between them (docs/families.md)."""

    vision: str = MISSING
    """Hub id, id@revision or folder of the vision tower."""
    language: str = MISSING
    """Hub id, id@revision, folder or GGUF file of the language model."""
    image_size: int | None = None
    """Side of the square every picture is resized to, in pixels; None: the tower's own."""
    layer: int | None = None
    """Hidden state of the tower that is read; None: -2, the last but one, of towers of patches, -1 of those that give maps."""


@dataclass(frozen=True)
class ModelConfig:
    """The small VLM the run starts from."""

    name_or_path: str | None = None
    """Hub id or folder. None builds the model that `compose`, or else `tiny`, describes."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; None: its main branch."""
    compose: ComposeConfig | None = None
    """The parts of a model that is put together in the base phase."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    """The random tiny model that is made when name_or_path is None."""
    dtype: str = "auto"
    """auto: bfloat16 on a GPU that has it, float32 elsewhere. Or bfloat16 | float32."""
    attn_implementation: str = "sdpa"
    """What computes attention: sdpa, flash_attention_2 or eager, as transformers calls them."""
    trust_remote_code: bool = False
    """Whether code in the model's folder may run. Off: a model that needs it is refused."""
    peft: dict[str, Any] | None = None
    """Adapters: peft_type (LORA when not named) and the fields of its configuration class in peft (r, lora_alpha,
    target_modules, …); None trains all weights. `final/` is always a plain checkpoint."""
    quantization: str | None = None
    """4bit (NF4) or 8bit: how the language model's fixed weights are held under LoRA adapters. `final/` is the parent in full
    precision with the adapters merged."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of AutoProcessor.from_pretrained, such as min_pixels or size."""

    @property
    def is_tiny(self) -> bool:
        """Whether the run makes the model that `tiny` describes."""
        return self.name_or_path is None and self.compose is None

    @property
    def described(self) -> str:
        """What the run starts from, in words."""
        if self.compose is not None:
            return f"{self.compose.vision} with {self.compose.language}"
        return self.name_or_path or f"a tiny random {self.tiny.family}"


@dataclass(frozen=True)
class FilterConfig:
    """What a reply of a served teacher must be like to become a row; what offline teachers write is judged by
    grammar, label, leaked words and contradiction alone. Changing a filter judges the replies again; only what a stricter one
    makes necessary (a further attempt, a fallback) is asked."""

    min_words: int = 3
    """Least words of the reasoning."""
    max_words: int = 1000
    """Most words of it."""
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
    """How rows are asked of the teachers and verified, or whose rows they are."""

    from_: str | None = None
    """`from` in files: folder of a run, or of a built CoT set, whose rows are used, so that nobody is asked."""
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
    prompts: str | None = None
    """Folder with templates of one's own under those names, which take their place; None: the pipeline's words."""
    contents: str | None = None
    """extraction: JSON or JSON-lines file of what to observe, by row id or question, in place of asking a teacher."""
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
    """How another teacher reads the reasoning; None: none does."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """What a reply must be like."""
    balance: float | None = None
    """Most rows a class may keep, as a multiple of the rarest class's; None keeps all."""
    concurrency: int = 256
    """Most requests in flight per endpoint; how many really are follows from its latency."""
    min_rows: int = 1
    """Kept rows below which the build fails."""
    min_rows_per_class: int = 1
    """The same for each class that has rows in the split."""
    stop_after_failures: int = 50
    """First replies of a teacher that all fail for one reason, after which it is asked no more; 0 asks on."""


@dataclass(frozen=True)
class GateConfig:
    """What a stage must reach before the next one starts from it. Judged anew each time, so a change makes nothing stale."""

    format_rate: float = 0.0
    """Least share of greedy answers that are well formed, on the whole evaluation split."""
    accuracy: bool | None = None
    """Whether accuracy may not lie below the lower end of the parent's 95 % interval; None: yes where the stage rewards
    accuracy and its parent answers in the same prompt style."""
    action: str = "stop"
    """What a miss does. stop: no stage starts from this one; warn: say so; continue: only note it in the report."""


GATE_ACTIONS = ("stop", "warn", "continue")


@dataclass(frozen=True)
class ValidationConfig:
    """Greedy answers of the model in training, judged by the task; the weights of the best macro-F1 are kept as `best/`."""

    split: str = "val[:200]"
    """The same rows every time."""
    steps: int | None = None
    """Optimizer steps between two validations; None: at every save. The last step is always one."""


LEAST_SEEN = 1e-5
"""Change of a float32 model's logits, as a share of the largest, below which it does not look at its pictures: a hundred times
what rounding a number once makes, and a three-hundredth of what two nearly equal reds do to a random model."""


@dataclass(frozen=True)
class AlarmConfig:
    """From where on a figure of training is called out (docs/alarms.md). null turns an alarm off."""

    stop: list[str] = field(default_factory=lambda: ["nan"])
    """Names of alarms that end the stage."""
    window: int = 8
    """Logged values that a mean is taken over; the first half of them is awaited."""
    nan: float | None = 0.0
    """Figures of a step that are not finite."""
    skipped: float | None = 0.0
    """Optimizer steps in a row that DeepSpeed skipped, since their gradient was not finite."""
    images_dropped: float | None = 0.0
    """Share of rows whose image did not reach the model."""
    image_tokens: float | None = 0.0
    """Share of rows with another number of image tokens than their image has features."""
    images_unseen: float | None = LEAST_SEEN
    """Largest change of a logit when rows are shown other pictures, as a share of the largest; lower is worse."""
    unsupervised: float | None = 0.0
    """SFT: share of rows without a supervised token."""
    truncated: float | None = 0.5
    """Share of completions cut at max_completion_length; mean."""
    zero_std: float | None = 0.9
    """Share of completions whose group has equal rewards; mean."""
    duplicates: float | None = 0.7
    """Share of a group's completions after its first that repeat an earlier one; mean."""
    unscored: float | None = 0.5
    """Share of completions to which no reward applied; mean."""
    not_a_label: float | None = 0.05
    """Share of samples that answer with none of the labels, or several, where answers are closed; mean."""
    kl: float | None = 0.5
    """Mean KL divergence from the reference model, nats per token; mean."""
    drift: float | None = 0.1
    """Mean difference of log-probabilities between trainer and vLLM, nats per token; mean."""
    left_out: float | None = 0.1
    """Share of completions that the loss leaves out since trainer and vLLM disagree on how likely they are; mean."""
    entropy: float | None = 0.2
    """Mean entropy of the policy, as a share of what it was at the stage's start; lower is worse."""
    length: float | None = 0.3
    """Mean length of completions, as a share of what it was at the stage's start; lower is worse."""
    reward_hacking: float | None = 0.1
    """Fall of validation accuracy below the stage's best while the mean reward did not fall."""
    clip_void: float | None = 20.0
    """Optimizer steps of a clipping stage that could clip, all without a clipped token."""


@dataclass(frozen=True)
class DistillConfig:
    """A larger model whose logits a stage learns from beside the tokens of its rows (docs/method.md)."""

    teacher: str = MISSING
    """Hub id, id@revision or folder, such as runs/demo/stage4_clgrpo/final: of the student's family, with its tokens."""
    weight: float = 0.5
    """Share of the divergence from the teacher in the loss; the rest is the cross entropy of the rows' own tokens."""
    temperature: float = 1.0
    """What the logits of both are divided by in the divergence, which is multiplied by its square."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage."""

    algorithm: str = MISSING
    """A file of stages/: sft or grpo."""
    init_from: str = MISSING
    """What it starts from: base, or the name of an earlier stage (stage2 is enough); stage2:best for its best validation."""
    data: str = "task"
    """cot: the built CoT rows; labels: the task's labels alone; task: prompts with gold labels for the rewards (grpo)."""
    split: str = "train"
    """Rows of the task, in slicing syntax. With data: cot, a slice takes the built rows that lie in it; left at train, all."""
    prompt: str = "think"
    """think or direct: what the student is asked to write."""
    reward_funcs: list[str] = field(default_factory=list)
    """Files of rewards/, or dotted paths module.function."""
    freeze: list[str] = field(default_factory=list)
    """Parts held fixed: vision, connector, language."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Part: its own learning rate; the others keep trainer.learning_rate. The schedule multiplies all alike."""
    rollouts: str = "transformers"
    """What samples completions (grpo): transformers, or vllm, a server of the policy for the time of the stage."""
    rollouts_ahead: bool = False
    """Whether the server of `rollouts: vllm` samples the next rollout while the stage trains on the present one (grpo)."""
    dynamic_sampling: int = 0
    """Rounds of further prompts that replace groups whose rewards are all equal (grpo; DAPO); 0 trains on every group."""
    shared_prefix: bool = True
    """Whether a prompt and its image are computed once for all its completions (grpo), in the models where that is exact."""
    distill: DistillConfig | None = None
    """The teacher of logits (sft); None: the rows alone teach."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Word for word the fields of trl.SFTConfig or trl.GRPOConfig."""
    gate: GateConfig = field(default_factory=GateConfig)
    """What it must reach before a stage starts from it."""
    validation: ValidationConfig | None = None
    """None: the model is not validated while it trains."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What every stage is judged on, after it has been saved."""

    split: str = "test"
    """Rows that are judged, in slicing syntax."""
    batch_size: int = 16
    """Rows decoded side by side, per process; it changes the time alone."""
    max_new_tokens: int = 512
    """Most tokens of an answer; one that is cut counts as it stands."""
    samples: int = 1
    """Completions per row at temperature 1, beside the greedy one; 0 for none."""


@dataclass(frozen=True)
class HeldOutConfig:
    """A set that no stage may have seen; `python -m pipeline contamination` says what is compared."""

    task: TaskConfig = field(default_factory=TaskConfig)
    """A labelled image set, or a benchmark."""
    split: str = "test"
    """Rows of it that count, in slicing syntax."""


@dataclass(frozen=True)
class LaunchConfig:
    """How stages are started."""

    num_processes: int | None = None
    """Processes (one per GPU); None: the GPUs that are visible, or 1."""
    deepspeed: str | None = None
    """A JSON of configs/deepspeed (zero1, zero2, zero3, zero3_offload) or a path; None: no DeepSpeed."""
    rollout_gpus: int = 0
    """GPUs, the last ones, kept for the server of `rollouts: vllm`; 0: it shares those of the trainer."""
    rollout_flags: dict[str, Any] = field(default_factory=dict)
    """More flags for that server, word for word vLLM's, such as max-model-len or gpu-memory-utilization."""
    parallel_phases: int | None = None
    """Phases that are worked on at once where none waits for another; None: on CPUs as many as the cores allow, on GPUs one."""


@dataclass(frozen=True)
class RunConfig:
    """One whole run."""

    name: str = MISSING
    """The run's folder under `output_dir`."""
    output_dir: str = "runs"
    """Where runs lie."""
    seed: int = 0
    """Of everything that is drawn: weights, orders, samples."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """The data, what is asked and how it is judged."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The student."""
    cot: CotConfig | None = None
    """Chain-of-thought rows; None: no stage reads some."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Stages in order, by names such as stage3_grpo_accuracy: a number, then words."""
    baselines: dict[str, StageConfig] = field(default_factory=dict)
    """What the stages are measured against, by name: SFT on the original labels at least. sft_labels has the folder
    baseline_sft_labels."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What every phase is judged on."""
    held_out: dict[str, HeldOutConfig] = field(default_factory=dict)
    """Sets this run is to be judged on elsewhere: it does not start while one of their pictures is among its training rows."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Processes, DeepSpeed, GPUs of the rollout server."""
    keep_checkpoints: bool = False
    """Whether a stage's checkpoint-*/ (weights and optimizer state, three times the model) outlive its verified hand-over."""
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    """What is called out while a stage trains."""

    @property
    def all_stages(self) -> dict[str, StageConfig]:
        """Every baseline and stage by the name of its folder, in the order they run: as written, baselines first, but a parent
        before its children.
        """
        waiting = {**{BASELINE + name: stage for name, stage in self.baselines.items()}, **self.stages}
        parents = {name: match_stage(split_parent(stage.init_from)[0], waiting) for name, stage in waiting.items()}
        ordered: dict[str, StageConfig] = {}
        while waiting:
            ready = (name for name in waiting if not waiting.keys() & parents[name])
            # None is ready in a circle, which the checks refuse.
            name = next(ready, next(iter(waiting)))
            ordered[name] = waiting.pop(name)
        return ordered

    def stage_name(self, short: str) -> str:
        """Return the full name of a stage given as 3, stage3 or stage3_grpo_accuracy, or of a baseline given as sft_labels,
        baseline_sft_labels or, where it is the only one, baseline.

        Raises:
            UserError: when no stage, or more than one, answers to it.
        """
        there = self.all_stages
        names = match_stage(short, there)
        if len(names) > 1:
            raise UserError(f"stage {short!r} may be {' or '.join(names)}; write which")
        if not names:
            raise UserError(f"stage {short!r} is not one of this run's stages: {', '.join(there) or 'none'}")
        return names[0]

    def stage(self, short: str) -> StageConfig:
        """Return the block of a stage or a baseline, by any of its names."""
        return self.all_stages[self.stage_name(short)]


BASELINE = "baseline_"
"""What the folder of a baseline begins with; its name follows."""


def stage_key(name: str) -> str:
    """Return the dotted key of a stage's or a baseline's block in the configuration."""
    return f"baselines.{name.removeprefix(BASELINE)}" if name.startswith(BASELINE) else f"stages.{name}"


BEST = "best"
"""Folder of a stage's weights of its best validation, and how `init_from: stage3:best` asks for them."""
FINAL = "final"
"""Folder of a stage's last weights."""


def split_parent(init_from: str) -> tuple[str, str]:
    """Return (stage as named, final or best) of an `init_from`."""
    name, colon, which = init_from.partition(":")
    return name, which if colon else FINAL


def match_stage(short: str, names: typing.Collection[str]) -> list[str]:
    """Return the names that 3, stage3, a baseline's name or a full name stands for."""
    short = f"stage{short}" if short.isdigit() else short
    exact = [name for name in names if name in (short, BASELINE + short)]
    return exact or [name for name in names if name.startswith(f"{short}_")]
