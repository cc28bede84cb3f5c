"""How a teacher is named and configured: a YAML file of configs/teachers, one per teacher.

Four kinds exist. `attribute` is offline and writes reasoning from the image's annotated attributes
(cot_builder/teachers/attribute.py); `walker` is offline and follows the arrows of a `trails` board
(cot_builder/teachers/walker.py); `lister` is offline and lists the objects of a `shapes` picture
(cot_builder/teachers/lister.py). `openai` is any server of the OpenAI-compatible chat API (cot_builder/teachers/openai.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pipeline.config.families import flag_problems
from pipeline.config.loader import CONFIGS, load_typed
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean

TEACHERS = CONFIGS / "teachers"
ATTRIBUTES = ("scene", "object", "facial_expression", "human_action", "brightness", "colorfulness")
"""EmoSet's annotation keys, in the order the attribute teacher names them."""
_SECRETS = {"api-key": "VLLM_API_KEY", "hf-token": "HF_TOKEN"}
"""Flags of a server that hold a secret: the variable of the environment that takes their place."""
DESCRIPTION = "description"
"""Names the description of the row's class (task.descriptions), for label sets whose images carry no annotation."""


@dataclass(frozen=True)
class OfflineConfig:
    """What offline teachers have in common. Their rates declare an imperfection like a real teacher's; all are 0 by default."""

    kind: str = ""
    """Required: says that the file is of this kind."""
    seed: int = 0
    """What its mistakes follow from, with the run's seed."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        rates = {name: value for name, value in vars(self).items() if name.endswith("_rate")}
        return [f"{name}: {rate} is not between 0 and 1" for name, rate in rates.items() if not 0 <= rate <= 1]

    def named_labels(self) -> tuple[str, list[str]]:
        """Return the setting that names labels of the task, and the labels; ("", []) where none does."""
        return "", []

    def imperfections(self) -> list[str]:
        """Return what it does wrong on purpose."""
        return []


@dataclass(frozen=True)
class AttributeConfig(OfflineConfig):
    """The offline teacher that writes from annotations."""

    kind: str = "attribute"
    seed: int = 0
    """What its choices of words and its mistakes follow from, with the run's seed."""
    attributes: list[str] = field(default_factory=lambda: list(ATTRIBUTES))
    """Which annotated attributes it names, where a row has them; `description` names the class's own description."""
    confusions: dict[str, str] = field(default_factory=dict)
    """Label: the neighbour it is taken for."""
    confusion_rate: float = 0.0
    """Share of the rows of a label in `confusions` answered as the neighbour."""
    omit_think_rate: float = 0.0
    """Share of replies that leave the thinking out."""
    misread_rate: float = 0.0
    """Share of replies that name a wrong value for one attribute and still answer with the label."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        problems = super().problems()
        for attribute in self.attributes:
            if attribute not in (*ATTRIBUTES, DESCRIPTION):
                problems.append(f"attributes: {attribute!r} is not one of {', '.join((*ATTRIBUTES, DESCRIPTION))}")
        if self.confusion_rate and not self.confusions:
            problems.append("confusion_rate is set but confusions is empty")
        return problems

    def named_labels(self) -> tuple[str, list[str]]:
        """Return the setting that names labels of the task, and the labels."""
        return "confusions", [*self.confusions, *self.confusions.values()]

    def imperfections(self) -> list[str]:
        """Return what it does wrong on purpose."""
        said = []
        if self.confusion_rate:
            pairs = ", ".join(f"{label} for {other}" for label, other in self.confusions.items())
            said.append(f"takes {pairs} in {self.confusion_rate:.0%} of their rows")
        if self.omit_think_rate:
            said.append(f"leaves the thinking out of {self.omit_think_rate:.0%} of its replies")
        if self.misread_rate:
            said.append(f"names a wrong attribute in {self.misread_rate:.0%} of them")
        return said


@dataclass(frozen=True)
class WalkerConfig(OfflineConfig):
    """The offline teacher of `trails`."""

    kind: str = "walker"
    misread_rate: float = 0.0
    """Share of arrows it reads as another direction; it walks on from where that leads."""
    gives_up_after: int = 0
    """Arrows it follows with care: on a longer walk it may give up after so many."""
    give_up_rate: float = 0.0
    """Share of the longer walks on which it does."""
    give_up_answer: str = ""
    """The label it then names in place of what is on the field it stands on."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        problems = super().problems()
        if self.give_up_rate and self.gives_up_after < 1:
            problems.append(f"gives_up_after: {self.gives_up_after} is less than 1, and give_up_rate is set")
        if self.give_up_rate and not self.give_up_answer:
            problems.append("give_up_rate is set but give_up_answer is empty")
        return problems

    def named_labels(self) -> tuple[str, list[str]]:
        """Return the setting that names labels of the task, and the labels."""
        return "give_up_answer", [self.give_up_answer] if self.give_up_rate else []

    def imperfections(self) -> list[str]:
        """Return what it does wrong on purpose."""
        said = []
        if self.misread_rate:
            said.append(f"misreads {self.misread_rate:.0%} of the arrows")
        if self.give_up_rate:
            said.append(
                f"gives up after {self.gives_up_after} arrows on {self.give_up_rate:.0%} of the longer walks and says "
                f"{self.give_up_answer}"
            )
        return said


@dataclass(frozen=True)
class ListerConfig(OfflineConfig):
    """The offline teacher of `shapes`."""

    kind: str = "lister"
    misread_rate: float = 0.0
    """Share of objects of which it reads the colour or the shape wrongly."""
    looks_at: int = 0
    """Objects it looks at with care: of a picture of more it may stop after so many."""
    stop_rate: float = 0.0
    """Share of the pictures of more objects on which it does; it then answers from what it has seen."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        problems = super().problems()
        if self.stop_rate and self.looks_at < 1:
            problems.append(f"looks_at: {self.looks_at} is less than 1, and stop_rate is set")
        return problems

    def imperfections(self) -> list[str]:
        """Return what it does wrong on purpose."""
        said = []
        if self.misread_rate:
            said.append(f"misreads {self.misread_rate:.0%} of the objects")
        if self.stop_rate:
            said.append(
                f"looks at {self.looks_at} objects alone in {self.stop_rate:.0%} of the pictures of more and answers from those"
            )
        return said


@dataclass(frozen=True)
class OpenAIConfig:
    """A model behind one or several endpoints of the OpenAI-compatible chat API."""

    kind: str = "openai"
    """Required: says that the file is of this kind."""
    model: str = ""
    """Required: the name the server serves; for `launch/serve_teacher.sh` also the hub id or folder it loads."""
    revision: str | None = None
    """Recorded, part of every journal key, and given to the server by `launch/serve_teacher.sh`."""
    base_urls: list[str] = field(default_factory=list)
    """Required: endpoints of the same model, such as http://localhost:8000/v1. No other address is ever contacted."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; never the key."""
    temperature: float = 0.7
    """Of the first attempt, where `cot.temperatures` does not say; left out where the server refuses it."""
    top_p: float = 0.95
    """Share of the probability that tokens are drawn from; left out where the server refuses it."""
    max_tokens: int = 512
    """Most tokens of a reply; a longer one is rejected as truncated."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further sampling options of the server, word for word (top_k, repetition_penalty, …)."""
    image_size: int = 672
    """Longest side in pixels of the picture that is sent; smaller pictures are sent as they are."""
    timeout: float = 120.0
    """Seconds one request may take."""
    retries: int = 5
    """Times a request that failed in transport is sent again before its row is left unasked."""
    patience: float = 300.0
    """Seconds without any reply while every endpoint fails, after which the build stops asking this teacher."""
    concurrency: int | None = None
    """Most requests in flight per endpoint; None: the run's `cot.concurrency`."""
    structured_outputs: bool = True
    """Whether the server holds label-only replies to the labels (vLLM does); else they are only asked for."""
    serve: dict[str, Any] = field(default_factory=dict)
    """Flags of `vllm serve`, word for word, used by `launch/serve_teacher.sh` only."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings."""
        problems = []
        if not self.model:
            problems.append("model: missing; give the name the server serves")
        problems += [f"base_urls: {problem}" for problem in _address_problems(self.base_urls)]
        problems += [f"serve.{problem}" for problem in flag_problems(self.serve)]
        if "revision" in self.serve:
            problems.append(
                "serve.revision: is not read here; set revision: beside serve:, which is given to the server too"
            )
        problems += [
            f"serve.{flag}: is a secret, which the manifest and the command would show; set {variable} where the server starts"
            for flag, variable in _SECRETS.items()
            if self.serve.get(flag)
        ]
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            problems.append("api_key_env: must be the NAME of an environment variable, not the key itself")
        minima = {"temperature": 0, "max_tokens": 1, "image_size": 1, "timeout": 0.001, "retries": 0, "patience": 0}
        for name, least in minima.items():
            if getattr(self, name) < least:
                problems.append(f"{name}: {getattr(self, name)} is less than {least}")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p: {self.top_p} is not in (0, 1]")
        if self.concurrency is not None and self.concurrency < 1:
            problems.append(f"concurrency: {self.concurrency} is less than 1")
        return problems


TeacherConfig = AttributeConfig | WalkerConfig | ListerConfig | OpenAIConfig
KINDS: dict[str, type[TeacherConfig]] = {
    "attribute": AttributeConfig,
    "walker": WalkerConfig,
    "lister": ListerConfig,
    "openai": OpenAIConfig,
}


def teacher_files() -> dict[str, Path]:
    """Return the shipped teachers: name -> file."""
    return {path.stem: path for path in sorted(TEACHERS.glob("*.yaml"))}


def short_name(teacher: str) -> str:
    """Return a teacher's name in a run: `cot.teachers` may hold paths."""
    return Path(teacher).stem if teacher.endswith((".yaml", ".yml")) else teacher


def find_teacher(name: str) -> Path:
    """Return the file of a teacher given by name or by path.

    Raises:
        UserError: when there is none; lists the shipped ones.
    """
    files = teacher_files()
    if name in files:
        return files[name]
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    raise UserError(f"cot.teachers: {name!r} is neither a file nor in configs/teachers; {did_you_mean(name, files)}")


def load_teacher(name: str) -> TeacherConfig:
    """Load and check one teacher's configuration.

    Raises:
        UserError: naming every problem of the file.
    """
    path = find_teacher(name)
    try:
        plain = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    kind = plain.get("kind") if isinstance(plain, dict) else None
    if kind not in KINDS:
        raise UserError(f"{path}: kind: {kind!r} is not one of {', '.join(KINDS)}")
    config: TeacherConfig = load_typed(KINDS[kind], path)
    if problems := config.problems():
        raise UserError([f"{path}: {problem}" for problem in problems])
    return config


def check_teacher(config: TeacherConfig, name: str, task: Task) -> list[str]:
    """Return problems of a teacher with the task it is to teach, or with this machine."""
    if isinstance(config, OpenAIConfig):
        # They may be the run's own (cot.endpoints).
        if problems := _address_problems(config.base_urls):
            return [f"cot.endpoints.{name}: {problem}" for problem in problems]
        if config.api_key_env and not api_key(config):
            return [f"teacher {name}: the environment variable {config.api_key_env}, which holds its key, is not set"]
        return []
    key, named = config.named_labels()
    known = task.labels.names if task.labels is not None else ()
    unknown = sorted({label for label in named if label not in known})
    return [f"teacher {name}: {key}: {label!r} is not a label of task {task.name}" for label in unknown]


def declared_imperfection(config: TeacherConfig) -> str:
    """Return what a teacher's file says it does wrong on purpose, as a sentence; "" where it says nothing."""
    return ", ".join(config.imperfections()) if isinstance(config, OfflineConfig) else ""


def api_key(config: OpenAIConfig) -> str | None:
    """Return the key of a teacher's servers, from the environment; None when there is none."""
    return os.environ.get(config.api_key_env, "").strip() or None if config.api_key_env else None


def _address_problems(urls: Sequence[str]) -> list[str]:
    problems = [] if urls else ["empty; give at least one, such as http://localhost:8000/v1"]
    for url in urls:
        parts = urlsplit(url)
        # First, because the other message shows the address.
        if "@" in url or parts.query:
            problems.append("an address must not carry a user, password or query; see api_key_env")
        elif parts.scheme not in ("http", "https") or not parts.hostname:
            problems.append(f"{url!r} is not an http(s) address")
    return problems
