"""Capacity is known or said not to be; full means full."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecaster.domain import HpaFacts, ScaleSpec
from forecaster.reasons import ReasonCode
from forecaster.scaling.capacity import capacity_of, replicas_for, saturated, target_ratio_of

SPEC = ScaleSpec("shop", "checkout")


def test_a_given_capacity_counts_before_a_queried_one() -> None:
    assert capacity_of(ScaleSpec("a", "b", capacity_per_replica=120.0), 50.0) == (120.0, None)
    assert capacity_of(ScaleSpec("a", "b", capacity_query="x"), 50.0) == (50.0, None)


@pytest.mark.parametrize(
    ("spec", "queried"),
    [
        (SPEC, 50.0),
        (ScaleSpec("a", "b", capacity_query="x"), None),
        (ScaleSpec("a", "b", capacity_query="x"), math.nan),
        (ScaleSpec("a", "b", capacity_query="x"), 0.0),
        (ScaleSpec("a", "b", capacity_query="x"), math.inf),
        (ScaleSpec("a", "b", capacity_per_replica=-1.0), None),
    ],
)
def test_anything_else_is_capacity_unknown(spec: ScaleSpec, queried: float | None) -> None:
    capacity, reason = capacity_of(spec, queried)
    assert capacity is None
    assert reason is not None and reason.code is ReasonCode.CAPACITY_UNKNOWN and reason.detail


def test_full_is_95_percent_of_capacity_of_the_ready_replicas() -> None:
    load = np.array([949.0, 950.0, math.nan, 100.0, 100.0, 100.0])
    capacity = np.array([100.0, 100.0, 100.0, math.nan, 100.0, 100.0])
    ready = np.array([10.0, 10.0, 10.0, 10.0, math.nan, 0.0])
    assert saturated(load, capacity, ready).tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    ("load", "capacity", "expected"),
    [
        (0.0, 10.0, 0),
        (2.1, 0.7, 3),
        (2.2, 0.7, 4),
        (1e300, 1e-300, 2**31 - 1),
        (1e-12, 1e-12, 1),
        (math.nan, 1.0, None),
    ],
)
def test_replicas_for(load: float, capacity: float, expected: int | None) -> None:
    assert replicas_for(load, capacity) == expected


def test_the_target_is_configured_or_read_or_70_percent() -> None:
    assert target_ratio_of(ScaleSpec("a", "b", target_ratio=0.5), HpaFacts(target_ratio=0.8)) == 0.5
    assert target_ratio_of(SPEC, HpaFacts(target_ratio=0.8)) == 0.8
    assert target_ratio_of(SPEC, None) == 0.7
