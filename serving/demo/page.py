"""What the demo shows, as JSON: both futures side by side, at `GET /api/v1/demo` and at the end of a headless run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from forecaster.domain import FloatArray
from serving.demo.services import SERVICES
from serving.demo.traffic import START, Happening
from serving.demo.world import Point, World

SCHEMA_VERSION = 1
_CAPACITY = np.array([one.capacity for one in SERVICES])

Json = dict[str, Any]


def shown(world: World, happened: Sequence[Happening], speed: float | None) -> Json:
    """All of `GET /api/v1/demo`."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "now": moment(world.now),
        "startedAt": moment(START),
        "speed": speed,
        "simulatedSeconds": float(world.now - START),
        "policies": policies(world),
        "services": [{**one, **_series(row, list(world.points))} for row, one in enumerate(services(world))],
        "events": [event(one) for one in happened],
    }


def policies(world: World) -> Json:
    """Sums over the services. Load is counted in replicas that it fills: requests of different services differ."""
    return {name: _sums(of, None) for name, of in _futures(world).items()}


def services(world: World) -> list[Json]:
    """What each service is, and its sums."""
    futures = _futures(world)
    return [
        {
            "name": one.name,
            "sentence": one.sentence,
            "startupSeconds": one.startup_p90,
            "pays": one.pays,
            **{name: _sums(of, row) for name, of in futures.items()},
        }
        for row, one in enumerate(SERVICES)
    ]


def event(one: Happening) -> Json:
    return {"time": moment(one.time), "workload": one.workload, "kind": one.kind, "sentence": one.sentence}


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _futures(world: World) -> dict[str, Mapping[str, FloatArray]]:
    return {"hpa": world.alone.since_start(), "forecaster": world.helped.since_start()}


def _sums(of: Mapping[str, FloatArray], row: int | None) -> Json:
    """Of one service, or of all."""
    rows = slice(None) if row is None else slice(row, row + 1)
    offered = float((of["offered"] / _CAPACITY)[rows].sum())
    unmet = float((of["unmet"] / _CAPACITY)[rows].sum())
    return {
        "replicaHours": round(float(of["replica_hours"][rows].sum()), 3),
        "secondsAboveCapacity": float(of["seconds_above_capacity"][rows].sum()),
        "unmetLoadRatio": unmet / offered if offered > 0.0 and math.isfinite(unmet) else None,
        "scaleEvents": int(of["scale_events"][rows].sum()),
    }


def _series(row: int, points: Sequence[Point]) -> Json:
    capacity = SERVICES[row].capacity
    return {
        "times": [moment(one.time) for one in points],
        "load": [round(float(one.load[row]), 2) for one in points],
        "capacityHpa": [float(one.ready[0][row]) * capacity for one in points],
        "capacityForecaster": [float(one.ready[1][row]) * capacity for one in points],
        "replicasHpa": [int(one.replicas[0][row]) for one in points],
        "replicasForecaster": [int(one.replicas[1][row]) for one in points],
        "floor": [int(one.floor[row]) for one in points],
    }
