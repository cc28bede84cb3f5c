"""A virtual environment for each rival, with the versions of its lock file; made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_LOCKS = Path(__file__).parent
_CPU_TORCH = "https://download.pytorch.org/whl/cpu"


def environment(cache: Path, name: str) -> Path:
    """The `bin` folder of the environment of a lock file; made under `cache` when it is not there yet.

    Raises:
        subprocess.CalledProcessError: when a package cannot be installed.
    """
    lock = _LOCKS / f"{name}.lock"
    folder = cache / name
    made = folder / "installed.lock"
    if made.exists() and made.read_text() == pins(lock):
        return folder / "bin"
    print(f"making {folder} from {lock.name}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    # The lock holds every package, so nothing is left to resolve and no CUDA package can come along.
    find = os.environ.get("PIP_FIND_LINKS")
    source = ["--find-links", find] if find else ["--extra-index-url", _CPU_TORCH]
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv:
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
        install = [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
        install += [] if find else ["--index-strategy", "unsafe-best-match"]
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*install, *source, "--no-deps", "-r", lock], check=True)
    made.write_text(pins(lock))
    return folder / "bin"


def pins(lock: Path) -> str:
    """The lines of a lock file, with those of the locks it names by ``-r`` in their place."""
    lines = lock.read_text().splitlines(keepends=True)
    return "".join(pins(lock.parent / line[3:].strip()) if line.startswith("-r ") else line for line in lines)


def version(name: str, lock: str | None = None) -> str:
    """The version of a package that a lock names; of a rival, that its own does."""
    lock = lock or name
    for line in pins(_LOCKS / f"{lock}.lock").splitlines():
        package, _, number = line.partition("==")
        if package == name:
            return number
    raise ValueError(f"{lock}.lock does not name {name}")
