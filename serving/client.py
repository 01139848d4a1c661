"""Asks a running service over REST, for the verbs that need one. Base install only: no numpy, no server code."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx

from forecaster.errors import InputError

TIMEOUT_SECONDS = 30.0
_PAGE = 1_000


class Client:
    """One service. Every failure is an InputError of one line that names the URL and what to do."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--url: {url!r} is not a URL: write http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **params: str | int) -> Any:
        return self._ask("GET", path, params={name: value for name, value in params.items() if value != ""})

    def items(self, path: str, **params: str | int) -> list[Any]:
        """All pages of a list."""
        found: list[Any] = []
        after: str | int = ""
        while True:
            page = self.get(path, limit=_PAGE, next=after, **params)
            found += page["items"]
            after = page["next"] or ""
            if not after:
                return found

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, json={name: value for name, value in body.items() if value is not None})

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        try:
            answer = httpx.request(method, f"{self.url}{path}", headers=self._headers, timeout=TIMEOUT_SECONDS, **what)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"{self.url}: no service answers there ({error}): start `forecaster serve`, or name it with --url"
            raise InputError(text) from error
        if answer.status_code >= 400:
            raise InputError(f"{self.url}: {_problem(answer)}")
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise InputError(f"{self.url}: what answers there is not Forecaster: check --url") from error


def path_of(name: str) -> str:
    """A workload's name in a path; it may hold a slash."""
    return quote(name, safe="/")


def read_token(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """From a file, else from FORECASTER_TOKEN. Raises InputError; the text never holds a token."""
    if file is None:
        return environ.get("FORECASTER_TOKEN")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"--token-file: {file} cannot be read: {words}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"--token-file: {file} does not hold a token")
    return token


def moment(text: str, option: str, other: str = "") -> datetime:
    """The time that an option names. Raises InputError; `other` is what else may be written there."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option}: {text!r} is not a time: write 2026-03-01T08:00:00Z{other}") from None
    if found.tzinfo is None:
        raise InputError(f"{option}: {text!r} has no time zone: write {text}Z for UTC")
    return found


def _problem(answer: httpx.Response) -> str:
    """What a problem document says, in one line."""
    try:
        told = answer.json()
        text = str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}, and not Forecaster's: check --url"
    if answer.status_code == 401:
        text += ": give a token with --token-file or FORECASTER_TOKEN"
    alike = told.get("didYouMean")
    if alike:
        text += f": did you mean {', '.join(alike)}?"
    return " ".join(text.split())
