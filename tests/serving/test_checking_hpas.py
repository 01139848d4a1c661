"""`forecaster check` says what of an HPA the actuator would leave alone, before it is switched on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forecaster.domain import HpaFacts, ScaleSpec
from forecaster.reasons import Reason, ReasonCode
from serving import checking
from serving.checking import Found

MANAGED = ScaleSpec("shop", "checkout", raised_target_ratio=0.8)
FACTS = HpaFacts("u", min_replicas=9, users_own=2, max_replicas=40, cpu_target=70)


def found(facts: HpaFacts | None = FACTS, mode: str = "apply") -> Found:
    return Found("checkout", mode, None, 1.0, 1, 0.01, "shop/checkout", facts, (Reason(ReasonCode.CALIBRATING),))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (None, "no metric of CPU utilization that is known"),
        (HpaFacts("u", cpu_target=None), "no metric of CPU utilization that is known"),
        (HpaFacts("u", cpu_target=80), "that of the HPA is 80 %, no lower than scale.raisedTarget"),
    ],
)
def test_a_target_that_is_never_raised_is_told(facts: HpaFacts | None, words: str) -> None:
    told = checking._never_raised(found(facts), MANAGED)
    assert told.reasons[0].code is ReasonCode.HPA_INVALID and words in told.reasons[0].detail
    assert told.hinders


@pytest.mark.parametrize("scale", [None, MANAGED, ScaleSpec("shop", "checkout")])
def test_nothing_is_told_where_it_will_be_or_is_not_asked_for(scale: ScaleSpec | None) -> None:
    assert checking._never_raised(found(), scale) == found()


@pytest.mark.parametrize(
    ("floor", "target", "words"),
    [
        (None, None, None),
        ("flux owns minReplicas", None, "flux owns minReplicas"),
        ("flux owns minReplicas", "flux owns spec.metrics", "flux owns minReplicas"),
        (None, "flux owns spec.metrics", "the floor is written, the CPU target stays: flux owns spec.metrics"),
    ],
)
def test_owners_that_come_back_are_told(floor: str | None, target: str | None, words: str | None) -> None:
    def told(mode: str) -> Found:
        refusals: list[dict[str, Any]] = [{} if one is None else {"shop/checkout": one} for one in (floor, target)]
        return checking._owned(found(mode=mode), *refusals)

    assert told("recommend") == found(mode="recommend")
    assert [one.detail for one in told("apply").hinders] == ([] if words is None else [words])


def test_the_users_own_minimum_is_shown_while_our_floor_stands() -> None:
    report = checking.Report("http://p", "2.42", (found(),), (), 0, 1)
    assert json.loads(checking.as_json(report))["workloads"][0]["minReplicas"] == 2
    assert "2–40" in checking.as_text(report, False)
