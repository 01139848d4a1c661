"""Laws of what is played: the oracle is safe and cheapest, more head-room is never less safe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.scaling.whatif import floors, measures, rivals
from forecaster.scaling.whatif.play import oracle_played, play, ready_of
from tests.forecaster.scaling.whatif.loads import daily, trial

SMALL = trial(daily(2, seed=3))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1_000), st.sampled_from([600, 900]), st.integers(1, 4), st.integers(0, 6))
def test_the_oracle_is_never_short_and_nobody_who_never_is_pays_less(
    seed: int, start_up: int, hold: int, spare: int
) -> None:
    one = trial(daily(2, seed=seed), start_up=start_up)
    perfect = oracle_played(one, "test")
    assert perfect.above.sum() == 0
    longer = rivals.ahead_maximum(rivals.oracle(one), 20 * hold) + spare  # others who are safe, with more of it
    played = play(one, [one.service(100, 0.0), one.service(40, 1_800.0)], [longer, None], "test")
    for place in range(2):
        if played.above[place].sum() == 0:
            assert played.cost()[place] >= perfect.cost()[0] * (1 - 1e-9)


def test_one_replica_less_at_any_need_of_the_oracle_is_short() -> None:
    count = rivals.oracle(SMALL)
    need = rivals.needed(SMALL.load, SMALL.capacity)
    tick = int(np.argmax(need))
    fewer = count.copy()
    fewer[tick - SMALL.start_up // 15] -= 1
    assert ready_of(count, SMALL.start_up)[tick] >= need[tick]
    assert ready_of(fewer, SMALL.start_up)[tick] < need[tick]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=30, max_size=120), st.integers(0, 20), st.sampled_from([60.0, 300.0]))
def test_more_head_room_never_raises_the_time_above_capacity(needs: list[int], more: int, hold: float) -> None:
    need, rules = np.array(needs), floors.FloorRules(1, 1_000, hold)
    low = ready_of(floors.floors_of(need, rules, compiled=False), 60)
    high = ready_of(floors.floors_of(need + more, rules, compiled=False), 60)
    assert (need > high).sum() <= (need > low).sum()


def test_sums_of_days_are_those_of_the_part() -> None:
    played = play(SMALL, [SMALL.service()], [None], "training")
    assert played.seconds.sum() == SMALL.training_days * 86_400
    assert played.offered.sum() == pytest.approx(SMALL.load[: SMALL.cut_tick].sum() * 15.0)


def test_the_last_six_syncs_of_a_steady_load_give_what_the_hpa_wants() -> None:
    steady = np.full(len(SMALL.load), 420.0)
    from dataclasses import replace

    assert set(rivals.phpa_linear(replace(SMALL, load=steady)).tolist()) == {10}  # 420 / (60 x 0.7)


def test_the_offset_pattern_sees_the_half_hour_of_a_week_ago() -> None:
    values = daily(12)
    one = trial(values)
    found = rivals.week_offset(one)
    step = one.cut + 5
    expected = np.ceil(values[step - 7 * 288 : step - 7 * 288 + 6].max() / 42.0)
    assert found[(step - one.first) * one.per_step] == expected
    early = rivals.week_offset(trial(daily(5)))
    assert set(early.tolist()) == {2}  # no week before it: the user's own minimum


# --- measures ---


def test_a_change_counts_time_that_was_none_before_as_endless_and_none_as_no_change() -> None:
    played = play(SMALL, [SMALL.service(40), SMALL.service(100)], [None, None], "test")
    none, some = played.only([0]), played.only([1])
    none.above[:] = 0.0
    assert measures.change(some, 0, none, 0).time == np.inf
    assert not measures.change(some, 0, none, 0).both
    assert measures.change(none, 0, none, 0).time == 0.0
    assert measures.change(none, 0, some, 0).time == -1.0


def test_the_frontier_keeps_what_nobody_outdoes() -> None:
    time, cost = np.array([3.0, 2.0, 2.0, 1.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert measures.frontier(time, cost) == [0, 1, 3]
    assert measures.safest_within(time, cost, 3.0) == 1
    assert measures.cheapest_within(time, cost, 2.0) == 1
    assert measures.cheapest_within(time, cost, 0.5) is None
