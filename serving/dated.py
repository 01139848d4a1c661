"""`Date` of an answer: the time at which it begins.

uvicorn writes the time at which the request came. On a long poll that is up to half a minute before, and who measures
the age of a recommendation by it (serving/actuator/offers.py) takes it for younger than it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class Dated:
    """The ASGI layer; uvicorn's own header must be off."""

    def __init__(self, app: ASGIApp, wall: Callable[[], float] = time.time) -> None:
        """`wall`: Unix seconds."""
        self._app, self._wall = app, wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Any) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(self._wall(), usegmt=True).encode()
                message["headers"] = [(b"date", date), *message.get("headers", ())]
            await send(message)

        await self._app(scope, receive, send_dated)
