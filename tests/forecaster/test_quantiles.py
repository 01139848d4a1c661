"""Reading a quantile of any level off a few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.quantiles import at_level

LEVELS = (0.01, 0.1, 0.5, 0.9, 0.99)


def test_a_known_level_gives_the_known_quantile() -> None:
    quantiles = np.array([[1.0, 2.0, 3.0, 5.0, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    for index, level in enumerate(LEVELS):
        np.testing.assert_allclose(at_level(quantiles, LEVELS, level), quantiles[:, index])


def test_an_exponential_tail_is_continued_exactly() -> None:
    quantiles = -np.log(1 - np.array([LEVELS]))  # of the exponential distribution
    np.testing.assert_allclose(at_level(quantiles, LEVELS, 0.999), [-np.log(0.001)])


@given(st.floats(0.001, 0.998), st.floats(0.0, 1.0))
def test_a_higher_level_never_gives_a_lower_quantile(level: float, share: float) -> None:
    quantiles = np.array([[1.0, 1.0, 3.0, 5.0, 9.0]])
    higher = level + share * (0.999 - level)
    assert at_level(quantiles, LEVELS, higher)[0] >= at_level(quantiles, LEVELS, level)[0] - 1e-12


def test_each_row_may_ask_for_its_own_level() -> None:
    quantiles = np.array([[1.0, 2.0, 3.0, 5.0, 9.0]] * 2)
    np.testing.assert_allclose(at_level(quantiles, LEVELS, np.array([0.5, 0.99])), [3.0, 9.0])


def test_a_row_without_forecast_has_no_quantile() -> None:
    assert np.isnan(at_level(np.full((1, 5), np.nan), LEVELS, 0.9)).all()


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_a_level_outside_of_0_to_1_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="strictly between"):
        at_level(np.zeros((1, 5)), LEVELS, level)
