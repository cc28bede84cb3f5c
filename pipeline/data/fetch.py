"""Get a data set of the catalogue: files of a pinned revision of the hub, whole and with the right digest or not at all.

A file is downloaded to `.fetch/` of its folder and goes on there after a kill (huggingface_hub's own downloads begin anew). Its
SHA-256 is held to the catalogue's where that has one, else to the hub's own list of the revision, else to what the first fetch
wrote down in `fetched.json`. Nothing is written outside the folder that was named.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.data.catalogue import DataSet
from pipeline.errors import UserError
from pipeline.files import digest, file_digest, read_json, write_json
from pipeline.formatting import size
from pipeline.system.locks import acquire

log = logging.getLogger(__name__)

RECORD = "fetched.json"
PARTS = ".fetch"
CATALOGUE, FIRST, HUB = "the catalogue", f"the first fetch ({RECORD})", "the hub's list of the revision"
"""Who says what a file's SHA-256 must be."""
_SPARE = 100_000_000
"""Bytes of a disk that are left free."""


@dataclass(frozen=True)
class Wanted:
    """A file of the hub: its place in the data set, its bytes and its SHA-256, with who says so; None where nobody knows."""

    path: str
    bytes: int
    sha256: str | None
    said_by: str


def describe(data_set: DataSet, to: Path) -> str:
    """Return what a data set is, its licence, and where it comes from and goes, line by line."""
    lines = [f"{data_set.title}: licence: {data_set.licence}", f"  {data_set.page}"]
    if data_set.repo:
        revision = data_set.revision or "the newest, which is then held to: no revision is pinned"
        lines += [f"  revision: {revision}", f"  files: {', '.join(data_set.files)}"]
    lines.append(f"  to: {to / data_set.folder}")
    return "\n".join([*lines, *([f"  note: {data_set.note}"] if data_set.note else [])])


def fetch(data_set: DataSet, to: Path, endpoint: str | None = None) -> Path:
    """Get what is missing of a data set, and prove what is there.

    Args:
        data_set: of the catalogue.
        to: the folder its own is made in.
        endpoint: of the hub; None for HF_ENDPOINT, or huggingface.co.

    Returns:
        Its folder.

    Raises:
        UserError: when it is to be had by hand alone, the hub does not give it, a digest is wrong, the disk is full, or a file
            there is another.
    """
    if data_set.repo is None:
        steps = [f"{number}. {step}" for number, step in enumerate(data_set.steps, 1)]
        raise UserError(
            [
                f"{data_set.name}: {data_set.title} is given out by its own page alone: {data_set.page}",
                *steps,
                f"the folder is {to / data_set.folder}",
            ]
        )
    folder = _own_folder(to, data_set.folder)
    with _alone(folder / PARTS / "lock"), _told(data_set):
        record = read_json(folder / RECORD)
        revision, wanted = _listing(data_set, record, endpoint)
        kept = record.get("files", {}) if record.get("revision") == revision else {}
        files = [_held_to(one, data_set.sha256, kept) for one in wanted]
        missing = [one for one in files if not _is_there(folder, one, revision)]
        _check_room(folder, revision, missing)
        known = {one.path: _entry(_seen(folder, one)) for one in files if one not in missing}
        for one in missing:
            log.info(f"{one.path}: {size(one.bytes)}")
            known[one.path] = _entry(_download(data_set.repo, revision, one, folder, endpoint))
            _write_record(folder, data_set, revision, known)
        _write_record(folder, data_set, revision, known)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    held = {said: sum(1 for entry in known.values() if entry["held_to"] == said) for said in (CATALOGUE, FIRST, HUB)}
    told = ", ".join(f"{count} by {said}" for said, count in held.items() if count)
    log.info(f"{data_set.title}: {len(files)} files, {len(missing)} of them new; SHA-256 said {told}")
    return folder


def _own_folder(to: Path, name: str) -> Path:
    """The data set's folder, made.

    Raises:
        UserError: when a link leads it out of `to`, or it cannot be made.
    """
    to = to.expanduser()
    folder = to / name
    if folder.is_symlink() and not folder.resolve().is_relative_to(to.resolve()):
        raise UserError(f"--to: {folder} is a link to {folder.resolve()}, outside; name the folder it is to lie in")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to: {folder} cannot be made: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    try:
        held: IO[str] = acquire(lock, 2.0)
    except BlockingIOError:
        raise UserError(f"{lock.parent.parent} is being fetched by another process; wait for it or stop it") from None
    with held:
        yield


@contextlib.contextmanager
def _told(data_set: DataSet) -> Iterator[None]:
    """Tell what the hub, the network and the disk refuse, in a line each."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    on = "what is fetched is kept, and the same command goes on"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, and fetching needs the hub; unset it") from error
    except HfHubHTTPError as error:
        if isinstance(error, RepositoryNotFoundError) or error.response.status_code in (401, 403):
            raise UserError(
                f"{data_set.repo}: the hub does not give it; accept its terms at {data_set.page}, signed in, and set HF_TOKEN"
            ) from error
        raise UserError(f"{data_set.repo}: {_first_line(error)}; {on}") from error
    except httpx.HTTPError as error:
        raise UserError(
            f"{constants.ENDPOINT}: {type(error).__name__}: {_first_line(error)}; {on} (HF_ENDPOINT names a mirror)"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{error.filename or data_set.folder}: the disk is full; make room: {on}") from error
        raise UserError(f"{error.filename or data_set.repo}: {error.strerror or _first_line(error)}; {on}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _listing(data_set: DataSet, record: Mapping[str, Any], endpoint: str | None) -> tuple[str, list[Wanted]]:
    """The revision, and its files that are wanted, as the hub lists them.

    Raises:
        UserError: when a pattern finds none, or the hub lists a path that leads out of the folder.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint)
    assert data_set.repo is not None
    revision = str(data_set.revision or record.get("revision") or "")
    if not revision:
        revision = str(api.dataset_info(data_set.repo).sha)
        log.info(f"{data_set.title}: no revision is pinned; {revision} is held to from now on")
    tree = api.list_repo_tree(data_set.repo, recursive=True, revision=revision, repo_type="dataset")
    listed = {one.path: one for one in tree if isinstance(one, RepoFile)}
    found = []
    for pattern in data_set.files:
        paths = [path for path in listed if fnmatch.fnmatchcase(path, pattern)]
        if not paths:
            raise UserError(f"{data_set.repo} at {revision} holds no {pattern}; see {data_set.page}")
        found += paths
    for path in found:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(
                f"{data_set.repo}: the hub lists {path!r}, which leads out of the folder; nothing was fetched"
            )
    return revision, [
        Wanted(path, one.size, one.lfs.sha256 if one.lfs else None, HUB)
        for path, one in sorted(listed.items())
        if path in found
    ]


def _held_to(listed: Wanted, ours: Mapping[str, str], kept: Mapping[str, Any]) -> Wanted:
    """A file with the digest it is held to.

    Raises:
        UserError: when the hub lists another for the same revision.
    """
    known = ours.get(listed.path)
    for said_by, sha256 in ((CATALOGUE, known), (FIRST, kept.get(listed.path, {}).get("sha256"))):
        if sha256 is not None and listed.sha256 not in (None, sha256):
            raise UserError(
                f"{listed.path}: the hub lists SHA-256 {listed.sha256}, and {said_by} says {sha256} of the same revision; "
                "nothing was fetched"
            )
    if known is not None:
        return replace(listed, sha256=known, said_by=CATALOGUE)
    if listed.sha256 is None and listed.path in kept:
        return replace(listed, sha256=kept[listed.path]["sha256"], said_by=FIRST)
    return listed


def _is_there(folder: Path, one: Wanted, revision: str) -> bool:
    """Whether a file is there and the right one.

    Raises:
        UserError: when another is there, or a link leads out.
    """
    file = folder / one.path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{file} leads out of {folder} by a link; remove the link")
    if not file.exists():
        return False
    if file.stat().st_size != one.bytes or (one.sha256 is not None and file_digest(file) != one.sha256):
        raise UserError(
            f"{file} is another file than that of revision {revision[:12]}, by {one.said_by}; move it away to have it fetched"
        )
    return True


def _part(folder: Path, one: Wanted, revision: str) -> Path:
    """Where a file is while it is not whole; another revision's or digest's is another."""
    return folder / PARTS / f"{digest([one.path, one.sha256, revision])[:16]}.part"


def _check_room(folder: Path, revision: str, missing: list[Wanted]) -> None:
    begun = sum(part.stat().st_size for one in missing if (part := _part(folder, one, revision)).exists())
    needed, free = sum(one.bytes for one in missing) - begun, shutil.disk_usage(folder).free
    if missing and needed + _SPARE > free:
        raise UserError(
            f"{folder}: {size(needed)} are to be fetched and {size(free)} are free on this disk; make room, or name another --to"
        )


def _download(repo: str, revision: str, one: Wanted, folder: Path, endpoint: str | None) -> Wanted:
    """Fetch a file, from where it was left; gives it with its digest.

    Raises:
        UserError: when its digest is wrong; what was fetched is then deleted.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    part = _part(folder, one, revision)
    if part.exists() and part.stat().st_size > one.bytes:
        part.unlink()
    url = hf_hub_url(repo, one.path, repo_type="dataset", revision=revision, endpoint=endpoint)
    with part.open("ab") as file:
        http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=one.bytes)
        file.flush()
        os.fsync(file.fileno())
    found = file_digest(part)
    if one.sha256 not in (None, found):
        part.unlink()
        raise UserError(
            f"{one.path}: what came has SHA-256 {found}, and {one.said_by} says {one.sha256}; it was deleted. The same command "
            "fetches it again; if it stays so, the server or what lies between is not to be trusted"
        )
    place = folder / one.path
    place.parent.mkdir(parents=True, exist_ok=True)
    part.rename(place)
    return replace(one, sha256=found, said_by=one.said_by if one.sha256 else FIRST)


def _seen(folder: Path, one: Wanted) -> Wanted:
    """A file that is there, with its digest."""
    return one if one.sha256 is not None else replace(one, sha256=file_digest(folder / one.path), said_by=FIRST)


def _entry(one: Wanted) -> dict[str, Any]:
    return {"sha256": one.sha256, "bytes": one.bytes, "held_to": one.said_by}


def _write_record(folder: Path, data_set: DataSet, revision: str, files: Mapping[str, Any]) -> None:
    told = {"data_set": data_set.name, "repo": data_set.repo, "revision": revision, "licence": data_set.licence}
    write_json(folder / RECORD, {**told, "files": dict(sorted(files.items()))})
