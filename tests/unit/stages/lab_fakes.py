"""A lab of drawn scenes whose models are scripts, for tests without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.config.schema import TaskConfig
from pipeline.files import read_jsonl
from stages.evaluation import modes
from stages.evaluation.backends import checkpoint as backends
from stages.evaluation.backends.base import Checkpoint, Generation, GenerationRequest, SamplingParams

ROWS = 10
SCENES = {"train": 1, "val": 1, "test": ROWS, "size": 32}


class Scripted:
    """A backend that answers with a function of the ask, two rows at a time, and keeps what it was asked."""

    def __init__(self, say: Callable[[GenerationRequest], Generation | str], tokens: int = 5) -> None:
        self.say, self.asked, self.hows, self.tokens = say, [], [], tokens
        self.dies_after: int | None = None

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        for start in range(0, len(asks), 2):
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            batch = list(asks[start : start + 2])
            self.asked += batch
            self.hows += [how] * len(batch)
            said = [self.say(ask) for ask in batch]
            yield [
                one
                if isinstance(one, Generation)
                else Generation(ask.id, one, tokens=self.tokens, prompt_tokens=7, seconds=0.5)
                for ask, one in zip(batch, said, strict=True)
            ]

    def peak_memory(self) -> int | None:
        return 1000


class Lab:
    """A lab whose models are Scripted, by name."""

    def __init__(self, tmp_path: Path, monkeypatch: Any, models: dict[str, Scripted], **how: Any) -> None:
        self.models = models
        names = {name: LabModel(name_or_path=name) for name in models}
        reasoners = how.pop("reasoners", [])
        self.config = LabConfig(
            name="lab",
            output_dir=str(tmp_path),
            models={name: model for name, model in names.items() if name not in reasoners},
            reasoners={name: names[name] for name in reasoners},
            tasks={"scenes": LabTask(TaskConfig(name="scenes", options=SCENES), "test")},
            **{"smoke": 0, "batch_size": 2, **how},
        )
        monkeypatch.setattr(
            backends,
            "find",
            lambda model, precision: Checkpoint(model, precision, None, {"weights": model.name_or_path}),
        )
        monkeypatch.setattr(modes, "open_backend", lambda checkpoint, *_: models[checkpoint.model.name_or_path])

    def run(self, number: int = 0, **how: Any) -> Path:
        """Answer the cell of this number; its folder."""
        from stages.evaluation.cell import run_cell

        cell = cells(self.config)[number]
        run_cell(self.config, cell, **how)
        return self.folder(number)

    def folder(self, number: int = 0) -> Path:
        return Path(self.config.output_dir) / "lab" / "cells" / cells(self.config)[number].id


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "predictions.jsonl"))


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())
