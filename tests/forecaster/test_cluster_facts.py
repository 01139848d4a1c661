"""What kube-state-metrics says of HPAs, by way of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from forecaster.cluster_facts import ClusterFacts, read_lead_times, shared_scale_targets
from forecaster.domain import HpaFacts
from forecaster.errors import SourceError
from tests.fakes import Curve, FakeSource, constant

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PREFIX = "kube_horizontalpodautoscaler_"
UTILIZATION = f'{PREFIX}spec_target_metric{{metric_target_type="utilization"}}'


def hpa(name: str = "checkout", **more: str) -> dict[str, str]:
    return {"namespace": "shop", "horizontalpodautoscaler": name, **more}


def cluster() -> dict[str, list[tuple[Mapping[str, str], Curve]]]:
    reference = {"scaletargetref_kind": "Deployment", "scaletargetref_name": "web"}
    return {
        f"{PREFIX}spec_max_replicas": [(hpa(), constant(40)), (hpa("other"), constant(5))],
        f"{PREFIX}spec_min_replicas": [(hpa(), constant(2))],
        f"{PREFIX}status_current_replicas": [(hpa(), constant(7))],
        UTILIZATION: [
            (hpa(metric_name="memory"), constant(80)),
            (hpa(metric_name="cpu"), constant(60)),
            (hpa("other", metric_name="memory"), constant(90)),
        ],
        f"{PREFIX}info": [(hpa(**reference), constant(1))],
        "kube_deployment_status_replicas_ready": [({"namespace": "shop", "deployment": "web"}, constant(6))],
    }


def test_the_numbers_of_all_hpas_come_by_one_query_per_metric() -> None:
    source = FakeSource(cluster())
    facts = ClusterFacts().read(source, NOW)
    assert facts["shop/checkout"] == HpaFacts(
        min_replicas=2,
        max_replicas=40,
        current_replicas=7,
        ready_replicas=6,
        target_ratio=0.6,
        scale_target="Deployment/web",
    )
    assert facts["shop/other"].target_ratio == 0.9 and facts["shop/other"].scale_target is None
    assert len(source.asked) == len(set(source.asked)) == 8


def test_without_kube_state_metrics_there_are_no_facts_and_one_query() -> None:
    source = FakeSource({})
    assert ClusterFacts().read(source, NOW) == {}
    assert len(source.asked) == 1


def test_facts_outlive_a_restart_of_kube_state_metrics_but_not_an_hpa() -> None:
    source, facts = FakeSource(cluster()), ClusterFacts()
    facts.read(source, NOW)
    source.series = {}
    assert facts.read(source, NOW + timedelta(minutes=4))["shop/checkout"].max_replicas == 40
    assert facts.read(source, NOW + timedelta(minutes=5)) == {}


def test_a_source_that_fails_leaves_the_facts_as_they_were() -> None:
    source, facts = FakeSource(cluster()), ClusterFacts()
    facts.read(source, NOW)
    source.broken = SourceError("gone")
    with pytest.raises(SourceError):
        facts.read(source, NOW + timedelta(minutes=1))
    assert facts.facts["shop/checkout"].max_replicas == 40


def test_two_hpas_on_one_scale_target_are_found() -> None:
    one, two = HpaFacts(scale_target="Deployment/web"), HpaFacts(scale_target="Deployment/api")
    facts = {"shop/a": one, "shop/b": one, "shop/c": two, "other/d": one, "other/e": HpaFacts()}
    assert shared_scale_targets(facts) == {"shop/a": ("shop/b",), "shop/b": ("shop/a",)}


# --- lead times ---

POD = "namespace, pod"
OWNERS = (
    f"max by ({POD}, owner_kind, owner_name) "
    '(last_over_time(kube_pod_owner{owner_kind=~"ReplicaSet|StatefulSet"}[14d]))'
)
CREATED = f"min by ({POD}) (last_over_time(kube_pod_created[14d]))"
READY = f"min by ({POD}) (min_over_time(kube_pod_status_ready_time[14d]))"
WATCHED = f"max by ({POD}) (max_over_time(timestamp(kube_pod_created)[14d:10m]))"


def pods(
    starts: list[float | None], owner: str = "web-5d4f8", kind: str = "ReplicaSet"
) -> dict[str, list[tuple[Mapping[str, str], Curve]]]:
    """One pod per entry: seconds to Ready, None for never (watched for 20 minutes)."""
    now = NOW.timestamp()
    series: dict[str, list[tuple[Mapping[str, str], Curve]]] = {OWNERS: [], CREATED: [], READY: [], WATCHED: []}
    for i, start in enumerate(starts):
        labels = {"namespace": "shop", "pod": f"{owner}-{i}"}
        born = now - 86_400 - i
        series[OWNERS].append(({**labels, "owner_kind": kind, "owner_name": owner}, constant(1)))
        series[CREATED].append((labels, constant(born)))
        if start is not None:
            series[READY].append((labels, constant(born + start)))
        else:
            series[WATCHED].append((labels, constant(born + 600)))
    return series


def test_the_lead_time_is_the_ninth_of_ten_starts_of_a_deployments_pods() -> None:
    found = read_lead_times(FakeSource(pods([10.0 * (i + 1) for i in range(10)])), NOW)
    assert found == {("shop", "Deployment", "web"): (timedelta(seconds=90), 10)}


def test_pods_that_never_were_ready_make_it_longer_or_unknown() -> None:
    source = FakeSource(pods([60.0] * 5 + [100.0] * 4 + [None]))
    lead_time, count = read_lead_times(source, NOW)["shop", "Deployment", "web"]
    assert (lead_time, count) == (timedelta(seconds=100), 10)
    lead_time, _ = read_lead_times(FakeSource(pods([60.0] * 5 + [None] * 5)), NOW)["shop", "Deployment", "web"]
    assert lead_time is None


def test_a_pod_that_turned_ready_again_hours_later_is_no_start() -> None:
    assert read_lead_times(FakeSource(pods([30.0] * 5 + [9000.0])), NOW)["shop", "Deployment", "web"][1] == 5


def test_a_stateful_set_owns_its_pods_itself() -> None:
    found = read_lead_times(FakeSource(pods([30.0], owner="db", kind="StatefulSet")), NOW)
    assert list(found) == [("shop", "StatefulSet", "db")]


def test_lead_times_are_asked_for_once_an_hour_and_stand_in_the_facts() -> None:
    source = FakeSource({**cluster(), **pods([30.0] * 10)})
    facts = ClusterFacts()
    assert facts.read(source, NOW)["shop/checkout"].lead_time == timedelta(seconds=30)
    assert facts.facts["shop/checkout"].lead_time_pods == 10
    for minute in range(1, 60):
        facts.read(source, NOW + timedelta(minutes=minute))
    assert source.asked.count(OWNERS) == 1
    facts.read(source, NOW + timedelta(minutes=60))
    assert source.asked.count(OWNERS) == 2
    facts.read(source, NOW - timedelta(hours=3))  # our clock jumped back: not silent for three hours
    assert source.asked.count(OWNERS) == 3
