"""The floor obeys the laws of DESIGN 6, whatever comes in."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import Bounds, HpaFacts, Mode, Override, ScaleSpec
from forecaster.errors import InputError
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.decision import (
    DEAD_BAND,
    DEAD_BAND_RATIO,
    Decision,
    DecisionInput,
    DecisionState,
    decide,
    effective_mode,
    merge_for_hpa,
    record,
    replay,
    rows_to_states,
    states_to_rows,
    validity,
)
from forecaster.scaling.schedule import ScheduleState

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
TICK = timedelta(seconds=15)
SPEC = ScaleSpec("shop", "checkout", bounds=Bounds(max_step_up_ratio=100.0, max_step_down_ratio=1.0))
FACTS = HpaFacts(uid="u", min_replicas=2, max_replicas=40)
INPUT = DecisionInput(
    NOW,
    "checkout",
    SPEC,
    FACTS,
    users_own_min=2,
    peak=1000.0,
    level=0.99,
    newest_load=500.0,
    capacity=100.0,
    data_through=NOW,
    model_version="profile/1",
)
STALE = (Reason(ReasonCode.STALE_DATA, "5 minutes old"),)


def run(inputs: Sequence[DecisionInput], state: DecisionState | None = None) -> list[Decision]:
    state = DecisionState() if state is None else state
    decisions = []
    for one in inputs:
        decision, state = decide(one, state)
        decisions.append(decision)
    return decisions


def ticks(count: int, **changes: Any) -> list[DecisionInput]:
    """`count` inputs 15 s apart; a list among the changes gives one value per tick."""
    return [
        replace(INPUT, now=NOW + i * TICK, **{k: v[i] if isinstance(v, list) else v for k, v in changes.items()})
        for i in range(count)
    ]


def floors(decisions: Sequence[Decision]) -> list[int | None]:
    return [decision.floor for decision in decisions]


def codes(decision: Decision) -> set[ReasonCode]:
    return {reason.code for reason in decision.reasons}


def pin(low: int | None = None, high: int | None = None, kind: str = "pin", workload: str = "checkout") -> Override:
    return Override("o", workload, kind, NOW - TICK, NOW + timedelta(hours=1), low, high)


# --- one decision -------------------------------------------------------------------------------------------------


def test_floor_reactive_and_desired_of_a_plain_decision() -> None:
    (decision,) = run([INPUT])
    assert decision.floor == 10  # 1000 / 100
    assert decision.reactive == 8  # 500 / (100 x 0.7), rounded up
    assert decision.desired_replicas == 10
    assert decision.bound_by == "proactive"
    assert decision.reasons == ()
    recommendation = decision.to_recommendation()
    assert recommendation is not None
    assert (recommendation.namespace, recommendation.hpa, recommendation.hpa_uid) == ("shop", "checkout", "u")
    assert recommendation.valid_for == timedelta(seconds=360)  # twice the lead time of 180 s


def test_reactive_above_the_floor_is_what_is_desired() -> None:
    (decision,) = run([replace(INPUT, peak=100.0, newest_load=2000.0)])
    assert (decision.floor, decision.desired_replicas) == (2, 29)


def test_a_quotient_that_floats_miss_by_a_hair_is_not_rounded_up() -> None:
    assert run([replace(INPUT, peak=2.1, capacity=0.7)])[0].floor == 3


@pytest.mark.parametrize(
    ("changes", "floor", "bound_by"),
    [
        ({"schedule": ScheduleState(14)}, 14, "scheduled"),
        ({"schedule": ScheduleState(14), "overrides": (pin(16),)}, 16, "pinned"),
        ({"overrides": (pin(10),)}, 10, "pinned"),
        ({"overrides": (pin(16, workload="*"),)}, 16, "pinned"),
        ({"overrides": (pin(16, workload="other"),)}, 10, "proactive"),
        ({"overrides": (pin(high=4),)}, 4, "pinned_maximum"),
        ({"overrides": (pin(high=1),)}, 2, "pinned_maximum"),
        ({"schedule": ScheduleState(None, 5)}, 5, "scheduled_maximum"),
        ({"schedule": ScheduleState(None, 5), "overrides": (pin(7),)}, 7, "scheduled_maximum"),
        ({"peak": 100.0}, 2, "users_own"),
        ({"peak": 1e5}, 40, "maximum"),
        ({"most_needed": 4}, 6, "proactive"),
        ({"most_needed": 4, "schedule": ScheduleState(9)}, 9, "scheduled"),
        ({"most_needed": 4, "spec": replace(SPEC, allow_new_peak=True)}, 10, "proactive"),
        ({"spec": replace(SPEC, bounds=replace(SPEC.bounds, max_replicas=8))}, 8, "maximum"),
        ({"spec": replace(SPEC, bounds=replace(SPEC.bounds, min_replicas=12))}, 12, "users_own"),
        ({"spec": replace(SPEC, bounds=Bounds())}, 4, "step_up"),
    ],
    ids=[
        "schedule above forecast",
        "pin above schedule",
        "of equals the pin is named",
        "pin for all",
        "pin of another",
        "pinned maximum caps",
        "a pinned maximum never goes below the user's own minimum",
        "scheduled maximum caps",
        "a pin outranks a scheduled maximum",
        "never below the user's own minimum",
        "never above the HPA's maximum",
        "no new peak",
        "people may ask for a new peak",
        "a new peak is allowed",
        "bounds below the HPA's maximum",
        "bounds above the user's own minimum",
        "at most doubled in the first minute",
    ],
)
def test_rules(changes: dict[str, Any], floor: int, bound_by: str) -> None:
    (decision,) = run([replace(INPUT, **changes)])
    assert (decision.floor, decision.bound_by) == (floor, bound_by)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"facts": None}, ReasonCode.HPA_NOT_FOUND),
        ({"facts": replace(FACTS, max_replicas=None)}, ReasonCode.HPA_NOT_FOUND),
        ({"facts": replace(FACTS, max_replicas=1)}, ReasonCode.HPA_INVALID),
        ({"hpa_fault": "shop/checkout and shop/other scale one Deployment"}, ReasonCode.HPA_INVALID),
        ({"overrides": (pin(kind="pause"), pin(9))}, ReasonCode.PAUSED),
    ],
    ids=["nothing known", "no maximum", "minimum above maximum", "two HPAs", "paused"],
)
def test_no_floor_of_ours(changes: dict[str, Any], code: ReasonCode) -> None:
    (decision,) = run([replace(INPUT, **changes)])
    assert decision.floor is None
    assert code in codes(decision)
    assert decision.desired_replicas == decision.reactive == 8


def test_bounds_alone_are_enough_without_an_hpa() -> None:
    spec = replace(SPEC, bounds=replace(SPEC.bounds, min_replicas=3, max_replicas=8))
    assert run([replace(INPUT, spec=spec, facts=None, users_own_min=None)])[0].floor == 8


@pytest.mark.parametrize("peak", [math.nan, math.inf, -math.inf, -1.0, None])
def test_an_unusable_forecast_is_a_reason_and_schedules_and_pins_hold(peak: float | None) -> None:
    missing = Reason(ReasonCode.MODEL_UNAVAILABLE, "x")
    (decision,) = run([replace(INPUT, peak=peak, no_forecast=missing, schedule=ScheduleState(5))])
    assert decision.floor == 5
    assert ReasonCode.MODEL_UNAVAILABLE in codes(decision)
    (decision,) = run([replace(INPUT, peak=peak, no_forecast=missing, overrides=(pin(7),))])
    assert decision.floor == 7
    (decision,) = run([replace(INPUT, peak=peak, no_forecast=missing)])
    assert (decision.floor, decision.desired_replicas) == (None, 8)


@pytest.mark.parametrize("capacity", [None, 0.0, math.nan, -5.0, math.inf])
def test_without_capacity_only_people_are_obeyed(capacity: float | None) -> None:
    (decision,) = run([replace(INPUT, capacity=capacity, schedule=ScheduleState(5))])
    assert (decision.floor, decision.reactive) == (5, None)
    assert ReasonCode.CAPACITY_UNKNOWN in codes(decision)


def test_an_assumed_lead_time_and_a_reached_maximum_are_said() -> None:
    (decision,) = run([replace(INPUT, lead_time_assumed=True, peak=1e4, saturated=True)])
    assert codes(decision) == {
        ReasonCode.LEAD_TIME_UNKNOWN,
        ReasonCode.MAX_REPLICAS_REACHED,
        ReasonCode.SATURATED,
    }


def test_observing_publishes_nothing_yet_knows_the_floor() -> None:
    (decision,) = run([replace(INPUT, mode=Mode.OBSERVE)])
    assert decision.floor == 10
    assert decision.to_recommendation() is None


def test_validity_is_configured_or_follows_the_lead_time() -> None:
    assert validity(SPEC, timedelta(seconds=60)) == timedelta(minutes=5)
    assert validity(SPEC, timedelta(minutes=10)) == timedelta(minutes=20)
    assert validity(replace(SPEC, valid_for=timedelta(minutes=1)), timedelta(minutes=10)) == timedelta(minutes=1)


# --- over time ----------------------------------------------------------------------------------------------------


def test_the_floor_comes_down_only_after_the_hold() -> None:
    decisions = run(ticks(60, peak=[1000.0] + 59 * [500.0]))
    assert floors(decisions)[:40] == 40 * [10]
    assert set(floors(decisions)[40:]) == {5}  # 600 s after the last high want
    assert decisions[20].bound_by == "hold"
    assert ReasonCode.HELD in codes(decisions[20])


def test_a_single_high_want_renews_the_hold() -> None:
    peaks = [500.0] * 80
    peaks[0] = peaks[30] = 1000.0
    assert floors(run(ticks(80, peak=peaks))) == 70 * [10] + 10 * [5]


def test_small_steps_down_are_not_worth_an_event() -> None:
    spec = replace(SPEC, hold=timedelta(0))
    got = floors(run(ticks(4, spec=spec, peak=[3000.0, 2800.0, 2700.0, 100.0])))
    assert got == [30, 30, 27, 2]
    last = floors(run(ticks(2, spec=spec, peak=[300.0, 200.0])))
    assert last == [3, 2]  # the last one to the user's own value is


def test_steps_are_measured_against_the_floor_one_minute_ago() -> None:
    spec = replace(SPEC, hold=timedelta(0), bounds=Bounds())
    up = floors(run(ticks(13, spec=spec, peak=4000.0)))
    assert up == [4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 32]
    state = DecisionState()
    for one in ticks(40, spec=spec, peak=4000.0):
        _, state = decide(one, state)
    later = [replace(one, now=one.now + 40 * TICK, peak=0.0) for one in ticks(9, spec=spec)]
    assert floors(run(later, state)) == [32, 32, 32, 32, 26, 26, 26, 26, 21]


def test_a_step_is_at_least_one_replica() -> None:
    facts = replace(FACTS, min_replicas=1)
    spec = replace(SPEC, bounds=Bounds(max_step_up_ratio=0.1))
    assert run([replace(INPUT, spec=spec, facts=facts, users_own_min=1)])[0].floor == 2


def test_the_first_decision_starts_from_a_floor_that_already_stands() -> None:
    standing = replace(FACTS, min_replicas=20)  # ours, of before the state was lost
    (decision,) = run([replace(INPUT, spec=replace(SPEC, bounds=Bounds()), facts=standing, users_own_min=2)])
    assert (decision.floor, decision.bound_by) == (16, "step_down")


def test_missing_data_keeps_the_floor_for_its_validity_and_not_longer() -> None:
    inputs = ticks(40, peak=[1000.0] + 39 * [200.0], reasons=[()] + 39 * [STALE])
    decisions = run(inputs)
    assert floors(decisions) == 24 * [10] + 16 * [None]  # 360 s
    assert decisions[10].bound_by == "missing_data"
    assert decisions[10].valid_for == timedelta(seconds=360 - 150)  # not renewed by being issued again
    assert ReasonCode.EXPIRED in codes(decisions[24])


def test_a_schedule_holds_through_missing_data() -> None:
    inputs = ticks(60, peak=[1000.0] + 59 * [None], reasons=[()] + 59 * [STALE], schedule=ScheduleState(6))
    assert floors(run(inputs)) == 24 * [10] + 36 * [6]


def test_without_a_forecast_the_floor_stays_for_the_validity_then_walks_down() -> None:
    spec = replace(SPEC, bounds=Bounds(max_step_up_ratio=100.0))
    inputs = ticks(64, spec=spec, peak=[1000.0] + 63 * [None], no_forecast=Reason(ReasonCode.MODEL_UNAVAILABLE))
    got = floors(run(inputs))
    assert got[:24] == 24 * [10]
    assert got[24:] == [8] * 4 + [7] * 4 + [6] * 4 + [5] * 4 + [4] * 4 + [3] * 4 + [None] * 16


def test_one_missing_sample_prolongs_the_hold_by_no_more_than_itself() -> None:
    loads = [500.0] * 60
    loads[20] = math.nan
    got = floors(run(ticks(60, peak=[1000.0] + 59 * [500.0], newest_load=loads)))
    assert got == 41 * [10] + 19 * [5]


def test_faulty_data_neither_raises_nor_lowers_the_floor() -> None:
    peaks = [1000.0, 1e5, 1e5, 10.0, 10.0]
    decisions = run(ticks(5, peak=peaks, newest_load=[500.0, 5e4, 5e4, 5.0, 5.0], data_fault=[None] + 4 * ["x 100"]))
    assert floors(decisions) == 5 * [10]
    assert decisions[1].desired_replicas == 10
    assert ReasonCode.DATA_FAULT in codes(decisions[1])


def test_saturation_is_no_evidence_that_fewer_suffice() -> None:
    spec = replace(SPEC, hold=timedelta(0))
    got = floors(run(ticks(3, spec=spec, peak=[1000.0, 300.0, 300.0], saturated=[False, True, False])))
    assert got == [10, 10, 3]


def test_a_full_service_needs_at_least_what_the_hpa_would_ask_for() -> None:
    full = replace(INPUT, newest_load=1000.0, peak=1000.0, target_ratio=0.7, saturated=True)
    (decision,) = run([full])
    assert (decision.floor, decision.reactive, decision.bound_by) == (15, 15, "saturated")
    (ahead,) = run([replace(full, peak=2000.0)])  # a forecast that asks for more still has the word
    assert (ahead.floor, ahead.bound_by) == (20, "proactive")
    (at_ease,) = run([replace(full, saturated=False)])
    assert (at_ease.floor, at_ease.bound_by) == (10, "proactive")


def test_hold_keeps_the_floor_both_ways_and_pins_still_count() -> None:
    held = (pin(kind="hold"),)
    spec = replace(SPEC, hold=timedelta(0))
    overrides = [(), held, held, (*held, pin(12))]
    decisions = run(ticks(4, spec=spec, peak=[1000.0, 3000.0, 200.0, 200.0], overrides=overrides))
    assert floors(decisions) == [10, 10, 10, 12]
    assert decisions[1].bound_by == "held"
    assert ReasonCode.HELD in codes(decisions[1])


def test_pause_gives_the_users_value_back_and_ends_by_itself() -> None:
    paused = Override("p", "*", "pause", NOW + TICK, NOW + 3 * TICK)
    assert floors(run(ticks(5, overrides=(paused,)))) == [10, None, None, 10, 10]


def test_a_pin_that_ends_without_a_forecast_walks_down() -> None:
    one = Override("p", "checkout", "pin", NOW, NOW + 2 * TICK, 9)
    got = floors(run(ticks(4, peak=None, overrides=(one,))))
    assert got == [9, 9, None, None]


def test_a_restart_within_the_validity_goes_on_where_it_was() -> None:
    _, state = decide(INPUT, DecisionState())
    late = replace(INPUT, now=NOW + timedelta(minutes=5), peak=300.0)
    assert run([late], state)[0].floor == 10  # five minutes in which nothing was decided are no evidence
    very_late = replace(INPUT, now=NOW + timedelta(hours=2), peak=300.0)
    assert run([very_late], state)[0].floor == 3


def test_a_clock_that_jumps_back_does_not_lengthen_the_hold() -> None:
    _, state = decide(INPUT, DecisionState())
    back = [replace(one, now=one.now - timedelta(hours=1)) for one in ticks(60, peak=500.0)]
    got = floors(run(back, state))
    assert got[0] == 10
    assert got[45:] == 15 * [5]


# --- laws -----------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.none(),
    st.floats(0, 1e5),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300, 1e15, 1e-12]),
)
loads = st.one_of(st.floats(0, 1e5), st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300]))
small = st.one_of(st.none(), st.integers(0, 60))
ratios = st.floats(0, 3)
reason_lists = st.lists(st.sampled_from(ReasonCode), max_size=2).map(lambda some: tuple(Reason(c) for c in some))


@st.composite
def overrides(draw: st.DrawFn) -> tuple[Override, ...]:
    kinds = draw(st.lists(st.sampled_from(["pin", "pin", "pause", "hold"]), max_size=2))
    start = NOW + timedelta(seconds=draw(st.integers(-600, 600)))
    end = start + timedelta(seconds=draw(st.integers(1, 900)))
    return tuple(
        Override(f"o{i}", draw(st.sampled_from(["checkout", "*", "other"])), kind, start, end, draw(small), draw(small))
        for i, kind in enumerate(kinds)
    )


@st.composite
def settings_of_a_workload(draw: st.DrawFn) -> DecisionInput:
    bounds = Bounds(draw(small), draw(small), draw(ratios), draw(st.floats(0, 1)))
    spec = ScaleSpec(
        "shop",
        "checkout",
        bounds=bounds,
        hold=timedelta(seconds=draw(st.integers(0, 1800))),
        allow_new_peak=draw(st.booleans()),
        valid_for=draw(st.one_of(st.none(), st.timedeltas(timedelta(seconds=30), timedelta(hours=1)))),
    )
    facts = draw(
        st.one_of(st.none(), st.builds(HpaFacts, min_replicas=small, max_replicas=small, target_ratio=st.none()))
    )
    return replace(
        INPUT,
        spec=spec,
        facts=facts,
        users_own_min=draw(small),
        mode=draw(st.sampled_from(Mode)),
        most_needed=draw(small),
        lead_time=draw(st.timedeltas(timedelta(seconds=30), timedelta(minutes=15))),
        target_ratio=draw(st.floats(0.1, 1)),
    )


@st.composite
def sequences(draw: st.DrawFn) -> list[DecisionInput]:
    now, one = NOW, draw(settings_of_a_workload())
    found = []
    for _ in range(draw(st.integers(1, 12))):
        now += timedelta(seconds=draw(st.one_of(st.just(15), st.integers(-60, 1200))))
        found.append(
            replace(
                one,
                now=now,
                peak=draw(numbers),
                newest_load=draw(loads),
                capacity=draw(st.one_of(st.just(100.0), numbers)),
                saturated=draw(st.booleans()),
                data_fault=draw(st.sampled_from([None, None, None, "half of the targets are gone"])),
                reasons=draw(st.one_of(st.just(()), reason_lists)),
                overrides=draw(st.one_of(st.just(()), overrides())),
                schedule=draw(st.one_of(st.just(ScheduleState()), st.builds(ScheduleState, small, small))),
            )
        )
    return found


@given(sequences())
def test_the_floor_is_whole_and_within_the_users_own_and_the_maximum_whatever_comes(
    inputs: list[DecisionInput],
) -> None:
    for one, decision in zip(inputs, run(inputs), strict=True):
        if decision.floor is not None:
            assert type(decision.floor) is int
            assert decision.users_own is not None and decision.most is not None
            assert decision.users_own <= decision.floor <= decision.most
            assert one.users_own_min is None or decision.floor >= one.users_own_min
            assert decision.desired_replicas is not None and decision.desired_replicas >= decision.floor
        for number in (decision.reactive, decision.desired_replicas):
            assert number is None or type(number) is int
        assert timedelta(0) < decision.valid_for <= validity(one.spec, one.lead_time)


@given(sequences())
def test_every_decision_replays_bit_equal_from_its_record(inputs: list[DecisionInput]) -> None:
    state = DecisionState()
    for one in inputs:
        stored = json.loads(json.dumps(record(one, state), allow_nan=False))
        decision, state = decide(one, state)
        assert replay(stored) == decision


@given(sequences())
def test_a_state_restored_from_rows_decides_the_same(inputs: list[DecisionInput]) -> None:
    state = DecisionState()
    for one in inputs:
        restored = rows_to_states(states_to_rows({"a": state, "b": DecisionState()}))
        assert repr(decide(one, restored["a"])) == repr(decide(one, state))  # by text: NaN equals no NaN
        _, state = decide(one, state)


plain = st.builds(
    lambda hold, up, down, valid: replace(
        SPEC, hold=timedelta(seconds=hold), bounds=Bounds(None, None, up, down), valid_for=timedelta(seconds=valid)
    ),
    st.integers(0, 900),
    ratios,
    st.floats(0, 1),
    st.integers(60, 900),
)


@given(plain, st.lists(st.floats(0, 5000), min_size=1, max_size=60))
def test_steps_stay_within_their_limits(spec: ScaleSpec, peaks: list[float]) -> None:
    got = [2, *(floor for floor in floors(run(ticks(len(peaks), spec=spec, peak=peaks))) if floor is not None)]
    for i in range(1, len(got)):
        ago = got[max(0, i - 4)]  # one minute
        highest = max(got[max(0, i - 4) : i])
        up = ago + max(1, math.floor(round(ago * spec.bounds.max_step_up_ratio, 6)))
        assert got[i] <= max(up, got[i - 1])  # a limit on the way up never takes a floor down
        assert got[i] >= highest - max(1, math.floor(round(highest * spec.bounds.max_step_down_ratio, 6)))


@given(plain, st.lists(st.floats(0, 5000), min_size=2, max_size=50), st.integers(1, 40))
def test_the_floor_never_falls_on_missing_data_within_its_validity(
    spec: ScaleSpec, peaks: list[float], since: int
) -> None:
    since = min(since, len(peaks) - 1)
    reasons: list[Any] = [STALE if i >= since else () for i in range(len(peaks))]
    got = floors(run(ticks(len(peaks), spec=spec, peak=peaks, reasons=reasons)))
    assert spec.valid_for is not None
    for i in range(since, len(peaks)):
        within = (i - since + 1) * TICK < spec.valid_for
        before, now = got[i - 1], got[i]
        if within:
            assert before is not None and now is not None and now >= before
        else:
            assert now is None


@given(settings_of_a_workload(), st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_first_decision_is_monotone_in_the_forecast_and_in_the_load(
    one: DecisionInput, first: float, second: float
) -> None:
    low, high = sorted((first, second))
    for name in ("peak", "newest_load"):
        below, above = (decide(replace(one, **{name: value}), DecisionState())[0] for value in (low, high))
        assert (below.floor is None) == (above.floor is None)
        if below.floor is not None and above.floor is not None:
            assert below.floor <= above.floor
        if below.reactive is not None and above.reactive is not None:
            assert below.reactive <= above.reactive
            assert below.desired_replicas is not None and above.desired_replicas is not None
            assert below.desired_replicas <= above.desired_replicas


@settings(deadline=None)
@given(plain, st.lists(st.tuples(st.floats(0, 4000), st.floats(0, 1500)), min_size=1, max_size=60))
def test_along_a_sequence_a_higher_forecast_never_gives_a_lower_floor_but_for_the_dead_band(
    spec: ScaleSpec, peaks: list[tuple[float, float]]
) -> None:
    low = floors(run(ticks(len(peaks), spec=spec, peak=[peak for peak, _ in peaks])))
    high = floors(run(ticks(len(peaks), spec=spec, peak=[peak + more for peak, more in peaks])))
    for below, above in zip(low, high, strict=True):
        assert below is not None and above is not None
        # a dead band keeps the lower one where it was while the higher one may move: by less than the band
        assert above > below - max(DEAD_BAND, DEAD_BAND_RATIO * below)


# --- several --------------------------------------------------------------------------------------------------------


def test_several_workloads_on_one_hpa_give_the_maximum_and_the_most_cautious_mode() -> None:
    small_one = run([replace(INPUT, workload="search", peak=300.0, newest_load=1500.0, mode=Mode.APPLY)])[0]
    merged = merge_for_hpa([run([INPUT])[0], small_one])
    assert (merged.floor, merged.reactive, merged.desired_replicas) == (10, 22, 22)
    assert merged.mode is Mode.RECOMMEND
    assert merged.workload == "checkout, search"


def test_a_voice_that_falls_silent_does_not_drop_the_merged_floor_at_once() -> None:
    silent = run([replace(INPUT, peak=None)])[0]
    other = run([replace(INPUT, workload="search", peak=300.0)])[0]
    assert silent.floor is None
    assert merge_for_hpa([silent, other]).floor == 3
    assert merge_for_hpa([silent, other], before=20).floor == 16


def test_decisions_of_two_hpas_do_not_merge() -> None:
    other = run([replace(INPUT, spec=replace(SPEC, hpa="other"))])[0]
    with pytest.raises(ValueError, match="different HPAs"):
        merge_for_hpa([run([INPUT])[0], other])


def test_the_most_cautious_mode_wins() -> None:
    assert effective_mode(Mode.APPLY, None, Mode.RECOMMEND) is Mode.RECOMMEND
    assert effective_mode(Mode.APPLY, Mode.OBSERVE) is Mode.OBSERVE
    assert effective_mode(Mode.APPLY) is Mode.APPLY


def test_a_record_of_another_version_or_a_damaged_one_is_refused() -> None:
    stored = record(INPUT, DecisionState())
    with pytest.raises(InputError, match="version 2"):
        replay({**stored, "stateVersion": 2})
    with pytest.raises(InputError, match="not a DecisionInput"):
        replay({**stored, "inputs": {**stored["inputs"], "peak": "a lot"}})
    with pytest.raises(InputError, match="not a DecisionInput"):
        replay({**stored, "inputs": {"now": stored["inputs"]["now"]}})
