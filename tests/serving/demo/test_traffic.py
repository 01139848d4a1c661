"""The demo's traffic: a pure function of seed and time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.demo.services import CATALOG, CHECKOUT, GATEWAY, INFERENCE, INVOICES, NAMES, ORDERS, SERVICES
from serving.demo.traffic import DAY, HOUR, MINUTE, POD_LIMIT_BYTES, START, TICK, Traffic

seeds = st.integers(0, 2**32 - 1)


def ticks(since: int, until: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(since, until, TICK, dtype=np.int64)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(-20, 8 * 24), st.integers(1, 200))
def test_a_moment_is_the_same_in_whatever_stretch_it_is_asked_for(seed: int, hour: int, count: int) -> None:
    traffic = Traffic(seed)
    since = START + hour * HOUR
    long, short = ticks(since, since + HOUR), ticks(since, since + HOUR)[-count:]
    np.testing.assert_array_equal(traffic.load(long)[:, -count:], traffic.load(short))
    np.testing.assert_array_equal(traffic.memory_per_pod(long)[-count:], traffic.memory_per_pod(short))
    np.testing.assert_array_equal(traffic.scraped(long)[:, -count:], traffic.scraped(short))


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(-20, 8 * 24))
def test_load_is_finite_and_positive_for_every_seed(seed: int, hour: int) -> None:
    load = Traffic(seed).load(ticks(START + hour * HOUR, START + (hour + 3) * HOUR))
    assert np.isfinite(load).all() and (load > 0.0).all()


def test_another_seed_is_another_traffic() -> None:
    times = ticks(START, START + HOUR)
    assert not np.array_equal(Traffic(0).load(times), Traffic(1).load(times))
    np.testing.assert_array_equal(Traffic(1).load(times), Traffic(1).load(times))


def test_scrapes_are_missing_where_the_happenings_say_so() -> None:
    traffic = Traffic(0)
    times = ticks(START, START + 8 * HOUR)
    shares = traffic.scraped(times)
    gap = next(one for one in traffic.happenings(START, START + DAY) if one.kind == "scrape_gap")
    half = next(one for one in traffic.happenings(START, START + DAY) if one.kind == "missing_scrapes")
    np.testing.assert_array_equal(np.isnan(shares[NAMES.index(INFERENCE)]), (times >= gap.time) & (times < gap.until))
    halved = (times >= half.time) & (times < half.until)
    np.testing.assert_array_equal(shares[NAMES.index(GATEWAY)] == 0.5, halved)
    assert (shares[NAMES.index(ORDERS)] == 1.0).all()


def test_the_day_has_its_shape() -> None:
    traffic = Traffic(0)
    day = dict(zip(NAMES, traffic.load(ticks(START, START + DAY)), strict=True))
    opening = (3 * HOUR) // TICK
    assert day[ORDERS][opening + 24 : opening + 60].mean() > 8.0 * day[ORDERS][opening - 60 : opening - 24].mean()
    assert day[CATALOG].std() < 0.05 * day[CATALOG].mean()
    hours = day[INVOICES].reshape(24, -1)
    assert (hours[:, :40].mean(axis=1) > 2.0 * hours[:, 60:].mean(axis=1)).all()
    saturday = traffic.load(ticks(START + 5 * DAY, START + 6 * DAY))
    assert saturday[NAMES.index(ORDERS)].max() < 0.2 * day[ORDERS].max()


def test_the_first_day_shows_every_kind_of_happening() -> None:
    found = {one.kind for one in Traffic(5).happenings(START, START + 6 * HOUR)}
    assert found == {"flash_crowd", "deploy", "memory_leak", "missing_scrapes", "scrape_gap"}


def test_a_flash_crowd_comes_out_of_nothing_and_a_leak_grows_within_the_limit() -> None:
    traffic = Traffic(0)
    happened = {one.kind: one for one in traffic.happenings(START, START + 6 * HOUR)}
    flash, leak = happened["flash_crowd"], happened["memory_leak"]
    load = traffic.load(ticks(flash.time - 10 * MINUTE, flash.until))[NAMES.index(CHECKOUT)]
    assert load[60:100].mean() > 2.0 * load[:40].mean()
    memory = traffic.memory_per_pod(ticks(leak.time - HOUR, leak.until + HOUR))
    assert memory[: HOUR // TICK].max() < memory[(leak.until - leak.time) // TICK] < POD_LIMIT_BYTES
    assert memory[-1] < 1.1 * memory[0]


@pytest.mark.parametrize("one", SERVICES, ids=NAMES)
def test_max_replicas_carry_an_ordinary_day(one: object) -> None:
    row = [service is one for service in SERVICES].index(True)
    load = Traffic(0).load(ticks(START + DAY, START + 2 * DAY))[row]
    service = SERVICES[row]
    assert np.quantile(load, 0.99) < 0.9 * service.capacity * service.max_replicas
