"""Incidents as alerts of Alertmanager's API v2: renewed while they are open, ended when they close.

Nothing is queued: what is open is sent again and again, so an Alertmanager that was away, or restarted, knows all of it
a minute later, and alerts of a service that died end by themselves.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from forecaster.domain import Incident
from serving.delivery.courier import Clocks, delay
from serving.delivery.notices import page_of
from serving.delivery.sending import Outcome, Sender
from serving.delivery.worker import Worker
from serving.render import dumps

logger = logging.getLogger(__name__)

NAME = "alertmanager"
PATH = "/api/v2/alerts"
RENEWED_EVERY = 60.0  # seconds
LASTS = timedelta(minutes=5)  # without renewal; four may be lost
TOLD_FOR = timedelta(minutes=15)  # that an alert has ended, as Prometheus does
BATCH = 200  # alerts of one request
TIMEOUT_SECONDS = 10.0

Json = dict[str, Any]


def labels_of(one: Incident) -> dict[str, str]:
    """What the alert is known by. Without a value that changes while it is open, save its severity."""
    return {
        "alertname": "ForecasterIncident",
        "workload": one.workload,
        "incident": one.id,
        "severity": one.severity,
    }


def alert(one: Incident, ends_at: datetime, external_url: str, severity: str | None = None) -> Json:
    """One alert; times as RFC 3339."""
    labels = labels_of(one) | ({} if severity is None else {"severity": severity})
    return {
        "labels": labels,
        "annotations": {
            "summary": one.sentence,
            "kind": one.kind,
            "series": one.role,
            "direction": one.direction,
            "expected": f"{one.expected_low:.4g} to {one.expected_high:.4g}",
            "observed": f"{one.observed:.4g}",
        },
        "startsAt": one.onset,
        "endsAt": ends_at,
        "generatorURL": page_of(one, external_url),
    }


@dataclass(slots=True)
class Told:
    """What Alertmanager was told and must still hear the end of. `take` from the loop, `alerts` from one thread."""

    external_url: str
    _open: Mapping[str, Incident] = field(default_factory=dict)
    _ended: dict[tuple[str, str], tuple[Incident, datetime]] = field(default_factory=dict)  # (id, severity) -> ended at
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, incidents: Iterable[Incident], now: datetime) -> bool:
        """All that are open, and those that have closed; True where something is to be said at once.

        Those of a common cause are not alerts of their own, as in webhooks.
        """
        listed = [one for one in incidents if one.cause is None]
        fresh = {one.id: one for one in listed if one.closed_at is None}
        closed = {one.id: one for one in listed if one.closed_at is not None}
        with self._lock:
            changed = False
            for id, old in self._open.items():
                now_is = fresh.get(id)
                if now_is is None:
                    gone = closed.get(id, old)
                    self._ended[id, old.severity] = gone, gone.closed_at or now
                    changed = True
                elif now_is.severity != old.severity:  # another label is another alert: the old one ends
                    self._ended[id, old.severity] = old, now
                    changed = True
            changed |= any(id not in self._open for id in fresh)
            self._open = fresh
            burning = {(id, one.severity) for id, one in fresh.items()}
            self._ended = {
                key: (one, at) for key, (one, at) in self._ended.items() if now - at < TOLD_FOR and key not in burning
            }
            return changed

    def alerts(self, now: datetime) -> list[Json]:
        with self._lock:
            ended = [
                alert(one, max(at, one.onset), self.external_url, severity)
                for (_, severity), (one, at) in self._ended.items()
            ]
            return ended + [alert(one, now + LASTS, self.external_url) for one in self._open.values()]


@dataclass(slots=True)
class Pusher(Worker):
    """Sends them, in its own thread. Alerts of a service that stops end by themselves, or go on with the next one."""

    url: str
    told: Told
    clocks: Clocks = field(default_factory=Clocks)
    counts: Counter[str] = field(default_factory=Counter)  # outcome -> requests
    _failures: int = 0
    _at_once: bool = False

    def take(self, incidents: Iterable[Incident], now: datetime) -> None:
        if self.told.take(incidents, now):
            with self._wake:
                self._at_once = True
                self._wake.notify()

    def step(self) -> float:
        """Sends all that is to be said now; returns seconds until it is to be said again."""
        with self._wake:
            self._at_once = False  # what comes from here on is for the next step
        if self._sender is None:
            self._sender = Sender(TIMEOUT_SECONDS)
        alerts = self.told.alerts(self.clocks.wall())
        for first in range(0, len(alerts), BATCH):
            answer = self._sender.post(self.url + PATH, dumps(alerts[first : first + BATCH]), {}, self._failures)
            self.counts[answer.outcome] += 1
            if answer.outcome is not Outcome.DELIVERED:
                self._failures += 1
                logger.warning("alertmanager did not take alerts: failures=%d why=%s", self._failures, answer.why)
                return min(RENEWED_EVERY, delay(self._failures, self.clocks.chance(), answer.retry_after))
        self._failures = 0
        return RENEWED_EVERY

    def _name(self) -> str:
        return NAME

    def _wait_after_error(self) -> float:
        return RENEWED_EVERY

    def _may_wait(self, wait: float | None) -> bool:
        return not self._at_once
