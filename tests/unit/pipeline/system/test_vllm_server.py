"""A server that does not come up is told with the end of its log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.system.processes import child_environment, start_apart
from pipeline.system.vllm_server import free_port, how_server_ended, known_flags, stop, wait_until_ready


@pytest.mark.parametrize(
    ("code", "seconds", "told"),
    [
        ("print('no such model'); raise SystemExit(3)", 60, "ended with exit code 3; .*no such model"),
        ("print('loading', flush=True); import time; time.sleep(60)", 0.1, "does not answer after 0.1 s; the end of"),
    ],
)
def test_a_server_that_ends_or_takes_too_long_is_told_with_its_log(
    tmp_path: Path, code: str, seconds: float, told: str
) -> None:
    log = tmp_path / "log"
    process = start_apart([sys.executable, "-c", code], log, child_environment())
    try:
        with pytest.raises(UserError, match=f"(?s)^the server {told}"):
            wait_until_ready(process, f"http://127.0.0.1:{free_port()}", log, "the server", seconds)
    finally:
        stop([process])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "ended with exit code 0"),
        (137, "was ended by SIGKILL (the kernel does that when memory is full; see dmesg)"),
        (-9, "was ended by SIGKILL (the kernel does that when memory is full; see dmesg)"),
        (139, "was ended by SIGSEGV"),
        (255, "ended with exit code 255"),
    ],
)
def test_a_signal_that_ended_a_server_is_told_by_its_name(code: int, told: str) -> None:
    assert how_server_ended(code) == told


def test_no_flag_is_called_unknown_where_a_part_of_them_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, entry = tmp_path / "vllm" / "engine", tmp_path / "vllm" / "entrypoints" / "openai"
    for folder in (engine, entry):
        folder.mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("")
    (engine / "arg_utils.py").write_text("class EngineArgs:\n    max_model_len: int = 1\n")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    read = known_flags.__wrapped__
    # Else chat-template, which is a flag of the server and not of its engine, would be refused.
    assert read() == set()
    (entry / "cli_args.py").write_text("class FrontendArgs:\n    chat_template: str | None = None\n")
    assert read() == {"max-model-len", "chat-template"}
