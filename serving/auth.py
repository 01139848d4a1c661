"""Who may do what: bearer tokens with roles from a file, a session cookie for the browser, Host and Origin.

A plain ASGI layer around the application, so that no route can forget it: reading needs `viewer`, everything else
`operator`, save what is listed as open or as reading by POST. No token is ever logged.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from forecaster.errors import InputError
from serving.problems import Problem

logger = logging.getLogger(__name__)

VIEWER, OPERATOR = "viewer", "operator"
OPEN = frozenset({"/healthz", "/readyz", "/login"})
STATIC = "/static/"  # the same for everybody, and the log-in page needs it
PAGES = re.compile(r"/(?:workloads(?:/[^\\\r\n]*)?|incidents|demo|docs|reasons)?")
PROBES = frozenset({"/healthz", "/readyz"})  # asked by address, so their Host says nothing
READING_BY_POST = frozenset({"/api/v1/forecast", "/logout"})
VIEW = "/prometheus/"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "session"
SESSION_SECONDS = 12 * 3600
SHORTEST_TOKEN = 16
_LINE = re.compile(r"\s*([\w.@-]+)\s*:\s*(\w+)\s*:\s*(\S+)\s*$")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `csrf` is set for a browser's session: what a form must send back."""

    name: str
    role: str
    csrf: str | None = None

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR


LOCAL = Principal("local", OPERATOR)


class Tokens:
    """The token file, `name: role: token` a line; read again when it changes. A bad new file keeps the old tokens."""

    def __init__(self, file: Path) -> None:
        """Raises InputError where the file cannot be read or says something else."""
        self._file = file
        self._lock = threading.Lock()
        self._checked = 0.0
        self._stamp = self._stat()
        self._known = parse_tokens(file)

    def find(self, token: str) -> Principal | None:
        """Compares with every token, each in constant time."""
        given = _digest(token)
        found = None
        for digest, principal in self.current():
            if hmac.compare_digest(digest, given):
                found = principal
        return found

    def digest_of(self, name: str) -> bytes | None:
        return next((digest for digest, principal in self.current() if principal.name == name), None)

    def current(self) -> list[tuple[bytes, Principal]]:
        with self._lock:
            if time.monotonic() - self._checked > 1.0:
                self._checked = time.monotonic()
                stamp = self._stat()
                if stamp != self._stamp:
                    self._stamp = stamp
                    try:
                        self._known = parse_tokens(self._file)
                        logger.info("token file was read again: file=%s tokens=%d", self._file, len(self._known))
                    except InputError as error:
                        logger.error("token file is bad, the old tokens stay: %s", error)
            return self._known

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self._file)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def parse_tokens(file: Path) -> list[tuple[bytes, Principal]]:
    """(SHA-256 of the token, who it is) each. Raises InputError with the line; the text never holds a token."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"auth.tokenFile: {file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    found: dict[str, tuple[bytes, Principal]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise InputError(f"{file}:{number}: write `name: role: token`, e.g. `grafana: viewer: 4f9c…`")
        name, role, token = match.groups()
        if role not in (VIEWER, OPERATOR):
            raise InputError(f"{file}:{number}: role {role!r} of {name!r} is not one: write viewer or operator")
        if len(token) < SHORTEST_TOKEN:
            raise InputError(f"{file}:{number}: the token of {name!r} is shorter than {SHORTEST_TOKEN} characters")
        if name in found:
            raise InputError(f"{file}:{number}: {name!r} stands there twice")
        found[name] = (_digest(token), Principal(name, role))
    if not found:
        raise InputError(f"auth.tokenFile: {file} holds no token: write `name: role: token` a line")
    return list(found.values())


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, tokens: bool, insecure_no_auth: bool) -> None:
    """Raises InputError where the API would be open to others without a token."""
    if not is_loopback(host) and not tokens and not insecure_no_auth:
        raise InputError(
            f"server.host: {host} can be reached by others and no tokens are set: set auth.tokenFile, bind to "
            "127.0.0.1, or say --insecure-no-auth"
        )


class Sessions:
    """Browser sessions as signed cookies; the key lives as long as the process."""

    def __init__(self, tokens: Tokens, now: Callable[[], float] = time.time) -> None:
        self._tokens, self._now = tokens, now
        self._key = secrets.token_bytes(32)

    def open(self, token: str) -> str | None:
        """The cookie for a token; None where it is not one."""
        principal = self._tokens.find(token)
        if principal is None:
            return None
        body = f"{principal.name}\n{int(self._now()) + SESSION_SECONDS}"
        return base64.urlsafe_b64encode(body.encode()).decode() + "." + self._sign("session", body, principal.name)

    def find(self, cookie: str) -> Principal | None:
        """Who a cookie stands for, while its token is still in the file."""
        body64, _, signature = cookie.partition(".")
        try:
            body = base64.urlsafe_b64decode(body64.encode("ascii")).decode()
            name, until = body.split("\n")
            expired = int(until) < self._now()
        except ValueError:
            return None
        if expired or not hmac.compare_digest(self._sign("session", body, name).encode(), signature.encode()):
            return None
        role = next((one.role for _, one in self._tokens.current() if one.name == name), None)
        return None if role is None else Principal(name, role, self._sign("csrf", body, name))

    def _sign(self, purpose: str, body: str, name: str) -> str:
        token = self._tokens.digest_of(name) or secrets.token_bytes(32)  # gone: nothing verifies
        return hmac.new(self._key + token, f"{purpose}\n{body}".encode(), hashlib.sha256).hexdigest()


class Gatekeeper:
    """The ASGI layer. Leaves `scope["state"]["principal"]` for the routes."""

    def __init__(
        self, app: ASGIApp, tokens: Tokens | None, sessions: Sessions | None, allowed_hosts: Iterable[str] | None
    ) -> None:
        """`allowed_hosts`: names that a Host header may have; None: any, which is right only where tokens are asked."""
        self._app, self._tokens, self._sessions = app, tokens, sessions
        self._allowed = None if allowed_hosts is None else frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            principal = self._admit(scope["method"], scope["path"], headers)
        except Problem as problem:
            response: Any = problem.response()
            if problem.status == 401 and is_page(scope["path"]) and "text/html" in headers.get("accept", ""):
                response = RedirectResponse(f"/login{_and_back(scope)}", 303)
            response.headers.update(SECURITY_HEADERS)
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW_SECURITY_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _admit(self, method: str, path: str, headers: Headers) -> Principal | None:
        if path not in PROBES:
            self._check_host(headers)
        if method not in SAFE:
            _check_origin(headers)
        if path in OPEN or (path.startswith(STATIC) and method in SAFE):
            return None
        principal = self._who(headers)
        if principal is None:
            raise Problem(
                401,
                "unauthorised",
                "send a token: `Authorization: Bearer …`",
                {"WWW-Authenticate": 'Bearer realm="forecaster"'},
            )
        if method not in SAFE:
            if principal.csrf is not None and path != "/logout":
                given = headers.get("x-csrf-token", "")
                if not hmac.compare_digest(given.encode(), principal.csrf.encode()):
                    raise Problem(403, "csrf", "a session must send its X-CSRF-Token")
            reading = path in READING_BY_POST or path.startswith(VIEW)
            if not reading and not principal.is_operator:
                raise Problem(403, "forbidden", f"{principal.name!r} is a viewer: this needs the role operator")
        return principal

    def _who(self, headers: Headers) -> Principal | None:
        if self._tokens is None:
            return LOCAL
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._tokens.find(token.strip())
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        return self._sessions.find(cookie) if cookie and self._sessions else None

    def _check_host(self, headers: Headers) -> None:
        """A page of somebody else's, whose name points at us, must not read us (DNS rebinding)."""
        name = host_name(headers.get("host", ""))
        if name is None:
            raise Problem(400, "host", "the Host header is not a host")
        if self._allowed is not None and name not in self._allowed:
            raise Problem(421, "host", "this name is not served here: use 127.0.0.1 or localhost, or set tokens")


def is_page(path: str) -> bool:
    """Whether a browser sees a page there, so that it may be sent to the log-in and back."""
    return PAGES.fullmatch(path) is not None


def _and_back(scope: Scope) -> str:
    asked = (scope.get("raw_path") or b"/").decode("ascii", "replace")
    return "" if asked == "/" else f"?next={quote(asked)}"


def host_name(host: str) -> str | None:
    """The name of a Host header without its port; None where it is not one."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", host.strip().lower())
    return match.group(1) if match else None


def _check_origin(headers: Headers) -> None:
    """A form or script of another site must not write."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "origin", "this request comes from another site")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise Problem(403, "origin", "this request comes from another site")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers send `Origin: null` with our own forms, and the log-in would be refused.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
