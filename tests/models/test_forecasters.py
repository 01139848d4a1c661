"""Laws that hold for every statistical forecaster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import Context, FloatArray, SeriesBatch
from forecaster.ports import Forecaster
from forecaster.reasons import ReasonCode
from models.persistence import Persistence
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive
from tests.models.contexts import NOW, daily, live, posted, request

Make = Callable[[], Forecaster]
ALL: list[Make] = [Profile, Persistence, lambda: SeasonalNaive("day"), lambda: SeasonalNaive("week")]
IDS = ["profile", "persistence", "day", "week"]
STEP = timedelta(minutes=5)
every_forecaster = pytest.mark.parametrize("make", ALL, ids=IDS)


def walk(rng: np.random.Generator, columns: int, kind: str) -> FloatArray:
    """One row of a kind of series that occurs."""
    steps = rng.standard_normal(columns)
    day = np.sin(2 * np.pi * np.arange(columns) / 288)
    kinds: dict[str, FloatArray] = {
        "walk": np.cumsum(steps),
        "day": np.maximum(0, 10 + 6 * day + steps),
        "counts": rng.poisson(3, columns).astype(float),
        "bursts": np.where(rng.random(columns) < 0.1, rng.exponential(10, columns), 0.0),
        "steps": np.repeat(rng.integers(1, 9, columns // 100 + 1), 100)[:columns].astype(float),
        "constant": np.full(columns, 7.0),
        "negative": -50 + 5 * day + steps,
        "tails": np.abs(rng.standard_cauchy(columns)),
    }
    return kinds[kind]


KINDS = ("walk", "day", "counts", "bursts", "steps", "constant", "negative", "tails")
cases = st.tuples(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.integers(7, 2400),  # columns
    st.integers(0, 2**31),
    st.floats(0, 0.7),  # share missing
    st.booleans(),  # a gap at the end
)


def rows_of(case: tuple[list[str], int, int, float, bool]) -> FloatArray:
    kinds, columns, seed, missing, gap = case
    rng = np.random.default_rng(seed)
    values = np.array([walk(rng, columns, kind) for kind in kinds])
    values[rng.random(values.shape) < missing] = np.nan
    if gap:
        values[:, -columns // 4 :] = np.nan
    return values


@every_forecaster
@settings(max_examples=25, deadline=None)
@given(case=cases)
def test_quantiles_never_cross_are_never_nan_and_never_negative_without_need(
    make: Make, case: tuple[list[str], int, int, float, bool]
) -> None:
    values = rows_of(case)
    forecast = make().forecast(posted(values, STEP), request(len(values), (1, 3, 12, 288, 600)))
    for row, reason in enumerate(forecast.missing):
        both = np.concatenate((forecast.values[row], forecast.peak[row][None, :]))
        if reason is not None:
            assert np.isnan(both).all()
            continue
        assert np.isfinite(both).all()
        assert (np.diff(both, axis=1) >= 0).all()
        if np.nanmin(values[row]) >= 0:
            assert (both >= 0).all()


@every_forecaster
@pytest.mark.parametrize("factor", [1000.0, 1e-12, 1e15], ids=["x1000", "tiny", "huge"])
def test_the_forecast_follows_the_unit_of_the_series(make: Make, factor: float) -> None:
    rng = np.random.default_rng(3)
    values = np.array([walk(rng, 4500, kind) for kind in ("day", "negative", "bursts", "steps")])
    one = make().forecast(posted(values, STEP), request(4))
    other = make().forecast(posted(values * factor, STEP), request(4))
    scale = np.nanmax(np.abs(values), axis=1)[:, None, None]
    np.testing.assert_allclose(other.values / factor / scale, one.values / scale, atol=2e-3)
    np.testing.assert_allclose(other.peak / factor / scale[:, 0], one.peak / scale[:, 0], atol=2e-3)


@every_forecaster
def test_the_order_of_rows_is_irrelevant(make: Make) -> None:
    rng = np.random.default_rng(4)
    values = np.array([walk(rng, 5000, kind) for kind in KINDS])
    values[3, :4000] = np.nan
    values[6, :100] = np.nan
    order = rng.permutation(len(values))
    one = make().forecast(posted(values, STEP), request(len(values)))
    other = make().forecast(posted(values[order], STEP), request(len(values)))
    np.testing.assert_allclose(other.values, one.values[order], rtol=1e-4, atol=1e-4)
    assert other.missing == tuple(one.missing[i] for i in order)


@every_forecaster
def test_a_bad_row_does_not_touch_its_neighbours(make: Make) -> None:
    rng = np.random.default_rng(5)
    values = np.array([walk(rng, 5000, "day"), walk(rng, 5000, "day")])
    spoiled = values.copy()
    spoiled[1] = np.nan
    one = make().forecast(posted(values, STEP), request(2))
    other = make().forecast(posted(spoiled, STEP), request(2))
    np.testing.assert_allclose(other.values[0], one.values[0], rtol=1e-5)
    assert other.missing[1] is not None
    assert other.missing[1].code == ReasonCode.NO_DATA


@every_forecaster
def test_it_sees_nothing_of_masked_samples(make: Make) -> None:
    clean = live([daily()])
    spoiled, mask = np.array(clean.fine.values), np.zeros(clean.fine.values.shape, dtype=np.bool_)
    coarse, coarse_mask = np.array(clean.coarse.values), np.zeros(clean.coarse.values.shape, dtype=np.bool_)
    mask[0, -400:-340], coarse_mask[0, -80:-68] = True, True
    gone = [np.where(mask, np.nan, spoiled), np.where(coarse_mask, np.nan, coarse)]
    spoiled[mask], coarse[coarse_mask] = 1e6, 1e6
    keys = clean.fine.keys
    wild = Context(
        SeriesBatch(keys, NOW, clean.fine.step, spoiled),
        SeriesBatch(keys, NOW, clean.coarse.step, coarse),
        clean.calendar,
        mask,
        coarse_mask,
    )
    missing = Context(
        SeriesBatch(keys, NOW, clean.fine.step, gone[0]),
        SeriesBatch(keys, NOW, clean.coarse.step, gone[1]),
        clean.calendar,
    )
    one, other = make().forecast(wild, request(1)), make().forecast(missing, request(1))
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.peak, other.peak)


@every_forecaster
def test_no_data_and_too_little_of_it_are_reasons(make: Make) -> None:
    values = np.full((2, 100), np.nan)
    values[1, -20:] = 5.0 + np.arange(20)
    forecast = make().forecast(posted(values), request(2))
    assert [reason.code for reason in forecast.missing if reason] == [
        ReasonCode.NO_DATA,
        ReasonCode.HISTORY_TOO_SHORT,
    ]
    assert np.isnan(forecast.values).all()


@pytest.mark.parametrize("make", ALL[:2], ids=IDS[:2])
def test_thirty_minutes_are_enough(make: Make) -> None:
    values = 100 + np.random.default_rng(0).standard_normal((1, 30))
    forecast = make().forecast(posted(values), request(1))
    assert forecast.missing == (None,)
    assert np.isfinite(forecast.values).all()
    assert abs(forecast.values[0, 0, 3] - 100) < 5


@pytest.mark.parametrize("make", ALL[:2], ids=IDS[:2])
def test_a_constant_series_is_forecast_as_its_value_and_said(make: Make) -> None:
    forecast = make().forecast(posted(np.full((1, 600), 42.5)), request(1))
    np.testing.assert_array_equal(forecast.values, 42.5)
    np.testing.assert_array_equal(forecast.peak, 42.5)
    assert [reason.code for reason in forecast.notes[0]] == [ReasonCode.CONSTANT_SERIES]


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_an_almost_always_zero_series_keeps_a_median_of_zero(make: Make) -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.random((1, 8000)) < 0.04, 50 * rng.random((1, 8000)), 0.0)
    forecast = make().forecast(posted(values, STEP), request(1, (1, 12, 288)))
    np.testing.assert_array_equal(forecast.values[0, :, 3], 0.0)
    assert (forecast.values[0, :, 6] < 60).all()
    assert forecast.peak[0, 6] > 10


@every_forecaster
@pytest.mark.parametrize("seconds", [15, 60, 420, 3600], ids=["15s", "1m", "7m", "1h"])
def test_any_step_any_horizon_and_any_level(make: Make, seconds: int) -> None:
    rng = np.random.default_rng(2)
    columns = min(16 * 86_400 // seconds, 12_000)
    day = np.sin(2 * np.pi * np.arange(columns) * seconds / 86_400)
    values = (20 + 8 * day + rng.standard_normal(columns))[None, :]
    week = 7 * 86_400 // seconds
    levels = (0.001, 0.005, 0.33, 0.5, 0.97, 0.999)
    context = posted(values, timedelta(seconds=seconds))
    horizons = tuple(np.unique(np.linspace(1, week, 900).astype(int)))
    forecast = make().forecast(context, request(1, horizons, levels))
    if forecast.missing[0] is not None:
        assert columns * seconds < 1.25 * 7 * 86_400  # not even a season and a quarter
        return
    assert np.isfinite(forecast.values).all()
    assert (np.diff(forecast.values, axis=-1) >= 0).all()
    assert forecast.values.shape == (1, len(horizons), 6)


def cached(forecaster: Forecaster, minutes: int, rows: int) -> Forecaster:
    for minute in range(-minutes, 0):
        origin = NOW + 5 * timedelta(minutes=minute)
        forecaster.forecast(live([daily(seed=i) for i in range(rows)], origin=origin), request(rows))
    return forecaster


@pytest.mark.parametrize("make", ALL[:3], ids=IDS[:3])
def test_a_forecaster_that_ran_before_answers_nearly_as_a_fresh_one(make: Make) -> None:
    context = live([daily(seed=i) for i in range(3)])
    fresh = make().forecast(context, request(3))
    used = cached(make(), 3, 3).forecast(context, request(3))
    again = cached(make(), 3, 3).forecast(context, request(3))
    np.testing.assert_array_equal(used.values, again.values)  # the answer follows from the contexts seen
    np.testing.assert_allclose(used.values, fresh.values, rtol=0.15, atol=8)


@pytest.mark.parametrize("make", ALL[:2], ids=IDS[:2])
def test_rows_that_come_and_go_are_fitted_at_once(make: Make) -> None:
    forecaster = make()
    both = live([daily(seed=0), daily(seed=1)])
    forecaster.forecast(live([daily(seed=0)], origin=NOW - STEP), request(1))
    grown = forecaster.forecast(both, request(2))
    fresh = make().forecast(both, request(2))
    np.testing.assert_array_equal(grown.values[1], fresh.values[1])
