"""Every request and its reply, kept for good: what is here is never asked again.

One SQLite file in WAL mode. A reply is committed before it counts, so `kill -9` loses none of them; a power cut may
lose the last few, which are then asked again. Rows are only ever added. The key is the digest of everything that can
change the reply (`teachers.Request`), so changing a filter re-judges without asking, and changing a prompt asks again.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from pathlib import Path
from typing import IO, Self

from cot_builder.teachers import Reply, Request
from pipeline.errors import UserError

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
)
"""

_COLUMNS = "key, row_id, teacher, attempt, request, reply, unix_time"


class Journal:
    """The journal in `folder`, locked for one writer.

    Raises:
        UserError: when another build holds it, or its file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "replies.sqlite"
        self._lock: IO[str] = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UserError(f"{folder}: another build is using this journal; wait for it or stop it") from error
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            cure = "move it away to ask everything again"
            raise UserError(f"{self.path}: not readable as a journal ({error}); {cure}") from error

    def find(self, key: str) -> tuple[int, Reply] | None:
        """The (number, reply) recorded under a key."""
        row = self._db.execute("SELECT number, reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], Reply(**json.loads(row[1])))

    def read(self, number: int) -> Reply:
        """The reply with a number that `find` or `add` gave."""
        row = self._db.execute("SELECT reply FROM replies WHERE number = ?", (number,)).fetchone()
        return Reply(**json.loads(row[0]))

    def add(self, request: Request, reply: Reply, *, row_id: str, teacher: str, attempt: int) -> int:
        """Record a reply; it is durable against a killed process when this returns. Gives its number."""
        record, answer = json.dumps(request.record), json.dumps(vars(reply))
        values = (request.key, row_id, teacher, attempt, record, answer, time.time())
        try:
            cursor = self._db.execute(f"INSERT INTO replies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.OperationalError as error:  # A full disk, mostly: what was recorded before stays.
            raise UserError(f"{self.path}: cannot record a reply ({error}); run the build again when it can") from error
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Fold the write-ahead log into the file and let another build in."""
        self._db.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
