"""Measures against hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster import accuracy

LEVELS = np.array([0.1, 0.5, 0.9])


def test_quantile_loss_charges_each_side_by_its_level() -> None:
    loss = accuracy.quantile_loss(np.array([10.0, np.nan]), np.full((2, 3), 8.0), LEVELS)
    np.testing.assert_allclose(loss[0], [0.2, 1.0, 1.8])
    assert np.isnan(loss[1]).all()
    np.testing.assert_allclose(
        accuracy.quantile_loss(np.array([8.0]), np.full((1, 3), 10.0), LEVELS)[0], [1.8, 1.0, 0.2]
    )


def test_quantile_loss_refuses_shapes_and_levels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="shape"):
        accuracy.quantile_loss(np.zeros(3), np.zeros((2, 3)), LEVELS)
    with pytest.raises(ValueError, match="between 0 and 1"):
        accuracy.quantile_loss(np.zeros(2), np.zeros((2, 2)), np.array([0.0, 0.5]))


@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
def test_the_true_quantile_has_the_least_mean_loss(seed: int, level: float) -> None:
    sample = np.random.default_rng(seed).standard_normal(400)
    at = np.array([level])
    best = float(np.quantile(sample, level, method="inverted_cdf"))
    losses = [
        float(accuracy.quantile_loss(sample, np.full((400, 1), q), at).mean()) for q in (best, best - 0.3, best + 0.3)
    ]
    assert losses[0] <= min(losses) + 1e-12


def test_wql_is_relative_to_what_was_observed() -> None:
    observed = np.array([10.0, 10.0, np.nan])
    assert accuracy.wql(observed, np.full((3, 3), 10.0), LEVELS) == 0
    assert accuracy.wql(observed, np.full((3, 3), 8.0), np.array([0.1, 0.5, 0.9])) == pytest.approx(0.2)
    assert math.isnan(accuracy.wql(np.array([np.nan]), np.zeros((1, 3)), LEVELS))
    assert accuracy.wql(np.zeros(2), np.ones((2, 3)), LEVELS) == math.inf
    assert accuracy.wql(np.zeros(2), np.zeros((2, 3)), LEVELS) == 0


def test_mase_is_one_for_an_error_as_large_as_a_season_ago() -> None:
    past = np.array([0.0, 10.0, 2.0, 12.0, 4.0, 14.0])
    assert accuracy.mase(np.array([5.0]), np.array([3.0]), past, season=2) == pytest.approx(1.0)
    assert math.isnan(accuracy.mase(np.array([5.0]), np.array([3.0]), np.ones(6), season=2))
    assert math.isnan(accuracy.mase(np.array([5.0]), np.array([3.0]), past, season=6))


def test_coverage_counts_only_what_was_observed() -> None:
    y = np.array([1.0, 2.0, 3.0, np.nan])
    assert accuracy.coverage(y, np.full(4, 1.0), np.full(4, 2.5)) == pytest.approx(2 / 3)
    assert math.isnan(accuracy.coverage(np.array([np.nan]), np.zeros(1), np.ones(1)))


@pytest.mark.parametrize("nominal", [0.8, 0.98])
def test_chance_leaves_the_binomial_band_about_once_in_a_thousand(nominal: float) -> None:
    low, high = accuracy.binomial_band(nominal, 400)
    shares = np.random.default_rng(0).binomial(400, nominal, 100_000) / 400
    assert ((shares < low) | (shares > high)).mean() < 0.004
    assert accuracy.binomial_band(nominal, 0) == (0.0, 1.0)
    assert accuracy.binomial_band(nominal, 4000)[0] > low
