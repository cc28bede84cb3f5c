"""The rules of `launch.rollout_flags`: a wrong flag would end the first stage with a server, hours after the start."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.derived import gpus_per_engine, processes_per_node
from pipeline.config.families import SPREAD_OVER, flag_problems
from pipeline.config.schema import RunConfig
from pipeline.config.trainer_options import trainer_fields
from pipeline.system.vllm_server import unknown_flag

OWN_FLAGS = ("host", "port", "uds", "model", "served-model-name", "worker-extension-cls", "api-key")
"""Flags of a rollout server by which its stage reaches it."""


def rollout_flag_problems(config: RunConfig, gpus: int) -> Iterator[str]:
    """Yield every broken rule of the flags of a rollout server.

    Args:
        config: of the run.
        gpus: that are visible here.
    """
    wrong = set()
    for flag, value in config.launch.rollout_flags.items():
        name = str(flag).lstrip("-").replace("_", "-")
        if name in OWN_FLAGS:
            told = ["is set by the stage, which reaches its server by it; leave it out"]
        elif name == "data-parallel-size":
            told = [f"follows from the server's GPUs and {' and '.join(SPREAD_OVER)}; leave it out"]
        else:
            told = [one.partition(": ")[2] for one in flag_problems({flag: value})]
            if not told and (why := unknown_flag(name)):
                told = [why]
        yield from (f"launch.rollout_flags.{flag}: {one}" for one in told)
        wrong |= {name} if told else set()
    if not wrong.intersection(SPREAD_OVER):
        yield from _spread(config, gpus)
    yield from _lengths(config)


def _spread(config: RunConfig, gpus: int) -> Iterator[str]:
    """Engines that the server's GPUs are too few for, or are shared out to with some left."""
    launch = config.launch
    # Where no GPU is seen and none is kept, nobody knows how many there will be.
    own = launch.rollout_gpus or (processes_per_node(config) if gpus else 0)
    each = gpus_per_engine(config)
    if own > 0 and own % each:
        yield (
            f"launch.rollout_flags: {' * '.join(SPREAD_OVER)} is {each}, of which the server's {own} GPUs are no multiple; "
            f"lower them, or set launch.rollout_gpus to {each} or a multiple of it"
        )


def _lengths(config: RunConfig) -> Iterator[str]:
    """A context in which a stage's longest completions have no room."""
    most = config.launch.rollout_flags.get("max-model-len")
    default = trainer_fields("grpo")["max_completion_length"]
    for name, stage in config.all_stages.items():
        asked = stage.trainer.get("max_completion_length", default)
        if stage.rollouts == "vllm" and isinstance(most, int) and isinstance(asked, int) and 0 < most <= asked:
            yield (
                f"launch.rollout_flags.max-model-len: {most} holds no prompt beside the {asked} tokens of {name}'s "
                "max_completion_length; raise it, or leave it out"
            )
            return
