"""The bands come back after the load has doubled, on the replayed chain.

It runs every half hour here, so that it learns from a sixth of what the service does; at the service's pace
tests/forecaster/test_calibration.py holds the calibration to 77-83 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.ports import Forecaster
from models.persistence import Persistence
from models.seasonal_naive import SeasonalNaive
from training.benchmark.recovery import COLUMNS, Plan, measured, shifted

PLAN = Plan(rows=24, past_days=5, warm_days=2, stride=6, window_hours=24)


def statistics() -> Sequence[Forecaster]:
    return SeasonalNaive("day"), Persistence()


def test_the_band_of_80_percent_comes_back_in_the_day_after_the_load_has_doubled() -> None:
    found = measured(statistics, PLAN)
    assert found.hours == (0, 24, 48)
    for horizon in ("5m", "15m", "1h"):
        before, first_day, second_day = found.coverage[horizon]
        assert first_day < before - 0.05  # there was something to recover from
        assert 0.5 * (before - first_day) < second_day - first_day and second_day <= 0.87


def test_the_load_doubles_and_nothing_before_tells() -> None:
    series, shift = shifted(PLAN)
    plain, _ = shifted(Plan(rows=24, past_days=5, warm_days=2, factor=1.0))
    ratio = series.values / plain.values
    np.testing.assert_allclose(ratio[:, : shift + 1], 1.0)
    np.testing.assert_allclose(ratio[:, shift + 1 :], 2.0)
    assert shift == 5 * COLUMNS - 1
