"""An action of the policy, done: which requests it takes, and in which order.

Taking over: an apply that is not forced, and only where its refusal names `.spec.minReplicas` alone, one forced apply
under the uid and the resourceVersion just read. Steps: under the uid. Giving back: the user's value by apply, then one
JSON patch of annotations and managedFields, so that ownership is bit for bit what it was; dropping the field would make
it 1. All this is how a real API server was seen to behave; docs/actuator.md tells it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from serving.actuator import hpas
from serving.actuator.kube import Json, Kind, Kube, KubeError
from serving.actuator.policy import (
    MANAGER,
    OWNERS,
    USERS_OWN,
    Action,
    Hold,
    Hpa,
    LetGo,
    Nothing,
    Owner,
    Restore,
    Step,
    Take,
    marks_of,
)

ATTEMPTS = 4  # of a write that others' writes come in between
_MINIMUM = frozenset({".spec.minReplicas"})
_MARKS = {f".metadata.annotations.{name}": name for name in (USERS_OWN, OWNERS)}


class Changed(Exception):
    """The HPA is no longer what the decision rested on: decide anew on `hpa`."""

    def __init__(self, hpa: Hpa, why: str) -> None:
        super().__init__(why)
        self.hpa = hpa


def perform(kube: Kube, hpa: Hpa, action: Action) -> Hpa | None:
    """Does it, and returns the HPA as it is now; None where there was nothing to do.

    Raises KubeError, and Changed where the decision must be made anew. What was done so far is never wrong in between:
    while a restore is under way the user's value already stands.
    """
    match action:
        case Nothing():
            return None
        case Take():
            return _take(kube, hpa, action)
        case Step(floor=floor, hold=hold):
            return _step(kube, hpa, floor, hold)
        case Restore(hold=hold):
            return _restore(kube, hpa, hold)
        case LetGo():
            return hpas.parse(kube.apply_hpa(hpa.namespace, hpa.name, _body(hpa, None, None)))


def _body(
    hpa: Hpa, floor: int | None, hold: Hold | None, version: str | None = None, without: frozenset[str] = frozenset()
) -> Json:
    """`without`: names of annotations that somebody else holds by now."""
    marks = None
    if hold is not None:
        marks = {name: text for name, text in marks_of(hold).items() if name not in without}
    body = body_of(hpa, marks, version)
    if floor is not None:
        body["spec"] = {"minReplicas": floor}
    return body


def body_of(hpa: Hpa, annotations: Mapping[str, str] | None = None, version: str | None = None) -> Json:
    """What every apply of ours says, without a spec."""
    metadata: Json = {"name": hpa.name, "namespace": hpa.namespace, "uid": hpa.uid}
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    if version is not None:
        metadata["resourceVersion"] = version
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata}


def _take(kube: Kube, hpa: Hpa, action: Take) -> Hpa:
    try:
        return hpas.parse(kube.apply_hpa(hpa.namespace, hpa.name, _body(hpa, action.floor, action.hold)))
    except KubeError as error:
        if error.kind is not Kind.FIELD_CONFLICT or error.fields != _MINIMUM or not action.force:
            raise
    for _ in range(ATTEMPTS):
        fresh = read(kube, hpa)
        if fresh.min_replicas != action.hold.users_own or fresh.owners != action.hold.former or fresh.deleting:
            raise Changed(fresh, "somebody else wrote minReplicas in between")
        body = _body(hpa, action.floor, action.hold, fresh.version)
        try:
            return hpas.parse(kube.apply_hpa(hpa.namespace, hpa.name, body, force=True))
        except KubeError as refused:
            if refused.kind is not Kind.STALE:
                raise
    raise KubeError(Kind.STALE, f"{hpa.key}: others write it all the time")


def _step(kube: Kube, hpa: Hpa, floor: int, hold: Hold) -> Hpa:
    try:
        return hpas.parse(_apply(kube, hpa, floor, hold))
    except KubeError as error:
        if error.kind is not Kind.FIELD_CONFLICT:
            raise
    raise Changed(read(kube, hpa), "somebody set minReplicas")


def _apply(kube: Kube, hpa: Hpa, floor: int, hold: Hold) -> Json:
    """Another value of the field that is ours, not forced.

    An annotation of ours that somebody else wrote is left to him: minReplicas must not hang on it, and the store knows
    the user's value, too.
    """
    try:
        return kube.apply_hpa(hpa.namespace, hpa.name, _body(hpa, floor, hold))
    except KubeError as error:
        if error.kind is not Kind.FIELD_CONFLICT or not error.fields <= set(_MARKS):
            raise
        without = frozenset(_MARKS[field] for field in error.fields)
    return kube.apply_hpa(hpa.namespace, hpa.name, _body(hpa, floor, hold, without=without))


def _restore(kube: Kube, hpa: Hpa, hold: Hold) -> Hpa:
    for _ in range(ATTEMPTS):
        told = raw(kube, hpa)
        fresh = hpas.parse(told)
        if not fresh.ours or fresh.owners:
            raise Changed(fresh, "somebody set minReplicas")
        try:
            if not hold.former and hold.users_own == 1:  # the default of the API: dropping the field brings it
                return hpas.parse(kube.apply_hpa(hpa.namespace, hpa.name, _body(hpa, None, None)))
            if fresh.min_replicas != hold.users_own:
                told = _apply(kube, hpa, hold.users_own, hold)
            answer = kube.patch_hpa(hpa.namespace, hpa.name, restoring(told, hold))
        except KubeError as error:
            # A failed test of a JSON patch is 422 without any cause: somebody wrote in between.
            if error.kind in (Kind.STALE, Kind.INVALID, Kind.FIELD_CONFLICT) and not error.unknown:
                lost = error
                continue
            raise
        done = hpas.parse(answer)
        if done.marked or set(done.owners) != set(hold.former):
            raise KubeError(Kind.INVALID, f"{hpa.key}: the ownership of minReplicas could not be given back")
        return done
    raise lost


def restoring(told: Mapping[str, Any], hold: Hold) -> list[Json]:
    """The JSON patch that removes us from an HPA whose minReplicas is the user's again; `told` as just read."""
    return returning(told, ("minReplicas", hold.users_own), hold.former, MANAGER, (USERS_OWN, OWNERS))


def returning(
    told: Mapping[str, Any], field: tuple[str, Any], former: tuple[Owner, ...], manager: str, marks: Sequence[str]
) -> list[Json]:
    """The JSON patch that removes `manager` and its annotations `marks`, where the value of the field of the spec is
    the user's again.
    """
    name, value = field
    metadata = told["metadata"]
    annotations = metadata.get("annotations") or {}
    steps: list[Json] = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "test", "path": f"/spec/{name}", "value": value},
    ]
    steps += [
        {"op": "remove", "path": f"/metadata/annotations/{mark.replace('~', '~0').replace('/', '~1')}"}
        for mark in marks
        if mark in annotations
    ]
    fields = managed_without(manager, metadata.get("managedFields") or [], former, name)
    steps.append({"op": "replace", "path": "/metadata/managedFields", "value": fields})
    return steps


def managed_without(manager: str, entries: list[Json], former: tuple[Owner, ...], name: str) -> list[Json]:
    """managedFields with the entry of `manager` gone and the field of the spec back where it was."""
    left = [copy.deepcopy(one) for one in entries if not hpas.is_ours(one, manager)]
    for owner in former:
        entry = next((one for one in left if hpas.owner_of(one) == owner and not one.get("subresource")), None)
        if entry is None:  # it owned nothing else, and our taking over removed it
            entry = {
                "manager": owner.manager,
                "operation": owner.operation,
                "apiVersion": owner.api_version,
                "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "fieldsType": "FieldsV1",
                "fieldsV1": {},
            }
            left.append(entry)
        entry.setdefault("fieldsV1", {}).setdefault("f:spec", {})[f"f:{name}"] = {}
    return left


def raw(kube: Kube, hpa: Hpa) -> Json:
    """The HPA as the API server tells it now. Raises KubeError, also where it is another object by now."""
    told = kube.get_hpa(hpa.namespace, hpa.name)
    uid = str((told.get("metadata") or {}).get("uid"))
    if uid != hpa.uid:
        raise KubeError(Kind.REPLACED, f"{hpa.key} was deleted and made anew")
    return told


def read(kube: Kube, hpa: Hpa) -> Hpa:
    """The HPA as it is now. Raises KubeError, also where it is another object by now."""
    return hpas.parse(raw(kube, hpa))
