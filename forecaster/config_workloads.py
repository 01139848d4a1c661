"""The settings of a workload: every key, its meaning, default and range, and the rules between neighbours.

The string under a field is its entry in the generated reference. Knows nothing of the file or of other workloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, field_validator, model_validator

from forecaster import config_values as values
from forecaster.config_values import bad
from forecaster.config_written import (
    DURATION,
    FLAG,
    HPA,
    NAME,
    PROMQL,
    TEXT,
    ConfigModel,
    Written,
    count,
    duration,
    not_null,
    share,
)
from forecaster.domain import Bounds, Mode, ResourceSpec, ScaleSpec, ScheduleWindow, WorkloadSpec
from forecaster.scaling import raised_target as raised
from forecaster.scaling.schedule import contradiction

MAX_SERIES_OF_TEMPLATE = 1000
MOST_REPLICAS = 100_000
_REPLICAS = count(0, MOST_REPLICAS)


class BoundsConfig(ConfigModel):
    """Limits of our floor. They never loosen those of the HPA."""

    min_replicas: Annotated[int | None, _REPLICAS] = None
    """Our floor is never below. Where it is not given, the HPA's own minimum counts."""
    max_replicas: Annotated[int | None, count(1, MOST_REPLICAS)] = None
    """Our floor is never above. Where it is not given, the HPA's own maximum counts."""
    max_step_up: Annotated[float, share(0.01, 10.0)] = 1.0
    """How much the floor may rise within a minute, as share of the floor; always at least 1 replica. Less protects the
    cluster from a jump and is late for a steep one."""
    max_step_down: Annotated[float, share(0.01, 1.0)] = 0.2
    """How much the floor may fall within a minute; always at least 1 replica. More gives replicas back sooner."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_order(self.min_replicas, self.max_replicas)
        return self


class ScheduleConfig(ConfigModel):
    """A window with its own minimum or maximum, for peaks that are known. It holds with and without a forecast."""

    cron: Annotated[str, Written(values.cron, "cron of five fields")]
    """When the window opens: minute, hour, day, month, weekday."""
    duration: Annotated[timedelta, duration("1m", "31d")]
    """How long it stays open, by the wall clock."""
    timezone: Annotated[str | None, Written(values.timezone, "IANA time zone", none="the workload's")] = None
    """Whose wall clock `cron` means."""
    min_replicas: Annotated[int | None, _REPLICAS] = None
    """The floor is at least this while the window is open."""
    max_replicas: Annotated[int | None, _REPLICAS] = None
    """The floor is at most this while the window is open. It caps our floor, not the HPA."""

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.min_replicas is None and self.max_replicas is None:
            raise bad("neither minReplicas nor maxReplicas is given", "at least one of them", "")
        _check_order(self.min_replicas, self.max_replicas)
        return self


def _check_order(low: int | None, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        raise bad(f"is above maxReplicas {high}", f"at most {high}, or raise maxReplicas", str(low), ("minReplicas",))


def _lead_time(value: object) -> timedelta | None:
    return None if value == "auto" else values.duration("1s", "15m")(value)


_CAPACITY_SCHEMA = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, TEXT]}
_LEAD_TIME_SCHEMA = {"anyOf": [{"const": "auto"}, DURATION]}


class ScaleConfig(ConfigModel):
    """How the workload is scaled. Without it there are forecasts and anomalies, and no recommendation."""

    hpa: Annotated[str, Written(values.hpa, "namespace/name", HPA)]
    """The HorizontalPodAutoscaler. A template names its labels: `"{namespace}/{app}"`. Several workloads may share an
    HPA: the highest floor counts."""
    capacity_per_replica: Annotated[
        float | str | None, Written(values.capacity, "number, PromQL or learned", _CAPACITY_SCHEMA, none="learned")
    ] = None
    """Load at which one replica is full, in the unit of `load`: a number such as `120`, `1.5k` or `250m`, or PromQL
    that gives one. `learned`: from the CPU usage of its pods at that load, or from the `averageValue` of the HPA's own
    metric; the low end of what it may be counts. Where neither is known, `capacity_unknown`."""
    lead_time: Annotated[
        timedelta | None,
        Written(_lead_time, "auto, or a duration, 1s to 15m", _LEAD_TIME_SCHEMA, values.duration_text, "auto"),
    ] = None
    """From the creation of a pod until it serves. `auto`: measured. Longer looks further ahead and costs
    replica-hours; too short is late at every rise."""
    risk: Annotated[float, share(0.001, 0.5)] = 0.01
    """Share of time in which the load may exceed capacity. Smaller means fewer violations and more replica-hours."""
    mode: Annotated[
        Mode,
        Written(
            lambda value: Mode(values.choice("observe", "recommend", "apply")(value)),
            "observe, recommend or apply",
            {"enum": ["observe", "recommend", "apply"]},
        ),
    ] = Mode.RECOMMEND
    """What we may do: forecasts and anomalies; decisions too; or let the actuator write them."""
    allow_new_peak: Annotated[bool, FLAG] = False
    """Whether the floor may exceed 1.5 times the highest need of the last 14 days. Turn it on for a launch."""
    target: Annotated[float | None, share(0.05, 1.0, "the HPA's own, else 70%")] = None
    """Share of capacity that the HPA aims at. Needed where its metric is not a utilization."""
    hold: Annotated[timedelta, duration("300s", "1800s")] = timedelta(seconds=600)
    """How long the floor stays before it falls. Longer means fewer changes and more replica-hours."""
    manage: tuple[
        Annotated[
            str,
            Written(
                values.choice("minReplicas", "target"), "minReplicas or target", {"enum": ["minReplicas", "target"]}
            ),
        ],
        ...,
    ] = ("minReplicas",)
    """Fields of the HPA that `mode: apply` may write: `minReplicas`, and with it, experimental, `target`, its CPU
    target, raised while all is calm. It saves replica-hours; `forecaster generate --save` does so without a write."""
    raised_target: Annotated[float | None, share(0.05, raised.MOST, "80% where `target` is managed")] = None
    """CPU target while all is calm, as a share of the request. The HPA tolerates a tenth more than its target: 80 %
    acts at 88 %. Not above the HPA's own changes nothing."""
    bounds: BoundsConfig = BoundsConfig()
    """Limits of our floor."""
    schedule: tuple[ScheduleConfig, ...] = ()
    """Windows with their own minimum or maximum. Of those that are open together the highest minimum and the lowest
    maximum count; windows that contradict each other while both are open are refused."""
    valid_for: Annotated[timedelta | None, duration("1m", "1h", "the longer of 5m and twice the lead time")] = None
    """How long a recommendation counts when no newer one follows; then the floor walks back to the user's own value.
    Longer rides out longer outages of ours on older data."""

    @field_validator("manage")
    @classmethod
    def _something_managed(cls, managed: tuple[str, ...]) -> tuple[str, ...]:
        if not managed:
            raise bad("is empty", "[minReplicas], or mode: recommend", "")
        if "minReplicas" not in managed:  # a raised target without a floor would give head-room away for nothing
            raise bad("lacks minReplicas", "[minReplicas, target]", "")
        return managed

    @model_validator(mode="after")
    def _raised_is_managed(self) -> Self:
        if self.raised_target is not None and "target" not in self.manage:
            raise bad("is not managed", "manage: [minReplicas, target], or leave it out", "", ("raisedTarget",))
        return self

    @model_validator(mode="after")
    def _schedule_within_bounds(self) -> Self:
        low, high = self.bounds.min_replicas, self.bounds.max_replicas
        for i, one in enumerate(self.schedule):
            if high is not None and one.min_replicas is not None and one.min_replicas > high:
                write = f"at most {high}, or raise bounds.maxReplicas"
                at = ("schedule", i, "minReplicas")
                raise bad(f"is above bounds.maxReplicas {high}", write, str(one.min_replicas), at)
            if low is not None and one.max_replicas is not None and one.max_replicas < low:
                write = f"at least {low}, or lower bounds.minReplicas"
                at = ("schedule", i, "maxReplicas")
                raise bad(f"is below bounds.minReplicas {low}", write, str(one.max_replicas), at)
        return self

    def check_schedule(self, timezone: str) -> None:
        """Raises where two windows contradict each other. `timezone` as for `spec`."""
        windows = self.spec(timezone).schedule
        found = contradiction(windows)
        if found is None:
            return
        i, j, moment = found
        raise bad(
            f"is above maxReplicas {windows[j].max_replicas} of schedule[{j}], and both are open on "
            f"{moment:%Y-%m-%d %H:%M} {windows[i].timezone}",
            "limits that agree, or windows that do not meet",
            str(windows[i].min_replicas),
            ("scale", "schedule", i, "minReplicas"),
        )

    def spec(self, timezone: str) -> ScaleSpec:
        """`timezone`: the workload's, for windows without their own."""
        namespace, _, hpa = self.hpa.partition("/")
        capacity, bounds = self.capacity_per_replica, self.bounds
        return ScaleSpec(
            namespace=namespace,
            hpa=hpa,
            capacity_per_replica=None if isinstance(capacity, str) else capacity,
            capacity_query=capacity if isinstance(capacity, str) else None,
            lead_time=self.lead_time,
            risk=self.risk,
            mode=self.mode,
            allow_new_peak=self.allow_new_peak,
            target_ratio=self.target,
            hold=self.hold,
            bounds=Bounds(bounds.min_replicas, bounds.max_replicas, bounds.max_step_up, bounds.max_step_down),
            schedule=tuple(
                ScheduleWindow(one.cron, one.duration, one.timezone or timezone, one.min_replicas, one.max_replicas)
                for one in self.schedule
            ),
            valid_for=self.valid_for,
            raised_target_ratio=(self.raised_target or raised.USUAL) if "target" in self.manage else None,
        )


class ResourceConfig(ConfigModel):
    """Usage of one resource, watched for anomalies and for the day it reaches its limit."""

    name: Annotated[str, Written(values.resource_name, "name, such as memory", {**TEXT, "maxLength": 63})]
    """Name of the resource, once per workload."""
    usage: Annotated[str, PROMQL]
    """How much is used. In a template it keeps the labels of `forEach`."""
    limit: Annotated[str | None, PROMQL] = None
    """What it must not reach, in the same unit. In a template it keeps the labels of `forEach`, or is one number."""
    per_pod: Annotated[str | None, PROMQL] = None
    """Usage of each pod or node by itself, a series each, such as `sum by (pod) (…)`: one that is unlike the others is
    found by it. In a template it keeps the labels of `forEach` too. One more query a step."""
    pod_label: Annotated[
        str, Written(values.label_name, "label", {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"})
    ] = "pod"
    """Label of `perPod` that names the pod or node: `pod`, `node`, `instance`."""


class WorkloadConfig(ConfigModel):
    """A workload, or with `forEach` a template that makes one of each combination of labels, read by one query."""

    name: Annotated[
        str | None, Written(values.workload_name, "name", NAME, none="the labels of forEach, joined by /")
    ] = None
    """Name in REST, metrics and the store. A plain workload needs one; a template's may hold its labels as `{app}`.
    Another name begins a new calibration."""
    for_each: tuple[
        Annotated[str, Written(values.label_name, "label", {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"})],
        ...,
    ] = ()
    """Labels that make the workloads of a template."""
    load: Annotated[str, PROMQL]
    """Demand, such as requests per second: one series, or in a template one for each combination of its labels.
    Another expression begins a new calibration."""
    timezone: Annotated[str, Written(values.timezone, "IANA time zone")] = "UTC"
    """Wall clock that the load follows: days, weekends and schedules are counted by it."""
    max_series: Annotated[int | None, count(1, 10_000, f"1, or {MAX_SERIES_OF_TEMPLATE} with forEach")] = None
    """Workloads that a template may make; more are left out and reported. Each costs memory and time in every
    cycle."""
    scale: Annotated[ScaleConfig | None, BeforeValidator(not_null)] = None
    """How it is scaled. Without it there are forecasts and anomalies only."""
    resources: tuple[ResourceConfig, ...] = ()
    """Resources that are watched beside the load."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name is None and not self.for_each:
            raise bad("is missing", "name: checkout, or forEach for a template", "", ("name",))
        if self.max_series not in (None, 1) and not self.for_each:
            raise bad("needs forEach", "an aggregation such as sum(…) as load, without maxSeries", at=("maxSeries",))
        _check_repeated("forEach", self.for_each)
        _check_repeated("resources", [one.name for one in self.resources], "name")
        self._check_placeholders(("name",), self.name)
        if self.scale is not None:
            self._check_placeholders(("scale", "hpa"), self.scale.hpa)
            self.scale.check_schedule(self.timezone)
        if self.for_each:
            self._check_queries(self.for_each)
        return self

    def _check_placeholders(self, at: tuple[str, ...], text: str | None) -> None:
        for label in values.PLACEHOLDER.findall(text or ""):
            if label in self.for_each:
                continue
            if not self.for_each:
                raise bad(f"holds {{{label}}} without a forEach", f"forEach: [{label}], or the name itself", text, at)
            known = " or ".join(f"{{{one}}}" for one in self.for_each)
            raise bad(f"holds {{{label}}}, which forEach does not name", known, text, at)

    def _check_queries(self, labels: tuple[str, ...]) -> None:
        values.check_labels(self.load, labels, ("load",))
        once: list[tuple[tuple[str | int, ...], object]] = []
        for i, resource in enumerate(self.resources):
            values.check_labels(resource.usage, labels, ("resources", i, "usage"))
            once.append((("resources", i, "limit"), resource.limit))
            if resource.per_pod is not None:
                values.check_labels(resource.per_pod, (*labels, resource.pod_label), ("resources", i, "perPod"))
        if self.scale is not None:
            once.append((("scale", "capacityPerReplica"), self.scale.capacity_per_replica))
        for at, query in once:  # these may also be one number for all
            if isinstance(query, str) and any(values.keeps_labels(query, (label,)) for label in labels):
                values.check_labels(query, labels, at)

    def spec(self) -> WorkloadSpec:
        """As the reader and the decision need it."""
        default = MAX_SERIES_OF_TEMPLATE if self.for_each else 1
        return WorkloadSpec(
            name=self.name or "/".join(f"{{{label}}}" for label in self.for_each),
            load=self.load,
            for_each=self.for_each,
            max_series=self.max_series or default,
            timezone=self.timezone,
            scale=None if self.scale is None else self.scale.spec(self.timezone),
            resources=tuple(
                ResourceSpec(one.name, one.usage, one.limit, one.per_pod, one.pod_label) for one in self.resources
            ),
        )


def _check_repeated(section: str, names: Sequence[str], *key: str) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise bad("stands there twice", "it once", name, (section, i, *key))
