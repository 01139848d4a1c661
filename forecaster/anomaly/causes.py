"""One step of the kinds that know a cause: predicted saturation, usage given load, one pod unlike its siblings.

Rows are the watched resources of workloads, keyed as in `follow`: `name#hash/memory`. Each kind scores in its own file;
here its score meets a threshold that spends its share of the alarm budget, becomes an incident with a sentence and the
numbers behind it, and keeps its own samples out of what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from forecaster.anomaly import budget, incidents, peers, saturation, usage
from forecaster.anomaly.feedback import NOTHING, Taught
from forecaster.domain import BoolArray, FloatArray, Incident, IntArray
from forecaster.rows import Arrays, Rows
from forecaster.scaling.record import from_json, to_json

STATE_VERSION = 1
KINDS = (saturation.KIND, usage.KIND, peers.KIND)
MOST_EXCLUDED = 0.2  # share of a row's time that its own incidents may keep out of learning
_WEEK = 7 * 86_400.0
_POD, _GROUP, _WATCH = "pod", "group", "watch"


@dataclass(frozen=True, slots=True, eq=False)
class Pods:
    """Usage of single pods or nodes, of the rows that have them. One step."""

    names: tuple[str, ...] = ()
    row: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (pod,) of the resource
    usage: FloatArray = field(default_factory=lambda: np.zeros(0))  # (pod,) NaN where missing


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One step of samples; arrays over the rows of the state, NaN where missing."""

    now: int  # Unix seconds
    load: FloatArray  # of the row's workload
    usage: FloatArray
    limit: FloatArray
    replicas: FloatArray  # of the row's workload
    masked: BoolArray  # marked by people: neither alarms nor is learned from
    faulty: BoolArray  # its data, or that of its load, cannot be trusted
    pods: Pods = Pods()


@dataclass(frozen=True, slots=True, eq=False)
class CausesState:
    """All that is remembered between steps."""

    rows: Rows
    pods: Rows
    open: Mapping[tuple[str, str], Incident] = field(default_factory=dict)  # (kind, row key) -> its open incident


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What one step found; arrays over rows."""

    state: CausesState
    scores: Mapping[str, FloatArray]  # kind -> -log10 p; NaN where it could not be scored
    seconds_to_limit: FloatArray  # (row, saturation.LEVELS) +Inf: none in sight; NaN: unknown
    reach: FloatArray  # probability that the limit is reached within a day
    opened: tuple[Incident, ...]
    closed: tuple[Incident, ...]
    open: tuple[Incident, ...]
    evidence: Mapping[str, Mapping[str, float]]  # id of an open or closed incident -> what its sentence rests on
    budget_used: FloatArray  # incidents of ten weeks over what ten weeks allow, all three kinds
    looks: Mapping[str, Look]  # kind -> what an incident of it would be told with


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one kind showed in a step; arrays over rows."""

    observed: FloatArray
    low: FloatArray
    high: FloatArray
    score: FloatArray
    threshold: FloatArray
    factor: FloatArray  # what feedback multiplies the budget by


def blank() -> Arrays:
    """One row of state: a resource."""
    watch = {**budget.blank(), **incidents.blank(), "excluded": np.zeros(1)}
    return {
        **_under(saturation.KIND, saturation.blank()),
        **_under(usage.KIND, usage.blank()),
        **_under(_GROUP, peers.blank_group()),
        **{name: value for kind in KINDS for name, value in _under(f"{_WATCH}.{kind}", watch).items()},
    }


def start(keys: Sequence[str], before: CausesState | None = None) -> CausesState:
    """State for `keys`: rows of `before` where it has them. Incidents of rows that are gone close at the next step."""
    if before is None:
        return CausesState(Rows((), {}).aligned(keys, blank()), Rows((), {}).aligned((), peers.blank()))
    rows = before.rows.aligned(keys, blank())
    if rows is before.rows:
        return before
    return with_other_budget(replace(before, rows=rows))  # what the pool of the fleet says changes with the fleet


def with_other_budget(state: CausesState) -> CausesState:
    """The same; the next step learns the thresholds anew."""
    anew = {f"{_WATCH}.{kind}.threshold": np.full(len(state.rows.keys), math.nan) for kind in KINDS}
    return replace(state, rows=Rows(state.rows.keys, {**state.rows.arrays, **anew}))


def as_expected(state: CausesState, ids: Collection[str], now: int) -> tuple[CausesState, tuple[Incident, ...]]:
    """(state, closed): open incidents in `ids` are as people expect them; their rows stand as after acceptance."""
    still, gone = incidents.expected(state.open, ids, now)
    if not gone:
        return state, ()
    arrays = dict(state.rows.arrays)
    for kind in KINDS:
        rows = np.array([(kind, key) in gone for key in state.rows.keys], dtype=np.bool_)
        status, since = f"{_WATCH}.{kind}.status", f"{_WATCH}.{kind}.status_at"
        arrays[status] = np.where(rows, int(incidents.Status.ACCEPTED), arrays[status])
        arrays[since] = np.where(rows, float(now), np.asarray(arrays[since], dtype=np.float64))
    return replace(state, rows=Rows(state.rows.keys, arrays), open=still), tuple(gone.values())


def follow(
    state: CausesState, seen: Seen, per_week: float, step_seconds: float = 60.0, taught: Taught = NOTHING
) -> Followed:
    """Scores one step and opens and closes incidents. `per_week`: false alarms per workload and week of all three.

    `taught` is what people said of earlier incidents.
    """
    if per_week <= 0:
        raise ValueError("the alarm budget must be above 0")
    keys, a = state.rows.keys, state.rows.arrays
    allowed = ~seen.masked & ~seen.faulty
    used = np.where(allowed, np.asarray(seen.usage, dtype=np.float64), np.nan)
    limits, outlook = saturation.stepped(_part(a, saturation.KIND), used, seen.limit, seen.now)
    sample = usage.Sample(seen.now, np.where(allowed, seen.load, np.nan), used, seen.replicas)
    fit, cost_said = usage.judged(_part(a, usage.KIND), sample, step_seconds)
    pod_keys = [f"{keys[row]}/{name}" for name, row in zip(seen.pods.names, seen.pods.row.tolist(), strict=True)]
    pods = state.pods.aligned(pod_keys, peers.blank())
    of_pods = np.where(allowed[seen.pods.row], np.asarray(seen.pods.usage, dtype=np.float64), np.nan)
    groups = _part(a, _GROUP)
    pod_arrays, peer_said = peers.stepped(pods.arrays, groups, of_pods, seen.pods.row, seen.now, step_seconds)

    views = {
        saturation.KIND: _saturating(outlook, seen, a),
        usage.KIND: _View(
            cost_said.score, cost_said.side, used, cost_said.expected, cost_said.low, cost_said.high, allowed
        ),
        peers.KIND: _of_peers(peer_said, of_pods, allowed),
    }
    words = {
        saturation.KIND: lambda row, one: _limit_words(one, outlook, seen, row),
        usage.KIND: lambda row, one: _cost_words(one, cost_said, fit, seen, row),
        peers.KIND: lambda row, one: _peer_words(one, peer_said, seen.pods, row),
    }
    share = share_of(per_week)
    arrays: Arrays = {**a}
    still: dict[tuple[str, str], Incident] = {}
    opened: list[Incident] = []
    closed: list[Incident] = []
    evidence: dict[str, Mapping[str, float]] = {}
    learn: dict[str, BoolArray] = {}
    settled: dict[str, BoolArray] = {}
    spent = np.zeros(len(keys))
    looks: dict[str, Look] = {}
    for kind in KINDS:
        mine = {key: one for (of, key), one in state.open.items() if of == kind}
        step = _Step(kind, keys, seen.now, step_seconds, share, taught)
        watched = _watched(step, _part(a, f"{_WATCH}.{kind}"), views[kind], mine, words[kind])
        arrays.update(_under(f"{_WATCH}.{kind}", watched.arrays))
        still.update({(kind, key): one for key, one in watched.still.items()})
        opened += watched.opened
        closed += watched.closed
        evidence.update(watched.evidence)
        view = views[kind]
        looks[kind] = Look(view.observed, view.low, view.high, view.score, watched.threshold, watched.factor)
        learn[kind], settled[kind] = watched.learn & allowed, watched.accepted
        spent += budget.used(np.asarray(watched.arrays["alarms"]), budget.shares(keys, share)) / len(KINDS)
    fit = usage.learned(fit, sample, cost_said, learn[usage.KIND], step_seconds)
    fit = usage.accepted(fit, settled[usage.KIND], step_seconds)
    pod_arrays, groups = peers.learned(pod_arrays, groups, peer_said, seen.pods.row, learn[peers.KIND], step_seconds)
    pod_arrays = peers.accepted(pod_arrays, settled[peers.KIND], seen.pods.row)
    arrays.update(_under(saturation.KIND, limits))
    arrays.update(_under(usage.KIND, fit))
    arrays.update(_under(_GROUP, groups))
    return Followed(
        state=CausesState(Rows(keys, arrays), Rows(pods.keys, pod_arrays), still),
        scores={kind: view.score for kind, view in views.items()},
        seconds_to_limit=outlook.seconds,
        reach=outlook.reach,
        opened=tuple(opened),
        closed=tuple(closed),
        open=tuple(still.values()),
        evidence=evidence,
        budget_used=spent,
        looks=looks,
    )


def watched_by(arrays: Mapping[str, Any], kind: str) -> Arrays:
    """What one kind's budget and incidents remember, of the arrays of a state."""
    return _part(arrays, f"{_WATCH}.{kind}")


def share_of(per_week: float) -> float:
    """What each kind may spend of what all three may."""
    return per_week / len(KINDS)


def cost_per_load(state: CausesState) -> usage.Cost:
    """Usage per unit of load of each row, with its interval: what is published, not needed to judge."""
    return usage.cost(_part(state.rows.arrays, usage.KIND))


def dump(state: CausesState) -> tuple[Rows, Rows, list[dict[str, Any]]]:
    """Arrays of resources, of pods, and the open incidents as JSON: what a restart needs."""
    told = [{"kind": kind, "key": key, "incident": to_json(one)} for (kind, key), one in state.open.items()]
    return state.rows, state.pods, told


def restore(rows: Rows, pods: Rows, told: Sequence[Mapping[str, Any]]) -> CausesState:
    """The state of `dump`. A row that says open without an incident starts calm. Raises InputError for bad JSON."""
    known = {(entry["kind"], entry["key"]): from_json(Incident, entry["incident"]) for entry in told}
    aligned = rows.aligned(rows.keys, blank())
    arrays = dict(aligned.arrays)
    for kind in KINDS:
        name = f"{_WATCH}.{kind}.status"
        status = np.array(arrays[name])
        lost = np.array([(kind, key) not in known for key in rows.keys], dtype=np.bool_)
        status[lost & (status == incidents.Status.OPEN)] = incidents.Status.CALM
        arrays[name] = status
    return CausesState(Rows(rows.keys, arrays), pods.aligned(pods.keys, peers.blank()), known)


# --- one kind --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What a kind says of this step, as the machine of incidents wants it; arrays over rows."""

    score: FloatArray
    side: IntArray
    observed: FloatArray
    expected: FloatArray
    low: FloatArray
    high: FloatArray
    allowed: BoolArray  # its score counts among those that teach the threshold
    ready: BoolArray | None = None  # an incident may open; None: wherever it counts
    held: BoolArray | None = None  # an open incident is not over, whatever the score


@dataclass(frozen=True, slots=True)
class _Step:
    kind: str
    keys: Sequence[str]
    now: int
    step_seconds: float
    per_week: float
    taught: Taught = NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    arrays: Arrays
    threshold: FloatArray
    factor: FloatArray  # what feedback multiplies the budget by
    still: dict[str, Incident]
    opened: list[Incident]
    closed: list[Incident]
    evidence: dict[str, Mapping[str, float]]
    learn: BoolArray
    accepted: BoolArray


Words = Callable[[int, Incident], tuple[str, Mapping[str, float]]]  # (row, incident) -> its sentence and numbers


def _watched(step: _Step, before: Arrays, view: _View, open_: Mapping[str, Incident], words: Words) -> _Watched:
    """One step of a kind: threshold, incidents and their words."""
    now, keys = step.now, step.keys
    shares = budget.shares(keys, step.per_week)
    pacing = budget.rolled(before, view.score, view.allowed, now, step.step_seconds, shares)
    names = [incidents.named(key) for key in keys] if step.taught is not NOTHING else []
    factor = step.taught.factors(names, [step.kind] * len(names)) if names else np.ones(len(keys))
    threshold = budget.moved(budget.in_force(pacing), factor)
    with np.errstate(invalid="ignore"):
        hot = (view.allowed if view.ready is None else view.allowed & view.ready) & (view.score > threshold)
    if names and hot.any():
        hot &= ~step.taught.suppressed(names, [step.kind] * len(names), now, view.side > 0, view.observed)
    score, machine_before = view.score, dict(before)
    if view.held is not None:
        on = (np.asarray(before["status"]) == incidents.Status.OPEN) & view.held
        score = np.where(on, np.fmax(score, incidents.CALM), score)
        # a limit that still comes nearer is no new normal: the incident does not age
        machine_before["status_at"] = np.where(on, float(now), np.asarray(before["status_at"], dtype=np.float64))
    look = incidents.Looked(
        now=now,
        step_seconds=step.step_seconds,
        score=score,
        unrest=score,
        spoke=np.zeros(len(keys), dtype=np.int64),
        side=view.side,
        observed=view.observed,
        median=view.expected,
        hot=hot,
        fresh=np.ones(len(keys), dtype=np.bool_),
    )
    machine, opened, closed, accepted = incidents.moved(machine_before, look)
    pacing["alarms"] = budget.with_alarms(np.asarray(pacing["alarms"]), opened, now)
    in_incident = np.asarray(machine["status"]) == incidents.Status.OPEN
    excluded = np.asarray(before["excluded"], dtype=np.float64)
    learn = ~(in_incident & (excluded <= MOST_EXCLUDED))
    excluded = excluded + (in_incident - excluded) * min(1.0, step.step_seconds / _WEEK)
    arrays = {**before, **pacing, **machine, "excluded": excluded}
    out = _Watched(arrays, threshold, factor, {}, [], [], {}, learn, accepted)
    if open_:
        _renew(out, step, view, threshold, open_, closed, words)
    for row in np.flatnonzero(opened).tolist():
        began = np.asarray(machine["elevated_at"], dtype=np.float64)[row]
        made = incidents.opened_incident(
            keys[row],
            step.kind,
            now,
            now if math.isnan(began) else int(began),
            float(view.score[row]),
            float(threshold[row]),
            int(view.side[row]),
            (float(view.observed[row]), float(view.low[row]), float(view.high[row])),  # NaN: not known
        )
        text, numbers = words(row, made)
        out.still[keys[row]] = replace(made, sentence=text)
        out.evidence[made.id] = numbers
        out.opened.append(out.still[keys[row]])
    return out


def _renew(
    out: _Watched,
    step: _Step,
    view: _View,
    threshold: FloatArray,
    open_: Mapping[str, Incident],
    closed: BoolArray,
    words: Words,
) -> None:
    """Takes the open incidents of a kind to this step: worse, or over."""
    at = datetime.fromtimestamp(step.now, UTC)
    row_of = {key: row for row, key in enumerate(step.keys)}
    status = np.asarray(out.arrays["status"])
    for key, incident in open_.items():
        row = row_of.get(key)
        if row is None:
            out.closed.append(replace(incident, closed_at=at))
            continue
        same = (view.side[row] > 0) == (incident.direction == "up")
        renewed = incident
        if same and view.score[row] >= (0.0 if view.held is not None else incident.score):
            # what runs full is told anew with each step, all others when they get worse
            score = max(float(view.score[row]), incident.score)
            worse = replace(
                incident,
                score=score,
                threshold=float(threshold[row]),
                severity=incidents.severity(score, float(threshold[row])),
                observed=float(np.nan_to_num(view.observed[row], nan=incident.observed)),
                expected_low=float(np.nan_to_num(view.low[row], nan=incident.expected_low)),
                expected_high=float(np.nan_to_num(view.high[row], nan=incident.expected_high)),
            )
            text, out.evidence[incident.id] = words(row, worse)
            renewed = replace(worse, sentence=text)
        if closed[row] or status[row] != incidents.Status.OPEN:
            ending = "; accepted as the new regime" if out.accepted[row] else ""
            out.closed.append(replace(renewed, closed_at=at, sentence=renewed.sentence + ending))
        else:
            out.still[key] = renewed


# --- what each kind shows and says -----------------------------------------------------------------------------------


def _saturating(outlook: saturation.Outlook, seen: Seen, a: Arrays) -> _View:
    limit = np.asarray(a[f"{saturation.KIND}.limit"], dtype=np.float64)
    limit = np.where(seen.limit > 0, seen.limit, limit)
    rows = len(limit)
    allowed = ~seen.masked & ~seen.faulty
    ready = np.nan_to_num(outlook.reach) >= saturation.SURE
    used = np.asarray(seen.usage, dtype=np.float64)
    up = np.ones(rows, dtype=np.int64)
    held = np.nan_to_num(outlook.reach) >= saturation.CLOSE_BELOW
    return _View(outlook.score, up, used, used, np.zeros(rows), limit, allowed, ready, held)


def _limit_words(one: Incident, outlook: saturation.Outlook, seen: Seen, row: int) -> tuple[str, Mapping[str, float]]:
    low, middle, high = outlook.seconds[row].tolist()
    numbers = {
        "usage": one.observed,
        "limit": one.expected_high,
        "slopePerSecond": float(outlook.slope[row]),
        "reachProbability": float(outlook.reach[row]),
        "secondsToLimit10": low,
        "secondsToLimit50": middle,
        "secondsToLimit90": high,
    }
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    reach = float(outlook.reach[row])
    text = saturation.sentence(one.workload, one.role, one.observed, one.expected_high, (low, middle, high), reach)
    return text, finite


def _cost_words(
    one: Incident, said: usage.Judged, fit: Arrays, seen: Seen, row: int
) -> tuple[str, Mapping[str, float]]:
    load, rest = float(seen.load[row]), float(said.rest[row])
    if math.isnan(rest):
        rest = one.observed / max(float(said.expected[row]), 1e-300) - 1
    base, cost, each = np.asarray(fit["fit"], dtype=np.float64)[row].tolist()
    numbers = {
        "load": load,
        "usage": one.observed,
        "expected": float(said.expected[row]),
        "excessRatio": rest,
        "base": base,
        "costPerLoad": cost,
        "perReplica": each,
    }
    side = 1 if one.direction == "up" else -1
    text = usage.sentence(
        one.workload, one.role, rest, side, load, float(usage.usual_load(fit)[row]), f"{one.onset:%Y-%m-%d %H:%M} UTC"
    )
    return text, {name: value for name, value in numbers.items() if math.isfinite(value)}


def _of_peers(said: peers.Judged, of_pods: FloatArray, allowed: BoolArray) -> _View:
    worst, rows = np.maximum(said.worst, 0), len(said.score)
    if not len(of_pods):
        none = np.full(rows, np.nan)
        return _View(said.score, np.ones(rows, dtype=np.int64), none, none, none, none, allowed)

    def at(values: FloatArray) -> FloatArray:
        return np.where(said.worst >= 0, values[worst], np.nan)

    siblings, wide = at(said.siblings), 2.576 * at(said.spread)
    side = np.where(np.nan_to_num(at(said.apart)) < 0, -1, 1).astype(np.int64)
    low, high = np.maximum(siblings * (1 - wide), 0.0), siblings * (1 + wide)
    return _View(said.score, side, at(of_pods), siblings, low, high, allowed)


def _peer_words(one: Incident, said: peers.Judged, pods: Pods, row: int) -> tuple[str, Mapping[str, float]]:
    worst = int(said.worst[row])
    apart, siblings = float(said.apart[worst]), float(said.siblings[worst])
    count = int((~np.isnan(said.apart) & (pods.row == row)).sum())
    numbers = {"apartRatio": apart, "siblingsMedian": siblings, "siblings": float(count - 1), "usage": one.observed}
    since = f"{one.onset:%Y-%m-%d %H:%M} UTC"
    return peers.sentence(one.workload, one.role, pods.names[worst], apart, siblings, count, since), numbers


def _under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _part(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    start_ = f"{prefix}."
    return {name.removeprefix(start_): array for name, array in arrays.items() if name.startswith(start_)}
