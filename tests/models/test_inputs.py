"""Inputs of the network: without a unit, without NaN, and of the past alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.domain import Context, FloatArray
from models.inputs import CANDIDATES, LEVELS, POINTS, QUERY, SERIES, Inputs, Queries, inputs_of
from tests.models.contexts import NOW, posted

HOUR, DAY = 3_600, 86_400
QUERIES = Queries(np.array([60, 300, HOUR, 6 * HOUR, DAY, 7 * DAY, 600]), np.array([False] * 6 + [True]))
TIMES = np.arange(28 * 288)


def inputs(context: Context, queries: Queries = QUERIES) -> Inputs:
    blocks = list(inputs_of(context, np.arange(len(context.fine.keys)), queries))
    assert len(blocks) == 1
    return blocks[0][1]


def five_minutes(values: FloatArray, origin: datetime = NOW, timezone: str = "UTC") -> Context:
    return posted(np.atleast_2d(values), timedelta(minutes=5), origin, timezone)


def seasonal(seed: int = 0) -> FloatArray:
    noise = np.random.default_rng(seed).normal(0, 3, TIMES.size)
    return np.asarray(100 + 50 * np.sin(2 * np.pi * TIMES / 288) + noise)


def odd_rows() -> FloatArray:
    rng = np.random.default_rng(3)
    rows = np.tile(seasonal(), (10, 1))
    rows[0] = 5.0
    rows[1] = np.nan
    rows[2, :-2] = np.nan
    rows[3] = 0.0
    rows[3, ::97] = 1.0
    rows[4] *= 1e16
    rows[5] *= 1e-14
    rows[6] -= 500.0
    rows[7] = rng.poisson(0.3, TIMES.size)
    rows[8, rng.random(TIMES.size) < 0.6] = np.nan
    rows[9, -400:] = np.nan
    return rows


def test_sizes_are_those_that_the_weights_are_made_for() -> None:
    given = inputs(five_minutes(seasonal()))
    assert given.series.shape == (1, SERIES) and given.query.shape == (1, len(QUERIES.seconds), QUERY)
    assert given.points.shape[-1] == POINTS and given.available.shape[-1] == CANDIDATES


@pytest.mark.parametrize("step", [15, 60, 300, 900, 3600])
def test_nothing_is_nan_whatever_the_series(step: int) -> None:
    given = inputs(posted(odd_rows(), timedelta(seconds=step)))
    for name in ("series", "query", "points", "spreads", "center", "unit"):
        assert np.isfinite(getattr(given, name)).all(), name
    assert (given.unit > 0).all()
    assert given.samples[1] == 0 and given.samples[2] == 2 and given.constant[0]


def test_a_thousandfold_series_has_the_same_inputs() -> None:
    one, thousand = inputs(five_minutes(odd_rows())), inputs(five_minutes(1000 * odd_rows()))
    for name in ("series", "query", "points", "spreads"):
        np.testing.assert_allclose(getattr(one, name), getattr(thousand, name), rtol=1e-3, atol=1e-3)
    some = one.samples > 0
    np.testing.assert_allclose(1000 * one.unit[some], thousand.unit[some], rtol=1e-4)


def test_candidates_are_whole_quantile_functions() -> None:
    given = inputs(five_minutes(odd_rows()))
    assert (np.diff(given.spreads, axis=-1) >= -1e-4).all()
    assert given.spreads.shape[-1] == len(LEVELS)


def test_a_row_alone_has_the_inputs_that_it_has_among_others() -> None:
    rows = odd_rows()
    together, alone = inputs(five_minutes(rows)), inputs(five_minutes(rows[7]))
    np.testing.assert_array_equal(together.query[7], alone.query[0])
    np.testing.assert_array_equal(together.series[7], alone.series[0])


def test_the_day_before_is_found_at_the_same_hour_of_the_wall_clock() -> None:
    """In Berlin the clocks went forward on 2024-03-31 at 01:00 UTC: an hour that counts from local midnight."""
    origin = datetime(2024, 3, 31, 6, 0, tzinfo=UTC)
    end = int(origin.timestamp())
    stamps = end - 300 * np.arange(10 * 288 - 1, -1, -1)
    change = int(datetime(2024, 3, 31, 1, 0, tzinfo=UTC).timestamp())
    local = stamps + np.where(stamps > change, 7_200, 3_600)
    values = 10.0 + (local % DAY) / HOUR
    berlin = inputs(five_minutes(values, origin, "Europe/Berlin"), Queries(np.array([3 * HOUR]), np.array([False])))
    utc = inputs(five_minutes(values, origin, "UTC"), Queries(np.array([3 * HOUR]), np.array([False])))
    raw_lag = 6  # the candidate "as a day ago"
    expected = float(values[-1] + 3)
    assert berlin.center[0] + berlin.unit[0, 0] * berlin.points[0, 0, raw_lag] == pytest.approx(expected, abs=0.01)
    assert utc.center[0] + utc.unit[0, 0] * utc.points[0, 0, raw_lag] == pytest.approx(expected - 1, abs=0.01)


def test_a_masked_sample_is_a_missing_one() -> None:
    context = five_minutes(seasonal())
    masked = np.zeros(context.fine.values.shape, dtype=np.bool_)
    masked[:, -30:-5] = True
    without = seasonal()
    without[-30:-5] = np.nan
    first = inputs(Context(context.fine, context.coarse, context.calendar, masked, masked))
    np.testing.assert_array_equal(first.query, inputs(five_minutes(without)).query)


def test_the_peak_of_a_window_is_asked_as_a_maximum() -> None:
    """A spike at the same minute every day: the window's candidates know it, those of the value beside it do not."""
    values = np.full(TIMES.size, 10.0) + np.random.default_rng(1).normal(0, 0.1, TIMES.size)
    values[(TIMES - TIMES[-1]) % 288 == 3] = 100.0  # 15 minutes after now, each day
    queries = Queries(np.array([1_500, 1_500]), np.array([False, True]))
    given = inputs(five_minutes(values), queries)
    day_ago = given.center[0] + given.unit[0] * given.points[0, :, 6]
    assert day_ago[0] == pytest.approx(10.0, abs=1.0) and day_ago[1] == pytest.approx(100.0, abs=1.0)
