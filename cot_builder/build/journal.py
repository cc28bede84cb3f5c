"""Every request and its reply, kept for good: what is here is never asked again.

One SQLite file in WAL mode. A reply is committed before it counts, so `kill -9` loses none of them; a power cut may lose the
last few, which are then asked again, and SQLite drops a torn tail by its checksums. Rows are only ever added. The key is the
digest of everything that can change the reply (`teachers.base.Request`), so changing a filter re-judges without asking, and
changing a prompt asks again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from cot_builder.teachers.base import Reply, TeacherRequest
from pipeline.errors import UserError
from pipeline.system.locks import acquire

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    row_id TEXT NOT NULL,
    teacher TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    request TEXT NOT NULL,
    reply TEXT NOT NULL,
    unix_time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS exported (
    key TEXT PRIMARY KEY,
    row_id TEXT NOT NULL,
    teacher TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    request TEXT NOT NULL
) WITHOUT ROWID;
"""
_COLUMNS = "key, row_id, teacher, attempt, request, reply, unix_time"
_INSERT = f"({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_EXPORTED = "key, row_id, teacher, attempt, request"
_UNLESS_KNOWN = """ON CONFLICT (key) DO UPDATE SET reply = excluded.reply, unix_time = excluded.unix_time
WHERE json_extract(replies.reply, '$.refused') IS NOT NULL AND json_extract(excluded.reply, '$.refused') IS NULL"""
"""What is known stays, but for a refusal that has been asked again since."""


class ReplyCache:
    """The journal in `folder`, locked for one writer.

    A damaged file is moved aside and every reply that can still be read from it is taken over; what was lost is said on
    stderr and asked again.

    Raises:
        UserError: when another build holds it, or its folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "replies.sqlite"
        self._again: set[str] = set()
        """Keys of refusals that are asked again: they are not found, and replaced by what comes."""
        self.rows_asked_again: set[str] = set()
        """Ids of the rows that they are about."""
        try:
            self._lock = acquire(folder / "lock")
        except BlockingIOError as error:
            raise UserError(f"{folder}: another build is using this journal; wait for it or stop it") from error
        except OSError as error:
            if error.filename:
                raise
            raise UserError(f"{folder}: its file system has no locks ({error.strerror}); use a local disk") from error
        try:
            self._db = _open(self.path)
        except sqlite3.OperationalError as error:
            # A full disk or no permission: nothing is wrong with the file.
            self._lock.close()
            raise UserError(f"{self.path}: cannot be opened ({error})") from error
        except sqlite3.DatabaseError as error:
            self._db = _salvage(self.path, error)

    def find(self, key: str) -> Reply | None:
        """Return the reply recorded under a key."""
        if key in self._again:
            return None
        row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(**json.loads(row[0]))

    def add(self, request: TeacherRequest, reply: Reply, *, row_id: str, teacher: str, attempt: int) -> None:
        """Record a reply; it is durable against a killed process when this returns."""
        values = (
            request.key,
            row_id,
            teacher,
            attempt,
            json.dumps(request.record),
            json.dumps(vars(reply)),
            time.time(),
        )
        if request.key not in self._again:
            self._write(f"INSERT INTO replies {_INSERT}", values)
            return
        self._write("BEGIN", ())
        try:
            # What was refused stays on record.
            self._write("UPDATE replies SET key = key || ':refused-' || number WHERE key = ?", (request.key,))
            self._write(f"INSERT INTO replies {_INSERT}", values)
            self._write("COMMIT", ())
        except UserError:
            # A full disk: replies in flight are still to come, each for itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._again.remove(request.key)

    def take_over(self, path: Path) -> int:
        """Copy the replies of another journal's file that are not here yet.

        Returns:
            How many there were.

        Raises:
            UserError: when it cannot be read.
        """
        before = len(self)
        try:
            # Quotes # and ? in it.
            other = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                rows = other.execute(f"SELECT {_COLUMNS} FROM replies ORDER BY number")
                self._db.execute("BEGIN")
                self._db.executemany(f"INSERT INTO replies {_INSERT} {_UNLESS_KNOWN}", rows)
                self._db.execute("COMMIT")
            finally:
                other.close()
        except sqlite3.DatabaseError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise UserError(f"{path}: its replies cannot be taken over ({error})") from error
        return len(self) - before

    def export(self, request: TeacherRequest, *, row_id: str, teacher: str, attempt: int) -> None:
        """Remember a request that is asked elsewhere, so that `take_in` can tell what its reply belongs to."""
        values = (request.key, row_id, teacher, attempt, json.dumps(request.record))
        self._write("INSERT OR REPLACE INTO exported VALUES (?, ?, ?, ?, ?)", values)

    def take_in(self, replies: Iterable[tuple[str, Reply]]) -> dict[str, int]:
        """Record replies to exported requests.

        Args:
            replies: (key, reply) pairs.

        Returns:
            How many were new, were here already, and answer no exported request.
        """
        counts = {"new": 0, "known": 0, "unknown": 0}
        self._write("BEGIN", ())
        for key, reply in replies:
            asked = self._db.execute("SELECT row_id, teacher, attempt, request FROM exported WHERE key = ?", (key,))
            origin = asked.fetchone()
            if origin is None:
                counts["unknown"] += 1
                continue
            values = (key, *origin, json.dumps(vars(reply)), time.time())
            new = self._write(f"INSERT INTO replies {_INSERT} {_UNLESS_KNOWN}", values)
            counts["new" if new else "known"] += 1
        self._write("COMMIT", ())
        return counts

    def ask_refusals_again(self) -> int:
        """Find no more what a server refused (HTTP 400) or failed at, so that it is asked again; gives how many there are.

        What was refused holds until its request is answered, or refused once more: a server may be away.
        """
        refused = "json_extract(reply, '$.refused') IS NOT NULL AND key NOT LIKE '%:refused-%'"
        found = self._db.execute(f"SELECT key, row_id FROM replies WHERE {refused}").fetchall()
        self._again, self.rows_asked_again = {key for key, _ in found}, {row_id for _, row_id in found}
        return len(self._again)

    def let_refusals_stand(self) -> None:
        """Find again what was asked again and not answered."""
        self._again = set()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Fold the write-ahead log into the file and let another build in."""
        self._db.close()
        self._lock.close()

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        """Execute one statement; gives the number of rows it changed."""
        try:
            return self._db.execute(statement, values).rowcount
        except sqlite3.OperationalError as error:
            # A full disk, mostly: what was recorded before stays.
            raise UserError(f"{self.path}: cannot record a reply ({error}); run the build again when it can") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> sqlite3.Connection:
    """The journal's file, ready; raises sqlite3.DatabaseError when it is damaged."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _salvage(path: Path, error: sqlite3.DatabaseError) -> sqlite3.Connection:
    """Move a damaged file aside and copy the replies it still gives into a new one."""
    aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%dT%H%M%S')}{path.suffix}")
    # Copied first and moved last: whoever is killed in between finds the damaged file in its place, and salvages again.
    fresh = path.with_name(f"{path.stem}.salvaged{path.suffix}")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    db = _open(fresh)
    db.execute("BEGIN")
    db.executemany(f"INSERT OR IGNORE INTO replies {_INSERT}", _readable(path))
    # A batch that is under way is paid for: without these its replies would belong to nothing.
    db.executemany(f"INSERT OR IGNORE INTO exported ({_EXPORTED}) VALUES (?, ?, ?, ?, ?)", _readable_exports(path))
    db.execute("COMMIT")
    saved = db.execute("SELECT COUNT(*) FROM replies").fetchone()[0]
    db.close()
    shutil.copyfile(path, aside)
    for suffix in ("-wal", "-shm"):
        part = Path(f"{path}{suffix}")
        if part.exists():
            os.replace(part, f"{aside}{suffix}")
    os.replace(fresh, path)
    db = _open(path)
    log.warning(
        f"{path}: was damaged ({str(error).strip()}); {saved} replies were read from it and are kept, what was lost is asked "
        f"again; the damaged file is {aside.name}"
    )
    return db


def _readable(path: Path) -> Iterator[tuple[Any, ...]]:
    """The replies a damaged file still gives, read one by one past the pages that are lost."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    misses, number = 0, 0
    try:
        # The last number is not known: a stretch this long without any reply is the end.
        while misses < 100_000:
            number += 1
            try:
                row = db.execute(f"SELECT {_COLUMNS} FROM replies WHERE number = ?", (number,)).fetchone()
                if row is None:
                    misses += 1
                    continue
                json.loads(row[4]), Reply(**json.loads(row[5]))
            except (sqlite3.DatabaseError, ValueError, TypeError):
                misses += 1
                continue
            misses = 0
            yield row
    finally:
        db.close()


def _readable_exports(path: Path) -> Iterator[tuple[Any, ...]]:
    """What a damaged file still gives of the requests that were exported: from both ends up to the pages that are lost."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        for order in ("ASC", "DESC"):
            # A page that is lost, or a file of before there were exports.
            with contextlib.suppress(sqlite3.DatabaseError):
                yield from db.execute(f"SELECT {_EXPORTED} FROM exported ORDER BY key {order}")
    finally:
        db.close()
