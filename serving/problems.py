"""Errors of the REST API as problem documents (RFC 9457): one shape for all, never a traceback, never a secret."""

from __future__ import annotations

import difflib
import http
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from forecaster.errors import InputError, SourceError, StoreError
from serving.render import dumps

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
LONGEST_ECHO = 120  # characters of a caller's value in an answer


class Problem(Exception):
    """An answer that is an error. `kind` ends the type URI and is stable; `more` are members of their own."""

    def __init__(
        self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers, self.more = status, kind, detail, dict(headers or {}), more

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": f"urn:forecaster:problem:{self.kind}",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return Response(dumps(body), self.status, self.headers, MEDIA_TYPE)


def unknown_workload(name: str, known: Iterable[str]) -> Problem:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    return Problem(404, "unknown-workload", f"no workload is called {shortened(name)!r}{hint}", didYouMean=near)


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_ECHO else text[: LONGEST_ECHO - 1] + "…"


def described(errors: Sequence[Mapping[str, Any]], start: Sequence[str] = ()) -> list[dict[str, str]]:
    """pydantic's errors: the place, and what is wrong there."""
    out = []
    for one in errors[:20]:
        place = [*start]
        for part in one["loc"]:
            if isinstance(part, int) and place:
                place[-1] += f"[{part}]"
            else:
                place.append(str(part))
        message = str(one["msg"]).removeprefix("Value error, ")
        given = one.get("input")
        if isinstance(given, (str, int, float, bool)) and one["type"] != "json_invalid":
            message += f" (given: {shortened(repr(given))})"
        out.append({"place": ".".join(place), "detail": message})
    return out


def invalid(errors: Sequence[Mapping[str, Any]], start: Sequence[str] = ()) -> Problem:
    told = described(errors, start)
    first = told[0] if told else {"place": "", "detail": "not valid"}
    text = f"{first['place']}: {first['detail']}" if first["place"] else first["detail"]
    return Problem(422, "invalid-request", text, errors=told)


def install(app: FastAPI) -> None:
    """Handlers for all that can be raised."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors()).response()

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> Response:
        return Problem(422, "invalid-request", str(error)).response()

    @app.exception_handler(SourceError)
    async def source(request: Request, error: SourceError) -> Response:
        return Problem(502, "prometheus", str(error), reason=error.reason.value).response()

    @app.exception_handler(StoreError)
    async def store(request: Request, error: StoreError) -> Response:
        return Problem(503, "store", str(error)).response()

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            detail = f"there is nothing at {shortened(request.url.path)!r}; /openapi.json lists all routes"
            return Problem(404, "not-found", detail).response()
        if error.status_code == 405:
            allowed = allowed_methods(app, request)
            detail = f"{request.method} is not allowed here; allowed: {allowed}"
            return Problem(405, "method-not-allowed", detail, {"Allow": allowed}).response()
        return Problem(error.status_code, "request", str(error.detail), error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("request failed: method=%s path=%s", request.method, request.url.path, exc_info=error)
        return Problem(500, "internal", "an error of ours; the log has the details").response()


def allowed_methods(app: FastAPI, request: Request) -> str:
    """All methods of the path, where several routes share it."""
    from starlette.routing import Match

    found: set[str] = set()
    for route in app.router.routes:
        methods = getattr(route, "methods", None)
        if methods and route.matches({**request.scope, "type": "http"})[0] != Match.NONE:
            found |= methods
    return ", ".join(sorted(found))
