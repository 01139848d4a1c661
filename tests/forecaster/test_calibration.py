"""Online calibration: it reaches the asked coverage, learns only from what it may, and its state is sound."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import calibration
from forecaster.calibration import Layout
from forecaster.domain import BoolArray, FloatArray, Forecast
from forecaster.reasons import ReasonCode
from forecaster.rows import Rows
from tests.forecaster.forecasts import LEVELS, NOW, forecast_of

LAYOUT = Layout(60, (1, 5), LEVELS)
ORIGIN = int(NOW.timestamp())
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
WINDOW = 5


def normal_forecast(step: int, rows: int, spread: float, model: str = "hand/1", base: float = 100.0) -> Forecast:
    """What a forecaster says at `step` that believes in noise of standard deviation `spread`."""
    one = base + spread * NORMAL
    values = np.broadcast_to(one, (rows, 2, len(LEVELS))).copy()
    origin = NOW + timedelta(minutes=step)
    return forecast_of(values, values[:, 0] + spread, origin=origin, model=model, window=WINDOW)


def run(
    samples: FloatArray,
    spread: float,
    state: Rows | None = None,
    flagged: BoolArray | None = None,
    flag: str = "masked",
) -> tuple[Rows, FloatArray, FloatArray]:
    """Plays samples (row, time); returns the state, the issued one-step quantiles and the issued peaks per step."""
    rows, steps = samples.shape
    state = calibration.blank([f"w{i}" for i in range(rows)], LAYOUT) if state is None else state
    issued, peaks = [], []
    for step in range(steps):
        forecast = calibration.apply(state, normal_forecast(step, rows, spread))
        state = calibration.issue(state, forecast, ORIGIN + 60 * step)
        issued.append(forecast.values[:, 0])
        peaks.append(forecast.peak)
        first = max(0, step - 2 * WINDOW)
        times = ORIGIN + 60 * (1 + np.arange(first, step + 1))  # samples[:, k] is the one at k + 1
        flags = {} if flagged is None else {flag: flagged[:, first : step + 1]}
        state = calibration.observe(state, LAYOUT, times, samples[:, first : step + 1], **flags)
    return state, np.array(issued), np.array(peaks)


def noise(steps: int, rows: int = 3, seed: int = 0) -> FloatArray:
    return 100 + np.random.default_rng(seed).standard_normal((rows, steps))


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0], ids=["too narrow", "right", "too wide"])
def test_coverage_becomes_what_the_levels_say(spread: float) -> None:
    samples = noise(2600)
    _, issued, _ = run(samples, spread)
    late = slice(1000, None)
    y = samples.T[late]
    for low, high, nominal in ((1, 5, 0.8), (0, 6, 0.98)):
        inside = (y >= issued[late, :, low]) & (y <= issued[late, :, high])
        assert inside.mean() == pytest.approx(nominal, abs=0.02)


def test_after_the_load_has_doubled_the_band_holds_again_within_a_day_of_five_minute_steps() -> None:
    """Long calibrated, so that its steps are small; then the noise doubles with the load and the median lags behind."""
    before, day, rows = 400, 288, 30
    samples = noise(before + 2 * day, rows)
    samples[:, before:] = 100 + 2 * (samples[:, before:] - 100) + 0.5
    _, issued, _ = run(samples, 1.0)
    y = samples.T
    inside = (y >= issued[:, :, 1]) & (y <= issued[:, :, 5])
    first_hours, next_day = inside[before : before + 48].mean(), inside[before + day :].mean()
    assert inside[before - day : before].mean() == pytest.approx(0.8, abs=0.03)
    assert first_hours < 0.7  # there is something to recover from
    assert 0.77 <= next_day <= 0.83


@pytest.mark.slow
def test_the_peak_becomes_true_as_well() -> None:
    samples = noise(2600)
    _, _, peaks = run(samples, 0.5)
    tops = np.array([samples[:, i : i + WINDOW].max(axis=1) for i in range(2600 - WINDOW)])
    below = (tops[1000:] <= peaks[1000 : 2600 - WINDOW, :, 5]).mean()
    assert below == pytest.approx(0.9, abs=0.025)


def test_right_quantiles_stay_nearly_where_they_are() -> None:
    _, issued, _ = run(noise(1500), 1.0)
    np.testing.assert_allclose(issued[-1].mean(axis=0), 100 + NORMAL, atol=0.45)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 5.0))
def test_quantiles_never_cross_and_loads_are_never_negative(seed: int, spread: float) -> None:
    samples = np.abs(np.random.default_rng(seed).standard_cauchy((2, 60)))
    state, _, _ = run(samples, spread)
    low = normal_forecast(61, 2, spread / 10, base=spread)
    low = forecast_of(np.maximum(low.values, 0), np.maximum(low.peak, 0))
    applied = calibration.apply(state, low)
    assert (np.diff(applied.values, axis=-1) >= 0).all() and (applied.values >= 0).all()
    assert (np.diff(applied.peak, axis=-1) >= 0).all() and (applied.peak >= 0).all()


def test_the_offsets_follow_the_unit_of_the_series() -> None:
    samples = noise(300)
    one, _, _ = run(samples, 0.5)
    a = calibration.apply(one, normal_forecast(300, 3, 0.5))
    thousand = forecast_of(1000 * normal_forecast(300, 3, 0.5).values)
    np.testing.assert_allclose(calibration.apply(one, thousand).values, 1000 * a.values, rtol=1e-9)


def test_missing_samples_teach_nothing() -> None:
    state, _, _ = run(np.full((1, 100), np.nan), 1.0)
    assert not np.asarray(state.arrays["count"]).any()
    assert not np.asarray(state.arrays["offset"]).any()
    assert not np.asarray(state.arrays["windows"]).any()


@pytest.mark.parametrize("flag", ["masked", "saturated"])
def test_flagged_samples_move_no_level_down_but_are_counted(flag: str) -> None:
    calm = np.full((1, 200), 90.0)
    every = np.ones(calm.shape, dtype=np.bool_)
    taught, _, _ = run(calm, 1.0)
    held, _, _ = run(calm, 1.0, flagged=every, flag=flag)
    assert np.asarray(taught.arrays["offset"])[0, 0, 6] < 0
    assert (np.asarray(held.arrays["offset"]) >= 0).all()
    assert (np.asarray(held.arrays["peak_offset"]) >= 0).all()
    np.testing.assert_array_equal(held.arrays["windows"], taught.arrays["windows"])
    burst, _, _ = run(np.full((1, 200), 120.0), 1.0, flagged=every, flag=flag)
    if flag == "saturated":  # a lower bound of demand can only say "more"; a marked incident says nothing
        assert (np.asarray(burst.arrays["offset"])[0, 0] > 0).all()
    else:
        assert not np.asarray(burst.arrays["offset"]).any() and not np.asarray(burst.arrays["peak_offset"]).any()
        assert (calibration.coverage(burst, LAYOUT)[0] == 0).all()  # but the misses are published


def test_feedback_waits_until_the_forecast_is_due() -> None:
    state = calibration.blank(["a"], LAYOUT)
    state = calibration.issue(state, normal_forecast(0, 1, 1.0), ORIGIN)
    early = calibration.observe(state, LAYOUT, np.array([ORIGIN + 60]), np.array([[150.0]]))
    np.testing.assert_array_equal(np.asarray(early.arrays["count"])[0], [1, 0])
    late = calibration.observe(early, LAYOUT, ORIGIN + 60 * np.arange(1, 6), np.full((1, 5), 150.0))
    np.testing.assert_array_equal(np.asarray(late.arrays["count"])[0], [1, 1])
    again = calibration.observe(late, LAYOUT, ORIGIN + 60 * np.arange(1, 6), np.full((1, 5), 150.0))
    np.testing.assert_array_equal(np.asarray(again.arrays["count"])[0], [1, 1])  # each forecast is judged once


def test_a_late_sample_still_counts_and_a_lost_one_is_dropped() -> None:
    state = calibration.issue(calibration.blank(["a"], LAYOUT), normal_forecast(0, 1, 1.0), ORIGIN)
    times = ORIGIN + 60 * np.arange(1, 3)
    waiting = calibration.observe(state, LAYOUT, times, np.array([[np.nan, 100.0]]))
    assert np.asarray(waiting.arrays["due"])[0, 0].any()
    came = calibration.observe(waiting, LAYOUT, times, np.array([[100.0, 100.0]]))
    assert np.asarray(came.arrays["count"])[0, 0] == 1
    lost = calibration.observe(waiting, LAYOUT, times + 600, np.full((1, 2), 100.0))
    assert not np.asarray(lost.arrays["due"]).any()
    assert not np.asarray(lost.arrays["count"]).any()


def test_a_peak_with_a_missing_sample_can_only_be_seen_to_be_exceeded() -> None:
    state = calibration.issue(calibration.blank(["a"], LAYOUT), normal_forecast(0, 1, 1.0), ORIGIN)
    times = ORIGIN + 60 * np.arange(0, 6)
    row = np.array([[100.0, 90.0, np.nan, 90.0, 90.0, 90.0]])
    quiet = calibration.observe(state, LAYOUT, times, row)
    assert not np.asarray(quiet.arrays["peak_offset"]).any()
    row[0, 4] = 150.0
    loud = calibration.observe(state, LAYOUT, times, row)
    assert (np.asarray(loud.arrays["peak_offset"]) > 0).all()


def test_another_forecaster_starts_with_its_own_residuals() -> None:
    state, _, _ = run(noise(300), 0.3)
    other = normal_forecast(300, 3, 1.0, model="other/1")
    np.testing.assert_array_equal(calibration.apply(state, other).values, other.values)
    state = calibration.issue(state, other, ORIGIN + 60 * 300)
    assert not np.asarray(state.arrays["offset"]).any()
    windows = np.asarray(state.arrays["windows"]).copy()
    state = calibration.observe(state, LAYOUT, ORIGIN + 60 * np.arange(290, 310), np.full((3, 20), 100.0))
    assert (np.asarray(state.arrays["windows"]) >= windows).all()  # coverage goes on counting
    assert np.asarray(state.arrays["count"]).max() == 1  # only its own forecasts teach it


def test_the_waiting_forecasts_are_thinned_and_bounded() -> None:
    layout = Layout(60, (1, 1440), LEVELS)
    state = calibration.blank(["a"], layout)
    for step in range(200):
        forecast = forecast_of(np.zeros((1, 2, 7)) + NORMAL, horizons=(1, 1440), origin=NOW + timedelta(minutes=step))
        state = calibration.issue(state, forecast, ORIGIN + 60 * step)
    assert (np.asarray(state.arrays["due"])[0, 1] > 0).sum() == 2  # every second hour
    size = sum(
        array.nbytes for array in calibration.blank(["a"], Layout(60, tuple(range(1, 13)), LEVELS)).arrays.values()
    )
    assert size * 10_000 < 100e6


def test_restored_state_goes_on_as_if_nothing_had_happened() -> None:
    samples = noise(300, rows=2)
    half, _, _ = run(samples[:, :150], 0.5)
    restored = Rows(half.keys, {name: array.copy() for name, array in half.arrays.items()})
    blank = calibration.blank(("",), LAYOUT).arrays
    swapped = restored.aligned(("w1", "new", "w0"), blank)
    np.testing.assert_array_equal(swapped.arrays["offset"][[2, 0]], half.arrays["offset"])
    assert not np.asarray(swapped.arrays["offset"])[1].any()


def test_reasons_say_calibrating_then_nothing_then_lost() -> None:
    state = calibration.blank(["a"], LAYOUT)
    assert calibration.reasons(state, LAYOUT)[0][0].code == ReasonCode.CALIBRATING
    assert np.isnan(calibration.coverage(state, LAYOUT)).all()
    state, _, _ = run(noise(1500, rows=1), 1.0)
    assert calibration.reasons(state, LAYOUT) == ((),)
    assert calibration.coverage(state, LAYOUT)[0, 0] == pytest.approx(0.8, abs=0.08)
    hits = np.asarray(state.arrays["hits"]) * 0.5
    lost = calibration.reasons(Rows(state.keys, {**state.arrays, "hits": hits}), LAYOUT)
    assert lost[0][0].code == ReasonCode.CALIBRATION_LOST


def test_functions_leave_the_state_they_were_given_alone() -> None:
    state, _, _ = run(noise(50), 0.5)
    before = {name: array.copy() for name, array in state.arrays.items()}
    forecast = calibration.apply(state, normal_forecast(50, 3, 0.5))
    after = calibration.issue(state, forecast, ORIGIN + 60 * 50)
    calibration.observe(after, LAYOUT, ORIGIN + 60 * np.arange(40, 60), np.full((3, 20), 130.0))
    for name, array in before.items():
        np.testing.assert_array_equal(state.arrays[name], array)


def test_another_layout_is_another_version() -> None:
    versions = {layout.version for layout in (LAYOUT, Layout(60, (1, 6), LEVELS), Layout(30, (1, 5), LEVELS))}
    assert len(versions) == 3


@given(st.sets(st.integers(1, 1_440), min_size=1, max_size=12), st.sets(st.integers(1, 2_000), min_size=1, max_size=30))
def test_weights_between_horizons_interpolate(known: set[int], wanted: set[int]) -> None:
    at, to = sorted(known), np.array(sorted(wanted), dtype=np.int64)
    weights = calibration.between(at, to)
    assert weights.shape == (len(to), len(at)) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    inside = (to >= at[0]) & (to <= at[-1])  # linear in the logarithm; beyond, the end counts
    np.testing.assert_allclose((weights @ np.log(at))[inside], np.log(to[inside]), atol=1e-9)
    np.testing.assert_allclose((weights @ np.array(at))[to < at[0]], at[0])
    np.testing.assert_allclose((weights @ np.array(at))[to > at[-1]], at[-1])


def test_a_known_horizon_takes_its_own_weight_and_one_halfway_half_of_both() -> None:
    weights = calibration.between((1, 4, 64), np.array([1, 2, 4, 16, 64, 100]))
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_offsets_reach_the_horizons_that_are_not_followed() -> None:
    """With the layout of the state, other horizons are moved by what was learned beside them."""
    state, _, _ = run(noise(300) + 10, 1.0)
    narrow = normal_forecast(300, 3, 1.0)
    shown = dataclasses.replace(narrow, horizons=np.array([1, 3, 5]), values=np.repeat(narrow.values[:, :1], 3, axis=1))
    moved = calibration.apply(state, shown, LAYOUT).values - shown.values
    own = calibration.apply(state, narrow).values - narrow.values
    np.testing.assert_allclose(moved[:, [0, 2]], own)
    share = np.log(3) / np.log(5)
    np.testing.assert_allclose(moved[:, 1], (1 - share) * own[:, 0] + share * own[:, 1])
    assert (own > 0).any()
