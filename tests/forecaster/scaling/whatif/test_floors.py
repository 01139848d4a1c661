"""The batched floors are the live rules: tick by tick what `decide`, `judge` and `issue` give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import Bounds, FloatArray, HpaFacts, IntArray, ScaleSpec
from forecaster.quantiles import at_level
from forecaster.scaling import decision, risk
from forecaster.scaling.decision import DecisionInput, DecisionState
from forecaster.scaling.whatif import floors

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
TICK = timedelta(seconds=15)


def decided(needs: list[int], rules: floors.FloorRules) -> list[int | None]:
    """Floors of the live decision, one load unit a replica."""
    spec = ScaleSpec(
        "shop",
        "checkout",
        capacity_per_replica=1.0,
        hold=timedelta(seconds=rules.hold_seconds),
        bounds=Bounds(rules.users_own, rules.most, rules.max_step_up_ratio, rules.max_step_down_ratio),
    )
    facts = HpaFacts(min_replicas=rules.users_own, max_replicas=rules.most)
    state, out = DecisionState(), []
    for tick, need in enumerate(needs):
        inputs = DecisionInput(
            now=BEGIN + tick * TICK,
            workload="checkout",
            spec=spec,
            facts=facts,
            users_own_min=rules.users_own,
            peak=float(need),
            level=0.9,
            newest_load=0.0,
            capacity=1.0,
        )
        made, state = decision.decide(inputs, state)
        out.append(made.floor)
    return out


NEEDS = st.lists(st.integers(0, 60), min_size=1, max_size=90)
RULES = st.builds(
    floors.FloorRules,
    users_own=st.integers(1, 6),
    most=st.integers(8, 50),
    hold_seconds=st.sampled_from([15.0, 60.0, 300.0, 600.0]),
    max_step_up_ratio=st.sampled_from([0.1, 1.0]),
    max_step_down_ratio=st.sampled_from([0.05, 0.2]),
)


@settings(deadline=None, max_examples=60)
@given(NEEDS, RULES)
def test_batched_floors_are_those_of_the_live_decision(needs: list[int], rules: floors.FloorRules) -> None:
    found = floors.floors_of(np.array(needs), rules, compiled=False)
    assert found.tolist() == decided(needs, rules)


def test_a_long_fall_merges_the_memory_of_the_hold_as_the_live_decision_does() -> None:
    needs, rules = [120 - tick for tick in range(100)], floors.FloorRules(1, 500, 1_800.0)
    assert floors.floors_of(np.array(needs), rules, compiled=False).tolist() == decided(needs, rules)


LEVELS = (0.1, 0.25, 0.5, 0.9, 0.99)


def quantiles(rng: np.random.Generator, ticks: int, most: float) -> FloatArray:
    """(tick, level) of peaks, rising with the level."""
    return np.sort(rng.uniform(0, most, (ticks, len(LEVELS))), axis=1)


def unlimited(ticks: int) -> IntArray:
    return np.full(ticks, 1_000, dtype=np.int64)


def test_compiled_and_interpreted_give_the_same() -> None:
    rng = np.random.default_rng(5)
    peaks, rules, load = quantiles(rng, 400, 40.0), floors.FloorRules(2, 60), rng.uniform(0, 40, 400)
    peaks[17] = np.nan
    asked = {"capacity": 1.0, "lead_seconds": 60.0, "asked": 0.05}
    plain = floors.dialled(peaks, LEVELS, load, unlimited(400), rules, **asked, compiled=False)
    fast = floors.dialled(peaks, LEVELS, load, unlimited(400), rules, **asked)
    assert plain[0].tolist() == fast[0].tolist()
    np.testing.assert_allclose(plain[1], fast[1], rtol=1e-12)


@pytest.mark.parametrize(("lead", "asked"), [(60.0, 0.02), (180.0, 0.3)], ids=["high levels", "below the median"])
def test_the_dial_turns_as_the_live_one_does_and_holds_as_long(lead: float, asked: float) -> None:
    rng, ticks, capacity = np.random.default_rng(7), 400, 1.0
    peaks, load = quantiles(rng, ticks, 24.0), rng.uniform(0, 5.0, ticks)
    saturated = rng.uniform(size=ticks) < 0.02
    rules = floors.FloorRules(2, 60, 300.0)
    batched = floors.Dials([capacity], [lead], [asked], [rules], ticks, LEVELS)
    spec = ScaleSpec("shop", "checkout", capacity_per_replica=1.0, hold=timedelta(seconds=300), bounds=Bounds(2, 60))
    facts = HpaFacts(min_replicas=2, max_replicas=60)
    dial, state, lowest = risk.start(("checkout",), np.array([asked])), DecisionState(), 1.0
    for tick in range(ticks):
        newest, full = (np.nan, False) if tick == 0 else (float(load[tick - 1]), bool(saturated[tick - 1]))
        seen = risk.Judged(
            now=15 * tick,
            load=np.array([newest]),
            capacity=np.ones(1),
            saturated=np.array([full]),
            masked=np.zeros(1, dtype=np.bool_),
            lead_seconds=np.array([lead + 15]),  # as `Deciding` has it
            asked=np.array([asked]),
        )
        dial, report = risk.judge(dial, seen)
        peak = at_level(peaks[tick : tick + 1], LEVELS, report.level)
        known = 0.0 if tick == 0 else newest
        inputs = DecisionInput(
            now=BEGIN + tick * TICK,
            workload="checkout",
            spec=spec,
            facts=facts,
            users_own_min=2,
            peak=max(float(peak[0]), 0.0),
            level=float(report.level[0]),
            newest_load=known,
            capacity=capacity,
            target_ratio=0.7,
            saturated=full,
        )
        made, state = decision.decide(inputs, state)
        assert made.floor is not None
        dial = risk.issue(dial, 15 * tick, np.array([float(made.floor)]))
        found = batched.step(
            tick,
            peaks[tick : tick + 1],
            np.array([newest]),
            unlimited(1),
            np.array([full]),
            np.array([np.ceil(known / 0.7)], dtype=np.int64),
        )
        assert batched.level[0] == pytest.approx(report.level[0], rel=1e-9)
        assert found.tolist() == [made.floor], tick
        lowest = min(lowest, report.level[0])
    assert lowest < 0.45 or asked < 0.1  # the hold was shortened where the case is about that


def test_one_row_over_all_ticks_is_all_rows_over_one_tick_each() -> None:
    rng, ticks = np.random.default_rng(9), 300
    peaks, load, rules = quantiles(rng, ticks, 20.0), rng.uniform(0, 15, ticks), floors.FloorRules(2, 60)
    whole, _ = floors.dialled(
        peaks, LEVELS, load, unlimited(ticks), rules, capacity=1.0, lead_seconds=60.0, asked=0.05, compiled=False
    )
    batched = floors.Dials([1.0], [60.0], [0.05], [rules], ticks, LEVELS)
    nothing, least = np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.int64)
    for tick in range(ticks):
        newest = np.array([load[max(tick - 1, 0)]])
        batched.step(tick, peaks[tick : tick + 1], newest, unlimited(1), nothing, least)
    assert batched.floors[0].tolist() == whole.tolist()
