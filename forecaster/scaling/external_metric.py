"""The external metric of an HPA as one PromQL expression: our value while it counts, the user's own load always.

An HPA with an `AverageValue` target takes ceil(value / target) replicas. The value is the highest of

- what we ask for, times the target, while `forecaster_recommendation_valid_until_timestamp_seconds` lies ahead;
- the user's own load, which is the reactive rule and needs nobody of ours.

So with us dead, expired or out of reach of Prometheus only the load is left, and with us there it is never less than
that. Where head-room is to be saved, the load counts against a higher share of capacity, but only while our value
counts and nothing at all is said against the forecast.

Traps, each of which has a test: two parts without labels would hide one another behind `or`, and parts with different
labels would both reach the HPA, which adds them up: so each part is one series, told apart by a label that the outer
`max` removes. Two instances of the service: the highest that counts, each judged by its own validity. A scrape that
renames our `namespace` (`honorLabels: false` beside a target label of that name) is matched by `exported_namespace`.
A negative value would mean maxReplicas to the HPA, NaN and infinities nothing good: they are cut off.
Knows text only: no cluster, no Prometheus.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forecaster import promql
from forecaster.errors import InputError
from forecaster.reasons import CALM
from forecaster.scaling import raised_target

SAVING_SECONDS = 120  # a sample older than this saves nothing: a service that ended without a marker in Prometheus
RECOMMENDED = "forecaster_recommended_replicas"
FLOOR = "forecaster_floor_replicas"
VALID_UNTIL = "forecaster_recommendation_valid_until_timestamp_seconds"
STATUS = "forecaster_workload_status"
# A forecast is in use, its data are fresh, and measured skill speaks for it: with any other code nothing is saved.
SURE = ("ok", *(code.value for code in CALM))


@dataclass(frozen=True, slots=True)
class ReactiveLoad:
    """The load of one workload that scales the HPA, and what a replica of it carries."""

    workload: str
    load: str  # PromQL
    target_ratio: float  # share of capacity that the HPA aims at
    capacity: float | None = None  # load at which one replica is full; None: `capacity_query` says it
    capacity_query: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)  # of a template: which of its series are meant
    for_each: tuple[str, ...] = ()  # labels of the template; empty: a plain workload


@dataclass(frozen=True, slots=True)
class ExternalMetric:
    """What the HPA is to be given."""

    name: str
    query: str
    target: str  # averageValue, as a quantity
    unit: str  # of the value, in words


def external_metric(namespace: str, hpa: str, loads: Sequence[ReactiveLoad], save: bool = False) -> ExternalMetric:
    """The expression and its target. `loads`: of all workloads that scale this HPA, at least one.

    `save`: the load counts against 90 % of capacity while all is well. Raises InputError where a load is no PromQL or
    a capacity no number above 0.
    """
    target, unit = _target(loads[0])
    reduced = _is_calm(namespace, hpa, loads) if save else None
    ours = f"max({_counting(FLOOR if save else RECOMMENDED, namespace, hpa)}\n  ) * {_number(target)}"
    parts = [_named(ours, "forecast")]
    for i, load in enumerate(loads):
        text = _load(load, target)
        if reduced is not None:
            if not load.target_ratio < raised_target.MOST:
                raise InputError(
                    f"{load.workload}: scale.target is {load.target_ratio:.0%}, and nothing is saved above "
                    f"{raised_target.MOST:.0%}: leave --save out"
                )
            less = _number(load.target_ratio / raised_target.MOST)
            text = f"{text}\n    * (({reduced}\n    ) * 0 + {less} or vector(1))"
        parts.append(_named(text, "load" if i == 0 else f"load {i + 1}"))
    query = "max(\n  {}\n)".format("\n  or ".join(parts))
    promql.check_query(query)
    return ExternalMetric(f"forecaster_{namespace}_{hpa}", query, _quantity(target), unit)


def discovery_series(load: str) -> str | None:
    """A selector of the user's own for prometheus-adapter to find the metric by; None where none names a metric.

    One of ours would take the external metric away together with us, and its fall-back with it.
    """
    for one in promql.selectors(load):
        if one.name:
            matchers = ",".join(f"{label}{sign}{_quoted(value)}" for label, sign, value in one.matchers)
            return f"{one.name}{{{matchers}}}" if matchers else one.name
    return None


# --- parts -----------------------------------------------------------------------------------------------------------


def _named(part: str, name: str) -> str:
    return f'label_replace({part}, "part", "{name}", "", "")'


def _counting(metric: str, namespace: str, hpa: str) -> str:
    """Series of `metric` whose recommendation counts now; both come with the same labels from the same scrape."""
    return f"\n    {_both(metric, namespace, hpa)}\n    and {_both(VALID_UNTIL, namespace, hpa)} > time()"


def _both(metric: str, namespace: str, hpa: str, form: str = "{}") -> str:
    own, name = _quoted(namespace), _quoted(hpa)
    plain = form.format(f'{metric}{{namespace={own},hpa={name},exported_namespace=""}}')
    renamed = form.format(f"{metric}{{exported_namespace={own},hpa={name}}}")
    return f"({plain} or {renamed})"


def _is_calm(namespace: str, hpa: str, loads: Sequence[ReactiveLoad]) -> str:
    """One series while our floor counts, its sample is fresh, and each status of the workloads is one of SURE."""
    names = _quoted("|".join(re.escape(load.workload) for load in loads))
    sure = "|".join(SURE)
    counting = f"max({_counting(FLOOR, namespace, hpa)})"
    fresh = _both(VALID_UNTIL, namespace, hpa, "timestamp({})")
    seen = f"{STATUS}{{workload=~{names}}}"
    counting = f"{counting}\n    and on () {fresh} > time() - {SAVING_SECONDS}"
    return f'{counting}\n    and on () {seen}\n    unless on () {STATUS}{{workload=~{names},reason!~"{sure}"}}'


def _load(one: ReactiveLoad, target: float) -> str:
    """The load as one series in the unit of `target`, never negative, NaN or infinite."""
    text = promql.bracketed(one.load)
    if one.labels:
        text = f"({text} and on ({', '.join(one.labels)}) {_series_with(one.labels)})"
    if one.capacity is not None:
        each = _checked(one) * one.target_ratio
    else:
        assert one.capacity_query is not None
        each = one.target_ratio
        text = f"({text} / {_capacity(one, one.capacity_query)})"
    # Of a template several series may scale one HPA, each by its own; a plain workload is one demand.
    whole = f"({'max' if one.for_each else 'sum'}({text}) >= 0 < Inf)"
    factor = round(target / each, 12)
    return whole if math.isclose(factor, 1.0, rel_tol=1e-9) else f"{whole} * {_number(factor)}"


def _capacity(one: ReactiveLoad, query: str) -> str:
    """One number: of the workload's own series, or of one without its labels, which is meant for all; the smallest."""
    text = promql.bracketed(query)
    if one.labels:
        text = f"{text} and on ({', '.join(one.labels)}) ({_series_with(one.labels)} or vector(1))"
    return f"on () group_left () (min({text}) > 0)"


def _series_with(labels: Mapping[str, str]) -> str:
    text = "vector(1)"
    for label, value in labels.items():
        escaped = value.replace("$", "$$")  # label_replace expands $1
        text = f'label_replace({text}, "{label}", {_quoted(escaped)}, "", "")'
    return text


# --- numbers ---------------------------------------------------------------------------------------------------------


def _target(one: ReactiveLoad) -> tuple[float, str]:
    """Value for one replica, a whole number of thousandths, and its unit.

    Quantities end at thousandths: small targets are counted in thousandths or less, so that rounding costs nothing.
    """
    if not (math.isfinite(one.target_ratio) and 0 < one.target_ratio <= 1):
        raise InputError(f"{one.workload}: scale.target is {one.target_ratio}: write a share such as 70%")
    each = one.target_ratio if one.capacity_query is not None else _checked(one) * one.target_ratio
    power = 0
    while not 1.0 <= each * 10.0**power < 1e9:
        power += 3 if each * 10.0**power < 1.0 else -3
    what = "full replicas" if one.capacity_query is not None else f"load of {one.workload}"
    unit = what if power == 0 else f"{what} times 1e{power}"
    return round(each * 10.0**power, 3), unit


def _checked(one: ReactiveLoad) -> float:
    if one.capacity is None or not (math.isfinite(one.capacity) and one.capacity > 0):
        raise InputError(
            f"{one.workload}: the capacity of a replica is {one.capacity}: write scale.capacityPerReplica, a number "
            "above 0, or --capacity"
        )
    return one.capacity


def _quantity(value: float) -> str:
    thousandths = round(value * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _quoted(text: str) -> str:
    """A PromQL string: JSON's escapes are among its own."""
    return json.dumps(text, ensure_ascii=False)
