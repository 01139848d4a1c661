"""From a Publication to what is served: bytes, made once per cycle, and small views of single workloads.

JSON is camelCase, times are RFC 3339 in UTC, durations seconds with the suffix `Seconds`, unknown numbers null: the
encoder writes NaN and infinities as null, so neither can appear bare.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from forecaster.domain import Event, Incident, Override, Part, Recommendation
from forecaster.errors import InputError
from forecaster.publication import Publication, WorkloadStatus
from forecaster.quantiles import at_level
from forecaster.reasons import Reason
from serving import metrics_text

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
MOST_RECENT_INCIDENTS = 1_000

Json = dict[str, Any]


def dumps(value: object) -> bytes:
    return orjson.dumps(value, option=_OPTIONS)


def when(seconds: float | None) -> datetime | None:
    """Unix seconds as a time; None for None and NaN."""
    return None if seconds is None or not math.isfinite(seconds) else datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, eq=False)
class Rendered:
    """One publication, ready to be served. `published` is the monotonic time at which its cycle began."""

    publication: Publication
    published: float
    recommendation_expiries: tuple[float, ...]  # monotonic seconds
    recommendation_items: tuple[Json, ...]
    recommendations: bytes
    etag: str
    workloads_metrics: bytes
    recommendations_metrics: metrics_text.Section
    notices: tuple[Reason, ...] = ()
    pages: dict[tuple[str, int], bytes] = field(default_factory=dict)  # list pages that were asked for
    pasts: dict[tuple[str, int], Any] = field(default_factory=dict)  # (workload, hours) -> serving.past.Past, likewise

    @cached_property
    def names(self) -> list[str]:
        """Ascending."""
        return sorted(self.by_name)

    @cached_property
    def by_name(self) -> dict[str, WorkloadStatus]:
        return {one.workload.name: one for one in self.publication.workloads}

    @cached_property
    def recommended(self) -> dict[str, tuple[Recommendation, float]]:
        """Workload -> its recommendation, and when that expires."""
        pairs = zip(self.publication.recommendations, self.recommendation_expiries, strict=True)
        return {one.workload: (one, expiry) for one, expiry in pairs}

    def recommendations_at(self, monotonic: float) -> tuple[bytes, str]:
        """Body and ETag of what still counts."""
        if monotonic < min(self.recommendation_expiries, default=math.inf):
            return self.recommendations, self.etag
        alive = [monotonic < expiry for expiry in self.recommendation_expiries]
        items = [item for item, counts in zip(self.recommendation_items, alive, strict=True) if counts]
        kept = [one for one, counts in zip(self.publication.recommendations, alive, strict=True) if counts]
        return _collection(items, self.publication.made_at), etag_of(kept)

    def metrics_at(self, monotonic: float) -> bytes:
        return self.workloads_metrics + self.recommendations_metrics.at(monotonic)

    def workloads_page(self, after: str, limit: int, monotonic: float) -> bytes:
        """Workloads whose name comes after `after`, in order of name."""
        expired = monotonic >= min(self.recommendation_expiries, default=math.inf)
        page = None if expired else self.pages.get((after, limit))
        if page is None:
            start = bisect_right(self.names, after) if after else 0
            chosen = self.names[start : start + limit]
            more = start + limit < len(self.names)
            items = [self.workload(name, monotonic) for name in chosen]
            page = dumps({"items": items, "next": chosen[-1] if more else None, "madeAt": self.publication.made_at})
            if not expired and len(self.pages) < 1_000:
                self.pages[after, limit] = page
        return page

    def workload(self, name: str, monotonic: float) -> Json:
        """Raises KeyError for a name that is not watched."""
        one = self.by_name[name]
        status, row = self.publication.status, one.row
        recommendation, expiry = self.recommended.get(name, (None, -math.inf))
        counts = recommendation is not None and monotonic < expiry
        scale = one.workload.scale
        return {
            "name": name,
            "key": one.workload.key,
            "labels": dict(one.workload.labels),
            "namespace": scale.namespace if scale else None,
            "hpa": scale.hpa if scale else None,
            "mode": one.mode.value,
            "modelVersion": one.model_version,
            "load": float(status.load[row]),
            "dataThrough": when(float(status.data_through[row])),
            "score": float(status.score[row]),
            "expectedLow": float(status.expected_low[row]),
            "expectedHigh": float(status.expected_high[row]),
            "floor": recommendation.floor if recommendation and counts else None,
            "desiredReplicas": recommendation.desired_replicas if recommendation and counts else None,
            "currentReplicas": one.facts.current_replicas if one.facts else None,
            "readyReplicas": one.facts.ready_replicas if one.facts else None,
            "minReplicas": one.min_replicas,
            "maxReplicas": one.max_replicas,
            "reasons": reasons_json(one.reasons),
            "skill": dict(one.skill),
            "coverage": dict(one.coverage),
            "risk": dict(one.risk),
            "riskDetail": dict(one.risk_detail),
            "leadTimeSeconds": one.lead_time_seconds,
            "capacityPerReplica": one.capacity_per_replica,
            "budgetUsedRatio": one.budget_used_ratio,
        }

    def workload_detail(self, name: str, monotonic: float) -> Json:
        """A workload with all of its series, its recommendation and its open incidents. Raises KeyError."""
        told = self.workload(name, monotonic)
        status = self.publication.status
        told["series"] = [
            {
                "series": key.role,
                "value": float(status.load[i]),
                "dataThrough": when(float(status.data_through[i])),
                "score": float(status.score[i]),
                "expectedLow": float(status.expected_low[i]),
                "expectedHigh": float(status.expected_high[i]),
            }
            for i, key in enumerate(self.publication.keys)
            if key.workload == name
        ]
        recommendation, expiry = self.recommended.get(name, (None, -math.inf))
        counts = recommendation is not None and monotonic < expiry
        told["recommendation"] = recommendation_json(recommendation) if recommendation and counts else None
        told["incidents"] = [incident_json(one) for one in self.publication.incidents if one.workload == name]
        told["madeAt"] = self.publication.made_at
        return told

    def forecast(self, name: str, horizon: timedelta | None, levels: Sequence[float] | None) -> Json:
        """Quantiles over the next `horizon`. Raises KeyError (unknown name) and InputError (too far)."""
        one = self.by_name[name]
        forecast = self.publication.forecast
        if forecast is None:
            return self._no_forecast(name, one, levels or ())
        step = forecast.step.total_seconds()
        reach = float(forecast.horizons[-1]) * step if len(forecast.horizons) else 0.0
        wanted = reach if horizon is None else horizon.total_seconds()
        if wanted > reach:
            raise InputError(f"a horizon of {wanted:.0f} s is too long: the forecast reaches {reach:.0f} s")
        asked = tuple(levels or forecast.levels)
        kept = int(np.searchsorted(forecast.horizons * step, wanted, side="right"))
        values = forecast.values[one.row, :kept]
        origin = forecast.origin.timestamp()
        missing = forecast.missing[one.row]
        return {
            "workload": name,
            "origin": forecast.origin,
            "stepSeconds": step,
            "quantiles": asked,
            "times": [when(origin + float(h) * step) for h in forecast.horizons[:kept]],
            "values": [] if missing else _columns(values, forecast.levels, asked),
            "peak": None
            if missing
            else {
                "windowSeconds": float(forecast.windows[one.row]) * step,
                "values": _columns(forecast.peak[[one.row]], forecast.levels, asked)[0],
            },
            "modelVersion": forecast.model[one.row],
            "reason": reason_json(missing) if missing else None,
            "reasons": reasons_json(one.reasons),
            "madeAt": self.publication.made_at,
        }

    def _no_forecast(self, name: str, one: WorkloadStatus, levels: Sequence[float]) -> Json:
        return {
            "workload": name,
            "origin": None,
            "stepSeconds": None,
            "quantiles": list(levels),
            "times": [],
            "values": [],
            "peak": None,
            "modelVersion": one.model_version,
            "reason": reason_json(one.reasons[0]) if one.reasons else None,
            "reasons": reasons_json(one.reasons),
            "madeAt": self.publication.made_at,
        }


def render(publication: Publication, published: float, notices: tuple[Reason, ...] = ()) -> Rendered:
    """All bytes of one cycle. `published`: monotonic seconds at `publication.made_at`."""
    expiries = tuple(expiry_of(one, publication.made_at, published) for one in publication.recommendations)
    items = tuple(recommendation_json(one) for one in publication.recommendations)
    return Rendered(
        publication=publication,
        published=published,
        recommendation_expiries=expiries,
        recommendation_items=items,
        recommendations=_collection(items, publication.made_at),
        etag=etag_of(publication.recommendations),
        workloads_metrics=metrics_text.workloads_text(publication),
        recommendations_metrics=metrics_text.recommendations_section(publication.recommendations, expiries),
        notices=(*publication.notices, *notices),
    )


def expiry_of(one: Recommendation, made_at: datetime, published: float) -> float:
    """Monotonic seconds: its validity less the age that it already had. A time in the future counts as now."""
    age = max(0.0, (made_at - one.made_at).total_seconds())
    return published + one.valid_for.total_seconds() - age


def etag_of(recommendations: Iterable[Recommendation]) -> str:
    """Changes when a decision does, not when only times, numbers in words or the order of reasons do. Weak."""
    decisions = [
        [
            one.workload,
            one.namespace,
            one.hpa,
            one.hpa_uid,
            one.floor,
            one.desired_replicas,
            one.reactive,
            one.mode.value,
            one.model_version,
            one.valid_for.total_seconds(),
            one.bound_by,
            sorted({reason.code.value for reason in one.reasons}),
            one.raised_target,
        ]
        for one in recommendations
    ]
    return f'W/"{hashlib.sha256(orjson.dumps(decisions)).hexdigest()[:32]}"'


def _collection(items: Sequence[Json], made_at: datetime) -> bytes:
    return dumps({"items": items, "next": None, "madeAt": made_at})


def _columns(values: Any, levels: tuple[float, ...], asked: Sequence[float]) -> list[list[float]]:
    """(horizon, quantile) at the asked levels."""
    if not len(values):
        return []
    known = [values[:, levels.index(q)] if q in levels else at_level(values, levels, q) for q in asked]
    columns = np.column_stack([np.asarray(one, dtype=np.float64) for one in known])
    if (values[:, 0] >= 0).all():
        columns = np.maximum(columns, 0.0)
    listed: list[list[float]] = columns.tolist()
    return listed


# --- small records ---------------------------------------------------------------------------------------------------


def reason_json(reason: Reason) -> Json:
    return {"code": reason.code.value, "detail": reason.detail}


def reasons_json(reasons: Iterable[Reason]) -> list[Json]:
    return [reason_json(reason) for reason in reasons]


def recommendation_json(one: Recommendation) -> Json:
    return {
        "workload": one.workload,
        "namespace": one.namespace,
        "hpa": one.hpa,
        "hpaUid": one.hpa_uid,
        "floor": one.floor,
        "desiredReplicas": one.desired_replicas,
        "reactive": one.reactive,
        "madeAt": one.made_at,
        "validUntil": one.valid_until,
        "validForSeconds": one.valid_for.total_seconds(),
        "dataThrough": one.data_through,
        "modelVersion": one.model_version,
        "mode": one.mode.value,
        "candidates": [{"name": c.name, "replicas": c.replicas, "detail": c.detail} for c in one.candidates],
        "boundBy": one.bound_by,
        "reasons": reasons_json(one.reasons),
        "raisedTarget": one.raised_target,
    }


def incident_json(one: Incident) -> Json:
    return {
        **part_json(one),
        "sentence": one.sentence,
        "feedback": one.feedback,
        "contributing": [part_json(part) for part in one.parts],
        "nearby": [{"kind": near.kind, "at": near.at, "text": near.text} for near in one.nearby],
        "commonCause": one.cause,
    }


def part_json(one: Part | Incident) -> Json:
    """One series that contributes to an incident; an incident itself has the same fields of its worst."""
    return {
        "id": one.id,
        "workload": one.workload,
        "series": one.role,
        "kind": one.kind,
        "direction": one.direction,
        "severity": one.severity,
        "openedAt": one.opened_at,
        "onset": one.onset,
        "closedAt": one.closed_at,
        "score": one.score,
        "threshold": one.threshold,
        "observed": one.observed,
        "expectedLow": one.expected_low,
        "expectedHigh": one.expected_high,
    }


def event_json(one: Event) -> Json:
    return {
        "id": one.id,
        "kind": one.kind,
        "workload": one.workload,
        "startsAt": one.starts_at,
        "endsAt": one.ends_at,
        "note": one.note,
        "exclude": one.exclude,
    }


def override_json(one: Override) -> Json:
    return {
        "id": one.id,
        "workload": one.workload,
        "kind": one.kind,
        "startsAt": one.starts_at,
        "endsAt": one.ends_at,
        "minReplicas": one.min_replicas,
        "maxReplicas": one.max_replicas,
        "note": one.note,
    }


def newest_first(incidents: Mapping[str, Incident]) -> list[Incident]:
    """Open ones before closed ones, each by time of opening."""
    return sorted(incidents.values(), key=lambda one: (one.closed_at is not None, -one.opened_at.timestamp(), one.id))
