"""How fast the lab answers, next to a plain transformers batch loop and to lmms-eval, on the same model and the same rows.

    python -m benchmarks.eval_throughput --json throughput.json
    python -m benchmarks.eval_throughput --family qwen2_5_vl --lmms-eval /path/to/venv/bin/python

A tiny random VLM answers questions of mixed lengths about JPEG pictures of mixed shapes, with exactly --tokens tokens each: it
has no end token, so everybody does the same work. The lab and the plain loop share one process and one loaded model and take
turns; time runs from the first row to the last answer, pictures read from disk. lmms-eval (0.7) runs in an environment of its
own, with its own adapter of the family, in bfloat16, which it does not let one choose; the lab is measured in bfloat16 beside
it. Its time is that of its `generate_until`, without loading and without judging. Figures are medians of --rounds, with ranges;
CPU seconds are those of the process.

With --ends, that share of the vocabulary ends an answer and answers are drawn at temperature 1, so that their lengths differ. The
loop is then the lab itself, with every row computed until the longest of its batch is finished.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.grpo_step import SIZES

_WORDS = (
    "which",
    "emotion",
    "does",
    "this",
    "scene",
    "evoke",
    "and",
    "what",
    "makes",
    "faces",
    "light",
    "place",
    "things",
    "so",
)


_LEAST, _MOST = 56 * 56, 128 * 128
"""Pixels of a picture for the Qwen families, whose tokens follow from them."""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.eval_throughput", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--family", default="idefics3", help="file of stages/models/tiny (default: idefics3)")
    parser.add_argument("--size", choices=("mini", "small"), help="of the model, as in benchmarks.grpo_step")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16, help="of every answer")
    parser.add_argument("--ends", type=float, default=0.0, metavar="SHARE", help="of all tokens that end an answer")
    parser.add_argument("--pixels", type=int, default=640, help="longest side of a picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lmms-eval", metavar="PYTHON", help="interpreter of an environment that has lmms-eval")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows per second of everybody, and the ratios."""
    from pipeline.config.evaluation import LabModel
    from stages.evaluation.backends.base import SamplingParams
    from stages.evaluation.backends.checkpoint import find, open_backend

    asks = write_rows(folder, arguments.rows, arguments.pixels)
    write_model(folder / "model", arguments.family, arguments.size, arguments.ends)
    how = SamplingParams(arguments.tokens, temperature=1.0 if arguments.ends else 0.0)
    figures: dict[str, Any] = {"settings": {key: str(value) for key, value in vars(arguments).items()}}
    lab = open_backend(find(LabModel(name_or_path=str(folder / "model")), "float32"), arguments.batch_size, 1)
    answers: dict[str, dict[str, str]] = {}

    def ours() -> None:
        said = [one for batch in lab.answer(asks, how) for one in batch]
        answers["lab"] = {one.id: one.text for one in said}
        figures["tokens of an answer"] = spread([one.tokens for one in said])

    def loop() -> None:
        if not arguments.ends:
            answers["loop"] = plain(lab, asks, arguments.batch_size, arguments.tokens)
            return
        with mock.patch("stages.models.finished_rows.LiveRows.drop_finished", lambda self, unfinished, kwargs: kwargs):
            answers["loop"] = {said.id: said.text for batch in lab.answer(asks, how) for said in batch}

    # Warm.
    list(lab.answer(asks[: arguments.batch_size], how))
    rates, seconds = take_turns({"lab": ours, "loop": loop}, len(asks), arguments.rounds)
    equal = sum(answers["lab"][ask.id] == answers["loop"][ask.id] for ask in asks)
    figures |= {name: spread(values) for name, values in rates.items()}
    figures["lab / loop"] = spread([a / b for a, b in zip(rates["lab"], rates["loop"], strict=True)])
    figures |= {f"{name}, CPU seconds a row": spread(values) for name, values in seconds.items()}
    figures["loop / lab, CPU seconds"] = spread([b / a for a, b in zip(seconds["lab"], seconds["loop"], strict=True)])
    figures["equal answers"] = f"{equal} of {len(asks)}"
    if arguments.lmms_eval:
        half = open_backend(find(LabModel(name_or_path=str(folder / "model")), "bfloat16"), arguments.batch_size, 1)
        mine, theirs = [], []
        for _ in range(arguments.rounds):
            mine += take_turns({"lab": lambda: list(half.answer(asks, how))}, len(asks), 1)[0]["lab"]
            theirs.append(lmms_eval(folder, asks, arguments))
            print(f"lmms-eval: {theirs[-1]:.2f} rows/s", file=sys.stderr, flush=True)
        figures |= {"lab, bfloat16": spread(mine), "lmms-eval, bfloat16": spread(theirs)}
        figures["lab / lmms-eval"] = spread([a / b for a, b in zip(mine, theirs, strict=True)])
    return figures


def write_rows(folder: Path, count: int, pixels: int) -> list[Any]:
    """Questions of 5 to 60 words, each about a JPEG of one of four shapes."""
    from PIL import Image

    from stages.evaluation.backends.base import GenerationRequest

    draw = random.Random(0)
    shapes = [(pixels, pixels), (pixels, pixels // 2), (pixels // 2, pixels), (pixels, 3 * pixels // 4)]
    asks = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        width, height = shapes[number % len(shapes)]
        coarse = Image.effect_noise((width // 16, height // 16), 90).convert("RGB")
        coarse.resize((width, height)).save(path, quality=90)
        text = f"Question {number}: " + " ".join(draw.choices(_WORDS, k=draw.randint(5, 60)))
        asks.append(GenerationRequest(str(number), text, (path,), seed=number))
    return asks


def write_model(folder: Path, family: str, size: str | None, ends: float) -> None:
    """A random VLM.

    Args:
        size: of `SIZES`; None for the tiniest.
        ends: share of its vocabulary that ends an answer.
    """
    from pipeline.config.schema import TinyConfig
    from stages.models.tiny import build_tiny

    sizes = SIZES[size]["tiny"] if size else {}
    tiny = TinyConfig(family=family, max_positions=4096, **sizes)
    build_tiny(folder, tiny, [" ".join(_WORDS)] * 20, 0)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    settings.pop("eos_token_id", None)
    if ends:
        settings["eos_token_id"] = random.Random(0).sample(range(tiny.vocab_size), round(tiny.vocab_size * ends))
    path.write_text(json.dumps(settings))
    # As their users limit them; the tiny ones would else see 4 tokens.
    if family.startswith("qwen"):
        file = folder / "processor_config.json"
        processor = json.loads(file.read_text())
        processor["image_processor"]["size"] = {"shortest_edge": _LEAST, "longest_edge": _MOST}
        file.write_text(json.dumps(processor))


def plain(lab: Any, asks: Sequence[Any], batch_size: int, tokens: int) -> dict[str, str]:
    """The batch loop one would write: open, process, generate, decode."""
    import torch
    from PIL import Image

    processor, model = lab.processor, lab.model
    answers: dict[str, str] = {}
    for start in range(0, len(asks), batch_size):
        batch = asks[start : start + batch_size]
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ask.text}]}] for ask in batch
        ]
        texts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
        images = [[Image.open(ask.images[0]).convert("RGB")] for ask in batch]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(model.device)
        image_token = model.config.image_token_id
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, suppress_tokens=[image_token])
        new = made[:, inputs["input_ids"].shape[1] :]
        answers |= {
            ask.id: text for ask, text in zip(batch, processor.batch_decode(new, skip_special_tokens=True), strict=True)
        }
    return answers


def lmms_eval(folder: Path, asks: Sequence[Any], arguments: argparse.Namespace) -> float:
    """Rows per second of lmms-eval on the same rows, as a task of its own that reads them from a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    task = folder / "lmms"
    task.mkdir(exist_ok=True)
    rows = [
        {"question": ask.text, "answer": "a", "image": {"bytes": ask.images[0].read_bytes(), "path": None}}
        for ask in asks
    ]
    pq.write_table(pa.Table.from_pylist(rows), task / "rows.parquet")
    (task / "bench.yaml").write_text(_TASK.format(rows=task / "rows.parquet", tokens=arguments.tokens))
    (task / "utils.py").write_text(_UTILS)
    driver = task / "drive.py"
    driver.write_text(_DRIVER)
    # Its Qwen adapters have limits of their own for a picture's pixels, far above the checkpoint's, unless they are told.
    limits = f",min_pixels={_LEAST},max_pixels={_MOST}" if arguments.family.startswith("qwen") else ""
    words = [str(task), arguments.family, str(folder / "model"), str(arguments.batch_size), limits]
    done = subprocess.run([arguments.lmms_eval, str(driver), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"lmms-eval ended with {done.returncode}:\n{done.stderr[-3000:]}")
    seconds, answered = json.loads(done.stdout.splitlines()[-1])
    assert answered == len(asks), f"lmms-eval answered {answered} of {len(asks)} rows"
    return len(asks) / seconds


_TASK = """
task: bench
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.results
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false}}
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 0}}
"""
_UTILS = """
import io
from PIL import Image


def visual(doc):
    image = doc["image"]
    if isinstance(image, dict):
        image = Image.open(io.BytesIO(image["bytes"]))
    return [image.convert("RGB")]


def text(doc, kwargs=None):
    return doc["question"]


def results(doc, answers):
    return {"right": float(answers[0] == doc["answer"])}
"""
_DRIVER = """
import json, sys, time
import torch
if not torch.version.cuda:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
folder, family, model, batch, limits = sys.argv[1:]
from lmms_eval import evaluator, models
from lmms_eval.tasks import TaskManager
kind = models.get_model(family)
inner, spent = kind.generate_until, []
def timed(self, requests):
    began = time.monotonic()
    answers = inner(self, requests)
    spent.append((time.monotonic() - began, len(answers)))
    return answers
kind.generate_until = timed
device = "cuda" if torch.cuda.is_available() else "cpu"
evaluator.simple_evaluate(
    model=family, model_args=f"pretrained={model},device_map={device}{limits}", tasks=["bench"],
    batch_size=batch, device=device, task_manager=TaskManager(include_path=folder, include_defaults=False),
)
print()
print(json.dumps(spent[0]))
"""


def take_turns(
    contestants: dict[str, Callable[[], Any]], rows: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rows per second, and CPU seconds a row, of each in every round; who goes first changes."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            began, busy = time.monotonic(), time.process_time()
            contestants[name]()
            rates[name].append(rows / (time.monotonic() - began))
            seconds[name].append((time.process_time() - busy) / rows)
            print(f"{name}: {rates[name][-1]:.2f} rows/s", file=sys.stderr, flush=True)
    return rates, seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": round(statistics.median(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}


if __name__ == "__main__":
    sys.exit(main())
