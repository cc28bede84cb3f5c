"""Asking elsewhere: requests as OpenAI-batch JSONL, for `vllm run-batch` or any batch service, and their replies back.

    python -m cot_builder export --config FILE --out DIR       every request the journal cannot answer, per teacher
    vllm run-batch -i DIR/qwen-00000.jsonl -o OUT.jsonl --model …
    python -m cot_builder import --config FILE OUT.jsonl …     into the journal

What a row is asked next may depend on the last reply, so export and import again until nothing is left to export; `build` then
writes the rows without asking. ``custom_id`` is the journal's key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from cot_builder.build.ask import readable
from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import BuildPlan
from cot_builder.build.run import settle, teachers_of
from cot_builder.teachers.base import Reply, TeacherQuestion, Unanswered
from cot_builder.teachers.openai import OpenAITeacher, read_completion
from pipeline.errors import UserError, did_you_mean
from pipeline.system.chat_api import OPTIONAL, RENAMED, ErrorReply, fields_not_taken

MOST_REQUESTS = 50_000
MOST_BYTES = 190 * 1024 * 1024
"""Limits of one file at OpenAI (50,000 requests, 200 MB); vLLM has none."""
OMITTED = (*OPTIONAL, *RENAMED)
"""Fields that a service may take under another name, or not at all."""


class _Exporter:
    """An `Ask` that answers from the journal and writes down what is not there."""

    def __init__(
        self, plan: BuildPlan, journal: ReplyCache, folder: Path, most_bytes: int, omit: Collection[str] = ()
    ) -> None:
        self.teachers = teachers_of(plan)
        for teacher in self.teachers.values():
            if isinstance(teacher, OpenAITeacher):
                teacher.leave_out(omit)
        self.files: list[Path] = []
        self.requests: Counter[str] = Counter()
        self._journal, self._folder, self._most_bytes = journal, folder, most_bytes
        self._written: set[str] = set()
        self._open: dict[str, tuple[Path, int, int]] = {}
        """Teacher: its present file, and the requests and bytes in it."""

    async def __call__(self, name: str, question: TeacherQuestion) -> Reply:
        teacher = self.teachers[name]
        request = teacher.request(question)
        found = self._journal.find(request.key)
        if found is not None:
            return readable(found, question)
        origin: dict[str, Any] = {"row_id": question.row.id, "teacher": name, "attempt": question.attempt}
        if not isinstance(teacher, OpenAITeacher):
            reply = await teacher.ask(question, request)
            self._journal.add(request, reply, **origin)
            return reply
        if request.key not in self._written:
            # Before anything is awaited: another of the row's teachers may want the same.
            self._written.add(request.key)
            body = await teacher.body(question, request)
            line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            self._write(name, json.dumps(line) + "\n")
            self._journal.export(request, **origin)
        raise Unanswered("exported")

    def _write(self, teacher: str, line: str) -> None:
        path, requests, size = self._open.get(teacher, (None, 0, 0))
        if path is None or requests >= MOST_REQUESTS or size + len(line) > self._most_bytes:
            path = (
                self._folder / f"{teacher}-{sum(file.name.startswith(f'{teacher}-') for file in self.files):05d}.jsonl"
            )
            path.write_text("")
            self.files.append(path)
            requests = size = 0
        with path.open("a") as file:
            file.write(line)
        self._open[teacher] = (path, requests + 1, size + len(line))
        self.requests[teacher] += 1


async def export(
    plan: BuildPlan, journal: ReplyCache, folder: Path, most_bytes: int = MOST_BYTES, omit: Collection[str] = ()
) -> tuple[list[Path], Counter[str]]:
    """Write the requests that the rows need next, without the fields `omit`, or with them under their other name.

    Returns:
        The files, and the number of requests per teacher.

    Raises:
        UserError: when the folder holds requests of an earlier export, or no request has such a field.
    """
    if strange := [name for name in omit if name not in OMITTED]:
        raise UserError([f"--omit: {name!r} cannot be left out; {did_you_mean(name, OMITTED)}" for name in strange])
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.jsonl")):
        raise UserError(
            f"--out {folder}: holds .jsonl files already; name an empty folder, so that none is asked twice"
        )
    exporter = _Exporter(plan, journal, folder, most_bytes, omit)
    try:
        for index in plan.rows:
            try:
                await settle(plan, index, exporter)
            except Unanswered:
                continue
    finally:
        for teacher in exporter.teachers.values():
            await teacher.close()
    return exporter.files, exporter.requests


def take_in(journal: ReplyCache, files: Iterable[Path]) -> tuple[dict[str, int], Counter[str], set[str]]:
    """Record the replies of a batch.

    Returns:
        How many were new, known already and unknown to this build; reasons of the lines that hold no reply, which the next
        export asks again; and the fields that the service refused as such, for `export` to leave out.

    Raises:
        UserError: when a file cannot be read.
    """
    failed: Counter[str] = Counter()
    not_taken: set[str] = set()
    counts = journal.take_in(reply for file in files for reply in _replies(file, failed, not_taken))
    return counts, failed, not_taken


def _replies(file: Path, failed: Counter[str], not_taken: set[str]) -> Iterator[tuple[str, Reply]]:
    try:
        lines = file.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    with lines:
        for line in lines:
            try:
                found = json.loads(line)
                key = str(found["custom_id"])
                response = found.get("response") or {}
                status = response.get("status_code", 200 if response.get("body") else None)
                if status in (400, 413, 415, 422):
                    words = json.dumps(response.get("body") or found.get("error"))[:2000]
                    if fields := fields_not_taken(words, OMITTED):
                        # It says nothing of the row: every request of this form is refused.
                        not_taken |= fields
                        failed[f"http_{status}, takes no {', '.join(sorted(fields))}"] += 1
                    else:
                        yield key, Reply("", refused=f"HTTP {status}: {words}")
                elif status != 200 or found.get("error"):
                    failed[f"http_{status}" if status else "no_response"] += 1
                else:
                    yield key, read_completion(response["body"])
            except ErrorReply:
                # Also one that the service broke off.
                failed["error_reply"] += 1
            except (ValueError, TypeError, LookupError, AttributeError):
                failed["malformed_line"] += 1
