"""Replays of the past: causal, in the order of the cycle, and scored as by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import numpy as np
import pytest

from forecaster.accuracy import quantile_loss
from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, SeriesBatch, SeriesKey
from forecaster.foresight import Foresight
from forecaster.past import Past
from models.chain import forecasters
from models.persistence import Persistence
from models.posted import context_of
from models.seasonal_naive import SeasonalNaive
from training import backtest
from training.backtest import DECILES, LEVELS, losses, observed, pinball, read_at, replay, run

END = datetime(2026, 3, 10, 0, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
DAY = 288


def batch(values: FloatArray, step: timedelta = STEP, end: datetime = END) -> SeriesBatch:
    return SeriesBatch(tuple(SeriesKey(f"s{i}") for i in range(len(values))), end, step, values)


def daily(days: int = 9, rows: int = 2, seed: int = 3) -> FloatArray:
    """A day's curve with noise; a random walk in the last row."""
    random = np.random.default_rng(seed)
    t = np.arange(days * DAY)
    values = 100 + 50 * np.sin(2 * np.pi * t / DAY) + random.normal(0, 3, (rows, len(t)))
    values[-1] = 500 + np.cumsum(random.normal(0, 1, len(t)))
    return values


def cheap() -> tuple[SeasonalNaive, Persistence]:
    return SeasonalNaive("day"), Persistence()


SERIES = batch(daily())
COLUMNS = np.array([7 * DAY, 7 * DAY + 61, 7 * DAY + 130])
HORIZONS = np.array([1, 3, 12, 288])


@pytest.mark.parametrize("minutes", [1, 5, 7, 60], ids="a step of {} min".format)
@pytest.mark.parametrize("column", [4, 700, 1201])
def test_the_past_is_what_a_context_of_plain_values_would_be(minutes: int, column: int) -> None:
    end = datetime.fromtimestamp(int(END.timestamp()) // (60 * minutes) * 60 * minutes, UTC)
    series = batch(daily(5), timedelta(minutes=minutes), end)
    known = series.values[:, : column + 1].astype(np.float32)
    origin = datetime.fromtimestamp(int(series.times[column]), UTC)
    expected = context_of(series.keys, known, origin, series.step)
    found = Past(series).at(column)
    assert found.fine.origin == expected.fine.origin
    assert found.coarse.origin == expected.coarse.origin
    np.testing.assert_array_equal(found.fine.values, expected.fine.values[:, -2880:])
    width = min(found.coarse.values.shape[1], expected.coarse.values.shape[1])
    assert abs(found.coarse.values.shape[1] - expected.coarse.values.shape[1]) <= 1
    np.testing.assert_allclose(found.coarse.values[:, -width:], expected.coarse.values[:, -width:], rtol=1e-6)


@pytest.mark.parametrize("step", [15, 60, 300, 450, 3600])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_series_beside_the_grid_has_a_coarse_grid_of_its_own(step: int, share: float) -> None:
    values = np.arange(600, dtype=np.float32)[None, :]
    end, width = datetime(2026, 3, 9, tzinfo=UTC), timedelta(seconds=step)
    shift = timedelta(seconds=int(share * step))
    plain = Past(SeriesBatch((SeriesKey("a"),), end, width, values))
    moved = Past(SeriesBatch((SeriesKey("a"),), end + shift, width, values))
    for column in (0, 7, 100, 599):
        one, other = plain.at(column), moved.at(column)
        for grid, shifted in ((one.fine, other.fine), (one.coarse, other.coarse)):
            assert shifted.origin == grid.origin + shift
            assert np.array_equal(shifted.values, grid.values, equal_nan=True)


def test_the_past_reaches_no_further_back_than_its_span() -> None:
    found = Past(batch(daily(35)), timedelta(days=28)).at(34 * DAY)
    assert found.coarse.values.shape[1] == 28 * DAY
    assert found.fine.values.shape[1] == 2880


def altered_after(column: int) -> SeriesBatch:
    values = np.array(SERIES.values)
    values[:, column + 1 :] = 7e5 * np.random.default_rng(1).random(values[:, column + 1 :].shape)
    return batch(values)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_comes_later_changes_nothing_of_what_was_issued(place: int) -> None:
    def issued(series: SeriesBatch) -> backtest.Issued:
        return replay(series, cheap, COLUMNS, HORIZONS, start=5 * DAY, stride=36, window=3)

    mine, other = issued(SERIES), issued(altered_after(int(COLUMNS[place])))
    upto = slice(0, place + 1)
    for name in ("values", "upper"):
        np.testing.assert_array_equal(getattr(mine, name)[:, upto], getattr(other, name)[:, upto])
        assert (
            not np.array_equal(getattr(mine, name)[:, place + 1 :], getattr(other, name)[:, place + 1 :]) or place == 2
        )
    assert np.isfinite(mine.values).all()


def test_a_forecaster_by_itself_sees_nothing_that_comes_later() -> None:
    mine, other = (run(one, Persistence(), COLUMNS, HORIZONS) for one in (SERIES, altered_after(int(COLUMNS[1]))))
    np.testing.assert_array_equal(mine.values[:, :2], other.values[:, :2])


def test_a_row_of_its_own_columns_is_scored_at_them() -> None:
    columns = np.array([[COLUMNS[0], COLUMNS[1]], [COLUMNS[1], COLUMNS[2]]])
    apart, together = (run(SERIES, Persistence(), one, HORIZONS) for one in (columns, COLUMNS))
    np.testing.assert_array_equal(apart.values[0], together.values[0, :2])
    np.testing.assert_array_equal(apart.values[1], together.values[1, 1:])
    np.testing.assert_array_equal(observed(SERIES, columns, HORIZONS)[1], observed(SERIES, COLUMNS, HORIZONS)[1, 1:])


def test_an_origin_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="before the start"):
        replay(SERIES, cheap, COLUMNS, [1], start=7 * DAY + 1, stride=12, window=3)


def test_a_replay_at_each_step_is_what_the_cycle_issues() -> None:
    start, last = 7 * DAY, 7 * DAY + 30
    mine = replay(SERIES, cheap, [last], HORIZONS, start=start, stride=1, window=3)
    foresight, past, windows = Foresight(cheap, STEP), Past(SERIES), np.array([3, 3])
    foresight.align(("a", "b"), SERIES.keys)
    for column in range(start, last + 1):
        context = past.at(column)
        foresight.observe(context, windows)
        foresight.run(context, windows, complete=True)
        at = np.full(2, int(SERIES.times[column]))
        issued = foresight.issue(context.fine.origin, context.fine.values[:, -1], at, (None, None))
    places = np.searchsorted(issued.horizons, HORIZONS)
    median = issued.levels.index(0.5)
    np.testing.assert_array_equal(mine.values[:, 0, :, LEVELS.index(0.5)], issued.values[:, places, median])
    assert tuple(row[0] for row in mine.model) == issued.model


def test_rows_with_origins_of_their_own_are_issued_as_if_they_were_alone() -> None:
    columns = np.array([[7 * DAY, 7 * DAY + 61], [8 * DAY, 8 * DAY + 24]])
    starts = np.array([6 * DAY, 7 * DAY])
    both = replay(SERIES, cheap, columns, HORIZONS, start=starts, stride=12, window=3)
    for row in (0, 1):
        alone = batch(SERIES.values[[row]])
        alone = SeriesBatch((SERIES.keys[row],), alone.origin, alone.step, alone.values)
        one = replay(alone, cheap, columns[row], HORIZONS, start=int(starts[row]), stride=12, window=3)
        np.testing.assert_allclose(both.values[row], one.values[0], rtol=0.02)
        assert both.model[row] == one.model[0]


class Sure:
    """Knows the middle and takes the noise for a fifth of what it is."""

    version = "persistence/1"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        rows = len(context.fine.keys)
        quantiles = 100 + 2 * np.array([NormalDist().inv_cdf(level) for level in request.levels])
        return Forecast(
            origin=context.fine.origin,
            step=context.fine.step,
            horizons=request.horizons,
            levels=request.levels,
            values=np.tile(quantiles, (rows, len(request.horizons), 1)),
            peak=np.tile(quantiles, (rows, 1)),
            windows=request.windows,
            model=(self.version,) * rows,
            missing=(None,) * rows,
        )


def test_a_replay_at_a_stride_learns_what_it_promised() -> None:
    series = batch(100 + np.random.default_rng(9).normal(0, 10, (4, 20 * DAY)))
    columns = np.arange(18 * DAY, 20 * DAY - 3, 7)
    came = observed(series, columns, [1, 3])
    shares = []
    for start in (18 * DAY, 3 * DAY):
        issued = replay(series, lambda: (Sure(),), columns, [1, 3], start=start, stride=12, window=3)
        inside = (came >= issued.values[..., 1]) & (came <= issued.values[..., -2])
        shares.append(float(inside.mean()))
    cold, warm = shares
    assert cold < 0.45
    assert 0.72 < warm < 0.85  # of 360 forecasts in fifteen days


def test_a_horizon_that_the_chain_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[11\] steps ahead"):
        replay(SERIES, forecasters(), COLUMNS, [11], start=5 * DAY, stride=12, window=3)


class Stated:
    """Always the same quantiles: the level times 100, a peak twice as high."""

    version = "stated/1"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        rows = len(context.fine.keys)
        levels = 100 * np.array(request.levels)
        return Forecast(
            origin=context.fine.origin,
            step=context.fine.step,
            horizons=request.horizons,
            levels=request.levels,
            values=np.tile(levels, (rows, len(request.horizons), 1)),
            peak=np.tile(2 * levels, (rows, 1)) * np.asarray(request.windows)[:, None],
            windows=request.windows,
            model=(self.version,) * rows,
            missing=(None,) * rows,
        )


def test_losses_are_means_over_what_was_observed() -> None:
    values = np.full((2, 20), 50.0)
    values[0, 12], values[1, 12:] = np.nan, np.nan
    found = losses(batch(values), Stated(), [10, 11], [1, 2])
    levels = np.array(DECILES)
    expected = float(quantile_loss(np.array(50.0), 100 * levels, levels).mean())
    np.testing.assert_allclose(found, [[expected, expected], [expected, np.nan]])


def test_losses_beyond_the_end_of_the_data_are_unknown() -> None:
    assert np.isnan(losses(batch(np.full((1, 20), 50.0)), Stated(), [19], [1])).all()


def test_the_loss_of_each_horizon_is_by_its_own_sample() -> None:
    series = batch(np.arange(20.0)[None, :])
    issued = run(series, Stated(), [10], [1, 5], levels=(0.5,))
    np.testing.assert_allclose(pinball(series, issued), [[[0.5 * (50 - 11), 0.5 * (50 - 15)]]])


def test_a_peak_is_asked_for_up_to_each_horizon() -> None:
    issued = run(SERIES, Stated(), [10], [1, 3, 5], uppers=True)
    np.testing.assert_allclose(issued.upper[0, 0], [180.0, 540.0, 900.0])


def test_without_a_peak_for_a_horizon_the_highest_moment_counts() -> None:
    issued = run(SERIES, Stated(), [10], [2, 5])
    np.testing.assert_allclose(issued.upper[0, 0], [360.0, 90.0])


def test_levels_are_read_as_the_quantiles_module_reads_them() -> None:
    quantiles = np.array([[[1.0, 2.0, 4.0]]])
    read = read_at(quantiles, (0.1, 0.5, 0.9), (0.1, 0.3, 0.9))
    share = np.log(2 * 0.3) / np.log(2 * 0.1)
    np.testing.assert_allclose(read, [[[1.0, 2.0 - share, 4.0]]])
