"""Surprises in nats against the normal distribution of the standard library."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import tails


@settings(deadline=None)
@given(st.floats(-6, 6))
def test_the_tail_of_a_normal(z: float) -> None:
    exact = -math.log(NormalDist().cdf(-z))
    assert float(tails.upper(np.array(z))) == pytest.approx(exact, abs=0.07)


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(0, 50))
def test_fisher_of_two_surprises(a: float, b: float) -> None:
    joined = float(tails.either(np.array(a), np.array(b)))
    assert 0 <= joined <= a + b
    assert joined == pytest.approx(float(tails.either(np.array(b), np.array(a))))
    assert float(tails.either(np.array(a), np.array(np.nan))) == a
    assert np.isnan(tails.either(np.array(np.nan), np.array(np.nan)))


def test_at_the_middle_there_is_no_surprise() -> None:
    assert tails.two_sided(np.array([0.0]))[0] == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(tails.two_sided(np.array([np.nan]))[0])
    assert (np.diff(tails.two_sided(np.linspace(0, 30, 200))) > 0).all()
