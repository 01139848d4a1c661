"""The forecast moves with the newest load, and with nothing else."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from forecaster.domain import Forecast
from forecaster.reanchor import reanchored
from tests.forecaster.forecasts import NOW, forecast_of

ORIGIN = int(NOW.timestamp())


def flat(rows: int = 2, level: float = 100.0) -> Forecast:
    values = np.full((rows, 3, 3), level) + np.array([-10.0, 0.0, 10.0])
    return forecast_of(values, levels=(0.1, 0.5, 0.9), horizons=(1, 10, 60), window=10)


def test_the_shift_fades_with_the_distance_from_now() -> None:
    now = NOW + timedelta(seconds=60)
    moved = reanchored(flat(), now, np.array([150.0, 100.0]), np.full(2, ORIGIN + 60), 600.0)
    lead = np.array([0, 540, 3540])
    np.testing.assert_allclose(moved.values[0, :, 1], 100 + 50 * np.exp(-lead / 600))
    np.testing.assert_allclose(moved.values[1], flat().values[1])
    assert (np.diff(moved.values, axis=-1) == 10).all()


def test_the_peak_is_never_below_the_newest_load() -> None:
    moved = reanchored(flat(), NOW + timedelta(seconds=15), np.array([500.0, 10.0]), np.full(2, ORIGIN + 15))
    assert (moved.peak[0] >= 500).all()
    assert (moved.peak[1] < flat().peak[1]).all()


@pytest.mark.parametrize(
    ("newest", "at"),
    [(np.nan, ORIGIN + 15), (500.0, ORIGIN), (np.inf, ORIGIN + 15)],
    ids=["missing", "old", "infinite"],
)
def test_without_a_new_sample_nothing_moves(newest: float, at: int) -> None:
    moved = reanchored(flat(1), NOW + timedelta(seconds=15), np.array([newest]), np.array([at]))
    np.testing.assert_array_equal(moved.values, flat(1).values)
    np.testing.assert_array_equal(moved.peak, flat(1).peak)


def test_a_row_without_a_forecast_stays_without() -> None:
    forecast = forecast_of(np.full((1, 3, 3), np.nan), levels=(0.1, 0.5, 0.9), horizons=(1, 10, 60))
    moved = reanchored(forecast, NOW + timedelta(seconds=15), np.array([5.0]), np.array([ORIGIN + 15]))
    assert np.isnan(moved.values).all() and np.isnan(moved.peak).all()


def test_a_load_is_never_moved_below_zero() -> None:
    moved = reanchored(flat(1, level=15.0), NOW + timedelta(seconds=15), np.array([0.0]), np.array([ORIGIN + 15]))
    assert (moved.values >= 0).all() and (moved.peak >= 0).all()
