"""The closed list of reason codes, each with what it means and what to do about it.

`docs/reasons.md` is generated from this list; REST, metrics, logs and the page use the codes as they stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """Why something is missing, held back or bound. The values are stable."""

    HISTORY_TOO_SHORT = "history_too_short"
    NO_DATA = "no_data"
    STALE_DATA = "stale_data"
    PARTIAL_DATA = "partial_data"
    TOO_MANY_GAPS = "too_many_gaps"
    TOO_MANY_SERIES = "too_many_series"
    QUERY_ERROR = "query_error"
    UNAUTHORISED = "unauthorised"
    SERIES_GONE = "series_gone"
    CONSTANT_SERIES = "constant_series"
    DATA_FAULT = "data_fault"
    SATURATED = "saturated"
    MODEL_UNAVAILABLE = "model_unavailable"
    SKILL_BELOW_BASELINE = "skill_below_baseline"
    CALIBRATING = "calibrating"
    CALIBRATION_LOST = "calibration_lost"
    CAPACITY_UNKNOWN = "capacity_unknown"
    CAPACITY_UNSTABLE = "capacity_unstable"
    LEAD_TIME_UNKNOWN = "lead_time_unknown"
    HPA_NOT_FOUND = "hpa_not_found"
    HPA_INVALID = "hpa_invalid"
    OWNED_BY_OTHER = "owned_by_other"
    MAX_REPLICAS_REACHED = "max_replicas_reached"
    EXPIRED = "expired"
    PAUSED = "paused"
    HELD = "held"
    CONFIG_INVALID = "config_invalid"


CALM = (ReasonCode.HELD, ReasonCode.LEAD_TIME_UNKNOWN)  # with any other code no head-room is saved

# What the code means, and what to do: one sentence each. The documentation page is generated from these.
ADVICE: dict[ReasonCode, tuple[str, str]] = {
    ReasonCode.HISTORY_TOO_SHORT: (
        "Fewer than six samples are known; where no network is served, less than 30 minutes of them. A floor needs two "
        "days of load: until then the HPA reacts alone, and schedules and pins count.",
        "Wait; or check that Prometheus keeps the series and that `history` covers it.",
    ),
    ReasonCode.NO_DATA: (
        "The query has never returned a sample.",
        "Run the expression in Prometheus: a label or a metric name is probably wrong.",
    ),
    ReasonCode.STALE_DATA: (
        "The newest sample is older than three steps, or Prometheus is out of reach.",
        "Look at Prometheus and at the scrape targets; forecasts resume by themselves.",
    ),
    ReasonCode.PARTIAL_DATA: (
        "Prometheus answered with warnings: part of the data is missing (Thanos, Mimir: a store is down).",
        "Bring the missing store back; partial samples are shown but not learned from.",
    ),
    ReasonCode.TOO_MANY_GAPS: (
        "Fewer than half of the samples of the last day exist.",
        "Look at the scrape interval: `step` must not be shorter than it.",
    ),
    ReasonCode.TOO_MANY_SERIES: (
        "The query returns more series than allowed.",
        "Aggregate it (`sum by (…)`), or raise `maxSeries`.",
    ),
    ReasonCode.QUERY_ERROR: (
        "Prometheus refused the query.",
        "Read Prometheus' own words in the detail and correct the expression.",
    ),
    ReasonCode.UNAUTHORISED: (
        "Prometheus refused our credentials, or its certificate did not verify.",
        "Check `bearerTokenFile`, `basicAuth` and `caFile`.",
    ),
    ReasonCode.SERIES_GONE: (
        "The query answers, but without this series, which existed before.",
        "If the workload was removed, remove it here too; if a label was renamed, correct the expression.",
    ),
    ReasonCode.CONSTANT_SERIES: (
        "The series does not vary: the forecast is its value.",
        "Nothing, if that is expected; else look at the exporter.",
    ),
    ReasonCode.DATA_FAULT: (
        "The samples contradict themselves (half of the scrape targets missing, a frozen exporter, a changed unit).",
        "Look at the scrape targets; the floor is held meanwhile.",
    ),
    ReasonCode.SATURATED: (
        "Every replica is full: served load is a lower bound of demand.",
        "Raise `maxReplicas`, or the risk dial is too lax.",
    ),
    ReasonCode.MODEL_UNAVAILABLE: (
        "The model could not be loaded or gave unusable numbers; the next forecaster in the chain is used.",
        "Read the log line of the load; roll the registry's alias back.",
    ),
    ReasonCode.SKILL_BELOW_BASELINE: (
        "Over the last seven days a simpler forecaster did better at the peak, and gives it.",
        "Nothing; it is re-measured all the time.",
    ),
    ReasonCode.CALIBRATING: (
        "The quantiles rest on history alone, not yet on enough forecasts that came due.",
        "Wait about four hours; 50 steps where a step is longer than five minutes.",
    ),
    ReasonCode.CALIBRATION_LOST: (
        "Measured coverage lies outside of what chance allows.",
        "Look for a change in the workload; the calibration recovers by itself.",
    ),
    ReasonCode.CAPACITY_UNKNOWN: (
        "The load that fills one replica is not known.",
        "Set `scale.capacityPerReplica`, or let cAdvisor and kube-state-metrics be scraped: then it is learned.",
    ),
    ReasonCode.CAPACITY_UNSTABLE: (
        "What a load costs has changed: its capacity is learned anew.",
        "Wait six hours, or set `scale.capacityPerReplica`.",
    ),
    ReasonCode.LEAD_TIME_UNKNOWN: (
        "Fewer than five pod starts were seen: 180 s is assumed.",
        "Set `scale.leadTime`, or run kube-state-metrics.",
    ),
    ReasonCode.HPA_NOT_FOUND: (
        "Neither kube-state-metrics nor `scale.bounds` says anything of this HPA.",
        "Check `scale.hpa` (`namespace/name`), or give `scale.bounds`.",
    ),
    ReasonCode.HPA_INVALID: (
        "The HPA cannot be scaled by a floor (minimum above maximum, two HPAs on one target, …).",
        "Read the detail and mend the HPA.",
    ),
    ReasonCode.OWNED_BY_OTHER: (
        "Another controller owns `spec.minReplicas`.",
        "Leave `minReplicas` out of the manifest, or use the external metric.",
    ),
    ReasonCode.MAX_REPLICAS_REACHED: (
        "The wanted floor is above the maximum.",
        "Raise `maxReplicas` if the load is real.",
    ),
    ReasonCode.EXPIRED: (
        "The recommendation is older than its validity and no longer counts.",
        "Look at why no newer one came: data age, query errors.",
    ),
    ReasonCode.PAUSED: (
        "An override pauses this workload; the user's own value stands.",
        "`forecaster events` and `GET /api/v1/overrides` show it; it ends by itself.",
    ),
    ReasonCode.HELD: (
        "The floor is kept by the hold, the dead band or a `hold` override.",
        "Nothing; it comes down when the hold ends.",
    ),
    ReasonCode.CONFIG_INVALID: (
        "The new configuration file is bad: the old one stays in force.",
        "Run `forecaster check`.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """A code of the closed list, and what is particular about this case in words."""

    code: ReasonCode
    detail: str = ""
