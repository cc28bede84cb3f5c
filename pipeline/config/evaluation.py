"""The evaluation lab's configuration: which models are asked which tasks, in which modes and precisions.

One evaluation is a lab of one cell. A cell is (model, task, precision, mode[, reasoner]); each runs in a process of its own and
has a folder of its own, `<output_dir>/<name>/cells/<cell id>/`, with `evaluation.json` (status, inputs, figures) and
`predictions.jsonl`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.config.loader import CONFIGS
from pipeline.config.schema import TaskConfig

SWEEPS = CONFIGS / "sweeps"

BACKENDS = ("transformers", "vllm", "openai")
"""Who generates: transformers in this process, vLLM offline in this process, a server with an OpenAI-compatible API."""
RENAME = "rename"
"""The key of a served model's `options` that is no field of a request."""
SENT = ("max_tokens", "temperature", "top_p", "seed")
"""Fields that every request to a server has beside its model and messages."""
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "8bit", "4bit")
ONE_STEP = ("direct", "think", "blind")
"""direct: the answer alone. think: <think>…</think><answer>…</answer>. blind: as direct, with the pictures left out."""
TWO_STEPS = ("caption-direct", "caption-think", "extract-direct", "extract-think")
"""A description first, of the whole picture (caption) or of what the question needs (extract); then a reasoner over its text,
which answers at once (direct) or step by step (think; arXiv 2511.17487)."""
MODES = (*ONE_STEP, *TWO_STEPS)


@dataclass(frozen=True)
class LabModel:
    """A model to judge, or a reasoner over text."""

    name_or_path: str | None = None
    """Hub id, folder, or the name a server knows it by."""
    run: str | None = None
    """Instead: the folder of a run of the pipeline (runs/demo), whose `phase` is judged."""
    phase: str = "stage4"
    """base, baseline, sft_labels, stage3, stage3:best …; only with `run`."""
    backend: str = "transformers"
    """transformers, vllm, or openai for a server."""
    base_url: str | None = None
    """Of an OpenAI-compatible server, up to and with /v1; only with backend openai."""
    api_key_env: str | None = None
    """Environment variable that holds its key; never the key itself."""
    precisions: list[str] = field(default_factory=list)
    """Of this model, in place of the lab's; a server has its own, which is auto. A reasoner has that of the perceiver."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; None: its main branch."""
    trust_remote_code: bool = False
    """Whether code in the model's folder may run."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of AutoProcessor.from_pretrained."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of vllm.LLM, or fields of each request to a server: null takes one of ours away, and `rename`
    (max_tokens: max_completion_tokens) gives one another name."""
    price: dict[str, float] = field(default_factory=dict)
    """Of a million tokens, `prompt` and `completion`, in any one currency; empty where none is known."""


@dataclass(frozen=True)
class LabTask:
    """A task and the rows of it that are asked."""

    task: TaskConfig = field(default_factory=TaskConfig)
    """As in a run."""
    split: str = MISSING
    """val, val[:200], val[:10%]; a slice is a random subset."""
    subset_seed: int = 0
    """Which subset a slice is."""
    max_new_tokens: int = 512
    """Most tokens of an answer, a thought included."""
    contents: str | None = None
    """The extract modes: JSON or JSON-lines file of what to observe, by row id or question, in place of asking a reasoner."""


@dataclass(frozen=True)
class LabConfig:
    """One sweep; one evaluation is a sweep of one cell."""

    name: str = MISSING
    """The lab's folder under `output_dir`."""
    output_dir: str = "evaluations"
    """Where labs lie."""
    seed: int = 0
    """Of everything that is drawn."""
    models: dict[str, LabModel] = field(default_factory=dict)
    """Judged, and in the two-step modes the perceivers."""
    reasoners: dict[str, LabModel] = field(default_factory=dict)
    """Read the description and answer; only for two-step modes. Empty: each model reasons over its own text."""
    tasks: dict[str, LabTask] = field(default_factory=dict)
    """What they are asked, by name."""
    precisions: list[str] = field(default_factory=lambda: ["auto"])
    """auto, float32, bfloat16, float16, 8bit, 4bit: a cell of each."""
    modes: list[str] = field(default_factory=lambda: ["direct"])
    """How they are asked: a cell of each (docs/evaluation.md)."""
    batch_size: int = 16
    """Rows that a local model answers side by side."""
    prompts: str | None = None
    """Folder with observe_v1, perceive_v1 or reason_v1.jinja, one's own words for the two-step modes; None: the pipeline's."""
    rotate_options: int = 1
    """Orders in which a question with options is asked: its own, and rotations of it; 1 for its own alone."""
    smoke: int = 2
    """Rows every cell must answer first with at least one parsable answer, before it goes on; 0 for none."""


@dataclass(frozen=True)
class Cell:
    """One model on one task in one way. `id` names its folder."""

    model: str
    task: str
    precision: str
    mode: str
    reasoner: str | None = None

    @property
    def id(self) -> str:
        return "--".join(
            [self.model, self.task, self.precision, self.mode, *([self.reasoner] if self.reasoner else [])]
        )


def style_of(mode: str) -> str:
    """Return think for a mode that wants a thought before its answer, else direct."""
    return "think" if mode.endswith("think") else "direct"


def precisions_of(config: LabConfig, model: LabModel) -> list[str]:
    """Return the precisions a model is asked in."""
    return model.precisions or (["auto"] if model.backend == "openai" else config.precisions)


def cells(config: LabConfig) -> list[Cell]:
    """Return every cell, model by model, so that a cell's files are warm for the next one."""
    reasoners: list[str | None] = [*config.reasoners] or [None]
    return [
        Cell(name, task, precision, mode, reasoner)
        for name, model in config.models.items()
        for precision in precisions_of(config, model)
        for task in config.tasks
        for mode in config.modes
        for reasoner in (reasoners if mode in TWO_STEPS else [None])
    ]


def cost(config: LabConfig, cell: Cell, prompt: int | None, completion: int | None) -> float | None:
    """Return what a cell's tokens cost, read and written; None without a price, or where the tokens are not known.

    In the two-step modes they are the reasoner's, and none is told where the perceiver has a price: its descriptions are shared
    with other cells.
    """
    model = config.models[cell.model]
    if cell.mode in TWO_STEPS:
        model = config.reasoners[cell.reasoner] if cell.reasoner and not model.price else LabModel()
    if not model.price or prompt is None or completion is None:
        return None
    return (prompt * model.price["prompt"] + completion * model.price["completion"]) / 1e6


def lab_folder(config: LabConfig) -> Path:
    """Return where a lab keeps its cells, results and page."""
    return Path(config.output_dir) / config.name


def cell_folder(config: LabConfig, cell: Cell) -> Path:
    """Return where a cell keeps its predictions and figures."""
    return lab_folder(config) / "cells" / cell.id
