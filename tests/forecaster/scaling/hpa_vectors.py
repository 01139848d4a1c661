"""Reads cases of recorded HPA behaviour (schema: one JSON object with lists calc, normalize, defaults, reconcile)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forecaster.scaling.hpa import Behavior, Event, Hpa, HpaState, Policy, Rules, with_defaults
from forecaster.scaling.hpa_metrics import (
    Container,
    Pod,
    Proposal,
    Readiness,
    Tolerances,
    average_proposal,
    pods_proposal,
    value_proposal,
)

Case = Mapping[str, Any]


def pod_of(told: Case) -> Pod:
    listed = told.get("containers", [{"name": "app", "req": told.get("req")}])
    return Pod(
        count=told.get("n", 1),
        phase=told.get("phase", "Running"),
        deleting=told.get("deleting", False),
        ready=told.get("ready"),
        started_at=told.get("start"),
        ready_since=told.get("since"),
        usage=told.get("use"),
        sampled_at=told.get("at", 0.0),
        sample_window=told.get("win", 0.0),
        containers=tuple(Container(one["name"], one.get("req"), one.get("sidecar", False)) for one in listed),
        pod_request=told.get("podReq"),
        listed=not told.get("ghost", False),
    )


def calculated(case: Case) -> dict[str, Any]:
    """What our calculator says of a `calc` case, in the form of its `out`."""
    tolerances, kind = Tolerances(case["tolDown"], case["tolUp"]), case["fn"]
    pods = [pod_of(told) for told in case.get("pods", [])]
    if kind in ("ObjectValue", "ExternalValue"):
        made = value_proposal(case.get("values"), case["current"], case["target"], pods, tolerances)
    elif kind in ("ObjectAverageValue", "ExternalAverageValue"):
        external = kind.startswith("External")
        made = average_proposal(case.get("values"), case["current"], case["target"], tolerances, external)
    else:
        made = pods_proposal(
            pods,
            case["current"],
            case["target"],
            now=0.0,
            tolerances=tolerances,
            readiness=Readiness(case["cpuInit"], case["readyDelay"]),
            resource=case.get("resource", ""),
            container=case.get("container"),
            utilization=kind == "ResourceUtilization",
        )
    if made.error is not None:
        return {"error": made.error}
    found = {"replicas": made.replicas, "utilization": made.utilization, "usage": made.usage}
    return {name: value for name, value in found.items() if value is not None}


# --- behavior --------------------------------------------------------------------------------------------------------


def tolerance_of(text: str | None) -> float | None:
    """A quantity: 50m is 0.05."""
    if text is None:
        return None
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def rules_of(told: Case | None) -> Rules | None:
    if told is None:
        return None
    policies = tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in told.get("policies", []))
    return Rules(
        policies,
        told.get("stabilizationWindowSeconds"),
        told.get("selectPolicy", "Max"),
        tolerance_of(told.get("tolerance")),
    )


def behavior_of(told: Case | None) -> Behavior | None:
    if told is None:
        return None
    return with_defaults(rules_of(told.get("scaleUp")), rules_of(told.get("scaleDown")))


def state_of(case: Case) -> HpaState:
    """The state before the first step of a `normalize` case."""
    return HpaState(
        tuple((at, replicas) for at, replicas in case.get("recommendations") or []),
        tuple(Event(at, change) for at, change in case.get("upEvents") or []),
        tuple(Event(at, change) for at, change in case.get("downEvents") or []),
    )


# --- whole passes ----------------------------------------------------------------------------------------------------


def proposals_of(case: Case, tick: Case, tolerances: Tolerances) -> list[Proposal]:
    """Of every metric in one pass."""
    failing = set(tick.get("fail", []))
    values: Sequence[Any] = tick.get("values") or [None] * len(case["metrics"])
    out = []
    for i, metric in enumerate(case["metrics"]):
        if i in failing:
            out.append(Proposal(error="noMetrics"))
            continue
        kind, average = metric["type"], metric["targetType"] == "AverageValue"
        pods = [_pass_pod(case, tick, told, i, metric) for told in tick.get("pods", [])]
        if kind in ("Object", "External"):
            if average:
                made = average_proposal(
                    _series(values[i]), tick["status"], metric["target"], tolerances, kind == "External"
                )
            else:
                made = value_proposal(_series(values[i]), tick["spec"], metric["target"], pods, tolerances)
        else:
            made = pods_proposal(
                pods,
                tick["spec"],
                metric["target"],
                now=tick["t"],
                tolerances=tolerances,
                readiness=Readiness(case["controller"]["cpuInit"], case["controller"]["readyDelay"]),
                resource="" if kind == "Pods" else metric["name"],
                container=metric.get("container"),
                utilization=metric["targetType"] == "Utilization",
            )
        out.append(made)
    return out


def _series(value: Any) -> list[int] | None:
    if value is None:
        return None
    return list(value) if isinstance(value, list) else [value]


def _pass_pod(case: Case, tick: Case, told: Case, metric: int, spec: Case) -> Pod:
    use = told.get("use")
    sample = None if use is None else use[metric]
    request = (case.get("requests") or {}).get(spec.get("name"))
    aged = {"at": tick["t"] - case.get("sampleAge", 0), "win": case.get("sampleWindow", 0)}
    return pod_of({**told, **aged, "use": sample, "req": request})


def hpa_of(case: Case, low: int, high: int, behavior: Behavior | None) -> Hpa:
    return Hpa(
        max_replicas=high,
        min_replicas=low,
        behavior=behavior,
        scales_to_zero=case["controller"].get("scaleToZeroGate", False),
        metric_types=tuple(metric["type"] for metric in case["metrics"]),
        downscale_stabilization=case["controller"]["downscaleStabilization"],
    )
