"""An actuator on the fake API server and a fake service, its clock in the test's hands."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from serving.actuator.access import Access, Bearer
from serving.actuator.keep import Keep
from serving.actuator.kube import Kube
from serving.actuator.leader import Leadership
from serving.actuator.offers import Service
from serving.actuator.run import TICK_SECONDS, Actuator, Process, Settings
from serving.actuator.status import metrics
from serving.actuator.telling import Teller
from tests.apiserver import CONFIG_MAP, EVENT, FakeApiServer, right

OWN = "forecaster"  # namespace of Lease and ConfigMap
NAME = "forecaster-actuator"


class Clock:
    """Monotonic seconds that a test can push on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class FakeService:
    """`GET /api/v1/recommendations` with its long poll, and nothing else. Its wall clock can be off."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.offset = timedelta(0)
        self.status = 200
        self.body: bytes | None = None  # instead of the recommendations
        self.dead = False
        self.token: str | None = None  # the one that is taken; None: any
        self.asked = 0
        self._changed = threading.Condition()
        self._serial = itertools.count(1)
        self._etag = 'W/"0"'
        self._anew = False
        self._made_at = self.now()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return format_datetime(outer.now().replace(microsecond=0), usegmt=True)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def close(self) -> None:
        self.wake()
        self._server.shutdown()
        self._server.server_close()

    def wake(self) -> None:
        with self._changed:
            self._etag = f'W/"{next(self._serial)}"'
            self._made_at = self.now()
            self._changed.notify_all()

    def again(self) -> None:
        """The same decisions, made anew now: whoever waits is answered 304."""
        with self._changed:
            self._anew, self._made_at = True, self.now()
            self._changed.notify_all()

    def recommend(self, *items: dict[str, Any]) -> None:
        """Made now; their madeAt is filled in."""
        self.items = [{"madeAt": self.now().isoformat(), **item} for item in items]
        self.wake()

    def _hung_up(self, handler: BaseHTTPRequestHandler) -> bool:
        if self.dead:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        return self.dead

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        if self._hung_up(handler):
            return
        after = unquote(handler.path.partition("after=")[2])
        refused = self.token is not None and handler.headers.get("Authorization") != f"Bearer {self.token}"
        if refused:
            handler.send_response(401)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if after:
            with self._changed:
                if self._etag == after:
                    self._changed.wait_for(lambda: self._etag != after or self._anew, 30.0)
                if self._etag == after and self._anew:
                    self._anew = False
                    handler.send_response(304)
                    handler.send_header("ETag", self._etag)
                    handler.send_header("Made-At", self._made_at.isoformat())
                    handler.end_headers()
                    return
        if self._hung_up(handler):
            return
        body = self.body if self.body is not None else json.dumps({"items": self.items, "next": None}).encode()
        handler.send_response(self.status)
        handler.send_header("ETag", self._etag)
        handler.send_header("Made-At", self._made_at.isoformat())
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@dataclass
class Running:
    """A whole actuator in threads of this process."""

    server: FakeApiServer
    service: FakeService
    clock: Clock
    actuator: Actuator
    process: Process
    kube: Kube
    teller: Teller
    leadership: Leadership | None
    code: list[int] = field(default_factory=list)
    thread: threading.Thread | None = None

    def minimum(self, name: str = "checkout", namespace: str = "shop") -> int:
        return int(self.server.get(namespace, name)["spec"]["minReplicas"])

    def settles(self, check: Callable[[], bool], seconds: float = 15.0) -> None:
        """Waits until it holds, or fails with what was said last."""
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, (self.events(), self.actuator.trouble, self.actuator.failing)
            self.server.wait_for(check, 0.05)

    def turns(self, count: int = 3) -> None:
        """Waits until the deciding thread has looked at everything again."""
        for _ in range(count):
            seen = self.actuator.turns
            self.clock.ahead += TICK_SECONDS
            self.actuator.inbox.put(None)  # type: ignore[arg-type]  # wakes it, and says nothing
            self.settles(lambda seen=seen: self.actuator.turns > seen)  # type: ignore[misc]
        self.server.wait_for(lambda: not self.actuator._busy, 0.3)

    def events(self, name: str = "checkout") -> list[str]:
        return [f"{one['reason']}: {one['note']}" for one in self.server.all(EVENT) if one["regarding"]["name"] == name]

    def reasons(self, name: str = "checkout") -> set[str]:
        return {one.partition(":")[0] for one in self.events(name)}

    def metrics(self) -> str:
        return metrics(self.actuator, self.kube, self.teller, self.leadership)

    def stop(self) -> int:
        self.process.stop()
        assert self.thread is not None
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.code[0]


def item(
    server: FakeApiServer, floor: int | None, name: str = "checkout", namespace: str = "shop", **more: Any
) -> dict[str, Any]:
    """A recommendation as the service gives it, but for madeAt."""
    uid = server.get(namespace, name)["metadata"]["uid"]
    return {
        "workload": name,
        "namespace": namespace,
        "hpa": name,
        "hpaUid": uid,
        "floor": floor,
        "desiredReplicas": floor,
        "reactive": None,
        "validForSeconds": 300.0,
        "modelVersion": "profile",
        "mode": "apply",
        "candidates": [{"name": "proactive", "replicas": floor, "detail": "1,012 of 130 a replica"}],
        "boundBy": "proactive",
        "reasons": [],
        **more,
    }


@contextlib.contextmanager
def cluster() -> Iterator[FakeApiServer]:
    """With the HPA shop/checkout (3 to 20 replicas, by kubectl apply), and our ConfigMap."""
    with FakeApiServer() as server:
        server.rights["actuator"].append(right(("", "configmaps"), "get patch", OWN))
        server.create(CONFIG_MAP, OWN, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}})
        server.create_hpa("shop", "checkout", min_replicas=3, max_replicas=20, manager="kubectl-client-side-apply")
        yield server


@contextlib.contextmanager
def actuating(
    server: FakeApiServer,
    service: FakeService,
    settings: Settings | None = None,
    me: str = "one",
    user: str = "actuator",
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    lease_clock: Callable[[], float] = time.monotonic,
    bearer: Bearer | None = None,
    token: Callable[[], str | None] = lambda: None,
) -> Iterator[Running]:
    """`wall`: the actuator's; `lease_clock`: by it, leases are held and taken over."""
    settings = settings or Settings(apply=True)
    clock = Clock()
    kube = Kube(access(server, user) if bearer is None else Access(server.url, "a test", OWN, bearer=bearer))
    leadership = Leadership(kube, OWN, NAME, me, lease_clock, wall) if settings.apply else None
    if leadership is not None:
        kube.may_write = leadership.may_write
    teller = Teller(kube if settings.apply else None, me)
    actuator = Actuator(kube, Keep(kube, OWN, NAME), teller, settings, kube.may_write, clock)
    poll = Service(service.url, token, clock, wall)
    process = Process(actuator, kube, poll, leadership)
    one = Running(server, service, clock, actuator, process, kube, teller, leadership)
    one.thread = threading.Thread(target=lambda: one.code.append(process.run()), daemon=True)
    one.thread.start()
    try:
        yield one
    finally:
        process.stop()
        service.wake()
        one.thread.join(20)
        server.drop_watches()
        kube.close()
        poll.close()


def managed(server: FakeApiServer, name: str = "checkout", namespace: str = "shop") -> list[dict[str, Any]]:
    """managedFields without times."""
    entries = server.get(namespace, name)["metadata"]["managedFields"]
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries]


def access(server: FakeApiServer, user: str = "actuator") -> Access:
    token = server.token(user)
    return Access(server.url, "a test", OWN, bearer=Bearer(lambda: (token, float("inf"))))
