"""The demo's metric source: it answers as Prometheus does, and knows nothing of what has not happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster import promql
from forecaster.cluster_facts import ClusterFacts
from forecaster.ports import MetricSource
from serving.demo.services import CATALOG, GATEWAY, MEMORY_LIMIT_QUERY, MEMORY_QUERY, NAMES, SERVICES
from serving.demo.source import Tape
from serving.demo.traffic import POD_LIMIT_BYTES, START, TICK, Traffic
from serving.demo.world import World

OWN = {one.name: one.min_replicas for one in SERVICES}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def world() -> World:
    return World.at_start(Traffic(0), history_days=1)


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_what_has_not_happened_is_not_answered(world: World) -> None:
    source: MetricSource = world.source
    for query in (SERVICES[0].load_query, MEMORY_QUERY):
        answer = source.range(query, moment(START - 120), moment(START + 300), MINUTE)
        assert np.isfinite(answer.values[0]).tolist() == [True] * 3 + [False] * 5
        assert source.instant(query, moment(START + 15)).labels == ()
    mean = f"avg_over_time(({SERVICES[0].load_query})[299s:60s])"
    answer = source.range(mean, moment(START - 300), moment(START + 600), timedelta(minutes=5))
    assert np.isfinite(answer.values[0]).tolist() == [True, True, False, False]
    assert source.instant("kube_deployment_status_replicas_ready", moment(START + 15)).labels == ()


def test_the_past_does_not_change_when_time_goes_on(world: World) -> None:
    query, since = SERVICES[2].load_query, moment(START - 7_200)
    before = world.source.range(query, since, moment(START), MINUTE)
    for _ in range(40):
        world.advance(OWN)
    after = world.source.range(query, since, moment(START), MINUTE)
    np.testing.assert_array_equal(before.values, after.values)
    assert np.isfinite(world.source.instant(query, moment(START + 600)).values).all()


def test_a_coarse_mean_is_the_mean_of_the_minutes(world: World) -> None:
    query = SERVICES[1].load_query
    start, end = moment(START - 3_600), moment(START)
    minutes = world.source.range(query, start - timedelta(minutes=4), end, MINUTE).values[0]
    coarse = world.source.range(f"avg_over_time(({query})[299s:60s])", start, end, timedelta(minutes=5)).values[0]
    np.testing.assert_allclose(coarse, minutes.reshape(-1, 5).mean(axis=1))


def test_a_gap_is_missing_and_never_zero() -> None:
    past = np.full((1, 8), 6.0)
    past[0, 2:7] = np.nan
    tape = Tape(START, past)
    times = START + TICK * np.arange(4, 9)
    np.testing.assert_array_equal(tape.minutes(0, times), [6.0, np.nan, np.nan, np.nan, np.nan])
    tape.append(np.array([8.0]))
    np.testing.assert_array_equal(tape.minutes(0, np.array([START + 9 * TICK])), [7.0])


def test_the_tape_is_wound_on_and_keeps_its_length() -> None:
    tape = Tape(START, np.arange(400.0)[None, :])
    for value in range(400, 20_000):
        tape.append(np.array([float(value)]))
    assert tape.end == START + 20_000 * TICK
    assert tape._values.shape[1] < 400 + 6_000
    newest = tape.minutes(0, np.array([tape.end, tape.end - 390 * TICK, START + 60]))
    np.testing.assert_array_equal(newest, [19_997.5, 19_607.5, np.nan])


def test_half_of_the_targets_take_their_share_with_them(world: World) -> None:
    half = next(one for one in world.traffic.happenings(START, START + 20_000) if one.kind == "missing_scrapes")
    while world.now < half.time + 120:
        world.advance(OWN)
    row = NAMES.index(GATEWAY)
    load = world.source.instant(SERVICES[row].load_query, moment(world.now)).values[0, 0]
    count = world.source.instant(SERVICES[row].count_query, moment(world.now)).values[0, 0]
    assert load == pytest.approx(0.5 * world.helped.last.served[row, 0] / TICK, rel=0.2)
    assert count == np.ceil(world.helped.last.ready[row, 0] / 2)


def test_the_queries_are_those_that_the_cycle_makes(world: World) -> None:
    for one in SERVICES:
        assert promql.count_behind_sum(one.load_query) == one.count_query
    facts = ClusterFacts().read(world.source, moment(START))
    assert set(facts) == {f"demo/{name}" for name in NAMES}
    for one in SERVICES:
        known = facts[f"demo/{one.name}"]
        assert (known.min_replicas, known.max_replicas) == (one.min_replicas, one.max_replicas)
        assert known.current_replicas == world.helped.last.replicas[NAMES.index(one.name), 0]
        assert known.target_ratio == 0.7 and known.scale_target == f"Deployment/{one.name}"
        assert known.lead_time is not None
        assert known.lead_time.total_seconds() == pytest.approx(one.startup_p90, rel=0.15)
    limit = world.source.instant(MEMORY_LIMIT_QUERY, moment(START)).values[0, 0]
    assert limit == world.helped.last.ready[NAMES.index(CATALOG), 0] * POD_LIMIT_BYTES


def test_an_unknown_query_answers_with_no_series(world: World) -> None:
    assert world.source.instant("up", moment(START)).labels == ()
    assert world.source.range("up", moment(START - 60), moment(START), MINUTE).labels == ()
