"""Thresholds without labels, and the points at which detectors are compared."""

from __future__ import annotations

import numpy as np
import pytest

from training.anomalies.events import Labelled
from training.anomalies.points import at, at_equal_false_alarms, over_threshold
from training.anomalies.thresholds import learned

STEP = 600
DAY = 144


def times(days: int) -> np.ndarray:
    return STEP * np.arange(1, days * DAY + 1)


def exponential(days: int, seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).exponential(size=days * DAY))


def test_the_first_day_has_none_and_no_day_knows_a_later_one() -> None:
    score = exponential(20, 1)
    score[:30] = np.nan
    whole = learned([score], [times(20)], 1.0)[0]
    assert np.isnan(whole[: 30 + DAY]).all()
    assert not np.isnan(whole[30 + DAY + 1 :]).any()
    changed = score.copy()
    changed[15 * DAY :] *= 100
    cut = 15 * DAY + 31  # a day runs from the first score on: this is the end of one
    np.testing.assert_array_equal(learned([changed], [times(20)], 1.0)[0][: 15 * DAY], whole[: 15 * DAY])
    assert learned([changed], [times(20)], 1.0)[0][cut + DAY] > whole[cut + DAY]


def test_a_young_series_takes_the_days_of_its_set() -> None:
    loud, calm = 10 * exponential(30, 1), exponential(30, 2)
    alone = learned([calm], [times(30)], 1.0)[0]
    together = learned([calm, loud], [times(30)] * 2, 1.0)[0]
    assert together[5 * DAY] > 2 * alone[5 * DAY]


def test_the_budget_is_spent_where_days_are_alike() -> None:
    scores = [exponential(140, seed) for seed in range(12)]
    for budget in (0.1, 1.0):
        limits = learned(scores, [times(140)] * 12, budget)
        spans = [Labelled(times(140), STEP, np.ones(140 * DAY, bool), np.zeros((0, 2), int), 20 * DAY)] * 12
        ratios = [over_threshold(score, limit) for score, limit in zip(scores, limits, strict=True)]
        point = at(ratios, spans, 1.0)
        assert 0.5 * budget < point.outcome.false_alarms_per_week < 1.5 * budget  # 206 series-weeks


def test_no_score_and_no_threshold_is_no_alarm() -> None:
    ratio = over_threshold(np.array([np.nan, 5.0, 5.0, 0.0]), np.array([1.0, np.nan, 0.0, 0.0]))
    assert np.isnan(ratio[:2]).all()
    assert ratio[2] > 1
    assert ratio[3] == 0


def spans_and_ratios(seed: int) -> tuple[list[Labelled], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    days, spans, ratios = 70, [], []
    for _ in range(4):
        ratio = random.exponential(size=days * DAY) / 8
        windows = np.array([[2_000, 2_010], [5_000, 5_003]])
        ratio[2_004] += 0.9
        ratio[5_003] += 0.3
        spans.append(Labelled(times(days), STEP, np.ones(days * DAY, bool), windows, 0))
        ratios.append(ratio)
    return spans, ratios


@pytest.mark.parametrize("seed", range(3))
def test_equal_false_alarms_are_those_asked_for(seed: int) -> None:
    spans, ratios = spans_and_ratios(seed)
    few, many = (at_equal_false_alarms(ratios, spans, rate) for rate in (0.1, 1.0))
    assert few.outcome.false_alarms == 4  # 40 series-weeks
    assert many.outcome.false_alarms == 40
    assert few.factor > many.factor
    assert few.outcome.recall <= many.outcome.recall
    assert at(ratios, spans, few.factor * 0.99).outcome.false_alarms >= few.outcome.false_alarms


def test_alarms_that_run_together_are_no_way_to_few_of_them() -> None:
    spans, ratios = spans_and_ratios(0)
    assert at(ratios, spans, 1e-6).outcome.false_alarms <= 4  # always on: it would find all events
    few = at_equal_false_alarms(ratios, spans, 0.1)
    assert few.outcome.alarmed < 0.01 * few.outcome.weeks


def test_a_detector_that_says_nothing_has_no_alarm_at_any_factor() -> None:
    spans, ratios = spans_and_ratios(0)
    silent = [np.full(len(one), np.nan) for one in ratios]
    few, many = (at_equal_false_alarms(silent, spans, rate) for rate in (0.1, 1.0))
    assert (few.outcome.recall, many.outcome.recall, many.outcome.false_alarms) == (0, 0, 0)
