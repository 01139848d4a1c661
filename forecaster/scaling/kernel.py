"""The inner loop of the simulator: HPA passes, pods, load and backlog of many services, tick by tick.

Plain functions over arrays that mean the same interpreted and compiled by numba; nothing here imports numba. The
decision is that of `hpa.py` and `hpa_metrics.py` for one Resource metric (CPU), written without objects; the tests hold
the two together. A tick is one HPA sync. Times are seconds from the first tick.

The numbers of a service are one record, not one array for each: compiled, an array that is handed to a function costs
more than what the function does with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUEST_MILLI = 1000  # what a replica requests, and uses when it is full
MAX, MIN, DISABLED = 0, 1, 2  # selectPolicy
PODS, PERCENT = 0, 1  # policy types
REVERSAL_SECONDS = 600.0
INT32_MAX, INT32_MIN = 2**31 - 1, -(2**31)

FLEET = np.dtype(
    (
        np.record,
        [
            ("capacity", "f8"),  # load at which one replica is full
            ("target", "i8"),  # per cent of the request
            ("tolerance_down", "f8"),
            ("tolerance_up", "f8"),
            ("min_replicas", "i8"),
            ("max_replicas", "i8"),
            ("delay_ticks", "i8"),  # age of the newest sample
            ("window_ticks", "i8"),  # that a sample is the mean of
            ("usage_limit", "f8"),  # share of the request that a replica can use
            ("backlog_limit", "f8"),  # load x seconds
            ("pending", "f8"),  # seconds from creation to Running
            ("cpu_initialization", "f8"),  # seconds
            ("has_behavior", "i8"),  # 0 | 1
            ("up_window", "f8"),
            ("down_window", "f8"),
            ("up_select", "i8"),
            ("down_select", "i8"),
        ],
    )
)
"""What does not change of a service."""

STATE = np.dtype(
    (
        np.record,
        [
            ("replicas", "i8"),
            ("settled", "i8"),  # the oldest pods, that have been ready for longer than any sample looks back
            ("pods_made", "i8"),
            ("backlog", "f8"),  # load x seconds
            ("is_known", "i8"),  # to the controller
            ("high_first", "i8"),  # place in the ring
            ("high_count", "i8"),
            ("low_first", "i8"),
            ("low_count", "i8"),
            ("up_count", "i8"),  # events
            ("down_count", "i8"),
            ("changed_at", "f8"),
            ("changed_by", "i8"),  # +1 | -1 | 0
            ("replica_seconds", "f8"),  # from here on sums
            ("seconds_above", "f8"),
            ("offered", "f8"),  # load x seconds, as the next three
            ("unmet", "f8"),
            ("served", "f8"),
            ("dropped", "f8"),
            ("events", "i8"),
            ("reversals", "i8"),
        ],
    )
)
"""What changes of a service."""


class Rows(NamedTuple):
    """What one service has more than one of; of the fleet with (service,) before each shape."""

    pods: Floats  # (pod, 2): Running since, Ready since (may be in the future); the oldest first
    usage: Ints  # (ring,): milli per ready pod, in each tick
    # Wishes inside the windows that can still decide: falling for the highest, rising for the lowest.
    highs: Floats  # (ring, 2): time, wish
    lows: Floats  # (ring, 2)
    ups: Floats  # (event, 3): time, change, 1 where its place may be taken
    downs: Floats  # (event, 3)
    up_policies: Floats  # (policy, 3): type, value, period in seconds; a period of 0 is no policy
    down_policies: Floats  # (policy, 3)
    startups: Floats  # (draw,): seconds from creation to Ready of the pods, in order, again from the first


class Trace(NamedTuple):
    """What was, tick by tick: (service, tick) each, or (service, 0) where nobody asked."""

    replicas: Ints
    ready: Ints
    utilization: Ints  # milli of the request per ready pod, in the tick
    served: Floats  # load x seconds
    backlog: Floats  # at the end of the tick
    dropped: Floats


def run(
    fleet: Any,
    states: Any,
    rows: Rows,
    trace: Trace,
    load: Floats,
    floors: Ints,
    first: int,
    ticks_per_step: int,
    sync: float,
) -> None:
    """Advances every service over `load` (service, step), each step for `ticks_per_step` ticks from tick `first` on.

    `fleet` and `states` (service,) of FLEET and STATE; what changes, changes in place.
    """
    traced = trace.replicas.shape[1] > 0
    for s in range(load.shape[0]):
        one, state = fleet[s], states[s]
        pods, usage, highs, lows = rows.pods[s], rows.usage[s], rows.highs[s], rows.lows[s]
        ups, downs = rows.ups[s], rows.downs[s]
        up_policies, down_policies, startups = rows.up_policies[s], rows.down_policies[s], rows.startups[s]
        tick = first
        for j in range(load.shape[1]):
            low = min(max(floors[s, j], one.min_replicas), one.max_replicas)
            for _ in range(ticks_per_step):
                now = tick * sync
                current = state.replicas
                wanted = decided(
                    one, state, low, tick, sync, pods, usage, highs, lows, ups, downs, up_policies, down_policies
                )
                if wanted != current:
                    resize(one, state, wanted, now, pods, startups)
                    if one.has_behavior and wanted > current:
                        state.up_count = store_event(ups, state.up_count, up_policies, now, wanted - current)
                    elif one.has_behavior:
                        state.down_count = store_event(downs, state.down_count, down_policies, now, current - wanted)
                ready = ready_pods(state, pods, now)
                served, dropped = carry(one, state, usage, load[s, j] * sync, ready, tick, sync)
                if traced:
                    column = tick - first
                    trace.replicas[s, column] = wanted
                    trace.ready[s, column] = ready
                    trace.utilization[s, column] = usage[tick % len(usage)]
                    trace.served[s, column] = served
                    trace.backlog[s, column] = state.backlog
                    trace.dropped[s, column] = dropped
                tick += 1


def carry(one: Any, state: Any, usage: Ints, offered: float, ready: int, tick: int, sync: float) -> tuple[float, float]:
    """(served, dropped) in one tick of `offered` load on the ready pods; the backlog comes first."""
    demand = offered + state.backlog
    capacity = ready * one.capacity * sync
    served = min(demand, capacity)
    backlog = min(demand - served, one.backlog_limit)
    dropped = (demand - served) - backlog
    share = min(demand / capacity, one.usage_limit) if capacity > 0.0 else 0.0
    usage[tick % len(usage)] = int(share * REQUEST_MILLI + 0.5)
    state.backlog = backlog
    state.replica_seconds += state.replicas * sync
    state.offered += offered
    state.served += served
    state.dropped += dropped
    if offered > capacity:
        state.seconds_above += sync
        state.unmet += offered - capacity
    return served, dropped


# --- pods ------------------------------------------------------------------------------------------------------------


def resize(one: Any, state: Any, wanted: int, now: float, pods: Floats, startups: Floats) -> None:
    """Creates pods, or removes the newest."""
    current = state.replicas
    for i in range(current, wanted):
        startup = startups[state.pods_made % len(startups)]
        state.pods_made += 1
        pods[i, 0] = now + min(one.pending, startup)
        pods[i, 1] = now + startup
    state.replicas = wanted
    state.settled = min(state.settled, wanted)
    direction = 1 if wanted > current else -1
    state.events += 1
    if state.changed_by == -direction and now - state.changed_at <= REVERSAL_SECONDS:
        state.reversals += 1
    state.changed_by = direction
    state.changed_at = now


def ready_pods(state: Any, pods: Floats, now: float) -> int:
    """How many are Ready."""
    ready = state.settled
    for i in range(state.settled, state.replicas):
        if pods[i, 1] <= now:
            ready += 1
    return ready  # type: ignore[no-any-return]


# --- one pass of the controller --------------------------------------------------------------------------------------


def decided(
    one: Any,
    state: Any,
    low: int,
    tick: int,
    sync: float,
    pods: Floats,
    usage: Ints,
    highs: Floats,
    lows: Floats,
    ups: Floats,
    downs: Floats,
    up_policies: Floats,
    down_policies: Floats,
) -> int:
    """Replicas after a pass at `tick`: `hpa.reconcile` for one Resource metric. `low`: minReplicas in force."""
    now = tick * sync
    current = state.replicas
    if not state.is_known:
        state.is_known = 1
        remember(one, state, highs, lows, current, now)
    if current == 0:  # disabled: a Resource metric has no pods to be read from
        return 0
    if current > one.max_replicas:
        return one.max_replicas  # type: ignore[no-any-return]
    if current < low:
        return low
    raw = measured(one, state, tick, sync, pods, usage)
    if raw < 0:
        return current  # type: ignore[no-any-return]
    lowest, highest = windowed(one, state, highs, lows, raw, now)
    remember(one, state, highs, lows, raw, now)
    if not one.has_behavior:
        most = min(one.max_replicas, max(2 * current, 4))
        return low if highest < low else min(highest, most)
    wanted = min(max(current, lowest), highest)
    if wanted > current:
        up = up_limit(one, current, ups[: state.up_count], downs[: state.down_count], up_policies, now)
        return min(wanted, one.max_replicas, max(up, current))  # type: ignore[no-any-return]
    if wanted < current:
        down = down_limit(one, current, ups[: state.up_count], downs[: state.down_count], down_policies, now)
        return max(wanted, low, min(down, current))  # type: ignore[no-any-return]
    return current  # type: ignore[no-any-return]


def measured(one: Any, state: Any, tick: int, sync: float, pods: Floats, usage: Ints) -> int:
    """What the samples of the pods ask for; -1 where there are none to go by."""
    now = tick * sync
    since_tick = tick - one.delay_ticks - one.window_ticks
    until_tick = tick - one.delay_ticks
    since = since_tick * sync  # begin of what the newest samples cover
    settled = state.settled
    while settled < state.replicas and pods[settled, 1] <= since:
        settled += 1
    state.settled = settled
    full = mean_usage(usage, since_tick, until_tick, since, sync)
    counted, used = settled, settled * full
    unready, missing = 0, 0
    for i in range(settled, state.replicas):
        running, ready = pods[i, 0], pods[i, 1]
        if now < running:  # Pending
            unready += 1
        elif since < running:  # no sample yet
            missing += 1
        elif ready <= since:
            counted += 1
            used += full
        elif ready > now or now < running + one.cpu_initialization:
            unready += 1
        else:  # Ready, and too old to be spared: its sample counts, though it covers its start
            counted += 1
            used += mean_usage(usage, since_tick, until_tick, ready, sync)
    return proposed(state.replicas, counted, used, unready, missing, one.target, one.tolerance_down, one.tolerance_up)


def mean_usage(usage: Ints, since_tick: int, until_tick: int, ready: float, sync: float) -> int:
    """Milli, over the ticks from `since_tick` to before `until_tick`, of a pod that is Ready from `ready` on."""
    total = 0
    place = since_tick % len(usage)
    for tick in range(since_tick, until_tick):
        if tick * sync >= ready:
            total += usage[place]
        place += 1
        if place == len(usage):
            place = 0
    return total // (until_tick - since_tick)


def proposed(
    current: int, counted: int, used: int, unready: int, missing: int, target: int, down: float, up: float
) -> int:
    """`hpa_metrics.pods_proposal` of a utilization target, for pods that all request REQUEST_MILLI.

    `used`: milli, of the `counted` pods together. -1: there is nothing to go by.
    """
    if counted == 0:
        return -1
    percent = used * 100 // (counted * REQUEST_MILLI)
    ratio = percent / target
    up_unready = unready > 0 and ratio > 1.0
    if not up_unready and missing == 0:
        if 1.0 - down <= ratio <= 1.0 + up:
            return current
        return math.ceil(ratio * counted)
    pods = counted
    if ratio < 1.0:
        used += missing * (REQUEST_MILLI * max(100, target) // 100)
        pods += missing
    elif ratio > 1.0:
        pods += missing
    if up_unready:
        pods += unready
    again = (used * 100 // (pods * REQUEST_MILLI)) / target
    if 1.0 - down <= again <= 1.0 + up or (ratio < 1.0 and again > 1.0) or (again < 1.0 and ratio > 1.0):
        return current
    replicas = math.ceil(again * pods)
    if (again < 1.0 and replicas > current) or (again > 1.0 and replicas < current):
        return current
    return replicas


def up_limit(one: Any, current: int, ups: Floats, downs: Floats, policies: Floats, now: float) -> int:
    """The most replicas that `behavior.scaleUp` allows; `ups` and `downs` are the events it remembers."""
    if one.up_select == DISABLED:
        return current
    limit = INT32_MAX if one.up_select == MIN else INT32_MIN
    for p in range(policies.shape[0]):
        value, period = policies[p, 1], policies[p, 2]
        if period > 0.0:
            start = at_start(current, ups, downs, period, now)
            # per cent in doubles and in this order: rounding shows
            grown = start + int(value) if policies[p, 0] == PODS else math.ceil(start * (1 + value / 100))
            limit = min(limit, grown) if one.up_select == MIN else max(limit, grown)
    return limit


def down_limit(one: Any, current: int, ups: Floats, downs: Floats, policies: Floats, now: float) -> int:
    """The fewest replicas that `behavior.scaleDown` allows."""
    if one.down_select == DISABLED:
        return current
    limit = INT32_MIN if one.down_select == MIN else INT32_MAX
    for p in range(policies.shape[0]):
        value, period = policies[p, 1], policies[p, 2]
        if period > 0.0:
            start = at_start(current, ups, downs, period, now)
            shrunk = start - int(value) if policies[p, 0] == PODS else int(start * (1 - value / 100))
            limit = max(limit, shrunk) if one.down_select == MIN else min(limit, shrunk)
    return limit


def at_start(current: int, ups: Floats, downs: Floats, period: float, now: float) -> int:
    """Replicas when the period began; an event as old as the period is out."""
    start = current
    for i in range(ups.shape[0]):
        if ups[i, 0] > now - period:
            start -= int(ups[i, 1])
    for i in range(downs.shape[0]):
        if downs[i, 0] > now - period:
            start += int(downs[i, 1])
    return start


# --- what the controller remembers -----------------------------------------------------------------------------------


def windowed(one: Any, state: Any, highs: Floats, lows: Floats, desired: int, now: float) -> tuple[int, int]:
    """(lowest, highest) wish inside the windows. An age equal to the window is out, without `behavior` it is in."""
    size = len(highs)
    edge = now - one.down_window
    while state.high_count > 0 and (
        highs[state.high_first, 0] < edge or (one.has_behavior and highs[state.high_first, 0] == edge)
    ):
        state.high_first = (state.high_first + 1) % size
        state.high_count -= 1
    highest = max(desired, int(highs[state.high_first, 1])) if state.high_count > 0 else desired
    lowest = desired
    if one.has_behavior and one.up_window > 0.0:
        size = len(lows)
        while state.low_count > 0 and lows[state.low_first, 0] <= now - one.up_window:
            state.low_first = (state.low_first + 1) % size
            state.low_count -= 1
        if state.low_count > 0:
            lowest = min(desired, int(lows[state.low_first, 1]))
    return lowest, highest


def remember(one: Any, state: Any, highs: Floats, lows: Floats, wish: int, now: float) -> None:
    """A wish that is outdone by a newer one can never decide: it is dropped, and the rings stay short."""
    size = len(highs)
    while state.high_count > 0 and highs[(state.high_first + state.high_count - 1) % size, 1] <= wish:
        state.high_count -= 1
    place = (state.high_first + state.high_count) % size
    highs[place, 0], highs[place, 1] = now, wish
    state.high_count += 1
    if one.has_behavior and one.up_window > 0.0:
        size = len(lows)
        while state.low_count > 0 and lows[(state.low_first + state.low_count - 1) % size, 1] >= wish:
            state.low_count -= 1
        place = (state.low_first + state.low_count) % size
        lows[place, 0], lows[place, 1] = now, wish
        state.low_count += 1


def store_event(events: Floats, count: int, policies: Floats, now: float, change: int) -> int:
    """The number of events after this one is stored: in the last outdated place, else at the end. See `hpa._stored`."""
    longest = 0.0
    for p in range(policies.shape[0]):
        longest = max(longest, policies[p, 2])
    place = -1
    for i in range(count):
        if events[i, 0] < now - longest:
            events[i, 2] = 1.0
        if events[i, 2] > 0.0:
            place = i
    if place < 0:
        place = count
        count += 1
    events[place, 0], events[place, 1], events[place, 2] = now, change, 0.0
    return count


HELPERS: tuple[Callable[..., Any], ...] = (
    carry,
    resize,
    ready_pods,
    decided,
    measured,
    mean_usage,
    proposed,
    up_limit,
    down_limit,
    at_start,
    windowed,
    remember,
    store_event,
)
"""What `run` calls: numba is told of each before it compiles."""
