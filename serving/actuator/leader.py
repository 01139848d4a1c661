"""Who may write: one actuator, by a Lease, as client-go elects leaders.

A lease that others hold is judged by how long *we* have seen it unchanged, never by its own times: clocks differ. The
holder stops writing when RENEW_WITHIN has passed since it last renewed, and every write ends within WRITE_SECONDS, so
that none of them outlives the lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from serving.actuator.kube import Json, Kind, Kube, KubeError

LEASE_SECONDS = 15.0
RENEW_WITHIN = 10.0
RETRY_SECONDS = 2.0
_log = logging.getLogger("forecaster.actuator")


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease as somebody else last wrote it."""

    version: str  # resourceVersion
    holder: str
    seconds: float  # leaseDurationSeconds
    since: float  # monotonic seconds since when we have seen it so


def observe(told: Json, before: Seen | None, now: float) -> Seen:
    spec = _spec(told)
    version = str((told.get("metadata") or {}).get("resourceVersion") or "")
    if before is not None and before.version == version:
        return before
    seconds = spec.get("leaseDurationSeconds")
    lasts = float(seconds) if isinstance(seconds, int | float) else LEASE_SECONDS
    return Seen(version, str(spec.get("holderIdentity") or ""), lasts, now)


def may_take(seen: Seen, me: str, now: float) -> bool:
    """Whether the lease is ours already, free, or has not been renewed for as long as it lasts."""
    return seen.holder in ("", me) or now - seen.since >= seen.seconds


def written(told: Json | None, name: str, namespace: str, me: str, wall: datetime) -> Json:
    """The Lease to send: a new one, or `told` renewed or taken over."""
    stamp = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # exactly six decimals, or it is refused
    before = _spec(told or {})
    moved = before.get("holderIdentity") != me
    spec = {
        "holderIdentity": me,
        "leaseDurationSeconds": int(LEASE_SECONDS),
        "acquireTime": stamp if moved else before.get("acquireTime", stamp),
        "renewTime": stamp,
        "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if told is not None and moved else 0),
    }
    metadata: Json = {"name": name, "namespace": namespace}
    if told is not None:  # an update replaces all: labels that a chart gave it stay
        kept = ("resourceVersion", "uid", "labels", "annotations", "ownerReferences", "finalizers")
        metadata |= {key: told["metadata"][key] for key in kept if key in told["metadata"]}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _spec(told: Json) -> dict[str, Any]:
    spec = told.get("spec")
    return dict(spec) if isinstance(spec, dict) else {}


class Leadership:
    """Holds the lease, or waits for it. `turn` is called every RETRY_SECONDS; any thread may ask `may_write`."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        me: str,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.me, self.name, self.namespace = me, name, namespace
        self.trouble = ""
        self._kube, self._monotonic, self._wall = kube, monotonic, wall
        self._seen: Seen | None = None
        self._renewed = float("-inf")
        self._lock = threading.Lock()
        self.held = False  # was it ever ours

    def may_write(self) -> bool:
        return self._monotonic() - self._renewed < RENEW_WITHIN

    @property
    def lost(self) -> bool:
        """It was ours and is not any more: the process must end."""
        return self.held and not self.may_write()

    @property
    def holder(self) -> str:
        return self.me if self.may_write() else "" if self._seen is None else self._seen.holder

    def turn(self) -> None:
        """One attempt to renew or to get it. Failures are noted in `trouble`; the next turn tries again."""
        with self._lock:
            began = self._monotonic()  # the lease counts from before the request
            try:
                self._turn(began)
                self.trouble = ""
            except KubeError as error:
                self.trouble = str(error)
            except Exception as error:  # the thread that renews must live
                _log.exception("the lease %s/%s", self.namespace, self.name)
                self.trouble = f"a fault of ours: {error}"

    def _turn(self, began: float) -> None:
        try:
            told = self._kube.get_lease(self.namespace, self.name)
        except KubeError as error:
            if error.kind is not Kind.GONE:
                raise
            if self.held:
                self._renewed = float("-inf")  # somebody deleted it: another may have made it ours no more
                raise KubeError(Kind.GONE, f"the lease {self.namespace}/{self.name} was deleted") from None
            body = written(None, self.name, self.namespace, self.me, self._wall())
            self._kube.create_lease(self.namespace, body)
            self._renewed, self.held = began, True
            return
        self._seen = observe(told, self._seen, self._monotonic())
        if self.held and self._seen.holder != self.me:
            self._renewed = float("-inf")
            raise KubeError(Kind.STALE, f"the lease was taken over by {self._seen.holder or 'nobody'}")
        if not may_take(self._seen, self.me, self._monotonic()):
            return
        body = written(told, self.name, self.namespace, self.me, self._wall())
        self._kube.update_lease(self.namespace, self.name, body)
        self._renewed, self.held = began, True

    def release(self) -> None:
        """Lets another have it at once. Failures do not matter: it ends by itself."""
        with self._lock:
            if not self.may_write():
                return
            self._renewed = float("-inf")
            try:
                told = self._kube.get_lease(self.namespace, self.name)
                if (told.get("spec") or {}).get("holderIdentity") != self.me:
                    return
                body = written(told, self.name, self.namespace, self.me, self._wall())
                body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                self._kube.update_lease(self.namespace, self.name, body)
            except KubeError as error:
                self.trouble = str(error)
