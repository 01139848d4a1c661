"""Scores with a cause become incidents with a sentence, end, survive a restart, and keep out of what is learned."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecaster.anomaly import causes
from forecaster.anomaly.causes import CausesState, Followed, Pods, Seen
from forecaster.domain import FloatArray, Incident

T0, STEP = 1_767_571_200, 300
DAY = 86_400 // STEP
HOUR = 3_600 // STEP
KEYS = ("shop#1/cpu", "shop#1/memory")
NAMES = tuple(f"shop-{i}" for i in range(6))


def world(n: int, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(load (n,), cpu (n,), memory (n,), pods (6, n))."""
    rng = np.random.default_rng(seed)
    load = 100 * (1.5 + np.sin(2 * np.pi * np.arange(n) / DAY)) * np.exp(rng.normal(0, 0.03, n))
    cpu = 0.5 + 0.02 * load * np.exp(rng.normal(0, 0.02, n))
    memory = 0.3 + 0.0005 * load + rng.normal(0, 0.003, n)
    return load, cpu, memory, cpu / 6 * np.exp(rng.normal(0, 0.03, (6, n)))


def step(state: CausesState, j: int, load: float, cpu: float, memory: float, pods: FloatArray) -> Followed:
    quiet = np.zeros(2, dtype=np.bool_)
    seen = Seen(
        now=T0 + (j + 1) * STEP,
        load=np.full(2, load),
        usage=np.array([cpu, memory]),
        limit=np.array([np.nan, 1.0]),
        replicas=np.full(2, 6.0),
        masked=quiet,
        faulty=quiet,
        pods=Pods(NAMES, np.zeros(6, dtype=np.int64), pods),
    )
    return causes.follow(state, seen, 0.1, STEP)


def run(
    load: FloatArray, cpu: FloatArray, memory: FloatArray, pods: FloatArray
) -> tuple[CausesState, list[Incident], list[Incident]]:
    """(state, opened, closed)."""
    state, opened, closed = causes.start(KEYS), [], []
    for j in range(len(load)):
        found = step(state, j, load[j], cpu[j], memory[j], pods[:, j])
        state = found.state
        opened += found.opened
        closed += found.closed
    return state, opened, closed


def test_nothing_happens_where_nothing_happens() -> None:
    _, opened, _ = run(*world(3 * DAY))
    assert opened == []


def test_a_dearer_request_is_one_incident_that_is_accepted_and_learned() -> None:
    load, cpu, memory, pods = world(4 * DAY)
    factor = np.where(np.arange(4 * DAY) >= 3 * DAY, 1.5, 1.0)
    state, opened, closed = run(load, cpu * factor, memory, pods * factor)
    assert [one.kind for one in opened] == ["usage_per_load"]
    assert (opened[0].workload, opened[0].role, opened[0].direction) == ("shop", "cpu", "up")
    assert opened[0].opened_at.timestamp() - T0 - 3 * DAY * STEP <= 1800
    assert "cpu per unit of load is up" in opened[0].sentence
    assert opened[0].expected_high < opened[0].observed
    assert len(closed) == 1
    assert closed[0].sentence.endswith("accepted as the new regime")
    assert causes.cost_per_load(state).each[0] == pytest.approx(1.5 * 0.02, rel=0.1)


def test_a_bad_pod_is_named() -> None:
    load, cpu, memory, pods = world(2 * DAY)
    pods[4, -HOUR:] *= 2.0
    _, opened, _ = run(load, cpu, memory, pods)
    assert [one.kind for one in opened] == ["peer"]
    assert "pod shop-4 uses" in opened[0].sentence
    assert "more cpu than its 5 siblings" in opened[0].sentence


def test_what_runs_full_stays_open_until_it_does_not() -> None:
    load, cpu, memory, pods = world(4 * DAY)
    leak = np.maximum(np.arange(4 * DAY) - 2 * DAY, 0) / HOUR * 0.01
    state, opened, closed = run(load, cpu, np.minimum(memory + leak, 1.0), pods)
    told = [one for one in opened if one.kind == "saturation"]
    assert len(told) == 1
    assert not [one for one in closed if one.kind == "saturation"]
    assert "memory is at" in told[0].sentence
    assert "reaches the limit in about" in told[0].sentence
    open_now = state.open["saturation", KEYS[1]]
    assert open_now.id == told[0].id
    assert open_now.observed > told[0].observed
    for j in range(4 * DAY, 5 * DAY):  # restarted
        found = step(state, j, load[j - DAY], cpu[j - DAY], memory[j - DAY], pods[:, j - DAY])
        state = found.state
        closed += found.closed
    assert told[0].id in [one.id for one in closed]
    assert ("saturation", KEYS[1]) not in state.open


def test_evidence_holds_the_digits_of_the_sentence() -> None:
    load, cpu, memory, pods = world(2 * DAY)
    state = causes.start(KEYS)
    found = None
    for j in range(2 * DAY):
        dear = 2.0 if j >= 2 * DAY - 3 else 1.0
        found = step(state, j, load[j], cpu[j] * dear, memory[j], pods[:, j])
        state = found.state
        if found.opened:
            break
    assert found is not None
    assert found.opened
    numbers = found.evidence[found.opened[0].id]
    assert numbers["usage"] == pytest.approx(cpu[j] * 2)
    assert numbers["load"] == load[j]
    expected = numbers["base"] + numbers["costPerLoad"] * load[j] + numbers["perReplica"] * 6
    assert numbers["expected"] == pytest.approx(expected, rel=0.03)  # the hour's own share is in it too


def test_a_restart_goes_on_where_it_was() -> None:
    load, cpu, memory, pods = world(2 * DAY)
    cpu[-3:] *= 2
    state, _, _ = run(load[:-1], cpu[:-1], memory[:-1], pods[:, :-1])
    assert state.open
    rows, of_pods, told = causes.dump(state)
    again = causes.restore(rows, of_pods, json.loads(json.dumps(told)))
    j = 2 * DAY - 1
    a = step(state, j, load[j], cpu[j], memory[j], pods[:, j])
    b = step(again, j, load[j], cpu[j], memory[j], pods[:, j])
    for kind in causes.KINDS:
        np.testing.assert_array_equal(a.scores[kind], b.scores[kind])
    assert a.open == b.open
    orphan = causes.restore(rows, of_pods, [])
    assert not step(orphan, j, load[j], cpu[j], memory[j], pods[:, j]).closed


def test_rows_that_are_gone_close_and_others_keep_what_they_know() -> None:
    load, cpu, memory, pods = world(2 * DAY)
    cpu[-3:] *= 2
    state, _, _ = run(load, cpu, memory, pods)
    assert ("usage_per_load", KEYS[0]) in state.open
    less = causes.start(KEYS[1:], state)
    one = np.zeros(1, dtype=np.bool_)
    seen = Seen(T0 + (2 * DAY + 1) * STEP, load[-1:], memory[-1:], np.ones(1), np.full(1, 6.0), masked=one, faulty=one)
    found = causes.follow(less, seen, 0.1, STEP)
    assert [one.kind for one in found.closed] == ["usage_per_load"]
    assert not np.isnan(found.scores["usage_per_load"][0])


def test_without_samples_nothing_is_scored_and_a_budget_must_be_above_0() -> None:
    state = causes.start(KEYS)
    found = step(state, 0, np.nan, np.nan, np.nan, np.full(6, np.nan))
    assert all(np.isnan(score).all() for score in found.scores.values())
    assert np.isnan(found.seconds_to_limit).all()
    with pytest.raises(ValueError, match="above 0"):
        causes.follow(state, Seen(T0, *(np.zeros(2),) * 4, *(np.zeros(2, dtype=np.bool_),) * 2), 0.0)
