"""`forecaster generate`: manifests that Kubernetes takes, all of the HPA kept, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from forecaster.config import load_config
from forecaster.domain import Mode, Recommendation
from forecaster.errors import InputError
from forecaster.promql import check_query
from forecaster.reasons import ReasonCode
from forecaster.scaling.external_metric import (
    FLOOR,
    RECOMMENDED,
    STATUS,
    SURE,
    VALID_UNTIL,
    ReactiveLoad,
    external_metric,
)
from serving import cli
from serving.actuator import target
from serving.generating import Asked, Generated, as_yaml, generate
from serving.metrics_text import FAMILIES, recommendations_section
from tests.apiserver import FakeApiServer, cpu_metric
from tests.forecaster.scaling.test_external_metric import evaluate
from tests.serving.actuator.harness import cluster

MINORS = ("1.32", "1.34", "1.36")
CONFIG = """
prometheus: {url: http://prometheus:9090}
workloads:
  - name: checkout
    load: sum(rate(http_requests_total{app="checkout"}[1m]))
    scale: {hpa: shop/checkout, capacityPerReplica: 120, bounds: {minReplicas: 2, maxReplicas: 40}}
  - name: cart
    load: sum(cart_requests)
    scale: {hpa: shop/cart, target: 70%, bounds: {maxReplicas: 9}}
  - name: limits
    load: sum(cart_requests)
    scale: {hpa: shop/limits, target: 70%, capacityPerReplica: scalar(capacity)}
  - {name: watched, load: sum(up)}
  - name: "{namespace}/{app}"
    forEach: [namespace, app]
    load: sum by (namespace, app) (rate(rpc_total[1m]))
    scale: {hpa: "{namespace}/{app}-hpa", capacityPerReplica: 50, target: 60%, bounds: {maxReplicas: 30}}
  - name: team-{team}
    forEach: [team]
    load: sum by (team) (jobs)
    scale: {hpa: "{team}/worker", capacityPerReplica: 5, target: 60%, bounds: {maxReplicas: 30}}
"""
BEHAVIOR = {
    "scaleDown": {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
}
MEMORY = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}
RPS = {
    "type": "Pods",
    "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}},
}
Json = dict[str, Any]


def hpa(**spec: Any) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "checkout", "namespace": "shop", "annotations": {"forecaster.io/mode": "apply"}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "front"},
            "minReplicas": 3,
            "maxReplicas": 30,
            "behavior": BEHAVIOR,
            "metrics": [cpu_metric(65), MEMORY],
            **spec,
        },
    }


def made(folder: Path, config: str = CONFIG, live: Json | None = None, **options: Any) -> Generated:
    path = folder / "forecaster.yaml"
    path.write_text(config)
    if live is not None:
        options["hpa"] = folder / "hpa.yaml"
        options["hpa"].write_text(yaml.safe_dump(live))
    asked = Asked(**{"kind": "hpa", "workload": "checkout", **options})
    return generate(load_config(path, {}), asked, {})


def external(metrics: list[Json]) -> Json:
    (one,) = [one["external"] for one in metrics if one["type"] == "External"]
    found: Json = one
    return found


# --- the kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("live", [hpa(), None], ids=["the HPA is known", "bounds only"])
def test_the_hpa_is_valid_and_keeps_all_that_it_was(tmp_path: Path, minor: str, live: Json | None) -> None:
    options = {} if live is not None else {"scale_target": "Deployment/front"}
    config = CONFIG.replace("capacityPerReplica: 120", "capacityPerReplica: 120, target: 65%")
    (told,) = made(tmp_path, config, live, **options).manifests.objects
    kubernetes_validate.validate(told, minor, strict=True)
    ours = {"metric": {"name": "forecaster_shop_checkout"}, "target": {"type": "AverageValue", "averageValue": "78"}}
    assert external(told["spec"]["metrics"]) == ours
    spec = told["spec"]
    if live is None:
        assert (spec["minReplicas"], spec["maxReplicas"], spec["scaleTargetRef"]["kind"]) == (2, 40, "Deployment")
        assert len(spec["metrics"]) == 1 and "behavior" not in spec
    else:
        assert spec == {**live["spec"], "metrics": [*live["spec"]["metrics"], spec["metrics"][-1]]}
        assert told["metadata"]["annotations"] == {"forecaster.io/mode": "apply"}


@pytest.mark.parametrize("minor", MINORS)
def test_the_adapter_gets_a_rule_and_the_hpa_a_patch(tmp_path: Path, minor: str) -> None:
    live = hpa()
    rules, patch = made(tmp_path, live=live, kind="adapter").manifests.objects
    (rule,) = rules["externalRules"]
    # not one of our metrics: they vanish with us, and the external metric with its fall-back would go with them
    assert rule["seriesQuery"] == 'http_requests_total{app="checkout"}'
    assert rule["resources"] == {"namespaced": False}
    check_query(rule["metricsQuery"])
    assert external(patch["spec"]["metrics"])["metric"]["name"] == rule["name"]["as"]
    kubernetes_validate.validate({**live, "spec": live["spec"] | patch["spec"]}, minor, strict=True)


def test_keda_takes_the_hpa_over_instead_of_making_a_second_one(tmp_path: Path) -> None:
    (told,) = made(tmp_path, live=hpa(), kind="keda").manifests.objects
    assert (told["apiVersion"], told["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert told["metadata"]["annotations"] == {"scaledobject.keda.sh/transfer-hpa-ownership": "true"}
    spec = told["spec"]
    assert spec["advanced"]["horizontalPodAutoscalerConfig"] == {"name": "checkout", "behavior": BEHAVIOR}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, 30)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "front"}
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 3, "behavior": "currentReplicasIfHigher"}
    ours, cpu, memory = spec["triggers"]
    assert (ours["type"], ours["metricType"]) == ("prometheus", "AverageValue")
    assert ours["metadata"]["ignoreNullValues"] == "false"  # no data is no load otherwise
    assert (ours["metadata"]["serverAddress"], ours["metadata"]["threshold"]) == ("http://prometheus:9090", "78")
    check_query(ours["metadata"]["query"])
    assert cpu == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "65"}}
    assert memory == {"type": "memory", "metricType": "AverageValue", "metadata": {"value": "1Gi"}}
    assert all(isinstance(value, str) for one in spec["triggers"] for value in one["metadata"].values())


def test_a_container_target_becomes_a_trigger_of_that_container(tmp_path: Path) -> None:
    own = {
        "type": "ContainerResource",
        "containerResource": {
            "name": "cpu",
            "container": "app",
            "target": {"type": "Utilization", "averageUtilization": 60},
        },
    }
    config = CONFIG.replace("capacityPerReplica: 120", "capacityPerReplica: 120, target: 60%")
    (told,) = made(tmp_path, config, hpa(metrics=[own]), kind="keda").manifests.objects
    assert told["spec"]["triggers"][1]["metadata"] == {"value": "60", "containerName": "app"}


def test_a_metric_that_keda_cannot_keep_is_not_lost_in_silence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metric of type Pods .* use `generate adapter`"):
        made(tmp_path, live=hpa(metrics=[cpu_metric(65), RPS]), kind="keda")
    assert (
        RPS
        in made(tmp_path, live=hpa(metrics=[cpu_metric(65), RPS]), kind="adapter").manifests.objects[1]["spec"][
            "metrics"
        ]
    )


def test_of_an_hpa_of_kedas_only_the_trigger_is_printed(tmp_path: Path) -> None:
    live = hpa()
    live["metadata"]["labels"] = {"scaledobject.keda.sh/name": "front"}
    found = made(tmp_path, live=live, kind="keda").manifests
    assert list(found.objects[0]["spec"]) == ["triggers"] and "ScaledObject front" in found.notes[1]
    with pytest.raises(InputError, match="belongs to KEDA's ScaledObject front"):
        made(tmp_path, live=live, kind="hpa")


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    (first,) = made(tmp_path, live=hpa()).manifests.objects
    (second,) = made(tmp_path, live=first).manifests.objects
    assert second == first


def test_saving_raises_cpu_to_ninety_per_cent_and_nothing_else(tmp_path: Path) -> None:
    config = CONFIG.replace("capacityPerReplica: 120", "capacityPerReplica: 120, target: 65%")
    (told,) = made(tmp_path, config, hpa(metrics=[cpu_metric(65), MEMORY, RPS]), save=True).manifests.objects
    cpu, memory, rps, _ = told["spec"]["metrics"]
    assert (cpu, memory, rps) == (cpu_metric(90), MEMORY, RPS)
    # a floor without head-room of its own must be reached, not only to 10 %
    assert told["spec"]["behavior"] == BEHAVIOR | {"scaleUp": {"tolerance": "0"}}
    kubernetes_validate.validate(told, "1.36", strict=True)
    users = {"scaleUp": {"tolerance": "0.05", "stabilizationWindowSeconds": 30}}
    (kept,) = made(tmp_path, config, hpa(behavior=users), save=True).manifests.objects
    assert kept["spec"]["behavior"] == users
    (again,) = made(tmp_path, config, hpa(metrics=[cpu_metric(95)]), save=True).manifests.objects
    assert again["spec"]["metrics"][0] == cpu_metric(95)
    with pytest.raises(
        InputError, match=r"write scale: target: 65% first"
    ):  # the service would read 90 % as the user's
        made(tmp_path, live=hpa(), save=True)


# --- the workload ----------------------------------------------------------------------------------------------------


def test_a_workload_of_a_template_is_found_by_its_name(tmp_path: Path) -> None:
    found = made(tmp_path, workload="shop/api", scale_target="Deployment/api")
    assert found.hpa == "shop/api-hpa"
    assert 'and on (namespace, app) label_replace(label_replace(vector(1), "namespace", "shop"' in found.metric.query
    assert made(tmp_path, workload="team-red", scale_target="Deployment/worker", kind="keda").hpa == "red/worker"


def test_workloads_that_share_an_hpa_all_count(tmp_path: Path) -> None:
    second = (
        "  - name: batch\n    load: sum(jobs)\n    scale: {hpa: shop/checkout, capacityPerReplica: 2, target: 50%}\n"
    )
    found = made(tmp_path, CONFIG + second, hpa())
    assert "sum(jobs)" in found.metric.query and "* 78" in found.metric.query


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "watched"}, r"workload watched: it has no scale"),
        ({"workload": "nobody"}, r"--workload: the configuration makes no 'nobody'; it has checkout, cart"),
        ({"workload": "a/b/c"}, r"can be read in two ways"),
        (
            {"workload": "cart", "scale_target": "Deployment/cart"},
            r"workload cart: what a replica carries .*--capacity",
        ),
        ({"scale_target": "Deployment/front"}, r"workload checkout: neither scale.target nor the HPA"),
        ({"live": hpa(metrics=[MEMORY])}, r"workload checkout: neither scale.target nor the HPA"),
        ({}, r"shop/checkout cannot be read, so what it scales is not known: write --scale-target"),
        ({"workload": "limits"}, r"scale\.bounds\.maxReplicas is not configured: write --hpa FILE"),
        ({"scale_target": "front"}, r"--scale-target: 'front' is not KIND/NAME"),
        ({"live": {**hpa(), "apiVersion": "autoscaling/v1"}}, r"apiVersion is 'autoscaling/v1': write autoscaling/v2"),
        ({"live": {"kind": "Deployment"}}, r"holds no HorizontalPodAutoscaler"),
        ({"live": {**hpa(), "metadata": {"name": "cart"}}}, r"is shop/cart, the workload scales shop/checkout"),
        ({"live": hpa(minReplicas=40)}, r"minReplicas 40 is above maxReplicas 30"),
        ({"hpa": Path("absent.yaml")}, r"--hpa: absent.yaml cannot be read"),
        ({"live": hpa(), "capacity": -1.0}, r"capacity of a replica is -1.0"),
    ],
    ids=[
        "no scale",
        "unknown",
        "two readings",
        "no capacity",
        "no target",
        "no utilization",
        "no scale target",
        "no bounds",
        "no kind",
        "v1",
        "another kind",
        "another HPA",
        "minimum above maximum",
        "no file",
        "negative capacity",
    ],
)
def test_what_cannot_be_generated_is_said_with_its_mend(
    tmp_path: Path, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made(tmp_path, **options)


def test_a_floor_of_ours_in_a_file_is_not_taken_for_the_users_minimum(tmp_path: Path) -> None:
    live = hpa(minReplicas=17)
    live["metadata"]["annotations"]["forecaster.io/user-min-replicas"] = "3"
    with pytest.raises(InputError, match="--show-managed-fields"):
        made(tmp_path, live=live)


def test_no_password_of_prometheus_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "forecaster.yaml"
    path.write_text(CONFIG)
    environ = {"FORECASTER_PROMETHEUS__URL": "http://reader:canary@127.0.0.1:9090/prom"}
    (tmp_path / "hpa.yaml").write_text(yaml.safe_dump(hpa()))
    asked = Asked("keda", "checkout", tmp_path / "hpa.yaml")
    found = generate(load_config(path, environ), asked, environ)
    text = as_yaml(found)
    assert "canary" not in text and "reader" not in text
    assert (
        found.manifests.objects[0]["spec"]["triggers"][0]["metadata"]["serverAddress"] == "http://127.0.0.1:9090/prom"
    )
    assert "authenticationRef" in text and "KEDA cannot reach 127.0.0.1" in text


# --- the API server --------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with cluster() as one:
        yield one


def configured(server: FakeApiServer, folder: Path) -> str:
    kubeconfig = {
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": server.token("reader")}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    return f"kubernetes: {{kubeconfig: {folder / 'kubeconfig'}}}\n{CONFIG}"


def test_the_hpa_is_read_and_never_written(server: FakeApiServer, tmp_path: Path) -> None:
    before = server.get("shop", "checkout")
    found = made(tmp_path, configured(server, tmp_path))
    spec = found.manifests.objects[0]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 20)
    assert spec["metrics"][0] == cpu_metric(70) and external(spec["metrics"])["target"]["averageValue"] == "84"
    assert server.get("shop", "checkout") == before


def test_a_target_that_we_raised_is_not_taken_for_the_users(server: FakeApiServer, tmp_path: Path) -> None:
    metrics = [cpu_metric(85)]
    marks = {target.USERS_OWN: "70", target.OWNERS: "kubectl-client-side-apply/Update/autoscaling/v2"}
    ours = {"metadata": {"annotations": marks}, "spec": {"metrics": metrics}}
    server.apply_as(target.MANAGER, "shop", "checkout", ours, force=True)
    found = made(tmp_path, configured(server, tmp_path)).manifests.objects[0]
    assert found["spec"]["metrics"][0] == cpu_metric(70)
    assert external(found["spec"]["metrics"])["target"]["averageValue"] == "84"
    assert not set(marks) & set(found["metadata"].get("annotations") or {})
    held = server.get("shop", "checkout")
    del held["metadata"]["managedFields"]
    with pytest.raises(InputError, match="holds a CPU target that we raised"):
        made(tmp_path, live={"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", **held})


def test_the_hpa_is_found_in_a_list(tmp_path: Path) -> None:
    several = {"apiVersion": "v1", "kind": "List", "items": [hpa(maxReplicas=31), hpa()]}
    several["items"][0]["metadata"] = {"name": "other", "namespace": "shop"}
    assert made(tmp_path, live=several).manifests.objects[0]["spec"]["maxReplicas"] == 30
    several["items"].pop()
    with pytest.raises(InputError, match="is shop/other, the workload scales shop/checkout"):
        made(tmp_path, live=several)


def test_an_hpa_that_does_not_exist_is_a_wrong_name(server: FakeApiServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no HPA shop/cart at .*: mend the name"):
        made(tmp_path, configured(server, tmp_path), workload="cart")


def test_an_api_server_that_does_not_answer_leaves_the_bounds_and_says_so(
    tmp_path: Path, server: FakeApiServer
) -> None:
    config = configured(server, tmp_path).replace("capacityPerReplica: 120", "capacityPerReplica: 120, target: 65%")
    server.stop()
    found = made(tmp_path, config, scale_target="Deployment/front")
    assert found.manifests.objects[0]["spec"]["maxReplicas"] == 40
    assert "could not be read" in found.manifests.notes[0]


# --- what the service publishes ---------------------------------------------------------------------------------------


@pytest.mark.prometheus
def test_the_metric_understands_what_the_service_really_publishes(tmp_path: Path) -> None:
    now = datetime.fromtimestamp(0, UTC)  # promtool begins in 1970
    made = Recommendation(
        workload="checkout",
        namespace="shop",
        hpa="checkout",
        hpa_uid="u",
        floor=4,
        desired_replicas=6,
        reactive=6,
        made_at=now,
        valid_for=timedelta(minutes=5),
        data_through=now,
        model_version="m",
        mode=Mode.RECOMMEND,
        candidates=(),
        bound_by="proactive",
        reasons=(),
    )
    text = recommendations_section([made], [1e9]).text.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    series = {name.replace("}", ',instance="a",job="forecaster"}'): f"{value}x40" for name, _, value in lines}
    status = 'forecaster_workload_status{workload="checkout",reason="ok",instance="a",job="forecaster"}'
    series |= {"rps": "100x40", status: "1x40"}
    load = ReactiveLoad("checkout", "sum(rps)", 0.7, 120.0)
    evaluate(tmp_path, external_metric("shop", "checkout", [load]), series, {"4m": 504.0, "5m": 100.0})
    evaluate(tmp_path, external_metric("shop", "checkout", [load], save=True), series, {"4m": 336.0, "5m": 100.0})
    assert {RECOMMENDED, FLOOR, VALID_UNTIL, STATUS} <= set(FAMILIES)
    assert set(SURE) - {"ok"} <= {code.value for code in ReasonCode}


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_prints_yaml_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.yaml").write_text(CONFIG)
    (tmp_path / "hpa.yaml").write_text(yaml.safe_dump(hpa()))
    options = ["--workload", "checkout", "--config", str(tmp_path / "f.yaml"), "--hpa", str(tmp_path / "hpa.yaml")]
    assert cli.main(["generate", "adapter", *options]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert cli.main(["generate", "adapter", *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["manifests"] == documents and told["schemaVersion"] == 1
    assert documents[0]["externalRules"][0]["metricsQuery"] == told["query"]
    assert cli.main(["generate", "adapter", "--workload", "watched", *options[2:]]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
