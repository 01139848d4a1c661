"""Data that contradicts itself is noticed, named, and in the end accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from forecaster.reasons import ReasonCode
from forecaster.rows import Rows
from forecaster.scaling.tripwires import FaultKind, Faults, blank, check, from_reasons

NOW = 1_772_000_000 // 3600 * 3600
NAN = math.nan


def follow(
    values: Sequence[float], counts: Sequence[float] | None = None, ready: Sequence[float] | None = None
) -> tuple[list[FaultKind], list[Faults]]:
    state = Rows(("a",), blank())
    kinds, faults = [], []
    for i, value in enumerate(values):
        count = NAN if counts is None else counts[i]
        pods = NAN if ready is None else ready[i]
        state, found = check(state, np.array([value]), np.array([count]), np.array([pods]), NOW + 60 * i)
        kinds.append(FaultKind(found.kind[0]))
        faults.append(found)
    return kinds, faults


def noisy(n: int, seed: int = 0) -> list[float]:
    return (100 + np.random.default_rng(seed).normal(0, 5, n)).tolist()


def test_half_of_the_targets_gone_is_a_fault_until_they_are_back() -> None:
    values = noisy(15) + [50.0] * 20 + noisy(5)
    kinds, faults = follow(values, [10.0] * 15 + [5.0] * 20 + [10.0] * 5, [10.0] * 40)
    assert kinds == 15 * [FaultKind.NONE] + 20 * [FaultKind.LOST_TARGETS] + 5 * [FaultKind.NONE]
    assert faults[20].describe(0) == "only 5 of 10 series report, and no replicas left"
    assert faults[20].since[0] == NOW + 15 * 60


@pytest.mark.parametrize(
    ("after", "count", "ready"),
    [(55.0, 5.0, 5.0), (98.0, 5.0, NAN), (55.0, 9.0, 10.0), (55.0, NAN, 10.0)],
    ids=["replicas left too", "the load stayed", "one series of ten", "not a sum"],
)
def test_what_has_an_explanation_is_no_fault(after: float, count: float, ready: float) -> None:
    kinds, _ = follow(noisy(15) + [after] * 10, [10.0] * 15 + [count] * 10, [10.0] * 15 + [ready] * 10)
    assert set(kinds) == {FaultKind.NONE}


def test_lost_targets_are_accepted_after_an_hour() -> None:
    values = noisy(15) + [v / 2 for v in noisy(80, 1)]
    kinds, faults = follow(values, [10.0] * 15 + [5.0] * 80, [10.0] * 95)
    assert kinds[15:75] == 60 * [FaultKind.LOST_TARGETS]
    assert faults[75].accepted[0]
    assert kinds[75:] == 20 * [FaultKind.NONE]


def test_a_missing_sample_neither_opens_nor_ends_a_fault() -> None:
    kinds, _ = follow(noisy(15) + [50.0, NAN, 50.0] + [NAN] * 3, [10.0] * 15 + [5.0, NAN, 5.0] + [NAN] * 3, [10.0] * 21)
    assert kinds[15:] == 6 * [FaultKind.LOST_TARGETS]
    assert set(follow([NAN] * 50)[0]) == {FaultKind.NONE}


def test_a_frozen_exporter_is_noticed_and_ends_when_the_value_moves() -> None:
    kinds, faults = follow([*noisy(200), *([103.25] * 60), *noisy(20, 3)])
    first = kinds.index(FaultKind.FROZEN)
    assert 200 <= first <= 212
    assert set(kinds[first:260]) == {FaultKind.FROZEN}
    assert set(kinds[260:]) == {FaultKind.NONE}
    assert "exactly 103.25" in str(faults[first].describe(0))


def test_a_frozen_value_is_accepted_after_six_hours_once() -> None:
    kinds, _ = follow([*noisy(200), *([103.25] * 600), *noisy(20, 3), *([99.5] * 300)])
    flagged = [i for i, kind in enumerate(kinds) if kind is FaultKind.FROZEN]
    assert len(flagged) == 360
    assert max(flagged) < 600


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 500,
        [float(i // 15) for i in range(600)],
        [0.0 if i % 400 > 100 else 1 + 0.01 * i for i in range(1200)],
    ],
    ids=["constant", "scraped every 15 steps", "idle at night"],
)
def test_what_a_series_always_does_is_not_frozen(values: list[float]) -> None:
    kinds, _ = follow(values)
    assert FaultKind.FROZEN not in kinds


@pytest.mark.parametrize("factor", [1000.0, 1 / 1000.0])
def test_a_changed_unit_is_a_fault_then_the_new_regime(factor: float) -> None:
    kinds, faults = follow([*noisy(120), *(v * factor for v in noisy(100, 5))])
    assert kinds[:122] == 122 * [FaultKind.NONE]
    assert kinds[122:150] == 28 * [FaultKind.UNIT]
    assert faults[150].accepted[0]
    assert set(kinds[151:]) == {FaultKind.NONE}
    assert "unit" in str(faults[122].describe(0))


def test_one_wild_sample_and_a_tenfold_crowd_are_no_unit() -> None:
    kinds, _ = follow([*noisy(120), 1e6, *noisy(20, 2), *(10 * v for v in noisy(60, 4))])
    assert set(kinds) == {FaultKind.NONE}


def test_scale_does_not_matter() -> None:
    values = [*noisy(120), *(v * 1000 for v in noisy(20, 5))]
    for scale in (1e-12, 1e15):
        assert follow([v * scale for v in values])[0] == follow(values)[0]


def test_the_reader_names_a_vanished_series_and_an_outage_of_prometheus_is_no_rows_fault() -> None:
    assert from_reasons([ReasonCode.SERIES_GONE]) is FaultKind.SERIES_GONE
    assert from_reasons([ReasonCode.STALE_DATA, ReasonCode.QUERY_ERROR]) is FaultKind.NONE
