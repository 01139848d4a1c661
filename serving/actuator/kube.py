"""The API server over HTTP: the few requests that the actuator makes, and what the answers mean.

Every request has a deadline for all of it, not per read. Answers are told apart by `reason` and `causes`, not by their
status: 409 is a field conflict, a stale version, a lost object or one that exists already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import httpx2 as httpx
import msgspec

from forecaster.errors import ClusterError, InputError
from serving.actuator.access import Access
from serving.actuator.policy import MANAGER

Json = dict[str, Any]

WRITE_SECONDS = 5.0  # a write is on its way within this, or is not sent: none outlives the lease it was made under
READ_SECONDS = 15.0
LIST_SECONDS = 60.0
PAGE = 100
MOST_BYTES = 64 * 2**20
APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Kind(StrEnum):
    """What a refusal means for us."""

    FIELD_CONFLICT = "field_conflict"  # another field manager owns it
    STALE = "stale"  # the resourceVersion is no longer the newest, or a test of a JSON patch failed
    GONE = "gone"  # deleted
    REPLACED = "replaced"  # another object under the same name
    EXISTS = "exists"
    INVALID = "invalid"  # our value, or a policy's word
    FORBIDDEN = "forbidden"
    UNAUTHORISED = "unauthorised"
    EXPIRED = "expired"  # a resourceVersion too old to go on from
    THROTTLED = "throttled"
    SERVER = "server"  # 5xx
    UNREACHABLE = "unreachable"  # no answer, or one that cannot be read
    NOT_ALLOWED = "not_allowed"  # by ourselves: a dry run, or another actuator holds the lease


class KubeError(ClusterError):
    """A request that was not answered with success."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        status: int = 0,
        fields: frozenset[str] = frozenset(),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.fields, self.retry_after = kind, status, fields, retry_after

    @property
    def unknown(self) -> bool:
        """Whether it was done cannot be told (a proxy's 502 tells nothing): read before writing again."""
        return self.kind in (Kind.UNREACHABLE, Kind.SERVER)


class Page(msgspec.Struct):
    """Part of a list. Objects are decoded one at a time: all at once they would take many times their text's memory."""

    items: list[msgspec.Raw] | None = None
    metadata: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return (msgspec.json.decode(one) for one in self.items or ())

    @property
    def version(self) -> str:
        return str((self.metadata or {}).get("resourceVersion") or "")

    @property
    def more(self) -> str:
        """Of the next page; empty where this is the last one."""
        return str((self.metadata or {}).get("continue") or "")


class Kube:
    """A client of one API server. Safe to use from several threads."""

    def __init__(
        self,
        access: Access,
        monotonic: Callable[[], float] = time.monotonic,
        may_write: Callable[[], bool] = lambda: False,
    ) -> None:
        """`may_write` is asked right before each write to an HPA or to the store is sent; False refuses it."""
        self.access = access
        self.may_write = may_write
        self.requests: dict[tuple[str, str], int] = {}  # (verb, status) -> count
        self._monotonic = monotonic
        self._client = httpx.Client(
            base_url=access.server,
            verify=access.verify,
            proxy=access.proxy,
            trust_env=False,
            headers={"User-Agent": "forecaster-actuator", "Accept": "application/json"},
            # No upper limit: a watch for each namespace must not take the connection that the lease needs.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0),
        )

    def close(self) -> None:
        self._client.close()

    # --- HPAs ---

    def list_hpas(self, namespace: str | None, more: str = "") -> Page:
        """One page. `more`: of the page before."""
        query = {"limit": str(PAGE)} | ({"continue": more} if more else {})
        path = _hpas(namespace)
        text = self._answered("list", "GET", path, query=query, seconds=LIST_SECONDS)
        try:
            return msgspec.json.decode(text, type=Page)
        except msgspec.DecodeError:  # also where it is JSON, and no list
            raise KubeError(Kind.UNREACHABLE, f"{path}: the answer is not the API server's", 200) from None

    def watch_hpas(self, namespace: str | None, version: str, seconds: float) -> Iterator[bytes]:
        """Lines of a watch, one event each, until the server ends it."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(seconds)),
        }
        # A read that waits longer than the watch may last is a connection that nobody serves any more.
        timeout = httpx.Timeout(READ_SECONDS, read=seconds + READ_SECONDS)
        with self._send("watch", "GET", _hpas(namespace), query, None, "", timeout) as answer:
            if answer.status_code != 200:
                raise self._refusal(answer, self._monotonic() + READ_SECONDS)
            try:
                rest = b""
                for chunk in answer.iter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line for line in lines if line.strip())
                    if len(rest) > MOST_BYTES:
                        raise KubeError(Kind.UNREACHABLE, "a watch event without an end")
            except (httpx.HTTPError, RuntimeError) as error:
                raise KubeError(Kind.UNREACHABLE, f"the watch broke off: {_words(error)}") from error

    def get_hpa(self, namespace: str, name: str) -> Json:
        return self._json("get", "GET", f"{_hpas(namespace)}/{name}")

    def apply_hpa(self, namespace: str, name: str, body: Json, force: bool = False, manager: str = MANAGER) -> Json:
        """Server-side apply. The body must carry metadata.uid, or it would make an HPA that was deleted."""
        assert body["metadata"]["uid"], "an apply without uid can create"
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        path = f"{_hpas(namespace)}/{name}"
        return self._json(
            "apply", "PATCH", path, query=query, body=body, content=APPLY, seconds=WRITE_SECONDS, guarded=True
        )

    def patch_hpa(self, namespace: str, name: str, steps: Sequence[Json]) -> Json:
        """A JSON patch."""
        path = f"{_hpas(namespace)}/{name}"
        query = {"fieldManager": MANAGER}
        return self._json(
            "patch",
            "PATCH",
            path,
            query=query,
            body=list(steps),
            content=JSON_PATCH,
            seconds=WRITE_SECONDS,
            guarded=True,
        )

    def _allowed(self) -> None:
        if not self.may_write():
            raise KubeError(Kind.NOT_ALLOWED, "another actuator holds the lease, or this is a dry run")

    # --- lease, events, store, rights ---

    def get_lease(self, namespace: str, name: str) -> Json:
        return self._json("get_lease", "GET", f"{_leases(namespace)}/{name}", seconds=WRITE_SECONDS)

    def create_lease(self, namespace: str, body: Json) -> Json:
        return self._json("create_lease", "POST", _leases(namespace), body=body, seconds=WRITE_SECONDS)

    def update_lease(self, namespace: str, name: str, body: Json) -> Json:
        return self._json("update_lease", "PUT", f"{_leases(namespace)}/{name}", body=body, seconds=WRITE_SECONDS)

    def create_event(self, namespace: str, body: Json) -> Json:
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        return self._json("create_event", "POST", path, body=body, seconds=WRITE_SECONDS)

    def get_config_map(self, namespace: str, name: str) -> Json:
        return self._json("get_configmap", "GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")

    def merge_config_map(self, namespace: str, name: str, data: Mapping[str, str | None]) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
        body = {"data": dict(data)}
        query = {"fieldManager": MANAGER}
        self._answered(  # the answer is the whole of it: nothing that we need
            "patch_configmap",
            "PATCH",
            path,
            query=query,
            body=body,
            content=MERGE,
            seconds=WRITE_SECONDS,
            guarded=True,
        )

    def may(self, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Whether our credentials may do this; needs no right itself."""
        attributes = {"verb": verb, "group": group, "resource": resource} | (
            {"namespace": namespace} if namespace else {}
        )
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._json("review", "POST", path, body=body).get("status", {}).get("allowed"))

    # --- one request ---

    def _json(self, verb: str, method: str, path: str, **more: Any) -> Json:
        """An answer that is an object. `more`: as of `_answered`."""
        try:
            told = msgspec.json.decode(self._answered(verb, method, path, **more))
        except msgspec.DecodeError:
            told = None
        if not isinstance(told, dict):
            raise KubeError(Kind.UNREACHABLE, f"{path}: the answer is not the API server's", 200)
        return told

    def _answered(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        seconds: float = READ_SECONDS,
        guarded: bool = False,
    ) -> bytes:
        """The body of an answer that is a success. Raises KubeError for any other."""
        deadline = self._monotonic() + seconds
        # Waiting for a connection, making it (TCP, then TLS) and sending end within `seconds` all together.
        timeout = httpx.Timeout(pool=0.1 * seconds, connect=0.3 * seconds, write=0.2 * seconds, read=seconds)
        for attempt in (1, 2):
            with self._send(verb, method, path, query or {}, body, content, timeout, guarded) as answer:
                late = self._monotonic() > deadline
                if answer.status_code == 401 and attempt == 1 and not late and self.access.bearer.changes:
                    self.access.bearer.refused()  # rotated: the file holds a new one
                    continue
                if answer.status_code >= 300:
                    raise self._refusal(answer, deadline)
                return self._read(answer, deadline)
        raise AssertionError("two attempts, and neither ended")

    def _send(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content: str,
        timeout: httpx.Timeout,
        guarded: bool = False,
    ) -> _Answer:
        """`guarded`: only while we may write, asked after the token is there, for getting it can take long."""
        try:
            token = self.access.bearer()
        except InputError as error:
            raise KubeError(Kind.UNAUTHORISED, str(error)) from None
        if guarded:
            self._allowed()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = content
        extensions = {"sni_hostname": self.access.server_name} if self.access.server_name else {}
        request = self._client.build_request(
            method,
            path,
            params=query,
            headers=headers,
            content=None if body is None else msgspec.json.encode(body),
            timeout=timeout,
            extensions={**extensions, "timeout": timeout.as_dict()},
        )
        return _Answer(self, verb, request)

    def _read(self, answer: httpx.Response, deadline: float) -> bytes:
        """All of the body, before the deadline however slowly it drips."""
        parts, size = [], 0
        try:
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if self._monotonic() > deadline:
                    raise KubeError(Kind.UNREACHABLE, "the answer did not end in time", answer.status_code)
                if size > MOST_BYTES:
                    raise KubeError(Kind.UNREACHABLE, "the answer has no end", answer.status_code)
        except (httpx.HTTPError, RuntimeError) as error:
            raise KubeError(Kind.UNREACHABLE, f"the answer broke off: {_words(error)}", answer.status_code) from error
        return b"".join(parts)

    def _refusal(self, answer: httpx.Response, deadline: float) -> KubeError:
        text = self._read(answer, deadline)
        try:
            told = msgspec.json.decode(text)
        except msgspec.DecodeError:
            told = None
        if not isinstance(told, dict):
            told = {"message": " ".join(text[:200].decode(errors="replace").split())}
        return refusal(answer.status_code, told, answer.headers.get("retry-after"))


class _Answer:
    """A request on its way: `with` sends it and closes the answer."""

    def __init__(self, kube: Kube, verb: str, request: httpx.Request) -> None:
        self._kube, self._verb, self._request = kube, verb, request
        self._response: httpx.Response | None = None

    def __enter__(self) -> httpx.Response:
        kube = self._kube
        try:
            self._response = kube._client.send(self._request, stream=True)
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed, the process ends
            self._count("none")
            raise KubeError(Kind.UNREACHABLE, f"{kube.access.server}: no answer: {_words(error)}") from error
        self._count(str(self._response.status_code))
        return self._response

    def __exit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()

    def _count(self, status: str) -> None:
        counts = self._kube.requests
        counts[self._verb, status] = counts.get((self._verb, status), 0) + 1


def refusal(status: int, told: Json, retry_after: str | None = None) -> KubeError:
    """What an answer that is no success means. `told`: a Status object, or {"message": …} of what came instead."""
    details = told.get("details")
    if not isinstance(details, dict):
        details = {}
    found = details.get("causes")
    causes = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    message, reason = str(told.get("message", "")), told.get("reason")
    fields = frozenset(str(one.get("field", "")) for one in causes)
    wait = _seconds(retry_after)
    if wait is None:
        wait = _seconds(details.get("retryAfterSeconds"))
    kind = _kind(status, reason, message, causes, fields)
    return KubeError(kind, f"{status} {message}".strip(), status, fields, wait)


def _kind(status: int, reason: Any, message: str, causes: Sequence[Json], fields: frozenset[str]) -> Kind:
    if status == 409:
        if any(one.get("reason") == "FieldManagerConflict" for one in causes):
            return Kind.FIELD_CONFLICT
        if "uid mismatch" in message:
            return Kind.GONE
        return Kind.EXISTS if reason == "AlreadyExists" else Kind.STALE
    if status == 422:
        if "metadata.uid" in fields:
            return Kind.REPLACED
        return Kind.INVALID
    if status == 404 and reason == "NotFound":
        return Kind.GONE
    simple = {
        401: Kind.UNAUTHORISED,
        403: Kind.FORBIDDEN,
        404: Kind.SERVER,  # a proxy's, or a path that nobody serves: nothing that was deleted
        410: Kind.EXPIRED,
        429: Kind.THROTTLED,
    }
    return simple.get(status, Kind.SERVER if status >= 500 else Kind.INVALID)


def _seconds(text: Any) -> float | None:
    """Retry-After in seconds; dates are not used by the API server."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if 0 <= value < 3600 else None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _hpas(namespace: str | None) -> str:
    where = "" if namespace is None else f"/namespaces/{namespace}"
    return f"/apis/autoscaling/v2{where}/horizontalpodautoscalers"


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
