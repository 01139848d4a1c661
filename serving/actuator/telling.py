"""What the actuator says: Kubernetes Events beside the HPA, and log lines. Neither ever holds up a write."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from serving.actuator.kube import Json, Kube, KubeError
from serving.actuator.policy import WARNINGS, Code, Hpa, Said

AGAIN_SECONDS = 3600.0  # what goes on is said again after this
MOST_WAITING = 256
_BY_CODE = frozenset({Code.LIMIT_REACHED, Code.WRITE_FAILED, Code.FORBIDDEN})  # their numbers change all the time
_log = logging.getLogger("forecaster.actuator")


def event(hpa: Hpa, said: Said, me: str, wall: datetime) -> Json:
    """An events.k8s.io/v1 Event. Its note may have 1,024 bytes, its time exactly six decimals."""
    note = said.note.encode()[:1000].decode(errors="ignore")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{hpa.name[:200].rstrip('.-')}-", "namespace": hpa.namespace},
        "eventTime": wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "forecaster.io/actuator",
        "reportingInstance": me[:128],
        "action": said.code.value,
        "reason": said.code.value,
        "type": "Warning" if said.code in WARNINGS else "Normal",
        "note": note,
        "regarding": {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "name": hpa.name,
            "namespace": hpa.namespace,
            "uid": hpa.uid,
        },
    }


class Teller:
    """Logs at once and posts Events from a thread of its own. What stands unchanged is said once an hour."""

    def __init__(
        self,
        kube: Kube | None,
        me: str,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Without `kube` nothing is posted: a dry run."""
        self.dropped = 0
        self.standing: dict[tuple[str, str], dict[Code, tuple[str, float]]] = {}  # ("namespace/hpa", who says so) ->
        self._kube, self._me, self._monotonic, self._wall = kube, me, monotonic, wall
        self._waiting: queue.Queue[Json | None] = queue.Queue(MOST_WAITING)
        self._trouble = ""
        self._thread: threading.Thread | None = None
        if kube is not None:
            self._thread = threading.Thread(target=self._post, name="events", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Posts what is waiting, for at most so long."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def once(self, hpa: Hpa, said: Said, more: str = "") -> None:
        """Something happened."""
        note = f"{said.note}: {more}" if more else said.note
        level = logging.WARNING if said.code in WARNINGS else logging.INFO
        _log.log(level, "%s %s: %s", hpa.key, said.code.value, note)
        if self._kube is None:
            return
        try:
            self._waiting.put_nowait(event(hpa, Said(said.code, note), self._me, self._wall()))
        except queue.Full:
            self.dropped += 1

    def standing_now(self, hpa: Hpa, said: tuple[Said, ...], source: str) -> None:
        """All that goes on with an HPA now, as `source` sees it; what is new is told, what is missing has ended."""
        place = (hpa.key, source)
        before = self.standing.get(place, {})
        now = self._monotonic()
        current: dict[Code, tuple[str, float]] = {}
        for one in said:
            known = before.get(one.code)
            same = known is not None and (known[0] == one.note or one.code in _BY_CODE)
            if known is not None and same and now - known[1] < AGAIN_SECONDS:
                current[one.code] = known
                continue
            current[one.code] = (one.note, now)
            self.once(hpa, one)
        if current:
            self.standing[place] = current
        else:
            self.standing.pop(place, None)

    def forget(self, key: str) -> None:
        for place in [place for place in self.standing if place[0] == key]:
            del self.standing[place]

    def codes(self) -> dict[str, set[Code]]:
        """What goes on now: "namespace/hpa" -> codes."""
        found: dict[str, set[Code]] = {}
        for (key, _), said in list(self.standing.items()):
            found.setdefault(key, set()).update(said)
        return found

    def _post(self) -> None:
        assert self._kube is not None
        while True:
            body = self._waiting.get()
            if body is None:
                return
            try:
                self._kube.create_event(body["metadata"]["namespace"], body)
                self._trouble = ""
            except KubeError as error:
                self.dropped += 1
                if error.kind.value != self._trouble:  # once, not for each
                    self._trouble = error.kind.value
                    _log.warning("Events cannot be written: %s", error)
            except Exception:  # the thread lives on
                self.dropped += 1
                _log.exception("an Event")
