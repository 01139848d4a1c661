"""`POST /api/v1/whatif`: the receipt of one past, made by a process of its own, which can be stopped.

A receipt computes for seconds. In a thread it would keep the loop and the other answers from their turn, and nothing
could end it. Run as a module this file is that process: JSON on stdin, the receipt or what is wrong on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from forecaster import grid
from forecaster.errors import InputError
from forecaster.ports import MetricSource
from forecaster.scaling.whatif import report
from forecaster.scaling.whatif.trial import trial_of
from serving.forecasting import Series, queried
from serving.problems import Problem
from serving.schemas import WhatifBody
from serving.whatif import Size, Wanted, told

MOST_SECONDS = 120.0


def posted(body: WhatifBody) -> Series:
    """The values on the grid of their step: times that lie beside it move back to it, by less than a step."""
    assert body.values is not None
    assert body.start is not None
    values = np.array([np.nan if value is None else value for value in body.values], dtype=np.float64)
    step = int(body.step.total_seconds())
    return Series(values, grid.floor_to(body.start.timestamp(), step) + (len(values) - 1) * step)


def fetched(body: WhatifBody, source: MetricSource, now: datetime) -> Series:
    """The newest past of the query. Raises InputError and SourceError."""
    assert body.query is not None
    step = int(body.step.total_seconds())
    end = grid.floor_to(now.timestamp(), step)
    start = end - int(body.history.total_seconds()) // step * step
    return queried(body.query, body.step, start, end, source)


async def receipt(body: WhatifBody, past: Series, seconds: float = MOST_SECONDS) -> bytes:
    """JSON of the receipt. Raises InputError for what the caller must mend; Problem 503 where it takes too long."""
    asked = {
        "name": body.name,
        "step": int(body.step.total_seconds()),
        "end": past.origin,
        "values": [None if value != value else value for value in past.values.tolist()],
        "startups": [int(one.total_seconds()) for one in body.startups],
        "capacity": body.capacity_per_replica,
        "replicas": body.replicas,
        "minReplicas": body.min_replicas,
        "maxReplicas": body.max_replicas,
        "target": body.target,
        "stabilization": float(body.stabilization),
        "price": body.price,
    }
    command, pipe = [sys.executable, "-m", "serving.whatif_posted"], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603  (nothing of the caller's)
    raw = json.dumps(asked).encode()

    def talk() -> tuple[bytes, bytes] | None:
        try:
            return process.communicate(raw, seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None

    try:
        answer = await anyio.to_thread.run_sync(talk, abandon_on_cancel=True)
    finally:
        process.kill()  # nothing where it has ended; else the service stops, and the thread that waits ends too
    if answer is None:
        told_so = f"the receipt was not made within {seconds:g} s: send fewer values, or a longer step"
        raise Problem(503, "too-slow", told_so)
    out, said = answer
    if process.returncode == 2:
        raise InputError(said.decode("utf-8", "replace").strip())
    if process.returncode:
        raise RuntimeError(f"the receipt's process ended with {process.returncode}: {said[-2_000:]!r}")
    return out


def made(asked: dict[str, Any]) -> dict[str, Any]:
    """The receipt of what `receipt` sends. Raises InputError."""
    values = np.array([np.nan if one is None else one for one in asked["values"]], dtype=np.float64)
    if not np.isfinite(values).any():
        raise InputError("no_data: every value is missing")
    step = asked["step"]
    times = asked["end"] - step * np.arange(len(values) - 1, -1, -1, dtype=np.int64)
    size = Size(
        asked["capacity"],
        asked["replicas"],
        asked["minReplicas"],
        asked["maxReplicas"],
        asked["target"],
        asked["stabilization"],
    )
    name = asked["name"]
    trials = [
        trial_of(name, times, values, step, one, capacity=size.capacity, hpa=size.hpa, replicas=size.replicas)
        for one in dict.fromkeys(asked["startups"])
    ]
    return report.as_dict(told(Wanted(trials, {name: ("",)}), price=asked["price"]))


def main() -> int:
    """Exit 2 and one line on stderr for what the caller must mend."""
    try:
        found = made(json.load(sys.stdin))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    json.dump(found, sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
