"""The fake API server itself: HTTP over loopback, users and rights, watches, faults, and the side for tests."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import struct as binary
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.apiserver import fields
from tests.apiserver.errors import (
    ApiError,
    Named,
    bad_request,
    forbidden,
    forbidden_value,
    internal,
    invalid_options,
    no_such_resource,
    unauthorized,
)
from tests.apiserver.fields import Json
from tests.apiserver.kinds import HPA, KINDS, REVIEW, Kind, as_version, decoded
from tests.apiserver.store import (
    APPLY,
    Change,
    Store,
    Write,
    dry_run_problems,
    key_of,
    manager_problems,
    now,
    unparsable,
)

TOO_MANY = "Too many requests, please try again later.\n"
ALL = "*"
HPA_RIGHTS = ("autoscaling", "horizontalpodautoscalers")
LEASE_RIGHTS = ("coordination.k8s.io", "leases")
EVENT_RIGHTS = ("events.k8s.io", "events")


@dataclass(frozen=True)
class Right:
    """May do `verbs` on a resource; in one namespace, or in all where `namespace` is empty."""

    group: str
    resource: str
    verbs: frozenset[str]
    namespace: str = ""

    def allows(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        return (
            self.group in (ALL, group)
            and self.resource in (ALL, resource)
            and (ALL in self.verbs or verb in self.verbs)
            and self.namespace in ("", namespace)
        )


def right(what: tuple[str, str], verbs: str, namespace: str = "") -> Right:
    return Right(*what, frozenset(verbs.split()), namespace)


def default_rights() -> dict[str, list[Right]]:
    """By user. The token of a user is `<user>-token`."""
    actuator = [
        right(HPA_RIGHTS, "get list watch patch"),
        right(LEASE_RIGHTS, "get create update patch"),
        right(EVENT_RIGHTS, "create patch"),
    ]
    return {
        "admin": [right((ALL, ALL), ALL)],
        "actuator": actuator,
        "throttled": actuator[:1],
        "reader": [right(HPA_RIGHTS, "get list watch")],
        "keda": [right(HPA_RIGHTS, ALL)],
        "nobody": [],
    }


@dataclass
class Asked:
    """One request as it came in, with the answer's status once it is sent (0: none was)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes
    user: str
    verb: str
    at: float  # time.monotonic()
    status: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_write(self) -> bool:
        return self.verb in ("create", "update", "patch", "delete")


Match = str | Callable[[Asked], bool]


def matches(match: Match, asked: Asked) -> bool:
    """A callable decides itself; a text is `VERB part/of/path`, with an API verb, an HTTP method or `*` in front."""
    if callable(match):
        return match(asked)
    verb, _, part = match.partition(" ")
    return verb in (ALL, asked.verb, asked.method) and part in asked.path


@dataclass
class Fault:
    """What happens to requests that match, `times` times (None: until removed)."""

    match: Match
    status: int = 0  # 0: the connection is cut
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int | None = 1
    after_write: bool = False  # the request is carried out first; only its answer is lost


class Hang:
    """Requests that match wait here until `release()`. `entered` is set when the first one came."""

    def __init__(self, match: Match, after_write: bool) -> None:
        self.match = match
        self.after_write = after_write
        self.entered = threading.Event()
        self.released = threading.Event()

    def release(self) -> None:
        self.released.set()

    def __enter__(self) -> Hang:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Target:
    """What a path speaks of. `kind` is None where the server does not know the resource."""

    what: Named
    version: str
    namespace: str
    subresource: str
    kind: Kind | None


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def parse_path(path: str) -> Target | None:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    elif parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = [*rest, "", ""][:3]
    kind = next((one for one in KINDS if (one.group, one.resource) == (group, resource)), None)
    if kind is not None and version not in kind.versions:
        kind = None
    if (group, resource) == (REVIEW.group, REVIEW.resource):
        kind = REVIEW
    return Target(Named(group, resource, kind.kind if kind else "", name), version, namespace, subresource, kind)


def selector(query: Mapping[str, str]) -> Callable[[Json], bool]:
    """labelSelector (`a=b`, `a!=b`, `a`, `!a`) and fieldSelector (metadata.name, metadata.namespace)."""
    tests: list[Callable[[Json], bool]] = []
    for text in filter(None, query.get("labelSelector", "").split(",")):
        if " in " in text or "(" in text:
            raise bad_request("unable to parse requirement: found '', expected: ',', ')' or identifier")
        tests.append(label_test(text.strip()))
    for text in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = text.replace("==", "=").partition("=")
        if name not in ("metadata.name", "metadata.namespace"):
            known = '"metadata.name", "metadata.namespace"'
            raise bad_request(f"{json.dumps(name)} is not a known field selector: only {known}")
        tests.append(lambda body, name=name, value=value: body["metadata"].get(name[9:]) == value)  # type: ignore[misc]
    return lambda body: all(test(body) for test in tests)


def label_test(text: str) -> Callable[[Json], bool]:
    def labels(body: Json) -> Json:
        found: Json = body["metadata"].get("labels") or {}
        return found

    if "!=" in text:
        name, value = text.split("!=", 1)
        return lambda body: labels(body).get(name) != value
    if "=" in text:
        name, value = text.replace("==", "=").split("=", 1)
        return lambda body: labels(body).get(name) == value
    if text.startswith("!"):
        return lambda body: text[1:] not in labels(body)
    return lambda body: text in labels(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: FakeApiServer) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def cut(self, *, reset: bool) -> None:
        with self.lock:
            open_now = list(self.connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, binary.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        try:
            self.server.owner.handle(self, body)
        except (Cut, OSError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


@dataclass
class Watch:
    """One running watch."""

    asked: Asked
    bookmarks: bool
    end: str = ""  # "clean", "cut" or "error"
    bookmark_now: bool = False


class FakeApiServer:
    """See `tests/apiserver/__init__.py` for how a test uses it."""

    def __init__(self, namespaces: Iterable[str] = ("default", "shop")) -> None:
        self.store = Store(set(namespaces))
        self.rights = default_rights()
        self.denied: list[tuple[str, str, str, str]] = []
        self.tokens = {f"{user}-token": user for user in self.rights}
        self.throttled: set[str] = set()
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self.hangs: list[Hang] = []
        self.write_hooks: list[tuple[Match, Callable[[Json | None, Json], object]]] = []
        self.watches: list[Watch] = []
        self.lose_bookmarks = False
        self.silent = False  # watches stay open and say nothing
        self.bookmark_seconds = 60.0
        self.forbidden_requests = 0  # the next requests are 403, as while RBAC is loaded after a start
        self.lock = threading.RLock()
        self.port = 0
        self.http: Server | None = None
        self.thread: threading.Thread | None = None

    # --- life -------------------------------------------------------------------------------------------------

    def start(self) -> FakeApiServer:
        assert self.http is None, "it runs already"
        self.http = Server(("127.0.0.1", self.port), self)
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drain(self) -> None:
        """SIGTERM: new connections are refused, running watches go on until `stop()`."""
        if self.http is not None and self.thread is not None:
            self.http.shutdown()
            self.http.socket.close()
            self.thread.join()

    def stop(self) -> None:
        """Ends watches with a final chunk, then refuses connections."""
        self.end_watches("clean")
        self.wait_for(lambda: not self.watches)
        self.down(reset=False)

    def kill(self) -> None:
        """SIGKILL: every connection is cut, new ones are refused."""
        self.end_watches("cut")
        self.down(reset=True)

    def down(self, *, reset: bool) -> None:
        server, self.http = self.http, None
        for hang in self.hangs:
            hang.release()
        if server is None:
            return
        if self.thread is not None and self.thread.is_alive():
            server.shutdown()
            server.socket.close()
            self.thread.join()
        server.cut(reset=reset)

    def restart(self, *, forbidden_requests: int = 0, kill: bool = True) -> None:
        """Down (if it is not) and up on the same port; afterwards every older resourceVersion is too old."""
        if self.http is not None:
            self.kill() if kill else self.stop()
        with self.store.lock:
            self.store.version += 1
            self.store.oldest = self.store.version
        self.hangs.clear()
        self.forbidden_requests = forbidden_requests
        self.start()

    def __enter__(self) -> FakeApiServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # --- users ------------------------------------------------------------------------------------------------

    def token(self, user: str) -> str:
        return next(token for token, owner in self.tokens.items() if owner == user)

    def add_user(self, user: str, *rights: Right, token: str = "") -> str:
        self.rights[user] = list(rights)
        self.tokens[token or f"{user}-token"] = user
        return token or f"{user}-token"

    def deny(self, user: str, verb: str = ALL, namespace: str = ALL, resource: str = ALL) -> None:
        """Withdraws a right at run time; running watches go on."""
        self.denied.append((user, verb, namespace, resource))

    def allow(self, user: str, verb: str = ALL, namespace: str = ALL, resource: str = ALL) -> None:
        """Takes a `deny` with the same words back."""
        self.denied.remove((user, verb, namespace, resource))

    def allowed(self, user: str, verb: str, group: str, resource: str, namespace: str) -> bool:
        for who, what, where, which in self.denied:
            if who == user and what in (ALL, verb) and where in (ALL, namespace) and which in (ALL, resource):
                return False
        return any(one.allows(verb, group, resource, namespace) for one in self.rights.get(user, []))

    # --- objects, for tests -----------------------------------------------------------------------------------

    def get(self, namespace: str, name: str, kind: Kind = HPA) -> Json:
        """A copy of an object; KeyError where there is none."""
        found = self.store.find(kind, namespace, name)
        if found is None:
            raise KeyError(f"{namespace}/{name}")
        return copy.deepcopy(found)

    def all(self, kind: Kind = HPA, namespace: str = "") -> list[Json]:
        return self.store.list(kind, namespace, lambda body: True, {})[0]

    def owners(self, namespace: str, name: str, path: str = "spec.minReplicas") -> list[tuple[str, str]]:
        """(manager, operation) of each entry of managedFields that holds a field of an HPA."""
        wanted = tuple(f"f:{part}" for part in path.split("."))
        managers = fields.read_managers(self.get(namespace, name)["metadata"].get("managedFields"))
        return [(key.manager, key.operation) for key, entry in managers.items() if wanted in entry.paths]

    def create_hpa(
        self,
        namespace: str,
        name: str,
        *,
        min_replicas: int | None = 2,
        max_replicas: int = 10,
        manager: str = "kubectl-create",
        operation: str = "Update",
        **more: Any,
    ) -> Json:
        """A HPA as `manager` would make it. `more`: labels, annotations, metrics, behavior, finalizers, target."""
        self.store.namespaces.add(namespace)
        metadata: Json = {"name": name, "namespace": namespace, "labels": more.pop("labels", {"app": name})}
        for key in ("annotations", "finalizers"):
            if key in more:
                metadata[key] = more.pop(key)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": more.pop("target", name)}
        spec: Json = {"maxReplicas": max_replicas, "scaleTargetRef": target, **more}
        spec.setdefault("metrics", [cpu_metric(70)])
        if min_replicas is not None:
            spec["minReplicas"] = min_replicas
        body = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}
        if operation == "Apply":
            return self.store.apply(HPA, "v2", namespace, name, json.dumps(body).encode(), Write(manager))
        return self.store.create(HPA, "v2", namespace, body, Write(manager))

    def apply_as(self, manager: str, namespace: str, name: str, body: Json, *, force: bool = False) -> Json:
        """Server-side apply by somebody. `body`: what lies beside name and kind, `{"spec": {…}}`."""
        full = copy.deepcopy(body) | {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        write = Write(manager, force=force)
        return self.store.apply(HPA, "v2", namespace, name, json.dumps(full).encode(), write)

    def patch_as(self, manager: str, namespace: str, name: str, patch: Any, *, kind: Kind = HPA) -> Json:
        """A merge patch by somebody (a list: a JSON patch)."""
        content = "application/json-patch+json" if isinstance(patch, list) else "application/merge-patch+json"
        raw = json.dumps(patch).encode()
        return self.store.patch(kind, kind.versions[0], namespace, name, content, raw, {}, Write(manager))

    def replace_as(self, manager: str, namespace: str, name: str, body: Json, *, kind: Kind = HPA) -> Json:
        """A PUT by somebody."""
        return self.store.replace(kind, kind.versions[0], namespace, name, body, Write(manager))

    def delete_hpa(self, namespace: str, name: str) -> None:
        self.store.delete(HPA, namespace, name, {})

    def recreate_hpa(self, namespace: str, name: str, **more: Any) -> Json:
        """Deletes and makes it anew: another uid."""
        self.delete_hpa(namespace, name)
        return self.create_hpa(namespace, name, **more)

    def write_status(self, namespace: str, name: str, current: int, desired: int, **more: Any) -> Json:
        """The HPA controller's write: moves resourceVersion, sends MODIFIED. `more`: other fields of the status."""

        def change(live: Json) -> Json:
            live["status"] |= {"currentReplicas": current, "desiredReplicas": desired, **more}
            return live

        return self.store.update(HPA, "v2", namespace, name, Write("kube-controller-manager"), change, "status")

    def create(self, kind: Kind, namespace: str, body: Json, manager: str = "kubectl-create") -> Json:
        """An object of another kind (LEASE, EVENT, CONFIG_MAP)."""
        self.store.namespaces.add(namespace)
        return self.store.create(kind, kind.versions[0], namespace, body, Write(manager))

    def terminate_namespace(self, namespace: str) -> None:
        self.store.terminating.add(namespace)

    def policy(self, refuse: Callable[[Kind, Json], str | None]) -> None:
        """An admission policy: a text refuses the write with 422."""
        self.store.policies.append(refuse)

    # --- faults -----------------------------------------------------------------------------------------------

    def fail_next(
        self,
        match: Match = "* ",
        status: int = 503,
        *,
        reason: str = "",
        message: str = "",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        times: int | None = 1,
        after_write: bool = False,
    ) -> Fault:
        """Answers the next requests with a failure: bytes as they are, else a Status object."""
        given = dict(headers or {})
        if body is None:
            body = ApiError(status, reason, message or reason or "fault").body
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        fault = Fault(match, status, given, body, times, after_write)
        self.faults.append(fault)
        return fault

    def throttle_next(self, match: Match = "* ", *, retry_after: int = 1, times: int | None = 1) -> Fault:
        """429 as priority and fairness sends it: text/plain, no Status object."""
        headers = {"Content-Type": "text/plain; charset=utf-8", "Retry-After": str(retry_after)}
        return self.fail_next(match, 429, headers=headers, body=TOO_MANY.encode(), times=times)

    def break_json(self, match: Match = "* ", *, times: int | None = 1) -> Fault:
        """200 with a body that ends in the middle."""
        return self.fail_next(match, 200, body=b'{"kind": "HorizontalPodAutosc', times=times)

    def cut_next(self, match: Match = "* ", *, times: int | None = 1, after_write: bool = False) -> Fault:
        """The connection ends without an answer."""
        fault = Fault(match, times=times, after_write=after_write)
        self.faults.append(fault)
        return fault

    def hang(self, match: Match = "* ", *, after_write: bool = False) -> Hang:
        hang = Hang(match, after_write)
        self.hangs.append(hang)
        return hang

    def on_next_write(self, hook: Callable[[Json | None, Json], object], match: Match = "* ") -> None:
        """`hook(old, new)` runs once, between the reading and the storing of the next write over HTTP that matches.

        What it writes itself (by `patch_as` and the like) comes in between: the race is lost, or tried again on the
        new object, as the real server does.
        """
        self.write_hooks.append((match, hook))

    def throttle(self, user: str, on: bool = True) -> None:
        """429 for every request of a user."""
        (self.throttled.add if on else self.throttled.discard)(user)

    def drop_watches(self) -> None:
        """Cuts running watches without a final chunk."""
        self.end_watches("cut")

    def close_watches(self) -> None:
        """Ends running watches as a timeout does."""
        self.end_watches("clean")

    def expire_watches(self) -> None:
        """Every resourceVersion so far is too old: running watches get ERROR 410, later ones too."""
        with self.store.lock:
            self.store.version += 1
            self.store.oldest = self.store.version
        self.end_watches("error")

    def compact(self) -> None:
        """Continue tokens and exact lists from before are too old."""
        with self.store.lock:
            self.store.version += 1
            self.store.compacted = self.store.version

    def restore_storage(self, version: int) -> None:
        """A back-up: the counter falls back, so that watches from the future are silent. The objects stay."""
        with self.store.lock:
            self.store.version = version
            self.store.oldest = min(self.store.oldest, version)
            self.store.compacted = min(self.store.compacted, version)
            self.store.history.clear()

    def send_bookmarks(self) -> None:
        with self.store.lock:
            for watch in self.watches:
                watch.bookmark_now = watch.bookmarks
            self.store.changed.notify_all()

    def end_watches(self, how: str) -> None:
        with self.store.lock:
            for watch in self.watches:
                watch.end = how
            self.store.changed.notify_all()

    def wait_for(self, check: Callable[[], bool], seconds: float = 10.0) -> bool:
        """Waits until `check()` holds; asked again after each request, change and start or end of a watch."""
        with self.store.lock:
            return self.store.changed.wait_for(check, seconds)

    def writes(self, user: str | None = None, kind: str = "horizontalpodautoscalers") -> list[Asked]:
        """The writes so far, by user and resource."""
        found = [one for one in self.requests if one.is_write and f"/{kind}" in one.path]
        return [one for one in found if user in (None, one.user)]

    # --- one request ------------------------------------------------------------------------------------------

    def handle(self, handler: Handler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        target = parse_path(parts.path)
        user = self.user(headers)
        verb = verb_of(handler.command, target, query)
        asked = Asked(handler.command, parts.path, query, headers, body, user, verb, time.monotonic())
        with self.store.lock:
            self.requests.append(asked)
            self.store.changed.notify_all()
        fault = self.next_fault(asked)
        for hang in [one for one in self.hangs if matches(one.match, asked) and not one.after_write]:
            self.wait_at(hang)
        if fault is not None and not fault.after_write:
            return self.fail(handler, asked, fault)
        answer = self.answer(handler, asked, target)
        if answer is None:
            return None
        for hang in [one for one in self.hangs if matches(one.match, asked) and one.after_write]:
            self.wait_at(hang)
        if fault is not None:
            return self.fail(handler, asked, fault)
        asked.status = answer.status
        return handler.send(answer)

    def wait_at(self, hang: Hang) -> None:
        hang.entered.set()
        hang.released.wait()

    def next_fault(self, asked: Asked) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and matches(fault.match, asked):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def fail(self, handler: Handler, asked: Asked, fault: Fault) -> None:
        if not fault.status:
            raise Cut
        asked.status = fault.status
        handler.send(Answer(fault.status, fault.body, fault.headers))

    def user(self, headers: Mapping[str, str]) -> str:
        """The name behind the token; "" where the server does not know it."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not scheme:
            return "system:anonymous"
        return self.tokens.get(token, "") if scheme == "Bearer" else ""

    def answer(self, handler: Handler, asked: Asked, target: Target | None) -> Answer | None:
        """The answer, or None where a watch gave its own."""
        warnings: list[str] = []
        try:
            if not asked.user:
                raise unauthorized()
            if asked.user in self.throttled:
                headers = {"Content-Type": "text/plain; charset=utf-8", "Retry-After": "1"}
                return Answer(429, TOO_MANY.encode(), headers)
            if target is None:
                return self.plain(asked)
            self.authorize(asked, target)
            if target.what.resource == "selfsubjectreviews":
                user = {"username": asked.user, "uid": asked.user, "groups": ["system:authenticated"]}
                head = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}}
                return Answer(201, {**head, "status": {"userInfo": user}})
            if target.kind is None:
                raise no_such_resource()
            if target.kind is REVIEW:
                return self.review(asked, target)
            if asked.verb == "watch":
                self.watch(handler, asked, target, target.kind)
                return None
            answer = self.resource(asked, target, target.kind, warnings)
        except ApiError as error:
            answer = Answer(error.code, error.body, error.headers)
        if warnings:
            answer.headers["Warning"] = ", ".join(f"299 - {json.dumps(text)}" for text in warnings)
        return answer

    def plain(self, asked: Asked) -> Answer:
        """What is no resource: /version, the health checks, the list of versions."""
        if asked.path == "/version":
            return Answer(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"})
        if asked.path in ("/readyz", "/livez", "/healthz"):
            return Answer(200, b"ok", {"Content-Type": "text/plain; charset=utf-8"})
        if asked.user == "system:anonymous" or asked.user == "nobody":
            text = f'forbidden: User "{asked.user}" cannot {asked.verb} path "{asked.path}"'
            raise ApiError(403, "Forbidden", text, {})
        if asked.path == "/apis/autoscaling":
            versions = [{"groupVersion": f"autoscaling/{version}", "version": version} for version in HPA.versions]
            group = {"kind": "APIGroup", "apiVersion": "v1", "name": "autoscaling", "versions": versions}
            return Answer(200, {**group, "preferredVersion": versions[0]})
        raise no_such_resource()

    def authorize(self, asked: Asked, target: Target) -> None:
        what = target.what
        review = what.resource in ("selfsubjectaccessreviews", "selfsubjectreviews")
        with self.lock:
            blocked = self.forbidden_requests > 0
            self.forbidden_requests -= blocked
        if review and asked.user != "system:anonymous" and not blocked:
            return
        resource = f"{what.resource}/{target.subresource}" if target.subresource else what.resource
        if blocked or not self.allowed(asked.user, asked.verb, what.group, resource, target.namespace):
            raise forbidden(asked.user, asked.verb, what, target.subresource, target.namespace)

    def review(self, asked: Asked, target: Target) -> Answer:
        body = decoded(REVIEW, "v1", asked.json)
        wanted = (body.get("spec") or {}).get("resourceAttributes") or {}
        asked_for = [wanted.get(name, "") for name in ("verb", "group", "resource", "namespace")]
        allowed = self.allowed(asked.user, *asked_for)
        status: Json = {"allowed": allowed}
        if allowed:
            role = f'ClusterRoleBinding "{asked.user}" of ClusterRole "{asked.user}" to User "{asked.user}"'
            status["reason"] = f"RBAC: allowed by {role}"
        manager = fields.owner(manager_of(asked), "Update", REVIEW.version("v1"))
        spec: Json = {"metadata": {}, "spec": {}}
        compare = fields.compare(REVIEW.shapes["v1"], spec, {"metadata": {}, "spec": body.get("spec") or {}})
        managers = {manager: fields.Entry(compare.changed, REVIEW.version("v1"), now())}
        metadata = {"managedFields": fields.write_managers(managers)}
        return Answer(201, {**body, "metadata": metadata, "status": status})

    def resource(self, asked: Asked, target: Target, kind: Kind, warnings: list[str]) -> Answer:
        name, namespace, query = target.what.name, target.namespace, asked.query
        if target.subresource and not (target.subresource == "status" and asked.verb == "get"):
            raise no_such_resource()
        accept = asked.headers.get("accept", "")
        if asked.verb == "get":
            return Answer(200, shown(kind, self.store.get(kind, namespace, name), target.version, accept))
        if asked.verb == "list":
            found, metadata = self.store.list(kind, namespace, selector(query), query)
            return Answer(200, listed(kind, found, metadata, target.version, accept))
        if asked.verb == "delete":
            options = json.loads(asked.body) if asked.body else {}
            return Answer(200, self.deleted(kind, namespace, name, options, target.version))
        if asked.verb not in ("create", "update", "patch"):
            raise ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {}
            )
        options_name = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}[asked.verb]
        if asked.verb != "patch" and (
            problems := manager_problems(query.get("fieldManager", "")) + dry_run_problems(query)
        ):
            raise invalid_options(options_name, *problems)

        def may_create() -> None:
            if not self.allowed(asked.user, "create", kind.group, kind.resource, namespace):
                raise forbidden(asked.user, "create", target.what, "", namespace)

        write = Write(
            manager_of(asked),
            dry_run=query.get("dryRun") == "All",
            validation=query.get("fieldValidation", "Warn"),
            force=query.get("force", "") == "true",
            may_create=may_create,
            before_store=lambda old, new: self.run_hook(asked, old, new),
            warn=warnings.append,
        )
        version = target.version
        content = asked.headers.get("content-type", "").partition(";")[0]
        if asked.verb == "patch":
            absent = self.store.find(kind, namespace, name) is None
            done = self.store.patch(kind, version, namespace, name, content, asked.body, query, write)
            created = absent and content == APPLY
            return Answer(201 if created else 200, as_version(kind, done, version))
        try:
            body = json.loads(asked.body)
        except ValueError as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from error
        if asked.verb == "create":
            done = self.store.create(kind, version, namespace, body, write)
            return Answer(201, as_version(kind, done, version))
        return Answer(200, as_version(kind, self.store.replace(kind, version, namespace, name, body, write), version))

    def deleted(self, kind: Kind, namespace: str, name: str, options: Json, version: str) -> Json:
        done = self.store.delete(kind, namespace, name, options)
        return done if done.get("kind") == "Status" else as_version(kind, done, version)

    def run_hook(self, asked: Asked, old: Json | None, new: Json) -> None:
        with self.lock:
            found = next((one for one in self.write_hooks if matches(one[0], asked)), None)
            if found is not None:
                self.write_hooks.remove(found)
        if found is not None:
            found[1](old, new)

    # --- watches ----------------------------------------------------------------------------------------------

    def watch(self, handler: Handler, asked: Asked, target: Target, kind: Kind) -> None:
        query, store = asked.query, self.store
        chosen = selector(query)
        initial = query.get("sendInitialEvents") == "true"
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid_options("ListOptions", forbidden_value("resourceVersionMatch", text))
        wanted = query.get("resourceVersion", "")
        if wanted and not wanted.isdigit():
            raise internal(unparsable("resourceVersion", wanted))
        accept = asked.headers.get("accept", "")
        watch = Watch(asked, query.get("allowWatchBookmarks") == "true")
        with store.lock:
            start = int(wanted or 0)
            events: list[Json] = []
            if start == 0 or initial:
                start = store.version
                events += [
                    {"type": "ADDED", "object": shown(kind, body, target.version, accept)}
                    for body in store.list(kind, target.namespace, chosen, {})[0]
                ]
                if initial and watch.bookmarks and not self.lose_bookmarks:
                    events.append(bookmark(kind, target.version, start, {"k8s.io/initial-events-end": "true"}))
            elif start < store.oldest:
                events.append(too_old(start, store.oldest))
                watch.end = "clean"
            self.watches.append(watch)
            store.changed.notify_all()
        asked.status = 200
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        try:
            self.follow(handler, watch, target, kind, chosen, start, events)
        finally:
            with store.lock:
                self.watches.remove(watch)
                store.changed.notify_all()

    def follow(
        self,
        handler: Handler,
        watch: Watch,
        target: Target,
        kind: Kind,
        chosen: Callable[[Json], bool],
        seen: int,
        events: list[Json],
    ) -> None:
        """Sends what happens until the timeout, the client's end, or a fault."""
        store, accept = self.store, watch.asked.headers.get("accept", "")
        begun = time.monotonic()
        ends = begun + float(watch.asked.query.get("timeoutSeconds") or 1800)
        # as the real one: a bookmark each minute, and one about two seconds before the end
        last = ends - 2 if ends - begun > 2 else None
        next_bookmark = min(begun + self.bookmark_seconds, last or ends)
        while True:
            for event in events:
                handler.chunk(json.dumps(event).encode() + b"\n")
            with store.lock:
                events = []
                while not watch.end and not events:
                    if not self.silent:
                        for change in self.since(kind, seen):
                            seen = change.version
                            if seen_event := seen_as(change, target.namespace, chosen):
                                word, body = seen_event
                                events.append({"type": word, "object": shown(kind, body, target.version, accept)})
                        if watch.bookmark_now or (watch.bookmarks and time.monotonic() >= next_bookmark):
                            watch.bookmark_now = False
                            later = time.monotonic() + self.bookmark_seconds
                            next_bookmark = min(later, last) if last and next_bookmark < last else later
                            seen = max(seen, store.version)
                            if not self.lose_bookmarks:
                                events.append(bookmark(kind, target.version, seen, {}))
                    left = ends - time.monotonic()
                    if left <= 0:
                        watch.end = "clean"
                    elif not events:
                        until = next_bookmark - time.monotonic() if watch.bookmarks and not self.silent else left
                        store.changed.wait(max(0.0, min(left, until)))
                end = watch.end
                if end == "error":
                    events.append(too_old(seen, store.oldest))
            if end == "cut":
                raise Cut
            if end:
                for event in events:
                    handler.chunk(json.dumps(event).encode() + b"\n")
                handler.chunk(b"")
                return

    def since(self, kind: Kind, seen: int) -> list[Change]:
        found = []
        for change in reversed(self.store.history):
            if change.version <= seen:
                break
            if change.kind is kind:
                found.append(change)
        return found[::-1]


def seen_as(change: Change, namespace: str, chosen: Callable[[Json], bool]) -> tuple[str, Json] | None:
    """Type and object of an event for one watch. Leaving a selector is a deletion, with the last state inside it."""
    if namespace not in ("", key_of(change.object)[0]):
        return None
    before = change.before is not None and chosen(change.before)
    after = change.type != "DELETED" and chosen(change.object)
    if after:
        return ("MODIFIED" if before else "ADDED"), change.object
    if not before or change.before is None:
        return None
    last = change.object if change.type == "DELETED" else change.before
    return "DELETED", {**last, "metadata": {**last["metadata"], "resourceVersion": str(change.version)}}


def verb_of(method: str, target: Target | None, query: Mapping[str, str]) -> str:
    if method == "GET" and target is not None and not target.what.name:
        return "watch" if query.get("watch") in ("1", "true") else "list"
    return {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]


def manager_of(asked: Asked) -> str:
    """The name in managedFields: fieldManager, or the User-Agent up to the slash."""
    return asked.query.get("fieldManager") or asked.headers.get("user-agent", "").partition("/")[0] or "unknown"


def cpu_metric(percent: int) -> Json:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def shown(kind: Kind, body: Json, version: str, accept: str) -> Json:
    if "as=PartialObjectMetadata" in accept:
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]}
    return as_version(kind, body, version)


def listed(kind: Kind, found: list[Json], metadata: Json, version: str, accept: str) -> Json:
    rows = [shown(kind, body, version, accept) for body in found]
    if "as=PartialObjectMetadata" in accept:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
    else:
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.version(version)}
        rows = [{name: value for name, value in row.items() if name not in ("kind", "apiVersion")} for row in rows]
    return {**head, "metadata": metadata, "items": rows}


def bookmark(kind: Kind, version: str, at: int, annotations: dict[str, str]) -> Json:
    body = {"kind": kind.kind, "apiVersion": kind.version(version), **copy.deepcopy(kind.empty[version])}
    body["metadata"] = {"resourceVersion": str(at), **({"annotations": annotations} if annotations else {})}
    return {"type": "BOOKMARK", "object": body}


def too_old(wanted: int, oldest: int) -> Json:
    error = ApiError(410, "Expired", f"too old resource version: {wanted} ({oldest})")
    return {"type": "ERROR", "object": error.body}
