"""Where models and processors are loaded, in one place: device, precision, adapters, and the parts that stay fixed."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_MAPPING, AutoConfig, AutoModelForImageTextToText, AutoProcessor

from pipeline.config.derived import tunes_prompt
from pipeline.config.families import PART_PREFIXES, part_of
from pipeline.config.special_tokens import soft_prompt_token
from pipeline.config.trainer_options import DEFAULT_PEFT_TYPE
from pipeline.errors import UserError
from pipeline.system.hardware import driver_version, visible_gpus
from stages.processes.work import Work


def use_cpu() -> bool:
    """Check whether stages run on the CPU of this machine.

    Raises:
        UserError: when there are GPUs that torch cannot use, naming its CUDA and the driver; a run would take weeks on the CPU.
    """
    if torch.cuda.is_available():
        return False
    if gpus := visible_gpus():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build without CUDA"
        cure = (
            "update the driver (CUDA 13 needs 580 or newer)" if torch.version.cuda else "run ./launch/install.sh again"
        )
        raise UserError(
            f"nvidia-smi lists {gpus} GPU{'s' * (gpus > 1)} with driver {driver_version()}, which torch {torch.__version__} "
            f"cannot use: it {built}; {cure}, or set CUDA_VISIBLE_DEVICES= (empty) to use the CPU"
        )
    return True


def compute_dtype(config: Any) -> str:
    """Return bfloat16 or float32, as model.dtype resolves on this machine. Weights are float32 masters either way.

    A GPU that only emulates bfloat16 (before compute capability 8.0: T4, V100, RTX 20xx) is given float32.
    """
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if not use_cpu() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def emulates_bfloat16() -> bool:
    """Check whether this machine's GPU has no bfloat16 of its own."""
    return not use_cpu() and not torch.cuda.is_bf16_supported(including_emulation=False)


def load_model(
    folder: Path,
    config: Any,
    dtype: str,
    local_rank: int = 0,
    *,
    quantization: str | None = None,
    auto_class: Any = AutoModelForImageTextToText,
) -> tuple[Any, list[str]]:
    """Return a checkpoint as plain transformers load it, for inference.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
        dtype: of the weights in memory.
        local_rank: the GPU to use, where there is one.
        quantization: 8bit or 4bit (NF4) for the language model's weights.
        auto_class: what reads it; a model of text alone needs AutoModelForCausalLM.

    Returns:
        The model on its device, and what was amiss, as ``missing keys: a, b``: such weights would be random.
    """
    device = torch.device("cpu")
    if not use_cpu():
        device = torch.device("cuda", local_rank)
        # Else every process would open a context on the first GPU too.
        torch.cuda.set_device(device)
    # Quantized weights are made on the device they stay on.
    more = {"quantization_config": bitsandbytes(quantization, dtype), "device_map": device} if quantization else {}
    model, info = auto_class.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation=attention(folder, config),
        trust_remote_code=config.model.trust_remote_code,
        output_loading_info=True,
        **more,
    )
    amiss = {kind.replace("_", " "): sorted(map(str, keys)) for kind, keys in sorted(info.items()) if keys}
    problems = [
        f"{kind}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' * (len(keys) > 3)}" for kind, keys in amiss.items()
    ]
    return (model if quantization else model.to(device)).eval(), problems


def attention(folder: Path, config: Any) -> str | dict[str, str]:
    """Return what from_pretrained takes as `attn_implementation`: `model.attn_implementation`.

    A tower that does not attend, as a ResNet, knows eager alone, and transformers would refuse the whole model. That part is
    given eager, and all others what was asked for.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
    """
    asked = config.model.attn_implementation
    parts = AutoConfig.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
    tower = MODEL_MAPPING.get(type(getattr(parts, "vision_config", None)), None)
    if asked == "eager" or tower is None:
        return asked
    knows = {"sdpa": tower._supports_sdpa, "flex_attention": tower._supports_flex_attn}
    if knows.get(asked, tower._supports_flash_attn):
        return asked
    return {"": asked, **dict.fromkeys(parts.sub_configs, asked), "vision_config": "eager"}


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Have transformers load whole weights in this process, also where ZeRO-3 has it share out what it loads."""
    from transformers.integrations import deepspeed

    shared_out = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        # The student's training may go on, or only begin.
        deepspeed._hf_deepspeed_config_weak_ref = shared_out


def load_processor(folder: Path, config: Any) -> Any:
    """Return the processor of a checkpoint, with the run's `model.processor` arguments. It pads on the left.

    Some checkpoints (Qwen2.5-VL, Qwen3-VL) pad on the right by default. GRPOTrainer lays prompts out from the left itself, but
    takes mm_token_type_ids as the processor pads them: in a batch of images of several shapes they would mark other tokens than
    the image's, and the log-probabilities that train would be those of other positions.

    Raises:
        UserError: when the processor needs a package that is not installed.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=config.model.trust_remote_code, **config.model.processor
        )
    except ImportError as error:
        # torchvision for processors that also read videos, num2words for SmolVLM2's.
        raise UserError(f"the processor in {folder} needs a package that is not installed: {error}") from error
    processor.tokenizer.padding_side = "left"
    # Older checkpoints have it with the tokenizer alone, where a processor does not look.
    if getattr(processor, "chat_template", None) is None:
        processor.chat_template = getattr(processor.tokenizer, "chat_template", None)
    return processor


def image_token_id(model: Any) -> int | None:
    """Return the token that stands for a piece of image."""
    return getattr(model.config, "image_token_id", None)


def plain(model: Any) -> Any:
    """Return the model within adapters of peft."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def peft_config(work: Work, tokenizer: Any) -> Any:
    """Return the configuration of the adapters that `model.peft` describes, or None when all weights train.

    Args:
        work: the stage.
        tokenizer: of the checkpoint that training starts from; it knows the tokens of a soft prompt.
    """
    if work.config.model.peft is None:
        return None
    from peft import TrainableTokensConfig, get_peft_config

    if tunes_prompt(work.config):
        return TrainableTokensConfig(token_indices=soft_prompt_ids(tokenizer))
    return get_peft_config({"peft_type": DEFAULT_PEFT_TYPE, **work.config.model.peft})


def soft_prompt_ids(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens of a checkpoint's soft prompt, in their order; none where it has none."""
    known = tokenizer.get_added_vocab()
    names = itertools.takewhile(known.__contains__, map(soft_prompt_token, itertools.count()))
    return [known[name] for name in names]


def quantization_config(work: Work) -> Any:
    """Return transformers.BitsAndBytesConfig of `model.quantization`, or None."""
    bits = work.config.model.quantization
    return bitsandbytes(bits, compute_dtype(work.config)) if bits else None


def bitsandbytes(bits: str, dtype: str) -> Any:
    """Return transformers.BitsAndBytesConfig of 8bit or 4bit (NF4). Vision tower, connector and head keep their precision."""
    from transformers import BitsAndBytesConfig

    kept = [rf".*\b{prefix}\b" for part in ("vision", "connector") for prefix in PART_PREFIXES[part]]
    return BitsAndBytesConfig(
        load_in_4bit=bits == "4bit",
        load_in_8bit=bits == "8bit",
        llm_int8_skip_modules=[*kept, "lm_head"],
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def prepare(trainer: Any, work: Work) -> None:
    """Prepare the trainer's model for training: hold parts fixed, keep trained weights in float32."""
    model = trainer.model
    freeze(model, work.stage.freeze)
    hold_fixed(model)
    hold_batch_norms(model)
    if not (trainer.args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
        end_backward_at_trained_weights(model)
    # TRL makes these adapters bf16, where small steps are rounded away.
    if work.config.model.quantization is not None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def freeze(model: torch.nn.Module, parts: list[str]) -> None:
    """Hold the named parts fixed.

    Raises:
        UserError: when a part has no parameter in this model, or nothing is left to train.
    """
    for part in parts:
        found = [parameter for name, parameter in model.named_parameters() if part_of(name) == part]
        if not found:
            raise UserError(
                f"freeze: this model has no part named {part} (looked for {', '.join(PART_PREFIXES[part])})"
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: {parts} leaves nothing to train")


def hold_fixed(model: Any) -> None:
    """Keep fixed adapters fixed: peft gives all of them their gradient back once the model without them, which is the reference
    of a KL divergence, has been asked.
    """
    if not hasattr(model, "disable_adapter"):
        return
    fixed = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    without = model.disable_adapter

    @contextlib.contextmanager
    def disable_adapter() -> Iterator[None]:
        try:
            with without():
                yield
        finally:
            for parameter in fixed:
                parameter.requires_grad_(False)

    model.disable_adapter = disable_adapter


def hold_batch_norms(model: torch.nn.Module) -> None:
    """Keep every batch norm in evaluation mode, whatever mode the model is put in, frozen or not: its weights may train.

    In training mode it would normalise by a batch's few pictures, other ones in rollouts than in training, and move its running
    statistics even where it is frozen: another tower than the one that answers afterwards.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = functools.partial(_in_evaluation, module)


def _in_evaluation(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return module


def end_backward_at_trained_weights(model: Any) -> None:
    """Let backward end where nothing before it trains, with gradient checkpointing too; the gradients are the same.

    Whenever transformers turns checkpointing on, it makes the outputs of all embeddings ask for gradients, the vision tower's
    too: a frozen tower would be recomputed and gone through backward for nothing. Only reentrant checkpointing needs it. TRL's
    GRPO trainer turns checkpointing off and on around each rollout, and every time the hooks would be one more.
    """
    base = plain(model)
    base.disable_input_require_grads()
    base.enable_input_require_grads = _nothing


def _nothing() -> None: ...


FIELDS = (
    "pixel_values",
    "pixel_attention_mask",
    "image_grid_thw",
    "image_sizes",
    "mm_token_type_ids",
    "token_type_ids",
)
"""What models take of it."""
