"""A GRPO step beside bare TRL's, with the same model, options and rows, in turns in one process.

    python -m benchmarks.grpo_step [--points 8,350,128 8,350,32] [--size small] [--device cuda] [--rounds 3] [--steps 4]

A point is G,P,C: completions of one prompt, tokens of the prompt with its image, tokens of each completion, which all have the
same length. Told are, as TRL's figure, ours, and their ratio: seconds of log-probabilities and backward, of generation, of whole
steps (image processing, reward and optimizer included); memory at its peak above the models and the optimizer; tokens a second.
Models are random. Seconds are medians over the rounds; on a CPU those of the process, with one thread.

The last columns hold them against benchmarks.step_cost: the ratios that arithmetic and memory traffic alone would make, and how
much of what this machine can do each part reaches (a large multiplication and a large copy, measured first, are 100 %).

With --vllm a second line of each point has ours with `rollouts: vllm`, by the clock on the wall, as another process samples: on a
CPU, where the other figures are of this process alone, only an idle machine makes them comparable.
"""

from __future__ import annotations

import argparse
import bisect
import ctypes
import functools
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import command_line

GRID = [(g, p, c) for g in (4, 8, 16) for p in (90, 350, 1100) for c in (32, 128, 256)]


def _size(
    family: str,
    picture: dict[str, int],
    language: tuple[int, int, int],
    tower: tuple[int, int],
    **heads: dict[str, int],
) -> dict[str, Any]:
    """A size: of a tiny family, its pictures, (width, layers, inner width) and (width, layers), and what else its parts have."""
    parts = ("hidden_size", "layers", "intermediate_size", "vision_hidden_size", "vision_layers")
    tiny = {**picture, **dict(zip(parts, (*language, *tower), strict=True))}
    return {"family": family, "tiny": tiny, "text": {}, "vision": {}, **heads}


# 1,024 patches become 64 tokens; of the others 256.
SMOLVLM = {"image_size": 512, "scale_factor": 4}
INTERNVL = {"image_size": 448, "patch_size": 14}
QWEN = {"image_size": 512}
SIZES = {
    "mini": _size("idefics3", SMOLVLM, (256, 6, 704), (128, 3)),
    "small": _size("idefics3", SMOLVLM, (512, 11, 1408), (384, 6)),
    "smolvlm-500m": _size(
        "idefics3", SMOLVLM, (960, 32, 2560), (768, 12),
        text={"num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280},
        vision={"num_attention_heads": 12},
    ),
    "internvl3-1b": _size(
        "internvl", INTERNVL, (896, 24, 4864), (1024, 24),
        text={"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151674},
        vision={"num_attention_heads": 16},
    ),
    "qwen3-vl-2b": _size(
        "qwen3_vl", QWEN, (2048, 28, 6144), (1024, 24),
        text={"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
        vision={"num_heads": 16},
    ),
}  # fmt: skip
"""Random models: `mini` has about 6 million weights, `small` 47, the others the sizes of the checkpoints they are named for."""

HEADER = [
    "G,P,C",
    "log-probs + backward, s",
    "generation, s",
    "step, s",
    "peak, MB",
    "tokens/s of a step",
    "limits' ratio: log-probs + backward, step",
    "% of the limit: log-probs + backward",
    "% of the limit: generation",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the points and print the table."""
    parser = command_line.doc_parser("benchmarks.grpo_step", __doc__)
    parser.add_argument("--points", nargs="*", type=point, default=GRID, help="G,P,C (default: the grid of 27)")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="whole steps; 0: none")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--vllm", action="store_true", help="a row more a point: completions from a vLLM server")
    arguments = parser.parse_args(argv)
    settle(arguments.device)
    from benchmarks.step_cost import Device, Model, least

    device, model = Device.measured(arguments.device), Model.of(configured(SIZES[arguments.size])[0])
    print(
        f"{device.flops / 1e9:,.0f} GFLOP/s, {device.bandwidth / 1e9:,.0f} GB/s; {model.trained / 1e6:,.0f} million weights\n"
    )
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    for where in arguments.points:
        limits = [least(model, where, device, shared, arguments.gradient_checkpointing) for shared in (False, True)]
        with tempfile.TemporaryDirectory() as scratch:
            figures = measured(where, Path(scratch), arguments)
            print(row(where, figures, limits), flush=True)
            if arguments.vllm:
                print(served_row(where, figures[0], served(where, Path(scratch), arguments)), flush=True)
    return 0


def settle(device: str) -> None:
    """Let torch, before it is imported, see that device alone, the first of several GPUs, and one thread of a CPU."""
    from pipeline.system.hardware import gpu_names

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else ",".join(gpu_names()[:1])


def point(word: str) -> tuple[int, int, int]:
    """G,P,C as it is written on the command line."""
    group, prompt, completion = map(int, word.split(","))
    return group, prompt, completion


def row(where: tuple[int, int, int], figures: list[dict[str, float]], limits: list[dict[str, float]]) -> str:
    """A line of the table; `figures` and `limits` are TRL's and ours."""
    theirs, ours = figures
    cells = []
    for key in ("score", "generate", "step", "peak"):
        if key in theirs:
            places = 0 if key == "peak" else 2
            cells.append(
                f"{theirs[key]:.{places}f} / {ours[key]:.{places}f} = **{theirs[key] / max(ours[key], 1e-9):.2f}**"
            )
        else:
            cells.append("")
    group, _, completion = where
    cells.append(" / ".join(f"{group * completion / one['step']:.0f}" for one in figures) if "step" in theirs else "")
    expected = [limits[0]["score"] / limits[1]["score"], sum(limits[0].values()) / sum(limits[1].values())]
    cells.append(", ".join(f"{one:.2f}" for one in expected))
    for key in ("score", "generate"):
        reached = [100 * limit[key] / figure[key] for limit, figure in zip(limits, figures, strict=True)]
        cells.append(" / ".join(f"{one:.0f}" for one in reached))
    return f"| {','.join(map(str, where))} | {' | '.join(cells)} |"


def served_row(where: tuple[int, int, int], theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Return the line of ours with completions from a server, beside TRL's of the line above."""
    cells = [""]
    for key in ("generate", "step"):
        known = key in theirs and key in ours
        cells.append(f"{theirs[key]:.2f} / {ours[key]:.2f} = **{theirs[key] / ours[key]:.2f}**" if known else "")
    tokens = f"{where[0] * where[2] / ours['step']:.0f}" if "step" in ours else ""
    return f"| {','.join(map(str, where))}, `rollouts: vllm` | {' | '.join([*cells, '', tokens, '', '', ''])} |"


def served(where: tuple[int, int, int], scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure ours with completions from a vLLM server: seconds by the clock, as another process samples.

    Returns:
        `generate`: a rollout; `step`: a whole step, the server's new weights included.
    """
    import torch

    from stages.rollouts.vllm_rollouts import policy_server
    from stages.training.grpo_trainer import PolicyTrainer

    folder = scratch / "model"
    trainer = made(PolicyTrainer, folder, scratch, where, arguments, rollouts="vllm")
    torch.manual_seed(0)
    rows = [trainer.train_dataset[0]] * where[0]
    times: dict[str, list[float]] = {"generate": [], "step": []}
    with policy_server(trainer, trainer.work, folder):
        trainer.model.train()
        for _ in range(arguments.rounds + 1):
            began = time.monotonic()
            generate(trainer, rows)
            times["generate"].append(time.monotonic() - began)
        # The first has the server's warm-up in it.
        del times["generate"][0]
        if arguments.steps:
            times["step"] = steps(trainer, time.monotonic)
    return {name: statistics.median(values) for name, values in times.items() if values}


def measured(where: tuple[int, int, int], scratch: Path, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """The figures of TRL and ours at a point."""

    import torch
    from trl import GRPOTrainer

    from stages.training.grpo_trainer import PolicyTrainer

    folder = build(SIZES[arguments.size], scratch)
    both = [made(cls, folder, scratch, where, arguments) for cls in (GRPOTrainer, PolicyTrainer)]
    assert both[1].sharing
    figures: list[dict[str, list[float]]] = [{}, {}]
    rows = [both[0].train_dataset[0]] * where[0]
    batches = []
    for trainer in both:
        torch.manual_seed(0)
        trainer.model.train()
        if arguments.gradient_checkpointing:
            # As its train() does.
            trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        # So does autocast around it.
        trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
        batches.append(trainer._prepare_inputs(rows))
        # Warm, and our comparison with TRL behind us.
        score(trainer, batches[-1])
    for _ in range(arguments.rounds):
        for trainer, batch, found in zip(both, batches, figures, strict=True):
            scored = functools.partial(add, found.setdefault("score", []), functools.partial(score, trainer, batch))
            found.setdefault("peak", []).append(peak(scored))
            add(found.setdefault("generate", []), functools.partial(generate, trainer, rows))
    if arguments.steps:
        for trainer, found in zip(both, figures, strict=True):
            trainer._buffered_inputs, trainer._step = None, 0
            unprepare(trainer)
            found["step"] = steps(trainer)
    return [{name: statistics.median(values) for name, values in found.items()} for found in figures]


def unprepare(trainer: Any) -> None:
    """Take accelerate's autocast off a trainer's model again: its `train` prepares it anew."""
    if (forward := vars(trainer.model).pop("_original_forward", None)) is not None:
        trainer.model.forward = forward
    trainer.accelerator._models.clear()
    trainer.model_wrapped = trainer.model


def configured(size: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(configuration, processor, generation config) of a size."""
    import importlib

    from pipeline.config.schema import TinyConfig

    side = TinyConfig(family=size["family"], vocab_size=400, max_positions=4096, **size["tiny"])
    texts = ["a b c d e f g h i j k l m n o p"] * 20
    config, processor, generation = importlib.import_module(f"stages.models.tiny.{size['family']}").build(side, texts)
    for part, fields in ((config.text_config, size["text"]), (config.vision_config, size["vision"])):
        for name, value in fields.items():
            setattr(part, name, value)
    return config, processor, generation


def build(size: dict[str, Any], scratch: Path) -> Path:
    """The checkpoint of a size, in a folder."""
    import torch
    from transformers import AutoModelForImageTextToText

    config, processor, generation = configured(size)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config = generation
    model.save_pretrained(scratch / "model")
    processor.save_pretrained(scratch / "model")
    return scratch / "model"


def made(
    cls: type,
    folder: Path,
    scratch: Path,
    where: tuple[int, int, int],
    arguments: argparse.Namespace,
    rollouts: str = "transformers",
) -> Any:
    """Make a trainer of either class; `rollouts` is what ours samples with."""
    from datasets import Dataset
    from PIL import Image
    from trl import GRPOConfig

    from pipeline.config.schema import RunConfig, StageConfig
    from pipeline.data.conversations import user_turn
    from pipeline.run_dir import RunDir
    from stages.models.loading import load_processor
    from stages.processes.work import Work
    from stages.training.grpo_trainer import PolicyTrainer

    group, prompt, completion = where
    stage = StageConfig(algorithm="grpo", init_from="base", rollouts=rollouts)
    config = RunConfig(name="measured", output_dir=str(scratch), stages={"stage1_grpo": stage})
    work = Work(config, "stage1_grpo", RunDir(scratch, config.name))
    work.folder.mkdir(parents=True, exist_ok=True)
    processor = load_processor(folder, config)
    image = Image.effect_noise((512, 512), 80).convert("RGB")

    def tokens(words: int) -> int:
        turn = processor.apply_chat_template(user_turn("a " * words), add_generation_prompt=True)
        return len(processor(text=[turn], images=[[image]])["input_ids"][0])

    # As near to it from above as whole words come.
    words = bisect.bisect_left(range(prompt), prompt, key=tokens)
    options = GRPOConfig(
        output_dir=str(scratch / cls.__name__),
        use_cpu=arguments.device == "cpu",
        bf16=arguments.device == "cuda",
        report_to="none",
        num_generations=group,
        per_device_train_batch_size=group,
        max_completion_length=completion,
        generation_kwargs={"min_new_tokens": completion},
        max_steps=max(1, arguments.steps),
        learning_rate=1e-6,
        gradient_checkpointing=arguments.gradient_checkpointing,
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    rows = Dataset.from_list([{"text": "a " * words}] * 64).with_transform(
        lambda batch: {"prompt": [user_turn(one) for one in batch["text"]], "images": [[image]] * len(batch["text"])}
    )
    how = {
        "model": str(folder),
        "reward_funcs": lambda completions, **_: [float(number % 2) for number in range(len(completions))],
        "args": options,
        "train_dataset": rows,
        "processing_class": processor,
    }
    how["reward_funcs"].__name__ = "reward"
    return cls(work, **how) if cls is PolicyTrainer else cls(**how)


def score(trainer: Any, batch: dict[str, Any]) -> None:
    """Loss and backward of a batch: the log-probabilities are all of it that takes time."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    with trainer.accelerator.autocast():
        trainer.accelerator.backward(trainer.compute_loss(trainer.model, batch))


def generate(trainer: Any, rows: list[Any]) -> None:
    """Completions of one prompt."""
    from stages.rollouts.pending import prompts_of

    prompts = prompts_of(rows)
    if trainer.rollout_func is not None:
        trainer.rollout_func(prompts, trainer)
    else:
        trainer._generate_single_turn(*trainer._tokenize_prompts(prompts), len(rows))


def steps(trainer: Any, clock: Callable[[], float] | None = None) -> list[float]:
    """Return seconds of each step of a training, from its rollout to its update."""
    from transformers import PrinterCallback, TrainerCallback

    times: list[float] = []
    read = clock or now

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-read())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times[-1] += read()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    return times


def now() -> float:
    """Seconds; on a CPU of this process alone: other load on the machine would be measured too."""
    import torch

    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def add(seconds: list[float], work: Callable[[], None]) -> None:
    """Do the work, and add the time it took."""
    begun = now()
    work()
    seconds.append(now() - begun)


def peak(work: Callable[[], Any]) -> float:
    """Most memory above what there was before, in MB: of the GPU, or resident of this process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    gc.collect()
    # Else what was freed before would count as resident already.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1e3


def _resident(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(what)).split()[1])


if __name__ == "__main__":
    sys.exit(main())
