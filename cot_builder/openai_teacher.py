"""A teacher behind servers of the OpenAI-compatible chat API: many requests in flight, bounded retries.

What a server refuses (HTTP 400) is data; what fails in transport is sent again, to whichever endpoint is free
(cot_builder/endpoints.py). Only the configured addresses are contacted: proxy variables and redirects are ignored.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from cot_builder.endpoints import Endpoint, Failure, Pool
from cot_builder.prompt import Prompt
from cot_builder.teachers import (
    OpenAIConfig,
    Reply,
    Request,
    TeacherDown,
    Unanswered,
    UnreadableImage,
    api_key,
    draw_seed,
)
from pipeline.images import ImageError, open_rgb
from pipeline.run import file_digest, weights_digest
from pipeline.tasks import Example, Task

_ENCODING = "jpeg-q92"
"""Part of the journal key: a change of how pictures are sent changes what the teacher sees."""
_REFUSED = (400, 413, 415, 422)
"""Statuses that say: this request is not served, now or later."""
_MISCONFIGURED = (401, 403, 404, 405)
"""Statuses every request would get: a wrong key, model name or address."""


class OpenAITeacher:
    """See the module.

    Args:
        name: recorded with every row.
        config: model, endpoints and sampling.
        task: its question and options go into the prompt.
        prompt: the instructions.
        run_seed: part of every sampling seed.
        concurrency: requests in flight per endpoint, where the configuration does not say.
    """

    def __init__(
        self, name: str, config: OpenAIConfig, task: Task, prompt: Prompt, run_seed: int, concurrency: int
    ) -> None:
        self.name = name
        self._config, self._task, self._prompt, self._run_seed = config, task, prompt, run_seed
        per_endpoint = config.concurrency or concurrency
        self.concurrency = per_endpoint * len(config.base_urls)
        self._key = api_key(config) or "EMPTY"
        endpoints = [Endpoint(url, _client(config, url, self._key), per_endpoint) for url in config.base_urls]
        cure = f"is its server up? ./launch/serve_teacher.sh starts one from the teacher's file ({name}.yaml)"
        self._pool = Pool(endpoints, config.patience, cure)
        self._texts: dict[str, str] = {}
        self._fixed = {
            "teacher": "openai",
            "model": config.model,
            # A model that is a folder here can be trained anew under the same path.
            "revision": config.revision or weights_digest(Path(config.model)),
            "prompt": prompt.digest,
            "encoding": {"format": _ENCODING, "longest_side": config.image_size},
        }
        self._sampling = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "extra_body": dict(config.extra_body),
        }

    def request(self, example: Example, attempt: int) -> Request:
        """Everything the reply depends on; the picture is named by the digest of its file."""
        try:
            picture = file_digest(example.image)
        except OSError as error:
            raise UnreadableImage(f"{example.image}: {error.strerror}") from error
        seed = draw_seed(self._run_seed, self._config.model, example.id, attempt)
        sampling = {**self._sampling, "seed": seed}
        text = self._text(example.label)
        return Request.of({**self._fixed, "text": text, "image_sha256": picture, "sampling": sampling})

    async def ask(self, example: Example, request: Request) -> Reply:
        """Send a request until it is answered or refused, at most `retries` times again."""
        try:
            picture = await asyncio.to_thread(data_url, example.image, self._config.image_size)
        except ImageError as error:
            raise UnreadableImage(str(error)) from error
        # Text first: it is the same for every row, so the server's prefix cache holds it.
        content = [
            {"type": "text", "text": request.record["text"]},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        if self._prompt.picture_first:
            content.reverse()
        failures = 0
        while True:
            endpoint = await self._pool.take()
            try:
                reply = await self._send(endpoint, content, request.record["sampling"])
            except Failure as failure:
                await self._pool.give_back(endpoint, failure)
                failures += not failure.absent
                if failures > self._config.retries:
                    raise Unanswered(f"failed {failures} times, last with {failure.kind}") from failure
            except BaseException:
                await self._pool.give_back(endpoint, None)
                raise
            else:
                await self._pool.give_back(endpoint, None)
                return reply

    async def close(self) -> None:
        """Close the connections."""
        for endpoint in self._pool.endpoints:
            await endpoint.client.close()

    async def _send(self, endpoint: Endpoint, content: list[dict[str, Any]], sampling: Mapping[str, Any]) -> Reply:
        """One request to one endpoint.

        Raises:
            Failure: when it should be sent again.
            TeacherDown: when no request of this configuration can succeed.
        """
        messages = [{"role": "user", "content": content}]
        options = {name: value for name, value in sampling.items() if name != "extra_body"}
        body = {"model": self._config.model, "messages": messages, **options, **sampling["extra_body"]}
        try:
            # `post` and not `chat.completions.create`, which spends a quarter of a request's time on checking its types.
            async with asyncio.timeout(self._config.timeout):
                completion = await endpoint.client.post("/chat/completions", cast_to=ChatCompletion, body=body)
            return _reply(completion)
        except openai.APIStatusError as error:
            message = self._public(f"HTTP {error.status_code}: {error.message}")
            if error.status_code in _REFUSED:
                return Reply("", refused=message)
            if error.status_code in _MISCONFIGURED:
                self._pool.stop(f"{endpoint.url} answers {message}")
                raise TeacherDown(self._pool.why_down) from None
            raise Failure(f"http_{error.status_code}", message, pause=_retry_after(error)) from error
        except (openai.APITimeoutError, TimeoutError) as error:
            message = f"no reply within {self._config.timeout:g} s"
            raise Failure("timeout", message, absent=_is_absent(error)) from error
        except openai.APIConnectionError as error:
            message = self._public(repr(error.__cause__))
            raise Failure("connection_error", message, absent=_is_absent(error)) from error
        except (openai.APIError, ValueError, TypeError, LookupError, AttributeError) as error:
            # A body that is not the JSON of a completion: cut off, or from something else at that address.
            raise Failure("malformed_reply", self._public(repr(error))) from error

    def _text(self, label: str) -> str:
        if label not in self._texts:
            self._texts[label] = self._prompt.render(self._task, label)
        return self._texts[label]

    def _public(self, message: str) -> str:
        """A server's message without the key, short enough to keep."""
        return _clean(message.replace(self._key, "***"))[:2000]


def data_url(path: Path, longest_side: int) -> str:
    """A picture as a JPEG data URL, scaled down so that no side is longer than `longest_side` pixels.

    Raises:
        ImageError: when it cannot be read.
    """
    image = open_rgb(path)
    if max(image.size) > longest_side:
        image.thumbnail((longest_side, longest_side))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _client(config: OpenAIConfig, url: str, key: str) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False)
    timeout = openai.Timeout(config.timeout, connect=min(10.0, config.timeout))
    client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout, http_client=http)
    client.organization = client.project = None  # Read from the environment by default; not for these servers.
    return client


def _reply(completion: ChatCompletion) -> Reply:
    """The text of a completion; raises nearly anything when the body was not one."""
    text = completion.choices[0].message.content
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    usage = completion.usage
    counts: dict[str, Any] = {"finish_reason": completion.choices[0].finish_reason}
    if usage:
        counts |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return Reply(_clean(text or ""), usage=counts)


def _clean(text: str) -> str:
    """`text` without lone surrogates, which JSON can carry and files cannot."""
    return text.encode("utf-8", "replace").decode()


def _is_absent(error: BaseException) -> bool:
    """Whether no connection was made at all (httpx's names, in either of its major versions)."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds the server asks us to wait, at most a minute; 0 when it does not say."""
    try:
        return min(60.0, max(0.0, float(error.response.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
