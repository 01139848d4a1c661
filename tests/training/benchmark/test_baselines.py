"""Baselines that forecast one series at a time."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.domain import FloatArray
from tests.training.benchmark.files import seasonal, sparse, walk
from training.backtest import LEVELS
from training.benchmark.baselines import means_of, nothing, ridge

MIDDLE = LEVELS.index(0.5)


def sound(values: FloatArray, upper: FloatArray) -> bool:
    known = ~np.isnan(values[0])
    return bool((np.diff(values[:, known], axis=1) >= 0).all() and (np.diff(upper) >= 0).all())


def test_ridge_knows_a_day_that_comes_again() -> None:
    whole = seasonal(8)
    values, upper = ridge(whole[:-300], [1, 12, 288], 300)
    np.testing.assert_allclose(values[:, MIDDLE], whole[[-300, -289, -13]], atol=0.5)
    assert sound(values, upper)


def test_ridge_of_a_random_walk_stays_near_the_last_value() -> None:
    past = walk(8)
    values, _ = ridge(past, [1], 300)
    assert abs(values[0, MIDDLE] - past[-1]) < 1
    assert 1.5 < values[0, LEVELS.index(0.9)] - values[0, LEVELS.index(0.1)] < 3.5  # 2.56 of a normal


def test_ridge_sees_only_what_it_is_given_and_bridges_gaps() -> None:
    past = seasonal(8)
    past[-20:] = np.nan
    values, _ = ridge(past, [1, 12], 300)
    assert np.isfinite(values).all()


def test_ridge_of_nonnegative_loads_is_nonnegative() -> None:
    assert (ridge(sparse(8), [1, 12, 288], 300)[0] >= 0).all()


@pytest.mark.parametrize("past", [np.full(50, np.nan), np.arange(20.0)], ids=["no sample", "too short"])
def test_ridge_has_no_answer_without_a_past(past: FloatArray) -> None:
    np.testing.assert_array_equal(ridge(past, [1], 300)[0], nothing([1])[0])


def test_ridge_at_a_step_of_an_hour() -> None:
    whole = seasonal(40, 60)
    values, _ = ridge(whole[:-24], [1, 24], 3600)
    np.testing.assert_allclose(values[:, MIDDLE], whole[[-24, -1]], atol=0.5)


def test_means_end_at_the_origin() -> None:
    past = np.array([9.0, 1.0, 3.0, np.nan, 5.0])
    np.testing.assert_array_equal(means_of(past, 2, 10), [2.0, 5.0])
    np.testing.assert_array_equal(means_of(past, 2, 1), [5.0])
    np.testing.assert_array_equal(means_of(past, 1, 3), [3.0, np.nan, 5.0])


@pytest.mark.parametrize("name", ["auto_ets", "mstl"])
def test_models_of_statsforecast_answer_with_ordered_quantiles(name: str) -> None:
    pytest.importorskip("statsforecast", reason="statsforecast is not installed: no AutoETS, no MSTL")
    from training.benchmark import baselines

    past = seasonal(8, 60) + np.random.default_rng(0).normal(0, 2, 192)
    values, upper = getattr(baselines, name)(past, [1, 24], 3600)
    assert np.isfinite(values).all()
    assert sound(values, upper)
    flat, _ = getattr(baselines, name)(np.full(192, 7.0), [1], 3600)
    assert np.isnan(flat).all()


def test_fracast_answers_with_deciles_of_what_lies_beyond_its_steps_too() -> None:
    pytest.importorskip("fracast", reason="fracast is not installed")
    from training.benchmark.baselines import fracast

    whole = seasonal(8)
    values, upper = fracast(whole[:-300], [1, 12, 288], 300)
    assert np.isnan(values[:, [0, -1]]).all()
    np.testing.assert_allclose(values[:, MIDDLE], whole[[-300, -289, -13]], rtol=0.1)
    assert sound(values, upper)
    assert np.isnan(fracast(np.full(50, np.nan), [1], 300)[0]).all()
