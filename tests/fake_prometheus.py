"""An HTTP server that answers as Prometheus does, or as it should not, from what a test puts in its hands."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """One answer. `body` bytes go out as they are, all else as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None  # Content-Length to claim, where it shall not be true

    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Answer = Callable[[Asked], Reply]


def vector(*series: tuple[Mapping[str, str], str | float], warnings: Sequence[str] = (), **more: Any) -> Reply:
    """An instant answer: (labels, value) each."""
    result = [{"metric": dict(labels), "value": [0, str(value)]} for labels, value in series]
    return success({"resultType": "vector", "result": result}, warnings=warnings, **more)


def matrix(
    *series: tuple[Mapping[str, str], Sequence[tuple[float, str | float]]], warnings: Sequence[str] = (), **more: Any
) -> Reply:
    """A range answer: (labels, [(time, value), …]) each."""
    result = [{"metric": dict(labels), "values": [[t, str(value)] for t, value in rows]} for labels, rows in series]
    return success({"resultType": "matrix", "result": result}, warnings=warnings, **more)


def success(data: Any, warnings: Sequence[str] = (), infos: Sequence[str] = (), **more: Any) -> Reply:
    body: dict[str, Any] = {"status": "success", "data": data}
    if warnings:
        body["warnings"] = list(warnings)
    if infos:
        body["infos"] = list(infos)
    return Reply(body, **more)


def refused(words: str, status: int = 422, kind: str = "execution", **headers: str) -> Reply:
    """An error in Prometheus' own form."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"status": "error", "errorType": kind, "error": words}, status, named)


def grid(asked: Asked) -> list[int]:
    """The times that a range query asks for."""
    start, end, step = (int(float(asked.params[name])) for name in ("start", "end", "step"))
    return list(range(start, end + 1, step))


class FakePrometheus:
    """Answers by `answer`, or in order by what `replies` still holds. `asked` records all requests."""

    def __init__(self, answer: Answer | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = answer or (lambda asked: vector())
        self.replies: list[Reply] = []
        self.asked: list[Asked] = []
        self.inside = 0  # requests being answered now
        self.most_inside = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                fake._serve(self, "")

            def do_POST(self) -> None:
                fake._serve(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> FakePrometheus:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def queries(self) -> list[str]:
        return [asked.params.get("query", "") for asked in self.asked]

    def _serve(self, handler: BaseHTTPRequestHandler, form: str) -> None:
        parts = urlsplit(handler.path)
        params = dict(parse_qsl(parts.query) + parse_qsl(form))
        asked = Asked(handler.command, parts.path, params, {k.lower(): v for k, v in handler.headers.items()})
        with self._lock:
            self.asked.append(asked)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            reply = self.replies.pop(0) if self.replies else None
        try:
            reply = reply or self.answer(asked)
            data = reply.data()
            handler.send_response_only(reply.status)
            headers = {"Content-Type": "application/json", "Date": handler.date_time_string(), **reply.headers}
            headers["Content-Length"] = str(len(data) if reply.length is None else reply.length)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
            if reply.length is not None:
                handler.close_connection = True
        except ConnectionError:
            pass  # the other side had enough
        finally:
            with self._lock:
                self.inside -= 1
