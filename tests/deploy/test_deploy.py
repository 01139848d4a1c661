"""The manifests render, are valid in three minors of Kubernetes, ask for no more rights than needed, run our code."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from forecaster.config import load_config
from serving.cli import app

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MINORS = ("1.32", "1.34", "1.36")
OPERATOR = "monitoring.coreos.com/v1"  # kinds of the Prometheus operator, which Kubernetes' schemas do not have
Json = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed: nothing to render with"
)


OVERLAYS = {"retrain": 3, "retrain-gpu": 3, "raised-target": 1}  # objects beside those of the base


@functools.cache
def rendered(overlay: str = "base") -> tuple[Json, ...]:
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of(kind: str, name: str | None = None) -> list[Json]:
    return [one for one in rendered() if one["kind"] == kind and name in (None, one["metadata"]["name"])]


def pods() -> dict[str, Json]:
    found = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in of("StatefulSet") + of("Deployment")}
    for one in of("CronJob"):
        found[one["metadata"]["name"]] = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


@needs_kubectl
@pytest.mark.parametrize("minor", MINORS)
def test_every_object_is_valid(minor: str) -> None:
    checked = 0
    for one in rendered():
        if one["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(one, minor, strict=True)
            checked += 1
    assert checked >= 16


@needs_kubectl
def test_validation_notices_a_mistake() -> None:
    (service,) = of("StatefulSet")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "spec": {**service["spec"], "replica": 1}}, MINORS[0], strict=True)


@needs_kubectl
def test_every_pod_is_locked_down() -> None:
    assert pods().keys() == {"forecaster", "forecaster-actuator", "forecaster-restore"}
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")
        writable = {one["name"] for one in pod["volumes"] if "emptyDir" in one} | {"data"}
        for mount in pod["containers"][0]["volumeMounts"]:
            assert mount.get("readOnly") or mount["name"] in writable


def granted(kind: str, name: str) -> set[tuple[str, str, str]]:
    (role,) = of(kind, name)
    return {
        (resource, verb, ",".join(rule.get("resourceNames", [])))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@needs_kubectl
def test_rights_are_those_that_are_used_and_no_more() -> None:
    hpas = {("horizontalpodautoscalers", verb, "") for verb in ("get", "list", "watch")}
    assert granted("ClusterRole", "forecaster") == hpas
    assert granted("ClusterRole", "forecaster-actuator") == hpas | {
        ("horizontalpodautoscalers", "patch", ""),
        ("events", "create", ""),
        ("events", "patch", ""),
    }
    assert granted("Role", "forecaster-actuator") == {
        ("leases", "create", ""),
        ("leases", "get", "forecaster-actuator"),
        ("leases", "update", "forecaster-actuator"),
        ("configmaps", "get", "forecaster-actuator"),
        ("configmaps", "patch", "forecaster-actuator"),
    }
    for binding in of("ClusterRoleBinding") + of("RoleBinding"):
        assert [one["namespace"] for one in binding["subjects"]] == ["forecaster"]
    assert of("ConfigMap", "forecaster-actuator")[0].get("data") is None  # applying it again must take nothing away


@needs_kubectl
def test_selectors_find_their_pods() -> None:
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for one in of("StatefulSet") + of("Deployment")
        for name in [one["metadata"]["name"]]
    }
    for one in of("StatefulSet") + of("Deployment"):
        assert one["spec"]["selector"]["matchLabels"].items() <= labels[one["metadata"]["name"]].items()
    assert of("Service")[0]["spec"]["selector"].items() <= labels["forecaster"].items()
    assert (
        of("ServiceMonitor")[0]["spec"]["selector"]["matchLabels"].items()
        <= of("Service")[0]["metadata"]["labels"].items()
    )
    assert of("PodMonitor")[0]["spec"]["selector"]["matchLabels"].items() <= labels["forecaster-actuator"].items()


@needs_kubectl
@pytest.mark.parametrize("name", ["forecaster-actuator", "forecaster-restore", "forecaster-restore-target"])
def test_the_command_line_knows_the_arguments(name: str) -> None:
    pod = pod_of(job_of("raised-target", name)) if name.endswith("-target") else pods()[name]
    arguments = pod["containers"][0]["args"]
    done = CliRunner().invoke(app, ["actuate", *arguments, "--help"])
    assert done.exit_code == 0
    for one in arguments:
        assert one.partition("=")[0] in done.output
    assert "--apply" not in arguments  # a dry run, until somebody says otherwise


def job_of(overlay: str, name: str = "forecaster-retrain") -> Json:
    (job,) = [one for one in rendered(overlay) if one["metadata"]["name"] == name and one["kind"] == "CronJob"]
    return job


def pod_of(job: Json) -> Json:
    pod: Json = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


@needs_kubectl
@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_an_overlay_is_valid(overlay: str, minor: str) -> None:
    for one in rendered(overlay):
        if one["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(one, minor, strict=True)
    assert len(rendered(overlay)) == len(rendered()) + OVERLAYS[overlay]


@needs_kubectl
@pytest.mark.parametrize("overlay", ["retrain", "retrain-gpu"])
def test_the_retrain_job_runs_alone_may_be_taken_away_and_writes_to_no_cluster(overlay: str) -> None:
    spec, pod = job_of(overlay)["spec"], pod_of(job_of(overlay))
    assert spec["concurrencyPolicy"] == "Forbid"
    template = spec["jobTemplate"]["spec"]
    assert pod["restartPolicy"] == "Never"  # else podFailurePolicy is refused
    actions = {rule["action"]: rule for rule in template["podFailurePolicy"]["rules"]}
    assert actions["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert actions["FailJob"]["onExitCodes"]["values"] == [2]
    assert actions["FailJob"]["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    claims = {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one}
    assert claims == {one["metadata"]["name"] for one in rendered(overlay) if one["kind"] == "PersistentVolumeClaim"}
    (config,) = [
        one for one in rendered(overlay) if one["kind"] == "ConfigMap" and "forecaster.yaml" in one.get("data", {})
    ]
    assert config["metadata"]["name"] in {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
    done = CliRunner().invoke(app, ["retrain", *container["args"], "--help"])
    assert done.exit_code == 0
    for one in container["args"]:
        assert not one.startswith("--") or one.partition("=")[0] in done.output


@needs_kubectl
def test_raised_targets_are_given_back_by_the_same_job_as_floors_but_sooner() -> None:
    floors, targets = job_of("base", "forecaster-restore"), job_of("raised-target", "forecaster-restore-target")
    assert pod_of(floors) | {"containers": []} == pod_of(targets) | {"containers": []}
    (one,), (other,) = pod_of(floors)["containers"], pod_of(targets)["containers"]
    assert one["image"] == other["image"] and one["securityContext"] == other["securityContext"]
    assert targets["spec"]["schedule"] == "*/2 * * * *" and "--only-targets" in other["args"]


@needs_kubectl
def test_only_the_overlay_for_gpus_asks_for_one() -> None:
    assert "nvidia.com/gpu" not in pod_of(job_of("retrain"))["containers"][0]["resources"]["limits"]
    pod = pod_of(job_of("retrain-gpu"))
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": "ai-accelerator", "operator": "In", "values": ["gpu"]}]}]
    assert {one["key"] for one in pod["tolerations"]} >= {"nvidia.com/gpu", "ai-accelerator"}


@needs_kubectl
def test_service_and_job_may_reach_mlflow() -> None:
    policies = {one["metadata"]["name"]: one for one in rendered("retrain") if one["kind"] == "NetworkPolicy"}
    for name in ("forecaster", "forecaster-retrain"):
        ports = {port["port"] for rule in policies[name]["spec"]["egress"] for port in rule["ports"]}
        assert {53, 9090, 5000} <= ports, name


def test_the_configuration_of_the_retrain_job_is_valid() -> None:
    config = load_config(DEPLOY / "retrain" / "forecaster.yaml", {})
    assert config.model == "models:/forecaster@champion"
    assert config.mlflow.cache.is_relative_to("/var/lib/forecaster")


def test_the_configuration_of_the_base_is_valid() -> None:
    config = load_config(DEPLOY / "base" / "forecaster.yaml", {})
    assert config.server.host == "0.0.0.0"
    assert config.auth.token_file is not None  # else it would not start there
    assert config.kubernetes.read_hpas == "auto"


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.actuator"])
def test_dockerfiles_are_clean_and_do_not_run_as_root(name: str) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(linter), str(DEPLOY / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = (DEPLOY / name).read_text().rpartition("\nFROM ")[2]
    assert "USER 65532:65532" in last


@pytest.mark.prometheus
@needs_kubectl
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (rule,) = of("PrometheusRule")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}))
    series = [
        {"series": 'forecaster_actuator_applies{pod="a"}', "values": "1x60"},
        {"series": 'forecaster_actuator_leader{pod="a"}', "values": "1x10 0x50"},
        {"series": 'forecaster_actuator_service_age_seconds{pod="a"}', "values": "1x60"},
    ]
    summary = "No actuator holds the lease, so floors are neither renewed nor walked back."
    runbook = "forecaster actuate --restore gives every HPA back by hand."
    fired = {
        "exp_labels": {"severity": "warning"},
        "exp_annotations": {"summary": summary, "runbook": runbook},
    }
    name = "ForecasterNoActuatorWrites"
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": [
                    {"eval_time": "10m", "alertname": name, "exp_alerts": []},
                    {"eval_time": "30m", "alertname": name, "exp_alerts": [fired]},
                    {"eval_time": "30m", "alertname": "ForecasterActuatorGone", "exp_alerts": []},
                ],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    for command in (["check", "rules", str(rules)], ["test", "rules", str(file)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
