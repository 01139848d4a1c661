"""Manifests that give an HPA our external metric: KEDA's ScaledObject, prometheus-adapter's rule, an HPA.

Pure: from what the HPA is and the metric to objects and notes for the reader. Everything of the HPA that is not the
metric is kept: bounds, `behavior`, its own metrics.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecaster.errors import InputError
from forecaster.scaling import raised_target
from forecaster.scaling.external_metric import ExternalMetric
from serving.actuator import target
from serving.actuator.policy import OWNERS, USERS_OWN

Json = dict[str, Any]

POLLING_SECONDS = 15  # as often as the HPA looks
TOLERANCE_FROM = 10  # replicas from which the HPA's tolerance of 10 % hides a change by one
_NOT_KEPT = (
    "kubectl.kubernetes.io/last-applied-configuration",
    USERS_OWN,
    OWNERS,
    target.USERS_OWN,
    target.OWNERS,
)
_APPS = {"Deployment", "StatefulSet", "ReplicaSet"}


@dataclass(frozen=True, slots=True)
class Subject:
    """The HPA as it is, or what is known of it."""

    namespace: str
    name: str
    scale_target: Mapping[str, Any]  # apiVersion, kind, name
    min_replicas: int  # the user's own
    max_replicas: int
    metrics: Sequence[Mapping[str, Any]] | None = None  # its own; None: the HPA was not read
    behavior: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    scaled_object: str | None = None  # KEDA's, that made it


@dataclass(frozen=True, slots=True)
class Manifests:
    """What is printed."""

    objects: tuple[Json, ...]
    notes: tuple[str, ...]


def scale_target_of(text: str) -> Json:
    """`Deployment/checkout` as a reference. Raises InputError."""
    kind, _, name = text.partition("/")
    if kind not in _APPS or not name or "/" in name:
        kinds = ", ".join(sorted(_APPS))
        raise InputError(f"--scale-target: {text!r} is not KIND/NAME with a kind of {kinds}: write Deployment/checkout")
    return {"apiVersion": "apps/v1", "kind": kind, "name": name}


def hpa(subject: Subject, metric: ExternalMetric, save: bool) -> Manifests:
    """The whole HPA, autoscaling/v2, with the metric."""
    _refuse_kedas(subject)
    own = _own_metrics(subject, metric, save)
    metadata: Json = {"name": subject.name, "namespace": subject.namespace}
    for key, told in (("labels", subject.labels), ("annotations", subject.annotations)):
        kept = {name: value for name, value in told.items() if name not in _NOT_KEPT}
        if kept:
            metadata[key] = kept
    spec: Json = {
        "scaleTargetRef": dict(subject.scale_target),
        "minReplicas": subject.min_replicas,
        "maxReplicas": subject.max_replicas,
        "metrics": [*own, _stanza(metric)],
    }
    behavior = _behavior(subject, save)
    if behavior is not None:
        spec["behavior"] = behavior
    made = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}
    notes = [
        f"Something must serve {metric.name} at external.metrics.k8s.io; until then the HPA does not scale in. "
        "`forecaster generate adapter` prints prometheus-adapter's rule. Its PromQL:",
        *metric.query.splitlines(),
        *_common(subject, own, save),
    ]
    return Manifests((made,), tuple(notes))


def adapter(subject: Subject, metric: ExternalMetric, series: str | None, save: bool) -> Manifests:
    """prometheus-adapter's rule, and the HPA's metrics as a merge patch. `series`: what the rule is discovered by."""
    _refuse_kedas(subject)
    if series is None:
        raise InputError(
            "load names no metric, and prometheus-adapter finds a rule by the name of a series: use `generate keda`"
        )
    if "<<" in metric.query or "<<" in series:
        raise InputError("load holds '<<', which prometheus-adapter takes for a template: use `generate keda`")
    own = _own_metrics(subject, metric, save)
    rule = {
        "seriesQuery": series,
        "resources": {"namespaced": False},
        "name": {"as": metric.name},
        "metricsQuery": metric.query,
    }
    patch: Json = {"spec": {"metrics": [*own, _stanza(metric)]}}
    if save:
        patch["spec"]["behavior"] = _behavior(subject, save)
    notes = [
        "The first document goes into prometheus-adapter's configuration (Helm: rules.external), the second is a patch "
        f"for the HPA: kubectl -n {subject.namespace} patch hpa {subject.name} --type merge --patch-file FILE",
        "A cluster has one server of external.metrics.k8s.io: with KEDA or another one installed, use that instead.",
        *_common(subject, own, save),
    ]
    if subject.metrics is None:
        notes.append("The patch replaces all metrics of the HPA: add its own ones before ours.")
    return Manifests(({"externalRules": [rule]}, patch), tuple(notes))


def keda(subject: Subject, metric: ExternalMetric, server: str, save: bool) -> Manifests:
    """A ScaledObject that takes the HPA over; of an HPA that is KEDA's already only the trigger."""
    trigger: Json = {
        "type": "prometheus",
        "name": "forecaster",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": server,
            "query": metric.query,
            "threshold": _plain(metric.target),
            "ignoreNullValues": "false",  # the default takes a missing answer for 0
        },
    }
    if subject.scaled_object is not None:
        fragment = {"spec": {"triggers": [trigger]}}
        note = f"The HPA is KEDA's: add this trigger to those of the ScaledObject {subject.scaled_object}."
        return Manifests((fragment,), (note, *_common(subject, [], save)))
    own = _own_metrics(subject, metric, save)
    autoscaler: Json = {"name": subject.name}
    behavior = _behavior(subject, save)
    if behavior is not None:
        autoscaler["behavior"] = behavior
    made: Json = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {
            "name": subject.name,
            "namespace": subject.namespace,
            "annotations": {"scaledobject.keda.sh/transfer-hpa-ownership": "true"},
        },
        "spec": {
            "scaleTargetRef": dict(subject.scale_target),
            "pollingInterval": POLLING_SECONDS,
            "minReplicaCount": subject.min_replicas,
            "maxReplicaCount": subject.max_replicas,
            "fallback": {
                "failureThreshold": 3,
                "replicas": max(1, subject.min_replicas),
                "behavior": "currentReplicasIfHigher",
            },
            "advanced": {"horizontalPodAutoscalerConfig": autoscaler},
            "triggers": [trigger, *(_trigger(one) for one in own)],
        },
    }
    notes = [
        f"KEDA takes the HPA {subject.name} over: without the annotation and its name in the ScaledObject there would "
        "be two HPAs on one target, and both would scale it. Take the HPA out of what applies it (Git, Helm) first; "
        "deleting the ScaledObject deletes the HPA.",
        "While Prometheus does not answer, replicas stay as they are: fallback.behavior needs KEDA 2.17, with an older "
        "one leave fallback out, or replicas fall to the minimum.",
        *_common(subject, own, save),
    ]
    return Manifests((made,), tuple(notes))


# --- the HPA's own metrics -------------------------------------------------------------------------------------------


def _stanza(metric: ExternalMetric) -> Json:
    target = {"type": "AverageValue", "averageValue": metric.target}
    return {"type": "External", "external": {"metric": {"name": metric.name}, "target": target}}


def _own_metrics(subject: Subject, metric: ExternalMetric, save: bool) -> list[Json]:
    """As they are, without ours of an earlier run. `save`: CPU utilization aims at 90 % at least."""
    kept = []
    for one in subject.metrics or ():
        told = copy.deepcopy(dict(one))
        if _is_ours(told, metric):
            continue
        target = _cpu_target(told)
        if save and target is not None:
            target["averageUtilization"] = max(target["averageUtilization"], round(100 * raised_target.MOST))
        kept.append(told)
    return kept


def _behavior(subject: Subject, save: bool) -> Json | None:
    """As it is. `save`: a rise is not tolerated where the user says nothing else, for the tolerance would eat 10 %
    of a floor that has no head-room of its own."""
    if not save:
        return None if subject.behavior is None else dict(subject.behavior)
    behavior: Json = copy.deepcopy(dict(subject.behavior or {}))
    behavior["scaleUp"] = {"tolerance": "0", **(behavior.get("scaleUp") or {})}
    return behavior


def _is_ours(told: Mapping[str, Any], metric: ExternalMetric) -> bool:
    external = told.get("external")
    return isinstance(external, dict) and (external.get("metric") or {}).get("name") == metric.name


def _cpu_target(told: Mapping[str, Any]) -> Json | None:
    """The target of a CPU utilization metric; None for any other."""
    for key in ("resource", "containerResource"):
        held = told.get(key)
        if isinstance(held, dict) and held.get("name") == "cpu":
            target = held.get("target")
            if isinstance(target, dict) and isinstance(target.get("averageUtilization"), int):
                return target
    return None


def _trigger(told: Mapping[str, Any]) -> Json:
    """A Resource metric of an HPA as KEDA's trigger. Raises InputError for kinds that have none."""
    for key in ("resource", "containerResource"):
        held = told.get(key)
        if not isinstance(held, dict):
            continue
        target = held.get("target") or {}
        kind = target.get("type")
        value = target.get("averageUtilization") if kind == "Utilization" else target.get("averageValue")
        if held.get("name") not in ("cpu", "memory") or value is None:
            break
        metadata = {"value": str(value)}
        if key == "containerResource":
            metadata["containerName"] = str(held.get("container"))
        return {"type": held["name"], "metricType": kind, "metadata": metadata}
    raise InputError(
        f"the HPA has a metric of type {told.get('type')} that is no trigger of KEDA's own: use `generate adapter`, "
        "or write the trigger that gives this metric and leave it out of the HPA"
    )


def _refuse_kedas(subject: Subject) -> None:
    if subject.scaled_object is not None:
        raise InputError(
            f"{subject.namespace}/{subject.name} belongs to KEDA's ScaledObject {subject.scaled_object}, which would "
            "undo a change: use `generate keda`"
        )


def _plain(quantity: str) -> str:
    """A quantity as a decimal number."""
    if not quantity.endswith("m"):
        return quantity
    whole, rest = divmod(int(quantity[:-1]), 1000)
    return f"{whole}.{rest:03d}".rstrip("0")


# --- notes -----------------------------------------------------------------------------------------------------------


def _common(subject: Subject, own: Sequence[Json], save: bool) -> list[str]:
    notes = []
    if save:
        notes.append(
            f"While our floor counts and nothing is said against the forecast, the load may use "
            f"{raised_target.MOST:.0%} of capacity; else the target counts as before, which new pods reach a start-up "
            "time later. Without Prometheus only the HPA's own metrics are left."
        )
        if any(_cpu_target(one) is None for one in own):
            notes.append(
                "An HPA takes the highest of its metrics: those beside CPU are kept as they are, and may hold replicas "
                "that --save would give back."
            )
    elif own:
        notes.append(
            "An HPA takes the highest of its metrics: with its own ones as they are this adds replicas ahead of need "
            "and saves none; --save is for that."
        )
    up = (subject.behavior or {}).get("scaleUp") or {}
    if save:
        notes.append(
            "behavior.scaleUp.tolerance needs Kubernetes 1.35, or the gate HPAConfigurableTolerance from 1.33 on: an "
            "older one drops it, and its tolerance of 10 % then comes out of capacity."
        )
    elif subject.max_replicas >= TOLERANCE_FROM and "tolerance" not in up:
        notes.append(
            f"From {TOLERANCE_FROM} replicas on the HPA's tolerance of 10 % hides small rises; "
            'behavior.scaleUp.tolerance: "0" (Kubernetes 1.35) shows them.'
        )
    return notes
