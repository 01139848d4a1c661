"""Incidents as they are published: grouped, with what happened nearby; what a cycle keeps of them between steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import numpy as np

from forecaster.anomaly import grouping
from forecaster.anomaly.grouping import Grouped, Groups
from forecaster.anomaly.nearby import Changes, near
from forecaster.domain import Event, HpaFacts, Incident, Nearby
from forecaster.rows import Rows
from forecaster.scaling.record import from_json, to_json


class Gathering:
    """Groups from step to step. One thread at a time."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._changes = Changes()
        self._groups = Groups()
        self._closed: tuple[Incident, ...] = ()

    @property
    def all(self) -> tuple[Incident, ...]:
        """Open incidents, and those that closed in this cycle; also right after a restart, before the first step."""
        return Grouped(self._groups, (), self._closed).all

    def begin(self) -> None:
        """Another cycle: what closed in the one before has been told."""
        self._closed = ()

    def step(
        self,
        rows: Iterable[Incident],
        facts: Mapping[str, HpaFacts],
        events: Sequence[Event],
        now: datetime,
        workloads: int,
    ) -> None:
        """Takes the incidents of single rows (open, and closed in this step) and the facts of each workload's HPA."""
        self._changes.step(facts, now)

        def nearby(workload: str, onset: datetime, opened_at: datetime) -> tuple[Nearby, ...]:
            return near(workload, onset, opened_at, events, self._changes.of(workload))

        found = grouping.step(self._groups, rows, now, self._step_seconds, workloads, nearby)
        self._groups, self._closed = found.groups, found.closed

    def dump(self) -> dict[str, Rows]:
        told = [json.dumps(to_json(one)).encode() for one in self._groups.open]
        common = self._groups.common
        keys = [f"{i}" for i in range(len(told))]
        if common is not None:
            keys.append("common")
            told.append(json.dumps(to_json(common)).encode())
        texts = np.array(told, dtype=np.bytes_) if told else np.zeros(0, "S1")
        return {"groups": Rows(tuple(keys), {"json": texts})}

    def restore(self, states: Mapping[str, Rows]) -> None:
        """Takes what `dump` gave, before the first step. Raises ValueError or InputError where it cannot."""
        rows = states.get("groups")
        if rows is None:
            return
        found = {
            key: from_json(Incident, json.loads(bytes(text)))
            for key, text in zip(rows.keys, rows.arrays["json"], strict=True)
        }
        self._groups = Groups(tuple(one for key, one in found.items() if key != "common"), found.get("common"))
