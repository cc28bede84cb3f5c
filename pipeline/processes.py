"""Child processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, so that nothing trains on after `kill -9`.

    Only Linux has the call; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a child: ours, with this project importable from whatever folder the user stands in.

    The interpreter's own programs come first on the PATH: ninja, which DeepSpeed and vLLM compile with, is found there even
    when the virtual environment is not activated.
    """
    return {
        **os.environ,
        "PYTHONPATH": _before("PYTHONPATH", ROOT),
        "PATH": _before("PATH", Path(sys.executable).parent),
        **more,
    }


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get(variable)])])
