"""Fetching data sets from a server on this machine that speaks as the hub does, cuts connections and sends wrong bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pipeline import __main__ as conductor
from pipeline.config.schema import TaskConfig
from pipeline.data import fetch as fetching
from pipeline.data.catalogue import DataSet, catalogue, fetch_hint
from pipeline.data.fetch import CATALOGUE, FIRST, HUB, PARTS, RECORD, fetch
from pipeline.data.load import load_task, task_names
from pipeline.errors import UserError

REVISION = "22409a927ab5cf68e3655023d51694587455fc99"
ROOT = Path(__file__).resolve().parents[4]


class Hub:
    """Serves `files` of one data set; `cut` drops the connection after so many bytes, once; `stall` waits there."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.lfs = True
        self.listed: dict[str, str] = {}
        self.status = 200
        self.cut: int | None = None
        self.stall: int | None = None
        self.ranges: list[str | None] = []
        self.asked: list[str] = []
        self.released = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(path)
                if hub.status != 200:
                    self._send(b"{}", hub.status)
                elif path.startswith("/api/"):
                    tree = [hub.entry(name, data) for name, data in hub.files.items()]
                    self._send(json.dumps(tree if "/tree/" in path else {"id": "a/b", "sha": REVISION}).encode())
                else:
                    self._file(hub.files[path.partition(f"/resolve/{REVISION}/")[2]])

            def _file(self, data: bytes) -> None:
                wanted = self.headers["Range"]
                hub.ranges.append(wanted)
                start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
                body = data[start:]
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if hub.stall is not None:
                    self.wfile.write(body[: hub.stall])
                    self.wfile.flush()
                    hub.stall = None
                    hub.released.wait(60)
                    self.close_connection = True
                elif hub.cut is not None:
                    self.wfile.write(body[: hub.cut])
                    hub.cut, self.close_connection = None, True
                else:
                    self.wfile.write(body)

            def _send(self, data: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        oid = self.listed.get(name, hashlib.sha256(data).hexdigest())
        lfs = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "path": name, "size": len(data), "oid": "0" * 40, **lfs}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
    hub = Hub()
    hub.files = {
        "data/test-0.parquet": bytes(range(256)) * 8,
        "data/test-1.parquet": b"two" * 50,
        "other.bin": b"not wanted",
    }
    yield hub
    hub.released.set()
    hub.http.shutdown()


SET = DataSet(
    name="trial", title="Trial", licence="CC0", page="https://example.org", folder="Trial", repo="a/b", revision=REVISION,
    files=("data/test-*.parquet",),
)  # fmt: skip


def got(hub: Hub, to: Path, data_set: DataSet = SET) -> dict[str, Any]:
    folder = fetch(data_set, to, hub.url)
    for name in hub.files:
        assert (folder / name).exists() == name.startswith("data/")
        assert name == "other.bin" or (folder / name).read_bytes() == hub.files[name]
    assert not (folder / PARTS).exists()
    found: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_there_is_proven_and_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    record = got(hub, tmp_path)
    first = record["files"]["data/test-0.parquet"]
    assert first == {"sha256": sha(hub.files["data/test-0.parquet"]), "bytes": 2048, "held_to": HUB}
    assert (record["revision"], record["licence"]) == (REVISION, "CC0")
    assert hub.ranges == [None, None]
    assert got(hub, tmp_path) == record
    assert hub.ranges == [None, None]
    assert all(REVISION in path for path in hub.asked)
    (tmp_path / "Trial" / "data" / "test-1.parquet").write_bytes(b"two" * 49 + b"2wo")
    with pytest.raises(
        UserError, match=r"test-1\.parquet is another file than that of revision 22409a927ab5, .* move it away"
    ):
        fetch(SET, tmp_path, hub.url)


def test_a_cut_connection_goes_on_where_it_was(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.cut = 1000
    got(hub, tmp_path)
    assert hub.ranges == [None, "bytes=1000-", None]


def test_a_wrong_digest_is_refused_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    ours = replace(SET, sha256={"data/test-1.parquet": sha(b"else")})
    hub.lfs = False
    with pytest.raises(UserError, match=f"{CATALOGUE} says {sha(b'else')}; it was deleted"):
        fetch(ours, tmp_path, hub.url)
    assert [path.name for path in (tmp_path / "Trial" / "data").iterdir()] == ["test-0.parquet"]
    assert not list((tmp_path / "Trial" / PARTS).glob("*.part"))
    hub.lfs = True
    with pytest.raises(UserError, match=r"the hub lists SHA-256 \w+, and the catalogue says .* nothing was fetched"):
        fetch(ours, tmp_path, hub.url)
    hub.listed["data/test-1.parquet"] = sha(b"what was there before")
    with pytest.raises(UserError, match="the hub's list of the revision says"):
        fetch(SET, tmp_path, hub.url)


def test_a_digest_nobody_knows_is_written_down_and_then_held_to(hub: Hub, tmp_path: Path) -> None:
    hub.lfs = False
    record = got(hub, tmp_path, replace(SET, revision=None))
    assert {one["held_to"] for one in record["files"].values()} == {FIRST}
    assert record["revision"] == REVISION
    shutil.rmtree(tmp_path / "Trial" / "data")
    hub.files["data/test-0.parquet"] = bytes(reversed(range(256))) * 8
    with pytest.raises(UserError, match=re.escape(f"{FIRST} says {record['files']['data/test-0.parquet']['sha256']}")):
        fetch(replace(SET, revision=None), tmp_path, hub.url)


def test_nothing_is_written_outside_the_folder(hub: Hub, tmp_path: Path) -> None:
    hub.files["../data/test-2.parquet"] = b"out"
    with pytest.raises(
        UserError, match=r"'\.\./data/test-2\.parquet', which leads out of the folder; nothing was fetched"
    ):
        fetch(replace(SET, files=("*.parquet",)), tmp_path / "to", hub.url)
    del hub.files["../data/test-2.parquet"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to" / "Trial" / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"leads out of .* by a link"):
        fetch(SET, tmp_path / "to", hub.url)
    (tmp_path / "to2").mkdir()
    (tmp_path / "to2" / "Trial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"--to: .* outside; name the folder it is to lie in"):
        fetch(SET, tmp_path / "to2", hub.url)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert hub.ranges == []


def test_a_full_disk_and_a_silent_hub_are_told_in_a_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(
            UserError, match="Trial: the disk is full; make room: what is fetched is kept, and the same command"
        ):
            fetch(SET, tmp_path, hub.url)
        patched.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
        with pytest.raises(UserError, match="0 MB are to be fetched and 0 MB are free on this disk"):
            fetch(SET, tmp_path, hub.url)
    for status, told in ((401, "accept its terms at https://example.org"), (500, "the same command goes on")):
        hub.status = status
        with pytest.raises(UserError, match=told):
            fetch(SET, tmp_path, hub.url)
    hub.status = 200
    with pytest.raises(UserError, match=r"holds no vision/\*"):
        fetch(replace(SET, files=("data/*", "vision/*")), tmp_path, hub.url)
    with pytest.raises(UserError, match="HF_ENDPOINT names a mirror"):
        fetch(SET, tmp_path, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch(SET, tmp_path, hub.url)


def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command, from HF_ENDPOINT, with the shipped catalogue: CV-Bench's two files."""
    hub = Hub()
    megabytes = 10 * 1024 * 1024
    hub.files = {"test_2d.parquet": os.urandom(2 * megabytes + 5000), "test_3d.parquet": b"small"}
    hub.stall = megabytes + 3000
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "fetch", "cv_bench", "--to", str(tmp_path)]
    begun = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = tmp_path / "CV-Bench"
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in folder.glob(f"{PARTS}/*.part")) < megabytes:
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.communicate()
    hub.released.set()
    assert not (folder / "test_2d.parquet").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CV-Bench: licence: Apache-2.0\n")
    assert done.stdout.splitlines()[-1] == str(folder)
    assert hub.ranges == [None, f"bytes={megabytes}-", None]
    assert (folder / "test_2d.parquet").read_bytes() == hub.files["test_2d.parquet"]
    hub.http.shutdown()


def test_what_a_person_must_do_is_told_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        conductor.main(["fetch", "vcr", "--to", str(tmp_path)])
    assert "https://visualcommonsense.com/download/" in caught.value.problems[0]
    assert caught.value.problems[2].startswith("2. unpack both so that vcr1annots/val.jsonl")
    with pytest.raises(UserError, match="'cvbench' is not in the catalogue; did you mean cv_bench"):
        conductor.main(["fetch", "cvbench"])
    assert conductor.main(["fetch", "mmmu", "--to", str(tmp_path), "--dry-run"]) == 0
    capsys.readouterr()
    assert conductor.main(["fetch"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(catalogue())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_s_message_names_the_command(tmp_path: Path) -> None:
    path = str(tmp_path / "here" / "CV-Bench")
    with pytest.raises(UserError, match=f"; python -m pipeline fetch cv_bench --to {tmp_path}/here gets it$"):
        load_task(TaskConfig(name="cv_bench", path=path), tmp_path)
    with pytest.raises(UserError, match=r"; python -m pipeline fetch vcr --to data tells how to get it$"):
        load_task(TaskConfig(name="vcr", path=str(tmp_path)), tmp_path)
    assert fetch_hint("scenes", None) == ""


def test_every_entry_is_whole_and_every_benchmark_has_one() -> None:
    for one in catalogue().values():
        assert bool(one.repo) == bool(one.files) != bool(one.steps)
        assert one.revision is None or re.fullmatch("[0-9a-f]{40}", one.revision)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in one.sha256.values())
    own = {"imagefolder", "parquet", "scenes", "shapes", "trails", "questions", "spatial", "mixture"}
    assert set(task_names()) - own <= set(catalogue())
