"""`forecaster whatif --recorded` as a process: load, HPA and replicas in a real Prometheus, the log in a real store."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forecaster.domain import Bounds, HpaFacts, ScaleSpec
from forecaster.scaling import decision
from forecaster.scaling.decision import DecisionInput, DecisionState
from forecaster.scaling.record import to_json
from serving.store import Store, StoredDecision
from tests.integration.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

HPA = {"namespace": "shop", "horizontalpodautoscaler": "web"}
DAYS, LOGGED = 4, 36 * 12  # days of load, five minutes of log


def curve(at: float) -> float:
    return 1_000.0 * (1.3 - math.cos(2 * math.pi * at / 86_400))


def test_the_log_of_a_service_is_judged_on_a_real_prometheus(tmp_path: Path) -> None:
    until = int(datetime.now(UTC).timestamp()) // 300 * 300
    times = range(until - DAYS * 86_400, until + 1, 60)
    prefix = "kube_horizontalpodautoscaler_"
    server = PrometheusServer(tmp_path / "prometheus")
    server.backfill(
        [
            ("load", {"app": "web"}, ((at, curve(at)) for at in times)),
            (f"{prefix}spec_max_replicas", HPA, ((at, 90.0) for at in times)),
            (f"{prefix}spec_min_replicas", HPA, ((at, 3.0) for at in times)),
        ]
    )
    file, path = tmp_path / "forecaster.yaml", tmp_path / "forecaster.db"
    file.write_text(
        f"prometheus: {{url: {server.url}}}\nstep: 5m\nhistory: {DAYS}d\nstore: sqlite:///{path}\nworkloads:\n"
        "  - {name: web, load: sum(load), scale: {hpa: shop/web, capacityPerReplica: 60, leadTime: 10m}}\n"
    )
    store = Store(str(path))
    spec = ScaleSpec("shop", "web", 60.0, lead_time=timedelta(minutes=10), bounds=Bounds())
    facts, state = HpaFacts(min_replicas=3, max_replicas=90), DecisionState()
    for number in range(LOGGED):
        now = datetime.fromtimestamp(until - 300 * (LOGGED - number), UTC)
        peak = max(curve(now.timestamp() + ahead) for ahead in range(0, 660, 60))
        inputs = DecisionInput(now, "web", spec, facts, peak=peak, level=0.99, newest_load=peak, capacity=60.0)
        made, after = decision.decide(inputs, state)
        store.add_decisions([StoredDecision("web", "web#1", now, decision.record(inputs, state), to_json(made))])
        state = after
    store.close()
    with server:
        done = subprocess.run(
            [sys.executable, "-m", "serving.cli", "whatif", "--config", str(file), "--recorded", "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1, done.stderr  # no replicas of the HPA are recorded: its fitness is not known
    (one,) = json.loads(done.stdout)["shadow"]
    assert [row["policy"] for row in one["rows"]] == ["user_hpa", "promised", "recorded"]
    assert one["covered"] == pytest.approx(1.0, abs=0.01)
    assert (one["end"] - one["begin"]) / 300 == pytest.approx(LOGGED, abs=2)
    assert one["rows"][2]["timeAboveCapacity"] == pytest.approx(0.0, abs=0.002)  # the log knew the curve
