"""A whole service made of fakes, as the pages see it, and a server for it in a thread."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import uvicorn

from forecaster.domain import Candidate, HpaFacts, Incident, Mode, Nearby, ScaleSpec
from forecaster.publication import Band, Publication, WorkloadStatus
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling import decision
from forecaster.scaling.record import to_json
from serving import api
from serving.health import Health
from serving.loop import Board
from serving.render import render
from serving.store import Store, StoredDecision
from tests.serving.publications import NOW, incident, publication

LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
HOSTILE = '"><script>alert(1)</script>'


def made(names: Sequence[str], at: datetime = NOW) -> Publication:
    """Workloads with a wide forecast, of which each seventh has a remark, each eleventh a fault, the last no data."""
    base = publication(names, made_at=at)
    assert base.forecast is not None
    horizons = np.unique(np.geomspace(1, 1440, 60).astype(np.int64))
    load = np.nan_to_num(np.asarray(base.status.load, dtype=np.float64))
    shape = 1 + 0.4 * np.sin(2 * np.pi * horizons / 1440)
    width = 0.04 + 0.25 * np.sqrt(horizons / 1440)
    spread = np.array([-2.3, -1.3, -0.67, 0, 0.67, 1.3, 2.6])
    values = load[:, None, None] * shape[None, :, None] * (1 + width[None, :, None] * spread[None, None, :])
    values[[reason is not None for reason in base.forecast.missing]] = np.nan
    forecast = replace(base.forecast, horizons=horizons, levels=LEVELS, values=values, peak=values[:, 4])
    return replace(
        base,
        band=band(base),
        forecast=forecast,
        workloads=tuple(_status(one, i) for i, one in enumerate(base.workloads)),
        recommendations=tuple(
            replace(
                one,
                floor=3 + i % 5,
                desired_replicas=4 + i % 5,
                bound_by="hold" if i % 2 else "proactive",
                candidates=(
                    Candidate("proactive", 3 + i % 5, "peak 430 at quantile 0.99, 120 a replica"),
                    Candidate("scheduled", None),
                    Candidate("pinned", None),
                    Candidate("reactive", 4 + i % 5),
                ),
                reasons=(),
            )
            for i, one in enumerate(base.recommendations)
        ),
    )


def _status(one: WorkloadStatus, i: int) -> WorkloadStatus:
    reasons = one.reasons
    if not reasons and i % 7 == 1:
        reasons = (Reason(ReasonCode.HELD, "4 replicas, 3 wanted"),)
    if not reasons and i % 11 == 2:
        reasons = (Reason(ReasonCode.PARTIAL_DATA, "a store is missing"),)
    return replace(
        one,
        reasons=reasons,
        coverage={"0.8": 0.79, "0.98": 0.974},
        risk={"asked": 0.01, "issued": 0.008, "actual": 0.006},
        risk_detail={"longestViolationSeconds": 240.0},
    )


def decisions(name: str, until: datetime, hours: float = 24) -> Iterator[StoredDecision]:
    """One each five minutes, as the loop stores them; replicas follow a wave."""
    before = decision.DecisionState()
    for ago in range(int(hours * 3600), 0, -300):
        at = until - timedelta(seconds=ago)
        ready = 3 + int(2 * np.sin(2 * np.pi * ago / 86_400) + 1)
        facts = HpaFacts(
            min_replicas=2, max_replicas=12, current_replicas=ready + (ago % 3600 < 600), ready_replicas=ready
        )
        inputs = decision.DecisionInput(
            at,
            name,
            ScaleSpec("shop", name, hold=timedelta(minutes=10)),
            facts,
            mode=Mode.RECOMMEND,
            peak=40.0 * ready,
            level=0.99,
            newest_load=32.0 * ready,
            capacity=50.0,
            data_through=at,
        )
        told, after = decision.decide(inputs, before)
        yield StoredDecision(name, f"{name}#abc", at, decision.record(inputs, before), to_json(told))
        before = after


def incidents(name: str) -> list[Incident]:
    closed = replace(
        incident("i-closed", name, closed_at=NOW - timedelta(hours=2)),
        onset=NOW - timedelta(hours=2, minutes=40),
        opened_at=NOW - timedelta(hours=2, minutes=35),
        sentence="load was twice what was expected for 35 minutes",
        severity="critical",
        expected_high=140.0,
    )
    first = incident("i-open", name)
    cpu = replace(first, id="i-cpu", role="cpu", score=4.2, observed=6.1, expected_low=2.0, expected_high=3.5)
    first = replace(
        first,
        threshold=3.9,
        parts=(replace(first, threshold=3.9).part(), replace(cpu, threshold=3.7).part()),
        nearby=(Nearby("deploy", NOW - timedelta(minutes=11), "deploy (v2.3) at 11:49 UTC"),),
    )
    return [first, closed]


def band(one: Publication) -> Band:
    """What was expected over the last two hours, around the load."""
    assert one.recent is not None
    times = one.recent.fine.times[-120:]
    load = np.nan_to_num(one.recent.fine.values[:, -120:], nan=float("nan"))
    return Band(times, load * 0.85, load * 1.15)


def edges(published: Publication | None, **more: Any) -> api.Edges:
    """A service that has published this; without decisions and incidents."""
    board, store = Board(), Store("sqlite://")
    health = Health(started_at=0.0, finished_first=published is not None)
    health.degraded = lambda: store.degraded
    if published is not None:
        board.publish(render(published, 0.0))
    given: dict[str, Any] = {"watched": lambda: 0 if published is None else len(published.workloads), **more}
    return api.Edges(
        board=board,
        health=health,
        store=store,
        wall=lambda: NOW,
        monotonic=lambda: 1.0,
        **given,
    )


def shop(**more: Any) -> api.Edges:
    """Three workloads, the first with a day of decisions and two incidents."""
    found = edges(made(("checkout", "ns/app", HOSTILE, "unknown")), **more)
    found.store.add_decisions(decisions("checkout", NOW))
    found.store.put_incidents(incidents("checkout"))
    return found


def demo(minutes: int = 240) -> bytes:
    """What `GET /api/v1/demo` answers, for two services."""
    ago = np.arange(minutes, -1, -1)
    times = [(NOW - timedelta(minutes=int(m))).strftime("%Y-%m-%dT%H:%M:%SZ") for m in ago]

    def service(name: str, startup: float, pays: bool, sentence: str) -> dict[str, Any]:
        load = 200 + 120 * np.sin(2 * np.pi * ago / 180)
        lag = 12 if pays else 1
        hpa = np.ceil(np.roll(load, lag) * 1.25 / 50)
        ours = np.ceil(np.maximum(np.roll(load, -lag), load) * 1.2 / 50)
        return {
            "name": name,
            "sentence": sentence,
            "startupSeconds": startup,
            "pays": pays,
            "hpa": cost(hpa, load),
            "forecaster": cost(ours, load),
            "times": times,
            "load": load.round(1).tolist(),
            "capacityHpa": (50 * hpa).tolist(),
            "capacityForecaster": (50 * ours).tolist(),
            "replicasHpa": hpa.tolist(),
            "replicasForecaster": ours.tolist(),
            "floor": (ours - 1).tolist(),
        }

    def cost(replicas: Any, load: Any) -> dict[str, float]:
        above = float(60 * (load > 50 * replicas).sum())
        return {"replicaHours": float(replicas.sum() / 60), "secondsAboveCapacity": above}

    told = {
        "schemaVersion": 1,
        "now": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "startedAt": times[0],
        "speed": 600.0,
        "simulatedSeconds": 60.0 * minutes,
        "policies": {
            "hpa": {"replicaHours": 40.2, "secondsAboveCapacity": 5400.0, "unmetLoadRatio": 0.021},
            "forecaster": {"replicaHours": 43.9, "secondsAboveCapacity": 300.0, "unmetLoadRatio": 0.0008},
        },
        "services": [
            service("recommender", 180, True, "Pods start slowly, so replicas must be there before the load is."),
            service("static-site", 5, False, "Pods start within seconds: the HPA keeps up by itself."),
        ],
        "events": [
            {"time": times[60], "workload": "recommender", "kind": "flash crowd", "sentence": "Load doubles in 5 min."},
            {"time": times[120], "workload": "*", "kind": "missing scrapes", "sentence": "Prometheus misses 3 min."},
        ],
    }
    return json.dumps(told).encode()


@contextmanager
def served(found: api.Edges) -> Iterator[str]:
    """The address of a real server for these edges."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    config = uvicorn.Config(api.build(found), lifespan="off", log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        found.store.close()
