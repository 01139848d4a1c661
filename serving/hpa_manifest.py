"""HPAs as they are written down: what `forecaster whatif` simulates of a manifest, or of the API server's answer.

Bounds, CPU target and `behavior`, with the API's own limits; everything else of an HPA is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecaster import config_yaml
from forecaster.errors import InputError
from forecaster.scaling.hpa import DOWNSCALE_STABILIZATION_SECONDS, Behavior, Policy, Rules, with_defaults
from forecaster.scaling.whatif.trial import MAX_REPLICAS, TARGET, Hpa
from serving.actuator.policy import USERS_OWN, read_users_own
from serving.actuator.target import USERS_OWN as TARGET_MARK

_LONGEST_WINDOW, _LONGEST_PERIOD = 3600, 1800  # seconds, of the API
_NO_METRICS_TARGET = 80  # per cent of CPU, where the manifest names no metric
_KIND = "HorizontalPodAutoscaler"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One HPA. None: the manifest does not say, so that it is known only from elsewhere."""

    namespace: str
    name: str
    target: int | None
    min_replicas: int | None
    max_replicas: int | None
    behavior: Behavior | None

    def is_of(self, namespace: str, name: str) -> bool:
        """A manifest without a namespace is of any."""
        return self.name == name and self.namespace in ("", namespace)

    @property
    def hpa(self) -> Hpa:
        """With the API's defaults for what is not said."""
        low, high = self.min_replicas, self.max_replicas
        return with_behavior(
            Hpa(
                target=TARGET if self.target is None else self.target,
                min_replicas=1 if low is None else low,
                max_replicas=MAX_REPLICAS if high is None else high,
            ),
            self.behavior,
        )


def with_behavior(hpa: Hpa, behavior: Behavior | None) -> Hpa:
    """`hpa` under a `behavior`, its downscale stabilization that of the behavior where that has one."""
    window = None if behavior is None else behavior.scale_down.stabilization_window_seconds
    seconds = DOWNSCALE_STABILIZATION_SECONDS if window is None else window
    return Hpa(hpa.target, seconds, hpa.min_replicas, hpa.max_replicas, behavior)


def read(path: Path) -> list[Manifest]:
    """The HPAs of a file. Raises InputError naming file and field."""
    return [manifest_of(one, f"--hpa: {path}") for one in objects_of(path)]


def objects_of(path: Path) -> list[dict[str, Any]]:
    """The HPAs of a file as they stand there, YAML or JSON: one, or a List of them. Raises InputError naming it."""
    try:
        told = config_yaml.parse(path.read_text(encoding="utf-8")).data
    except OSError as error:
        raise InputError(f"--hpa: {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--hpa: {path} is not UTF-8 text") from error
    except config_yaml.YamlError as error:
        raise InputError(f"--hpa: {path}: {error}") from error
    objects = told.get("items") if isinstance(told, dict) and isinstance(told.get("items"), list) else [told]
    found = [one for one in objects or [] if isinstance(one, dict) and one.get("kind") == _KIND]
    if not found:
        raise InputError(
            f"--hpa: {path} holds no {_KIND}: write one, or a List of them, as kubectl get hpa -o yaml prints"
        )
    return found


def manifest_of(told: Mapping[str, Any], where: str) -> Manifest:
    """One HPA of autoscaling/v2. Raises InputError that begins with `where`."""
    version = told.get("apiVersion")
    if version not in (None, "autoscaling/v2"):
        raise InputError(f"{where}: apiVersion is {version!r}: write autoscaling/v2")
    metadata, spec = _mapping(told, "metadata", where), _mapping(told, "spec", where)
    marks = _mapping(metadata, "annotations", where)  # where ours stand in the HPA, they tell the user's own values
    target, least = read_users_own(_text(marks.get(TARGET_MARK))), read_users_own(_text(marks.get(USERS_OWN)))
    return Manifest(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        target=_target(spec, where) if target is None else target,
        min_replicas=_whole(spec, "minReplicas", f"{where}: spec", 0, 2**31 - 1) if least is None else least,
        max_replicas=_whole(spec, "maxReplicas", f"{where}: spec", 1, 2**31 - 1),
        behavior=_behavior(spec, where),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _target(spec: Mapping[str, Any], where: str) -> int | None:
    """Of CPU utilization; None where only other metrics scale it."""
    metrics = spec.get("metrics")
    if not metrics:
        return _NO_METRICS_TARGET
    for one in metrics if isinstance(metrics, list) else []:
        resource = one.get("resource") if isinstance(one, dict) else None
        if isinstance(resource, dict) and resource.get("name") == "cpu" and isinstance(resource.get("target"), dict):
            return _whole(resource["target"], "averageUtilization", f"{where}: spec.metrics: cpu", 1, 2**31 - 1)
    return None


def _behavior(spec: Mapping[str, Any], where: str) -> Behavior | None:
    """None where there is none at all: an empty one is another thing (the API fills it)."""
    if spec.get("behavior") is None:
        return None
    told = _mapping(spec, "behavior", f"{where}: spec")
    return with_defaults(*(_rules(told, side, f"{where}: spec.behavior") for side in ("scaleUp", "scaleDown")))


def _rules(told: Mapping[str, Any], side: str, where: str) -> Rules | None:
    if told.get(side) is None:
        return None
    rules, where = _mapping(told, side, where), f"{where}.{side}"
    select = rules.get("selectPolicy") or "Max"
    if select not in ("Max", "Min", "Disabled"):
        raise InputError(f"{where}.selectPolicy: {select!r}: write Max, Min or Disabled")
    policies = rules.get("policies") or []
    if not isinstance(policies, list):
        raise InputError(f"{where}.policies: write a list of policies")
    return Rules(
        policies=tuple(_policy(one, f"{where}.policies[{i}]") for i, one in enumerate(policies)),
        stabilization_window_seconds=_whole(rules, "stabilizationWindowSeconds", where, 0, _LONGEST_WINDOW),
        select_policy=select,
        tolerance=_share(rules, where),
    )


def _policy(told: Any, where: str) -> Policy:
    if not isinstance(told, dict):
        raise InputError(f"{where}: write type, value and periodSeconds")
    kind = told.get("type")
    if kind not in ("Pods", "Percent"):
        raise InputError(f"{where}.type: {kind!r}: write Pods or Percent")
    value = _whole(told, "value", where, 1, 2**31 - 1)
    period = _whole(told, "periodSeconds", where, 1, _LONGEST_PERIOD)
    if value is None or period is None:
        raise InputError(f"{where}.{'value' if value is None else 'periodSeconds'} is missing")
    return Policy(kind, value, float(period))


def _share(rules: Mapping[str, Any], where: str) -> float | None:
    """`tolerance`, a quantity: 0.05, or 50m."""
    told = rules.get("tolerance")
    if told is None:
        return None
    text = str(told)
    try:
        value = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise InputError(f"{where}.tolerance: {told!r}: write a share of at least 0, as 0.05 or 50m")
    return value


def _mapping(told: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = told.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{where}: {name} holds {type(found).__name__}: write fields under it")
    return found


def _whole(told: Mapping[str, Any], name: str, where: str, least: int, most: int) -> int | None:
    value = told.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where}.{name}: {value!r}: write a whole number from {least} to {most}")
    return value
