"""Each measure against a value worked out by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.domain import FloatArray, SeriesBatch, SeriesKey
from training.backtest import LEVELS
from training.benchmark.answers import NAIVE, OURS, SINGLE, Answer
from training.benchmark.measures import Hours, SeriesRow, figures, floor_of, geometric, score
from training.benchmark.panels import Panel

HOUR_STEP = timedelta(hours=1)
COLUMNS = np.array([[100, 105, 110, 115]])
UNIFORM = np.array(LEVELS)  # quantiles of a uniform distribution between 0 and 1


def panel(values: FloatArray) -> Panel:
    return Panel(
        family="f",
        series=SeriesBatch((SeriesKey("s"),), datetime(2026, 3, 10, tzinfo=UTC), HOUR_STEP, values[None, :]),
        firsts=np.array([0]),
        starts=np.array([50]),
        columns=COLUMNS,
        stride=5,
        horizons={"1h": 1},
    )


def answer(model: str, quantiles: FloatArray, upper: FloatArray | float = 1.0, every: int = 1) -> Answer:
    """The same quantiles (level,) at each origin, or one row each (origin, level)."""
    values = np.broadcast_to(quantiles, (4, len(LEVELS)))[None, :, None, :].copy()
    asked = np.arange(4) % every == 0
    values[:, ~asked] = np.nan
    tops = np.broadcast_to(np.asarray(upper, dtype=np.float64), (4,))[None, :, None].copy()
    return Answer(model, values, tops, asked, 1.0)


def past(after: list[float]) -> FloatArray:
    """1, 3, 1, 3, … and then, one step after each origin, `after`."""
    values = np.where(np.arange(120) % 2 == 0, 1.0, 3.0)
    values[COLUMNS[0] + 1] = after
    return values


def rows(one: Panel, *answers: Answer) -> dict[str, SeriesRow]:
    return {row.model: row for row in score(one, {answer.model: answer for answer in answers}, Hours())}


def test_the_weighted_quantile_loss_is_that_of_the_deciles() -> None:
    found = rows(panel(past([0.5] * 4)), answer(NAIVE, 2 * UNIFORM), answer(OURS, UNIFORM))
    # Of a uniform distribution, at 0.5: level × (0.5 - level) below the middle, (1 - level) × (level - 0.5) above it.
    loss = 2 * (0.1 * 0.4 + 0.2 * 0.3 + 0.3 * 0.2 + 0.4 * 0.1) / 9
    assert found[OURS].wql == pytest.approx(2 * loss / 0.5)
    twice = (
        sum(a * (0.5 - 2 * a) for a in (0.1, 0.2)) + sum((1 - a) * (2 * a - 0.5) for a in np.arange(3, 10) / 10)
    ) / 9
    assert found[NAIVE].wql == pytest.approx(2 * twice / 0.5)
    assert found[OURS].loss == pytest.approx(loss / twice)
    assert found[NAIVE].loss == pytest.approx(1)


def test_the_scaled_error_is_beside_the_change_over_a_day() -> None:
    values = past([0.75] * 4)
    values[:100] = np.arange(100) / 48  # half of one more each day
    found = rows(panel(values), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM))
    before = np.abs(values[24:101] - values[:77]).mean()
    assert found[OURS].mase == pytest.approx(0.25 / before)


def test_coverage_counts_both_bands() -> None:
    found = rows(panel(past([0.05, 0.5, 0.95, 2.0])), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM))
    assert (found[OURS].inside80, found[OURS].inside98) == (1, 3)
    shown = figures([found[OURS]])
    assert (shown["coverage80"], shown["coverage98"]) == (0.25, 0.75)


def test_a_model_without_the_outer_band_has_no_coverage_of_it() -> None:
    deciles = UNIFORM.copy()
    deciles[[0, -1]] = np.nan
    found = rows(panel(past([0.5] * 4)), answer(NAIVE, UNIFORM), answer("fracast", deciles))
    assert found["fracast"].inside80 == 4
    assert math.isnan(figures([found["fracast"]])["coverage98"])


def test_a_sample_that_did_not_come_counts_for_nobody() -> None:
    found = rows(panel(past([0.5, math.nan, 0.5, 0.5])), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM))
    assert found[OURS].origins == found[NAIVE].origins == 3


def test_ours_is_measured_on_the_origins_of_a_model_that_sees_fewer() -> None:
    quantiles = np.stack([UNIFORM, 9 * UNIFORM, UNIFORM, 9 * UNIFORM])
    found = rows(
        panel(past([0.5] * 4)), answer(NAIVE, 2 * UNIFORM), answer(OURS, quantiles), answer("mstl", UNIFORM, every=2)
    )
    assert found["mstl"].origins == found["mstl"].asked == 2
    assert found["mstl"].ours == pytest.approx(found["mstl"].loss)
    assert found[OURS].loss > found["mstl"].ours


def test_an_origin_without_an_answer_is_counted() -> None:
    quantiles = np.broadcast_to(UNIFORM, (4, len(LEVELS))).copy()
    quantiles[1] = np.nan
    found = rows(panel(past([0.5] * 4)), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM), answer("ridge", quantiles))
    assert (found["ridge"].asked, found["ridge"].origins) == (4, 3)
    assert figures([found["ridge"]])["answered"] == 0.75


def test_a_loss_below_the_floor_counts_as_the_floor() -> None:
    exact, near = np.full(len(LEVELS), 3.0), 3 + 0.01 * (UNIFORM - 0.5)
    one = panel(past([3.0] * 4))
    found = rows(one, answer(NAIVE, exact), answer(OURS, near), answer("ridge", exact))
    floor = floor_of(np.asarray(one.series.values[0, :101]))
    assert floor == pytest.approx(1e-3, rel=0.02)  # the values are 1 and 3, the median 1 or 3: 1 away on average
    assert found[NAIVE].naive_is_perfect
    assert found[NAIVE].loss == found["ridge"].loss == 1
    assert found[OURS].loss == pytest.approx(max(0.01 * 0.2 / 9, floor) / floor)
    assert math.isfinite(figures(list(found.values()))["relativeWql"])


def test_the_floor_of_a_constant_past_is_one_of_its_size() -> None:
    assert floor_of(np.full(10, 50.0)) == pytest.approx(0.05)
    assert floor_of(np.zeros(10)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("upper", "seen", "called"),
    [(2.0, 0, 0), (2.9, 0, 1), (3.1, 1, 1), (9.0, 1, 1)],
    ids=["below", "not half of the rise", "half of the rise", "far above"],
)
def test_a_rise_is_seen_by_half_and_called_by_a_fifth(upper: float, seen: int, called: int) -> None:
    values = past([5.0, 1.1, 1.0, 0.0])  # one doubling and more, three that are no rise
    values[COLUMNS[0]] = 1.0
    found = rows(panel(values), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM, np.array([upper, 1.05, upper, 1.0])))
    assert (found[OURS].rises, found[OURS].seen) == (1, seen)
    # the level is the mean of the day, about 2: the rise to 1.1 is none, and a call lies 0.4 above the value
    assert (found[OURS].calm, found[OURS].called) == (3, called if upper > 2.4 else int(upper >= 1.4))


def test_nothing_is_a_rise_where_the_window_is_not_known() -> None:
    found = rows(panel(past([math.nan] * 3 + [5.0])), answer(NAIVE, UNIFORM), answer(OURS, UNIFORM))
    assert found[OURS].rises + found[OURS].calm == 1


def test_coverage_by_hour_is_by_the_hour_that_was_forecast() -> None:
    one, hours = panel(past([0.5, 0.5, 2.0, 0.5])), Hours()
    score(one, {NAIVE: answer(NAIVE, UNIFORM), OURS: answer(OURS, UNIFORM)}, hours)
    at = (one.series.times[COLUMNS[0] + 1] - 1) // 3600 % 24  # the interval ends at the stamp
    expected = np.zeros(24)
    expected[at] = [1, 1, 0, 1]
    np.testing.assert_array_equal(hours.inside["1h"], expected)
    assert hours.count["1h"].sum() == 4


def test_the_geometric_mean_leaves_out_what_is_not_known() -> None:
    assert geometric([2.0, 8.0, math.nan]) == pytest.approx(4)
    assert math.isnan(geometric([]))


def test_a_slow_baseline_is_asked_at_every_origin_of_a_small_panel() -> None:
    mstl = SINGLE["mstl"]
    assert [mstl.stride(rows, origins) for rows, origins in ((1, 84), (2, 56), (3, 28), (6, 28), (80, 28))] == [
        1,
        1,
        1,
        2,
        7,
    ]
