"""The lead time's quantile with pods that never became Ready."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import HpaFacts, ScaleSpec
from forecaster.scaling.lead_time import lead_time_of, lead_time_quantile

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


def facts(seconds: float | None, pods: int) -> HpaFacts:
    return HpaFacts(lead_time=None if seconds is None else timedelta(seconds=seconds), lead_time_pods=pods)


@pytest.mark.parametrize(
    ("configured", "known", "expected", "assumed"),
    [
        (60, facts(200, 50), 60 + 30, False),
        (None, facts(200, 5), 200 + 30, False),
        (None, facts(200, 4), 180 + 30, True),
        (None, facts(None, 50), 180 + 30, True),
        (None, None, 180 + 30, True),
        (0, None, 30, False),
        (3_600, None, 900, False),
        (None, facts(2_000, 50), 900, False),
    ],
    ids=[
        "configured comes first",
        "measured",
        "too few pods",
        "most never became Ready",
        "nothing known",
        "the shortest",
        "the longest",
        "the longest, measured",
    ],
)
def test_lead_time_of(configured: float | None, known: HpaFacts | None, expected: float, assumed: bool) -> None:
    spec = ScaleSpec("n", "h", lead_time=None if configured is None else timedelta(seconds=configured))
    assert lead_time_of(spec, known, timedelta(seconds=15)) == (timedelta(seconds=expected), assumed)


def test_a_longer_interval_is_part_of_the_lead_time() -> None:
    spec = ScaleSpec("n", "h", lead_time=timedelta(seconds=60))
    assert lead_time_of(spec, None, timedelta(seconds=60)) == (timedelta(seconds=135), False)
