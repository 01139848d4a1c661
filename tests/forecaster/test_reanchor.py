"""The forecast moves with the newest load, and with nothing else."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecaster import reanchor
from forecaster.domain import FloatArray, Forecast
from forecaster.reanchor import DEFAULT_MEMORY_SECONDS, LONGEST_MEMORY, SHORTEST_MEMORY, reanchored
from forecaster.rows import Arrays, Rows
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


# --- tau -------------------------------------------------------------------------------------------------------------


def learned(medians: FloatArray, samples: FloatArray, step: int = 60) -> Arrays:
    """Misses of forecasts whose median (time, row) is the same for all horizons; samples (time, row) one step later."""
    steps, rows = samples.shape
    state = Rows((), {}).aligned([f"w{i}" for i in range(rows)], reanchor.blank()).arrays
    everywhere = np.ones(rows, dtype=np.bool_)
    for i in range(steps):
        values = np.repeat(medians[i][:, None, None], 2, axis=1) + np.array([-1.0, 0.0, 1.0])
        origin = NOW + i * timedelta(seconds=step)
        forecast = forecast_of(values, levels=(0.1, 0.5, 0.9), horizons=(1, 5), origin=origin)
        object.__setattr__(forecast, "step", timedelta(seconds=step))
        state = reanchor.remembered(state, forecast)
        state = reanchor.learned(state, samples[i], ORIGIN + step * (i + 1), step, 5, everywhere)
    return state


def shocks(steps: int, rows: int = 6) -> FloatArray:
    return np.random.default_rng(11).standard_normal((steps, rows))


def test_misses_that_say_nothing_of_the_next_are_soon_forgotten() -> None:
    """White noise around a forecast that is right: nothing of a miss is left five steps on."""
    samples = 100 + shocks(3_000)
    tau = reanchor.memory_seconds(learned(np.full_like(samples, 100.0), samples), 60, 5)
    assert (tau < 120).all()


def test_misses_of_a_random_walk_are_remembered() -> None:
    """The forecast is the last value: all of a miss is still there later."""
    walk = 1_000 + np.cumsum(shocks(3_001), axis=0)
    tau = reanchor.memory_seconds(learned(walk[:-1], walk[1:]), 60, 5)
    assert (tau > 1_200).all() and np.median(tau) > 2_000


def test_a_few_misses_leave_it_near_the_default() -> None:
    samples = 100 + shocks(12)
    tau = reanchor.memory_seconds(learned(np.full_like(samples, 100.0), samples), 60, 5)
    assert (np.abs(tau / DEFAULT_MEMORY_SECONDS - 1) < 0.35).all()
    assert (tau != DEFAULT_MEMORY_SECONDS).any()
    nothing = Rows((), {}).aligned(["w"], reanchor.blank()).arrays
    np.testing.assert_allclose(reanchor.memory_seconds(nothing, 60, 5), DEFAULT_MEMORY_SECONDS)


def test_one_wild_miss_does_not_decide() -> None:
    samples = 100 + shocks(600)
    samples[300:306] += 1e6
    calm = 100 + shocks(600)
    medians = np.full_like(samples, 100.0)
    wild, usual = (reanchor.memory_seconds(learned(medians, x), 60, 5) for x in (samples, calm))
    assert (wild < 3 * usual).all()


def test_samples_that_are_not_to_be_learned_from_only_pass() -> None:
    medians, samples = np.full((200, 2), 100.0), 100 + shocks(200, 2)
    state = learned(medians, samples)
    kept = {name: array.copy() for name, array in state.items()}
    after = reanchor.learned(state, np.array([500.0, 500.0]), ORIGIN + 60 * 201, 60, 5, np.array([False, True]))
    assert after["pairs"][0] == kept["pairs"][0] and after["pairs"][1] > kept["pairs"][1]
    for name, array in state.items():  # the state before is not written to
        np.testing.assert_array_equal(array, kept[name])


SUMS = hnp.arrays(np.float64, 4, elements=st.floats(0, 1e12))


@given(
    SUMS, hnp.arrays(np.float64, 4, elements=st.floats(-1e12, 1e12)), SUMS, st.integers(1, 3_600), st.integers(1, 19)
)
def test_tau_is_always_between_its_limits(
    itself: FloatArray, later: FloatArray, pairs: FloatArray, step: int, far: int
) -> None:
    tau = reanchor.memory_seconds({"with_itself": itself, "with_later": later, "pairs": pairs}, step, far)
    assert ((tau >= SHORTEST_MEMORY) & (tau <= LONGEST_MEMORY)).all()


def test_a_sample_that_was_kept_from_the_forecaster_moves_its_forecast_too() -> None:
    """What is flagged as an anomaly, or marked by people, is hidden from the model and must scale all the same."""
    newest, at = np.array([150.0, 150.0]), np.full(2, ORIGIN)
    moved = reanchored(flat(), NOW, newest, at, 600.0, np.array([True, False]))
    assert moved.values[0, 0, 1] > 140 and moved.peak[0, 1] >= 149
    np.testing.assert_array_equal(moved.values[1], flat().values[1])  # that one was seen
    stale = reanchored(flat(), NOW, newest, at - 60, 600.0, np.array([True, True]))
    np.testing.assert_array_equal(stale.values, flat().values)
