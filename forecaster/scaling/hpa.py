"""The HPA v2 controller as pure functions: stabilization, policies, bounds, whole passes; bit for bit as in v1.36.

`reconcile` is one pass: (HPA, what it sees, state) -> (replicas, what it reports, state). The state is what the
controller keeps in memory, so a restart is an empty one. Metrics are calculated in `hpa_metrics.py`.
Source: kubernetes/kubernetes pkg/controller/podautoscaler/horizontal.go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from forecaster.scaling.hpa_metrics import Proposal

SYNC_SECONDS = 15.0
DOWNSCALE_STABILIZATION_SECONDS = 300.0  # the controller's flag
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `value` pods or per cent within `period_seconds`."""

    type: str  # Pods | Percent
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """`behavior.scaleUp` or `behavior.scaleDown`. None: not given."""

    policies: tuple[Policy, ...] = ()
    stabilization_window_seconds: float | None = None
    select_policy: str = "Max"  # Max | Min | Disabled
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Behavior:
    """`behavior` with its defaults filled in."""

    scale_up: Rules
    scale_down: Rules


DEFAULT_UP = (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0))
DEFAULT_DOWN = (Policy("Percent", 100, 15.0),)


def with_defaults(scale_up: Rules | None, scale_down: Rules | None) -> Behavior:
    """What the API server stores where a `behavior` is given, be it empty: filled field by field."""
    up, down = scale_up or Rules(), scale_down or Rules()
    window = 0.0 if up.stabilization_window_seconds is None else up.stabilization_window_seconds
    return Behavior(
        replace(up, policies=up.policies or DEFAULT_UP, stabilization_window_seconds=window),
        replace(down, policies=down.policies or DEFAULT_DOWN),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A change of replicas that the controller made. `is_outdated`: its place may be taken."""

    at: float
    change: int
    is_outdated: bool = False


@dataclass(frozen=True, slots=True)
class HpaState:
    """What the controller remembers of one HPA; times in seconds."""

    recommendations: tuple[tuple[float, int], ...] | None = None  # (time, replicas); None: it has not seen the HPA yet
    up_events: tuple[Event, ...] = ()
    down_events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Normalized:
    """What stabilization, policies and bounds made of a wish."""

    stabilized: int
    replicas: int
    able: str | None = None  # ScaleUpStabilized | ScaleDownStabilized, where the wish was changed
    limited: str | None = None  # why the stabilized wish was cut


# --- normalizing -----------------------------------------------------------------------------------------------------


def normalize(
    current: int,
    desired: int,
    low: int,
    high: int,
    behavior: Behavior | None,
    state: HpaState,
    now: float,
    downscale_stabilization: float = DOWNSCALE_STABILIZATION_SECONDS,
) -> tuple[Normalized, HpaState]:
    """Stabilization window, policies and bounds [low, high]; the state with the raw wish stored."""
    known = state.recommendations or ()
    if behavior is None:
        stabilized, place = _stabilized_plainly(known, desired, now, downscale_stabilization)
        able = "ScaleDownStabilized" if stabilized != desired else None
        replicas, limited = _limited_plainly(current, stabilized, low, high)
    else:
        down_window = behavior.scale_down.stabilization_window_seconds
        windows = (
            behavior.scale_up.stabilization_window_seconds or 0.0,
            downscale_stabilization if down_window is None else down_window,
        )
        stabilized, place = _stabilized(known, current, desired, now, windows)
        able = None
        if stabilized != desired:
            able = "ScaleUpStabilized" if desired >= current else "ScaleDownStabilized"
        replicas, limited = _limited(current, stabilized, (low, high), behavior, state, now)
    entry = (now, desired)
    stored = (*known, entry) if place is None else (*known[:place], entry, *known[place + 1 :])
    return Normalized(stabilized, replicas, able, limited), replace(state, recommendations=stored)


def _stabilized_plainly(
    known: Sequence[tuple[float, int]], desired: int, now: float, window: float
) -> tuple[int, int | None]:
    """(the highest wish of the window, the place of an old entry). An age equal to the window is in."""
    highest, place = desired, None
    for i, (at, replicas) in enumerate(known):
        if at < now - window:
            place = i
        else:
            highest = max(highest, replicas)
    return highest, place


def _stabilized(
    known: Sequence[tuple[float, int]], current: int, desired: int, now: float, windows: tuple[float, float]
) -> tuple[int, int | None]:
    """`current` held between the lowest wish of the one window and the highest of the other; equal ages are out."""
    up_since, down_since = now - windows[0], now - windows[1]
    lowest, highest, place = desired, desired, None
    for i, (at, replicas) in enumerate(known):
        if at > up_since:
            lowest = min(lowest, replicas)
        if at > down_since:
            highest = max(highest, replicas)
        if at < up_since and at < down_since:
            place = i
    return min(max(current, lowest), highest), place


def _limited_plainly(current: int, wanted: int, low: int, high: int) -> tuple[int, str | None]:
    doubled = max(2 * current, 4)
    most, reason = (doubled, "ScaleUpLimit") if high > doubled else (high, "TooManyReplicas")
    if wanted < low:
        return low, "TooFewReplicas"
    return (most, reason) if wanted > most else (wanted, None)


def _limited(
    current: int, wanted: int, bounds: tuple[int, int], behavior: Behavior, state: HpaState, now: float
) -> tuple[int, str | None]:
    low, high = bounds
    if wanted > current:
        limit = max(_up_limit(current, behavior.scale_up, state, now), current)
        most, reason = (limit, "ScaleUpLimit") if high > limit else (high, "TooManyReplicas")
        return (most, reason) if wanted > most else (wanted, None)
    if wanted < current:
        limit = min(_down_limit(current, behavior.scale_down, state, now), current)
        least, reason = (limit, "ScaleDownLimit") if low < limit else (low, "TooFewReplicas")
        return (least, reason) if wanted < least else (wanted, None)
    return wanted, None


def _up_limit(current: int, rules: Rules, state: HpaState, now: float) -> int:
    if rules.select_policy == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        start = _at_start(current, policy.period_seconds, state, now)
        # in doubles and in this order: rounding shows (50 pods + 10 % are 56)
        grown = start + policy.value if policy.type == "Pods" else math.ceil(start * (1 + policy.value / 100))
        limits.append(grown)
    if rules.select_policy == "Min":
        return min([_INT32_MAX, *limits])
    return max([_INT32_MIN, *limits])


def _down_limit(current: int, rules: Rules, state: HpaState, now: float) -> int:
    if rules.select_policy == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        start = _at_start(current, policy.period_seconds, state, now)
        shrunk = start - policy.value if policy.type == "Pods" else int(start * (1 - policy.value / 100))
        limits.append(shrunk)
    if rules.select_policy == "Min":
        return max([_INT32_MIN, *limits])
    return min([_INT32_MAX, *limits])


def _at_start(current: int, period: float, state: HpaState, now: float) -> int:
    """Replicas when the period began, by the events since; an event as old as the period is out."""
    added = sum(event.change for event in state.up_events if event.at > now - period)
    removed = sum(event.change for event in state.down_events if event.at > now - period)
    return current - added + removed


def with_scale_event(state: HpaState, behavior: Behavior | None, before: int, after: int, now: float) -> HpaState:
    """The state after a change of replicas was written. Without `behavior` nothing is stored."""
    if behavior is None or before == after:
        return state
    if after > before:
        return replace(state, up_events=_stored(state.up_events, behavior.scale_up, after - before, now))
    return replace(state, down_events=_stored(state.down_events, behavior.scale_down, before - after, now))


def _stored(events: tuple[Event, ...], rules: Rules, change: int, now: float) -> tuple[Event, ...]:
    since = now - max((policy.period_seconds for policy in rules.policies), default=0.0)
    marked = [replace(event, is_outdated=True) if event.at < since else event for event in events]
    places = [i for i, event in enumerate(marked) if event.is_outdated]
    if places:
        marked[places[-1]] = Event(now, change)
    else:
        marked.append(Event(now, change))
    return tuple(marked)


# --- a whole pass ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hpa:
    """What a pass reads of the HPA's spec and of the controller's flags."""

    max_replicas: int
    min_replicas: int = 1
    behavior: Behavior | None = None
    scales_to_zero: bool = False  # the HPAScaleToZero gate
    metric_types: tuple[str, ...] = ("Resource",)  # Resource | ContainerResource | Pods | Object | External
    downscale_stabilization: float = DOWNSCALE_STABILIZATION_SECONDS

    @property
    def has_object_or_external(self) -> bool:
        """Only such an HPA can come back from zero: other metrics are read from pods."""
        return "Object" in self.metric_types or "External" in self.metric_types


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did and reports."""

    replicas: int  # spec replicas afterwards
    raw: int | None = None  # the metrics' combined wish; None: none was read, or they failed
    error: bool = False
    able: str | None = None
    limited: str | None = None
    inactive: str | None = None  # why ScalingActive is False
    scaled_to_zero: bool = False


def combined(proposals: Sequence[Proposal], spec_replicas: int) -> tuple[int | None, bool]:
    """(the highest valid proposal, whether the pass reports an error). None: nothing may be done.

    With a metric that fails, replicas may rise but not fall.
    """
    valid = [max(one.replicas, 0) for one in proposals if one.error is None]
    failed = len(valid) < len(proposals)
    wanted = max(valid, default=-1)
    if not valid or (failed and wanted < spec_replicas):
        return None, True
    return wanted, failed


def reconcile(
    hpa: Hpa,
    spec_replicas: int,
    proposals: Sequence[Proposal],
    state: HpaState,
    now: float,
    scaled_to_zero: bool = False,
    write_succeeds: bool = True,
) -> tuple[Pass, HpaState]:
    """One pass. `proposals`: of each metric, in order; they are looked at only where the controller reads metrics.

    `scaled_to_zero`: the status condition of that name before the pass.
    """
    if state.recommendations is None:
        state = replace(state, recommendations=((now, spec_replicas),))
    zero_ok = scaled_to_zero and (hpa.min_replicas != 0 or hpa.has_object_or_external)
    if spec_replicas == 0 and not zero_ok:
        return Pass(0, inactive="ScalingDisabled", scaled_to_zero=scaled_to_zero), state
    raw: int | None = None
    error, able, limited = False, None, None
    if spec_replicas > hpa.max_replicas:
        wanted = hpa.max_replicas
    elif spec_replicas != 0 and spec_replicas < hpa.min_replicas:
        wanted = hpa.min_replicas
    else:
        raw, error = combined(proposals, spec_replicas)
        if raw is None:
            failed = next(kind for kind, one in zip(hpa.metric_types, proposals, strict=True) if one.error is not None)
            inactive = f"FailedGet{failed}Metric"
            return Pass(spec_replicas, None, True, inactive=inactive, scaled_to_zero=scaled_to_zero), state
        made, state = normalize(
            spec_replicas,
            raw,
            hpa.min_replicas,
            hpa.max_replicas,
            hpa.behavior,
            state,
            now,
            hpa.downscale_stabilization,
        )
        wanted, able, limited = made.replicas, made.able, made.limited
        if spec_replicas == 0 and hpa.min_replicas != 0:
            wanted = max(wanted, hpa.min_replicas)
    if wanted == spec_replicas:
        return Pass(spec_replicas, raw, error, able, limited, scaled_to_zero=scaled_to_zero), state
    if not write_succeeds:
        told = Pass(spec_replicas, raw, True, "FailedUpdateScale", limited, scaled_to_zero=scaled_to_zero)
        return told, state
    state = with_scale_event(state, hpa.behavior, spec_replicas, wanted, now)
    at_zero = wanted == 0 and hpa.scales_to_zero and hpa.min_replicas == 0 and hpa.has_object_or_external
    # a change that was written is what AbleToScale says then
    return Pass(wanted, raw, error, None, limited, scaled_to_zero=at_zero), state
