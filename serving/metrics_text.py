"""`/metrics` as text, written by hand from arrays: a client library's objects would cost ten times as much.

Names and labels are a contract (docs/metrics.md). A value that is not known has no line: NaN is never written, and a
missing series leaves all others as they are.
"""

from __future__ import annotations

import math
import platform
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from forecaster.anomaly.grouping import COMMON_CAUSE
from forecaster.domain import FloatArray, Forecast, Recommendation
from forecaster.publication import Publication
from forecaster.quantiles import at_level
from serving.health import Deliveries, Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOAD_LEVELS = (0.1, 0.5, 0.9)
PEAK_LEVELS = (0.5, 0.9, 0.99)

# name -> (type, help)
FAMILIES: dict[str, tuple[str, str]] = {
    "forecaster_load": ("gauge", "Newest load, in the unit of its expression."),
    "forecaster_load_forecast": ("gauge", "Forecast load at the lead time, by quantile."),
    "forecaster_load_peak_forecast": ("gauge", "Forecast maximum of the load over the decision window, by quantile."),
    "forecaster_skill_ratio": ("gauge", "Pinball loss of the forecaster in use over that of a baseline, 7 days."),
    "forecaster_coverage_ratio": ("gauge", "Measured share of loads inside the band of the nominal share."),
    "forecaster_risk_ratio": ("gauge", "Share of time above capacity: asked for, issued now, measured."),
    "forecaster_workload_status": ("gauge", "1 for each reason code that holds now; reason ok where none does."),
    "forecaster_data_age_seconds": ("gauge", "Age of the newest real sample."),
    "forecaster_recommended_replicas": ("gauge", "Replicas needed now: the larger of floor and reactive rule."),
    "forecaster_floor_replicas": ("gauge", "The minimum of replicas that we recommend."),
    "forecaster_recommendation_valid_until_timestamp_seconds": ("gauge", "When the recommendation stops counting."),
    "forecaster_anomaly_score": ("gauge", "-log10 of the calibrated p-value of the newest value."),
    "forecaster_anomaly_lower_bound": ("gauge", "Lower end of what was expected now."),
    "forecaster_anomaly_upper_bound": ("gauge", "Upper end of what was expected now."),
    "forecaster_anomaly_active": ("gauge", "1 for each series of each open incident."),
    "forecaster_false_alarm_budget_used_ratio": ("gauge", "Alarms of the last ten weeks over what the budget allows."),
    "forecaster_time_to_limit_seconds": ("gauge", "Time until a resource reaches its limit; +Inf: none in sight."),
    "forecaster_usage_per_load": ("gauge", "Usage of a resource for each unit of load, as learned."),
    "forecaster_cycles_total": ("counter", "Cycles that were finished and published."),
    "forecaster_cycle_failures_total": ("counter", "Cycles that raised an error."),
    "forecaster_cycle_overruns_total": ("counter", "Due times that were skipped because a cycle ran late."),
    "forecaster_cycles_unpublished_total": ("counter", "Cycles that ended too late to be published."),
    "forecaster_cycle_duration_seconds": ("gauge", "Duration of the last cycle, by station."),
    "forecaster_cycle_age_seconds": ("gauge", "Time since the last cycle was published, by the monotonic clock."),
    "forecaster_last_cycle_timestamp_seconds": ("gauge", "When the last cycle was published."),
    "forecaster_queries_total": ("counter", "Queries sent to Prometheus, by outcome."),
    "forecaster_query_retries_total": ("counter", "Queries sent again."),
    "forecaster_query_seconds_total": ("counter", "Time spent in queries."),
    "forecaster_query_samples_total": ("counter", "Samples read from Prometheus."),
    "forecaster_query_received_bytes_total": ("counter", "Bytes received from Prometheus."),
    "forecaster_prometheus_slowed": ("gauge", "1 while Prometheus answers at half of its usual speed or slower."),
    "forecaster_store_degraded": ("gauge", "1 while the store cannot be used and state lives in memory."),
    "forecaster_config_reloads_total": ("counter", "Reloads of the configuration, by outcome."),
    "forecaster_config_error": ("gauge", "1 while a bad configuration file is ignored."),
    "forecaster_clock_skew_seconds": ("gauge", "Prometheus' clock minus ours."),
    "forecaster_clock_jumps_total": ("counter", "Jumps of the wall clock that were noticed."),
    "forecaster_service_status": ("gauge", "1 for each reason code that concerns the service as a whole."),
    "forecaster_notifications_total": ("counter", "Messages to webhooks and requests to Alertmanager, by outcome."),
    "forecaster_notifications_waiting": ("gauge", "Messages that wait for a webhook."),
    "forecaster_alertmanager_enabled": ("gauge", "1 if incidents are sent to Alertmanager, 0 if not."),
    "forecaster_workloads": ("gauge", "Workloads that are watched."),
    "forecaster_model_info": ("gauge", "1 for each model version in use."),
    "forecaster_champion_info": ("gauge", "1, with name, version, digest and source of the network that is loaded."),
    "forecaster_model_loads_total": ("counter", "Models that were to be loaded, by result."),
    "forecaster_model_rejected_rows_total": ("counter", "Rows that a forecaster lost to an error or to nonsense."),
    "forecaster_registry_reachable": ("gauge", "1 if the model registry answered the last look, 0 if it did not."),
    "forecaster_build_info": ("gauge", "1, with the version of this build."),
    "process_cpu_seconds_total": ("counter", "User and system CPU time."),
    "process_resident_memory_bytes": ("gauge", "Resident memory."),
    "process_start_time_seconds": ("gauge", "When the process started."),
}


@dataclass(frozen=True, slots=True)
class Section:
    """The part of `/metrics` that says how many replicas are needed; its lines expire one by one."""

    text: bytes  # with all lines
    earliest: float  # monotonic seconds at which the first line expires
    rows: tuple[tuple[float, tuple[str, str, str]], ...]  # (expiry, line per family; "" where there is none)

    def at(self, monotonic: float) -> bytes:
        """What still counts: a hung loop must not leave an old recommendation standing."""
        if monotonic < self.earliest:
            return self.text
        return _recommendation_text([lines for expiry, lines in self.rows if monotonic < expiry]).encode()


# --- text -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65_536)
def escaped(value: str) -> str:
    """A label value: backslash, quote and line feed are escaped, as the text format asks."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def head(name: str) -> str:
    kind, text = FAMILIES[name]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def number(value: float) -> str:
    """A value of the text format; never called with NaN."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    whole = int(value)
    return str(whole) if whole == value and abs(value) < 1e15 else repr(float(value))


def _family(name: str, lines: Iterable[str]) -> str:
    body = "".join(lines)
    return head(name) + body if body else ""


def _rows(name: str, labels: Sequence[str], values: FloatArray, more: str = "") -> list[str]:
    """One line for each value that is a number. `labels` are ready: `workload="a"`."""
    start = f"{name}{{"
    end = f"{more}}} "
    listed = np.asarray(values, dtype=np.float64).tolist()
    return [f"{start}{label}{end}{value!r}\n" for label, value in zip(labels, listed, strict=True) if value == value]


# --- workloads ------------------------------------------------------------------------------------------------------


def workloads_text(publication: Publication) -> bytes:
    """All that does not expire: loads, forecasts, skill, status, anomalies."""
    parts: list[str] = []
    works = list({one.workload.name: one for one in publication.workloads}.values())  # a label set must not repeat
    labels = [f'workload="{escaped(one.workload.name)}"' for one in works]
    rows = np.array([one.row for one in works], dtype=np.int64)
    status = publication.status
    # The text format knows infinities, repr() of Python spells them otherwise: finite values only in these arrays.
    loads = _finite(status.load)
    parts.append(_family("forecaster_load", _rows("forecaster_load", labels, loads[rows])))
    if publication.forecast is not None and len(rows):
        parts += _forecasts(publication.forecast, labels, rows)
    age = publication.made_at.timestamp() - status.data_through[rows] if len(rows) else np.zeros(0)
    parts.append(_family("forecaster_data_age_seconds", _rows("forecaster_data_age_seconds", labels, _finite(age))))
    for name, key, field in (
        ("forecaster_skill_ratio", "baseline", "skill"),
        ("forecaster_coverage_ratio", "nominal", "coverage"),
        ("forecaster_risk_ratio", "kind", "risk"),
    ):
        lines = [
            f'{name}{{{label},{key}="{escaped(kind)}"}} {float(value)!r}\n'
            for label, one in zip(labels, works, strict=True)
            for kind, value in getattr(one, field).items()
            if math.isfinite(value)
        ]
        parts.append(_family(name, lines))
    name = "forecaster_workload_status"
    lines = [
        f'{name}{{{label},reason="{code}"}} 1\n'
        for label, one in zip(labels, works, strict=True)
        for code in (dict.fromkeys(reason.code.value for reason in one.reasons) or ("ok",))
    ]
    parts.append(_family(name, lines))
    name = "forecaster_false_alarm_budget_used_ratio"
    lines = [
        f"{name}{{{label}}} {float(one.budget_used_ratio)!r}\n"
        for label, one in zip(labels, works, strict=True)
        if one.budget_used_ratio is not None and math.isfinite(one.budget_used_ratio)
    ]
    parts.append(_family(name, lines))
    parts += _resources(publication)
    parts += _anomalies(publication)
    models = sorted({one.model_version for one in works})
    name = "forecaster_model_info"
    parts.append(_family(name, [f'{name}{{version="{escaped(model)}"}} 1\n' for model in models]))
    name = "forecaster_model_rejected_rows_total"
    rejected = sorted(publication.rejected_rows.items())
    parts.append(_family(name, [f'{name}{{model="{escaped(model)}"}} {count}\n' for model, count in rejected]))
    parts.append(_family("forecaster_workloads", [f"forecaster_workloads {len(works)}\n"]))
    return "".join(parts).encode()


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _forecasts(
    forecast: Forecast, labels: Sequence[str], rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> list[str]:
    windows = forecast.windows[rows]
    at = np.minimum(np.searchsorted(forecast.horizons, windows), len(forecast.horizons) - 1)
    values = forecast.values[rows, at]  # (workload, quantile)
    peak = forecast.peak[rows]
    out = []
    for name, given, levels, more in (
        ("forecaster_load_forecast", values, LOAD_LEVELS, 'horizon="lead",'),
        ("forecaster_load_peak_forecast", peak, PEAK_LEVELS, ""),
    ):
        lines: list[str] = []
        for level in levels:
            column = np.maximum(_level(given, forecast.levels, level), np.where(given[:, 0] >= 0, 0.0, -np.inf))
            lines += _rows(name, labels, _finite(column), f',{more}quantile="{level:g}"')
        out.append(_family(name, lines))
    return out


def _level(values: FloatArray, levels: tuple[float, ...], wanted: float) -> FloatArray:
    if wanted in levels:
        return values[:, levels.index(wanted)]
    return at_level(values, levels, wanted) if len(levels) > 1 else values[:, 0]


def _resources(publication: Publication) -> list[str]:
    limit, cost = "forecaster_time_to_limit_seconds", "forecaster_usage_per_load"
    times, costs = [], []
    for one in publication.resources:
        label = f'workload="{escaped(one.workload)}",resource="{escaped(one.resource)}"'
        times += [
            f'{limit}{{{label},quantile="{level}"}} {"+Inf" if math.isinf(value) else repr(value)}\n'
            for level, value in one.seconds_to_limit.items()
        ]
        if one.usage_per_load is not None and math.isfinite(one.usage_per_load):
            costs.append(f"{cost}{{{label}}} {one.usage_per_load!r}\n")
    return [_family(limit, times), _family(cost, costs)]


def _anomalies(publication: Publication) -> list[str]:
    parts = []
    status = publication.status
    labels = [f'workload="{escaped(key.workload)}",series="{escaped(key.role)}"' for key in publication.keys]
    for name, values in (
        ("forecaster_anomaly_score", status.score),
        ("forecaster_anomaly_lower_bound", status.expected_low),
        ("forecaster_anomaly_upper_bound", status.expected_high),
    ):
        parts.append(_family(name, _rows(name, labels, _finite(values))))
    name = "forecaster_anomaly_active"
    lines = dict.fromkeys(
        f'{name}{{workload="{escaped(one.workload)}",series="{escaped(one.role)}",kind="{escaped(one.kind)}",'
        f'direction="{escaped(one.direction)}",severity="{escaped(one.severity)}"}} 1\n'
        for incident in publication.incidents
        if incident.closed_at is None
        # every series of a workload's incident; of the whole fleet's only the incident, its workloads have their own
        for one in (incident.part(),) + (incident.parts if incident.kind != COMMON_CAUSE else ())
        if one.closed_at is None
    )
    parts.append(_family(name, lines))
    return parts


# --- recommendations ------------------------------------------------------------------------------------------------


def recommendations_section(recommendations: Iterable[Recommendation], expiries: Iterable[float]) -> Section:
    """`expiries`: monotonic seconds, one per recommendation. Several for one HPA: the maximum, the first expiry."""
    merged: dict[tuple[str, str], tuple[float, int | None, int | None, float]] = {}
    for one, expiry in zip(recommendations, expiries, strict=True):
        key, until = (one.namespace, one.hpa), one.valid_until.timestamp()
        before = merged.get(key)
        if before is None:
            merged[key] = (expiry, one.desired_replicas, one.floor, until)
        else:
            merged[key] = (
                min(before[0], expiry),
                _most(before[1], one.desired_replicas),
                _most(before[2], one.floor),
                min(before[3], until),
            )
    rows = []
    for (namespace, hpa), (expiry, desired, floor, until) in merged.items():
        labels = f'{{namespace="{escaped(namespace)}",hpa="{escaped(hpa)}"}}'
        lines = (
            "" if desired is None else f"forecaster_recommended_replicas{labels} {int(desired)}\n",
            "" if floor is None else f"forecaster_floor_replicas{labels} {int(floor)}\n",
            f"forecaster_recommendation_valid_until_timestamp_seconds{labels} {until!r}\n",
        )
        rows.append((expiry, lines))
    text = _recommendation_text([lines for _, lines in rows]).encode()
    return Section(text, min((expiry for expiry, _ in rows), default=math.inf), tuple(rows))


def _recommendation_text(rows: Sequence[tuple[str, str, str]]) -> str:
    names = (
        "forecaster_recommended_replicas",
        "forecaster_floor_replicas",
        "forecaster_recommendation_valid_until_timestamp_seconds",
    )
    return "".join(_family(name, [lines[i] for lines in rows]) for i, name in enumerate(names))


def _most(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known, default=None)


# --- own health -----------------------------------------------------------------------------------------------------


def health_text(
    health: Health, publication: Publication | None, version: str, monotonic: float, notices: Mapping[str, int]
) -> bytes:
    """A few lines from counters, written at each scrape so that a hung loop shows."""
    parts: list[str] = []

    def one(name: str, value: float | None, labels: str = "") -> None:
        if value is not None and math.isfinite(value):
            parts.append(f"{head(name)}{name}{labels} {number(value)}\n")

    def many(name: str, key: str, values: Mapping[str, float]) -> None:
        lines = [
            f'{name}{{{key}="{escaped(label)}"}} {number(value)}\n'
            for label, value in values.items()
            if math.isfinite(value)
        ]
        parts.append(_family(name, lines))

    one("forecaster_build_info", 1, f'{{version="{escaped(version)}",python="{platform.python_version()}"}}')
    one("forecaster_cycles_total", health.cycles)
    one("forecaster_cycle_failures_total", health.failures)
    one("forecaster_cycle_overruns_total", health.overruns)
    one("forecaster_cycles_unpublished_total", health.unpublished)
    own = {"all": health.last_cycle_seconds, "render": health.render_seconds, "save": health.save_seconds}
    stations = {**health.stations, **{name: seconds for name, seconds in own.items() if seconds is not None}}
    many("forecaster_cycle_duration_seconds", "station", stations)
    if health.last_cycle_monotonic is not None:
        one("forecaster_cycle_age_seconds", monotonic - health.last_cycle_monotonic)
    one("forecaster_last_cycle_timestamp_seconds", health.last_cycle_at)
    if health.queries is not None:
        stats = health.queries()
        many("forecaster_queries_total", "outcome", stats.outcomes)
        one("forecaster_query_retries_total", stats.retries)
        one("forecaster_query_seconds_total", stats.seconds)
        one("forecaster_query_samples_total", stats.samples)
        one("forecaster_query_received_bytes_total", stats.received_bytes)
        one("forecaster_prometheus_slowed", float(stats.slowed))
    one("forecaster_store_degraded", float(health.degraded() is not None))
    many("forecaster_config_reloads_total", "outcome", health.config_reloads)
    one("forecaster_config_error", float(health.config_error is not None))
    if health.model.info:
        labels = ",".join(f'{key}="{escaped(value)}"' for key, value in health.model.info.items())
        one("forecaster_champion_info", 1, f"{{{labels}}}")
    many("forecaster_model_loads_total", "result", health.model.loads)
    one("forecaster_registry_reachable", None if health.model.reachable is None else float(health.model.reachable))
    one("forecaster_clock_skew_seconds", publication.clock_skew_seconds if publication else None)
    one("forecaster_clock_jumps_total", health.clock_jumps)
    many("forecaster_service_status", "reason", notices)
    parts.append(_deliveries(health.deliveries()))
    one("process_cpu_seconds_total", time.process_time())
    one("process_resident_memory_bytes", _resident_bytes())
    one("process_start_time_seconds", health.started_at)
    return "".join(parts).encode()


def _deliveries(told: Deliveries | None) -> str:
    if told is None:
        return ""
    name = "forecaster_notifications_total"
    counts = [
        f'{name}{{destination="{escaped(to)}",outcome="{outcome}"}} {n}\n'
        for (to, outcome), n in sorted(told.counts.items())
    ]
    waiting = [
        f'forecaster_notifications_waiting{{destination="{escaped(to)}"}} {n}\n'
        for to, n in sorted(told.waiting.items())
    ]
    pushes = [f"forecaster_alertmanager_enabled {int(told.pushes)}\n"]
    return (
        _family(name, counts)
        + _family("forecaster_notifications_waiting", waiting)
        + _family("forecaster_alertmanager_enabled", pushes)
    )


def _resident_bytes() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # the highest so far
    return float(pages * resource.getpagesize())
