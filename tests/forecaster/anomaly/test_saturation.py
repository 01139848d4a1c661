"""Time to a limit: trends of floors, with a day, a sawtooth and restarts in the way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import saturation
from forecaster.anomaly.saturation import HOUR, Outlook, stepped
from forecaster.domain import FloatArray
from forecaster.rows import Arrays, Rows

T0, STEP = 1_767_571_200, 600
N = 60 * HOUR // STEP  # two and a half days
HOURS = np.arange(N) * STEP / HOUR


def begun(rows: int) -> Arrays:
    return Rows((), {}).aligned([str(i) for i in range(rows)], saturation.blank()).arrays


def run(usage: FloatArray, limit: FloatArray) -> tuple[Arrays, Outlook, FloatArray]:
    """(state, last outlook, (row, time) reach) of usage (row, time)."""
    state, reach = begun(len(usage)), np.full(usage.shape, np.nan)
    for j in range(usage.shape[1]):
        state, outlook = stepped(state, usage[:, j], limit, T0 + (j + 1) * STEP)
        reach[:, j] = outlook.reach
    return state, outlook, reach


def sawtooth(rng: np.random.Generator, slope_per_hour: float, day: float = 0.1) -> FloatArray:
    phase = (HOURS / 0.8) % 1.0
    season = day * (0.5 - 0.5 * np.cos(2 * np.pi * HOURS / 24))
    return 0.3 + season + 0.04 * phase + slope_per_hour * HOURS + rng.normal(0, 0.003, N)


def test_a_leak_is_told_with_its_time_and_a_day_and_a_sawtooth_are_not() -> None:
    rng = np.random.default_rng(0)
    usage = np.stack([sawtooth(rng, 0.008), sawtooth(rng, 0.0, day=0.4)])
    _, outlook, reach = run(usage, np.ones(2))
    assert outlook.reach[0] > saturation.SURE
    assert outlook.score[0] > 5
    assert outlook.slope[0] * HOUR == pytest.approx(0.008, rel=0.3)
    left = (1 - usage[0, -6:].max()) / 0.008  # hours, from the top
    low, middle, high = (outlook.seconds[0] / HOUR).tolist()
    assert low <= middle <= high
    assert middle == pytest.approx(left, rel=0.4)
    assert np.nanmax(reach[1]) < saturation.SURE
    assert math.isinf(outlook.seconds[1, 1]) or outlook.seconds[1, 1] > 24 * HOUR


def test_a_fast_leak_is_told_while_there_is_time() -> None:
    usage = 0.3 + np.maximum(HOURS - 50, 0) * 0.07 + np.random.default_rng(1).normal(0, 0.003, N)
    _, _, reach = run(np.minimum(usage, 1.0)[None], np.ones(1))
    first = int(np.flatnonzero(reach[0] > saturation.SURE)[0])
    assert 50 <= HOURS[first] <= 57  # it is full at 60


def test_a_restart_begins_a_new_segment() -> None:
    since = HOURS % 20.0  # leaks 4 % an hour to 0.95 and is restarted, over and over
    usage = 0.15 + 0.04 * since + np.random.default_rng(2).normal(0, 0.002, N)
    state, outlook, _ = run(usage[None], np.array([2.0]))
    assert outlook.reach[0] < 0.01  # it has never come near 2
    assert np.isfinite(np.asarray(state["near_lows"], dtype=np.float64)).all()
    after_restart = stepped(state, np.array([0.15]), np.array([2.0]), T0 + (N + 1) * STEP)[1]
    assert after_restart.reach[0] < 0.01


def test_missing_is_neither_low_nor_high() -> None:
    rng = np.random.default_rng(3)
    whole = sawtooth(rng, 0.008)
    gaps = whole.copy()
    gaps[rng.random(N) < 0.3] = np.nan
    _, full, _ = run(whole[None], np.ones(1))
    _, holed, _ = run(gaps[None], np.ones(1))
    assert holed.reach[0] > saturation.SURE
    assert holed.slope[0] == pytest.approx(full.slope[0], rel=0.2)
    _, nothing, reach = run(np.full((1, N), np.nan), np.ones(1))
    assert np.isnan(reach).all()
    assert np.isnan(nothing.seconds).all()
    assert np.isnan(nothing.score).all()


def test_a_long_outage_leaves_no_trend_across_it() -> None:
    usage = np.full(N, 0.5)
    usage[: N // 3] = 0.3
    usage[N // 3 : N - 10] = np.nan
    _, outlook, _ = run(usage[None], np.ones(1))
    assert math.isnan(outlook.reach[0])


def test_without_a_limit_nothing_is_told() -> None:
    _, outlook, reach = run(sawtooth(np.random.default_rng(4), 0.01)[None], np.full(1, np.nan))
    assert np.isnan(reach).all()
    assert np.isnan(outlook.seconds).all()


def test_at_the_limit_no_time_is_left() -> None:
    _, outlook, _ = run(np.ones((1, N)), np.ones(1))
    assert outlook.seconds[0].tolist() == [0.0, 0.0, 0.0]


def test_a_heap_that_is_collected_when_full_is_told_by_its_floors() -> None:
    rng = np.random.default_rng(5)
    full = (HOURS / 0.7) % 1.0
    floors = np.stack([np.full(N, 0.3), 0.3 + 0.007 * HOURS])
    usage = floors + (0.9 - floors) * full + rng.normal(0, 0.002, (2, N))  # the top is 0.9 whatever the floor
    _, outlook, reach = run(usage, np.ones(2))
    assert np.nanmax(reach[0]) < saturation.SURE
    assert outlook.slope[1] * HOUR == pytest.approx(0.007, rel=0.3)
    left = (1 - floors[1, -1]) / 0.007
    assert outlook.seconds[1, 1] / HOUR == pytest.approx(left, rel=0.4)


@settings(deadline=None, max_examples=3)
@given(value=st.floats(1e-12, 1e15), share=st.floats(0.01, 0.99))
def test_a_constant_is_no_leak(value: float, share: float) -> None:
    state = begun(1)
    for j in range(0, N, 2):
        state, outlook = stepped(state, np.array([value * share]), np.array([value]), T0 + (j + 1) * STEP)
    assert outlook.reach[0] < 0.01
    assert outlook.score[0] < 0.5


@settings(deadline=None, max_examples=3)
@given(scale=st.floats(1e-12, 1e15), seed=st.integers(0, 1000))
def test_the_unit_does_not_matter_and_rows_do_not_meet(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    usage = np.stack([sawtooth(rng, 0.006), sawtooth(rng, 0.0)])
    mine, other = begun(2), begun(2)
    for j in range(usage.shape[1]):
        now = T0 + (j + 1) * STEP
        mine, a = stepped(mine, usage[:, j], np.ones(2), now)
        other, b = stepped(other, usage[::-1, j] * scale, np.full(2, scale), now)
    np.testing.assert_allclose(a.reach, b.reach[::-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(a.seconds, b.seconds[::-1], rtol=1e-2)
    np.testing.assert_allclose(a.slope * scale, b.slope[::-1], rtol=1e-2, atol=1e-9 * scale)


def test_the_future_does_not_matter() -> None:
    usage = sawtooth(np.random.default_rng(6), 0.008)
    _, _, whole = run(usage[None], np.ones(1))
    other = usage.copy()
    other[200:] = 0.1
    _, _, cut = run(other[None], np.ones(1))
    np.testing.assert_array_equal(whole[0, :200], cut[0, :200])


def test_the_sentence_says_when() -> None:
    said = saturation.sentence("shop", "memory", 0.8e9, 1e9, (3 * 3600.0, 5 * 3600.0, math.inf), 0.97)
    assert said == (
        "shop: memory is at 8e+08 of 1e+09 and rising: it reaches the limit in about 5.0 h (between 3.0 h and later); "
        "within a day with a probability of 97%"
    )
    assert (
        saturation.sentence("shop", "disk", 2.0, 2.0, (0.0, 0.0, 0.0), 1.0) == "shop: disk has reached its limit of 2"
    )


def test_many_rows_are_looked_at_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = np.stack([sawtooth(np.random.default_rng(7), 0.006)] * 5)
    _, whole, _ = run(usage, np.ones(5))
    monkeypatch.setattr(saturation, "MOST_LOOKS", 3)
    _, parts, reach = run(usage, np.ones(5))
    np.testing.assert_array_equal(whole.reach[:3], parts.reach[:3])
    assert not np.isnan(parts.reach).any()
    late = reach[4] != reach[0]
    assert late.any()  # one step behind, now and then
