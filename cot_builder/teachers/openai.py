"""A teacher behind servers of the OpenAI-compatible chat API: many requests in flight, bounded retries.

What a server refuses (HTTP 400) is data; what fails in transport is sent again, to whichever endpoint is free
(cot_builder/teachers/endpoints.py). A request that fails to the last while its endpoint answers others is given up with a reason
of its own: one picture at which a server stumbles must not hold up a build.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from cot_builder.teachers.base import (
    GIVEN_UP,
    EndpointState,
    Reply,
    TeacherDown,
    TeacherQuestion,
    TeacherRequest,
    Unanswered,
    draw_seed,
)
from cot_builder.teachers.config import OpenAIConfig, api_key
from cot_builder.teachers.endpoints import Endpoint, Failure, Lease, Pool
from cot_builder.teachers.images import ENCODING
from pipeline.data.images import ImageError
from pipeline.data.questions.image_marks import split_at_marks, without_marks
from pipeline.files import digest, weights_digest
from pipeline.runs.phases import served_as_key
from pipeline.system.chat_api import (
    DENIED,
    ErrorReply,
    adapted,
    address_hint,
    fields_not_taken,
    read_choice,
)
from pipeline.system.chat_client import MISCONFIGURED, REFUSED, ChatClient

log = logging.getLogger(__name__)

_DENIED_KINDS = tuple(f"http_{status}" for status in DENIED)
_DENIALS = 2
"""Denied requests after which a server that has answered none is taken for one that knows the key no better."""
_TRIES_WHEN_DENIED = 2
"""Times a request is sent that a server denies while it answers others: a moderation seldom changes its mind."""
_MODERATION = re.compile(r"moderat|flagg|polic|safety|inappropriate|sensitive|content[_ ]filter|blocked", re.IGNORECASE)
_PROBE = "Answer with the word yes."


class OpenAITeacher:
    """See the module.

    Args:
        name: recorded with every row.
        config: model, endpoints and sampling.
        run_seed: part of every sampling seed.
        concurrency: most requests in flight per endpoint, where the configuration does not say.
    """

    def __init__(self, name: str, config: OpenAIConfig, run_seed: int, concurrency: int) -> None:
        self.name = name
        self.sample: tuple[TeacherQuestion, TeacherRequest] | None = None
        """A question that was answered once, this time or before: asked again (for one token) to see whether a server works."""
        self._config, self._run_seed = config, run_seed
        self._not_taken: set[str] = set()
        """Fields that the server refuses, by its words: left out, or sent under another name."""
        self._denied = self._probed = 0
        self._probes: dict[Endpoint, asyncio.Task[bool]] = {}
        per_endpoint = config.concurrency or concurrency
        self.concurrency = per_endpoint * len(config.base_urls)
        cure = f"is its server up? ./launch/serve_teacher.sh starts one from the teacher's file ({name}.yaml)"
        self._pool = Pool(config.base_urls, per_endpoint, config.patience, cure)
        self._addresses = {url: URL(f"{url.rstrip('/')}/chat/completions") for url in config.base_urls}
        # `_send` holds the whole request to its time; a server that cannot be reached is given up sooner.
        self._client = ChatClient(api_key(config) or "EMPTY", self.concurrency, min(10.0, 0.9 * config.timeout))
        # A model that is a folder here can be trained anew under the same path.
        self._revision = config.revision or weights_digest(Path(config.model))
        self._served_as = served_as_key(config.serve)

    def leave_out(self, fields: Iterable[str]) -> None:
        """Send no such fields, or under their other name, as is done of itself once a server refuses them."""
        self._not_taken |= set(fields)

    def request(self, question: TeacherQuestion) -> TeacherRequest:
        """Return everything the reply depends on; the picture is named by the digest of its file."""
        config = self._config
        # A question about text alone is asked once, whichever rows want it.
        about = question.row.id if question.pictures else digest(question.text)
        sampling: dict[str, Any] = {
            "temperature": config.temperature if question.temperature is None else question.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens if question.max_tokens is None else question.max_tokens,
            "seed": draw_seed(self._run_seed, config.model, about, question.attempt),
            "extra_body": dict(config.extra_body),
        }
        if question.choices and config.structured_outputs:
            sampling["choices"] = list(question.choices)
        record: dict[str, Any] = {
            "teacher": "openai",
            "model": config.model,
            "revision": self._revision,
            "mode": question.mode,
            "prompt": question.prompt.digest,
            "text": question.text,
            "picture_first": question.picture_first,
            "sampling": sampling,
        }
        if self._served_as:
            record["served_as"] = self._served_as
        if question.pictures:
            digests = [picture.digest for picture in question.pictures]
            record["image_sha256"] = digests[0] if len(digests) == 1 else digests
            record["encoding"] = {"format": ENCODING, "longest_side": config.image_size}
        return TeacherRequest.of(record)

    async def ask(self, question: TeacherQuestion, request: TeacherRequest) -> Reply:
        """Send a request until it is answered or refused, at most `retries` times again.

        One that fails to the last at an endpoint that answers other requests is given up: its reply is refused, and `GIVEN_UP`
        in its usage says why.
        """
        body: bytes | None = None
        failures, left, first = 0, None, 0.0
        while True:
            lease = await self._pool.take(besides=left)
            try:
                # Not while it waits: hundreds of rows may, and a picture is large.
                if body is None:
                    body = await self._encoded(question, request)
                reply = await self._send(lease, body, movable=left is None)
            except Failure as failure:
                if lease.moved:
                    self._pool.give_back(lease, answered=False)
                    left = lease.endpoint
                    continue
                first = first or time.monotonic()
                try:
                    own = await self._is_the_requests(lease, failure, failures + 1, first)
                except BaseException:
                    self._pool.give_back(lease, answered=False)
                    raise
                if own:
                    self._pool.give_back(lease, answered=False)
                    return Reply("", refused=str(failure), usage={GIVEN_UP: _given_up_as(failure.kind)})
                self._pool.give_back(lease, failure)
                failures += not failure.absent
                if failures > self._config.retries:
                    raise Unanswered(f"failed {failures} times, last with {failure.kind} ({failure})") from failure
            except BaseException:
                self._pool.give_back(lease, answered=False)
                raise
            else:
                self._pool.give_back(lease)
                if reply.refused is not None and self._adapts(reply.refused, body):
                    body = None
                    continue
                return reply

    async def _encoded(self, question: TeacherQuestion, request: TeacherRequest) -> bytes:
        return _body(request.record, await self._urls(question), self._not_taken)

    async def _urls(self, question: TeacherQuestion) -> list[str]:
        return [await picture.data_url(self._config.image_size) for picture in question.pictures]

    def _adapts(self, refused: str, body: bytes) -> bool:
        """Whether the server refuses fields it takes in another form, or not at all, so that the request is sent once more."""
        found = fields_not_taken(refused, json.loads(body[: body.index(b', "messages": ')] + b"}"))
        if new := found - self._not_taken:
            self._not_taken |= new
            form = ", ".join(sorted(adapted(dict.fromkeys(new), new))) or "no such field"
            log.warning(f"teacher {self.name}: its server takes no {', '.join(sorted(new))}; it is asked with {form}")
        return bool(found)

    async def _is_the_requests(self, lease: Lease, failure: Failure, times: int, first: float) -> bool:
        """Whether a failure is the request's own: it has failed often enough, and its endpoint answers others.

        Args:
            lease: where it failed.
            failure: how; its `absent` becomes true for a denial that says nothing of the request.
            times: how often it has failed, this time included.
            first: when it failed first.

        Raises:
            TeacherDown: when the server denies every request.
        """
        endpoint, denied = lease.endpoint, failure.kind in _DENIED_KINDS
        if failure.absent or failure.kind == "http_429":
            return False
        most = min(self._config.retries + 1, _TRIES_WHEN_DENIED) if denied else self._config.retries + 1
        works = self.sample is not None or any(each.answered for each in self._pool.endpoints)
        if denied and not works:
            self._denied += 1
            alone = self._denied == 1 and endpoint.load == 1
            if (alone or _MODERATION.search(str(failure))) and await self._answers(endpoint):
                return times >= most
            if alone or self._denied >= _DENIALS:
                self._pool.stop(f"{endpoint.url} answers {failure}")
                raise TeacherDown(self._pool.why_down)
            return False
        impatient = self._pool.is_impatient()
        if times < most and not impatient:
            return False
        alive = endpoint.answered_at > first or (works and await self._answers(endpoint))
        if alive:
            self._pool.works(endpoint)
        failure.absent = denied and not alive
        return alive and times >= min(most, _TRIES_WHEN_DENIED)

    async def _answers(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint answers something else now; requests that want to know at one time share one try."""
        probe = self._probes.get(endpoint)
        if probe is None or probe.done():
            probe = self._probes[endpoint] = asyncio.create_task(self._probe(endpoint))
        return await asyncio.shield(probe)

    async def _probe(self, endpoint: Endpoint) -> bool:
        self._probed += 1
        record: dict[str, Any] = {"model": self._config.model, "text": _PROBE, "picture_first": False, "sampling": {}}
        if self.sample is not None:
            record = self.sample[1].record
        # Answers are not kept, and as short as can be.
        sampling = {"extra_body": {}, **record["sampling"], "max_tokens": 1, "seed": self._probed}
        return await self._is_answered(endpoint, {**record, "sampling": sampling})

    async def _is_answered(self, endpoint: Endpoint, record: Mapping[str, Any]) -> bool:
        """Whether an endpoint answers what `sample`, or a question without a picture, is asked with."""
        try:
            pictures = await self._urls(self.sample[0]) if self.sample is not None else []
            sent = _body(record, pictures, self._not_taken)
            reply = await self._send(Lease(endpoint, time.monotonic()), sent, movable=False)
        except (Failure, TeacherDown, ImageError):
            return False
        return reply.refused is None

    async def still_answers(self) -> bool:
        """Check whether one of its servers answers `sample` now, word for word: a shorter one might be taken and rows not."""
        if self.sample is None:
            return False
        record = self.sample[1].record
        return any([await self._is_answered(endpoint, record) for endpoint in self._pool.endpoints])

    async def body(self, question: TeacherQuestion, request: TeacherRequest) -> dict[str, Any]:
        """Return the body of a request as it is sent, for asking elsewhere.

        Raises:
            ImageError: when its picture cannot be read.
        """
        sent: dict[str, Any] = json.loads(await self._encoded(question, request))
        return sent

    def endpoints(self) -> list[EndpointState]:
        """Return how its servers are doing."""
        return self._pool.states()

    def stop(self, why: str) -> None:
        """Send nothing more: requests that wait raise TeacherDown(why), those in flight may finish."""
        self._pool.stop(why)

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        await self._client.close()

    async def _send(self, lease: Lease, body: bytes, *, movable: bool) -> Reply:
        """One request to one endpoint.

        Raises:
            Failure: when it should be sent again.
            TeacherDown: when no request of this configuration can succeed.
        """
        url = lease.endpoint.url
        try:
            async with asyncio.timeout(self._config.timeout) as alarm:
                lease.alarm = alarm if movable else None
                answer = await self._client.post(self._addresses[url], body)
                data, status = answer.data, answer.status
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Failure("connection_error", self._public(str(error)), absent=True) from error
        except TimeoutError as error:
            raise Failure("timeout", f"no reply within {self._config.timeout:g} s") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise Failure("connection_error", self._public(repr(error))) from error
        except (aiohttp.ClientError, ValueError) as error:
            # Not HTTP.
            raise Failure("malformed_reply", self._public(repr(error))) from error
        hint = address_hint(url, status)
        if status == 200:
            # An error in the place of a completion, often with the status it should have had.
            try:
                return read_completion(json.loads(data))
            except ErrorReply as error:
                status, data = error.status or 500, str(error).encode()
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                # Not the JSON of a completion: cut off, or from something else at that address.
                raise Failure("malformed_reply", self._public(repr(error)) + hint) from error
        message = self._public(f"HTTP {status}: {data[:4000].decode(errors='replace')}") + hint
        if status in REFUSED:
            return Reply("", refused=message)
        if status in MISCONFIGURED and any(endpoint.answered for endpoint in self._pool.endpoints):
            # The configuration was right, so this server was changed: it rests, and the others go on.
            raise Failure(f"http_{status}", message, absent=True)
        if status in MISCONFIGURED:
            self._pool.stop(f"{url} answers {message}")
            raise TeacherDown(self._pool.why_down)
        raise Failure(f"http_{status}", message, pause=answer.pause)

    def _public(self, message: str) -> str:
        """A server's message without the key, short enough to keep."""
        return self._client.without_key(message)[:2000]


def _given_up_as(kind: str) -> str:
    """The reason of a request that was given up, out of how it failed."""
    if kind in _DENIED_KINDS:
        return "moderated"
    return "no_reply" if kind in ("timeout", "connection_error") else "server_error"


def _body(record: Mapping[str, Any], pictures: Sequence[str], not_taken: Collection[str] = ()) -> bytes:
    """The JSON of a request. The pictures, which are nearly all of it, are put in as they are: base64 needs no escapes."""
    sampling = dict(record["sampling"])
    extra, choices = sampling.pop("extra_body"), sampling.pop("choices", None)
    if choices:
        extra = {**extra, "structured_outputs": {"choice": choices}}
    text, places = record["text"], range(len(pictures))
    if without_marks(text) != text:
        pieces = split_at_marks(text, len(pictures))
    else:
        # Text first, unless asked otherwise: it is the same for every row, so the server's prefix cache holds it.
        pieces = [*places, text] if record["picture_first"] else [text, *places]
    content = [
        f'{{"type": "image_url", "image_url": {{"url": "{pictures[piece]}"}}}}'
        if isinstance(piece, int)
        else json.dumps({"type": "text", "text": piece})
        for piece in pieces
    ]
    head = json.dumps({"model": record["model"], **adapted(sampling, not_taken), **extra})[:-1]
    return f'{head}, "messages": [{{"role": "user", "content": [{", ".join(content)}]}}]}}'.encode()


def read_completion(completion: Any) -> Reply:
    """Return the text of a completion, and its thought where the server tells it apart.

    Raises:
        ErrorReply: when it is an error in the place of a completion.
        ValueError, TypeError, LookupError, AttributeError: when it is no completion.
    """
    text, thought, choice = read_choice(completion)
    usage = completion.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    known = {name: counts[name] for name in ("prompt_tokens", "completion_tokens") if isinstance(counts.get(name), int)}
    reason = choice.get("finish_reason")
    usage = {"finish_reason": reason if isinstance(reason, str) else None, **known}
    if reason == "content_filter" and not text.strip():
        return Reply("", refused="the server's content filter left no text", usage={**usage, GIVEN_UP: "moderated"})
    return Reply(text, usage=usage, thought=thought)
