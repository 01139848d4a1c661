"""Where a series' own distributions agree, they stand; elsewhere the network does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.inputs import (
    CANDIDATES,
    CHANGE,
    DAY_AGO,
    DAY_LEVEL,
    DISTRIBUTIONS,
    LEVELS,
    POINTS,
    QUERY,
    SAME_HOUR,
    SERIES,
    WEEK_AGO,
    WEEK_LEVEL,
    Inputs,
)
from models.unanimous import with_agreed

COUNT = len(LEVELS)
NORMAL = np.linspace(-2, 2, COUNT, dtype=np.float32)[None, None]


def inputs(change: np.ndarray, day: np.ndarray, week: np.ndarray, center: float = 0.0, *, known: bool = True) -> Inputs:
    spreads = np.zeros((1, 1, DISTRIBUTIONS, COUNT), dtype=np.float32)
    spreads[..., CHANGE, :], spreads[..., DAY_LEVEL, :], spreads[..., WEEK_LEVEL, :] = change, day, week
    spreads[..., SAME_HOUR, :] = week
    points = np.full((1, 1, POINTS), week[0], dtype=np.float32)
    return Inputs(
        series=np.zeros((1, SERIES), dtype=np.float32),
        query=np.zeros((1, 1, QUERY), dtype=np.float32),
        points=points,
        spreads=spreads,
        available=np.full((1, 1, CANDIDATES), known),
        center=np.array([center]),
        unit=np.ones((1, 1)),
        nonnegative=np.array([True]),
        constant=np.array([False]),
        samples=np.array([1_000]),
    )


def with_point(given: Inputs, point: int, value: float) -> Inputs:
    points = given.points.copy()
    points[..., point] = value
    return replace(given, points=points)


def mostly_zero(highest: float) -> np.ndarray:
    """Quantiles of a series that is 0 but for its highest level."""
    return np.append(np.zeros(COUNT - 1), highest)


def test_a_series_that_is_nearly_always_zero_is_said_to_be_zero() -> None:
    out = with_agreed(NORMAL, inputs(mostly_zero(0.5), mostly_zero(3.0), mostly_zero(4.0)))
    assert (out[0, 0, :-1] == 0).all()
    assert out[0, 0, -1] == NORMAL[0, 0, -1]


def test_after_a_burst_that_tells_nothing_the_level_is_believed() -> None:
    fallen = np.append(-5.0 * np.ones(COUNT - 1), 5.0)  # changes: as far as the level reaches, and further
    out = with_agreed(NORMAL, inputs(fallen, mostly_zero(3.0) - 5, mostly_zero(4.0) - 5, center=5.0))
    assert (out[0, 0, :-1] == -5).all()


def test_a_level_that_holds_is_not_overruled_by_what_was_before() -> None:
    steady = np.linspace(-0.1, 0.1, COUNT)  # a service that was off for a week and is on now
    out = with_agreed(NORMAL, inputs(steady, mostly_zero(5.0) - 5, mostly_zero(5.0) - 5, center=5.0))
    assert out == pytest.approx(NORMAL)


def test_equal_medians_of_a_smooth_curve_mean_nothing() -> None:
    day, week = np.linspace(-3, 3, COUNT), np.linspace(-4, 4, COUNT)  # both 0 in the middle, and only there
    assert with_agreed(NORMAL, inputs(10 * day, day, week, center=100.0)) == pytest.approx(NORMAL)


@pytest.mark.parametrize("point", [DAY_AGO, WEEK_AGO])
def test_what_ran_a_day_or_a_week_ago_may_run_again(point: int) -> None:
    given = inputs(mostly_zero(0.5), mostly_zero(3.0), mostly_zero(4.0))
    assert with_agreed(NORMAL, with_point(given, point, 3.0)) == pytest.approx(NORMAL)
    assert (with_agreed(NORMAL, with_point(given, point, 0.0))[0, 0, :-1] == 0).all()


def test_without_two_witnesses_nothing_is_changed() -> None:
    zero = np.zeros(COUNT)
    assert with_agreed(NORMAL, inputs(zero, zero, zero, known=False)) == pytest.approx(NORMAL)


@settings(deadline=None, max_examples=200)
@given(
    normal=arrays(np.float32, COUNT, elements=st.floats(-10, 10, width=32)).map(np.sort),
    told=arrays(np.float32, (3, COUNT), elements=st.sampled_from([-1.0, 0.0, 0.0, 0.0, 2.0])).map(np.sort),
    center=st.floats(0, 10),
)
def test_quantiles_do_not_cross(normal: np.ndarray, told: np.ndarray, center: float) -> None:
    out = with_agreed(normal[None, None], inputs(*told, center=center))
    assert (np.diff(out) >= 0).all()
