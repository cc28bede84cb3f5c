"""A model behind a server of the OpenAI-compatible chat API: bounded requests in flight, bounded retries.

What a server refuses (HTTP 400) is the row's answer, and counted. What fails in transport is sent again, with pauses that double;
a row that fails to the last is left for the next start, and so are all others once the server gives no sign of life. Only the
configured address is contacted: proxy variables and redirects are ignored. The key is in no message.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from pipeline.config.evaluation import LabModel
from pipeline.data.images import ImageError, open_rgb, plain_jpeg
from pipeline.errors import UserError
from stages.evaluation.backends.base import Generation, GenerationRequest, SamplingParams, parts

_REFUSED = (400, 413, 415, 422)
_MISCONFIGURED = (401, 403, 404, 405)
_TRIES = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_TIMEOUT = 600.0
_DEAD = 8
"""Rows in a row that failed to the last, after which the server counts as dead."""
_KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 after which uvicorn, and so vLLM, closes it under a request."""


class _Failed(Exception):
    """A request that should be sent again, `pause` seconds from now at the earliest."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class Served:
    """See the module.

    Args:
        model: `options` go into the body of every request.
        concurrency: most requests in flight.
    """

    def __init__(self, model: LabModel, concurrency: int, first_pause: float = _FIRST_PAUSE) -> None:
        self._model, self._concurrency, self._first_pause = model, concurrency, first_pause
        self._url = f"{(model.base_url or '').rstrip('/')}/chat/completions"
        self._key = os.environ.get(model.api_key_env, "").strip() if model.api_key_env else ""
        self._failed_in_a_row = 0

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        """See `Backend`; rows whose requests failed in transport do not come back.

        Raises:
            UserError: when the server is dead, or refuses the key, the model's name or the address.
        """
        with (
            asyncio.Runner() as runner
        ):  # The loop turns only while the next answer is awaited; writing one takes no time.
            answers = self._answers(asks, how)
            try:
                while (said := runner.run(_next(answers))) is not None:
                    yield [said]
            finally:
                runner.run(answers.aclose())

    def peak_memory(self) -> int | None:
        """See `Backend`."""
        return None

    async def _answers(
        self, asks: Sequence[GenerationRequest], how: SamplingParams
    ) -> AsyncGenerator[Generation, None]:
        self._failed_in_a_row = 0
        gate = asyncio.Semaphore(self._concurrency)
        connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=_KEEP_ALIVE)
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT, sock_connect=10)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            tasks = [asyncio.create_task(self._one(session, gate, ask, how)) for ask in asks]
            try:
                for done in asyncio.as_completed(tasks):
                    if said := await done:
                        yield said
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, session: Any, gate: asyncio.Semaphore, ask: GenerationRequest, how: SamplingParams
    ) -> Generation | None:
        """The answer to a row; None when it is left for the next start."""
        async with gate:
            began = time.monotonic()
            try:
                body = await asyncio.to_thread(self._body, ask, how)
            except ImageError as error:
                return Generation(ask.id, "", failed=error.reason, detail=str(error))
            for number in range(_TRIES):
                try:
                    said = await self._send(session, ask, body, how, began)
                except _Failed as failure:
                    why = failure
                    if number + 1 < _TRIES:
                        await asyncio.sleep(min(_LONGEST_PAUSE, max(failure.pause, self._first_pause * 2**number)))
                else:
                    self._failed_in_a_row = 0
                    return said
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= min(_DEAD, self._concurrency):
            raise UserError(f"{self._url} does not answer ({why}); what is answered is kept, the same command goes on")
        print(f"  {ask.id}: not answered: {why}", file=sys.stderr, flush=True)
        return None

    async def _send(
        self, session: Any, ask: GenerationRequest, body: bytes, how: SamplingParams, began: float
    ) -> Generation:
        try:
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                data, status = await response.read(), response.status
                asked_pause = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Failed(self._public(f"{type(error).__name__}: {error}")) from error
        seconds = time.monotonic() - began
        if status == 200:
            try:
                return _said(ask.id, json.loads(data), seconds, how)
            except (ValueError, TypeError, LookupError) as error:
                raise _Failed(self._public(f"no completion: {error!r}")) from error
        message = self._public(f"HTTP {status}: {data[:500].decode(errors='replace')}")
        if status in _REFUSED:
            return Generation(ask.id, "", seconds=seconds, failed="request_refused", detail=message)
        if status in _MISCONFIGURED:
            raise UserError(f"{self._url}: {message}; check base_url, the model's name and its key")
        raise _Failed(message, pause=float(asked_pause) if asked_pause.isdigit() else 0.0)

    def _body(self, ask: GenerationRequest, how: SamplingParams) -> bytes:
        content = [
            {"type": "text", "text": piece}
            if isinstance(piece, str)
            else {"type": "image_url", "image_url": {"url": _data_url(ask.images[piece])}}
            for piece in parts(ask.text, len(ask.images))
        ]
        # Text alone travels as a string, which every server takes.
        messages: list[dict[str, Any]] = [{"role": "user", "content": content if ask.images else content[0]["text"]}]
        body: dict[str, Any] = {"model": self._model.name_or_path, "max_tokens": how.max_new_tokens}
        body |= {"temperature": how.temperature, "top_p": how.top_p, "seed": ask.seed % 2**31}
        if ask.said:  # vLLM and SGLang go on from an answer that has begun when they are told so.
            messages.append({"role": "assistant", "content": ask.said})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return json.dumps({**body, **self._model.options, "messages": messages}).encode()

    def _public(self, message: str) -> str:
        return (message.replace(self._key, "***") if self._key else message)[:500]


async def _next(answers: AsyncGenerator[Generation, None]) -> Generation | None:
    return await anext(answers, None)


def _said(row_id: str, completion: Any, seconds: float, how: SamplingParams) -> Generation:
    choice = completion["choices"][0]
    text = choice["message"]["content"] or ""  # null where a reasoning model was cut off.
    if not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    counts = completion.get("usage") or {}
    tokens = int(counts.get("completion_tokens") or 0)
    scored = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
    return Generation(
        row_id,
        text.encode("utf-8", "replace").decode(),  # JSON may hold lone surrogates, which no file can.
        tokens=tokens,
        prompt_tokens=counts.get("prompt_tokens"),
        truncated=choice.get("finish_reason") == "length",
        seconds=seconds,
        logprob=sum(scored) / len(scored) if scored else None,
    )


def _data_url(path: Path) -> str:
    """A picture as it is where every reader decodes it alike, else as PNG."""
    data, kind = plain_jpeg(path, longest_side=10**9), "jpeg"
    if data is None:
        buffer = io.BytesIO()
        open_rgb(path).save(buffer, "PNG")
        data, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
