"""The reader against a real Prometheus: exact history, limits, restarts, vanished series, and how little it asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.domain import FloatArray, IntArray, WorkloadSpec
from forecaster.errors import SourceError
from forecaster.history import History, Reading, read_once
from forecaster.reasons import ReasonCode
from tests.faultproxy import FaultProxy
from tests.integration.prometheus_server import PrometheusServer
from tests.source import source_of

pytestmark = pytest.mark.prometheus

MINUTE = timedelta(minutes=1)
TEMPLATE = WorkloadSpec("{app}", "sum by (app) (load)", for_each=("app",), max_series=100)


def curve(times: IntArray, i: int = 0) -> FloatArray:
    return np.asarray(100.0 * (i + 1) * (1 + 0.5 * np.sin(2 * np.pi * times / 86_400)))


def codes(reading: Reading) -> list[list[str]]:
    return [[reason.code.value for reason in row] for row in reading.reasons]


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Asks again and again until it holds: every question is answered by the server, none by a sleep."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"


@pytest.fixture
def plain_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings of the past: the real server's Date is now, which is no skew that these tests mean."""
    monkeypatch.setattr("forecaster.prometheus._http_date", lambda text: None)


@pytest.mark.usefixtures("plain_clock")
def test_both_grids_hold_exactly_what_was_back_filled(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    reading = read_once(
        source_of(real_prometheus.url), 'sum(load{app="a1"})', moment(prometheus_until), timedelta(days=13), MINUTE
    )
    fine, coarse = reading.context.fine, reading.context.coarse
    assert int(fine.origin.timestamp()) == prometheus_until
    np.testing.assert_allclose(fine.values[0], curve(fine.times, 1), rtol=1e-6)
    means = curve((coarse.times[:, None] - 60 * np.arange(5)).ravel(), 1).reshape(-1, 5).mean(axis=1)
    np.testing.assert_allclose(coarse.values[0], means, rtol=1e-6)
    assert reading.newest[0] == pytest.approx(curve(np.array([prometheus_until]), 1)[0])


@pytest.mark.usefixtures("plain_clock")
def test_a_template_stays_one_query_each_interval(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    source, one = source_of(real_prometheus.url), History([TEMPLATE], MINUTE, timedelta(days=3))
    now = moment(prometheus_until - 600)
    one.read(source, now)
    before = source.stats().queries
    reading = one.read(source, now + timedelta(seconds=15))
    assert source.stats().queries - before == 1
    assert [work.name for work in reading.workloads] == ["a0", "a1", "a2", "a3", "a4"]
    np.testing.assert_array_equal(one.read(source, now + MINUTE).series_count, np.ones(5))


def test_a_query_that_prometheus_refuses_is_said_in_its_words(real_prometheus: PrometheusServer) -> None:
    source = source_of(real_prometheus.url)
    for query, words in (
        ("sum(", "parse error"),
        ("load / on (namespace) load", "many-to-many"),
        ("load[1m]", "matrix"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            source.instant(query, moment(time.time() - 3600))
        assert caught.value.reason is ReasonCode.QUERY_ERROR


def test_more_than_11000_points_are_split(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    end = moment(prometheus_until)
    samples = source_of(real_prometheus.url).range('load{app="a0"}', end - timedelta(days=9), end, MINUTE)
    assert samples.values.shape == (1, 9 * 1440 + 1)
    np.testing.assert_allclose(samples.values[0], curve(samples.times), rtol=1e-12)


def test_a_long_query_is_not_too_long_for_a_url(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    query = " + ".join(['sum(load{app="a0"})'] * 4_000)
    samples = source_of(real_prometheus.url).instant(query, moment(prometheus_until))
    assert samples.values[0, 0] == pytest.approx(4_000 * curve(np.array([prometheus_until]))[0])


def test_it_says_its_version(real_prometheus: PrometheusServer) -> None:
    info = source_of(real_prometheus.url).server_info()
    assert info.is_prometheus and info.version is not None and info.version[0].isdigit()


def test_empty_and_nan_answers_are_missing_samples(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    source, now = source_of(real_prometheus.url), moment(prometheus_until)
    assert source.instant("nothing_here", now).values.shape == (0, 1)
    for query in ("vector(0) / 0", "vector(1) / 0", "-vector(1) / 0"):
        assert math.isnan(source.instant(query, now).values[0, 0])


@pytest.mark.usefixtures("plain_clock")
def test_p5_too_many_samples_are_split_until_they_fit(tmp_path: Path) -> None:
    end = int(time.time()) // 3600 * 3600
    with PrometheusServer(tmp_path, flags=["--query.max-samples=1000"]) as server:
        server.stop()
        times = range(end - 4 * 3600, end + 1, 60)
        server.backfill(("load", {"app": f"a{i}"}, ((t, float(i)) for t in times)) for i in range(20))
        server.start()
        samples = source_of(server.url).range(
            "sum by (app) (load)", moment(end - 3 * 3600), moment(end), timedelta(minutes=1)
        )
        assert samples.values.shape == (20, 181)
        assert np.isfinite(samples.values).all()


def test_p1_p2_stopped_stalled_and_back_again(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    query = 'vector(1) + sum(load{app="a0"} offset 2h) * 0'
    with FaultProxy(("127.0.0.1", real_prometheus.port)) as proxy:
        source = source_of(proxy.url, timeout=timedelta(seconds=2))
        one = History([WorkloadSpec("w", query)], MINUTE, timedelta(days=3))
        assert codes(one.read(source, datetime.now(UTC))) == [[]]
        for fault in ("refuse", "stall", "throttle", "reset"):
            proxy.set(fault)
            reading = one.read(source, datetime.now(UTC))
            assert codes(reading) == [["stale_data"]], fault
            assert np.isnan(reading.newest[0])
            proxy.set("pass")
            assert codes(one.read(source, datetime.now(UTC))) == [[]], fault


def scrapes_itself(port: int) -> list[dict[str, object]]:
    return [{"job_name": "self", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]


def test_p10_p12_dropped_series_are_gone_and_a_killed_prometheus_is_not_zero(tmp_path: Path) -> None:
    end = int(time.time()) // 60 * 60
    server = PrometheusServer(tmp_path)
    server.backfill(
        ("load", {"app": name}, ((t, 5.0) for t in range(end - 6 * 3600, end - 3600, 60))) for name in ("a", "b")
    )
    server.scrape(scrapes_itself(server.port), reload=False)
    with server:
        source = source_of(server.url, timeout=timedelta(seconds=5))
        until(lambda: bool(source.instant("up", datetime.now(UTC)).values.size))
        template = WorkloadSpec("{app}", "sum by (app) (load offset 2h)", for_each=("app",), max_series=9)
        one = History([template], MINUTE, timedelta(days=3))
        now = datetime.now(UTC)
        first = one.read(source, now)
        assert codes(first) == [[], []] and first.newest.tolist() == [5.0, 5.0]

        server.kill()
        reading = one.read(source, now + timedelta(seconds=15))
        assert codes(reading) == [["stale_data"], ["stale_data"]]
        assert np.isnan(reading.newest).all() and len(reading.workloads) == 2
        server.start()
        assert codes(one.read(source, now + timedelta(seconds=30))) == [[], []]

        server.drop('load{app="b"}')
        gone = one.read(source, now + timedelta(seconds=45))
        assert np.isnan(gone.newest[1]) and gone.newest[0] == 5.0


@pytest.mark.usefixtures("plain_clock")
def test_p14_reading_costs_prometheus_little(real_prometheus: PrometheusServer, prometheus_until: int) -> None:
    """At most three queries a step for a template, and they read only the overlap."""
    source, one = source_of(real_prometheus.url), History([TEMPLATE], MINUTE, timedelta(days=3))
    now = moment(prometheus_until - 3600)
    one.read(source, now)
    before = source.stats()
    for minute in range(1, 31):
        one.read(source, now + minute * MINUTE)
    after = source.stats()
    assert after.queries - before.queries == 3 * 30
    assert after.samples - before.samples == 30 * 5 * (1 + 4 + 1)
