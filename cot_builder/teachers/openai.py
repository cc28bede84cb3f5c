"""A teacher behind servers of the OpenAI-compatible chat API: many requests in flight, bounded retries.

What a server refuses (HTTP 400) is data; what fails in transport is sent again, to whichever endpoint is free
(cot_builder/teachers/endpoints.py). Only the configured addresses are contacted: proxy variables and redirects are ignored. The
API is two JSON objects, so aiohttp speaks it directly; a client library spends several times a request's processor time.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from cot_builder.teachers.base import EndpointState, Question, Reply, Request, TeacherDown, Unanswered, draw_seed
from cot_builder.teachers.config import OpenAIConfig, api_key
from cot_builder.teachers.endpoints import Failure, Lease, Pool
from cot_builder.teachers.images import ENCODING
from pipeline.files import digest, weights_digest
from pipeline.runs.phases import SERVED_AS

_REFUSED = (400, 413, 415, 422)
"""Statuses that say: this request is not served, now or later."""
_MISCONFIGURED = (401, 403, 404, 405)
"""Statuses every request would get: a wrong key, model name or address."""
_KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 after which uvicorn, and so vLLM, closes it under a request."""


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
        self._config, self._run_seed = config, run_seed
        per_endpoint = config.concurrency or concurrency
        self.concurrency = per_endpoint * len(config.base_urls)
        self._key = api_key(config) or "EMPTY"
        cure = f"is its server up? ./launch/serve_teacher.sh starts one from the teacher's file ({name}.yaml)"
        self._pool = Pool(config.base_urls, per_endpoint, config.patience, cure)
        self._addresses = {url: URL(f"{url.rstrip('/')}/chat/completions") for url in config.base_urls}
        self._session: aiohttp.ClientSession | None = None
        # A model that is a folder here can be trained anew under the same path.
        self._revision = config.revision or weights_digest(Path(config.model))

    def request(self, question: Question) -> Request:
        """Everything the reply depends on; the picture is named by the digest of its file."""
        config = self._config
        # A question about text alone is asked once, whichever rows want it.
        about = question.row.id if question.picture else digest(question.text)
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
        served_as = {flag: value for flag, value in config.serve.items() if flag in SERVED_AS}
        if served_as:
            record["served_as"] = served_as
        if question.picture:
            record["image_sha256"] = question.picture.digest
            record["encoding"] = {"format": ENCODING, "longest_side": config.image_size}
        return Request.of(record)

    async def ask(self, question: Question, request: Request) -> Reply:
        """Send a request until it is answered or refused, at most `retries` times again."""
        body: bytes | None = None
        failures, left = 0, None
        while True:
            lease = await self._pool.take(besides=left)
            try:
                if body is None:  # Not while it waits: hundreds of rows may, and a picture is large.
                    picture = await question.picture.data_url(self._config.image_size) if question.picture else None
                    body = _body(request.record, picture)
                reply = await self._send(lease, body, movable=left is None)
            except Failure as failure:
                if lease.moved:
                    self._pool.give_back(lease, answered=False)
                    left = lease.endpoint
                    continue
                self._pool.give_back(lease, failure)
                failures += not failure.absent
                if failures > self._config.retries:
                    raise Unanswered(f"failed {failures} times, last with {failure.kind}") from failure
            except BaseException:
                self._pool.give_back(lease, answered=False)
                raise
            else:
                self._pool.give_back(lease)
                return reply

    async def body(self, question: Question, request: Request) -> dict[str, Any]:
        """The body of a request as it is sent, for asking elsewhere.

        Raises:
            ImageError: when its picture cannot be read.
        """
        picture = await question.picture.data_url(self._config.image_size) if question.picture else None
        sent: dict[str, Any] = json.loads(_body(request.record, picture))
        return sent

    def endpoints(self) -> list[EndpointState]:
        """How its servers are doing."""
        return self._pool.states()

    def stop(self, why: str) -> None:
        """Send nothing more: requests that wait raise TeacherDown(why), those in flight may finish."""
        self._pool.stop(why)

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        if self._session is not None:
            await self._session.close()

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
                async with self._connect().post(self._addresses[url], data=body, allow_redirects=False) as response:
                    data, status = await response.read(), response.status
                    pause = _retry_after(response.headers.get("Retry-After"))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Failure("connection_error", self._public(str(error)), absent=True) from error
        except TimeoutError as error:
            raise Failure("timeout", f"no reply within {self._config.timeout:g} s") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise Failure("connection_error", self._public(repr(error))) from error
        except (aiohttp.ClientError, ValueError) as error:  # Not HTTP.
            raise Failure("malformed_reply", self._public(repr(error))) from error
        if status == 200:
            try:
                return read_completion(json.loads(data))
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                # Not the JSON of a completion: cut off, or from something else at that address.
                raise Failure("malformed_reply", self._public(repr(error))) from error
        message = self._public(f"HTTP {status}: {data[:4000].decode(errors='replace')}")
        if status in _REFUSED:
            return Reply("", refused=message)
        if status in _MISCONFIGURED and any(endpoint.answered for endpoint in self._pool.endpoints):
            # The configuration was right, so this server was changed: it rests, and the others go on.
            raise Failure(f"http_{status}", message, absent=True)
        if status in _MISCONFIGURED:
            self._pool.stop(f"{url} answers {message}")
            raise TeacherDown(self._pool.why_down)
        raise Failure(f"http_{status}", message, pause=pause)

    def _connect(self) -> aiohttp.ClientSession:
        """The connections, as many as there may be requests; made here because they belong to the running loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self.concurrency, keepalive_timeout=_KEEP_ALIVE)
            # `_send` holds the whole request to its time; a server that cannot be reached is given up sooner.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, 0.9 * self._config.timeout))
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
            )
        return self._session

    def _public(self, message: str) -> str:
        """A server's message without the key, short enough to keep."""
        return _clean(message.replace(self._key, "***"))[:2000]


def _body(record: dict[str, Any], picture: str | None) -> bytes:
    """The JSON of a request. The picture, which is nearly all of it, is put in as it is: base64 needs no escapes."""
    sampling = dict(record["sampling"])
    extra, choices = sampling.pop("extra_body"), sampling.pop("choices", None)
    if choices:
        extra = {**extra, "structured_outputs": {"choice": choices}}
    # Text first, unless asked otherwise: it is the same for every row, so the server's prefix cache holds it.
    content = [json.dumps({"type": "text", "text": record["text"]})]
    if picture is not None:
        content.insert(
            0 if record["picture_first"] else 1, f'{{"type": "image_url", "image_url": {{"url": "{picture}"}}}}'
        )
    head = json.dumps({"model": record["model"], **sampling, **extra})[:-1]
    return f'{head}, "messages": [{{"role": "user", "content": [{", ".join(content)}]}}]}}'.encode()


def read_completion(completion: Any) -> Reply:
    """The text of a completion, which is empty when the server says null (a reasoning model that was cut off).

    Raises:
        ValueError, TypeError, LookupError: when it is not one.
    """
    choice = completion["choices"][0]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    usage = completion.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    known = {name: counts[name] for name in ("prompt_tokens", "completion_tokens") if isinstance(counts.get(name), int)}
    reason = choice.get("finish_reason")
    return Reply(_clean(text), usage={"finish_reason": reason if isinstance(reason, str) else None, **known})


def _clean(text: str) -> str:
    """`text` without lone surrogates, which JSON can carry and files cannot."""
    return text.encode("utf-8", "replace").decode()


def _retry_after(header: str | None) -> float:
    """Seconds the server asks us to wait, at most a minute; 0 when it does not say."""
    try:
        return min(60.0, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0
