"""From a cycle's rows to resources and back: who is whose, what is published, what a restart keeps."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.anomaly import budget
from forecaster.anomaly.causes import Pods
from forecaster.domain import LOAD, FloatArray, SeriesKey
from forecaster.watch import Watch

T0, STEP = 1_767_571_200, 600
DAY = 86_400 // STEP
SERIES = (SeriesKey("shop", "memory"), SeriesKey("shop", LOAD), SeriesKey("bare", LOAD), SeriesKey("shop", "cpu"))
KEYS = ("shop#1/memory", "shop#1/load", "bare#2/load", "shop#1/cpu")


def observed(j: int, leak: float) -> FloatArray:
    rng = np.random.default_rng(j)
    load = 100 * (1.5 + np.sin(2 * np.pi * j / DAY)) * np.exp(rng.normal(0, 0.03))
    memory = 0.3 + 0.0005 * load + leak * j * STEP / 3_600 + rng.normal(0, 0.002)
    return np.array([memory, load, 5.0, (0.5 + 0.02 * load) * np.exp(rng.normal(0, 0.01))])


def watched(steps: int, leak: float = 0.008) -> Watch:
    watch = Watch(STEP, 0.1)
    watch.align(KEYS, SERIES)
    for j in range(steps):
        walk(watch, j, leak)
    return watch


def walk(watch: Watch, j: int, leak: float = 0.008) -> None:
    limits, ready = np.array([1.0, np.nan, np.nan, np.nan]), np.array([np.nan, 3.0, 1.0, np.nan])
    quiet = np.zeros(4, dtype=np.bool_)
    watch.step(T0 + (j + 1) * STEP, observed(j, leak), limits, ready, quiet, quiet)


def test_resources_are_watched_with_the_load_beside_them() -> None:
    watch = watched(3 * DAY)
    assert watch.keys == ("shop#1/memory", "shop#1/cpu")
    memory, cpu = watch.status()
    assert (memory.workload, memory.resource, cpu.resource) == ("shop", "memory", "cpu")
    assert cpu.usage_per_load == pytest.approx(0.02, rel=0.05)
    assert cpu.usage_per_load_low is not None
    assert cpu.usage_per_load_low < 0.02
    assert cpu.seconds_to_limit == {}  # it has no limit
    assert list(memory.seconds_to_limit) == ["0.1", "0.5", "0.9"]
    assert 0 < memory.seconds_to_limit["0.5"] < 24 * 3600
    assert "saturation" in [one.kind for one in watch.open_incidents()]


def test_a_restart_and_another_order_of_rows_change_nothing() -> None:
    watch, again = watched(3 * DAY), Watch(STEP, 0.1)
    again.restore(watch.dump())
    assert again.open_incidents() == watch.open_incidents()
    again.align(KEYS, SERIES)
    walk(watch, 3 * DAY)
    walk(again, 3 * DAY)
    assert again.status() == watch.status()
    assert again.open_incidents() == watch.open_incidents()
    turned = Watch(STEP, 0.1)
    turned.restore(watch.dump())
    turned.align(KEYS[::-1], SERIES[::-1])
    assert turned.open_incidents() == watch.open_incidents()
    assert turned.keys == ("shop#1/cpu", "shop#1/memory")


def test_before_the_first_step_nothing_is_said() -> None:
    watch = Watch(STEP, 0.1)
    watch.align((), ())
    assert watch.status() == ()
    assert watch.closed_incidents() == ()
    assert watch.evidence() == {}


def test_a_load_that_cannot_be_trusted_says_nothing_of_its_resources() -> None:
    watch = watched(10)
    faulty = np.array([False, True, False, False])
    quiet = np.zeros(4, dtype=np.bool_)
    watch.step(T0 + 11 * STEP, observed(10, 0), np.ones(4), np.ones(4), quiet, faulty)
    assert watch.found is not None
    assert all(np.isnan(score).all() or kind == "saturation" for kind, score in watch.found.scores.items())


def test_a_pod_unlike_its_siblings_is_found_by_the_cycle_s_rows() -> None:
    """Pods of `cpu`, row 3 of the cycle; one of a load's row is nobody's."""
    watch, rng = Watch(STEP, 1.0), np.random.default_rng(4)
    watch.align(KEYS, SERIES)
    limits, ready, quiet = np.full(4, np.nan), np.array([np.nan, 6.0, 1.0, np.nan]), np.zeros(4, dtype=np.bool_)
    names = (*(f"shop-{i}" for i in range(6)), "bare-0")
    for j in range(3 * DAY):
        usage = np.append(0.3 * np.exp(rng.normal(0, 0.05, 6)), 9.0)
        if j >= 3 * DAY - 12:
            usage[2] *= 2.0
        pods = Pods(names, np.array([3] * 6 + [2]), usage)
        watch.step(T0 + (j + 1) * STEP, observed(j, 0.0), limits, ready, quiet, quiet, pods)
    found = [one for one in watch.open_incidents() if one.kind == "peer"]
    assert [(one.workload, one.role) for one in found] == [("shop", "cpu")] and "shop-2" in found[0].sentence


def test_half_of_the_budget_goes_to_causes_where_a_workload_has_resources_and_nowhere_else() -> None:
    assert budget.beside_causes(KEYS, 1.0, 0.5).tolist() == [0.5, 0.5, 1.0, 0.5]
    shares = budget.shares(KEYS, budget.beside_causes(KEYS, 1.0, 0.5))
    assert shares.tolist() == pytest.approx([0.5 / 3, 0.5 / 3, 1.0, 0.5 / 3])


def test_another_budget_is_spent_from_the_next_step_on() -> None:
    watch = watched(3 * DAY, leak=0.0)
    assert watch.found is not None
    before = watch.found.looks["usage_per_load"].threshold
    watch.spend(10.0)
    walk(watch, 3 * DAY, leak=0.0)
    assert watch.found is not None
    assert (watch.found.looks["usage_per_load"].threshold < before).all()
