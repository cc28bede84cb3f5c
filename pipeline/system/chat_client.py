"""Sending to servers of the OpenAI-compatible chat API, as teachers and the evaluation lab do; `chat_api` reads what comes back.

Only the given addresses are contacted: proxy variables, redirects and cookies are ignored. The API is two JSON objects, so
aiohttp speaks it directly; a client library spends several times a request's processor time. When to send again, and what a
status means for a row, is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from pipeline.system.chat_api import clean

REFUSED = (400, 413, 415, 422)
"""Statuses that say: this request is not served, now or later."""
MISCONFIGURED = (401, 404, 405)
"""Statuses every request would get: a wrong key, model name or address."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, whatever a server asks for."""
_KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 after which uvicorn, and so vLLM, closes it under a request."""


@dataclass(frozen=True)
class HttpReply:
    """What a server answered, whole."""

    status: int
    data: bytes
    pause: float
    """Seconds it asks to wait (Retry-After), at most `LONGEST_PAUSE`; 0 when it does not say."""


class ChatClient:
    """Connections to chat servers, made with the first request and kept.

    Args:
        key: sent with every request; None sends none. It is in no message (`without_key`).
        connections: most at a time.
        connect_seconds: after which a server that cannot be reached is given up.
        total_seconds: of a whole request; None leaves that to the caller.
    """

    def __init__(
        self, key: str | None, connections: int, connect_seconds: float = 10.0, total_seconds: float | None = None
    ) -> None:
        self._key, self._connections = key, connections
        self._timeout = aiohttp.ClientTimeout(total=total_seconds, sock_connect=connect_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str | URL, body: bytes) -> HttpReply:
        """Send a JSON body and read the whole answer.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError, ValueError: when there is none.
        """
        async with self._connect().post(url, data=body, allow_redirects=False) as response:
            data = await response.read()
            return HttpReply(response.status, data, _pause(response.headers.get("Retry-After")))

    def without_key(self, message: str) -> str:
        """Return a server's message without the key and without what no file can hold."""
        return clean(message.replace(self._key, "***") if self._key else message)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connect(self) -> aiohttp.ClientSession:
        """Return the session; it belongs to the loop that runs, so it is made here."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEEP_ALIVE),
                timeout=self._timeout,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Content-Type": "application/json",
                    **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                },
            )
        return self._session


def _pause(header: str | None) -> float:
    try:
        return min(LONGEST_PAUSE, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0
