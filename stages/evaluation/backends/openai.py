"""A model behind a server of the OpenAI-compatible chat API: bounded requests in flight, bounded retries.

What a server refuses (HTTP 400) is the row's answer, and counted. What fails in transport is sent again, with pauses that double.
A row that fails to the last while the server answers others is counted too (server_error, no_reply, moderated); when it answers
none, the row is left for the next start, and so are all others once the server gives no sign of life. Only the configured address
is contacted: proxy variables and redirects are ignored. The key is in no message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from pipeline.config.evaluation import RENAME, LabModel
from pipeline.data.images import ImageError, encode_picture, open_rgb, plain_jpeg
from pipeline.data.questions.image_marks import split_at_marks
from pipeline.errors import UserError
from pipeline.system.chat_api import DENIED, ErrorReply, adapted, address_hint, data_url, fields_not_taken, read_choice
from pipeline.system.chat_client import LONGEST_PAUSE, MISCONFIGURED, REFUSED, ChatClient
from stages.evaluation.backends.base import Generation, GenerationRequest, SamplingParams

log = logging.getLogger(__name__)

_TRIES, _TRIES_WHEN_DENIED = 6, 2
_FIRST_PAUSE = 0.5
_TIMEOUT = 600.0
_DEAD = 8
"""Rows in a row that failed to the last, after which the server counts as dead."""


class _Failed(Exception):
    """A request that should be sent again, `pause` seconds from now at the earliest; `kind` is the reason if none succeeds."""

    def __init__(self, why: str, kind: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.kind, self.pause = kind, pause


class Served:
    """See the module.

    Args:
        model: `options` go into the body of every request.
        concurrency: most requests in flight.
    """

    def __init__(self, model: LabModel, concurrency: int, first_pause: float = _FIRST_PAUSE) -> None:
        self._model, self._concurrency, self._first_pause = model, concurrency, first_pause
        self._url = f"{(model.base_url or '').rstrip('/')}/chat/completions"
        self._key = os.environ.get(model.api_key_env, "").strip() if model.api_key_env else None
        self._failed_in_a_row = 0
        self._not_taken: set[str] = set()
        """Fields that the server refuses, by its words: left out, or sent under another name."""
        self._sample: tuple[GenerationRequest, SamplingParams] | None = None
        """What was answered last: asked again to see whether the server works."""
        self._answered_at = 0.0

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        """See `Backend`; rows whose requests failed in transport do not come back.

        Raises:
            UserError: when the server is dead, or refuses the key, the model's name or the address.
        """
        # The loop turns only while the next answer is awaited; writing one takes no time.
        with asyncio.Runner() as runner:
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
        async with ChatClient(self._key, self._concurrency, total_seconds=_TIMEOUT) as client:
            tasks = [asyncio.create_task(self._one(client, gate, ask, how)) for ask in asks]
            try:
                for done in asyncio.as_completed(tasks):
                    if said := await done:
                        yield said
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, client: ChatClient, gate: asyncio.Semaphore, ask: GenerationRequest, how: SamplingParams
    ) -> Generation | None:
        """The answer to a row; None when it is left for the next start."""
        async with gate:
            began = first = time.monotonic()
            for number in range(_TRIES):
                try:
                    said = await self._send(client, ask, how, began)
                except ImageError as error:
                    return Generation(ask.id, "", failed=error.reason, detail=str(error))
                except _Failed as failure:
                    why = failure
                    first = first if number else time.monotonic()
                    if number + 1 == (_TRIES_WHEN_DENIED if failure.kind == "moderated" else _TRIES):
                        break
                    await asyncio.sleep(min(LONGEST_PAUSE, max(failure.pause, self._first_pause * 2**number)))
                else:
                    self._failed_in_a_row, self._answered_at = 0, time.monotonic()
                    self._sample = (ask, how) if said.failed is None else self._sample
                    return said
            if why.kind and (self._answered_at > first or await self._works(client, why)):
                return Generation(ask.id, "", seconds=time.monotonic() - began, failed=why.kind, detail=str(why))
        if why.kind == "moderated":
            raise UserError(f"{self._url}: {why}; check base_url, the model's name and its key")
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= min(_DEAD, self._concurrency):
            raise UserError(f"{self._url} does not answer ({why}); what is answered is kept, the same command goes on")
        log.warning("  %s: not answered: %s", ask.id, why)
        return None

    async def _works(self, client: ChatClient, why: _Failed) -> bool:
        """Whether the server answers what it has answered before; a denial may also be held against a word of text alone."""
        if self._sample is None and why.kind != "moderated":
            return False
        ask, how = self._sample or (GenerationRequest("", "Answer with the word yes."), SamplingParams(1))
        try:
            said = await self._send(client, ask, replace(how, max_new_tokens=1), time.monotonic())
        except (_Failed, ImageError):
            return False
        return said.failed is None

    async def _send(self, client: ChatClient, ask: GenerationRequest, how: SamplingParams, began: float) -> Generation:
        """One request.

        Raises:
            _Failed: when it should be sent again.
            ImageError: when a picture cannot be read.
            UserError: when no request can succeed.
        """
        body = await asyncio.to_thread(self._body, ask, how)
        try:
            answer = await client.post(self._url, body)
            data, status = answer.data, answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Where no connection was made, the row is not to blame.
            kind = "" if isinstance(error, aiohttp.ClientConnectorError) else "no_reply"
            raise _Failed(client.without_key(f"{type(error).__name__}: {error}")[:500], kind) from error
        seconds, hint = time.monotonic() - began, address_hint(self._url.removesuffix("/chat/completions"), status)
        if status == 200:
            # An error in the place of a completion, often with the status it should have had.
            try:
                return _said(ask.id, json.loads(data), seconds, how)
            except ErrorReply as error:
                status, data = error.status or 500, str(error).encode()
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise _Failed(client.without_key(f"no completion: {error!r}")[:500] + hint, "server_error") from error
        message = client.without_key(f"HTTP {status}: {data.decode(errors='replace')}")[:500] + hint
        if status in REFUSED:
            if new := fields_not_taken(message, json.loads(body)) - self._not_taken:
                self._not_taken |= new
                log.warning("  %s: takes no %s", self._url, ", ".join(sorted(new)))
                return await self._send(client, ask, how, began)
            return Generation(ask.id, "", seconds=seconds, failed="request_refused", detail=message)
        if status in MISCONFIGURED:
            raise UserError(f"{self._url}: {message}; check base_url, the model's name and its key")
        kind = "moderated" if status in DENIED else "" if status == 429 else "server_error"
        raise _Failed(message, kind, pause=answer.pause)

    def _body(self, ask: GenerationRequest, how: SamplingParams) -> bytes:
        content = [
            {"type": "text", "text": piece}
            if isinstance(piece, str)
            else {"type": "image_url", "image_url": {"url": _data_url(ask.images[piece])}}
            for piece in split_at_marks(ask.text, len(ask.images))
        ]
        # Text alone travels as a string, which every server takes.
        messages: list[dict[str, Any]] = [{"role": "user", "content": content if ask.images else content[0]["text"]}]
        body: dict[str, Any] = {"model": self._model.name_or_path, "max_tokens": how.max_new_tokens}
        body |= {"temperature": how.temperature, "top_p": how.top_p, "seed": ask.seed % 2**31}
        # vLLM and SGLang go on from an answer that has begun when they are told so.
        if ask.said:
            messages.append({"role": "assistant", "content": ask.said})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        own = dict(self._model.options)
        names = own.pop(RENAME, None) or {}
        body = {names.get(name, name): value for name, value in adapted(body, self._not_taken).items()} | own
        return json.dumps({k: v for k, v in body.items() if v is not None} | {"messages": messages}).encode()


async def _next(answers: AsyncGenerator[Generation, None]) -> Generation | None:
    return await anext(answers, None)


def _said(row_id: str, completion: Any, seconds: float, how: SamplingParams) -> Generation:
    text, thought, choice = read_choice(completion)
    counts = completion.get("usage") or {}
    tokens = int(counts.get("completion_tokens") or 0)
    scored = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
    return Generation(
        row_id,
        text,
        tokens=tokens,
        prompt_tokens=counts.get("prompt_tokens"),
        truncated=choice.get("finish_reason") == "length",
        seconds=seconds,
        logprob=sum(scored) / len(scored) if scored else None,
        failed="moderated" if choice.get("finish_reason") == "content_filter" and not text.strip() else None,
        thought=thought,
    )


def _data_url(path: Path) -> str:
    """A picture as it is where every reader decodes it alike, else as PNG."""
    data, kind = plain_jpeg(path, longest_side=10**9), "jpeg"
    if data is None:
        data, kind = encode_picture(open_rgb(path), "PNG"), "png"
    return data_url(data, kind)
