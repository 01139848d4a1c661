"""The comparison of predicted saturation: what it simulates and counts, and predict_linear itself."""

from __future__ import annotations

import numpy as np
import pytest

from training.anomalies import saturating
from training.anomalies.saturating import HIGHEST_CALM, predict_linear, simulated


def test_predict_linear_is_a_least_squares_line_over_the_window() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 200).cumsum()
    values[rng.random(200) < 0.2] = np.nan
    found = predict_linear(values, 30, 12)
    for row in (40, 100, 199):
        at = np.arange(row - 29, row + 1)
        known = ~np.isnan(values[at])
        line = np.polyfit(at[known], values[at][known], 1)
        assert found[row] == pytest.approx(np.polyval(line, row + 12))
    assert np.isnan(predict_linear(np.array([np.nan, 1.0, 2.0]), 3, 1)[:2]).all()


def test_the_calm_half_never_comes_near_and_the_leaking_half_does() -> None:
    them = simulated(8, 3)
    for i, one in enumerate(them):
        if i % 2:
            assert one.onset < one.full
        else:
            assert one.usage.max() <= HIGHEST_CALM + 1e-9
            assert one.full == one.onset == len(one.usage)
    np.testing.assert_array_equal(simulated(2, 3)[1].usage, them[1].usage)


def test_thresholds_cost_no_more_than_asked_and_leads_are_counted() -> None:
    them = simulated(6, 4)
    knowing = [np.where(np.arange(len(one.usage)) >= one.onset + 60, 5.0, 0.0) for one in them]
    told = saturating.compared(
        them, 0.0, {"knowing": lambda _them: knowing, "blind": lambda _them: [k * 0 for k in knowing]}
    )
    assert told[0].found == told[0].in_time == 1.0
    assert told[0].false_alarms_per_week == 0.0
    leads = [min((one.full - one.onset - 60) / 60, 24) for one in them if one.full < len(one.usage)]
    assert told[0].lead_hours == pytest.approx(np.mean(leads))
    assert told[1].found == 0.0
