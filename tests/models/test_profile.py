"""The statistical default: what it learns, bridges and refuses to learn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.accuracy import coverage
from forecaster.domain import FloatArray, IntArray
from models.persistence import Persistence
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive
from tests.models.contexts import LIVE_HORIZONS, NOW, daily, live, noise_at, posted, request

MEDIAN = 3


def truth(ahead: int, base: float = 100.0) -> float:
    return float(daily(base, noise=0.0)(np.array([int(NOW.timestamp()) + 60 * ahead]))[0])


def test_the_median_follows_the_day() -> None:
    forecast = Profile().forecast(live([daily()]), request(1))
    for i, ahead in enumerate(LIVE_HORIZONS):
        assert forecast.values[0, i, MEDIAN] == pytest.approx(truth(ahead), rel=0.08)


def test_an_hour_without_samples_is_bridged_by_the_profile() -> None:
    context = live([daily()])
    fine, coarse = np.array(context.fine.values), np.array(context.coarse.values)
    fine[:, -60:], coarse[:, -12:] = np.nan, np.nan
    gap = live([daily()])
    object.__setattr__(gap.fine, "values", fine)
    object.__setattr__(gap.coarse, "values", coarse)
    forecast = Profile().forecast(gap, request(1))
    for i, ahead in enumerate(LIVE_HORIZONS):
        assert forecast.values[0, i, MEDIAN] == pytest.approx(truth(ahead), rel=0.1)


@pytest.mark.parametrize("days", [1, 7])
def test_a_long_gap_still_gives_a_forecast(days: int) -> None:
    steps = 28 * 288
    times = int(NOW.timestamp()) - 300 * np.arange(steps - 1, -1, -1)
    values = daily()(times)[None, :]
    values[:, -days * 288 :] = np.nan
    forecast = Profile().forecast(posted(values, timedelta(minutes=5)), request(1, (1, 12, 72)))
    for i, ahead in enumerate((5, 60, 360)):
        assert forecast.values[0, i, MEDIAN] == pytest.approx(truth(ahead), rel=0.25)


def test_the_future_changes_nothing() -> None:
    times = int(NOW.timestamp()) - 300 * np.arange(8000 - 1, -1, -1)
    values = daily()(times)[None, :]
    changed = values.copy()
    changed[:, -100:] *= 5
    origin = NOW - timedelta(minutes=5 * 100)
    one = Profile().forecast(posted(values[:, :-100], timedelta(minutes=5), origin), request(1))
    other = Profile().forecast(posted(changed[:, :-100], timedelta(minutes=5), origin), request(1))
    np.testing.assert_array_equal(one.values, other.values)


def test_a_used_instance_that_is_led_back_in_time_forgets_what_came_later() -> None:
    early = live([daily()], origin=NOW - timedelta(days=3))
    fresh = Profile().forecast(early, request(1))
    used = Profile()
    used.forecast(live([daily()]), request(1))
    np.testing.assert_array_equal(used.forecast(early, request(1)).values, fresh.values)


def test_daylight_saving_moves_the_profile_with_the_wall_clock() -> None:
    """Berlin's clocks went forward on 31 March 2024: the morning rise comes an hour earlier in UTC."""

    def office(times: IntArray) -> FloatArray:
        summer = times >= int(datetime(2024, 3, 31, 1, tzinfo=UTC).timestamp())
        hour = (times / 3600 + np.where(summer, 2, 1)) % 24
        return np.asarray(np.where((hour >= 8) & (hour < 18), 100.0, 10.0) * (1 + 0.02 * noise_at(times, 7)))

    origin = datetime(2024, 4, 1, 4, 30, tzinfo=UTC)  # 06:30 in Berlin; 08:30 is two hours ahead
    aware = Profile().forecast(live([office], origin=origin, timezone="Europe/Berlin"), request(1, (60, 120)))
    unaware = Profile().forecast(live([office], origin=origin), request(1, (60, 120)))
    assert aware.values[0, 1, MEDIAN] == pytest.approx(100, rel=0.15)
    assert aware.values[0, 0, MEDIAN] < 30
    assert unaware.values[0, 1, MEDIAN] < 60  # by UTC the office opens half an hour after that


def test_an_outlier_does_not_come_back_the_next_day() -> None:
    def spike(times: IntArray) -> FloatArray:
        day_before = int(NOW.timestamp()) - 86_400 + 3600
        return np.asarray(daily()(times) * np.where(np.abs(times - day_before) < 600, 20.0, 1.0))

    forecast = Profile().forecast(live([spike]), request(1, (60,)))
    assert forecast.values[0, 0, MEDIAN] == pytest.approx(truth(60), rel=0.5)


def test_the_week_is_used_only_when_it_was_seen_twice() -> None:
    def weekdays(times: IntArray) -> FloatArray:
        weekend = (times // 86_400 + 3) % 7 >= 5
        return np.asarray(daily()(times) * np.where(weekend, 0.3, 1.0))

    friday_evening = datetime(2024, 5, 17, 22, 0, tzinfo=UTC)
    noon = int(friday_evening.timestamp()) + 14 * 3600
    expected = float(weekdays(np.array([noon]))[0])
    knows = Profile().forecast(live([weekdays], origin=friday_evening), request(1, (14 * 60,)))
    does_not = Profile().forecast(live([weekdays], days=5, origin=friday_evening), request(1, (14 * 60,)))
    assert abs(knows.values[0, 0, MEDIAN] - expected) < 0.5 * abs(does_not.values[0, 0, MEDIAN] - expected)


def errors_and_bands(forecasters: list[Profile | SeasonalNaive | Persistence]) -> tuple[list[float], list[float]]:
    """Mean absolute error at an hour, and coverage of the 80 % band, over two days of origins on three series."""
    curves = [daily(seed=i, noise=0.1, phase=i) for i in range(3)]
    observed, medians, low, high = [], [], [], []
    for hours in range(-48, 0, 2):
        origin = NOW + timedelta(hours=hours)
        context = live(curves, origin=origin)
        answers = [forecaster.forecast(context, request(3, (60,))) for forecaster in forecasters]
        at = np.array([int(origin.timestamp()) + 3600])
        observed.append([float(curve(at)[0]) for curve in curves])
        medians.append([answer.values[:, 0, MEDIAN] for answer in answers])
        low.append([answer.values[:, 0, 1] for answer in answers])
        high.append([answer.values[:, 0, 5] for answer in answers])
    y = np.array(observed)
    errors = [float(np.abs(y - np.array(medians)[:, i]).mean()) for i in range(len(forecasters))]
    bands = [coverage(y, np.array(low)[:, i], np.array(high)[:, i]) for i in range(len(forecasters))]
    return errors, bands


def test_it_beats_the_naive_ones_on_seasonal_load_and_its_band_holds() -> None:
    errors, bands = errors_and_bands([Profile(), SeasonalNaive("day"), Persistence()])
    assert errors[0] < 0.85 * min(errors[1:])
    assert all(0.65 <= band <= 0.95 for band in bands)


def test_the_peak_is_above_the_values_and_grows_with_the_window() -> None:
    count = 5  # one series' median of a longer window can lie no higher than that of a shorter one, by the noise
    context = live([daily(noise=0.1, seed=seed) for seed in range(count)])
    peaks = [Profile().forecast(context, request(count, window=window)).peak for window in (1, 5, 15, 60)]
    medians = np.array(peaks)[:, :, MEDIAN]  # (window, series)
    assert (np.diff(medians, axis=0) >= 0).all()
    assert (np.diff(medians.mean(axis=1)) > 0).all()
    values = Profile().forecast(context, request(count, (1, 2, 3, 4, 5))).values
    assert (medians[1] > values[:, :, MEDIAN].max(axis=1)).all()
