"""HorizontalPodAutoscalers as the API server tells them, made small; managedFields end here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.actuator import target
from serving.actuator.policy import MANAGER, MODE, OWNERS, USERS_OWN, CpuTarget, Hpa, Owner

_KEDA_LABEL = "scaledobject.keda.sh/name"


def parse(told: Any) -> Hpa:
    """Raises ValueError, with what is wrong, for what is no HPA."""
    if not isinstance(told, dict):
        raise ValueError(f"{type(told).__name__} is no object")
    metadata, spec = told.get("metadata"), told.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        raise ValueError("an object without metadata or spec")
    namespace, name, uid = (str(metadata.get(key) or "") for key in ("namespace", "name", "uid"))
    if not namespace or not name or not uid:
        raise ValueError("an object without namespace, name or uid")
    status = told.get("status")
    current = status.get("currentReplicas") if isinstance(status, dict) else None
    desired = status.get("desiredReplicas") if isinstance(status, dict) else None
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict):
        annotations = {}
    entries = metadata.get("managedFields")
    owners, ours, marked, noted = _ownership(entries, MANAGER, holds_minimum)
    low = spec.get("minReplicas")
    return Hpa(
        namespace=namespace,
        name=name,
        uid=uid,
        version=str(metadata.get("resourceVersion") or ""),
        min_replicas=1 if low is None else _whole(low, "spec.minReplicas", name),
        max_replicas=_whole(spec.get("maxReplicas"), "spec.maxReplicas", name),
        owners=owners,
        ours=ours,
        marked=marked,
        # Only what we wrote ourselves is our memory: exported with the HPA and applied again, it is somebody's text.
        users_own=_text(annotations.get(USERS_OWN)) if USERS_OWN in noted else None,
        former=_text(annotations.get(OWNERS)) if OWNERS in noted else None,
        mode=_text(annotations.get(MODE)),
        deleting=metadata.get("deletionTimestamp") is not None,
        scaled_object=_scaled_object(metadata),
        current_replicas=current if isinstance(current, int) else None,
        desired_replicas=desired if isinstance(desired, int) else None,
        grows_alone=_grows_alone(spec, status),
        target_ratio=_target_ratio(spec.get("metrics")),
        scale_target=_scale_target(spec.get("scaleTargetRef")),
        target=_cpu_target(spec.get("metrics"), entries, annotations),
    )


def is_ours(entry: Mapping[str, Any], manager: str = MANAGER) -> bool:
    """An entry of managedFields that our applies under `manager` made."""
    return entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")


def holds_minimum(entry: Mapping[str, Any]) -> bool:
    return "f:minReplicas" in _spec_of(entry)


def holds_metrics(entry: Mapping[str, Any]) -> bool:
    """`spec.metrics`, or what stands for its one CPU metric in autoscaling/v1."""
    return not {"f:metrics", "f:targetCPUUtilizationPercentage"}.isdisjoint(_spec_of(entry))


def _spec_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = entry.get("fieldsV1")
    spec = fields.get("f:spec") if isinstance(fields, dict) else None
    return spec if isinstance(spec, dict) else {}


def cpu_metric(metrics: Any) -> dict[str, Any] | None:
    """The target of the resource metric that scales by CPU utilization, to be read or changed in place."""
    for one in metrics if isinstance(metrics, list) else []:
        resource = one.get("resource") if isinstance(one, dict) else None
        if not isinstance(resource, dict) or resource.get("name") != "cpu":
            continue
        told = resource.get("target")
        value = told.get("averageUtilization") if isinstance(told, dict) else None
        if isinstance(told, dict) and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return told
    return None


def _cpu_target(metrics: Any, entries: Any, annotations: Mapping[str, Any]) -> CpuTarget:
    owners, ours, marked, noted = _ownership(entries, target.MANAGER, holds_metrics)
    told = cpu_metric(metrics)
    return CpuTarget(
        value=None if told is None else told["averageUtilization"],
        owners=owners,
        ours=ours,
        marked=marked,
        users_own=_text(annotations.get(target.USERS_OWN)) if target.USERS_OWN in noted else None,
        former=_text(annotations.get(target.OWNERS)) if target.OWNERS in noted else None,
    )


def owner_of(entry: Mapping[str, Any]) -> Owner:
    return Owner(str(entry.get("manager")), str(entry.get("operation")), str(entry.get("apiVersion")))


def _ownership(
    entries: Any, manager: str, holds: Callable[[Mapping[str, Any]], bool]
) -> tuple[tuple[Owner, ...], bool, bool, frozenset[str]]:
    """(owners of a field without `manager`, whether it owns that, whether it owns anything, its annotations)."""
    owners: list[Owner] = []
    ours = marked = False
    noted: frozenset[str] = frozenset()
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        mine = is_ours(entry, manager)
        marked |= mine
        if mine:
            noted |= _annotations(entry)
        if holds(entry):
            if mine:
                ours = True
            else:
                owners.append(owner_of(entry))
    return tuple(owners), ours, marked, noted


def _annotations(entry: Mapping[str, Any]) -> frozenset[str]:
    """Names of the annotations that an entry of managedFields owns."""
    found: Any = entry
    for key in ("fieldsV1", "f:metadata", "f:annotations"):
        found = found.get(key)
        if not isinstance(found, dict):
            return frozenset()
    return frozenset(str(name).removeprefix("f:") for name in found)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _scaled_object(metadata: Mapping[str, Any]) -> str | None:
    references = metadata.get("ownerReferences")
    for one in references if isinstance(references, list) else []:
        if isinstance(one, dict) and one.get("kind") == "ScaledObject":
            return str(one.get("name"))
    labels = metadata.get("labels")
    found = labels.get(_KEDA_LABEL) if isinstance(labels, dict) else None
    return None if found is None else str(found)


def _grows_alone(spec: Mapping[str, Any], status: Any) -> bool:
    behavior = spec.get("behavior")
    if isinstance(behavior, dict) and behavior.get("scaleUp") is not None:
        return False
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return any(
        isinstance(one, dict) and one.get("type") == "ScalingActive" and one.get("status") == "True"
        for one in conditions or []
    )


def _scale_target(told: Any) -> str | None:
    if not isinstance(told, dict) or not told.get("kind") or not told.get("name"):
        return None
    return f"{told['kind']}/{told['name']}"


def _target_ratio(metrics: Any) -> float | None:
    """Target utilization as a fraction: of CPU where there is one, else of the first resource that has one."""
    found: dict[str, float] = {}
    for one in metrics if isinstance(metrics, list) else []:
        resource = one.get("resource") if isinstance(one, dict) else None
        if not isinstance(resource, dict):
            continue
        target = resource.get("target")
        value = target.get("averageUtilization") if isinstance(target, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found.setdefault(str(resource.get("name")), value / 100.0)
    return found.get("cpu", next(iter(found.values()), None))


def _whole(value: Any, what: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: {what} is {value!r}, not a whole number")
    return value
