"""A build together with the servers of its teachers, on one machine, and the addresses of servers on many.

    python -m cot_builder.serving build --config FILE [words of build …]
    python -m cot_builder.serving addresses TEACHER HOST …

The first starts the server of every teacher of the run whose addresses are of this machine, waits until all answer, builds, and
stops them whatever happens; its exit code is the build's. The second prints the word that points a build at servers elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cot_builder.serve import (
    LOCAL,
    check_flags,
    check_model,
    check_port,
    load_served,
    not_installed,
    port_in,
    port_of,
)
from cot_builder.serving.server_processes import Server, running, wait_until_healthy
from pipeline import command_line
from pipeline.errors import UserError
from pipeline.system.hardware import gpu_names
from pipeline.system.processes import as_ctrl_c

if TYPE_CHECKING:
    from cot_builder.teachers.config import OpenAIConfig
    from pipeline.config.schema import RunConfig

log = logging.getLogger("cot_builder.serving")

GPU_SHARE = 0.92
"""Part of a GPU's memory that vLLM takes unless the teacher's file says otherwise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return the entry point. Exit codes are the build's; 2 for what the user can mend."""
    parser = command_line.doc_parser("cot_builder.serving", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="start the servers, build, stop them", allow_abbrev=False)
    build.add_argument("--config", required=True, help="a YAML file, or the bare name of one in configs/")
    build.add_argument("--base-port", type=int, help="number the ports from here; default: as the teachers' files say")
    build.add_argument("--dry-run", action="store_true", help="show the servers and the build's plan, and stop")
    build.set_defaults(run=_build)
    addresses = commands.add_parser("addresses", help="print cot.endpoints.TEACHER=[…] for servers on other machines")
    addresses.add_argument("teacher", help="a file, or the bare name of one in configs/teachers/")
    addresses.add_argument("hosts", nargs="+", metavar="HOST")
    addresses.add_argument("--port", type=int, help="where they listen (default: as the teacher's file says)")
    addresses.add_argument("--wait", action="store_true", help="first wait until all of them answer")
    addresses.set_defaults(run=_addresses)
    arguments, words = command_line.parse_known(parser, argv)
    if words and arguments.run is _addresses:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    try:
        return command_line.status(lambda: int(arguments.run(arguments, words)))
    except ModuleNotFoundError as error:
        log.error(not_installed(error))
        return 2


def _build(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    from cot_builder.__main__ import main as builder
    from pipeline.config.loader import load

    config = load(arguments.config, [word for word in words if "=" in word and not word.startswith("-")])
    servers, moved = plan(config, arguments.base_port)
    for server in servers:
        log.info("server    %s, log %s", server, server.log)
    command = ["build", "--config", arguments.config, *words, *moved]
    # before a model is loaded for it
    refused = builder([*command, "--dry-run"])
    if refused or arguments.dry_run:
        return refused
    with as_ctrl_c(), running(servers):
        return builder(command)


def _addresses(arguments: argparse.Namespace, _: Sequence[str]) -> int:
    from cot_builder.teachers.config import short_name

    port = arguments.port or port_of(load_served(arguments.teacher))
    hosts = [f"{host}:{port}" for host in arguments.hosts]
    if arguments.wait:
        wait_until_healthy({host: f"http://{host}/health" for host in hosts}, lambda host: "see its log")
    print(override(short_name(arguments.teacher), [f"http://{host}/v1" for host in hosts]))
    return 0


def plan(config: RunConfig, base_port: int | None = None) -> tuple[list[Server], list[str]]:
    """Return the servers that a run's teachers need on this machine: one for every address of theirs that is of this machine.

    Args:
        config: the run.
        base_port: first of the ports, which then replace those of the addresses.

    Returns:
        The servers, and the overrides that tell the build where they are if not at the addresses it knows.

    Raises:
        UserError: when a port is taken, wanted twice or not named, a model is not there, vLLM has no such flag, or the GPUs do
            not suffice.
    """
    from cot_builder.teachers.config import OpenAIConfig, load_teacher, short_name

    if config.cot is None:
        raise UserError("this run has no cot: block, so there is nothing to build")
    if config.cot.from_ is not None:
        raise UserError(
            f"cot.from: the rows are those of {config.cot.from_}, so no server is needed: python -m cot_builder build"
        )
    wanted: list[tuple[str, str, int, OpenAIConfig]] = []
    moved = []
    check = config.cot.cross_check
    for file in dict.fromkeys([*config.cot.teachers, *([check.teacher] if check and check.teacher else [])]):
        name, teacher = short_name(file), load_teacher(file)
        if not isinstance(teacher, OpenAIConfig):
            continue
        urls = config.cot.endpoints.get(name) or teacher.base_urls
        for position, url in enumerate(urls):
            if urlsplit(url).hostname in LOCAL:
                check_model(teacher.model)
                check_flags(name, teacher)
                port = port_in(url) if base_port is None else base_port + len(wanted)
                wanted.append((name, file, port, teacher))
                urls = [*urls[:position], f"http://127.0.0.1:{port}/v1", *urls[position + 1 :]]
        moved += [override(name, urls)] if base_port is not None else []
    _check_ports([(name, port) for name, _, port, _ in wanted])
    gpus = assign_gpus([(name, teacher.serve) for name, _, _, teacher in wanted], gpu_names())
    logs = Path(config.output_dir) / config.name / "servers"
    servers = [
        Server(name, file, port, own, logs / f"{name}-{socket.gethostname()}-{port}.log")
        for (name, file, port, _), own in zip(wanted, gpus, strict=True)
    ]
    return servers, moved


def assign_gpus(wanted: Sequence[tuple[str, Mapping[str, object]]], gpus: Sequence[str]) -> list[tuple[str, ...]]:
    """Return GPUs for every server: those with the most memory that no other server has asked for.

    Args:
        wanted: teacher and vLLM flags of each server; parallel sizes say how many GPUs, gpu-memory-utilization how much.
        gpus: names of those there are; none: everything runs on the CPU.

    Raises:
        UserError: when they do not suffice.
    """
    if not gpus:
        return [() for _ in wanted]
    free = dict.fromkeys(gpus, 1.0)
    assigned = []
    for name, flags in wanted:
        replicas = flags.get("data-parallel-size-local", flags.get("data-parallel-size", 1))
        sizes = (replicas, flags.get("tensor-parallel-size", 1), flags.get("pipeline-parallel-size", 1))
        count = prod(int(str(size)) for size in sizes)
        share = float(str(flags.get("gpu-memory-utilization", GPU_SHARE)))
        own = sorted(free, key=lambda gpu: -free[gpu])[:count]
        if len(own) < count or any(free[gpu] < share - 1e-6 for gpu in own):
            raise UserError(
                f"the teachers' servers do not fit on the {len(gpus)} GPUs of this machine: {name} needs {count} with "
                f"{share:.0%} of the memory free. Lower its parallel sizes or gpu-memory-utilization, or serve it elsewhere"
            )
        for gpu in own:
            free[gpu] -= share
        assigned.append(tuple(own))
    idle = sum(part == 1.0 for part in free.values())
    if idle and wanted:
        told = (
            f"{idle} of {len(gpus)} GPUs stay idle; data-parallel-size in serve: of a teacher's file puts them to use"
        )
        log.info(told)
    return assigned


def override(teacher: str, urls: Sequence[str]) -> str:
    """Return the word that tells a build where a teacher's servers are."""
    listed = f"[{','.join(urls)}]"
    return f"cot.endpoints={{{teacher}: {listed}}}" if "." in teacher else f"cot.endpoints.{teacher}={listed}"


def _check_ports(wanted: Sequence[tuple[str, int]]) -> None:
    for name, port in wanted:
        both = [other for other, its in wanted if its == port]
        if len(both) > 1:
            raise UserError(
                f"{' and '.join(both)}: two servers are to listen on port {port}; number the ports with --base-port, or give one "
                f"another address, such as cot.endpoints.{name}=[http://localhost:{port + 1}/v1]"
            )
        check_port(port)


if __name__ == "__main__":
    sys.exit(main())
