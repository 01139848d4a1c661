"""One step of anomaly detection for all rows: score, threshold, incidents, and what not to learn from.

Two kinds of evidence make one score: a forecast frozen before the sample came, one step and one hour earlier, never a
re-anchored one (the second still sees what the first has already followed), and the row's own change statistics, which
know no season. A row without forecasts is judged by the latter alone. The decision never looks at the outcome, save at
faults of the data: a flash crowd that is flagged still scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from forecaster.anomaly import budget, datafault, incidents, kernel, residual, statistics
from forecaster.anomaly.feedback import NOTHING, Taught
from forecaster.anomaly.statistics import Measured
from forecaster.domain import BoolArray, FloatArray, Incident, IntArray
from forecaster.rows import Arrays, Rows
from forecaster.scaling.record import from_json, to_json

STATE_VERSION = 3
MOST_EXCLUDED = 0.2  # share of a row's time that its own incidents may keep out of learning
_WEEK = 7 * 86_400.0
_OFF = "off."  # the statistics of how far samples are off the forecast of an hour before
_TWO_LOOKS = math.log10(2.0)


@dataclass(frozen=True, slots=True, eq=False)
class AnomalyState:
    """All that is remembered between steps."""

    rows: Rows
    open: Mapping[str, Incident] = field(default_factory=dict)  # row key -> its open incident
    faults: Mapping[str, Incident] = field(default_factory=dict)  # row key -> its open data fault


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One step of samples and what was forecast for them; arrays over the rows of the state."""

    now: int  # Unix seconds: the grid point of the samples
    observed: FloatArray  # (row,) NaN where missing
    one_step: FloatArray  # (row, level) forecast for `now` issued one step before, calibrated, not re-anchored; or NaN
    one_hour: FloatArray  # (row, level) the same, issued one hour before
    levels: tuple[float, ...]
    masked: BoolArray  # (row,) marked by people: neither alarms nor is learned from
    faults: IntArray  # (row,) FaultKind; 0: none
    fault_words: Callable[[int], str | None] = lambda _row: None


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What one step found; arrays over rows."""

    state: AnomalyState
    score: FloatArray  # -log10 of the calibrated p-value, 0 to 20; NaN where it could not be scored
    low: FloatArray  # expected interval: the outermost quantiles given
    high: FloatArray
    threshold: FloatArray
    opened: tuple[Incident, ...]
    closed: tuple[Incident, ...]
    open: tuple[Incident, ...]  # all that are open now, data faults included
    exclude: BoolArray  # samples not to be learned from
    budget_used: FloatArray  # incidents of ten weeks over what ten weeks allow
    factor: FloatArray  # what feedback multiplies the budget by, for the kind that a row would alarm with


def blank() -> Arrays:
    """One row of state."""
    return {
        **residual.blank(),
        **statistics.blank(),
        **{f"{_OFF}{name}": array for name, array in statistics.blank().items()},
        **budget.blank(),
        **incidents.blank(),
        **datafault.blank(),
        "excluded": np.zeros(1),  # share of the last week that own incidents kept out of learning
    }


def start(keys: Sequence[str], before: AnomalyState | None = None) -> AnomalyState:
    """State for `keys`: rows of `before` where it has them. Incidents of rows that are gone close at the next step."""
    if before is None:
        return AnomalyState(Rows((), {}).aligned(keys, blank()))
    rows = before.rows.aligned(keys, blank())
    if rows is before.rows:
        return before
    return with_other_budget(replace(before, rows=rows))  # what the pool of the fleet says changes with the fleet


def with_other_budget(state: AnomalyState) -> AnomalyState:
    """The same; the next step learns the thresholds anew."""
    threshold = np.full(len(state.rows.keys), math.nan)
    return replace(state, rows=Rows(state.rows.keys, {**state.rows.arrays, "threshold": threshold}))


def follow(
    state: AnomalyState,
    seen: Seen,
    per_week: float | FloatArray,
    step_seconds: float = 60.0,
    taught: Taught = NOTHING,
) -> Followed:
    """Scores one step of samples and opens and closes incidents.

    `per_week`: false alarms per workload and week, one for all or (row,) that of each row's workload.
    `taught` is what people said of earlier incidents. After `per_week` has changed, `with_other_budget` makes it count
    at once.
    """
    if np.any(np.asarray(per_week) <= 0):
        raise ValueError("the alarm budget must be above 0")
    a, keys, now = state.rows.arrays, state.rows.keys, seen.now
    x = np.asarray(seen.observed, dtype=np.float64)
    made = residual.judged(
        x, seen.one_step, seen.one_hour, seen.levels, np.asarray(a["spread"], dtype=np.float64), np.asarray(a["past"])
    )
    s, against = made.surprise, made.score  # -log10 p against the forecast alone

    allowed = ~seen.masked & (seen.faults == 0)
    told, own = _measured(a, np.where(allowed, x, np.nan), seen, (np.sign(s) * against)[:, None])
    score = np.where(allowed, own.score[:, 0], against)
    news = np.where(allowed, own.news[:, 0], np.nan)
    low, median, high = (
        np.where(np.isnan(made.median), own.band[:, 0, i], q) for i, q in enumerate((made.low, made.median, made.high))
    )
    side = np.where(own.side[:, 0] < 0, -1, 1).astype(np.int64)
    names = [incidents.named(key) for key in keys] if taught is not NOTHING else []
    shares = budget.shares(keys, per_week)
    pacing = budget.rolled(a, news, allowed, now, step_seconds, shares)
    kinds = [statistics.KINDS[k] for k in own.loud[:, 0].tolist()] if names else []
    factor = taught.factors(names, kinds) if names else np.ones(len(keys))
    threshold = budget.moved(budget.in_force(pacing), factor)
    with np.errstate(invalid="ignore"):
        hot = allowed & (score > threshold)
    if names and hot.any():
        hot &= ~taught.suppressed(names, kinds, now, side > 0, x)
    look = incidents.Looked(
        now=now,
        step_seconds=step_seconds,
        score=score,
        unrest=_unrest(own.parts[:, 0], np.asarray(a["spoke"]), against),
        spoke=own.loud[:, 0],
        side=side,
        observed=x,
        median=median,
        hot=hot,
        fresh=news > threshold,
    )
    machine, opened, closed, accepted = incidents.moved(a, look)
    pacing["alarms"] = budget.with_alarms(np.asarray(pacing["alarms"]), opened, now)

    still, new, gone = _incidents(
        state.open, keys, machine, opened, closed, accepted, score, threshold, x, low, high, now
    )
    fault_state, faults, new_faults, gone_faults = datafault.follow_faults(
        a, state.faults, keys, seen.faults, seen.fault_words, (x, low, high), now
    )

    in_incident = np.asarray(machine["status"]) == incidents.Status.OPEN
    excluded = np.asarray(a["excluded"], dtype=np.float64)
    too_much = excluded > MOST_EXCLUDED  # a mask that feeds on itself must let go
    exclude = (in_incident & ~too_much) | ~allowed
    learned = residual.learned(a, s, np.abs(x - median), ~exclude)
    excluded = excluded + (in_incident - excluded) * min(1.0, step_seconds / _WEEK)
    arrays: Arrays = {**a, **learned, **told, **pacing, **machine, **fault_state, "excluded": excluded}
    return Followed(
        state=AnomalyState(Rows(keys, arrays), still, faults),
        score=score,
        low=low,
        high=high,
        threshold=threshold,
        opened=new + new_faults,
        closed=gone + gone_faults,
        open=(*still.values(), *faults.values()),
        exclude=exclude,
        budget_used=budget.used(np.asarray(pacing["alarms"]), shares),
        factor=factor,
    )


def begun_anew(found: Followed, rows: BoolArray, now: int) -> Followed:
    """The same, with `rows` (row,) knowing nothing: their unit has changed, and what was usual says nothing any more.

    Their open incidents close; else these would go on keeping the new unit's samples out of learning.
    """
    if not rows.any():
        return found
    state = found.state
    fresh = {state.rows.keys[row] for row in np.flatnonzero(rows).tolist()}
    gone = tuple(
        replace(one, closed_at=datetime.fromtimestamp(now, UTC), sentence=f"{one.sentence}; accepted as the new regime")
        for key, one in state.open.items()
        if key in fresh
    )
    still = {key: one for key, one in state.open.items() if key not in fresh}
    return replace(
        found,
        state=AnomalyState(state.rows.cleared(rows, blank()), still, state.faults),
        closed=(*found.closed, *gone),
        open=(*still.values(), *state.faults.values()),
        exclude=found.exclude & ~rows,
    )


def _measured(a: Arrays, x: FloatArray, seen: Seen, against: FloatArray) -> tuple[Arrays, Measured]:
    """What the statistics say of the samples, and of how far they are off the forecast of an hour before.

    A shift that is small beside the daily wave shows in the latter alone, for the hour until the forecast follows. Two
    looks are two chances of a false alarm: the second is believed where it is 0.3 beyond the first, a factor of 2 in p.
    """
    told, own = statistics.measured(a, x[:, None], against)
    off = x - np.asarray(seen.one_hour, dtype=np.float64)[:, seen.levels.index(0.5)]
    before = {name.removeprefix(_OFF): array for name, array in a.items() if name.startswith(_OFF)}
    after, other = statistics.measured(before, off[:, None])
    told = {**told, **{f"{_OFF}{name}": array for name, array in after.items()}}
    louder = other.score[:, 0] - _TWO_LOOKS > np.nan_to_num(own.score[:, 0], nan=np.inf)
    if not louder.any():
        return told, own
    return told, Measured(
        score=np.where(louder[:, None], other.score - _TWO_LOOKS, own.score),
        news=np.where(louder[:, None], np.fmax(other.news - _TWO_LOOKS, own.news), own.news),
        loud=np.where(louder[:, None], other.loud, own.loud),
        side=np.where(louder[:, None], other.side, own.side),
        parts=np.where(louder[:, None, None], other.parts, own.parts),
        band=own.band,
    )


def as_expected(state: AnomalyState, ids: Collection[str], now: int) -> tuple[AnomalyState, tuple[Incident, ...]]:
    """(state, closed): open incidents in `ids` are as people expect them.

    Their rows stand as after acceptance: no alarm as long as the level stays.
    """
    still, gone = incidents.expected(state.open, ids, now)
    if not gone:
        return state, ()
    rows = np.array([key in gone for key in state.rows.keys], dtype=np.bool_)
    arrays = dict(state.rows.arrays)
    arrays["status"] = np.where(rows, int(incidents.Status.ACCEPTED), arrays["status"])
    arrays["status_at"] = np.where(rows, float(now), np.asarray(arrays["status_at"], dtype=np.float64))
    return replace(state, rows=Rows(state.rows.keys, arrays), open=still), tuple(gone.values())


def _unrest(parts: FloatArray, spoke: IntArray, against: FloatArray) -> FloatArray:
    """(row,) the score that must calm before an incident is over: of the newest sample, and of the statistic that
    opened it, for a spike says nothing of a window that still holds it."""
    newest = np.where(np.isnan(against), np.abs(parts[:, kernel.RESIDUAL]), against)
    own = np.abs(parts[np.arange(len(parts)), spoke])
    of_window = np.where((spoke == kernel.RESIDUAL) | (spoke == kernel.FORECAST), newest, own)
    return np.asarray(np.nan_to_num(np.fmax(newest, of_window)))


def dump(state: AnomalyState) -> tuple[Rows, list[dict[str, Any]]]:
    """The arrays, and the open incidents as JSON: what a restart needs."""
    told = [{"key": key, "incident": to_json(incident)} for key, incident in state.open.items()]
    told += [{"key": key, "fault": to_json(incident)} for key, incident in state.faults.items()]
    return state.rows, told


def restore(rows: Rows, told: Sequence[Mapping[str, Any]]) -> AnomalyState:
    """The state of `dump`. A row that says open without an incident starts calm. Raises InputError for bad JSON."""
    known = {entry["key"]: from_json(Incident, entry["incident"]) for entry in told if "incident" in entry}
    faults = {entry["key"]: from_json(Incident, entry["fault"]) for entry in told if "fault" in entry}
    state = start(rows.keys, AnomalyState(rows, known, faults))
    status = np.array(state.rows.arrays["status"])
    orphan = (status == incidents.Status.OPEN) & np.array([key not in known for key in rows.keys], dtype=np.bool_)
    status[orphan] = incidents.Status.CALM
    arrays: Arrays = {**state.rows.arrays, "status": status}
    for name in ("marks", f"{_OFF}marks"):
        marks = np.array(arrays[name])
        marks[orphan, kernel.TOLD] = 0.0  # nobody was told
        arrays[name] = marks
    return replace(state, rows=Rows(rows.keys, arrays))


def _incidents(
    open_: Mapping[str, Incident],
    keys: Sequence[str],
    machine: Arrays,
    opened: BoolArray,
    closed: BoolArray,
    accepted: BoolArray,
    score: FloatArray,
    threshold: FloatArray,
    observed: FloatArray,
    low: FloatArray,
    high: FloatArray,
    now: int,
) -> tuple[dict[str, Incident], tuple[Incident, ...], tuple[Incident, ...]]:
    """(open ones by row key, opened, closed): only rows with an incident are looked at."""
    if not open_ and not opened.any():
        return {}, (), ()
    still: dict[str, Incident] = {}
    gone: list[Incident] = []
    at = datetime.fromtimestamp(now, UTC)
    row_of = {key: row for row, key in enumerate(keys)}
    status = np.asarray(machine["status"])
    for key, incident in open_.items():
        row = row_of.get(key)
        if row is None:
            gone.append(replace(incident, closed_at=at))
            continue
        # A forecast that follows the jump and overshoots is wrong on the other side: that is not this incident, worse.
        own_side = observed[row] >= low[row] if incident.direction == "up" else observed[row] <= high[row]
        if score[row] > incident.score and own_side:
            worse = replace(
                incident,
                score=float(score[row]),
                severity=incidents.severity(float(score[row]), float(threshold[row])),
                threshold=float(threshold[row]),
                observed=float(observed[row]),
                expected_low=float(low[row]),
                expected_high=float(high[row]),
            )
            incident = replace(worse, sentence=incidents.sentence(worse))
        if closed[row] or status[row] != incidents.Status.OPEN:  # the latter: its row began anew
            gone.append(replace(_accepted(incident) if accepted[row] else incident, closed_at=at))
        else:
            still[key] = incident
    new: list[Incident] = []
    elevated = np.asarray(machine["elevated_at"], dtype=np.float64)
    sides, spoke = np.asarray(machine["side"]), np.asarray(machine["spoke"])
    for new_row in np.flatnonzero(opened).tolist():
        onset = now if np.isnan(elevated[new_row]) else int(elevated[new_row])
        values = (float(observed[new_row]), float(low[new_row]), float(high[new_row]))
        incident = incidents.opened_incident(
            keys[new_row],
            statistics.KINDS[int(spoke[new_row])],
            now,
            onset,
            float(score[new_row]),
            float(threshold[new_row]),
            int(sides[new_row]),
            values,
        )
        still[keys[new_row]] = incident
        new.append(incident)
    return still, tuple(new), tuple(gone)


def _accepted(incident: Incident) -> Incident:
    """The incident as what it turned out to be: what began as a jump, and stayed, was a new level."""
    settled = replace(incident, kind="level_shift") if incident.kind == "residual" else incident
    return replace(settled, sentence=f"{incidents.sentence(settled)}; accepted as the new regime")
