"""The vLLM server of a stage's rollouts: its command, its GPUs, its life. Light: nothing here imports torch or vLLM."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.derived import gpus_per_engine, trainer_gpus
from pipeline.config.families import vllm_flags
from pipeline.config.schema import RunConfig
from pipeline.system.hardware import gpu_names
from pipeline.system.vllm_server import (
    free_port,
    serve_command,
    serve_environment,
    start_server,
    stop,
    wait_until_ready,
)
from stages.processes.work import Work

MODEL = "policy"
"""The name the server gives what it serves."""
SHARED_MEMORY = 0.3
"""Part of a GPU's memory for a server that shares it with the trainer."""


@contextlib.contextmanager
def running(work: Work, model: Path, images: int = 1) -> Iterator[str]:
    """Yield the address of a server of `model` that answers within the block and is gone after it.

    Args:
        work: the stage.
        model: the checkpoint's folder.
        images: most of a prompt.

    Raises:
        UserError: when it ends before it answers, or does not answer in time, with the last lines of its log.
    """
    gpus = server_gpus(work.config)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = work.folder / "logs" / "rollout-server.log"
    # One that the user set is for teachers' servers; the trainer sends none.
    more = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": ""}
    if gpus:
        more["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    process = start_server(
        serve_command(str(model), flags(work.config, model, gpus, port, images), (), cpu=not gpus),
        log,
        serve_environment(cpu=not gpus, **more),
    )
    try:
        wait_until_ready(process, address, log, "the rollout server")
        yield address
    finally:
        stop([process])


def flags(config: RunConfig, model: Path, gpus: tuple[str, ...], port: int, images: int = 1) -> dict[str, Any]:
    """Return vLLM's flags for prompts of at most so many images; `launch.rollout_flags` come last, so they win."""
    ours: dict[str, Any] = {
        "served-model-name": MODEL,
        "host": "127.0.0.1",
        "port": port,
        "dtype": config.model.dtype,
        "trust-remote-code": config.model.trust_remote_code,
        # vLLM keeps memory for as many.
        "limit-mm-per-prompt": {"image": images},
        # What fits: a model's own may be 262,144 positions, whose cache alone fills a card.
        "max-model-len": -1,
        # Else sampling settings of the model's own would be added to the stage's.
        "generation-config": "vllm",
        # At the temperature that was sampled at, as the trainer's are.
        "logprobs-mode": "processed_logprobs",
        "worker-extension-cls": "stages.rollouts.vllm_worker.PolicyWorker",
        "disable-uvicorn-access-log": True,
    }
    if gpus:
        engines = len(gpus) // gpus_per_engine(config)
        ours["data-parallel-size"] = engines if engines > 1 else None
        ours["gpu-memory-utilization"] = None if config.launch.rollout_gpus else SHARED_MEMORY
    elif config.model.dtype == "auto":
        # The CPU's own, which is the trainer's.
        del ours["dtype"]
    return vllm_flags(model, {**ours, **config.launch.rollout_flags})


def server_gpus(config: RunConfig) -> tuple[str, ...]:
    """Return the GPUs of the server, as CUDA_VISIBLE_DEVICES names them: the last `launch.rollout_gpus`, or all that
    the trainer has.
    """
    own = config.launch.rollout_gpus
    return tuple(gpu_names()[-own:] if own else trainer_gpus(config))
