"""Lessons: when they are due, what is asked, what is kept when Prometheus has nothing, and what is refused in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.capacity_facts import AGAIN, AT_ONCE, EVERY, KEPT, CapacityFacts, Lesson
from forecaster.domain import Samples
from forecaster.errors import SourceError
from forecaster.reasons import ReasonCode
from forecaster.scaling.learned_capacity import Learned, from_average
from tests.forecaster.scaling.test_learned_capacity import service

NOW = datetime(2026, 3, 4, tzinfo=UTC)
TIMES, LOAD, USAGE, READY = service()


class Source:
    """Answers of cAdvisor and kube-state-metrics for `checkout` in `shop`; `silent` metrics are not there."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.usage = USAGE
        self.down = False

    def _answer(self, query: str, rows: dict[str, tuple[dict[str, str], np.ndarray]], times: np.ndarray) -> Samples:
        self.asked.append(query)
        if self.down:
            raise SourceError("Prometheus is out of reach")
        for metric, (labels, values) in rows.items():
            if metric in query and metric not in self.silent:
                return Samples((labels,), times, np.asarray(values, dtype=np.float64).reshape(1, -1))
        return Samples((), times, np.empty((0, len(times))))

    def instant(self, query: str, at: datetime) -> Samples:
        pod = {"namespace": "shop", "pod": "checkout-6c9f5d7b8-x01qz"}
        one = np.ones(1)
        rows = {"container_info": (pod, one), "resource_limits": (pod, one), "resource_requests": (pod, 0.5 * one)}
        return self._answer(query, rows, np.array([int(at.timestamp())]))

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        rows = {
            "replicas_ready": ({"namespace": "shop", "deployment": "checkout"}, READY),
            "cpu_usage": ({"namespace": "shop", "workload": "checkout"}, self.usage),
        }
        return self._answer(query, rows, TIMES)


def lesson(name: str = "checkout", target: str | None = "shop/Deployment/checkout") -> Lesson:
    return Lesson(name, target, TIMES, LOAD, None)


def test_a_lesson_is_due_each_hour_or_in_ten_minutes_where_it_taught_nothing() -> None:
    facts, source = CapacityFacts(), Source()
    assert facts.due("checkout", NOW)
    facts.read(source, NOW, [lesson()])
    assert facts.learned["checkout"].capacity == pytest.approx(95.0, rel=0.1)
    assert not facts.due("checkout", NOW + AGAIN) and facts.due("checkout", NOW + EVERY)
    facts.read(source, NOW, [lesson("other", None)])
    assert not facts.due("other", NOW + AGAIN / 2) and facts.due("other", NOW + AGAIN)
    assert facts.due("checkout", NOW - timedelta(seconds=1))  # the clock jumped back


def test_all_targets_of_a_kind_are_asked_for_by_one_query_a_metric() -> None:
    source = Source()
    CapacityFacts().read(source, NOW, [lesson(str(i), f"shop/Deployment/checkout-{i}") for i in range(2 * AT_ONCE)])
    assert len(source.asked) == 6
    assert f"checkout\\\\-{AT_ONCE - 1}" in source.asked[0] and f"checkout\\\\-{AT_ONCE}" not in source.asked[0]


def test_a_capacity_outlives_a_day_without_data_but_not_a_changed_cost() -> None:
    facts, source = CapacityFacts(), Source()
    facts.read(source, NOW, [lesson()])
    known = facts.learned["checkout"]
    source.silent = {"cpu_usage"}
    facts.read(source, NOW + EVERY, [lesson()])
    assert facts.learned["checkout"] == known
    facts.read(source, NOW + KEPT + EVERY, [lesson()])
    gone = facts.learned["checkout"].reason
    assert gone is not None and gone.code is ReasonCode.CAPACITY_UNKNOWN and "container_cpu_usage" in gone.detail
    source.silent = set()
    facts.read(source, NOW + 2 * KEPT, [lesson()])
    source.usage = np.where(np.arange(len(USAGE)) < len(USAGE) - 40, USAGE, 2 * USAGE)
    facts.read(source, NOW + 3 * KEPT, [lesson()])
    changed = facts.learned["checkout"].reason
    assert changed is not None and changed.code is ReasonCode.CAPACITY_UNSTABLE


def test_a_source_that_fails_leaves_what_was_learned_and_is_not_asked_at_once_again() -> None:
    facts, source = CapacityFacts(), Source()
    facts.read(source, NOW, [lesson()])
    known = facts.learned["checkout"]
    source.down = True
    with pytest.raises(SourceError):
        facts.read(source, NOW + EVERY, [lesson()])
    assert facts.learned["checkout"] == known and not facts.due("checkout", NOW + EVERY + AGAIN / 2)


@pytest.mark.parametrize(
    ("target", "words"),
    [(None, "kube-state-metrics"), ("shop/ReplicaSet/checkout", "Deployments and StatefulSets")],
    ids=["no scale target", "another kind"],
)
def test_what_cannot_be_asked_is_said(target: str | None, words: str) -> None:
    facts = CapacityFacts()
    facts.read(Source(), NOW, [lesson(target=target)])
    said = facts.learned["checkout"].reason
    assert said is not None and words in said.detail


def test_workloads_that_are_gone_are_forgotten() -> None:
    facts = CapacityFacts()
    facts.read(Source(), NOW, [lesson()])
    facts.keep([])
    assert facts.learned == {} and facts.due("checkout", NOW)


@pytest.mark.parametrize(
    ("current", "ready", "load", "learned"),
    [(48.0, 10, 500.0, True), (48.0, 10, 900.0, False), (None, 10, 500.0, False), (48.0, 0, 500.0, False)],
    ids=["is the load", "is something else", "not known", "no replicas"],
)
def test_the_hpa_s_own_metric_counts_where_it_is_the_load(
    current: float | None, ready: int, load: float, learned: bool
) -> None:
    found: Learned = from_average(60.0, current, ready, load, 0.75)
    assert (found.capacity == 80.0) is learned
    assert learned or (found.reason is not None and found.reason.code is ReasonCode.CAPACITY_UNKNOWN)
