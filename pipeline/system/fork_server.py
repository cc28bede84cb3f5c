"""Processes that begin with the training libraries imported: forked from one that has imported them, and has done nothing else.

Importing torch, transformers and TRL takes ten seconds and more of a core, and a run of six phases starts a dozen processes. The
conductor keeps a server for a run's time; ``python -m pipeline.system.fork_server -m MODULE …`` asks it for a process in place of
``python -m MODULE …``, and is to whoever started it what that process would be: its output, its signals, its exit status, its
end. Where anything differs that a library may have read while it was imported, it becomes the plain process instead.

On CPUs alone: a library that has asked for a GPU leaves the processes forked after it without one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pipeline.system.hardware import visible_gpus
from pipeline.system.processes import STOPPING, child_environment, die_with_parent, socket_folder

FORK_SERVER = "CLGRPO_FORK_SERVER"
"""Environment variable: the server's socket."""
STUB = ("-m", "pipeline.system.fork_server")
# Read when a process begins its work or later, and different from process to process. All others must be those of the server.
_OF_ONE_PROCESS = re.compile(
    "CLGRPO_.*|RANK|LOCAL_.*|GROUP_.*|ROLE_.*|(LOCAL_)?WORLD_SIZE|MASTER_.*|TORCHELASTIC_.*|TORCH_NCCL_ASYNC_ERROR_HANDLING"
    "|PYTHONUNBUFFERED|TOKENIZERS_PARALLELISM|TENSORBOARD_LOGGING_DIR|WANDB_(DIR|PROJECT)|PYTEST_.*|PATH|PWD|OLDPWD|SHLVL|LINES|COLUMNS|_"
)
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@contextlib.contextmanager
def fork_server(modules: Sequence[str]) -> Iterator[None]:
    """Keep a server within the block, which the processes started within it find by their environment.

    Nothing happens where it would not be safe, that is with a GPU or without Linux, or where there is one already.

    Args:
        modules: what it imports.
    """
    if FORK_SERVER in os.environ or sys.platform != "linux" or visible_gpus():
        yield
        return
    with contextlib.ExitStack() as until_the_end:
        # Only this user may enter the folder.
        folder = tempfile.TemporaryDirectory(prefix="clgrpo-", dir=socket_folder())
        path = f"{until_the_end.enter_context(folder)}/fork"
        listener, over, ends = (
            until_the_end.enter_context(one) for one in (socket.socket(socket.AF_UNIX), *socket.socketpair())
        )
        listener.bind(path)
        listener.listen(64)
        keeper = threading.Thread(target=_keep_server, args=(listener, over, modules))
        keeper.start()
        os.environ[FORK_SERVER] = path
        try:
            yield
        finally:
            os.environ.pop(FORK_SERVER, None)
            ends.close()
            keeper.join()


def _keep_server(listener: socket.socket, over: socket.socket, modules: Sequence[str]) -> None:
    """Start the server when the first client comes, and end it when all is over."""
    if over in select.select([listener, over], [], [])[0]:
        return
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with subprocess.Popen(
        [sys.executable, *STUB, "--serve", str(listener.fileno()), str(os.getpid()), *modules],
        env=child_environment(**threads),
        stdin=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    ) as server:
        # To the kernel the parent that it dies with is this thread.
        select.select([over.fileno(), os.pidfd_open(server.pid)], [], [])
        server.kill()
        # Where it has failed, who waits for it is let go, and starts plainly.
        listener.close()


def forked(words: Sequence[str]) -> list[str]:
    """Return what comes after an interpreter to run a module in a process that is forked, where there is a server.

    Args:
        words: what would come there: ``-m MODULE …``.
    """
    return [*STUB, *words] if FORK_SERVER in os.environ else list(words)


def main(argv: Sequence[str]) -> None:
    """Serve, or have a process forked and be what it is to others."""
    if argv[:1] == ["--serve"]:
        _serve(int(argv[1]), int(argv[2]), argv[3:])
    status = _forked(argv)
    if status is None:
        os.execv(sys.executable, [sys.executable, *argv])
    if status < 0:
        # As it ended.
        with contextlib.suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _forked(argv: Sequence[str]) -> int | None:
    """Have a process forked and wait for it: its status as subprocess has it; None where it must be started plainly."""
    ignored = [number for number in STOPPING if signal.getsignal(number) == signal.SIG_IGN]
    wanted = {
        "state": _state(),
        "argv": argv,
        "cwd": str(Path.cwd()),
        "environment": dict(os.environ),
        "ignored": ignored,
    }
    # What comes before there is a process to pass it on to waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(os.environ[FORK_SERVER])
            text = json.dumps(wanted).encode()
            socket.send_fds(server, [len(text).to_bytes(8, "big")], [1, 2])
            server.sendall(text)
            answers = server.makefile()
            pid = int(answers.readline())
            for number in set(STOPPING) - set(ignored):
                signal.signal(number, lambda number, frame: os.kill(pid, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            # A server that is killed takes its processes with it.
            return int(answers.readline() or -signal.SIGKILL)
    except (OSError, KeyError, ValueError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        return None


def _state() -> dict[str, Any]:
    """What a process must have in common with the server it is forked from."""
    return {
        "environment": {name: value for name, value in os.environ.items() if not _OF_ONE_PROCESS.fullmatch(name)},
        "limits": [list(resource.getrlimit(limit)) for limit in _LIMITS],
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        # Whose packages are imported.
        "prefix": sys.prefix,
    }


def _serve(listener: int, parent: int, modules: Sequence[str]) -> NoReturn:
    """Import modules, then fork two processes for each client, until the parent ends: what it wants, and who waits for that."""
    die_with_parent(signal.SIGKILL, parent)
    own, before = _state(), set(os.environ)
    for name in modules:
        importlib.import_module(name)
    added = {name: value for name, value in os.environ.items() if name not in before}
    # What is imported is never garbage, and collecting it would copy its pages into every process.
    gc.freeze()
    # Who waits is waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(fileno=listener)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(client, own, added)
        client.close()


def _attend(client: socket.socket, own: dict[str, Any], added: dict[str, str]) -> NoReturn:
    """Fork what a client wants, and tell it how that ends.

    Args:
        own: the state a client must have.
        added: what libraries put into the environment as they were imported.
    """
    die_with_parent(signal.SIGKILL)
    head, files, *_ = socket.recv_fds(client, 8, 2)
    size = int.from_bytes(head, "big")
    wanted = json.loads(client.makefile("rb").read(size))
    if any(wanted["state"][name] != value for name, value in own.items()):
        os._exit(0)
    if (pid := os.fork()) == 0:
        client.close()
        os.environ.clear()
        os.environ.update(added | wanted["environment"])
        _become(wanted, files)
    for file in files:
        os.close(file)
    client.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    ready, _, _ = select.select([ended, client.fileno()], [], [])
    if ended not in ready:
        # The client was killed, and what it stood for goes with it.
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(wanted: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Make of a forked process what a client would have started."""
    os.setsid()
    die_with_parent(signal.SIGKILL)
    for number in STOPPING:
        heard: Any = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in wanted["ignored"] else heard)
    for output, file in enumerate(files, start=1):
        os.dup2(file, output)
        os.close(file)
    os.chdir(wanted["cwd"])
    sys.path[0] = wanted["cwd"]
    _, name, *words = wanted["argv"]
    sys.argv = [name, *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
