"""What people say of incidents moves a row's budget within bounds, and what is expected does not alarm again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.anomaly import follow
from forecaster.anomaly.feedback import (
    EXPECTED,
    FALSE_ALARM,
    LEAST_FACTOR,
    MOST_FACTOR,
    NOTHING,
    REAL,
    TOLERANCE,
    taught,
    without,
)
from forecaster.domain import Incident
from tests.forecaster.anomaly.test_follow import NOW, closed, noise, opened, run, step

AT = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)  # a Monday
ROW = [("checkout", "load")]


def incident(feedback: str | None = None, at: datetime = AT, id: str = "i", **more: object) -> Incident:
    one = Incident(
        id=id,
        workload="checkout",
        role="load",
        kind="residual",
        direction="up",
        severity="warning",
        opened_at=at + timedelta(minutes=2),
        onset=at,
        closed_at=at + timedelta(minutes=20),
        score=6.0,
        observed=200.0,
        expected_low=80.0,
        expected_high=120.0,
        sentence="",
        feedback=feedback,
    )
    return replace(one, **more)  # type: ignore[arg-type]


def quiet(given: Incident | list[Incident], at: datetime, observed: float = 190.0, up: bool = True) -> bool:
    found = taught(given if isinstance(given, list) else [given], {"checkout": "Europe/Berlin"})
    now, side = int(at.timestamp()), np.array([up])
    return bool(found.suppressed(ROW, ["residual"], now, side, np.array([observed]))[0])


# --- budget ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([REAL, FALSE_ALARM]), max_size=40))
def test_each_word_doubles_or_halves_the_budget_within_bounds(said: list[str]) -> None:
    told = [incident(word, AT + timedelta(days=i), str(i)) for i, word in enumerate(said)]
    found = taught(told)
    factor = found.factors(ROW, ["residual"])[0]
    assert LEAST_FACTOR <= factor <= MOST_FACTOR
    assert taught(reversed(told)) == found  # in whatever order it is told
    assert found.factors([("checkout", "cpu")], ["residual"])[0] == found.factors(ROW, ["drift"])[0] == 1.0
    if said:
        last = taught([*told, incident(REAL, AT + timedelta(days=99), "z")]).factors(ROW, ["residual"])[0]
        assert last == min(MOST_FACTOR, 2 * factor)


def test_what_is_said_of_a_new_level_counts_for_the_jump_that_it_opens_as() -> None:
    assert taught([incident(REAL, kind="level_shift")]).factors(ROW * 2, ["residual", "level_shift"]).tolist() == [2, 2]
    assert quiet(incident(EXPECTED, kind="level_shift"), AT + timedelta(days=7))


def test_what_is_said_of_a_group_counts_for_each_of_its_series() -> None:
    one, other = incident(), incident(id="j", role="cpu")
    group = replace(one, feedback=FALSE_ALARM, parts=(one.part(), other.part()))
    assert taught([group]).factors([*ROW, ("checkout", "cpu")], ["residual"] * 2).tolist() == [0.5, 0.5]


def test_a_false_alarm_raises_the_threshold_at_once_and_a_real_one_lowers_it() -> None:
    (before,) = run([100.0])
    low, high = (
        step(before.state, 1, [100.0], taught=taught([incident(word)])).threshold[0] for word in (REAL, FALSE_ALARM)
    )
    assert before.threshold[0] - low == pytest.approx(0.301, abs=1e-3)  # half as rare, twice as rare
    assert high - before.threshold[0] == pytest.approx(0.301, abs=1e-3)


# --- expected --------------------------------------------------------------------------------------------------------


def test_what_is_expected_is_so_at_the_same_time_of_that_weekday() -> None:
    job, week, day = incident(EXPECTED), timedelta(days=7), timedelta(days=1)
    assert quiet(job, AT + week) and quiet(job, AT + 3 * week + timedelta(minutes=20) + TOLERANCE)
    assert quiet(job, AT + week - TOLERANCE) and not quiet(job, AT + week - TOLERANCE - timedelta(minutes=1))
    assert not quiet(job, AT + day) and not quiet(job, AT + week + timedelta(hours=2))
    assert not quiet(job, AT + week, observed=50.0, up=False)  # the other direction is another thing
    assert quiet(job, AT + week, observed=239.0) and not quiet(job, AT + week, observed=241.0)  # and so is far more
    assert not quiet(incident(REAL), AT + week) and not quiet(incident(FALSE_ALARM), AT + week)


def test_it_follows_the_clock_of_its_workload() -> None:
    """Europe/Berlin is an hour further from UTC after 29 March."""
    job, week = incident(EXPECTED), timedelta(days=7)
    assert quiet(job, AT + 4 * week - timedelta(hours=1)) and not quiet(job, AT + 4 * week + timedelta(hours=1))


def test_two_weekdays_at_the_same_time_are_every_day() -> None:
    day = timedelta(days=1)
    jobs = [incident(EXPECTED), incident(EXPECTED, AT + day + timedelta(minutes=10), "j")]
    assert all(quiet(jobs, AT + k * day) for k in range(20))
    assert not quiet(jobs, AT + 3 * day + timedelta(hours=3))
    assert not quiet([jobs[0], incident(EXPECTED, AT + timedelta(days=7), "k")], AT + 3 * day)  # the same weekday twice


def test_an_expected_incident_does_not_alarm_again_and_another_does() -> None:
    calm, spike = noise(240), [260.0] * 4
    first = run([*calm, *spike, *noise(1500, 1)])
    told = taught([replace(one, feedback=EXPECTED) for one in closed(first)])
    assert len(closed(first)) == 1
    week = 7 * 1440
    again = run([*spike, *noise(60, 2)], first[-1].state, 240 + week, taught=told)
    assert opened(again) == []
    other = run([*spike, *noise(60, 2)], first[-1].state, 240 + week + 300, taught=told)
    assert len(opened(other)) == 1
    assert len(opened(run([*spike, *noise(60, 2)], first[-1].state, 240 + week))) == 1  # nobody said anything


def test_an_open_incident_that_is_expected_closes_and_stays_quiet_as_long_as_the_level_stays() -> None:
    before = run([*noise(240), 260.0, 261.0, 260.0])
    (one,) = opened(before)
    state, gone = follow.as_expected(before[-1].state, {one.id}, NOW + 243 * 60)
    assert [(i.id, i.sentence[-8:]) for i in gone] == [(one.id, "expected")] and gone[0].closed_at is not None
    after = run([260.0, 261.0, 259.0], state, 243)
    assert opened(after) == [] and after[-1].open == ()
    calm = run(noise(1500, 3), after[-1].state, 246)
    assert len(opened(run([500.0] * 3, calm[-1].state, 1746))) == 1  # it had ended: this is another one


def test_what_was_no_anomaly_is_given_back_to_learning() -> None:
    assert without([(0, 100)], [(20, 40)]) == [(0, 20), (40, 100)]
    assert without([(0, 100), (200, 300)], [(50, 250)]) == [(0, 50), (250, 300)]
    assert without([(0, 100)], [(-5, 2**62)]) == [] and without([(0, 100)], [(100, 200)]) == [(0, 100)]
    found = taught([incident(EXPECTED), incident(REAL, AT + timedelta(days=1), "j")])
    assert len(found.harmless["checkout", "load"]) == 1


def test_nothing_said_changes_nothing() -> None:
    assert taught([incident()]) == NOTHING
    a, b = run(noise(50)), run(noise(50), taught=NOTHING)
    np.testing.assert_array_equal([x.threshold[0] for x in a], [x.threshold[0] for x in b])
