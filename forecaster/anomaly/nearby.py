"""What happened around the onset of an incident: events that people or deploy tools marked, and changes of the HPA.

Evidence, no proof: it is named beside the incident, and no score rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from forecaster.domain import Event, HpaFacts, Nearby

BEFORE, AFTER = timedelta(minutes=30), timedelta(minutes=2)  # of the onset
KEPT = BEFORE + timedelta(hours=1)  # onsets are dated back
MOST = 4  # that one incident names

_NAMES = {"min_replicas": "minReplicas", "max_replicas": "maxReplicas", "target_ratio": "target"}


@dataclass(slots=True)
class Changes:
    """Changes of the facts of each workload's HPA, the newest last. One thread at a time."""

    _last: dict[str, HpaFacts] = field(default_factory=dict)
    _found: dict[str, list[Nearby]] = field(default_factory=dict)

    def step(self, facts: Mapping[str, HpaFacts], at: datetime) -> None:
        """Takes what is known of the HPA of each workload at `at`; what is not known changes nothing."""
        for workload, now in facts.items():
            before = self._last.get(workload)
            if before is None or now is before:
                self._last[workload] = now
                continue
            texts = [
                ("hpa", f"{name} {_value(a)} → {_value(b)}")
                for field_, name in _NAMES.items()
                if (a := getattr(before, field_)) is not None and (b := getattr(now, field_)) is not None and a != b
            ]
            a, b = before.current_replicas, now.current_replicas
            if a is not None and b is not None and a != b:
                texts.append(("replicas", f"replicas {a} → {b}"))
            if texts:
                self._found.setdefault(workload, []).extend(Nearby(kind, at, text) for kind, text in texts)
            self._last[workload] = now
        for workload in [name for name in self._last if name not in facts]:
            del self._last[workload]
        for workload, found in list(self._found.items()):
            kept = [one for one in found if at - one.at <= KEPT]
            if kept:
                self._found[workload] = kept
            else:
                del self._found[workload]

    def of(self, workload: str) -> Sequence[Nearby]:
        return self._found.get(workload, ())


def _value(value: float) -> str:
    return f"{value:.0%}" if isinstance(value, float) else str(value)


def near(
    workload: str, onset: datetime, opened_at: datetime, events: Iterable[Event], changes: Sequence[Nearby]
) -> tuple[Nearby, ...]:
    """Events that began, and changes that were seen, from half an hour before the onset until it was noticed.

    Deploys first; what comes after the onset may be its effect, which the text says by the time alone. An HPA that
    scales during the incident does what it is there for: changes of replicas count before the onset only.
    """
    found: list[Nearby] = []
    for event in events:
        if event.workload in (workload, "*") and onset - BEFORE <= event.starts_at <= max(opened_at, onset + AFTER):
            note = f" ({event.note})" if event.note else ""
            found.append(Nearby(event.kind, event.starts_at, f"{event.kind}{note} at {event.starts_at:%H:%M} UTC"))
    for change in changes:
        last = onset if change.kind == "replicas" else max(opened_at, onset + AFTER)
        if onset - BEFORE <= change.at <= last:
            found.append(Nearby(change.kind, change.at, f"{change.text} at {change.at:%H:%M} UTC"))
    order = {"deploy": 0, "hpa": 2, "replicas": 3}
    found.sort(key=lambda one: (order.get(one.kind, 1), abs(one.at - onset), one.text))
    return tuple(found[:MOST])
