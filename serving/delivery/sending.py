"""One HTTP request to one destination, and what its answer means. No redirect is followed; no secret is ever logged.

The signature is that of Standard Webhooks (standardwebhooks.com), which has verifying libraries in most languages.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2 as httpx

JSON = "application/json"
LONGEST_RETRY_AFTER = 3_600.0  # seconds
_PASSING = frozenset({408, 425, 429})


class Outcome(StrEnum):
    """What became of a message."""

    DELIVERED = "delivered"
    FAILED = "failed"  # it is tried again
    REFUSED = "refused"  # the receiver will not have it: given up
    EXPIRED = "expired"  # tried for too long: given up
    DROPPED = "dropped"  # the queue was full


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one attempt."""

    outcome: Outcome
    why: str = ""  # for the log; holds neither address nor secret
    retry_after: float | None = None  # seconds the receiver asks for


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to send. Address and secret lie in files where they are secret; read for each attempt."""

    name: str
    url: str | None = field(default=None, repr=False)
    url_file: Path | None = None
    secret_file: Path | None = None
    least_severity: str = "info"
    timeout_seconds: float = 10.0

    def address(self) -> str:
        """Raises OSError where the file cannot be read."""
        if self.url is not None:
            return self.url
        assert self.url_file is not None
        return self.url_file.read_text(encoding="utf-8").strip()

    def secret(self) -> bytes | None:
        """The key to sign with. Raises OSError where the file cannot be read, ValueError where it is no key."""
        if self.secret_file is None:
            return None
        text = self.secret_file.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError("the secret file is empty")
        return base64.b64decode(text.removeprefix("whsec_")) if text.startswith("whsec_") else text.encode()


class Sender:
    """Keeps connections to one destination open. One thread at a time."""

    def __init__(self, timeout_seconds: float) -> None:
        # No proxy or password from the environment: what is sent where stands in the configuration.
        self._client = httpx.Client(timeout=timeout_seconds, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def post(self, url: str, body: bytes, headers: Mapping[str, str], attempt: int = 0) -> Answer:
        """Never raises for what the network or the receiver does. The answer's body is not read."""
        try:
            pinned, extra, extensions = reachable(url, attempt)
            sent = {"Content-Type": JSON, "User-Agent": "forecaster", **headers, **extra}
            with self._client.stream("POST", pinned, content=body, headers=sent, extensions=extensions) as answer:
                return _meaning(answer.status_code, answer.headers.get("retry-after"))
        except Forbidden as error:
            return Answer(Outcome.REFUSED, str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Answer(Outcome.FAILED, type(error).__name__)


class Forbidden(Exception):
    """An address that nothing is ever sent to."""


def reachable(url: str, attempt: int = 0) -> tuple[str, dict[str, str], dict[str, str]]:
    """(URL with the address in place of the name, headers, extensions): what was checked is what is connected to.

    Link-local addresses (the metadata service of clouds), multicast and unspecified ones are forbidden; private ones
    are not, for the address stands in the configuration and receivers live in the cluster. Raises Forbidden, OSError.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Forbidden("the address is not an http(s) URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = [info[4][0] for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
    for one in found:
        ip = ipaddress.ip_address(str(one).partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or mapped.is_reserved:
            raise Forbidden("the address is link-local, multicast or reserved")
    chosen = str(found[attempt % len(found)])
    host = f"[{chosen}]" if ":" in chosen else chosen
    netloc = f"{host}:{port}"
    shown = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=netloc)), {"Host": shown}, {"sni_hostname": parts.hostname}


def headers_of(id: str, at: int, body: bytes, secret: bytes | None) -> dict[str, str]:
    """Identity and, with a secret, signature: base64 of HMAC-SHA256 over `id.timestamp.body`. `at`: Unix seconds."""
    told = {"Idempotency-Key": id, "webhook-id": id, "webhook-timestamp": str(at)}
    if secret is not None:
        digest = hmac.digest(secret, f"{id}.{at}.".encode() + body, hashlib.sha256)
        told["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return told


def _meaning(status: int, retry_after: str | None) -> Answer:
    if 200 <= status < 300:
        return Answer(Outcome.DELIVERED)
    if status in _PASSING or status >= 500:
        return Answer(Outcome.FAILED, f"status {status}", _seconds(retry_after))
    if 300 <= status < 400:
        return Answer(Outcome.REFUSED, f"status {status}: redirects are not followed")
    return Answer(Outcome.REFUSED, f"status {status}")


def _seconds(retry_after: str | None) -> float | None:
    """Only the number of seconds is understood; a date is left to the back-off."""
    text = (retry_after or "").strip()
    return min(float(text), LONGEST_RETRY_AFTER) if text.isdecimal() and len(text) < 10 else None
