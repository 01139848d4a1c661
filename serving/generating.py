"""`forecaster generate`: the external metric of one workload as a manifest. Reads, prints, and writes nothing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from forecaster.config import Config
from forecaster.config_values import PLACEHOLDER
from forecaster.domain import HpaFacts, Mode, ScaleSpec, WorkloadSpec
from forecaster.errors import ClusterError, InputError
from forecaster.scaling.external_metric import ExternalMetric, ReactiveLoad, discovery_series, external_metric
from serving import external_manifests as manifests
from serving import hpa_manifest
from serving.actuator import hpas, target
from serving.actuator.kube import Kind, Kube, KubeError
from serving.actuator.policy import USERS_OWN, Hpa
from serving.external_manifests import Manifests, Subject
from serving.hpa_reader import access_of, facts_of

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """The options."""

    kind: str  # keda | adapter | hpa
    workload: str
    hpa: Path | None = None  # a file with the HPA, instead of the API server
    scale_target: str | None = None
    capacity: float | None = None
    prometheus: str | None = None  # as KEDA reaches it
    save: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """What was made, and of what."""

    kind: str
    workload: str
    hpa: str
    metric: ExternalMetric
    manifests: Manifests


def generate(config: Config, asked: Asked, environ: Mapping[str, str]) -> Generated:
    """Raises InputError where the workload has no scale or target, or the HPA cannot be described."""
    spec, labels = _found(config, asked.workload)
    scale = _scale(spec, asked.workload, labels)
    key = f"{scale.namespace}/{scale.hpa}"
    told, notes = _live(config, asked, scale, environ)
    subject, facts = _subject(told, asked, scale)
    sharing = [one for one in config.specs() if one.name != spec.name and _scales(one, key)]
    loads = (_load(spec, labels, asked, facts), *(_load(one, {}, asked, facts) for one in sharing))
    if asked.save and told is not None and scale.target_ratio is None:
        raise InputError(
            f"workload {asked.workload}: --save raises the HPA's own target, which the service would then take for "
            f"yours: write scale: target: {_percent(loads[0].target_ratio)} first"
        )
    metric = external_metric(scale.namespace, scale.hpa, loads, asked.save)
    if asked.kind == "hpa":
        made = manifests.hpa(subject, metric, asked.save)
    elif asked.kind == "adapter":
        made = manifests.adapter(subject, metric, discovery_series(spec.load), asked.save)
    else:
        server, more = _server(config, asked)
        notes += more
        made = manifests.keda(subject, metric, server, asked.save)
    if spec.for_each:
        notes.append("A template's query is asked whole for this one HPA: a recording rule spares Prometheus that.")
    if asked.kind == "keda" and scale.mode is Mode.APPLY:
        notes.append("The actuator leaves KEDA's HPAs alone: mode: recommend says the same and warns less.")
    return Generated(asked.kind, asked.workload, key, metric, Manifests(made.objects, (*notes, *made.notes)))


def as_yaml(made: Generated) -> str:
    """Notes as comments, then the documents."""
    notes = [f"# {line}" for note in made.manifests.notes for line in note.splitlines()]
    texts = [
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for one in made.manifests.objects
    ]
    return "\n".join([*notes, "---\n".join(texts).rstrip("\n")])


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks: PromQL is to be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_json(made: Generated) -> str:
    told = {
        "schemaVersion": SCHEMA_VERSION,
        "kind": made.kind,
        "workload": made.workload,
        "hpa": made.hpa,
        "metricName": made.metric.name,
        "query": made.metric.query,
        "targetAverageValue": made.metric.target,
        "unit": made.metric.unit,
        "manifests": list(made.manifests.objects),
        "notes": list(made.manifests.notes),
    }
    return json.dumps(told, indent=1)


# --- the workload ----------------------------------------------------------------------------------------------------


def _found(config: Config, name: str) -> tuple[WorkloadSpec, dict[str, str]]:
    """The entry that makes the workload `name`, and the labels that it has by its template."""
    specs = config.specs()
    for one in specs:
        if not one.for_each and one.name == name:
            return one, {}
    found = [(one, labels) for one in specs if one.for_each and (labels := _labels(one, name)) is not None]
    if not found:
        known = ", ".join(one.name for one in specs) or "none"
        raise InputError(f"--workload: the configuration makes no {name!r}; it has {known}")
    if len(found) > 1:
        raise InputError(f"--workload: {name!r} fits {len(found)} entries of workloads: give them names that differ")
    return found[0]


def _labels(spec: WorkloadSpec, name: str) -> dict[str, str] | None:
    """Values of the labels in a template's name, {} where there are none; None where `name` is not of its making.

    Raises InputError where it can be read in two ways.
    """
    pattern = spec.name
    if not PLACEHOLDER.search(pattern):
        pattern = "/".join([pattern, *(f"{{{label}}}" for label in spec.for_each)])
    readings = []
    for any_text in (".+?", ".+"):
        seen: set[str] = set()
        parts = []
        for i, part in enumerate(PLACEHOLDER.split(pattern)):
            if i % 2 == 0:
                parts.append(re.escape(part))
            else:
                parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>{any_text})")
                seen.add(part)
        match = re.fullmatch("".join(parts), name)
        if match is None:
            return None
        readings.append(match.groupdict())
    if readings[0] != readings[1]:
        raise InputError(f"--workload: {name!r} can be read in two ways as {pattern}: separate labels by another sign")
    return readings[0]


def _scale(spec: WorkloadSpec, name: str, labels: Mapping[str, str]) -> ScaleSpec:
    """With the names of this one workload. Raises InputError where it has none."""
    scale = spec.scale
    if scale is None:
        raise InputError(
            f"workload {name}: it has no scale, so there is no HPA to scale: write scale: hpa: NAMESPACE/NAME"
        )
    lacking = [label for label in _placeholders(scale) if label not in labels]
    if lacking:
        raise InputError(
            f"workload {name}: scale.hpa needs {', '.join(lacking)}, which the template's name does not hold: "
            f"name it with {{{lacking[0]}}}"
        )
    return replace(scale, namespace=_filled(scale.namespace, labels), hpa=_filled(scale.hpa, labels))


def _placeholders(scale: ScaleSpec) -> list[str]:
    return PLACEHOLDER.findall(f"{scale.namespace}/{scale.hpa}")


def _filled(text: str, labels: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: labels[match[1]], text)


def _scales(spec: WorkloadSpec, key: str) -> bool:
    """Whether a plain workload scales this HPA too."""
    scale = spec.scale
    return not spec.for_each and scale is not None and f"{scale.namespace}/{scale.hpa}" == key


def _load(spec: WorkloadSpec, labels: Mapping[str, str], asked: Asked, facts: HpaFacts | None) -> ReactiveLoad:
    scale = spec.scale
    assert scale is not None
    capacity = scale.capacity_per_replica if asked.capacity is None else asked.capacity
    query = scale.capacity_query if capacity is None else None
    if capacity is None and query is None:
        raise InputError(
            f"workload {spec.name}: what a replica carries is not configured, and a target cannot be a moving number: "
            "write scale.capacityPerReplica or --capacity"
        )
    ratio = scale.target_ratio if scale.target_ratio is not None else None if facts is None else facts.target_ratio
    if ratio is None:
        raise InputError(
            f"workload {spec.name}: neither scale.target nor the HPA says at what share of capacity a replica is to "
            "run: write scale: target: 70%"
        )
    wanted = {label: labels[label] for label in _placeholders(scale)} if spec.for_each else {}
    return ReactiveLoad(spec.name, spec.load, ratio, capacity, query, wanted, spec.for_each)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:g}%"


# --- the HPA ---------------------------------------------------------------------------------------------------------


def _live(
    config: Config, asked: Asked, scale: ScaleSpec, environ: Mapping[str, str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The HPA as the API server or the file tells it, None where it cannot be read; and what is to be said of that."""
    key = f"{scale.namespace}/{scale.hpa}"
    if asked.hpa is not None:
        return _from_file(asked.hpa, scale), [f"{key} is taken from {asked.hpa.name}."]
    why = "kubernetes.kubeconfig is not configured"
    where = access_of(config.kubernetes, environ)
    if where is not None:
        kube = Kube(where)
        try:
            return kube.get_hpa(scale.namespace, scale.hpa), [f"{key} is taken from {where.server}."]
        except KubeError as error:
            if error.kind is Kind.GONE or error.status == 404:
                raise InputError(f"scale.hpa: there is no HPA {key} at {where.server}: mend the name") from error
            why = str(error)
        except ClusterError as error:
            why = str(error)
        finally:
            kube.close()
    return None, [
        f"{key} could not be read ({why}): its own metrics and behavior are not here. Compare before you apply, or "
        "write --hpa FILE."
    ]


def _from_file(path: Path, scale: ScaleSpec) -> dict[str, Any]:
    found = hpa_manifest.objects_of(path)
    read = [hpa_manifest.manifest_of(one, f"--hpa: {path}") for one in found]
    told = next((one for hpa, one in zip(read, found, strict=True) if hpa.is_of(scale.namespace, scale.hpa)), None)
    if told is None:
        there = ", ".join(f"{one.namespace or scale.namespace}/{one.name}" for one in read)
        raise InputError(f"--hpa: {path} is {there}, the workload scales {scale.namespace}/{scale.hpa}")
    metadata: dict[str, Any] = told["metadata"] if isinstance(told.get("metadata"), dict) else {}
    marks = {USERS_OWN: "a floor of ours as minReplicas", target.USERS_OWN: "a CPU target that we raised"}
    held = next((what for mark, what in marks.items() if mark in (metadata.get("annotations") or {})), None)
    if held is not None and not metadata.get("managedFields"):
        raise InputError(
            f"--hpa: {path} holds {held}: write kubectl get hpa --show-managed-fields -o yaml, which tells your own "
            "value"
        )
    return {**told, "metadata": {**metadata, "namespace": scale.namespace, "uid": metadata.get("uid") or "-"}}


def _subject(told: dict[str, Any] | None, asked: Asked, scale: ScaleSpec) -> tuple[Subject, HpaFacts | None]:
    if told is None:
        return _of_bounds(asked, scale), None
    key = f"{scale.namespace}/{scale.hpa}"
    try:
        known = hpas.parse(told)
    except ValueError as error:
        raise InputError(f"the HPA {key} is not sound: {error}") from error
    facts = facts_of(known)
    spec, metadata = told["spec"], told["metadata"]
    reference = spec.get("scaleTargetRef")
    if not isinstance(reference, dict) or not reference.get("name"):
        raise InputError(f"the HPA {key} has no scaleTargetRef")
    least = 1 if facts.users_own is None else facts.users_own
    if least > known.max_replicas:
        raise InputError(f"the HPA {key}: minReplicas {least} is above maxReplicas {known.max_replicas}")
    subject = Subject(
        namespace=scale.namespace,
        name=scale.hpa,
        scale_target=reference if asked.scale_target is None else manifests.scale_target_of(asked.scale_target),
        min_replicas=least,
        max_replicas=known.max_replicas,
        metrics=_metrics(told, known),
        behavior=spec.get("behavior"),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        scaled_object=known.scaled_object,
    )
    return subject, facts


def _metrics(told: dict[str, Any], known: Hpa) -> tuple[dict[str, Any], ...]:
    """Those of the HPA, with the user's own CPU target also while ours is raised."""
    metrics = [copy.deepcopy(one) for one in told["spec"].get("metrics") or () if isinstance(one, dict)]
    cpu, own = hpas.cpu_metric(metrics), target.users_own(known)
    if cpu is not None and own is not None:
        cpu["averageUtilization"] = own
    return tuple(metrics)


def _of_bounds(asked: Asked, scale: ScaleSpec) -> Subject:
    key = f"{scale.namespace}/{scale.hpa}"
    if scale.bounds.max_replicas is None:
        raise InputError(
            f"{key} cannot be read, and scale.bounds.maxReplicas is not configured: write --hpa FILE "
            f"(kubectl -n {scale.namespace} get hpa {scale.hpa} -o yaml > FILE), or the bounds"
        )
    if asked.scale_target is None:
        raise InputError(
            f"{key} cannot be read, so what it scales is not known: write --scale-target Deployment/NAME, or --hpa FILE"
        )
    return Subject(
        namespace=scale.namespace,
        name=scale.hpa,
        scale_target=manifests.scale_target_of(asked.scale_target),
        min_replicas=1 if scale.bounds.min_replicas is None else scale.bounds.min_replicas,
        max_replicas=scale.bounds.max_replicas,
    )


# --- Prometheus ------------------------------------------------------------------------------------------------------


def _server(config: Config, asked: Asked) -> tuple[str, list[str]]:
    """Prometheus' address for KEDA, without a user or password, and what KEDA must be told beside it."""
    if asked.prometheus is not None:
        return asked.prometheus, []
    if config.prometheus is None:
        raise InputError("prometheus: no url is configured: write it, or --prometheus URL as KEDA reaches it")
    parts = urlsplit(config.prometheus.url)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    settings, notes = config.prometheus, []
    if parts.netloc != parts.netloc.rpartition("@")[2] or settings.bearer_token_file or settings.basic_auth:
        notes.append("Prometheus asks for credentials: give the trigger an authenticationRef (TriggerAuthentication).")
    if settings.headers:
        notes.append("Prometheus is asked with headers: give the trigger customHeaders.")
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        notes.append(f"KEDA cannot reach {parts.hostname}: write --prometheus with the address inside the cluster.")
    return plain, notes
