"""What an entry of a stage's `reward_funcs` names, told without running it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SHIPPED = ("accuracy", "format")


def reward_function(name: str) -> tuple[str, str]:
    """Return (module, function) of an entry: a file of rewards/, or a dotted path."""
    module, _, function = name.rpartition(".")
    return (module, function) if module else (f"rewards.{name}", f"{name}_reward")


def reward_file(name: str) -> Path | None:
    """Return the file of the module in which a reward is; None where there is none."""
    try:
        spec = importlib.util.find_spec(reward_function(name)[0])
    except (ImportError, ValueError):
        # The packages around it are run, and names such as ".mine" belong to none.
        return None
    return Path(spec.origin) if spec and spec.origin else None
