"""Scores are calibrated, the budget is kept, incidents open once, say what happened and always end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import budget, residual
from forecaster.anomaly.feedback import NOTHING
from forecaster.anomaly.follow import AnomalyState, Followed, Seen, dump, follow, restore, start
from forecaster.domain import FloatArray, Incident
from forecaster.scaling.tripwires import FaultKind

NOW = 1_772_000_000 // 86_400 * 86_400
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
Z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
KEYS = ("checkout#abc/load",)


def around(median: float, spread: float, rows: int = 1) -> FloatArray:
    return np.asarray(np.repeat((median + spread * Z)[None, :], rows, axis=0))


def step(
    state: AnomalyState,
    i: int,
    observed: Sequence[float] | FloatArray,
    one_step: FloatArray | None = None,
    one_hour: FloatArray | None = None,
    seconds: float = 60.0,
    **changes: Any,
) -> Followed:
    rows = len(state.rows.keys)
    quantiles = around(100.0, 5.0, rows) if one_step is None else one_step
    seen = Seen(
        now=NOW + int(i * seconds),
        observed=np.asarray(observed, dtype=np.float64),
        one_step=quantiles,
        one_hour=quantiles if one_hour is None else one_hour,
        levels=LEVELS,
        masked=changes.get("masked", np.zeros(rows, dtype=bool)),
        faults=changes.get("faults", np.zeros(rows, dtype=np.int64)),
        fault_words=changes.get("words", lambda _row: "half of it is missing"),
    )
    return follow(state, seen, changes.get("per_week", 0.1), seconds, changes.get("taught", NOTHING))


def run(values: Iterable[float], state: AnomalyState | None = None, first: int = 0, **changes: Any) -> list[Followed]:
    state = start(KEYS) if state is None else state
    found = []
    for i, value in enumerate(values):
        found.append(step(state, first + i, [value], **changes))
        state = found[-1].state
    return found


def noise(n: int, seed: int = 0) -> list[float]:
    return (100 + 5 * np.random.default_rng(seed).standard_normal(n)).tolist()


def opened(found: Iterable[Followed]) -> list[Incident]:
    return [incident for one in found for incident in one.opened]


def closed(found: Iterable[Followed]) -> list[Incident]:
    return [incident for one in found for incident in one.closed]


# --- score --------------------------------------------------------------------------------------------------------


def test_surprise_is_the_two_sided_tail_of_the_forecast() -> None:
    q = around(100.0, 5.0, 4)
    s = residual.surprise(np.array([q[0, 5], q[0, 6], q[0, 0], 100.0]), q, LEVELS)
    np.testing.assert_allclose(np.exp(-np.abs(s)), [0.2, 0.02, 0.02, 1.0])
    assert s[2] < 0 < s[1]


def test_a_score_is_minus_log10_of_the_share_of_the_past_that_was_as_surprising() -> None:
    rng = np.random.default_rng(1)
    state = residual.blank()
    past = rng.exponential(2.0, 20_000)  # twice as surprised as the quantiles promise
    for s in past:
        state |= residual.learned(state, np.array([s]), np.array([0.0]), np.array([True]))
    wanted = np.array([1.0, 3.0, 6.0, 9.0])
    score = residual.calibrated(np.repeat(np.asarray(state["past"]), 4, axis=0), wanted)
    true = [-math.log10((past >= s).mean()) for s in wanted]
    np.testing.assert_allclose(score, true, atol=0.15)
    far = residual.calibrated(np.asarray(state["past"]), np.array([40.0]))[0]
    assert 5 < far < 15  # the fitted tail, beyond all ranks: exp(-20) is 8.7


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e3), st.floats(-1e7, 1e7))
def test_the_unit_of_a_series_does_not_change_its_score(median: float, spread: float, value: float) -> None:
    unknown = np.array([math.nan])
    plain = residual.widened(around(median, spread), LEVELS, unknown)
    other = residual.widened(around(1000 * median, 1000 * spread), LEVELS, unknown)
    a = residual.surprise(np.array([value]), plain, LEVELS)
    b = residual.surprise(np.array([1000 * value]), other, LEVELS)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20), st.integers(0, 2000))
def test_more_surprise_is_never_a_lower_score(sizes: list[float], learned: int) -> None:
    past = np.asarray(residual.blank()["past"]) + learned * np.eye(1, residual.BINS, 8, dtype=np.float32)
    score = residual.calibrated(np.repeat(past, len(sizes), axis=0), np.array(sorted(sizes)))
    assert (np.diff(score) >= -1e-9).all()
    assert ((score >= 0) & (score <= residual.HIGHEST_SCORE)).all()


def test_a_constant_series_forgives_rounding_and_not_a_change() -> None:
    flat = around(100.0, 0.0)
    found = run([100.0] * 50 + [100.1, 100.0, 130.0], one_step=flat)
    assert found[50].score[0] < 1
    assert found[52].score[0] > 5
    assert np.isfinite([one.score[0] for one in found]).all()


def test_a_missing_sample_or_forecast_is_not_scored() -> None:
    (one,) = run([math.nan])
    assert math.isnan(one.score[0])
    nothing = np.full((1, len(LEVELS)), math.nan)
    (one,) = run([5.0], one_step=nothing)
    assert math.isnan(one.score[0]) and not one.opened


def test_a_forecast_an_hour_old_sees_what_the_newest_has_followed() -> None:
    found = run(noise(300))
    crept = step(found[-1].state, 300, [160.0], one_step=around(158.0, 5.0), one_hour=around(100.0, 5.0))
    assert len(crept.opened) == 1
    assert crept.opened[0].expected_high == pytest.approx(around(100.0, 5.0)[0, -1])


# --- incidents ------------------------------------------------------------------------------------------------------


def test_a_spike_is_one_incident_that_opens_and_closes() -> None:
    found = run([*noise(300), 110.0, 118.0, 190.0, 200.0, 195.0, *([101.0] * 20)])
    (one,) = opened(found)
    assert one.workload == "checkout" and one.role == "load"
    assert (one.kind, one.direction, one.severity) == ("residual", "up", "critical")
    assert one.opened_at == datetime.fromtimestamp(NOW + 302 * 60, UTC)
    assert one.onset == datetime.fromtimestamp(NOW + 301 * 60, UTC)  # before it was noticed
    (end,) = closed(found)
    assert end.id == one.id
    assert end.closed_at == datetime.fromtimestamp(NOW + 309 * 60, UTC)  # five calm samples
    assert end.observed == 200.0
    assert "checkout: load reached 200, above the expected 88.37 to 111.6, since 20" in end.sentence


def test_a_forecast_that_overshoots_does_not_rewrite_what_happened() -> None:
    state = run(noise(600))[-1].state
    found = step(state, 600, [200.0])
    (incident,) = found.opened
    assert incident.direction == "up"
    # The next forecast has followed the jump, too far, and is more surprised from the other side.
    (after,) = step(found.state, 601, [200.0], one_step=around(400.0, 1.0)).open
    assert after.observed > after.expected_high
    assert after.sentence == incident.sentence
    (worse,) = step(found.state, 601, [900.0]).open
    assert (worse.observed, worse.direction) == (900.0, "up")


def test_a_fall_to_zero_is_down() -> None:
    (one,) = opened(run([*noise(300), 0.0]))
    assert one.direction == "down"
    assert "below" in one.sentence


def test_a_new_level_alarms_once_and_is_accepted_after_an_hour() -> None:
    shifted = [v + 100 for v in noise(600, 3)]
    found = run([*noise(300), *shifted])
    assert len(opened(found)) == 1
    (end,) = closed(found)
    assert end.closed_at == datetime.fromtimestamp(NOW + (300 + 60) * 60, UTC)
    assert end.sentence.endswith("accepted as the new regime")
    assert found[340].exclude[0] and not found[370].exclude[0]  # afterwards the new level is learned


def test_after_acceptance_the_other_direction_still_alarms() -> None:
    found = run([*noise(300), *(v + 100 for v in noise(100, 3)), 0.0])
    assert [one.direction for one in opened(found)] == ["up", "down"]


def test_an_unstable_anomaly_ends_after_six_hours() -> None:
    wild = [100 + (150 if i % 2 else -100) for i in range(500)]
    found = run([*noise(300), *wild])
    (end,) = closed(found)
    assert end.closed_at == datetime.fromtimestamp(NOW + (300 + 360) * 60, UTC)


def test_an_incident_ends_when_its_series_falls_silent() -> None:
    found = run([*noise(300), 200.0, *([math.nan] * 70)])
    (end,) = closed(found)
    assert end.closed_at == datetime.fromtimestamp(NOW + 360 * 60, UTC)


def test_marked_samples_neither_alarm_nor_are_learned_from() -> None:
    state = run(noise(300))[-1].state
    one = step(state, 300, [500.0], masked=np.array([True]))
    assert not one.opened and one.exclude[0]
    np.testing.assert_array_equal(one.state.rows.arrays["past"], state.rows.arrays["past"])
    assert one.score[0] > 5  # shown all the same


def test_the_mask_of_own_incidents_lets_go_at_a_fifth_of_the_time() -> None:
    state = run(noise(300))[-1].state
    rows = {**state.rows.arrays, "excluded": np.array([0.3])}
    state = AnomalyState(type(state.rows)(state.rows.keys, rows), state.open, state.faults)
    one = step(state, 300, [200.0])
    assert one.opened and not one.exclude[0]


# --- data faults ------------------------------------------------------------------------------------------------------


def test_a_data_fault_is_an_incident_of_its_own_and_flapping_is_one() -> None:
    state = run(noise(300))[-1].state
    flags = [1, 1, 0, 1, 0, 0, 0, 0]
    found = []
    for i, flag in enumerate(flags):
        fault = FaultKind.LOST_TARGETS if flag else FaultKind.NONE
        found.append(step(state, 300 + i, [50.0 if flag else 100.0], faults=np.array([int(fault)])))
        state = found[-1].state
    (one,) = opened(found)
    assert (one.kind, one.direction) == ("data_fault", "none")
    assert one.sentence == "checkout: load cannot be trusted: half of it is missing"
    (end,) = closed(found)
    assert end.closed_at == datetime.fromtimestamp(NOW + (300 + 6) * 60, UTC)
    assert [bool(f.exclude[0]) for f in found[:4]] == [True, True, False, True]


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_restart_in_the_middle_of_an_incident_goes_on_with_it() -> None:
    values = [*noise(300), 200.0, 210.0, *([101.0] * 10)]
    straight = run(values)
    before = run(values[:301])
    rows, told = dump(before[-1].state)
    after = run(values[301:], restore(rows, json.loads(json.dumps(told))), first=301)
    assert closed(after) == closed(straight)
    np.testing.assert_array_equal(after[-1].score, straight[-1].score)


def test_a_row_that_lost_its_incident_starts_calm() -> None:
    state = run([*noise(300), 200.0])[-1].state
    rows, _ = dump(state)
    again = step(restore(rows, []), 301, [210.0])
    assert len(again.opened) == 1


def test_a_workload_that_leaves_takes_its_incident_along_and_others_keep_theirs() -> None:
    state = start(("a#1/load", "b#1/load"))
    state = step(state, 0, [500.0, 500.0]).state
    assert set(state.open) == {"a#1/load", "b#1/load"}
    moved = step(start(("c#1/load", "b#1/load"), state), 1, [100.0, 500.0])
    assert [incident.workload for incident in moved.closed] == ["a"]
    assert [incident.workload for incident in moved.open] == ["b"]


# --- budget -----------------------------------------------------------------------------------------------------


def test_rows_of_one_workload_share_its_budget() -> None:
    got = budget.shares(("a#1/load", "a#1/cpu", "b#1/load"), 0.2)
    np.testing.assert_allclose(got, [0.1, 0.1, 0.2])


def test_with_no_past_the_threshold_is_what_independent_scores_would_need() -> None:
    got = budget.thresholds(np.full((1, budget.DAYS), math.nan), np.array([0.1]), 60.0)
    assert got[0] == pytest.approx(math.log10(10_080 / 0.1))


def test_with_ten_weeks_of_own_days_only_they_count() -> None:
    maxima = np.stack([np.linspace(2, 4, budget.DAYS), np.linspace(2, 9, budget.DAYS)])
    got = budget.thresholds(maxima, np.array([0.1, 0.1]), 60.0)
    np.testing.assert_allclose(got, [4.0, 9.0], rtol=0.02)


def test_a_spent_budget_is_published() -> None:
    found = run([*noise(300), 200.0, *([100.0] * 10)])
    assert found[-1].budget_used[0] == pytest.approx(1.0)  # one in ten weeks at 0.1 a week


def test_a_budget_of_nothing_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="budget"):
        run([1.0], per_week=0.0)


@pytest.mark.slow
def test_the_budget_is_kept_on_dependent_and_misjudged_residuals() -> None:
    """40 workloads x 16 weeks of AR(1) residuals twice as wide as the forecast says, judged every 30 minutes."""
    rows, seconds, weeks, per_week = 40, 1800.0, 16, 0.5
    rng = np.random.default_rng(11)
    state, m, counts = start([f"w{i}#x/load" for i in range(rows)]), np.zeros(rows), np.zeros(weeks)
    per = int(7 * 86_400 / seconds)
    narrow = around(100.0, 2.5, rows)
    for i in range(weeks * per):
        m = 0.6 * m + 0.8 * rng.standard_normal(rows)
        one = step(state, i, 100 + 5 * m, one_step=narrow, seconds=seconds, per_week=per_week)
        state = one.state
        counts[i // per] += len(one.opened)
    measured = counts[4:].mean() / rows
    assert 0.25 < measured < 0.75  # 240 alarms are expected: chance is 6 %


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=False, width=32), st.just(100.0)), max_size=80))
def test_whatever_comes_scores_are_bounded_and_every_incident_that_closes_was_opened(values: list[float]) -> None:
    found = run([*noise(30), *values])
    ids = [incident.id for incident in opened(found)]
    assert len(set(ids)) == len(ids)
    assert {incident.id for incident in closed(found)} <= set(ids)
    for one, value in zip(found, [*noise(30), *values], strict=True):
        assert math.isnan(value) == math.isnan(one.score[0])
        assert math.isnan(value) or 0 <= one.score[0] <= residual.HIGHEST_SCORE
        assert len(one.open) <= 1
