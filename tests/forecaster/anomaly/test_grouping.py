"""What alarms together is one incident, with its series, and what happened nearby, as evidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from forecaster.anomaly.gathering import Gathering
from forecaster.anomaly.grouping import COMMON_CAUSE, FLEET, Grouped, Groups, step
from forecaster.anomaly.nearby import Changes, near
from forecaster.domain import Event, HpaFacts, Incident
from tests.forecaster.anomaly.test_feedback import incident

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def row(role: str = "load", minutes: float = 0, workload: str = "checkout", **more: object) -> Incident:
    at = NOW + minutes * MINUTE
    sentence = f"{workload}: {role} reached 200, above the expected 80 to 120, since {at:%Y-%m-%d %H:%M} UTC"
    one = incident(id=f"{workload}/{role}/{minutes}", role=role, workload=workload, onset=at, opened_at=at + 2 * MINUTE)
    return replace(one, closed_at=None, sentence=sentence, **more)  # type: ignore[arg-type]


def steps(*rounds: Sequence[Incident], workloads: int = 3) -> list[Grouped]:
    groups, found = Groups(), []
    for i, rows in enumerate(rounds):
        found.append(step(groups, rows, NOW + (2 + i) * MINUTE, 60.0, workloads))
        groups = found[-1].groups
    return found


# --- one workload ----------------------------------------------------------------------------------------------------


def test_one_row_alone_is_an_incident_as_it_is() -> None:
    (found,) = steps([row()])
    (one,) = found.opened
    assert (one.id, one.sentence, one.score) == (row().id, row().sentence, row().score)
    assert one.parts == (row().part(),)


def test_forty_rows_that_alarm_at_once_are_one_incident_of_their_workload() -> None:
    rows = [row(f"pod-{i:02}", minutes=i % 4, score=4.0 + i / 10) for i in range(40)]
    (found,) = steps(rows)
    (one,) = found.opened
    assert len(one.parts) == 40 and one.role == "pod-39" and one.score == 7.9
    assert one.onset == NOW and "so did pod-38 above what was expected" in one.sentence and "33 more" in one.sentence


def test_a_series_that_joins_within_minutes_joins_the_incident_and_a_later_one_is_another() -> None:
    cpu, memory = row("cpu", 4, severity="critical"), row("memory", 30)
    found = steps([row()], [row(), cpu], [row(), cpu, memory])
    assert [len(one.opened) for one in found] == [1, 0, 1]
    (first,) = found[1].groups.open
    assert first.id == row().id and first.role == "cpu" and first.severity == "critical"
    assert "so did load above" in first.sentence
    assert [one.role for one in found[2].groups.open] == ["cpu", "memory"]


def test_faults_of_the_data_are_told_apart_from_anomalies() -> None:
    (found,) = steps([row(), row("load", kind="data_fault", score=0.0, direction="none", id="f")])
    assert sorted(one.kind for one in found.opened) == ["data_fault", "residual"]


def test_workloads_are_told_apart() -> None:
    (found,) = steps([row(), row(workload="search")])
    assert [one.workload for one in found.opened] == ["checkout", "search"] and found.groups.common is None


def test_it_closes_with_the_last_of_its_series() -> None:
    cpu = row("cpu", 1)
    ended = replace(row(), closed_at=NOW + 3 * MINUTE)
    last = replace(cpu, closed_at=NOW + 5 * MINUTE)
    found = steps([row(), cpu], [ended, cpu], [cpu], [last], [])
    assert [len(one.closed) for one in found] == [0, 0, 0, 1, 0]
    (one,) = found[3].closed
    assert one.closed_at == last.closed_at and {part.role for part in one.parts} == {"load", "cpu"}
    assert found[3].groups.open == ()


def test_a_row_that_left_without_a_word_ends() -> None:
    found = steps([row()], [])
    assert [one.closed_at for one in found[1].closed] == [NOW + 3 * MINUTE]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["load", "cpu"]), st.integers(0, 60), st.booleans()),
        max_size=30,
        unique_by=lambda one: one[:3],
    )
)
def test_every_row_is_in_exactly_one_incident_and_every_one_ends(told: list[tuple[str, str, int, bool]]) -> None:
    rows = [row(role, minute, name) for name, role, minute, _ in told]
    ended = [replace(one, closed_at=one.opened_at + MINUTE) for one in rows]
    found = steps(rows, ended, [], workloads=6)
    parts = [part.id for one in found[0].groups.open for part in one.parts]
    assert sorted(parts) == sorted(one.id for one in rows)
    assert found[-1].groups == Groups()
    assert {one.id for one in found[0].opened} == {one.id for made in found for one in made.closed}


# --- the fleet -------------------------------------------------------------------------------------------------------


def test_a_large_share_of_the_fleet_is_one_common_cause() -> None:
    rows = [row(workload=f"w{i:02}", minutes=i % 3) for i in range(10)]
    later = row(workload="w10", minutes=4)
    found = steps(rows, [*rows, later], workloads=40)
    common = found[0].groups.common
    assert common is not None and found[0].opened[0] == common
    assert (common.workload, common.kind) == (FLEET, COMMON_CAUSE) and "10 of 40 workloads" in common.sentence
    assert {one.cause for one in found[0].groups.open} == {common.id}
    grown = found[1].groups.common
    assert grown is not None and grown.id == common.id and "11 of 40" in grown.sentence
    assert [one.workload for one in found[1].opened] == ["w10"] and found[1].opened[0].cause == common.id


def test_few_of_many_are_none_and_a_small_fleet_has_none() -> None:
    rows = [row(workload=f"w{i}") for i in range(7)]
    assert steps(rows, workloads=40)[0].groups.common is None
    assert steps(rows[:4], workloads=4)[0].groups.common is None
    assert steps(rows[:5], workloads=5)[0].groups.common is not None


def test_the_common_cause_ends_with_its_workloads_and_not_before() -> None:
    rows = [row(workload=f"w{i}") for i in range(6)]
    own = row("load", 120, "w9")
    found = steps(rows, rows[:1], [own], [own], workloads=6)
    assert found[1].groups.common is not None
    assert [one.kind for one in found[2].closed].count(COMMON_CAUSE) == 1 and found[2].groups.common is None
    assert found[2].groups.open[0].cause is None  # hours later: another thing


# --- nearby ----------------------------------------------------------------------------------------------------------


def event(kind: str, minutes: float, workload: str = "checkout", note: str = "") -> Event:
    at = NOW + minutes * MINUTE
    return Event(f"{kind}{minutes}", kind, workload, at, at + 5 * MINUTE, note)


def test_what_happened_shortly_before_is_named_deploys_first() -> None:
    changes = Changes()
    facts = HpaFacts(min_replicas=2, max_replicas=10, current_replicas=4, target_ratio=0.7)
    changes.step({"checkout": facts}, NOW - 20 * MINUTE)
    changes.step({"checkout": replace(facts, target_ratio=0.9, current_replicas=3)}, NOW - 8 * MINUTE)
    changes.step({"checkout": replace(facts, target_ratio=0.9, current_replicas=9)}, NOW + 2 * MINUTE)
    events = [
        event("holiday", -10, "*"),
        event("deploy", -4, note="v2.3"),
        event("deploy", -200),
        event("deploy", -3, "search"),
    ]
    found = near("checkout", NOW, NOW + 3 * MINUTE, events, changes.of("checkout"))
    assert [one.text for one in found] == [
        "deploy (v2.3) at 02:56 UTC",
        "holiday at 02:50 UTC",
        "target 70% → 90% at 02:52 UTC",
        "replicas 4 → 3 at 02:52 UTC",
    ]  # that the HPA scales out afterwards is what it is there for
    assert near("search", NOW, NOW, [], changes.of("search")) == ()


def test_facts_that_come_and_go_are_no_change_and_old_ones_are_forgotten() -> None:
    changes = Changes()
    facts = HpaFacts(min_replicas=2, current_replicas=4)
    for i, one in enumerate([facts, HpaFacts(), facts]):
        changes.step({"checkout": one}, NOW + i * MINUTE)
    assert changes.of("checkout") == ()
    changes.step({"checkout": replace(facts, current_replicas=5)}, NOW + 4 * MINUTE)
    assert len(changes.of("checkout")) == 1
    changes.step({"checkout": replace(facts, current_replicas=5)}, NOW + timedelta(hours=3))
    assert changes.of("checkout") == ()


def test_the_sentence_says_what_is_nearby_and_a_restart_goes_on() -> None:
    one = Gathering(60.0)
    one.step([row(), row("cpu", 1)], {}, [event("deploy", -4, note="v2.3")], NOW + 2 * MINUTE, 3)
    (before,) = one.all
    assert before.sentence.endswith("so did cpu above what was expected. Nearby: deploy (v2.3) at 02:56 UTC")
    again = Gathering(60.0)
    again.restore(one.dump())
    assert again.all == (before,)
    again.begin()
    again.step([row(), row("cpu", 1)], {}, [], NOW + 3 * MINUTE, 3)
    assert again.all == (before,)  # the evidence of the onset stays
    assert json.loads(bytes(one.dump()["groups"].arrays["json"][0]))["parts"]
    assert Gathering(60.0).dump()["groups"].keys == ()
