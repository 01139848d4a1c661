"""Incidents with a cause: their digits come out the same when computed anew, and what people said of them counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest

from forecaster.anomaly import account, cause_account, causes, feedback
from forecaster.anomaly.causes import CausesState, Followed, Pods, Seen
from forecaster.anomaly.feedback import NOTHING, Taught
from forecaster.domain import FloatArray, Incident
from forecaster.errors import InputError
from tests.forecaster.anomaly.test_causes import DAY, HOUR, KEYS, NAMES, STEP, T0, world

PER_WEEK = 0.1
World = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


def seen_at(j: int, made: World) -> Seen:
    load, cpu, memory, pods = made
    quiet = np.zeros(2, dtype=np.bool_)
    return Seen(
        now=T0 + (j + 1) * STEP,
        load=np.full(2, load[j]),
        usage=np.array([cpu[j], memory[j]]),
        limit=np.array([np.nan, 1.0]),
        replicas=np.full(2, 6.0),
        masked=quiet,
        faulty=quiet,
        pods=Pods(NAMES, np.zeros(6, dtype=np.int64), pods[:, j]),
    )


CALM = 3 * DAY - HOUR  # steps before any of the short troubles


@cache
def calm(steps: int = CALM) -> CausesState:
    """The state after so many steps without trouble."""
    state, made = causes.start(KEYS), world(3 * DAY)
    for j in range(steps):
        state = causes.follow(state, seen_at(j, made), PER_WEEK, STEP).state
    return state


def run(
    made: World, taught: Taught = NOTHING, begin: int = CALM
) -> tuple[list[Incident], dict[str, Incident], dict[str, Any]]:
    """(opened, last told of each by id, accounts by id), from step `begin` on."""
    state = calm(begin) if begin else causes.start(KEYS)
    opened: list[Incident] = []
    told: dict[str, Incident] = {}
    kept: dict[str, Any] = {}
    for j in range(begin, len(made[0])):
        seen = seen_at(j, made)
        before, gone = causes.as_expected(state, taught.expected, seen.now)
        found: Followed = causes.follow(before, seen, PER_WEEK, STEP, taught)
        kept |= cause_account.accounts(before, seen, found, PER_WEEK, STEP)
        state = found.state
        opened += found.opened
        told |= {one.id: one for one in (*gone, *found.open, *found.closed)}
    return opened, told, kept


def spoilt(kind: str) -> World:
    load, cpu, memory, pods = world(3 * DAY)
    if kind == "usage_per_load":
        factor = np.where(np.arange(3 * DAY) >= 3 * DAY - HOUR // 2, 1.5, 1.0)
        return load, cpu * factor, memory, pods * factor
    if kind == "peer":
        pods = pods.copy()
        pods[4, -HOUR // 2 :] *= 2.0
        return load, cpu, memory, pods
    leak = np.maximum(np.arange(3 * DAY) - 2 * DAY, 0) / HOUR * 0.022
    return load, cpu, np.minimum(memory + leak, 1.0), pods


@pytest.mark.parametrize("kind", causes.KINDS)
def test_the_digits_come_out_the_same_bit_by_bit_also_by_way_of_json(kind: str) -> None:
    opened, told, kept = run(spoilt(kind), begin=0 if kind == "saturation" else CALM)
    mine = [one for one in opened if one.kind == kind]
    assert mine
    for one in mine:
        record: Mapping[str, Any] = json.loads(json.dumps(kept[one.id]))
        assert cause_account.is_of_cause(record)
        read = cause_account.read(record)
        digits = cause_account.digits(read)
        assert account.different(told[one.id], digits) == []
        assert digits.score > 0 and cause_account.own_days(read) >= 1
        assert bool(read.inputs.pods) is (kind == "peer")


def test_a_changed_record_gives_other_digits_and_a_damaged_one_is_refused() -> None:
    opened, told, kept = run(spoilt("usage_per_load"))
    one = next(each for each in opened if each.kind == "usage_per_load")
    record = json.loads(json.dumps(kept[one.id]))
    read = cause_account.read(record)
    other = replace(read, inputs=replace(read.inputs, usage=2 * read.inputs.usage))
    assert "observed" in account.different(told[one.id], cause_account.digits(other))
    for change, words in (
        ({"version": "cause/0"}, "of version"),
        ({"state": {}}, "another release"),
        ({"pods": None}, "damaged"),
        ({"state": {**record["state"], "saturation.limit": {"dtype": "|O", "shape": [1], "data": ""}}}, "damaged"),
    ):
        with pytest.raises(InputError, match=words):
            cause_account.read({**record, **change})


@pytest.mark.parametrize("kind", ["usage_per_load", "peer"])
def test_what_is_expected_closes_and_does_not_alarm_again_at_that_time_of_the_week(kind: str) -> None:
    made = spoilt(kind)
    opened, told, _ = run(made)
    one = next(each for each in opened if each.kind == kind)
    said = replace(told[one.id], feedback=feedback.EXPECTED)
    again, _, _ = run(made, feedback.taught([said]))
    assert [each for each in again if each.kind == kind] == []
    week_later = replace(said, onset=said.onset - timedelta(days=7), opened_at=said.opened_at - timedelta(days=7))
    assert [each for each in run(made, feedback.taught([week_later]))[0] if each.kind == kind] == []
    elsewhere = replace(said, onset=said.onset - timedelta(hours=30), opened_at=said.opened_at - timedelta(hours=30))
    assert [each for each in run(made, feedback.taught([elsewhere]))[0] if each.kind == kind]


def test_an_open_incident_that_is_expected_closes_and_its_row_stays_quiet() -> None:
    made, state, j = spoilt("usage_per_load"), calm(), CALM
    opened: tuple[Incident, ...] = ()
    while not opened:
        found = causes.follow(state, seen_at(j, made), PER_WEEK, STEP)
        state, opened, j = found.state, found.opened, j + 1
    before, closed = causes.as_expected(state, {opened[0].id}, T0 + (j + 1) * STEP)
    assert [one.id for one in closed] == [opened[0].id] and closed[0].sentence.endswith("; expected")
    assert before.open == {}
    assert causes.follow(before, seen_at(j, made), PER_WEEK, STEP).opened == ()


def test_words_move_the_threshold_of_their_kind_alone() -> None:
    made = spoilt("usage_per_load")
    state = calm()
    taught = Taught(factor={("shop", "cpu", "usage_per_load"): 0.1})
    plain = causes.follow(state, seen_at(CALM, made), PER_WEEK, STEP)
    moved = causes.follow(state, seen_at(CALM, made), PER_WEEK, STEP, taught)
    for kind in causes.KINDS:
        apart = moved.looks[kind].threshold - plain.looks[kind].threshold
        assert apart.tolist() == pytest.approx([1.0 if kind == "usage_per_load" else 0.0, 0.0])


def test_another_budget_counts_from_the_next_step_on() -> None:
    made = spoilt("usage_per_load")
    state = calm()
    same = causes.follow(state, seen_at(CALM, made), 10 * PER_WEEK, STEP)
    other = causes.follow(causes.with_other_budget(state), seen_at(CALM, made), 10 * PER_WEEK, STEP)
    before = causes.follow(state, seen_at(CALM, made), PER_WEEK, STEP)
    for kind in causes.KINDS:
        np.testing.assert_array_equal(same.looks[kind].threshold, before.looks[kind].threshold)
        assert (other.looks[kind].threshold < before.looks[kind].threshold).all()
