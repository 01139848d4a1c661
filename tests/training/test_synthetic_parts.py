"""The blocks of the synthetic workloads: filters against loops, pulses by area, seasons on the wall clock."""

from __future__ import annotations

import numpy as np
import pytest

from models.wall_clock import DAY
from training import synthetic_events as events
from training import synthetic_random as chaos
from training import synthetic_seasons as seasons
from training.synthetic_artefacts import measured, missing
from training.synthetic_clock import HOUR, Clock

MONDAY = 1_709_510_400  # 2024-03-04 00:00 UTC
WEEKS = Clock(300, MONDAY + 300, 28 * 288)
# Berlin's clock goes forward on 2024-03-31 at 01:00 UTC
SPRING = Clock(300, MONDAY + 24 * DAY + 300, 6 * 288, "Europe/Berlin")


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.999, -0.8, 0.99 * np.exp(0.3j)])
def test_autoregression_by_doubling_is_the_recursion(phi: complex) -> None:
    noise = np.random.default_rng(0).standard_normal(700)
    expected = np.zeros(700, dtype=complex)
    for t in range(700):
        expected[t] = noise[t] + (phi * expected[t - 1] if t else 0)
    np.testing.assert_allclose(chaos.autoregression(noise, phi), expected, atol=1e-4)


def test_an_ornstein_uhlenbeck_process_has_unit_variance_and_its_memory() -> None:
    values = chaos.ornstein_uhlenbeck(np.random.default_rng(1), 400_000, 50.0)
    assert values.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(values[:-50], values[50:])[0, 1] == pytest.approx(np.exp(-1), abs=0.05)


def test_long_memory_decays_with_its_exponent() -> None:
    rng = np.random.default_rng(2)
    near = [np.corrcoef(v[:-20], v[20:])[0, 1] for e in (0.0, 0.8, 1.8) for v in [chaos.long_memory(rng, 8_000, e)]]
    assert near[0] < 0.1 < near[1] < near[2]


def test_pulses_keep_their_area_even_when_shorter_than_a_step() -> None:
    starts = MONDAY + np.array([10.0, 3_000.0, 3_100.0])
    values = chaos.pulses(WEEKS, starts, np.array([20.0, 900.0, 100.0]), np.array([1.0, 2.0, 5.0]))
    assert values[0] == pytest.approx(20 / 300)
    assert values.sum() * 300 == pytest.approx(20 + 1_800 + 500)
    assert values[10] == pytest.approx((300 * 2 + 100 * 5) / 300)  # 3,000 to 3,300 s


def test_regimes_are_shares_and_take_both_states() -> None:
    for seed in range(20):
        values = chaos.regimes(np.random.default_rng(seed), WEEKS, 300.0, 4 * HOUR)
        assert values.min() >= -1e-9
        assert values.max() <= 1 + 1e-9
        assert 0 < values.mean() < 1


@pytest.mark.parametrize("name", seasons.DAY_SHAPES)
def test_day_shapes_span_0_to_1(name: str) -> None:
    for seed in range(5):
        table = seasons.day_shape(np.random.default_rng(seed), name)
        assert table.shape == (seasons.BINS,)
        assert table.min() == 0
        assert table.max() == pytest.approx(1)


def test_an_unknown_day_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="no day shape 'square'"):
        seasons.day_shape(np.random.default_rng(0), "square")


def test_the_clock_reads_days_and_weekdays_of_the_middle_of_each_interval() -> None:
    assert WEEKS.weekday[0] == 0
    assert WEEKS.day_fraction[0] == pytest.approx(150 / DAY)
    assert WEEKS.day[-1] == 27
    assert WEEKS.days == 28


def test_the_season_moves_by_an_hour_with_the_wall_clock() -> None:
    table = np.zeros(seasons.BINS)
    table[9 * 60 : 10 * 60] = 1  # nine to ten on the wall
    busy = seasons.look_up(SPRING, table) > 0.5
    hours = (SPRING.edges[:-1][busy] % DAY) // HOUR
    before = SPRING.edges[:-1][busy] < 1_711_846_800  # 2024-03-31 01:00 UTC
    assert set(hours[before]) == {8}
    assert set(hours[~before]) == {7}


def test_daily_jobs_keep_their_time_on_the_wall() -> None:
    starts = SPRING.moments(np.arange(SPRING.days), np.full(SPRING.days, 9.0 * HOUR))
    assert set((starts % DAY) // HOUR) == {7, 8}
    assert (np.diff(starts) == DAY).sum() == SPRING.days - 2


def test_week_factors_apply_to_the_days_they_name() -> None:
    factors = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1])
    values = seasons.by_weekday(np.random.default_rng(0), WEEKS, factors)
    noon = (WEEKS.day_fraction > 0.4) & (WEEKS.day_fraction < 0.8)
    assert values[noon & (WEEKS.weekday == 6)].max() == pytest.approx(0.1)
    assert values[noon & (WEEKS.weekday < 5)].min() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(8))
def test_a_season_has_mean_1_and_is_positive(seed: int) -> None:
    values = seasons.load_season(np.random.default_rng(seed), WEEKS)
    assert values.mean() == pytest.approx(1)
    assert values.min() >= 0


@pytest.mark.parametrize("seed", range(8))
def test_jobs_on_working_days_leave_the_weekend_alone(seed: int) -> None:
    values = events.jobs(np.random.default_rng(seed), WEEKS, "weekdays")
    saturday = (WEEKS.weekday == 5) & (WEEKS.day_fraction > 0.5)  # a job of Friday night may reach into the morning
    sunday = WEEKS.weekday == 6
    assert values.max() > 0
    assert values[sunday].max() == pytest.approx(0, abs=1e-9)
    assert values[saturday].max() == pytest.approx(0, abs=1e-9)


def test_self_exciting_events_cluster() -> None:
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(10):
        counts = np.bincount(
            ((events.hawkes_times(rng, WEEKS, 300.0) - WEEKS.edges[0]) // DAY).astype(int).clip(0, 27), minlength=28
        )
        ratios.append(counts[:27].var() / counts[:27].mean())
    assert np.mean(ratios) > 1.5  # Poisson: 1


def test_only_rounding_touches_bounded_values() -> None:
    values = 1 + np.random.default_rng(0).random(WEEKS.size)
    bounded = values > 1.9
    for seed in range(30):
        after = measured(np.random.default_rng(seed), WEEKS, values, bounded)
        assert np.abs(after - values).max() <= 1.5 * np.abs(values - np.median(values)).mean() + 1e-9


def test_most_series_miss_little_and_some_miss_much() -> None:
    shares = np.array([missing(np.random.default_rng(seed), WEEKS).mean() for seed in range(300)])
    assert (shares == 0).mean() > 0.4
    assert (shares > 0.1).mean() > 0.05
    assert shares.max() <= 0.7
