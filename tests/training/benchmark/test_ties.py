"""Samples that equal quantiles count in proportion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.backtest import LEVELS
from training.benchmark.ties import share_inside

BAND = (0.1, 0.9)


def one(sample: float, quantiles: list[float], levels: tuple[float, ...] = LEVELS) -> float:
    return float(share_inside(np.array([sample]), np.array([quantiles]), levels, BAND, 1e-9)[0])


@pytest.mark.parametrize(
    ("sample", "quantiles", "expected"),
    [
        (5.0, [0, 1, 2, 3, 4, 5.5, 6, 7, 8, 9, 10], 1.0),
        (0.5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.0),
        (11.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.0),
        (0.0, [0.0] * 11, 0.8),  # a constant: the band holds what its name says
        (0.0, [0.0] * 8 + [1, 2, 3], 0.65 / 0.75),  # 0 up to the level 0.7: the rank is anywhere below
        (7.0, [0, 1] + [7.0] * 9, 0.75 / 0.85),
        (1.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.05 / 0.095),  # on the bound alone
        (0.0, [0, 0, 0, 3, 4, 5, 6, 7, 8, 9, 10], 0.15 / 0.25),
    ],
    ids=["inside", "below", "above", "constant", "mostly 0", "top", "on the bound", "half"],
)
def test_a_tie_counts_in_proportion(sample: float, quantiles: list[float], expected: float) -> None:
    assert one(sample, quantiles) == pytest.approx(expected)


def test_levels_that_a_model_does_not_give_are_left_out() -> None:
    assert one(0.0, [np.nan, *[0.0] * 9, np.nan]) == pytest.approx(0.8)
    assert np.isnan(one(0.0, [0.0, np.nan, *[0.0] * 9]))  # without the bound itself there is no band


@pytest.mark.parametrize("mean", [0.05, 0.3, 1.0, 3.0, 10.0])
def test_right_quantiles_of_counts_are_covered_as_they_say(mean: float) -> None:
    """Plain coverage of a count by its own quantiles is too high; with ties shared out it is close to 80 %."""
    counts = np.sort(np.random.default_rng(7).poisson(mean, 20_000)).astype(np.float64)
    told = np.quantile(counts, LEVELS, method="inverted_cdf")
    shares = share_inside(counts, np.tile(told, (len(counts), 1)), LEVELS, BAND, 1e-9)
    plain = ((counts >= told[1]) & (counts <= told[-2])).mean()
    assert plain > 0.83
    assert abs(shares.mean() - 0.8) < 0.055  # half of the way between two deciles
    assert abs(shares.mean() - 0.8) < plain - 0.8


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_without_ties_it_is_plain_coverage(seed: int) -> None:
    random = np.random.default_rng(seed)
    samples, told = random.normal(size=50), np.sort(random.normal(size=(50, len(LEVELS))), axis=1)
    shares = share_inside(samples, told, LEVELS, BAND, 1e-12)
    np.testing.assert_array_equal(shares, (samples >= told[:, 1]) & (samples <= told[:, -2]))
