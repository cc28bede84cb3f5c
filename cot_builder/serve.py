"""Serve a teacher with vLLM: ``python -m cot_builder.serve configs/teachers/X.yaml [--dry-run] [vLLM flags …]``.

Replaces itself with the server; on a machine without an NVIDIA GPU it adds what vLLM's CPU build needs. Nothing of vLLM
is imported here. Words that are not listed below go to vLLM as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # Two threads on busy cores are many times slower.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_FLAGS: dict[str, object] = {
    "dtype": "float32",
    "enforce-eager": True,
    "kv-cache-memory-bytes": 268435456,
}
_GPU_ONLY = ("gpu-memory-utilization",)


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process with the server of a teacher; gives an exit code only when it cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m cot_builder.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("teacher", help="a file, or the bare name of one in configs/teachers/")
    parser.add_argument("--dry-run", "--print", action="store_true", help="show the command and stop")
    arguments, extra = parser.parse_known_args(argv)
    from cot_builder.teachers import OpenAIConfig, load_teacher
    from pipeline.errors import UserError
    from pipeline.hardware import visible_gpus
    from pipeline.processes import child_environment

    try:
        config = load_teacher(arguments.teacher)
        if not isinstance(config, OpenAIConfig):
            raise UserError(f"teacher {arguments.teacher} is of kind {config.kind!r} and needs no server")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    cpu = visible_gpus() == 0
    address = urlsplit(config.base_urls[0])
    # An address of this machine alone is not opened to the network: nothing but its own build asks there.
    host = "127.0.0.1" if address.hostname in ("localhost", "127.0.0.1") else None
    flags = {"revision": config.revision, "host": host, "port": address.port or 8000, **config.serve}
    command = serve_command(config.model, flags, extra, cpu=cpu)
    environment = child_environment()
    if cpu:
        environment = {**CPU_ENVIRONMENT, **environment, "PYTHONPATH": _python_path(environment["PYTHONPATH"])}
    if not arguments.dry_run:
        os.execve(command[0], command, environment)
    print(shlex.join(command))
    return 0


def serve_command(model: str, flags: Mapping[str, object], extra: Sequence[str], *, cpu: bool) -> list[str]:
    """The words of the server's command.

    Args:
        model: hub id or folder.
        flags: vLLM flags; True is a bare flag, a mapping or list is written as JSON.
        extra: words the user adds; they come last, so they win.
        cpu: whether vLLM runs on a CPU, where it needs other flags.
    """
    if cpu:
        flags = {**CPU_FLAGS, **{name: value for name, value in flags.items() if name not in _GPU_ONLY}}
    # Not the `vllm` command: it need not be on the PATH, and that of the CPU build does not start.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    for name, value in flags.items():
        if value is False or value is None:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return [*words, *extra]


def _python_path(path: str) -> str:
    """PYTHONPATH with the cure for torchvision on a CPU-only torch, which every process of the server needs."""
    return os.pathsep.join([str(Path(__file__).resolve().parent / "cpu_site"), path])


if __name__ == "__main__":
    sys.exit(main())
