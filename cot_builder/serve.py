"""Serve a teacher with vLLM: ``python -m cot_builder.serve configs/teachers/X.yaml [--port N] [--dry-run] [vLLM flags …]``.

Replaces itself with the server; on a machine without an NVIDIA GPU it adds what vLLM's CPU build needs. Nothing of vLLM
is imported here. Words that are not listed below go to vLLM as they are. `serve:` of the teacher's file holds flags too, such as
``data-parallel-size: 8`` for eight replicas behind one address; what changes its replies, as ``dtype``, stands there alone.
A server takes the first visible GPU, or as many as its flags ask for: CUDA_VISIBLE_DEVICES=1 gives a second teacher another one.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline import command_line
from pipeline.errors import UserError
from pipeline.files import is_path
from pipeline.system.vllm_server import open_url, serve_command, serve_environment, unknown_flag

if TYPE_CHECKING:
    from cot_builder.teachers.config import OpenAIConfig

log = logging.getLogger("cot_builder.serve")

DEFAULT_PORT = 8000
LOCAL = ("localhost", "127.0.0.1")
"""Names of this machine in a teacher's base_urls."""


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process with the server of a teacher; gives an exit code only when it cannot."""
    parser = command_line.doc_parser("cot_builder.serve", __doc__, allow_abbrev=False)
    parser.add_argument("teacher", help="a file, or the bare name of one in configs/teachers/")
    parser.add_argument("--port", type=int, help="where to listen (default: the port of the teacher's first address)")
    parser.add_argument("--dry-run", "--print", action="store_true", help="show the command and stop")
    arguments, extra = command_line.parse_known(parser, argv)
    try:
        return _serve(arguments.teacher, arguments.port, extra, dry_run=arguments.dry_run)
    except UserError as error:
        log.error(error)
    except ModuleNotFoundError as error:
        log.error(not_installed(error))
    return 2


def _serve(teacher: str, port: int | None, extra: Sequence[str], *, dry_run: bool) -> int:
    from pipeline.config.families import vllm_flags
    from pipeline.system.hardware import visible_gpus

    config = load_served(teacher)
    check_flags(teacher, config)
    check_words(extra)
    port = port or port_of(config)
    cpu = visible_gpus() == 0
    # An address of this machine alone is not opened to the network: nothing but its own build asks there.
    host = "127.0.0.1" if urlsplit(config.base_urls[0]).hostname in LOCAL else None
    flags = vllm_flags(Path(config.model), {"revision": config.revision, "host": host, **config.serve, "port": port})
    command = serve_command(config.model, flags, extra, cpu=cpu)
    if not dry_run:
        check_model(config.model)
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"vllm is not installed for {sys.executable}: ./launch/install.sh --vllm installs it")
        # Such a server answers on no port of its own.
        if "--headless" not in command:
            check_port(port)
        os.execve(command[0], command, serve_environment(cpu=cpu))
    print(shlex.join(command))
    return 0


def not_installed(error: ModuleNotFoundError) -> str:
    """Return what to tell a user whose Python is not that of the project's environment."""
    return (
        f"{sys.executable} has no module {error.name}: activate the environment that ./launch/install.sh --vllm makes, or use "
        "the scripts of launch/, which find it"
    )


def load_served(teacher: str) -> OpenAIConfig:
    """Return the configuration of a teacher that has a server.

    Raises:
        UserError: when there is none, it is wrong, or the teacher works without a server.
    """
    from cot_builder.teachers.config import OpenAIConfig, load_teacher

    config = load_teacher(teacher)
    if not isinstance(config, OpenAIConfig):
        raise UserError(f"teacher {teacher} is of kind {config.kind!r} and needs no server")
    return config


def port_of(config: OpenAIConfig) -> int:
    """Return where a teacher's server listens: as its `serve:` flags say, else as its first address does.

    Raises:
        UserError: as `port_in`.
    """
    return int(config.serve.get("port") or port_in(config.base_urls[0]))


def port_in(url: str) -> int:
    """Return the port that a server of an address listens on.

    Raises:
        UserError: when an address of this machine names none: it would be asked at port 80, where no server is started.
    """
    parts = urlsplit(url)
    if parts.port is None and parts.hostname in LOCAL:
        raise UserError(
            f"base_urls: {url} names no port, so port {80 if parts.scheme == 'http' else 443} is asked; name the one that the "
            f"server is to listen on, such as {parts.scheme}://{parts.hostname}:{DEFAULT_PORT}{parts.path}"
        )
    return parts.port or DEFAULT_PORT


def check_flags(teacher: str, config: OpenAIConfig) -> None:
    """Refuse flags of `serve:` that the vLLM of this machine has not: it says so late, after other servers have loaded.

    Raises:
        UserError: naming each, with the nearest flag there is.
    """
    told = {flag: unknown_flag(flag) for flag in config.serve}
    if problems := [f"teacher {teacher}: serve.{flag}: {why}" for flag, why in told.items() if why]:
        raise UserError(problems)


def check_words(words: Sequence[str]) -> None:
    """Refuse flags beside the teacher's file that change what it replies, since the keys of replies know the file alone.

    Raises:
        UserError: naming each, with the key of the file to write it to.
    """
    from pipeline.runs.phases import SERVED_AS

    flags = [word[2:].partition("=")[0].partition(".")[0].replace("_", "-") for word in words if word.startswith("--")]
    # The only one of them that vLLM has an abbreviation for.
    flags += ["quantization" for word in words if word.startswith("-q")]
    told = [
        f"--{flag}: changes what the teacher replies; write it to serve: of its file, which the keys of replies know"
        for flag in flags
        if flag in SERVED_AS
    ]
    if "revision" in flags:
        told.append(
            "--revision: is other weights; write it to revision: of the teacher's file, which the keys of replies know"
        )
    if told:
        raise UserError(told)


def check_model(model: str) -> None:
    """Refuse a folder that is not there, which vLLM would look for on the hub.

    Raises:
        UserError: when `model` can only be a folder and is none.
    """
    if is_path(model) and not Path(model).is_dir():
        home = "; ~ is not expanded, write the folder in full" if model.startswith("~") else ""
        raise UserError(
            f"model: the folder {model} does not exist (seen from {Path.cwd()}{home}); train or download it first"
        )


def check_port(port: int) -> None:
    """Refuse a port that is taken, before a model is loaded for it.

    Raises:
        UserError: naming the port, whose it is where that shows, and the cure.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"port {port} cannot be listened on: {error.strerror}; choose another with --port"
                ) from error
            raise UserError(
                f"port {port} is taken{_by_whom(port)}. Stop what holds it (`ss -ltnp sport = :{port}` shows what), or serve "
                f"elsewhere with --port N and build with cot.endpoints.TEACHER=[http://localhost:N/v1]"
            ) from error


def _by_whom(port: int) -> str:
    """What a server on the port says that it serves."""
    try:
        with open_url(f"http://127.0.0.1:{port}/v1/models", timeout=2) as answer:
            names = ", ".join(str(model["id"]) for model in json.load(answer)["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" by a server of {names}"


if __name__ == "__main__":
    sys.exit(main())
