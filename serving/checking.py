"""`forecaster check`: one real cycle against the real Prometheus, and what it found, workload by workload.

The reasons are those that `serve` will give, for the same code gives them. Nothing is written. The cycle forecasts by
persistence; which model `serve` runs is looked at apart.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from forecaster.anomaly.peers import LEAST_PEERS
from forecaster.config import Config
from forecaster.cycle import Cycle
from forecaster.domain import HpaFacts, Mode, ScaleSpec, WorkloadSpec
from forecaster.errors import InputError, SourceError
from forecaster.history import Reading
from forecaster.prometheus import PrometheusSource
from forecaster.publication import Publication, WorkloadStatus
from forecaster.reasons import ADVICE, Reason, ReasonCode
from forecaster.scaling import raised_target
from models.persistence import Persistence
from serving import checking_model
from serving.checking_model import ModelFound
from serving.hpa_reader import ApiHpas, reader_of

SCHEMA_VERSION = 1
MOST_SAID = 5  # workloads whose learned capacity or measured start-up is told at length
MOST_LINES = 40  # workloads of one table; --json has all
REMARKS = frozenset(  # codes that hinder neither a forecast nor a decision
    {
        ReasonCode.CALIBRATING,
        ReasonCode.CONSTANT_SERIES,
        ReasonCode.HELD,
        ReasonCode.LEAD_TIME_UNKNOWN,
        ReasonCode.MAX_REPLICAS_REACHED,
        ReasonCode.SKILL_BELOW_BASELINE,
    }
)
_ADVISED = frozenset({ReasonCode.LEAD_TIME_UNKNOWN, ReasonCode.MAX_REPLICAS_REACHED})  # remarks that can be mended
API_SECONDS = 15.0  # for the API server to list its HPAs


@dataclass(frozen=True, slots=True)
class Found:
    """One workload as it stands."""

    name: str
    mode: str  # that it will run in
    history: timedelta | None  # from the first sample to now; None: there is none
    known_ratio: float | None  # share of the coarse history since then that exists
    series: int  # that its expression answers
    query_seconds: float  # of its load, asked once
    hpa: str | None
    facts: HpaFacts | None
    reasons: tuple[Reason, ...]  # those that hinder first
    capacity: float | None = None  # load at which one replica is full
    capacity_note: str = ""  # what a learned one rests on
    lead_time_seconds: float | None = None  # from a decision to ready pods
    pods: Mapping[str, int] = field(default_factory=dict)  # resource -> pods of its `perPod`

    @property
    def hinders(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.code not in REMARKS)


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found."""

    prometheus: str | None
    version: str | None
    workloads: tuple[Found, ...]
    notices: tuple[Reason, ...]
    backlog_seconds: int  # of history that was not read in the time given
    queries_per_interval: int
    clock_skew_seconds: float | None = None
    model: ModelFound | None = None  # None: it was not looked at

    @property
    def ok(self) -> bool:
        if self.model is not None and not self.model.ok:
            return False
        return not self.notices and not any(one.hinders for one in self.workloads)


def check(config: Config, timeout_s: float, progress: Callable[[float], None] = lambda share: None) -> Report:
    """Raises InputError where Prometheus cannot be asked at all."""
    model = checking_model.look(config)
    if config.prometheus is None:
        return Report(None, None, (), (), 0, 0, model=model)
    hpas = reader_of(config.kubernetes, os.environ)
    source = PrometheusSource(config.prometheus)
    try:
        if hpas is not None:
            hpas.start()
            hpas.wait(API_SECONDS)
        server = source.server_info()
        if not server.is_prometheus:
            raise InputError(f"prometheus.url: {source.url} does not answer PromQL: write the URL of a Prometheus")
        found = _check(config, source, hpas, timeout_s, progress)
        return Report(server.url, server.version, *found, model=model)
    except SourceError as error:
        raise InputError(f"prometheus.url: {error}") from error
    finally:
        source.close()
        if hpas is not None:
            hpas.close()


def _check(
    config: Config,
    source: PrometheusSource,
    hpas: ApiHpas | None,
    timeout_s: float,
    progress: Callable[[float], None],
) -> tuple[tuple[Found, ...], tuple[Reason, ...], int, int, float | None]:
    specs = config.specs()
    cycle = Cycle(
        specs,
        step=config.step,
        interval=config.interval,
        span=config.history,
        source=source,
        forecasters=lambda: (Persistence(),),
        hpas=hpas,
    )
    deadline = time.monotonic() + timeout_s
    published = cycle.run(datetime.now(UTC))
    most = max(cycle.history.backlog, 1)
    while cycle.history.backlog and time.monotonic() < deadline:
        before = cycle.history.backlog
        published = cycle.run(datetime.now(UTC))
        progress(1 - cycle.history.backlog / most)
        if cycle.history.backlog >= before:  # Prometheus is in trouble: its reasons say so
            break
    progress(1.0)
    costs = _costs(source, specs)
    assert cycle.reading is not None
    context, facts = cycle.reading.context, cycle.reading.facts
    oldest = _oldest(context.coarse.values, context.coarse.times)
    known = _known(context.coarse.values)
    refusals = {} if hpas is None else hpas.refusals()
    target_refusals = {} if hpas is None else hpas.target_refusals()
    pods = _pods(cycle.reading)
    found = tuple(
        replace(
            _never_raised(
                _owned(
                    _found(
                        status,
                        published,
                        facts,
                        costs[status.workload.spec.load],
                        oldest[status.row],
                        known[status.row],
                    ),
                    refusals,
                    target_refusals if _raises(status.workload.scale) else {},
                ),
                status.workload.scale,
            ),
            pods=pods.get(status.workload.name, {}),
        )
        for status in published.workloads
    )
    loads = len({spec.load for spec in specs})
    notices = published.notices
    if hpas is not None and hpas.trouble:
        notices = (*notices, Reason(ReasonCode.HPA_NOT_FOUND, f"the API server: {hpas.trouble}"))
    return found, notices, cycle.history.backlog, loads, published.clock_skew_seconds


def _found(
    status: WorkloadStatus,
    published: Publication,
    facts: Mapping[str, HpaFacts],
    cost: tuple[int, float],
    oldest: float,
    known: float,
) -> Found:
    scale = status.workload.scale
    name = None if scale is None else f"{scale.namespace}/{scale.hpa}"
    known_facts = None if name is None else facts.get(name)
    reasons = (*status.reasons, *_schedule_above(status.workload.scale, known_facts))
    hinder = [reason for reason in reasons if reason.code not in REMARKS]
    rest = [reason for reason in reasons if reason.code in REMARKS]
    decides = not any(reason.code in _NO_FLOOR for reason in hinder)
    alone = not status.workload.labels
    return Found(
        name=status.workload.name,
        mode=status.mode.value if decides else "observe",
        history=None if math.isnan(oldest) else published.made_at - datetime.fromtimestamp(oldest, UTC),
        known_ratio=None if math.isnan(known) else known,
        series=cost[0] if alone else 1,
        query_seconds=cost[1],
        hpa=name,
        facts=known_facts,
        reasons=(*hinder, *rest),
        capacity=status.capacity_per_replica,
        capacity_note=status.capacity_note,
        lead_time_seconds=status.lead_time_seconds,
    )


def _pods(reading: Reading) -> dict[str, dict[str, int]]:
    """Workload -> resource -> pods that `perPod` finds; 0 where it finds none."""
    keys = reading.context.fine.keys
    found: dict[str, dict[str, int]] = {}
    for workload in reading.workloads:
        asked = [one.name for one in workload.spec.resources if one.per_pod is not None]
        if asked:
            found[workload.name] = dict.fromkeys(asked, 0)
    for row in reading.pods.row.tolist():
        found[keys[row].workload][keys[row].role] += 1
    return found


def _schedule_above(scale: ScaleSpec | None, facts: HpaFacts | None) -> tuple[Reason, ...]:
    """What the HPA's maximum will cut, said before the window opens."""
    if scale is None or facts is None or facts.max_replicas is None:
        return ()
    high = [one for one in scale.schedule if one.min_replicas is not None and one.min_replicas > facts.max_replicas]
    if not high:
        return ()
    said = f"schedule {high[0].cron!r} asks for {high[0].min_replicas} replicas, the HPA allows {facts.max_replicas}"
    return (Reason(ReasonCode.MAX_REPLICAS_REACHED, said),)


def _raises(scale: ScaleSpec | None) -> bool:
    return scale is not None and scale.raised_target_ratio is not None


def _never_raised(found: Found, scale: ScaleSpec | None) -> Found:
    """With the reason why a CPU target that may be raised never will be."""
    if scale is None or not _raises(scale) or raised_target.wanted(scale, found.facts) is not None:
        return found
    own = None if found.facts is None else found.facts.cpu_target
    why = (
        "the HPA has no metric of CPU utilization that is known: is it read (`kubernetes:`)?"
        if own is None
        else f"that of the HPA is {own} %, no lower than scale.raisedTarget"
    )
    return replace(
        found, reasons=(Reason(ReasonCode.HPA_INVALID, f"the CPU target is never raised: {why}"), *found.reasons)
    )


def _owned(found: Found, refusals: Mapping[str, str], target_refusals: Mapping[str, str]) -> Found:
    """With the reason why the actuator would leave its HPA or its CPU target alone, where it is asked to write."""
    of_floor, of_target = refusals.get(found.hpa or ""), target_refusals.get(found.hpa or "")
    if of_floor is None and of_target is not None:
        of_target = f"the floor is written, the CPU target stays: {of_target}"
    said = of_floor or of_target
    if said is None or found.mode != Mode.APPLY.value:
        return found
    reasons = [Reason(ReasonCode.OWNED_BY_OTHER, said)]
    return replace(found, reasons=(*reasons, *found.reasons))


_NO_FLOOR = frozenset({ReasonCode.CAPACITY_UNKNOWN, ReasonCode.HPA_NOT_FOUND, ReasonCode.HPA_INVALID})


def _least(facts: HpaFacts) -> int | None:
    """The user's own minimum, also while our floor stands in its place."""
    return facts.min_replicas if facts.users_own is None else facts.users_own


def _start_up(facts: HpaFacts) -> str:
    """ "95 s (90 % of 24 starts in 14 days)"."""
    assert facts.lead_time is not None
    return f"{facts.lead_time.total_seconds():.0f} s (90 % of {facts.lead_time_pods} starts in 14 days)"


def _costs(source: PrometheusSource, specs: Sequence[WorkloadSpec]) -> dict[str, tuple[int, float]]:
    """Expression -> (series that it answers, seconds)."""
    found: dict[str, tuple[int, float]] = {}
    for spec in specs:
        if spec.load not in found:
            try:
                answer = source.instant(spec.load, datetime.now(UTC))
                found[spec.load] = len(answer.labels), answer.query_seconds
            except SourceError:
                found[spec.load] = 0, math.nan
    return found


def _oldest(values: Any, times: Any) -> Any:
    """(row,) Unix seconds of the first sample; NaN: none."""
    there = ~np.isnan(values)
    first = there.argmax(axis=1)
    return np.where(there.any(axis=1), times[first].astype(np.float64), np.nan)


def _known(values: Any) -> Any:
    """(row,) share of the columns since the first sample that hold one."""
    there = ~np.isnan(values)
    since = values.shape[1] - there.argmax(axis=1)
    return np.where(there.any(axis=1), there.sum(axis=1) / since, np.nan)


# --- what is shown ---------------------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    told = {
        "schemaVersion": SCHEMA_VERSION,
        "ok": report.ok,
        "prometheus": {"url": report.prometheus, "version": report.version},
        "clockSkewSeconds": report.clock_skew_seconds,
        "queriesPerInterval": report.queries_per_interval,
        "historyStillToRead": report.backlog_seconds > 0,
        "notices": [_reason_json(reason) for reason in report.notices],
        "model": None if report.model is None else checking_model.as_json(report.model),
        "workloads": [
            {
                "name": one.name,
                "mode": one.mode,
                "history": None if one.history is None else one.history.total_seconds(),
                "knownRatio": one.known_ratio,
                "series": one.series,
                "querySeconds": one.query_seconds if math.isfinite(one.query_seconds) else None,
                "hpa": one.hpa,
                "hpaFound": one.facts is not None,
                "minReplicas": None if one.facts is None else _least(one.facts),
                "maxReplicas": None if one.facts is None else one.facts.max_replicas,
                "minReplicasOwner": None if one.facts is None else one.facts.owner,
                "capacityPerReplica": one.capacity,
                "capacityNote": one.capacity_note,
                "leadTimeSeconds": one.lead_time_seconds,
                "pods": dict(one.pods),
                "leadTimePods": None if one.facts is None else one.facts.lead_time_pods,
                "reason": one.hinders[0].code.value if one.hinders else None,
                "reasons": [_reason_json(reason) for reason in one.reasons],
            }
            for one in report.workloads
        ],
    }
    return json.dumps(told, indent=1)


def as_text(report: Report, colours: bool) -> str:
    from rich.console import Console
    from rich.table import Table

    model = [] if report.model is None else checking_model.as_text(report.model)
    if report.prometheus is None:
        said = "The configuration is valid. It has no workloads: `serve` will answer REST forecasts of posted values."
        return "\n".join([said, *model])
    table = Table(box=None, pad_edge=False)
    for column in ("workload", "mode", "history", "known", "series", "query", "HPA", "replicas", "reason"):
        table.add_column(column, overflow="fold", justify="right" if column in ("known", "series", "query") else "left")
    # what hinders comes first: it must not fall below the fold of a long list
    ordered = sorted(report.workloads, key=lambda one: (not one.hinders, one.name))
    for one in ordered[:MOST_LINES]:
        first = one.reasons[0] if one.reasons else None
        table.add_row(
            one.name,
            one.mode,
            _span(one.history),
            "–" if one.known_ratio is None else f"{one.known_ratio:.0%}",
            str(one.series),
            f"{1000 * one.query_seconds:.0f} ms" if math.isfinite(one.query_seconds) else "–",
            one.hpa or "–",
            _replicas(one),
            "ok" if first is None else first.code.value if one.hinders else f"ok ({first.code.value})",
        )
    buffer = io.StringIO()
    console = Console(file=buffer, width=None if colours else 160, force_terminal=colours, highlight=False)
    version = f" {report.version}" if report.version else ""
    console.print(f"Prometheus{version} at {report.prometheus}, {_queries(report)}", markup=False)
    if report.clock_skew_seconds is not None and abs(report.clock_skew_seconds) > 5:
        console.print(f"Its clock is {report.clock_skew_seconds:+.0f} s from ours.", markup=False)
    for text in model:
        console.print(text, markup=False, soft_wrap=True)
    console.print(table)
    if len(ordered) > MOST_LINES:
        console.print(f"… and {len(ordered) - MOST_LINES} more: --json lists all.", markup=False)
    for text in _advice(report):
        console.print(text, markup=False)
    return buffer.getvalue().rstrip("\n")


def _advice(report: Report) -> list[str]:
    """What to do about each code that occurs, and the words of the first workload that has it."""
    lines = []
    if report.backlog_seconds:
        lines.append("Not all of the history was read in time; `serve` goes on reading it. --timeout gives more.")
    lines += [f"{reason.code.value}: {reason.detail} → {ADVICE[reason.code][1]}" for reason in report.notices]
    learned = [one for one in report.workloads if one.capacity is not None and one.capacity_note]
    lines += [
        f"capacity of {one.name}: {one.capacity:.4g} a replica, {one.capacity_note}" for one in learned[:MOST_SAID]
    ]
    watched = [(one.name, name, count) for one in report.workloads for name, count in one.pods.items()]
    lines += [
        f"perPod of {workload}/{name}: {count} pods" + ("" if count >= LEAST_PEERS else f", {LEAST_PEERS} are needed")
        for workload, name, count in watched[:MOST_SAID]
    ]
    measured = [one for one in report.workloads if one.facts is not None and one.facts.lead_time is not None]
    lines += [
        f"lead time of {one.name}: {one.lead_time_seconds:.0f} s, pods are ready after {_start_up(one.facts)}"
        for one in measured[:MOST_SAID]
        if one.lead_time_seconds is not None and one.facts is not None
    ]
    seen: set[ReasonCode] = set()
    for one in report.workloads:
        for reason in one.reasons:
            if reason.code in seen or reason.code in REMARKS - _ADVISED:
                continue
            seen.add(reason.code)
            meaning, mend = ADVICE[reason.code]
            lines.append(f"{reason.code.value} ({one.name}): {reason.detail or meaning} → {mend}")
    return lines


def _queries(report: Report) -> str:
    count = report.queries_per_interval
    return f"{count} {'query' if count == 1 else 'queries'} each interval"


def _replicas(one: Found) -> str:
    if one.hpa is None:
        return "–"
    if one.facts is None:
        return "not found"
    low, high = _least(one.facts), one.facts.max_replicas
    return f"{'?' if low is None else low}–{'?' if high is None else high}, now {one.facts.current_replicas or '?'}"


def _span(history: timedelta | None) -> str:
    if history is None:
        return "none"
    hours = history.total_seconds() / 3_600
    return f"{hours / 24:.1f} d" if hours >= 48 else f"{hours:.1f} h"


def _reason_json(reason: Reason) -> dict[str, str]:
    return {"code": reason.code.value, "detail": reason.detail}
