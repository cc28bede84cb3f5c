"""Kernels that a token of a rollout by transformers starts, in a model that trains in bfloat16 without DeepSpeed.

    python -m benchmarks.rollout_kernels [--layers 30]

A random Idefics3 with so many layers (30 are SmolVLM-256M's) decodes two rows on a CPU under torch.profiler. Counted are
operations that start a kernel on a GPU, as many for a small model as for a large one of its shape; copies cast, or lay new
keys and values beside others. Told are a forward pass under accelerate's autocast, all of `generate` under one, and the weights
that a stage samples with (stages/rollouts/rollout_weights.py), full and with LoRA.
"""

from __future__ import annotations

import sys
import tempfile
import types
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import command_line

FREE = {
    *("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::as_strided", "aten::view", "aten::_unsafe_view"),
    *("aten::reshape", "aten::_reshape_alias", "aten::transpose", "aten::t", "aten::permute", "aten::expand"),
    *(
        "aten::slice",
        "aten::select",
        "aten::unsqueeze",
        "aten::squeeze",
        "aten::alias",
        "aten::detach",
        "aten::detach_",
    ),
    *("aten::resize_", "aten::split", "aten::chunk", "aten::narrow", "aten::unbind", "aten::lift_fresh", "aten::to"),
    *("aten::result_type", "aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::resolve_conj"),
    "aten::resolve_neg",
}
"""Operations that start no kernel on a GPU."""
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print the table."""
    parser = command_line.doc_parser("benchmarks.rollout_kernels", __doc__)
    parser.add_argument("--layers", type=int, default=30, help="of the language model")
    arguments = parser.parse_args(argv)
    from benchmarks.grpo_step import settle

    settle("cpu")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    from pipeline.config.schema import TinyConfig
    from stages.models.tiny import build_tiny
    from stages.rollouts.rollout_weights import rounded_weights

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = TinyConfig(layers=arguments.layers, hidden_size=64, intermediate_size=128, vision_layers=1)
        build_tiny(
            folder, sizes, ["Which emotion does this picture evoke? Give reasons, then the answer."] * 40, seed=0
        )
        inputs = question(folder)

        def load() -> Any:
            return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

        print("| weights | kernels a token | copies and casts among them |\n|---|---|---|")
        full = prepared(load())
        tell("float32, autocast around each forward pass", kernels(full, inputs))
        with torch.autocast("cpu", torch.bfloat16):
            tell("float32, one autocast around generate", kernels(full, inputs))
        with rounded_weights(full, torch.bfloat16):
            tell("rounded for the rollout", kernels(full, inputs))
        adapted = prepared(get_peft_model(load(), LoraConfig(r=4, target_modules=PROJECTIONS)).eval())
        tell("LoRA, float32 (generate goes round autocast)", kernels(adapted, inputs))
        with rounded_weights(adapted, torch.bfloat16):
            tell("LoRA, merged and rounded for the rollout", kernels(adapted, inputs))
    return 0


def tell(what: str, found: Counter[str]) -> None:
    """Print a line of the table."""
    print(f"| {what} | {found.total()} | {found['aten::copy_']} |", flush=True)


def question(folder: Path) -> dict[str, Any]:
    """Return two rows of one picture with a question, as tensors."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which emotion?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    return dict(processor(text=[text] * 2, images=[[image]] * 2, return_tensors="pt"))


def prepared(model: Any) -> Any:
    """Put accelerate's autocast around a model's forward pass, as `Accelerator.prepare` does."""
    import torch
    from accelerate.utils import convert_outputs_to_fp32

    model._original_forward = model.forward
    autocast = torch.autocast("cpu", torch.bfloat16)
    model.forward = types.MethodType(convert_outputs_to_fp32(autocast(model.forward.__func__)), model)
    return model


def generate(model: Any, inputs: dict[str, Any], tokens: int = 12, **how: Any) -> Any:
    """Return the tokens of rows with exactly `tokens` new ones, sampled with one seed."""
    import torch

    torch.manual_seed(7)
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **how}
    with torch.no_grad():
        return model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, **how)


def kernels(model: Any, inputs: dict[str, Any]) -> Counter[str]:
    """Count the kernels that a token starts, by operation: of 6 tokens, less those of 2, by 4."""
    import torch

    def count(tokens: int) -> Counter[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            generate(model, inputs, tokens)
        return Counter(
            event.name for event in seen.events() if _starts(event) and not any(map(_starts, event.cpu_children))
        )

    few, many = count(2), count(6)
    return Counter({name: round((many[name] - few[name]) / 4) for name in many})


def _starts(event: Any) -> bool:
    return event.name.startswith("aten::") and event.name not in FREE


if __name__ == "__main__":
    sys.exit(main())
