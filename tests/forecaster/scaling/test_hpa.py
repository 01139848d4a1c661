"""The HPA controller: recorded cases where a file of them is given, cases of our own, and laws.

The file named by FORECASTER_HPA_VECTORS holds cases recorded from the Kubernetes controller itself; each must come out
the same, with all that the controller reports. Our own cases are worked out by hand from the documented rules.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.scaling.hpa import (
    DEFAULT_DOWN,
    Behavior,
    Hpa,
    HpaState,
    Policy,
    Rules,
    normalize,
    reconcile,
    with_defaults,
    with_scale_event,
)
from forecaster.scaling.hpa_metrics import (
    Container,
    Pod,
    Proposal,
    Readiness,
    Tolerances,
    average_proposal,
    pods_proposal,
    value_proposal,
)
from tests.forecaster.scaling.hpa_vectors import (
    behavior_of,
    calculated,
    hpa_of,
    proposals_of,
    rules_of,
    state_of,
)

FILE = os.environ.get("FORECASTER_HPA_VECTORS", "")
recorded = pytest.mark.skipif(not FILE, reason="FORECASTER_HPA_VECTORS names no file of recorded cases")


def cases(kind: str) -> list[Mapping[str, Any]]:
    return list(json.loads(Path(FILE).read_text())[kind])


# --- recorded from the controller ------------------------------------------------------------------------------------


@recorded
def test_every_recorded_calculation_comes_out_the_same() -> None:
    assert [case["id"] for case in cases("calc") if calculated(case) != case["out"]] == []


@recorded
def test_every_recorded_normalization_comes_out_the_same() -> None:
    wrong = []
    for case in cases("normalize"):
        state, behavior = state_of(case), behavior_of(case["behavior"])
        for step in case["steps"]:
            limits = case["minReplicas"], case["maxReplicas"]
            made, state = normalize(
                step["current"],
                step["desired"],
                *limits,
                behavior,
                state,
                step["t"],
                case["downscaleStabilization"],
            )
            told = {
                "stabilized": made.stabilized,
                "replicas": made.replicas,
                "able": made.able,
                "limited": made.limited,
            }
            if {name: value for name, value in told.items() if value is not None} != step["out"]:
                wrong.append((case["id"], step["t"]))
            state = with_scale_event(state, behavior, step["current"], made.replicas, step["t"])
    assert wrong == []


@recorded
def test_every_recorded_default_is_filled_in() -> None:
    for case in cases("defaults"):
        given_, stored = case["in"].get("behavior"), case["out"].get("behavior")
        if given_ is None:
            assert stored is None, case["id"]
            continue
        made = behavior_of(given_)
        assert made is not None
        assert made == Behavior(rules_of(stored["scaleUp"]) or Rules(), rules_of(stored["scaleDown"]) or Rules()), case[
            "id"
        ]


@recorded
def test_every_recorded_pass_comes_out_the_same() -> None:
    wrong = [(case["id"], where) for case in cases("reconcile") if (where := first_difference(case)) is not None]
    assert wrong == []


def first_difference(case: Mapping[str, Any]) -> float | None:
    """Time of the first pass in which we differ from the controller; None: nowhere."""
    state, zero = HpaState(), case.get("scaledToZero", False)
    low, high = case["minReplicas"], case["maxReplicas"]
    low = 1 if low is None else low
    behavior, tolerances = behavior_of(case["behavior"]), Tolerances(case["tolDown"], case["tolUp"])
    for tick in case["ticks"]:
        changed = tick.get("set", {})
        low, high = changed.get("minReplicas", low), changed.get("maxReplicas", high)
        if "behaviorStored" in changed:
            behavior = behavior_of(changed["behaviorStored"])
        if "tolDown" in changed:
            tolerances = Tolerances(changed["tolDown"], changed["tolUp"])
        if tick.get("restart"):
            state = HpaState()
        proposals = proposals_of(case, tick, tolerances)
        made, state = reconcile(
            hpa_of(case, low, high, behavior),
            tick["spec"],
            proposals,
            state,
            tick["t"],
            zero,
            not tick.get("updateFails"),
        )
        zero = made.scaled_to_zero
        told: dict[str, Any] = {"replicas": made.replicas}
        told |= {
            name: value
            for name, value in (
                ("raw", made.raw),
                ("error", made.error or None),
                ("able", made.able),
                ("limited", made.limited),
                ("inactive", made.inactive),
            )
            if value is not None
        }
        if "proposals" in tick["out"]:
            told["proposals"] = [None if one.error is not None else one.replicas for one in proposals]
        if "scaledToZero" in tick["out"]:
            told["scaledToZero"] = zero
        if told != tick["out"]:
            return float(tick["t"])
    return None


# --- our own cases ---------------------------------------------------------------------------------------------------

T = Tolerances()
READY = Pod(ready="True", started_at=-3600.0, ready_since=-3500.0, containers=(Container("app", 1000),))


def utilization(pods: list[Pod], current: int, target: int = 50) -> Proposal:
    return pods_proposal(
        pods, current, target, now=0.0, tolerances=T, readiness=Readiness(), resource="cpu", utilization=True
    )


@pytest.mark.parametrize(
    ("pods", "current", "expected"),
    [
        # 90 % of the request at a target of 50 %: ratio 1.8, 4 pods: 7.2
        ([replace(READY, count=4, usage=900)], 4, 8),
        # 54 % truncates from 549 / 1000: ratio 1.08, inside the tolerance
        ([replace(READY, count=4, usage=549)], 4, 4),
        # the pod that starts counts as idle: (3 x 900 + 0) / 4 = 67 %: ratio 1.34 of 4 pods
        (
            [
                replace(READY, count=3, usage=900),
                replace(READY, ready="False", started_at=-20.0, ready_since=-20.0, usage=5),
            ],
            4,
            6,
        ),
        # without a sample, on the way down: counts as fully used, so 5 of 10 idle pods may not halve at once
        ([replace(READY, count=5, usage=100), replace(READY, count=5)], 10, 10),
        # never ready since its start: its sample says nothing, it counts as idle: (2 x 900 + 0) / 3 = 60 %
        ([replace(READY, count=2, usage=900), replace(READY, ready="False", ready_since=-3590.0, usage=9000)], 3, 4),
    ],
    ids=["rounds up", "truncated inside the tolerance", "a starting pod", "a missing sample", "never ready"],
)
def test_the_utilization_of_pods(pods: list[Pod], current: int, expected: int) -> None:
    assert utilization(pods, current).replicas == expected


@pytest.mark.parametrize(
    ("pods", "error"),
    [
        ([READY], "noMetrics"),
        ([replace(READY, usage=5, phase="Pending")], "noUsableMetrics"),
        ([replace(READY, usage=5, containers=(Container("app"),))], "missingRequest"),
        ([replace(READY, usage=5, containers=(Container("app", 0),))], "zeroRequests"),
        ([replace(READY, usage=5, listed=False)], "noPods"),
    ],
    ids=["no sample", "only pending ones", "no request", "requests of 0", "unknown pods only"],
)
def test_a_metric_that_cannot_be_calculated_says_why(pods: list[Pod], error: str) -> None:
    assert utilization(pods, 3).error == error


def test_external_metrics_by_value_and_by_average() -> None:
    assert average_proposal([30_000, 15_000], 4, 10_000, T, external=True).replicas == 5
    assert average_proposal([41_000], 4, 10_000, T, external=True).replicas == 4  # 2.5 % over: inside the tolerance
    assert average_proposal([-1], 4, 10_000, T, external=True).replicas == 2**31 - 1  # taken for an overflow
    assert average_proposal([-1], 4, 10_000, T, external=False).replicas == 0
    assert average_proposal(None, 4, 10_000, T, external=True).error == "noMetrics"
    ready = [replace(READY, count=3), replace(READY, ready="False", count=2)]
    assert value_proposal([20_000], 5, 10_000, ready, T).replicas == 6  # twice as much as 3 ready pods should have
    assert value_proposal([20_000], 0, 10_000, [], T).replicas == 2


def lived(behavior: Behavior | None, wishes: list[int], start: int, high: int = 100) -> list[int]:
    """Replicas after each pass of 15 s, given what the metrics ask for."""
    hpa, state, replicas, out = Hpa(high, 1, behavior, metric_types=("External",)), HpaState(), start, []
    for n, wish in enumerate(wishes):
        made, state = reconcile(hpa, replicas, [Proposal(wish)], state, 15.0 * n)
        replicas = made.replicas
        out.append(replicas)
    return out


def test_without_behavior_replicas_double_and_keep_climbing_to_a_peak_that_has_gone() -> None:
    assert lived(None, [37] + [1] * 24, 3) == [6, 12, 24, *[37] * 18, 1, 1, 1, 1]


def test_with_an_empty_behavior_a_spike_of_one_pass_is_one_step() -> None:
    assert lived(with_defaults(None, None), [29] + [1] * 20, 3) == [7] * 20 + [1]


def test_policies_count_what_was_added_within_their_period() -> None:
    slow = with_defaults(Rules((Policy("Pods", 2, 60.0),)), None)
    assert lived(slow, [20] * 9, 4) == [6, 6, 6, 6, 8, 8, 8, 8, 10]
    percent = with_defaults(Rules((Policy("Percent", 10, 15.0),)), None)
    assert lived(percent, [100], 50) == [56]  # 50 * (1 + 10 / 100) is a little above 55 in doubles
    frozen = with_defaults(None, Rules(DEFAULT_DOWN, 0.0, "Disabled"))
    assert lived(frozen, [1] * 3, 9) == [9, 9, 9]


def test_a_raised_minimum_jumps_past_every_policy_and_counts_as_an_event() -> None:
    slow = with_defaults(Rules((Policy("Pods", 2, 120.0),)), None)
    hpa, state = Hpa(50, 10, slow), HpaState()
    made, state = reconcile(hpa, 3, [Proposal(3)], state, 0.0)
    assert (made.replicas, made.raw) == (10, None)
    made, state = reconcile(hpa, 10, [Proposal(20)], state, 15.0)
    assert (made.replicas, made.limited) == (10, "ScaleUpLimit")


def test_a_failing_metric_stops_the_way_down_only() -> None:
    hpa = Hpa(50, metric_types=("Resource", "External"))
    failed = Proposal(error="noMetrics")
    down, _ = reconcile(hpa, 10, [Proposal(4), failed], HpaState(), 0.0)
    assert (down.replicas, down.error, down.inactive) == (10, True, "FailedGetExternalMetric")
    up, _ = reconcile(hpa, 10, [Proposal(14), failed], HpaState(), 0.0)
    assert (up.replicas, up.error, up.inactive) == (14, True, None)


def test_zero_by_hand_is_a_pause_and_a_refused_write_is_no_event() -> None:
    made, _ = reconcile(Hpa(10), 0, [Proposal(5)], HpaState(), 0.0)
    assert (made.replicas, made.inactive) == (0, "ScalingDisabled")
    behavior = with_defaults(None, None)
    made, state = reconcile(Hpa(10, 1, behavior), 2, [Proposal(5)], HpaState(), 0.0, write_succeeds=False)
    assert (made.replicas, made.able, state.up_events) == (2, "FailedUpdateScale", ())


# --- laws ------------------------------------------------------------------------------------------------------------

POLICIES = st.lists(
    st.builds(Policy, st.sampled_from(["Pods", "Percent"]), st.integers(1, 200), st.sampled_from([15.0, 60.0, 300.0])),
    max_size=3,
).map(tuple)
RULES = st.builds(
    Rules,
    POLICIES,
    st.sampled_from([None, 0.0, 60.0, 300.0]),
    st.sampled_from(["Max", "Min", "Disabled"]),
)
BEHAVIORS = st.none() | st.builds(with_defaults, RULES, RULES)


@given(
    behavior=BEHAVIORS,
    wishes=st.lists(st.integers(0, 120), min_size=1, max_size=40),
    low=st.integers(1, 10),
    room=st.integers(0, 50),
    start=st.integers(1, 80),
)
def test_replicas_are_within_the_bounds_after_every_pass(
    behavior: Behavior | None, wishes: list[int], low: int, room: int, start: int
) -> None:
    hpa, state, replicas = Hpa(low + room, low, behavior), HpaState(), start
    for n, wish in enumerate(wishes):
        made, state = reconcile(hpa, replicas, [Proposal(wish)], state, 15.0 * n)
        replicas = made.replicas
        assert low <= replicas <= low + room


@given(behavior=BEHAVIORS, wish=st.integers(1, 60), passes=st.integers(30, 60))
def test_a_steady_wish_is_a_fixed_point(behavior: Behavior | None, wish: int, passes: int) -> None:
    assert lived(behavior, [wish] * passes, wish) == [wish] * passes
