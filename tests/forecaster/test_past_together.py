"""Several moments of one series side by side are what each of them is alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.domain import SeriesBatch, SeriesKey
from forecaster.past import Past


@pytest.mark.parametrize(("step", "shift", "samples"), [(60, 0, 9000), (60, 17, 400), (300, 0, 3000), (450, 7, 900)])
def test_columns_together_are_the_columns_alone(step: int, shift: int, samples: int) -> None:
    values = np.random.default_rng(1).normal(100, 9, (1, samples)).astype(np.float32)
    end = datetime(2026, 3, 9, 1, 0, tzinfo=UTC) + timedelta(seconds=shift)
    past = Past(SeriesBatch((SeriesKey("a"),), end, timedelta(seconds=step), values), timedelta(days=3))
    for columns in ([-1], [0, 3], [-1, 5, samples // 2, samples - 1]):
        for at, whole in enumerate(past.together(np.array(columns))):
            alone = [past.at(column) for column in columns if column >= 0]
            rows = [one.coarse.values[0] if at else one.fine.values[0] for one in alone]
            assert whole.shape[1] == max([1, *map(len, rows)])
            there = whole[[column >= 0 for column in columns]]
            assert np.isnan(whole[[column < 0 for column in columns]]).all()
            for row, expected in zip(there, rows, strict=True):
                assert np.array_equal(row[len(row) - len(expected) :], expected, equal_nan=True)
                assert np.isnan(row[: len(row) - len(expected)]).all()
