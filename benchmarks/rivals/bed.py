"""What every contestant shares: one tiny teacher, one vLLM server on CPU, and the same requests in each one's own form.

The teacher is a random Idefics3 without an end-of-text token, so every reply is exactly `tokens` long, whoever asks. Every
run gets rows that no other has asked about, so none finds another's pictures in the server's caches; the text in front of
the picture is the same in all and cached for all.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.rivals.clock import VARIABLE
from pipeline.files import ROOT
from pipeline.system.processes import child_environment
from pipeline.system.vllm_server import free_port, start_server, stop, wait_until_ready

TEMPERATURE, TOP_P = 0.7, 0.95
SIDE = 64
"""Pixels a side of the pictures: the tiny teacher's own input size, so that neither side spends time on scaling."""
PROMPT = "answer_hidden_v1"
_READY_SECONDS = 240
_MAX_POSITIONS = 2048


@dataclass
class Bed:
    """The prepared pictures, teacher and server."""

    folder: Path
    total: int
    """Rows drawn."""
    tokens: int
    port: int = 0
    text: str = ""
    pictures: list[Path] = field(default_factory=list)
    _next: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def model(self) -> Path:
        return self.folder / "teacher"

    @property
    def clock(self) -> Path:
        return self.folder / "clock.txt"

    @property
    def scenes(self) -> dict[str, int]:
        """The task's options."""
        return {"train": self.total, "val": 1, "test": 1, "size": SIDE}

    def take(self, rows: int) -> range:
        """Row numbers that nobody has asked about yet."""
        if self._next + rows > self.total:
            raise ValueError(f"{self.total} rows were drawn and {self._next + rows} are asked for")
        self._next += rows
        return range(self._next - rows, self._next)

    def contents(self, rows: range) -> Iterator[tuple[str, str]]:
        """(text, data URL of the picture) of each row, byte for byte as the builder sends them."""
        from cot_builder.teachers.images import data_url

        for number in rows:
            yield self.text, data_url(self.pictures[number], SIDE)

    def counters(self) -> dict[str, float]:
        """The server's own counts so far: tokens in and out, and pictures found in its cache."""
        names = {"generation_tokens": 0.0, "prompt_tokens": 0.0, "mm_cache_hits": 0.0}
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as page:
            for line in page.read().decode().splitlines():
                for name in names:
                    if line.startswith(f"vllm:{name}_total{{"):
                        names[name] += float(line.rsplit(" ", 1)[1])
        return names


def prepare(folder: Path, total: int, tokens: int) -> Bed:
    """Draw the pictures and make the teacher."""
    from cot_builder.prompts import load_prompt
    from pipeline.config.schema import TaskConfig, TinyConfig
    from pipeline.data.load import load_task
    from pipeline.run_dir import RunDir
    from stages.models.tiny import build_tiny

    bed = Bed(folder, total, tokens)
    # Where the builder's run looks too, so that it finds the pictures drawn.
    task = load_task(TaskConfig(name="scenes", options=dict(bed.scenes)), RunDir(folder / "runs", "ours").cache)
    examples = task.select("train").rows
    bed.pictures = [example.images[0] for example in examples]
    bed.text = load_prompt(PROMPT).render(task, examples[0])
    texts = [bed.text, *(path.read_text() for path in sorted((ROOT / "cot_builder" / "prompts").glob("*.jinja")))]
    sizes = TinyConfig(image_size=SIDE, max_positions=_MAX_POSITIONS, layers=2, vision_layers=1)
    build_tiny(bed.model, sizes, texts, seed=0)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _without_end(bed.model / name)
    return bed


@contextmanager
def served(bed: Bed) -> Iterator[Bed]:
    """`bed` with its server running; ended afterwards.

    Raises:
        UserError: when the server does not start, with the end of its log.
    """
    bed.port = free_port()
    teacher = bed.folder / "teacher.yaml"
    teacher.write_text(yaml.safe_dump(teacher_config(bed)))
    log = bed.folder / "server.log"
    process = start_server(
        [sys.executable, "-m", "cot_builder.serve", str(teacher), "--middleware", "benchmarks.rivals.clock.Clock"],
        log,
        child_environment(**{VARIABLE: str(bed.clock), "HF_HUB_OFFLINE": "1"}),
    )
    try:
        wait_until_ready(process, bed.url, log, "the server", _READY_SECONDS)
        yield bed
    finally:
        stop([process])


def teacher_config(bed: Bed) -> dict[str, Any]:
    """The teacher's file, for the server and for the builder."""
    return {
        "kind": "openai",
        "model": str(bed.model),
        "base_urls": [f"{bed.url}/v1"],
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "max_tokens": bed.tokens,
        "image_size": SIDE,
        "serve": {
            "host": "127.0.0.1",
            "max-model-len": _MAX_POSITIONS,
            "limit-mm-per-prompt": {"image": 1},
            # vLLM 0.31 on CPU dies of a request that has a seed and whose prompt is read in chunks.
            "no-enable-chunked-prefill": True,
        },
    }


def _without_end(file: Path) -> None:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: None if key.startswith("eos_token") else clean(inner) for key, inner in value.items()}
        return value

    file.write_text(json.dumps(clean(json.loads(file.read_text())), indent=1))
