"""All decisions of a cycle: the dial, several workloads on one HPA, and one that fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from forecaster.domain import Bounds, HpaFacts, Override, ScaleSpec, Workload, WorkloadSpec
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.deciding import Decided, Deciding, Known
from forecaster.scaling.decision import Decision
from tests.forecaster.forecasts import LEVELS, forecast_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)
FACTS = HpaFacts(min_replicas=3, max_replicas=40, ready_replicas=100, scale_target="Deployment/web")
QUICK = Bounds(max_step_up_ratio=20.0)


def workload(name: str, hpa: str = "", **scale: Any) -> Workload:
    scale = {"capacity_per_replica": 10.0, "hold": timedelta(0), "bounds": QUICK, **scale}
    spec = ScaleSpec("shop", hpa or name, **scale)
    return Workload(name, f"{name}#1", {}, WorkloadSpec(name, f"sum({name})", scale=spec), spec)


def cycle(
    deciding: Deciding,
    workloads: Sequence[Workload],
    peaks: Sequence[float],
    n: int = 0,
    facts: dict[str, HpaFacts] | None = None,
    overrides: Sequence[Override] = (),
    interval: timedelta = INTERVAL,
    history: timedelta = timedelta(days=14),
) -> tuple[list[Decided], list[Decision]]:
    """The cycle at NOW + n intervals; a peak of NaN is no forecast and no load."""
    now = NOW + n * interval
    if facts is None:
        facts = {f"shop/{one.scale.hpa}": FACTS for one in workloads if one.scale is not None}
    load = np.array(peaks, dtype=np.float64)
    values = np.repeat(np.repeat(load[:, None, None], 2, axis=1), len(LEVELS), axis=2)
    known = Known(
        now=now,
        forecast=forecast_of(values, origin=now),
        newest=load,
        data_through=np.full(len(load), now.timestamp()),
        most_load=np.full(len(load), np.nan),
        known_since=np.full(len(load), (now - history).timestamp()),
        reasons=[()] * len(load),
        masked=np.zeros(len(load), dtype=np.bool_),
        faults=[None] * len(load),
    )
    scaled = deciding.gather(workloads, {one.name: row for row, one in enumerate(workloads)}, facts, {})
    decided = deciding.decide(scaled, known, deciding.saturated(scaled, known.newest), overrides)
    return decided, deciding.merge(decided, now)


def codes(decision: Decision) -> set[ReasonCode]:
    return {reason.code for reason in decision.reasons}


def pause(workload: str) -> Override:
    return Override("o1", workload, "pause", NOW - INTERVAL, NOW + timedelta(days=1))


# --- what is gathered ------------------------------------------------------------------------------------------------


def test_the_quantile_of_the_peak_becomes_a_floor() -> None:
    _, (made,) = cycle(Deciding(INTERVAL), [workload("web")], [95.0])
    assert (made.floor, made.bound_by) == (10, "proactive")


def test_a_load_of_less_than_two_days_leaves_the_hpa_to_react_alone() -> None:
    _, (made,) = cycle(Deciding(INTERVAL), [workload("web")], [95.0], history=timedelta(hours=47))
    assert made.floor is None and made.desired_replicas == made.reactive is not None
    (said,) = (reason for reason in made.reasons if reason.code is ReasonCode.HISTORY_TOO_SHORT)
    assert said.detail == "47.0 hours of load are known, a floor needs 48"
    _, (made,) = cycle(Deciding(INTERVAL), [workload("web")], [95.0], history=timedelta(hours=48))
    assert made.floor == 10


def test_with_a_short_history_pins_count_all_the_same() -> None:
    pin = Override("o1", "web", "pin", NOW, NOW + timedelta(hours=1), min_replicas=7)
    _, (made,) = cycle(Deciding(INTERVAL), [workload("web")], [95.0], overrides=[pin], history=timedelta(hours=3))
    assert (made.floor, made.bound_by) == (7, "pinned")


def test_workloads_without_an_hpa_are_left_out() -> None:
    plain = dataclasses.replace(workload("batch"), scale=None)
    decided, _ = cycle(Deciding(INTERVAL), [plain, workload("web")], [500.0, 95.0])
    assert [(one.scaled.row, one.decision.floor) for one in decided] == [(1, 10)]


def test_where_nothing_scales_nothing_is_decided() -> None:
    plain = dataclasses.replace(workload("batch"), scale=None)
    assert cycle(Deciding(INTERVAL), [plain], [500.0]) == ([], [])


def test_two_hpas_on_one_target_are_both_refused() -> None:
    decided, _ = cycle(Deciding(INTERVAL), [workload("a"), workload("b")], [95.0, 95.0])
    assert [one.decision.floor for one in decided] == [None, None]
    for one, other in zip(decided, ("shop/b", "shop/a"), strict=True):
        assert Reason(ReasonCode.HPA_INVALID, f"{other} scales the same target") in one.decision.reasons


def test_the_window_is_the_lead_time_and_one_interval() -> None:
    one = workload("web", lead_time=timedelta(seconds=90))
    (scaled,) = Deciding(INTERVAL).gather([one], {"web": 0}, {}, {})
    assert Deciding(INTERVAL).window(scaled) == timedelta(seconds=90 + 30 + 15)


@pytest.mark.parametrize(
    ("load", "ready", "full"),
    [(50.0, 5, True), (40.0, 5, False), (50.0, None, False), (math.nan, 5, False)],
    ids=["all replicas are full", "they are not", "how many is not known", "no load"],
)
def test_saturation(load: float, ready: int | None, full: bool) -> None:
    deciding = Deciding(INTERVAL)
    facts = {"shop/web": dataclasses.replace(FACTS, ready_replicas=ready)}
    scaled = deciding.gather([workload("web")], {"web": 0}, facts, {})
    assert deciding.saturated(scaled, np.array([load])).tolist() == [full]


# --- the dial --------------------------------------------------------------------------------------------------------


def test_without_a_floor_the_user_s_own_counts_for_the_dial() -> None:
    deciding = Deciding(INTERVAL)
    decided, _ = cycle(deciding, [workload("a"), workload("b", "hb")], [95.0, 95.0], overrides=[pause("a")], facts={
        "shop/a": FACTS, "shop/hb": dataclasses.replace(FACTS, scale_target="Deployment/other"),
    })  # fmt: skip
    assert [one.decision.floor for one in decided] == [None, 10]
    np.testing.assert_array_equal(deciding.dial.arrays["floor"][:, -1], [3, 10])


def test_too_little_turns_the_dial_of_that_workload_up() -> None:
    deciding = Deciding(INTERVAL)
    both = [workload("a", "ha", risk=0.1), workload("b", "hb", risk=0.1)]
    facts = {f"shop/h{i}": dataclasses.replace(FACTS, scale_target=f"Deployment/{i}") for i in "ab"}
    for n in range(40):
        cycle(deciding, both, [95.0, 95.0 if n < 20 else 500.0], n, facts, [pause("*")])
    assert deciding.report is not None
    level = deciding.report.level
    assert deciding.report.missed.all() and level[1] == level[0]  # three replicas carry neither
    calm = Deciding(INTERVAL)
    for n in range(40):
        cycle(calm, both, [95.0, 20.0], n, facts, [pause("*")])
    assert calm.report is not None
    assert calm.report.missed.tolist() == [True, False]
    assert calm.report.level[1] < 0.9 < calm.report.level[0]


# --- several workloads on one HPA ------------------------------------------------------------------------------------


def test_they_merge_to_the_maximum() -> None:
    decided, merged = cycle(Deciding(INTERVAL), [workload("a", "web"), workload("b", "web")], [195.0, 55.0])
    assert [one.decision.floor for one in decided] == [20, 6]
    assert [(one.workload, one.floor) for one in merged] == [("a, b", 20)]


@pytest.mark.parametrize("is_gone", [False, True], ids=["paused", "removed"])
@pytest.mark.parametrize("seconds", [1, 5, 15, 60])
def test_when_the_higher_one_falls_silent_the_fall_keeps_to_its_steps(seconds: int, is_gone: bool) -> None:
    deciding, both = Deciding(INTERVAL), [workload("b", "web"), workload("a", "web")]
    interval = timedelta(seconds=seconds)
    floors: list[int] = []
    for n in range(900 // seconds):
        ended = n * seconds >= 120
        silent = [pause("a")] if ended and not is_gone else []
        left = both[:1] if ended and is_gone else both
        _, (made,) = cycle(deciding, left, [55.0, 195.0][: len(left)], n, overrides=silent, interval=interval)
        assert made.floor is not None
        floors.append(made.floor)
    minute = 60 // seconds
    for n in range(minute, len(floors)):
        before = max(floors[n - minute : n])
        assert floors[n] >= before - max(1, math.floor(0.2 * before))
    assert floors[120 // seconds - 1] == 20 and floors[-1] == 6
    assert not is_gone or not deciding.merged  # nothing is merged any more


def test_a_workload_whose_decision_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    deciding = Deciding(INTERVAL)
    sound = [workload("a", "ha"), workload("b", "hb")]
    facts = {f"shop/h{i}": dataclasses.replace(FACTS, scale_target=f"Deployment/{i}") for i in "ab"}
    cycle(deciding, sound, [95.0, 95.0], 0, facts)
    before = deciding.states["a#1"]
    bad = [workload("a", "ha", bounds=None), sound[1]]
    decided, merged = cycle(deciding, bad, [95.0, 95.0], 1, facts)
    assert [one.scaled.workload.name for one in decided] == ["b"] and [one.floor for one in merged] == [10]
    assert "decision failed: workload=a" in caplog.text
    assert deciding.states["a#1"] is before  # its hold and its steps go on when it is mended
    assert np.isnan(deciding.dial.arrays["floor"][0, -1])


# --- stored ----------------------------------------------------------------------------------------------------------


def test_a_restored_one_decides_as_if_nothing_had_happened() -> None:
    one = Deciding(INTERVAL)
    three = [workload("a", "web"), workload("b", "web"), workload("c", hold=timedelta(minutes=10))]
    facts = {"shop/web": FACTS, "shop/c": dataclasses.replace(FACTS, scale_target="Deployment/c")}
    for n in range(8):
        cycle(one, three, [195.0, 55.0, 155.0], n, facts)
    other = Deciding(INTERVAL)
    other.restore(one.dump())
    assert other.states == one.states and other.merged == one.merged and one.merged
    for name, array in one.dial.arrays.items():
        np.testing.assert_array_equal(other.dial.arrays[name], array)
    fresh = Deciding(INTERVAL)
    goes_on, restored, anew = (cycle(each, three, [math.nan, 55.0, 55.0], 8, facts)[1] for each in (one, other, fresh))
    assert restored == goes_on != anew


def test_a_new_list_of_workloads_keeps_the_dial_of_those_that_stay() -> None:
    deciding = Deciding(INTERVAL)
    for n in range(40):
        cycle(deciding, [workload("a", risk=0.1)], [500.0], n, overrides=[pause("*")])
    turned = float(deciding.dial.arrays["level"][0])
    cycle(deciding, [workload("new", risk=0.2), workload("a", risk=0.1)], [10.0, math.nan], 40, facts={})
    np.testing.assert_allclose(deciding.dial.arrays["level"], [0.8, turned])
    assert turned > 0.9 and set(deciding.states) == {"a#1", "new#1"}
