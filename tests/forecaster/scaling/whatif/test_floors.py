"""The batched floors are the live rules: tick by tick what `decide`, `judge` and `issue` give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import Bounds, HpaFacts, ScaleSpec
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


def test_compiled_and_interpreted_give_the_same() -> None:
    rng = np.random.default_rng(5)
    need = rng.integers(0, 40, (400, floors.DEPTHS))
    need.sort(axis=1)
    rules, load = floors.FloorRules(2, 60), rng.uniform(0, 40, 400)
    asked = {"capacity": 1.0, "lead_seconds": 60.0, "asked": 0.05}
    plain = floors.dialled(need, load, rules, **asked, compiled=False)
    fast = floors.dialled(need, load, rules, **asked)
    assert plain[0].tolist() == fast[0].tolist()
    np.testing.assert_allclose(plain[1], fast[1], rtol=1e-12)


@pytest.mark.parametrize("lead", [60.0, 180.0])
def test_the_dial_turns_as_the_live_one_does(lead: float) -> None:
    rng = np.random.default_rng(7)
    need = rng.integers(5, 12, 300)
    load = rng.uniform(0, 12, 300)
    rules = floors.FloorRules(2, 60, 300.0)
    found, level = floors.dialled(
        np.repeat(need[:, None], floors.DEPTHS, axis=1), load, rules, capacity=1.0, lead_seconds=lead, asked=0.02
    )
    assert found.tolist() == decided(need.tolist(), rules)
    dial = risk.start(("checkout",), np.array([0.02]))
    for tick, floor in enumerate(found.tolist()):
        seen = risk.Judged(
            now=15 * tick,
            load=np.array([np.nan if tick == 0 else load[tick - 1]]),
            capacity=np.ones(1),
            saturated=np.zeros(1, dtype=np.bool_),
            masked=np.zeros(1, dtype=np.bool_),
            lead_seconds=np.array([lead]),
            asked=np.array([0.02]),
        )
        dial, report = risk.judge(dial, seen)
        dial = risk.issue(dial, 15 * tick, np.array([float(floor)]))
        if tick == 299:
            assert report.level[0] == pytest.approx(level[tick], abs=0.002)
