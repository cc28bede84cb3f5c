"""What a backend is asked and what it answers: one user turn with its pictures, how to sample, the text that came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pipeline.config.evaluation import LabModel
from pipeline.config.families import FIRST, PLACES
from pipeline.config.special_tokens import TAGS
from pipeline.data.questions.image_marks import pictures_first, split_at_marks


@dataclass(frozen=True)
class GenerationRequest:
    """One user turn to be answered.

    Args:
        id: of its row.
        text: ``<image 1>`` marks where picture 1 belongs.
        images: their files.
        said: how the answer begins; the model goes on from there.
        seed: of the draws, where there are any.
    """

    id: str
    text: str
    images: tuple[Path, ...] = ()
    said: str = ""
    seed: int = 0


@dataclass(frozen=True)
class SamplingParams:
    """How answers are written: greedily at temperature 0."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generation:
    """What came of an `AskTeacher`.

    Args:
        id: of its row.
        text: the answer, without `AskTeacher.said`; empty when there is none.
        tokens: its length.
        prompt_tokens: length of what was read, where the backend tells.
        truncated: whether it was cut at `SamplingParams.max_new_tokens`.
        seconds: from when its batch was begun to its end.
        logprob: mean log-probability of its tokens in nats, where the backend tells.
        failed: why there is no answer (``unreadable_image``, ``request_refused``, ``server_error``), with `detail`; None when
            there is one.
        thought: what a thinking model thought, where its server tells it apart from the text.
    """

    id: str
    text: str
    tokens: int = 0
    prompt_tokens: int | None = None
    truncated: bool = False
    seconds: float = 0.0
    logprob: float | None = None
    failed: str | None = None
    detail: str = ""
    thought: str = ""

    def with_thought(self) -> Generation:
        """Return this answer with its thought before the text, where the text has none of its own."""
        if not self.thought.strip() or "<think>" in self.text:
            return self
        end = f"</think>\n{self.text}" if self.text or not self.truncated else ""
        return replace(self, text=f"<think>{self.thought.strip()}{end}", thought="")

    def spoken(self) -> str:
        """Return the text behind the thought it begins with, as others are to read it; the thought itself where it was cut."""
        thought = self.text.lstrip().removeprefix("<think>")
        if thought == self.text.lstrip():
            return self.text.strip()
        _, closed, rest = thought.rpartition("</think>")
        return (rest if closed else thought).strip()


class Backend(Protocol):
    """A model that answers."""

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        """Return answers, batch by batch, in whatever order is quickest; each ask comes back once, or never from a
        dead server.
        """
        ...

    def peak_memory(self) -> int | None:
        """Return most bytes its weights and work took: of the GPU where there is one, else of this process; None for a server."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A model of the lab, found. `identity` is everything about it that changes its answers."""

    model: LabModel
    precision: str
    folder: Path | None
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return self.model.name_or_path or f"{self.model.run}:{self.model.phase}"


def in_order(ask: GenerationRequest, family: str | None) -> list[str | int]:
    """Return the words of a turn and, as indices, its pictures, in the order in which a family of models is shown them."""
    text = pictures_first(ask.text) if PLACES.get(family or "") == FIRST else ask.text
    return split_at_marks(text, len(ask.images))


def as_words(text: str, special: Iterable[str]) -> str:
    """Return words of data or of another model, in which a special token (<image>, <|im_end|>) is only text."""
    for token in special:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens of a tokenizer that text of others must not become; the grammar's tags are for the model to write."""
    return [token for token in tokenizer.all_special_tokens if len(token) > 1 and token not in TAGS]
