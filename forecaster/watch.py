"""The watched resources of workloads between a cycle and `anomaly.causes`: which row is whose, and what is published.

Knows no Prometheus and decides nothing. A cycle has one row for each load and one for each resource; this takes the
latter with the load beside them, and keeps state from step to step. One thread at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from forecaster.anomaly import cause_account, causes, saturation
from forecaster.anomaly.causes import Pods
from forecaster.anomaly.feedback import NOTHING, Taught
from forecaster.domain import LOAD, BoolArray, FloatArray, Incident, IntArray, SeriesKey
from forecaster.publication import ResourceStatus
from forecaster.rows import Rows

SHARE = 0.5  # of a workload's alarm budget that goes to these kinds where it has resources


class Watch:
    """Causes of all resources, from step to step."""

    def __init__(self, step_seconds: int, per_week: float) -> None:
        self._step, self.per_week = step_seconds, per_week  # the latter of all kinds together
        self._keys: tuple[str, ...] = ()
        self._series: tuple[SeriesKey, ...] = ()
        self._rows: IntArray = np.zeros(0, dtype=np.int64)  # of the cycle, one for each resource
        self._loads: IntArray = np.zeros(0, dtype=np.int64)  # of the cycle, the load beside it
        self._state = causes.start(())
        self._status: tuple[ResourceStatus, ...] = ()
        self.found: causes.Followed | None = None
        self._taught = NOTHING
        self.accounts: Mapping[str, Mapping[str, Any]] = {}  # of the last step: what the digits of incidents rest on

    def spend(self, per_week: float) -> None:
        """Another budget, from the next step on."""
        if per_week != self.per_week:
            self.per_week = per_week
            self._state = causes.with_other_budget(self._state)

    def teach(self, taught: Taught) -> None:
        """What people said of incidents, all of it; counts from the next step on."""
        self._taught = taught

    def align(self, keys: tuple[str, ...], series: tuple[SeriesKey, ...]) -> None:
        """Takes another list of the cycle's rows; `keys` as those of the vigil, `name#hash/role`."""
        load_of = {one.workload: row for row, one in enumerate(series) if one.role == LOAD}
        rows = [row for row, one in enumerate(series) if one.role != LOAD and one.workload in load_of]
        self._rows = np.array(rows, dtype=np.int64)
        self._loads = np.array([load_of[series[row].workload] for row in rows], dtype=np.int64)
        self._keys, self._series = tuple(keys[row] for row in rows), tuple(series[row] for row in rows)
        self._state = causes.start(self._keys, self._state)
        self.found, self._status = None, ()

    def step(
        self,
        head: int,
        observed: FloatArray,
        limits: FloatArray,
        ready: FloatArray,
        masked: BoolArray,
        faulty: BoolArray,
        pods: Pods | None = None,
    ) -> None:
        """Judges the samples of the grid time `head`; arrays over the cycle's rows, NaN where not known.

        `ready` counts replicas, in the rows of loads. `pods.row` counts the cycle's rows; those of loads are left out.
        """
        rows, loads = self._rows, self._loads
        pods = Pods() if pods is None else pods
        place = np.full(len(observed), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        of = place[pods.row]
        mine = of >= 0
        seen = causes.Seen(
            now=head,
            load=observed[loads],
            usage=observed[rows],
            limit=limits[rows],
            replicas=ready[loads],
            masked=masked[rows] | masked[loads],
            faulty=faulty[rows] | faulty[loads],
            pods=Pods(
                tuple(name for name, one in zip(pods.names, mine.tolist(), strict=True) if one),
                of[mine],
                np.asarray(pods.usage)[mine],
            ),
        )
        before, expected = causes.as_expected(self._state, self._taught.expected, head)
        per_week = SHARE * self.per_week
        found = causes.follow(before, seen, per_week, self._step, self._taught)
        self.accounts = cause_account.accounts(before, seen, found, per_week, self._step)
        self.found = replace(found, closed=(*expected, *found.closed))
        self._state = self.found.state
        self._status = self._told(self.found)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the resources."""
        return self._keys

    def open_incidents(self) -> tuple[Incident, ...]:
        """Also right after a restart, before the first step."""
        return tuple(self._state.open.values())

    def closed_incidents(self) -> tuple[Incident, ...]:
        """Of the last step."""
        return () if self.found is None else self.found.closed

    def evidence(self) -> Mapping[str, Mapping[str, float]]:
        """By id of an incident that opened or worsened in the last step: the digits of its sentence."""
        return {} if self.found is None else self.found.evidence

    def status(self) -> tuple[ResourceStatus, ...]:
        """What is published of each resource, as of the last step."""
        return self._status

    def _told(self, found: causes.Followed) -> tuple[ResourceStatus, ...]:
        cost = causes.cost_per_load(self._state)
        out = []
        for i, one in enumerate(self._series):
            seconds = found.seconds_to_limit[i].tolist()
            known = {f"{level:g}": value for level, value in zip(saturation.LEVELS, seconds, strict=True)}
            known = {level: value for level, value in known.items() if value == value}
            of_cost = (_known(cost.each[i]), _known(cost.low[i]), _known(cost.high[i]))
            out.append(ResourceStatus(one.workload, one.role, known, *of_cost))
        return tuple(out)

    def dump(self) -> dict[str, Rows]:
        rows, pods, told = causes.dump(self._state)
        texts = np.array([json.dumps(one).encode() for one in told], dtype=np.bytes_) if told else np.zeros(0, "S1")
        return {
            "causes": rows,
            "causes_pods": pods,
            "causes_incidents": Rows(tuple(f"{i}" for i in range(len(told))), {"json": texts}),
        }

    def restore(self, states: Mapping[str, Rows]) -> None:
        """Takes what `dump` gave, before the first step. Raises ValueError, KeyError or InputError where it cannot."""
        if "causes" not in states:
            return
        told = [json.loads(bytes(text)) for text in states["causes_incidents"].arrays["json"]]
        self._state = causes.restore(states["causes"], states["causes_pods"], told)


def _known(value: float) -> float | None:
    return float(value) if value == value else None
