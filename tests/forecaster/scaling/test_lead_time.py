"""The lead time's quantile with pods that never became Ready."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.scaling.lead_time import lead_time_quantile

DURATIONS = st.lists(st.integers(0, 900).map(float), min_size=1, max_size=60)


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.99]))
def test_without_censored_pods_it_is_the_empirical_quantile(durations: list[float], level: float) -> None:
    expected = sorted(durations)[math.ceil(level * len(durations) - 1e-9) - 1]
    assert lead_time_quantile(durations, [True] * len(durations), level) == expected


@given(DURATIONS, st.floats(0, 2000))
def test_a_pod_that_never_was_ready_makes_it_no_shorter(durations: list[float], watched: float) -> None:
    observed = [True] * len(durations)
    before = lead_time_quantile(durations, observed, 0.9)
    assert lead_time_quantile([*durations, watched], [*observed, False], 0.9) >= before


def test_the_textbook_example() -> None:
    """Six weeks of remission, 6-MP arm (Freireich 1963): the median is 23."""
    times = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    seen = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert lead_time_quantile(np.array(times, dtype=float), np.array(seen, dtype=bool), 0.5) == 23


def test_it_is_infinite_where_too_many_never_were_ready_and_nan_without_pods() -> None:
    assert lead_time_quantile([10.0, 900.0], [True, False], 0.9) == math.inf
    assert math.isnan(lead_time_quantile([], [], 0.9))
    assert math.isnan(lead_time_quantile([math.nan, -1.0], [True, True], 0.9))


def test_bad_arguments_are_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="between"):
        lead_time_quantile([1.0], [True], 1.0)
    with pytest.raises(ValueError, match="marks"):
        lead_time_quantile([1.0], [], 0.5)
