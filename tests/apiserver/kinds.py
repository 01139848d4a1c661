"""The kinds that the fake knows: shape, defaults, conversion between versions, and what makes an object invalid."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.apiserver.errors import (
    ApiError,
    Named,
    Problem,
    bad_request,
    forbidden_value,
    internal,
    invalid,
    invalid_value,
    required,
    too_long,
)
from tests.apiserver.fields import (
    METADATA,
    Json,
    Path,
    Shape,
    anything,
    atomic,
    int32,
    mapping,
    microtime,
    path_text,
    string,
    struct,
)

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NAME_PART = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
)
NAME_PART_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{NAME_PART}')"
)
ANNOTATION_BYTES = 256 * 1024
METRIC_TYPES = ("ContainerResource", "External", "Object", "Pods", "Resource")
MICROTIME_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"


@dataclass(frozen=True)
class Kind:
    group: str
    versions: tuple[str, ...]  # the first is the one that is stored
    resource: str
    kind: str
    shapes: dict[str, Shape]  # by version
    empty: dict[str, Json]  # an object of zero values, as Go writes it
    default: Callable[[Json], None]
    validate: Callable[[Json, Json | None], list[Problem]]
    unconditional_update: bool = True
    internal_group: str | None = None  # events are validated as core/v1 objects

    def version(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version

    def named(self, name: str = "") -> Named:
        return Named(self.group, self.resource, self.kind, name)

    def invalid(self, name: str, problems: list[Problem]) -> ApiError:
        group = self.group if self.internal_group is None else self.internal_group
        title = f"{self.kind}.{group}" if group else self.kind
        details = {"name": name, "group": group, "kind": self.kind}
        return invalid(f'{title} "{name}"', {key: value for key, value in details.items() if value}, problems)


# --- decoding -----------------------------------------------------------------------------------------------------


def go_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "[]interface {}"
    return "map[string]interface {}" if isinstance(value, dict) else "float64"


def microtime_error(text: str) -> str | None:
    """Why a text is no MicroTime, in Go's words; None where it is one. Exactly six decimals."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text)
    if match is None:
        left, wanted = text, "2006"
    else:
        fraction, zone = match[2] or "", match[3] or ""
        if len(fraction) == 7 and zone:
            return None
        if len(fraction) < 7:
            left, wanted = fraction + zone, ".000000"
        else:
            left, wanted = fraction[7:] + zone, "Z07:00"
    return f"parsing time {json.dumps(text)} as {json.dumps(MICROTIME_LAYOUT)}: cannot parse {json.dumps(left)} as " + (
        json.dumps(wanted)
    )


def scalars(shape: Shape, value: Any, path: Path = ()) -> Iterator[tuple[Path, Shape, Any]]:
    """Every scalar of an object, and every field that its shape does not know (as a shape of kind `unknown`)."""
    if shape.kind == "scalar":
        yield path, shape, value
    elif shape.kind in ("struct", "map"):
        if value is None:
            return
        if not isinstance(value, dict):
            yield path, Shape("scalar", "object"), value
            return
        for name, part in value.items():
            if shape.kind == "map":
                assert shape.item is not None
                yield from scalars(shape.item, part, (*path, f"f:{name}"))
            elif name in shape.fields:
                yield from scalars(shape.fields[name], part, (*path, f"f:{name}"))
            else:
                yield (*path, f"f:{name}"), Shape("unknown"), part


def check_applied(kind: Kind, version: str, body: Json, where: str) -> None:
    """500 where an applied object does not fit the schema."""
    prefix = f"failed to create typed patch object ({where}; {kind.version(version)}, Kind={kind.kind}): "
    for path, shape, value in scalars(kind.shapes[version], body):
        text = path_text(path)
        if shape.kind == "unknown":
            raise internal(f"{prefix}{text}: field not declared in schema")
        if value is None or shape.type == "any":
            continue
        if shape.type == "int32":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise internal(f"{prefix}{text}: expected numeric (int or float), got {go_type(value)}")
            if value != int(value):
                raise internal(
                    f"failed to convert new object ({where}; {kind.version(version)}, Kind={kind.kind}) to proper "
                    f"version: unable to convert unstructured object to {kind.version(version)}, Kind={kind.kind}: "
                    "cannot convert float64 to int32"
                )
        elif shape.type == "object" and not isinstance(value, dict):
            raise internal(f"{prefix}{text}: expected map, got &value.valueUnstructured{{Value:{go_value(value)}}}")
        elif shape.type in ("string", "microtime") and not isinstance(value, str):
            raise internal(f"{prefix}{text}: expected string, got &value.valueUnstructured{{Value:{go_value(value)}}}")


def go_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def decode_problem(kind: Kind, version: str, body: Json) -> str | None:
    """Why a body is no object of this kind, in the words of Go's JSON; None where it is one."""
    for path, shape, value in scalars(kind.shapes[version], body):
        names = ".".join(key[2:] for key in path)
        owner = f"{kind.kind}Spec" if path and path[0] == "f:spec" else kind.kind
        if shape.kind == "unknown" or value is None or shape.type == "any":
            continue
        if shape.type == "int32" and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"json: cannot unmarshal {go_json(value)} into Go struct field {owner}.{names} of type int32"
        if shape.type == "int32" and value != int(value):
            return f"json: cannot unmarshal number {value} into Go struct field {owner}.{names} of type int32"
        if shape.type == "object":
            return f"json: cannot unmarshal {go_json(value)} into Go struct field {owner}.{names} of type map"
        if shape.type in ("string", "microtime") and not isinstance(value, str):
            return f"json: cannot unmarshal {go_json(value)} into Go struct field {owner}.{names} of type string"
        if shape.type == "microtime" and value and (problem := microtime_error(value)):
            return problem
    return None


def go_json(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list | dict):
        return "array" if isinstance(value, list) else "object"
    return "string" if isinstance(value, str) else "number"


def unknown_fields(kind: Kind, version: str, body: Json) -> list[str]:
    found = scalars(kind.shapes[version], body)
    return [".".join(key[2:] for key in path) for path, shape, _ in found if shape.kind == "unknown"]


def tidy(kind: Kind, body: Json) -> Json:
    """A stored object as Go would write it: numbers are int32, times in UTC, nothing unknown, no empty map."""

    def walk(shape: Shape, value: Any) -> Any:
        if shape.kind == "struct" and isinstance(value, dict):
            found = {name: walk(shape.fields[name], part) for name, part in value.items() if name in shape.fields}
            return {name: part for name, part in found.items() if part is not None or name == "currentMetrics"}
        if shape.kind == "map" and isinstance(value, dict):
            return {name: "" if part is None else part for name, part in value.items()} or None
        if shape.kind == "set" and value == []:
            return None
        if shape.type == "int32" and isinstance(value, int | float):
            return (int(value) + 2**31) % 2**32 - 2**31
        if shape.type == "microtime" and isinstance(value, str) and value.endswith("+00:00"):
            return value.removesuffix("+00:00") + "Z"
        return value

    done: Json = walk(kind.shapes[kind.versions[0]], body)
    for name, zero in kind.empty[kind.versions[0]].items():
        part = done.setdefault(name, copy.deepcopy(zero))
        if isinstance(part, dict):
            for inner, value in zero.items():
                part.setdefault(inner, copy.deepcopy(value))
    return done


# --- metadata -----------------------------------------------------------------------------------------------------


def metadata_problems(new: Json, old: Json | None) -> list[Problem]:
    found: list[Problem] = []
    metadata = new["metadata"]
    name, generate = metadata.get("name", ""), metadata.get("generateName", "")
    if old is None:
        if generate and not re.fullmatch(SUBDOMAIN, generate.removesuffix("-")):
            found.append(invalid_value("metadata.generateName", json.dumps(generate), SUBDOMAIN_TEXT))
        if not name:
            found.append(required("metadata.name", "name or generateName is required"))
        elif not re.fullmatch(SUBDOMAIN, name) and not generate:
            found.append(invalid_value("metadata.name", json.dumps(name), SUBDOMAIN_TEXT))
    times = 1 if old is None else 3  # the real server checks an update three times over
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        prefix, slash, part = key.rpartition("/")
        if key.count("/") > 1:
            text = "a valid label key " + NAME_PART_TEXT + " with an optional DNS subdomain prefix and '/' "
            found.append(
                invalid_value("metadata.annotations", json.dumps(key), text + "(e.g. 'example.com/MyName')", times)
            )
        elif not re.fullmatch(NAME_PART, part) or len(part) > 63 or (slash and not re.fullmatch(SUBDOMAIN, prefix)):
            found.append(invalid_value("metadata.annotations", json.dumps(key), "name part " + NAME_PART_TEXT, times))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATION_BYTES:
        found.append(too_long("metadata.annotations", ANNOTATION_BYTES, times))
    if old is not None and metadata.get("uid") != old["metadata"].get("uid"):
        found.append(invalid_value("metadata.uid", json.dumps(metadata.get("uid")), "field is immutable", times=2))
    return found


# --- HorizontalPodAutoscaler --------------------------------------------------------------------------------------

CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
RULES = struct(stabilizationWindowSeconds=int32(), selectPolicy=string(), policies=atomic(), tolerance=anything())
BEHAVIOR = struct(scaleUp=RULES, scaleDown=RULES)
CONDITION = struct(type=string(), status=string(), reason=string(), message=string(), lastTransitionTime=anything())
HPA_V2 = struct(
    apiVersion=string(),
    kind=string(),
    metadata=METADATA,
    spec=struct(
        scaleTargetRef=struct(apiVersion=string(), kind=string(), name=string()),
        minReplicas=int32(),
        maxReplicas=int32(),
        metrics=atomic(),
        behavior=BEHAVIOR,
    ),
    status=struct(
        observedGeneration=anything(),
        lastScaleTime=anything(),
        currentReplicas=int32(),
        desiredReplicas=int32(),
        currentMetrics=atomic(),
        conditions=Shape("list", item=CONDITION, key="type"),
    ),
)
HPA_V1 = struct(
    apiVersion=string(),
    kind=string(),
    metadata=METADATA,
    spec=struct(
        scaleTargetRef=atomic(),
        minReplicas=int32(),
        maxReplicas=int32(),
        targetCPUUtilizationPercentage=int32(),
    ),
    status=struct(
        currentReplicas=int32(),
        desiredReplicas=int32(),
        lastScaleTime=anything(),
        observedGeneration=anything(),
        currentCPUUtilizationPercentage=int32(),
    ),
)


def default_hpa(hpa: Json) -> None:
    spec = hpa["spec"]
    if spec.get("minReplicas") is None:
        spec["minReplicas"] = 1
    if not spec.get("metrics"):
        spec["metrics"] = [copy.deepcopy(CPU)]
    if isinstance(behavior := spec.get("behavior"), dict):
        percent = {"type": "Percent", "value": 100, "periodSeconds": 15}
        up = {"stabilizationWindowSeconds": 0, "selectPolicy": "Max"}
        up["policies"] = [{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]
        behavior["scaleUp"] = up | (behavior.get("scaleUp") or {})
        behavior["scaleDown"] = {"selectPolicy": "Max", "policies": [dict(percent)]} | (behavior.get("scaleDown") or {})


def validate_hpa(new: Json, old: Json | None) -> list[Problem]:
    found = metadata_problems(new, old)
    spec = new["spec"]
    low, high = spec["minReplicas"], spec.get("maxReplicas") or 0
    if low < 1:
        found.append(invalid_value("spec.minReplicas", str(low), "must be greater than or equal to 1"))
    if high < 1:
        found.append(required("spec.maxReplicas", "must be set and greater than 0"))
    if high < low:
        found.append(invalid_value("spec.maxReplicas", str(high), "must be greater than or equal to `minReplicas`"))
    target = spec.get("scaleTargetRef") or {}
    found += [required(f"spec.scaleTargetRef.{name}") for name in ("kind", "name") if not target.get(name)]
    if not target.get("apiVersion"):
        found.append(invalid_value("spec.scaleTargetRef.apiVersion", '""', "apiVersion must specify API group"))
    for number, metric in enumerate(spec["metrics"]):
        found += metric_problems(f"spec.metrics[{number}]", metric)
    if low == 0 and not any(metric.get("type") in ("Object", "External") for metric in spec["metrics"]):
        text = "must specify at least one Object or External metric to support scaling to zero replicas"
        found.append(forbidden_value("spec.metrics", text))
    return found


def metric_problems(field: str, metric: Json) -> list[Problem]:
    """Type, and for a Resource metric its name and target. The other sources are taken as they come."""
    found = []
    if not metric.get("type"):
        found.append(required(f"{field}.type", "must specify a metric source type"))
    if metric.get("type") not in METRIC_TYPES:
        words = ", ".join(json.dumps(name) for name in METRIC_TYPES)
        text = f"Unsupported value: {json.dumps(metric.get('type', ''))}: supported values: {words}"
        found.append(Problem("FieldValueNotSupported", f"{field}.type", text, times=2))
    if (resource := metric.get("resource")) is not None:
        if not resource.get("name"):
            found.append(required(f"{field}.resource.name", "must specify a resource name"))
        kind = (resource.get("target") or {}).get("type", "")
        place = f"{field}.resource.target.type"
        if not kind:
            found.append(required(place, "must specify a metric target type"))
        if kind not in ("Utilization", "Value", "AverageValue"):
            found.append(invalid_value(place, json.dumps(kind), "must be either Utilization, Value, or AverageValue"))
    return found


def hpa_as(hpa: Json, version: str) -> Json:
    """A v2 object in the form of `version` (v1: a CPU target only)."""
    found = copy.deepcopy(hpa)
    found["apiVersion"] = f"autoscaling/{version}"
    if version == "v1":
        spec = found["spec"]
        spec.pop("behavior", None)
        for metric in spec.pop("metrics", None) or []:
            target = metric.get("resource", {})
            if target.get("name") == "cpu" and "averageUtilization" in target.get("target", {}):
                spec["targetCPUUtilizationPercentage"] = target["target"]["averageUtilization"]
        for name in ("currentMetrics", "conditions"):
            found["status"].pop(name, None)
        found["status"].setdefault("currentReplicas", 0)
    return found


def hpa_from(body: Json, version: str, live: Json | None) -> Json:
    """A body of `version` as v2. What v1 cannot say is taken from the live object."""
    found = copy.deepcopy(body)
    found["apiVersion"] = "autoscaling/v2"
    if version == "v1":
        spec = found.setdefault("spec", {})
        percent = spec.pop("targetCPUUtilizationPercentage", None)
        before = copy.deepcopy((live or {}).get("spec", {}).get("metrics") or [])
        metrics = [metric for metric in before if (metric.get("resource") or {}).get("name") != "cpu"]
        if percent is not None:
            cpu = copy.deepcopy(CPU)
            cpu["resource"]["target"]["averageUtilization"] = percent  # type: ignore[index]
            metrics.append(cpu)
        if metrics:
            spec["metrics"] = metrics
        if live and "behavior" in live["spec"]:
            spec["behavior"] = copy.deepcopy(live["spec"]["behavior"])
    return found


def empty_hpa(version: str) -> Json:
    spec: Json = {"scaleTargetRef": {"kind": "", "name": ""}, "maxReplicas": 0}
    status: Json = {"desiredReplicas": 0, "currentMetrics": None}
    if version == "v1":
        status = {"currentReplicas": 0, "desiredReplicas": 0}
    return {"metadata": {}, "spec": spec, "status": status}


HPA = Kind(
    "autoscaling",
    ("v2", "v1"),
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
    {"v2": HPA_V2, "v1": HPA_V1},
    {"v2": empty_hpa("v2"), "v1": empty_hpa("v1")},
    default_hpa,
    validate_hpa,
)


# --- Lease --------------------------------------------------------------------------------------------------------


def no_defaults(body: Json) -> None:
    """Most kinds have none."""


def validate_lease(new: Json, old: Json | None) -> list[Problem]:
    found = metadata_problems(new, old)
    spec = new["spec"]
    if (seconds := spec.get("leaseDurationSeconds")) is not None and seconds <= 0:
        found.append(invalid_value("spec.leaseDurationSeconds", str(seconds), "must be greater than 0"))
    if (count := spec.get("leaseTransitions")) is not None and count < 0:
        found.append(invalid_value("spec.leaseTransitions", str(count), "must be greater than or equal to 0"))
    return found


LEASE = Kind(
    "coordination.k8s.io",
    ("v1",),
    "leases",
    "Lease",
    {
        "v1": struct(
            apiVersion=string(),
            kind=string(),
            metadata=METADATA,
            spec=struct(
                holderIdentity=string(),
                leaseDurationSeconds=int32(),
                acquireTime=microtime(),
                renewTime=microtime(),
                leaseTransitions=int32(),
                strategy=string(),
                preferredHolder=string(),
            ),
        )
    },
    {"v1": {"metadata": {}, "spec": {}}},
    no_defaults,
    validate_lease,
    unconditional_update=False,
)


# --- Event --------------------------------------------------------------------------------------------------------


def validate_event(new: Json, old: Json | None) -> list[Problem]:
    found = metadata_problems(new, old)
    if old is not None:
        for name, internal_name in (("note", "message"), ("reason", "reason"), ("type", "type"), ("action", "action")):
            if new.get(name) != old.get(name):
                found.append(invalid_value(internal_name, json.dumps(new.get(name, "")), "field is immutable"))
    if (series := new.get("series")) is not None and (series.get("count") or 0) < 2:
        found.append(invalid_value("series.count", '""', "should be at least 2"))
    regarding = new.get("regarding") or {}
    if not regarding and new["metadata"].get("namespace") not in ("", "default"):
        found.append(invalid_value("involvedObject.namespace", '""', "does not match event.namespace"))
    if old is None and not new.get("eventTime"):
        found.append(required("eventTime"))
    controller = new.get("reportingController", "")
    if not controller:
        found.append(required("reportingController"))
        found.append(invalid_value("reportingController", '""', "name part must be non-empty"))
    if not re.fullmatch(NAME_PART, controller.rpartition("/")[2]):
        found.append(invalid_value("reportingController", json.dumps(controller), "name part " + NAME_PART_TEXT))
    found += [required(name) for name in ("reportingInstance", "action", "reason") if not new.get(name)]
    for name, field, limit in (
        ("reportingInstance", "reportingIntance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
        ("note", "message", 1024),
    ):
        if len((new.get(name) or "").encode()) > limit:
            found.append(invalid_value(field, '""', f"can have at most {limit} characters"))
    if new.get("type", "") not in ("Normal", "Warning"):
        found.append(invalid_value("type", '""', f"has invalid value: {new.get('type', '')}"))
    return found


EVENT = Kind(
    "events.k8s.io",
    ("v1",),
    "events",
    "Event",
    {
        "v1": struct(
            apiVersion=string(),
            kind=string(),
            metadata=METADATA,
            eventTime=microtime(),
            series=struct(count=int32(), lastObservedTime=microtime()),
            reportingController=string(),
            reportingInstance=string(),
            action=string(),
            reason=string(),
            regarding=atomic(),
            related=atomic(),
            note=string(),
            type=string(),
            deprecatedSource=anything(),
            deprecatedFirstTimestamp=anything(),
            deprecatedLastTimestamp=anything(),
            deprecatedCount=int32(),
        )
    },
    {"v1": {"metadata": {}, "regarding": {}, "eventTime": None}},
    no_defaults,
    validate_event,
    internal_group="",
)


# --- ConfigMap, access reviews ------------------------------------------------------------------------------------

CONFIG_MAP = Kind(
    "",
    ("v1",),
    "configmaps",
    "ConfigMap",
    {
        "v1": struct(
            apiVersion=string(),
            kind=string(),
            metadata=METADATA,
            data=mapping(),
            binaryData=mapping(),
            immutable=anything(),
        )
    },
    {"v1": {"metadata": {}}},
    no_defaults,
    metadata_problems,
)
REVIEW = Kind(
    "authorization.k8s.io",
    ("v1",),
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    {
        "v1": struct(
            apiVersion=string(),
            kind=string(),
            metadata=METADATA,
            spec=struct(
                resourceAttributes=struct(
                    group=string(),
                    version=string(),
                    resource=string(),
                    subresource=string(),
                    verb=string(),
                    namespace=string(),
                    name=string(),
                ),
                nonResourceAttributes=struct(path=string(), verb=string()),
            ),
            status=anything(),
        )
    },
    {"v1": {"metadata": {}, "spec": {}}},
    no_defaults,
    lambda new, old: [],
)
KINDS = (HPA, LEASE, EVENT, CONFIG_MAP)


def as_version(kind: Kind, body: Json, version: str) -> Json:
    return hpa_as(body, version) if kind is HPA else body


def from_version(kind: Kind, body: Json, version: str, live: Json | None) -> Json:
    return hpa_from(body, version, live) if kind is HPA else body


def decoded(kind: Kind, version: str, body: Any) -> Json:
    """The body of a POST or PUT, checked. 400 where it is no object of this kind."""
    if not isinstance(body, dict):
        raise bad_request(f"{kind.kind} in version {json.dumps(version)} cannot be handled as a {kind.kind}: no object")
    if problem := decode_problem(kind, version, body):
        raise bad_request(f"{kind.kind} in version {json.dumps(version)} cannot be handled as a {kind.kind}: {problem}")
    return body
