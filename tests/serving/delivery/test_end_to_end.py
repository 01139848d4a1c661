"""From a load in a fake Prometheus to a message at a real receiver; its digits are recomputed on the way."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from forecaster.domain import Event
from serving import explaining_incidents as explaining
from serving.delivery.delivery import Delivery
from serving.delivery.sending import Destination
from serving.health import Health
from serving.loop import Board, Clocks, Loop
from serving.metrics_text import health_text
from serving.store import Store
from tests.forecaster.test_marked import MINUTE, NOW, cycle, times_five
from tests.serving.delivery.receiver import receiving
from tests.serving.delivery.test_webhooks import EXTERNAL, Time


def test_a_spike_is_told_explained_and_judged(tmp_path: Path) -> None:
    time, store = Time(), Store(str(tmp_path / "f.db"))
    begin = NOW + 20 * MINUTE
    one, _ = cycle(times_five(begin, begin + 6 * MINUTE, 3.0))
    store.put_event(Event("d", "deploy", "web", begin - 3 * MINUTE, begin, "v2.3", exclude=False))
    with receiving() as receiver:
        made = Delivery((Destination("on-call", receiver.url),), receiver.url, EXTERNAL, store, clocks=time.clocks())
        health = Health(started_at=0.0, deliveries=lambda: made)
        clocks = Clocks(lambda: NOW + timedelta(seconds=time.passed), time.monotonic)
        loop = Loop(one, Board(), health, MINUTE, store, clocks=clocks, tell=made.tell)
        for minute in range(40):
            time.passed = 60.0 * minute
            loop.tick()
        while made.couriers[0].step() is not None:
            pass
        assert made.pusher is not None
        made.pusher.step()
        told = [got.json for got in receiver.got]
    assert health.failures == 0
    assert [one["event"] for one in told[:-1]] == ["incident.opened", "incident.closed"]
    (alerts,) = told[-1:]
    assert [alert["labels"]["workload"] for alert in alerts] == ["web"]  # it is told to have ended
    incident = told[0]["incident"]
    assert incident["workload"] == "web" and incident["contributing"][0]["series"] == "load"
    assert "Nearby: deploy (v2.3)" in told[0]["text"]
    kept = store.incidents[incident["id"]]
    assert kept.closed_at is not None and kept.nearby[0].kind == "deploy"
    store.close()

    explained = explaining.from_store(str(tmp_path / "f.db"), incident["id"])
    assert explained.same and explained.series[0].digits is not None
    metrics = health_text(health, None, "0", time.monotonic(), {}).decode()
    assert 'forecaster_notifications_total{destination="on-call",outcome="delivered"} 2' in metrics
    assert 'forecaster_notifications_total{destination="alertmanager",outcome="delivered"} 1' in metrics
    assert 'forecaster_notifications_waiting{destination="on-call"} 0' in metrics
    assert "forecaster_alertmanager_enabled 1" in metrics
