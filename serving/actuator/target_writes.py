"""A raised CPU target, written and given back: which requests that takes, and in which order.

The list of metrics is read, one number of it changed, and applied under the uid and the resourceVersion just read: an
entry that somebody adds in between must not be lost. Where that is refused for `.spec.metrics` alone, it is forced
once. Giving back is two writes as for minReplicas (serving/actuator/writes.py): giving the field up would bring the
API's default of 80 %, not the user's target.
"""

from __future__ import annotations

import copy
from typing import Any

from serving.actuator import hpas, target, writes
from serving.actuator.kube import Json, Kind, Kube, KubeError
from serving.actuator.policy import Hold, Hpa
from serving.actuator.target import Drop, GiveBack, Raise, TargetAction
from serving.actuator.writes import ATTEMPTS, Changed

_METRICS = frozenset({".spec.metrics"})
_MARKS = {f".metadata.annotations.{name}": name for name in (target.USERS_OWN, target.OWNERS)}


def perform(kube: Kube, hpa: Hpa, action: TargetAction) -> Hpa:
    """Does it, and returns the HPA as it is now. Raises KubeError, and Changed where it must be decided anew."""
    match action:
        case Raise(target=value, hold=hold, force=force):
            return _raise(kube, hpa, value, hold, force)
        case GiveBack(hold=hold):
            return _give_back(kube, hpa, hold)
        case Drop():
            return _drop(kube, hpa)


def _apply(kube: Kube, hpa: Hpa, body: Json, force: bool = False) -> Json:
    """An annotation of ours that somebody else wrote is left to him: the target must not hang on it."""
    try:
        return kube.apply_hpa(hpa.namespace, hpa.name, body, force=force, manager=target.MANAGER)
    except KubeError as error:
        theirs = {_MARKS[field] for field in error.fields if field in _MARKS}
        if error.kind is not Kind.FIELD_CONFLICT or not theirs:
            raise
    metadata = body["metadata"]
    kept = {name: text for name, text in metadata.get("annotations", {}).items() if name not in theirs}
    less = {**body, "metadata": {**metadata, "annotations": kept}}
    return kube.apply_hpa(hpa.namespace, hpa.name, less, force=force, manager=target.MANAGER)


def _raise(kube: Kube, hpa: Hpa, value: int, hold: Hold, force: bool) -> Hpa:
    forced = False
    for _ in range(ATTEMPTS):
        told = writes.raw(kube, hpa)
        fresh = hpas.parse(told)
        if fresh.target != hpa.target or fresh.deleting:
            raise Changed(fresh, "somebody wrote the metrics in between")
        try:
            return hpas.parse(_apply(kube, hpa, _body(hpa, told, value, hold), forced))
        except KubeError as error:
            if error.kind is Kind.FIELD_CONFLICT and error.fields == _METRICS and force and not forced:
                forced = True
            elif error.kind is not Kind.STALE:
                raise
    raise KubeError(Kind.STALE, f"{hpa.key}: others write it all the time")


def _drop(kube: Kube, hpa: Hpa) -> Hpa:
    """Our annotations go. Not where the metrics are ours alone: without an owner they become the API's default."""
    for _ in range(ATTEMPTS):
        told = writes.raw(kube, hpa)
        fresh = hpas.parse(told)
        if fresh.target.ours and not fresh.target.owners:
            raise Changed(fresh, "the metrics are ours alone")
        if not fresh.target.marked:
            return fresh
        try:
            return hpas.parse(_apply(kube, hpa, writes.body_of(hpa, None, told["metadata"]["resourceVersion"])))
        except KubeError as error:
            if error.kind is not Kind.STALE:
                raise
    raise KubeError(Kind.STALE, f"{hpa.key}: others write it all the time")


def _body(hpa: Hpa, told: Json, value: int, hold: Hold) -> Json:
    """All metrics as they stand, but for the one number."""
    metrics: Any = copy.deepcopy(told["spec"].get("metrics"))
    cpu = hpas.cpu_metric(metrics)
    if cpu is None:
        raise Changed(hpas.parse(told), "no metric asks for a CPU utilization")
    cpu["averageUtilization"] = value
    body = writes.body_of(hpa, target.marks_of(hold), told["metadata"]["resourceVersion"])
    body["spec"] = {"metrics": metrics}
    return body


def _give_back(kube: Kube, hpa: Hpa, hold: Hold) -> Hpa:
    for _ in range(ATTEMPTS):
        told = writes.raw(kube, hpa)
        fresh = hpas.parse(told)
        if not fresh.target.ours or fresh.target.owners:
            raise Changed(fresh, "somebody wrote the metrics")
        try:
            if fresh.target.value is not None and fresh.target.value != hold.users_own:
                told = _apply(kube, hpa, _body(hpa, told, hold.users_own, hold))
            steps = writes.returning(
                told,
                ("metrics", told["spec"].get("metrics")),
                hold.former,
                target.MANAGER,
                (target.USERS_OWN, target.OWNERS),
            )
            done = hpas.parse(kube.patch_hpa(hpa.namespace, hpa.name, steps))
        except KubeError as error:
            if error.kind in (Kind.STALE, Kind.INVALID, Kind.FIELD_CONFLICT) and not error.unknown:
                lost = error
                continue
            raise
        if done.target.marked or set(done.target.owners) != set(hold.former):
            raise KubeError(Kind.INVALID, f"{hpa.key}: the ownership of spec.metrics could not be given back")
        return done
    raise lost
