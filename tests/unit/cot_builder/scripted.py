"""A build whose teachers say what a test tells them to: recipes are asked through a function, so no server is needed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from cot_builder.build.plan import BuildPlan, plan
from cot_builder.build.run import settle
from cot_builder.row import Outcome
from cot_builder.teachers.base import Reply, TeacherQuestion, TeacherRequest
from cot_builder.teachers.openai import OpenAITeacher
from pipeline.config.loader import load
from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task

TASK = {"name": "scenes", "options": {"train": 200, "val": 1, "test": 1, "size": 32}}

Say = Callable[[str, TeacherQuestion], str | Reply]
"""(teacher's name, question) -> the text of its reply, or the whole of it."""


def use_drawn(runs: Path) -> None:
    """Let the runs of a folder find the pictures of `TASK` drawn; what they find of them is their own."""
    for drawn in Path(_drawn().name).glob("*/drawn-*/"):
        link = runs / ".cache" / drawn.parent.name / drawn.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(drawn)


@cache
def _drawn() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="clgrpo-drawn-")
    load_task(TaskConfig(**TASK), Path(folder.name)).select("train[:1]")
    return folder


def think(answer: str, words: str = "Tall peaks rise over a still lake under wide skies.") -> str:
    """A well-formed reply that ends in `answer`."""
    return f"<think>{words} This suggests {answer}.</think>\n<answer>{answer}</answer>"


class Scripted:
    """A plan over drawn pictures, and its recipe run row by row with scripted replies."""

    def __init__(self, folder: Path, teachers: int = 1, rows: int = 24, **cot: Any) -> None:
        names = "abcdef"[:teachers]
        files = []
        for name in names:
            files.append(folder / f"{name}.yaml")
            files[-1].write_text(
                yaml.safe_dump({"kind": "openai", "model": f"model-{name}", "base_urls": ["http://localhost:9/v1"]})
            )
        use_drawn(folder / "runs")
        cot = {"split": f"train[:{rows}]", "teachers": [str(file) for file in files], **cot}
        run = {"name": "scripted", "output_dir": str(folder / "runs"), "task": TASK, "cot": cot}
        self.config = folder / "scripted.yaml"
        self.config.write_text(yaml.safe_dump(run))
        self.asked: list[tuple[str, TeacherQuestion]] = []

    @cached_property
    def plan(self) -> BuildPlan:
        return plan(load(self.config))

    def settle(self, say: Say, index: int = 0) -> Outcome:
        """Run the recipe on one row."""

        async def ask(name: str, question: TeacherQuestion) -> Reply:
            self.asked.append((name, question))
            said = say(name, question)
            return said if isinstance(said, Reply) else Reply(said)

        return asyncio.run(settle(self.plan, index, ask))

    def modes(self) -> list[str]:
        """The modes of the questions asked so far."""
        return [question.mode for _, question in self.asked]


class _Teacher:
    """A served teacher whose replies a test writes; its requests, and so its keys, are the real ones."""

    def __init__(self, name: str, config: Any, seed: int, say: Say) -> None:
        self.name, self.concurrency, self.sample = name, 4, None
        self._real, self._say = OpenAITeacher(name, config, seed, 4), say
        self.request, self.close = self._real.request, self._real.close

    async def ask(self, question: TeacherQuestion, request: TeacherRequest) -> Reply:
        said = self._say(self.name, question)
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return said if isinstance(said, Reply) else Reply(said, usage=usage)

    async def still_answers(self) -> bool:
        return self.sample is not None

    def endpoints(self) -> list[Any]:
        return []

    def stop(self, why: str) -> None:
        """Nothing waits."""


def speak(monkeypatch: Any, say: Say) -> None:
    """Let every teacher of builds in this process say what `say` tells."""

    def make(configs: Any, task: Any, examples: Any, *, seed: int, concurrency: int) -> dict[str, _Teacher]:
        return {name: _Teacher(name, config, seed, say) for name, config in configs.items()}

    monkeypatch.setattr("cot_builder.build.run.make_teachers", make)
