"""The dial is true: what is asked for is what is measured, and what is not known is not learned from."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from forecaster.rows import Rows
from forecaster.scaling.risk import (
    HIGHEST_LEVEL,
    LOWEST_LEVEL,
    Judged,
    RiskReport,
    blank,
    issue,
    judge,
    obeyed,
    patience,
    start,
)

NOW = 1_772_000_000 // 3600 * 3600


def one(**changes: Any) -> Judged:
    values: dict[str, Any] = {
        "load": 100.0,
        "capacity": 10.0,
        "saturated": False,
        "masked": False,
        "lead_seconds": 60.0,
        "asked": 0.01,
        **changes,
    }
    now = values.pop("now", NOW)
    return Judged(now, **{name: np.array([value]) for name, value in values.items()})


def issued(*floors: float, first: int = NOW - 300, tick: int = 15) -> Rows:
    state = start(("a",), np.array([0.01]))
    for i, floor in enumerate(floors):
        state = issue(state, first + i * tick, np.array([floor]))
    return state


def test_only_the_lowest_floor_of_a_lead_time_can_be_counted_on() -> None:
    state = issued(20, 20, 8, 20, 20, first=NOW - 75)  # 8 was issued 45 s ago
    assert obeyed(state, NOW, np.array([60.0])).tolist() == [8.0]
    assert obeyed(state, NOW, np.array([31.0])).tolist() == [8.0]  # in force until 30 s ago
    assert obeyed(state, NOW, np.array([30.0])).tolist() == [20.0]
    assert math.isnan(obeyed(state, NOW, np.array([90.0]))[0])  # what stood 90 s ago is not known


def test_a_load_above_that_or_saturation_is_a_miss_and_raises_the_level() -> None:
    state = issued(*[10.0] * 20)
    level = state.arrays["level"][0]
    for changes, missed in [({}, False), ({"load": 101.0}, True), ({"saturated": True}, True)]:
        _, report = judge(state, one(**changes))
        assert report.missed.tolist() == [missed]
        assert bool(report.level[0] > level) is missed


@pytest.mark.parametrize("changes", [{"load": math.nan}, {"capacity": math.nan}], ids=["no load", "no capacity"])
def test_nothing_is_learned_from_what_is_not_known(changes: dict[str, float]) -> None:
    state = issued(*[10.0] * 20)
    after, report = judge(state, one(**changes))
    assert report.level.tolist() == pytest.approx(state.arrays["level"].tolist(), abs=1e-12)
    assert math.isnan(report.actual[0])
    assert after.arrays["judged"].sum() == 0


def test_masked_and_saturated_samples_never_lower_the_level() -> None:
    state = issued(*[10.0] * 20)
    level = float(state.arrays["level"][0])
    assert judge(state, one(masked=True))[1].level[0] == pytest.approx(level, abs=1e-12)
    assert judge(state, one(masked=True, load=200.0))[1].level[0] > level
    assert judge(state, one())[1].level[0] < level


def test_the_level_stays_within_its_ends_and_leaves_them_at_once() -> None:
    state = issued(*[10.0] * 20)
    for i in range(2000):
        state = issue(state, NOW + 15 * i, np.array([10.0]))
        state, report = judge(state, one(now=NOW + 15 * i + 15, load=1e6))
    assert report.level[0] == pytest.approx(HIGHEST_LEVEL)
    _, after = judge(issue(state, NOW + 30_000, np.array([10.0])), one(now=NOW + 30_015, asked=0.5))
    assert LOWEST_LEVEL < after.level[0] < HIGHEST_LEVEL - 1e-6


def test_the_hold_counts_whole_from_the_median_up_and_goes_with_the_level_below_it() -> None:
    assert [patience(level) for level in (HIGHEST_LEVEL, 0.5, LOWEST_LEVEL, 0.0)] == [1.0, 1.0, 0.0, 0.0]
    assert patience(0.2) < patience(0.3) < 1.0


def test_the_longest_violation_and_the_worst_hour() -> None:
    state = issued(*[10.0] * 20)
    report: RiskReport | None = None
    for i in range(1, 481):  # two hours; above capacity for 10 minutes of the second one
        now = NOW + 15 * i
        state, report = judge(state, one(now=now, load=200.0 if 300 <= i < 340 else 50.0))
        state = issue(state, now, np.array([10.0]))
    assert report is not None
    assert report.longest_violation_seconds[0] == 600
    assert report.worst_hour_ratio[0] == pytest.approx(600 / 3600, rel=0.02)
    assert report.actual[0] == pytest.approx(600 / 7200, rel=0.02)


def test_after_a_week_an_hour_is_forgotten_and_a_clock_that_jumps_back_forgets_nothing() -> None:
    state = issued(*[10.0] * 20)
    state, first = judge(state, one(load=200.0))
    assert first.actual[0] == 1.0
    back, report = judge(issue(state, NOW - 3600, np.array([10.0])), one(now=NOW - 3500))
    assert report.judged_seconds[0] == first.judged_seconds[0]
    week = NOW + 8 * 86_400
    state = back
    for i in range(10):
        state = issue(state, week + 15 * i, np.array([10.0]))
    assert judge(state, one(now=week + 150))[1].actual[0] == 0.0


def test_floors_of_before_a_gap_are_not_counted_on() -> None:
    state = issue(issued(*[10.0] * 20), NOW + 3600, np.array([12.0]))
    assert math.isnan(obeyed(state, NOW + 3615, np.array([60.0]))[0])


def test_a_workload_that_joins_begins_at_its_own_dial_and_the_others_go_on() -> None:
    state, report = judge(issued(*[10.0] * 20), one(load=200.0))
    joined = start(("new", "a"), np.array([0.05, 0.01]), state)
    assert joined.arrays["level"].tolist() == [0.95, report.level[0]]
    assert set(joined.arrays) == set(blank())


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "lead"), [(0.01, 180.0), pytest.param(0.05, 600.0, marks=pytest.mark.slow)])
def test_what_is_asked_is_what_is_measured_though_the_quantiles_are_wrong(asked: float, lead: float) -> None:
    rng, rows, tick, days = np.random.default_rng(7), 16, 60, 9  # two days to find its level
    n = days * 1440
    season = 100 * (1 + 0.6 * np.sin(2 * np.pi * np.arange(n) / 1440))
    noise = np.zeros((rows, n))
    for i in range(1, n):
        noise[:, i] = 0.9 * noise[:, i - 1] + rng.normal(0, 0.05, rows)
    load = season * np.exp(noise)
    window = int(lead / tick) + 1
    state = start([str(i) for i in range(rows)], np.full(rows, asked), interval=timedelta(seconds=tick))
    no, recent, report = np.zeros(rows, dtype=bool), np.zeros((rows, 10)), None
    for i in range(n - window):
        now = NOW + i * tick
        state, report = judge(
            state, Judged(now, load[:, i], np.full(rows, 5.0), no, no, np.full(rows, lead), np.full(rows, asked))
        )
        depth = -np.log(2 * (1 - report.level))
        peak = season[i : i + window].max() * np.exp(0.04 * depth)  # half of the true spread
        recent = np.roll(recent, -1, axis=1)
        recent[:, -1] = np.ceil(peak / 5.0)
        state = issue(state, now, recent.max(axis=1))  # held for 10 minutes
    assert report is not None
    ratio = report.actual / asked
    assert ((ratio > 0.5) & (ratio < 1.5)).all(), ratio
    assert 0.8 < ratio.mean() < 1.2
