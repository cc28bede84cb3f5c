"""The rules of launch.deepspeed: which JSON it names, and what a stage needs of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipeline.config.derived import deepspeed_file
from pipeline.config.loader import CONFIGS
from pipeline.config.schema import RunConfig
from pipeline.errors import did_you_mean


def deepspeed_problems(config: RunConfig) -> Iterator[str]:
    """Yield every broken rule of launch.deepspeed."""
    if config.launch.deepspeed is None:
        return
    path = deepspeed_file(config)
    if path is None:
        names = {file.stem for file in (CONFIGS / "deepspeed").glob("*.json")}
        yield (
            f"launch.deepspeed: {config.launch.deepspeed!r} is neither a file nor one of configs/deepspeed; "
            f"{did_you_mean(config.launch.deepspeed, names)}"
        )
        return
    try:
        settings = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        yield f"launch.deepspeed: {path} is not JSON: {error}"
        return
    zero = settings.get("zero_optimization", {}) if isinstance(settings, dict) else None
    if not isinstance(zero, dict):
        yield f"launch.deepspeed: {path} must be a JSON object, and zero_optimization in it another"
        return
    stage = zero.get("stage", 0)
    if stage not in (1, 2, 3):
        yield (
            f"launch.deepspeed: {path} has ZeRO stage {stage!r}; it must be 1, 2 or 3: without ZeRO DeepSpeed may train rounded "
            "weights alone, and plain processes (launch.deepspeed=null) share as little"
        )
    if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        yield (
            f"launch.deepspeed: {path} has ZeRO stage 3 without stage3_gather_16bit_weights_on_model_save: true, so no "
            "safetensors would be handed over; add it"
        )
    for key, instead in (
        ("optimizer", "trainer.optim and trainer.learning_rate"),
        ("scheduler", "trainer.lr_scheduler_type"),
    ):
        if key in settings:
            yield f"launch.deepspeed: {path} has a block {key}, which would silently replace the stages' own; set {instead}"
    offloaded = stage in (1, 2) and "offload_param" in zero
    if offloaded:
        yield f"launch.deepspeed: {path} has offload_param with ZeRO stage {stage}, which ignores it; it needs stage 3"
