"""Alertmanager's API v2: alerts are renewed while incidents are open, and end when they close."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from serving.delivery.alertmanager import BATCH, LASTS, RENEWED_EVERY, TOLD_FOR, Pusher, Told
from tests.serving.delivery.receiver import receiving
from tests.serving.delivery.test_webhooks import EXTERNAL, Time, open_incident
from tests.serving.publications import NOW


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_open_incidents_are_sent_and_renewed_and_end_when_they_close() -> None:
    time, one = Time(), open_incident()
    with receiving() as receiver:
        pusher = Pusher(receiver.url, Told(EXTERNAL), time.clocks())
        pusher.take([one], NOW)
        assert pusher.step() == RENEWED_EVERY
        time.passed = 60
        pusher.step()
        pusher.take([replace(one, closed_at=NOW + timedelta(seconds=90))], NOW + timedelta(seconds=90))
        time.passed = 120
        pusher.step()
        assert [got.path for got in receiver.got] == ["/api/v2/alerts"] * 3
        first, renewed, ended = (got.json[0] for got in receiver.got)
    assert first["labels"] == {
        "alertname": "ForecasterIncident",
        "workload": "checkout",
        "incident": "i1",
        "severity": "warning",
    }
    assert first["generatorURL"] == f"{EXTERNAL}/incidents?id=i1"
    assert first["annotations"]["summary"] == one.sentence
    assert when(first["startsAt"]) == one.onset and when(first["endsAt"]) == NOW + LASTS
    assert renewed["labels"] == first["labels"] and when(renewed["endsAt"]) == NOW + timedelta(seconds=60) + LASTS
    assert when(ended["endsAt"]) == NOW + timedelta(seconds=90)  # which is past: resolved


def test_the_end_is_told_for_a_while_and_then_no_more() -> None:
    told = Told(EXTERNAL)
    told.take([open_incident()], NOW)
    assert told.take([], NOW) and len(told.alerts(NOW)) == 1
    assert not told.take([], NOW + TOLD_FOR - timedelta(seconds=1)) and len(told.alerts(NOW)) == 1
    told.take([], NOW + TOLD_FOR)
    assert told.alerts(NOW) == []


def test_another_severity_is_another_alert_and_the_first_ends() -> None:
    told, later = Told(EXTERNAL), NOW + timedelta(minutes=2)
    told.take([open_incident()], NOW)
    assert told.take([open_incident(severity="critical")], later)
    alerts = {one["labels"]["severity"]: one["endsAt"] for one in told.alerts(later)}
    assert alerts == {"warning": later, "critical": later + LASTS}


def test_workloads_of_a_common_cause_are_no_alerts_of_their_own() -> None:
    told = Told(EXTERNAL)
    fleet = replace(open_incident("c"), workload="*")
    told.take([fleet, *(replace(open_incident(f"m{i}"), cause="c") for i in range(30))], NOW)
    assert [one["labels"]["incident"] for one in told.alerts(NOW)] == ["c"]


def test_an_alertmanager_that_fails_is_asked_again_sooner_and_knows_all_afterwards() -> None:
    time = Time()
    with receiving() as receiver:
        receiver.answers = [503, 400]
        pusher = Pusher(receiver.url, Told(EXTERNAL), time.clocks())
        pusher.take([open_incident(f"i{n}") for n in range(BATCH + 1)], NOW)
        assert [pusher.step(), pusher.step()] == [1.0, 2.0]
        assert pusher.step() == RENEWED_EVERY
        sent = [one["labels"]["incident"] for got in receiver.got[2:] for one in got.json]
        assert len(set(sent)) == BATCH + 1
    assert pusher.counts == {"failed": 1, "refused": 1, "delivered": 2}


def test_nothing_open_is_nothing_sent() -> None:
    with receiving() as receiver:
        assert Pusher(receiver.url, Told(EXTERNAL), Time().clocks()).step() == RENEWED_EVERY
        assert receiver.got == []


def test_in_its_thread_news_go_out_at_once() -> None:
    with receiving() as receiver:
        pusher = Pusher(receiver.url, Told(EXTERNAL))
        pusher.start()
        pusher.take([open_incident()], NOW)
        assert receiver.came.acquire(timeout=20)
        pusher.take([], NOW)
        assert receiver.came.acquire(timeout=20)
        pusher.close()
