"""A raised CPU target is recommended only while everything speaks for it, and after that has lasted for a hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import Bounds, HpaFacts, Override, ScaleSpec
from forecaster.reasons import CALM, Reason, ReasonCode
from forecaster.rows import Rows
from forecaster.scaling.decision import (
    Decision,
    DecisionInput,
    DecisionState,
    decide,
    merge_for_hpa,
    record,
    replay,
    rows_to_states,
    states_to_rows,
)
from tests.forecaster.scaling.test_decision import INPUT, NOW

SPEC = ScaleSpec("shop", "checkout", bounds=Bounds(max_step_up_ratio=100.0), raised_target_ratio=0.8)
FACTS = HpaFacts(uid="u", min_replicas=2, max_replicas=40, ready_replicas=10, cpu_target=60, target_ratio=0.6)
CALM_INPUT = replace(INPUT, spec=SPEC, facts=FACTS, most_needed=10)
HOLD = SPEC.hold
TICK = timedelta(seconds=15)


def after_a_hold(**changes: Any) -> Decision:
    """The decision after ten calm minutes, with `changes` in it alone."""
    state = DecisionState()
    for i in range(HOLD // TICK):
        made, state = decide(replace(CALM_INPUT, now=NOW + i * TICK), state)
        assert made.raised_target is None
    return decide(replace(CALM_INPUT, now=NOW + HOLD, **changes), state)[0]


def played(inputs: Sequence[DecisionInput]) -> list[int | None]:
    state, out = DecisionState(), []
    for one in inputs:
        made, state = decide(one, state)
        out.append(made.raised_target)
    return out


def test_it_is_raised_after_a_hold_of_calm() -> None:
    assert after_a_hold().raised_target == 80
    published = after_a_hold().to_recommendation()
    assert published is not None and published.raised_target == 80


@pytest.mark.parametrize(
    "changes",
    [
        {"peak": None},
        {"newest_load": 950.0},  # more than 90 % of what ten ready replicas carry
        {"newest_load": float("nan")},
        {"newest_load": -1.0},
        {"capacity": None},
        {"saturated": True},
        {"data_fault": "the unit has changed"},
        {"hpa_fault": "two HPAs"},
        {"facts": replace(FACTS, ready_replicas=None)},
        {"facts": replace(FACTS, ready_replicas=4)},
        {"facts": replace(FACTS, cpu_target=None)},  # no metric of CPU, or nobody reads the HPA
        {"facts": replace(FACTS, cpu_target=80)},  # nothing to raise
        {"facts": replace(FACTS, max_replicas=9)},  # ten are wanted
        {"facts": None},
        {"spec": replace(SPEC, raised_target_ratio=None)},
        {"overrides": (Override("1", "checkout", "pause", NOW, NOW + timedelta(days=1)),)},
        {"overrides": (Override("1", "checkout", "pin", NOW, NOW + timedelta(days=1), max_replicas=5),)},
        *({"reasons": (Reason(code),)} for code in ReasonCode if code not in CALM),
    ],
    ids=str,
)
def test_any_doubt_takes_it_back_at_once(changes: dict[str, Any]) -> None:
    assert after_a_hold(**changes).raised_target is None


@pytest.mark.parametrize("code", CALM)
def test_remarks_are_no_doubt(code: ReasonCode) -> None:
    assert after_a_hold(reasons=(Reason(code),)).raised_target == 80


def test_never_above_ninety_per_cent() -> None:
    spec = replace(SPEC, raised_target_ratio=0.97)
    assert after_a_hold(spec=spec).raised_target == 90


def test_after_a_doubt_it_waits_for_a_whole_hold() -> None:
    ticks = 3 * (HOLD // TICK)
    doubt = HOLD // TICK + 20
    loads = [950.0 if i == doubt else 500.0 for i in range(ticks)]
    made = played([replace(CALM_INPUT, now=NOW + i * TICK, newest_load=load) for i, load in enumerate(loads)])
    raised = [one is not None for one in made]
    assert not any(raised[: HOLD // TICK]) and all(raised[HOLD // TICK : doubt])
    assert not any(raised[doubt : doubt + HOLD // TICK + 1]) and all(raised[doubt + HOLD // TICK + 1 :])


def test_a_pause_of_the_service_is_no_calm() -> None:
    times = [NOW, NOW + timedelta(minutes=4), NOW + timedelta(minutes=8), NOW + timedelta(minutes=12)]
    assert played([replace(CALM_INPUT, now=at) for at in times]) == [None] * 4


def test_a_clock_that_jumps_back_raises_nothing() -> None:
    times = [NOW + i * TICK for i in range(30)] + [NOW - timedelta(hours=1) + i * TICK for i in range(5)]
    assert played([replace(CALM_INPUT, now=at) for at in times]) == [None] * 35


@given(st.lists(st.tuples(st.floats(0, 1200), st.booleans(), st.integers(0, 12)), min_size=1, max_size=120))
def test_raised_only_in_the_shelter_of_its_floor(told: list[tuple[float, bool, int]]) -> None:
    state = DecisionState()
    for i, (load, known, ready) in enumerate(told):
        facts = replace(FACTS, ready_replicas=ready)
        peak = 800.0 if known else None
        made, state = decide(replace(CALM_INPUT, now=NOW + i * TICK, newest_load=load, peak=peak, facts=facts), state)
        if made.raised_target is not None:
            assert made.floor is not None and made.floor >= 8
            assert load <= 0.9 * 100.0 * ready
            assert 60 < made.raised_target <= 90


def test_workloads_that_share_an_hpa_must_agree() -> None:
    one = after_a_hold()
    assert merge_for_hpa([one, replace(one, workload="b", raised_target=70)]).raised_target == 70
    assert merge_for_hpa([one, replace(one, workload="b", raised_target=None)]).raised_target is None
    assert merge_for_hpa([one], before=30).raised_target is None  # the others fell silent


def test_what_is_stored_counts_after_a_restart() -> None:
    state = DecisionState()
    for i in range(HOLD // TICK):
        _, state = decide(replace(CALM_INPUT, now=NOW + i * TICK), state)
    rows = states_to_rows({"checkout": state})
    assert rows_to_states(rows)["checkout"] == state
    older = Rows(rows.keys, {name: array for name, array in rows.arrays.items() if name != "calm_since"})
    forgotten = rows_to_states(older)["checkout"]
    assert decide(replace(CALM_INPUT, now=NOW + HOLD), forgotten)[0].raised_target is None
    inputs = replace(CALM_INPUT, now=NOW + HOLD)
    assert replay(record(inputs, state)) == decide(inputs, state)[0]
    assert replay(record(inputs, state)).raised_target == 80
