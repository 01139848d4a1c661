"""What a caller may cost us: bytes and seconds of a body, queries per minute, connections and unfinished headers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from serving.problems import Problem

MOST_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 30.0
HEADER_SECONDS = 10.0
HEADER_BYTES = 64 * 2**10
MOST_CONNECTIONS = 1_000
_CLOSE = {"Connection": "close"}  # what is left of the body is not read


async def body_of(request: Request, most: int = MOST_BODY_BYTES, seconds: float = BODY_SECONDS) -> bytes:
    """The whole body. Raises Problem: 413 as soon as it is known to be too long, chunked or not; 408 when it drips."""
    too_long = Problem(413, "body-too-long", f"the body is longer than {most} bytes", _CLOSE)
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > most:
        raise too_long
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_long
                parts.append(part)
    except TimeoutError as error:
        raise Problem(408, "body-too-slow", f"the body did not arrive within {seconds:g} s", _CLOSE) from error
    except ClientDisconnect as error:
        raise Problem(400, "request", "the caller went away before the body was whole", _CLOSE) from error
    return b"".join(parts)


class TokenBucket:
    """`burst` at once, `per_second` in the long run. Safe to use from several threads."""

    def __init__(self, per_second: float, burst: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._monotonic = per_second, burst, monotonic
        self._tokens, self._at = burst, monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """0 where one may go now, else seconds until one may."""
        with self._lock:
            now = self._monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) / self._rate


def guarded_protocol(
    most_connections: int = MOST_CONNECTIONS,
    header_seconds: float = HEADER_SECONDS,
    header_bytes: int = HEADER_BYTES,
) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with what it lacks: a cap on connections, on the time and on the size of headers."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Guarded(HttpToolsProtocol):
        _waiting: asyncio.TimerHandle | None = None
        _size = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                transport.abort()  # an answer would cost what we do not have
                return
            self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._waiting is None:
                return
            self._size += len(data)  # counted here: the parser keeps a header to itself until the next one begins
            if self._size > header_bytes:
                self.transport.abort()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._waiting is None:
                self._expect_headers()

        def on_headers_complete(self) -> None:
            self._headers_came()
            super().on_headers_complete()

        def _expect_headers(self) -> None:
            self._size = 0
            self._waiting = self.loop.call_later(header_seconds, self.transport.abort)

        def _headers_came(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

    return Guarded
