"""What is known counts; a row without gaps takes a shorter way to the same numbers."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from forecaster.domain import FloatArray
from models import gaps
from models.empirical import sample_quantiles
from models.past import HOUR, Past
from tests.models.contexts import posted
from tests.models.test_inputs import odd_rows


@pytest.mark.parametrize("count", [1, 2, 7, 128])
def test_quantiles_of_a_whole_row_are_those_beside_a_row_with_gaps(count: int) -> None:
    rows = np.random.default_rng(count).normal(size=(6, count)).astype(np.float32)
    beside = np.concatenate((rows, np.full((1, count), np.nan, dtype=np.float32)))
    np.testing.assert_array_equal(sample_quantiles(rows), sample_quantiles(beside)[:6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_of_a_whole_row_is_that_beside_a_row_with_gaps(dtype: type) -> None:
    rows: FloatArray = np.random.default_rng(0).normal(1e6, 1, size=(5, 1_000)).astype(dtype)
    beside = np.concatenate((rows, np.full((1, 1_000), np.nan, dtype=dtype)))
    np.testing.assert_array_equal(gaps.mean(rows), gaps.mean(beside)[:5])
    assert np.isnan(gaps.mean(beside)[5]) and np.isnan(gaps.mean(np.zeros((1, 0)))).all()


@pytest.mark.parametrize("step", [15, 60, 300, 3_600])
@pytest.mark.parametrize("seconds", [60, 6 * HOUR])
def test_the_levels_of_now_are_those_that_a_regression_is_fitted_on(step: int, seconds: int) -> None:
    past = Past(posted(odd_rows(), timedelta(seconds=step)), np.arange(10), "UTC")
    fine = past.on_fine(seconds)
    width = (past.fine if fine else past.coarse).shape[1]
    fitted = np.nan_to_num(np.concatenate(past.levels(fine, np.array([width - 1])), axis=1))
    np.testing.assert_allclose(
        past.now_levels(seconds)[:, :4] / past.scale[:, None], fitted / past.scale[:, None], atol=1e-6
    )
