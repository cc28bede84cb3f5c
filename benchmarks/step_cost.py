"""What a GRPO step costs at least: its arithmetic and memory traffic on a device, by TRL's way and with shared prompts.

    python -m benchmarks.step_cost --size smolvlm-500m --device h200
    python -m benchmarks.step_cost --model FOLDER --tflops 120 --gigabytes-per-second 900 --points 8,350,128

For prompts with one picture each, G completions of a prompt, P tokens of the prompt with its picture, C of each completion: the
multiplications of weights and attention, forward, and backward at twice of it; each weight read once per new token, keys and
values once per token; AdamW's traffic. Elementwise operations, launches of kernels and Python are left out, so no device is as
fast as this says; the ratios are what to read. `benchmarks.grpo_step` measures how near to it a machine comes. Of a checkpoint
only config.json is read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.grpo_step import GRID, SIZES, configured, point
from pipeline import command_line

PARTS = ("score", "generate", "optimizer")
"""Log-probabilities with backward; prefill and decoding; AdamW."""


@dataclass(frozen=True)
class Device:
    """What a device can do at most."""

    flops: float
    """Floating-point operations a second, in the precision of training, without sparsity."""
    bandwidth: float
    """Bytes a second from its memory."""
    number: int = 2
    """Bytes of a number in that precision."""

    @classmethod
    def measured(cls, device: str) -> Device:
        """Of this machine, as a large multiplication and a large copy reach it: float32 on one CPU thread, bfloat16 on a GPU."""
        import torch

        from benchmarks.grpo_step import now

        dtype, side, copies = (torch.bfloat16, 8192, 2**30) if device == "cuda" else (torch.float32, 1024, 2**26)
        matrix = torch.randn(side, side, device=device).to(dtype)
        large = torch.zeros(copies, dtype=torch.uint8, device=device)
        other = torch.empty_like(large)

        def fastest(work: Any) -> float:
            times = []
            for _ in range(6):
                begun = now()
                work()
                times.append(now() - begun)
            return min(times)

        multiplied = fastest(lambda: torch.mm(matrix, matrix))
        copied = fastest(lambda: other.copy_(large))
        return cls(2 * side**3 / multiplied, 2 * copies / copied, dtype.itemsize)


DEVICES = {
    "a100": Device(312e12, 2.04e12),
    "h100": Device(989e12, 3.35e12),
    "h200": Device(989e12, 4.8e12),
    "l40s": Device(362e12, 0.864e12),
    "rtx4090": Device(165e12, 1.01e12),
}
"""Makers' figures: dense bfloat16, SXM modules."""


@dataclass(frozen=True)
class Model:
    """What a step's cost depends on."""

    vision: int
    """Weights that multiply a picture's patch. Those behind the vision tower multiply a token's patches at once, so in part."""
    text: int
    """Weights of the language model's layers."""
    head: int
    patches: int
    """Of a picture, as many as the vision tower attends over at once."""
    vision_attention: int
    """Layers times width."""
    text_attention: int
    cached: int
    """Numbers that the keys and values of one token are."""
    trained: int
    """All weights."""

    @classmethod
    def of(cls, config: Any, patches: int = 1024) -> Model:
        """From a model's configuration; nothing is allocated."""
        import torch
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        text, vision = config.get_text_config(), config.vision_config
        # Patches of a token: of Idefics3, Qwen-VL, InternVL.
        merged = (
            getattr(config, "scale_factor", 1)
            * getattr(vision, "spatial_merge_size", 1)
            / getattr(config, "downsample_ratio", 1)
        ) ** 2
        decoder, head = model.get_decoder(), model.get_output_embeddings().weight.numel()
        of_text = set(decoder.modules())
        behind = re.compile(r"connector|projector|merger")
        seen = [(name, _multiplied(one)) for name, one in model.model.named_modules() if one not in of_text]
        depth = getattr(vision, "num_hidden_layers", None) or vision.depth
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            vision=round(sum(count / (merged if behind.search(name) else 1) for name, count in seen)),
            text=sum(_multiplied(one) for one in of_text),
            head=head,
            patches=patches,
            vision_attention=depth * vision.hidden_size,
            text_attention=text.num_hidden_layers * width * text.num_attention_heads,
            cached=2 * text.num_hidden_layers * width * text.num_key_value_heads,
            trained=sum(one.numel() for one in model.parameters()),
        )


def _multiplied(module: Any) -> int:
    """Weights of a layer that multiplies, not of those within it."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    return module.weight.numel() if isinstance(module, kinds) else 0


def least(
    model: Model, where: tuple[int, int, int], device: Device, shared: bool, checkpointing: bool = False, asked: int = 1
) -> dict[str, float]:
    """Seconds that the parts of a step take at least.

    Args:
        where: G, P, C.
        device: float32 on a CPU, bfloat16 with float32 weights and moments on a GPU.
        shared: one prompt per group, else one per completion.
        checkpointing: layers are computed once more in the backward pass.
        asked: prompts of a step and of its rollout, all decoded at once.
    """
    group, prompt, completion = where
    group *= asked
    prompts = asked if shared else group
    picture = 2 * model.vision * model.patches + 4 * model.vision_attention * model.patches**2
    # Causal attention looks at half of the square; a completion at all of the prompt and half of itself.
    reading = picture + 2 * model.text * prompt + 2 * model.text_attention * prompt**2
    writing = 2 * (model.text + model.head) * completion + 4 * model.text_attention * completion * (
        prompt + completion / 2
    )
    forward = prompts * reading + group * writing
    kept = model.cached * group * (prompt + completion / 2)
    token = max(
        device.number * (model.text + model.head + kept) / device.bandwidth, group * writing / completion / device.flops
    )
    # Reads weight, gradient and two moments, writes all but the gradient; float32.
    updated = 28 * model.trained
    return {
        "score": (4 if checkpointing else 3) * forward / device.flops,
        "generate": prompts * reading / device.flops + completion * token,
        "optimizer": updated / device.bandwidth,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = command_line.doc_parser("benchmarks.step_cost", __doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=SIZES, help="a random model of benchmarks.grpo_step")
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a checkpoint's folder")
    parser.add_argument("--patches", type=int, default=1024, help="of a picture (default: 1024)")
    parser.add_argument("--prompts", type=int, default=1, help="of a step and process, decoded at once (default: 1)")
    parser.add_argument("--points", nargs="*", type=point, default=GRID, help="G,P,C (default: the grid of 27)")
    parser.add_argument("--device", choices=DEVICES, default="h200")
    parser.add_argument("--tflops", type=float, help="of another device, dense")
    parser.add_argument("--gigabytes-per-second", type=float)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.model and not (arguments.model / "config.json").is_file():
        parser.error(f"--model {arguments.model}: there is no config.json in it; name the folder of a checkpoint")
    known = DEVICES[arguments.device]
    device = Device(
        arguments.tflops * 1e12 if arguments.tflops else known.flops,
        arguments.gigabytes_per_second * 1e9 if arguments.gigabytes_per_second else known.bandwidth,
    )
    model = Model.of(_config(arguments), arguments.patches)
    print("| G,P,C | log-probs + backward, ms | generation, ms | step, ms |\n|---|---|---|---|")
    for where in arguments.points:
        theirs, ours = (
            least(model, where, device, shared, arguments.gradient_checkpointing, arguments.prompts)
            for shared in (False, True)
        )
        pairs = [(theirs[part], ours[part]) for part in PARTS[:2]] + [(sum(theirs.values()), sum(ours.values()))]
        cells = [f"{1e3 * one:.1f} / {1e3 * other:.1f} = **{one / other:.2f}**" for one, other in pairs]
        print(f"| {','.join(map(str, where))} | {' | '.join(cells)} |")
    return 0


def _config(arguments: argparse.Namespace) -> Any:
    if arguments.size:
        return configured(SIZES[arguments.size])[0]
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(arguments.model)


if __name__ == "__main__":
    sys.exit(main())
