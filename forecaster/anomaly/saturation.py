"""How long until a resource reaches its limit: trend of what a collection leaves behind, with interval and probability.

A usage that rises between collections or restarts is no leak; what it falls back to is. So the lowest and the highest
sample of each block are kept, a fall that has no like in the window begins a new segment, and the trend is that of the
floors. Windows of several lengths look: three, six and twelve hours of 20-minute blocks, to which yesterday's rise over
the same hours is no news; the last day less the day before it; and two days of which only floors a day apart are
compared. A trend is not believed for longer than it has been seen. Vectorised over rows; a usage that is missing is no
usage of 0.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from forecaster.anomaly import tails
from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.rows import Arrays

HOUR, DAY = 3_600, 86_400
HORIZON = DAY  # seconds; a limit further off is no alarm
SURE = 0.9  # probability of reaching the limit in time from which a score counts in full
LEVELS = (0.1, 0.5, 0.9)  # of the time to the limit
FURTHEST = 30 * DAY  # a limit further off is published as none
NEAR_BLOCK, NEAR = HOUR // 3, 36
WINDOWS = (9, 18, 36)  # near blocks that a trend is looked for in
FAR_BLOCK, FAR = 2 * HOUR, 24
PER_DAY = DAY // FAR_BLOCK
UNKNOWN_DAY = 3.0  # a trend is believed for a third of the time while yesterday is not known
LEAST_BLOCKS = 8  # of a segment, for a trend
MISFIT = 0.15  # of the rise that is extrapolated: one deviation, for no trend goes on exactly
RISING = 2.33  # deviations of the rank test from which the time to the limit is told: one in a hundred by chance
AGREED = 0.6  # rises less falls, as a share of the pairs a day apart: four of five rise
ALIKE = 3.0  # times the second largest fall: such a fall begins a new segment
MOST_LOOKS = 2_000  # rows looked at in one step, 0.2 s: blocks of all rows end at once, and the next ends in 20 minutes
CLOSE_BELOW = 0.5  # probability at which an incident ends
KIND = "saturation"
MOST_SCORE = 20.0
_LEAST_RISE = 1e-3  # of the limit: a deviation of the floors below it is the exporter's rounding


def blank() -> Arrays:
    """One row of state. Blocks are those of Unix time, so that all rows end theirs at once."""
    empty = {"low": math.nan, "high": math.nan}
    state: Arrays = {}
    for name, size in (("near", NEAR), ("far", FAR)):
        state[f"{name}_block"] = np.array([-1], dtype=np.int64)  # number of the block that the next two belong to
        for end, value in empty.items():
            state[f"{name}_{end}"] = np.full(1, value)
            state[f"{name}_{end}s"] = np.full((1, size), value, dtype=np.float32)  # of whole blocks, oldest first
    return {
        **state,
        "limit": np.full(1, math.nan),
        "told": np.full((1, len(LEVELS)), math.inf),  # seconds to the limit at the end of the last block
        "reach": np.full(1, math.nan),
        "score": np.full(1, math.nan),
        "told_at": np.zeros(1),
        "due": np.zeros(1, dtype=np.bool_),  # its block is over, and it was not looked at yet
        "slope": np.full(1, math.nan),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What is ahead, arrays over rows."""

    seconds: FloatArray  # (row, level) quantiles `LEVELS` of the time to the limit; +Inf: none in sight, NaN: unknown
    reach: FloatArray  # probability that the limit is reached within the time that the trend is believed, or a day
    score: FloatArray  # -log10 p of the trend, as far as the limit is in reach; NaN where there is too little
    slope: FloatArray  # of the floors, per second; NaN where unknown


def stepped(state: Arrays, usage: FloatArray, limit: FloatArray, now: int) -> tuple[Arrays, Outlook]:
    """Takes in one step of usage (row,) and its limit (row,), NaN where unknown; looks ahead when a block is over.

    `now` is the Unix time that the sample ends; samples of one block are those that end in (start, start + block].
    """
    used = np.asarray(usage, dtype=np.float64)
    a = dict(state)
    bound = np.asarray(limit, dtype=np.float64)
    a["limit"] = np.where(bound > 0, bound, np.asarray(a["limit"], dtype=np.float64))
    turned = np.zeros(len(used), dtype=np.bool_)
    for name, width in (("far", FAR_BLOCK), ("near", NEAR_BLOCK)):
        over = _turn(a, name, (now - 1) // width)
        if name == "near":
            turned = over
        for end, pick in (("low", np.fmin), ("high", np.fmax)):
            a[f"{name}_{end}"] = pick(np.asarray(a[f"{name}_{end}"], dtype=np.float64), used)
    due = np.asarray(a["due"], dtype=np.bool_) | turned
    rows = np.flatnonzero(due)[:MOST_LOOKS]
    if len(rows):
        _look(a, rows, now)
        due = due.copy()
        due[rows] = False
    a["due"] = due
    passed = now - np.asarray(a["told_at"], dtype=np.float64)
    seconds = np.maximum(np.asarray(a["told"], dtype=np.float64) - passed[:, None], 0.0)
    known = ~np.isnan(np.asarray(a["reach"], dtype=np.float64))
    full = used >= np.asarray(a["limit"], dtype=np.float64)
    seconds = np.where(full[:, None], 0.0, np.where(known[:, None], seconds, np.nan))
    score, reach = np.asarray(a["score"], dtype=np.float64), np.asarray(a["reach"], dtype=np.float64)
    return a, Outlook(seconds, reach, score, np.asarray(a["slope"], dtype=np.float64))


def sentence(
    workload: str, resource: str, used: float, limit: float, seconds: tuple[float, float, float], reach: float
) -> str:
    """What is ahead, for people. `seconds`: the 10, 50 and 90 % quantiles of the time to the limit."""
    low, middle, high = seconds
    if used >= limit:
        return f"{workload}: {resource} has reached its limit of {limit:.4g}"
    when = "soon" if not math.isfinite(middle) else f"in about {_span(middle)}"
    if math.isfinite(middle):
        late = f"{_span(high)}" if math.isfinite(high) else "later"
        when += f" (between {_span(low)} and {late})"
    return (
        f"{workload}: {resource} is at {used:.4g} of {limit:.4g} and rising: it reaches the limit {when}; "
        f"within a day with a probability of {reach:.0%}"
    )


def _span(seconds: float) -> str:
    if seconds < 2 * HOUR:
        return f"{max(round(seconds / 60), 0)} min"
    return f"{seconds / HOUR:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:.1f} days"


def _turn(a: Arrays, name: str, block: int) -> BoolArray:
    """Files the lowest and highest of blocks that are over; blocks without a sample are NaN. (row,) who turned."""
    before = np.asarray(a[f"{name}_block"], dtype=np.int64)
    over = block > before
    if not over.any():
        return np.asarray(over)
    for end in ("low", "high"):
        ring, last = np.array(a[f"{name}_{end}s"]), np.array(a[f"{name}_{end}"], dtype=np.float64)
        for passed in np.unique(block - before[over]).tolist():
            rows = over & (block - before == passed)
            shift = min(int(passed), ring.shape[1])
            kept = ring[rows]
            filed = np.full((int(rows.sum()), ring.shape[1] + shift), np.nan, dtype=np.float32)
            filed[:, : ring.shape[1]] = kept
            filed[:, ring.shape[1]] = last[rows]
            ring[rows] = filed[:, shift:] if passed <= ring.shape[1] else np.nan
        last[over] = np.nan
        a[f"{name}_{end}s"], a[f"{name}_{end}"] = ring, last
    a[f"{name}_block"] = np.where(over, block, before)
    return np.asarray(over & (before >= 0))


@dataclass(frozen=True, slots=True, eq=False)
class _Trend:
    """Of floors, arrays over rows; lengths in blocks."""

    level: FloatArray  # at the end of the window, of the top where the top rises along
    slope: FloatArray  # per block
    slope_error: FloatArray
    level_error: FloatArray
    wander: FloatArray  # deviation per square root of a block: of what a walk without aim would do
    z: FloatArray  # of the rank test
    span: FloatArray  # blocks seen


def _look(a: Arrays, rows: IntArray, now: int) -> None:
    """Renews what is told of `rows`, at the end of a block."""
    limit = np.asarray(a["limit"], dtype=np.float64)[rows]
    scale = np.where(limit > 0, limit, np.nan)[:, None]
    near, near_top = (np.asarray(a[f"near_{end}s"], dtype=np.float64)[rows] / scale for end in ("low", "high"))
    far, far_top = (np.asarray(a[f"far_{end}s"], dtype=np.float64)[rows] / scale for end in ("low", "high"))
    near = np.where(np.arange(NEAR)[None, :] >= _segment(near)[:, None], near, np.nan)  # since the last restart
    outlooks = []
    for size in WINDOWS:
        of_day = _yesterday(far, size * NEAR_BLOCK)
        outlooks.append(_ahead(_trend(near[:, -size:], near_top[:, -size:], None), NEAR_BLOCK, *of_day))
    outlooks.append(_ahead(_of_last_day(far, far_top), FAR_BLOCK))
    outlooks.append(_ahead(_trend(far, far_top, PER_DAY), FAR_BLOCK))
    # the window that alarms speaks; where none does, the longest one that is known
    scores = np.stack([np.nan_to_num(one[2], nan=-1.0) for one in outlooks])
    longest = len(outlooks) - 1 - np.argmax(scores[::-1] >= 0, axis=0)
    best = np.where(scores.max(axis=0) >= 1, np.argmax(scores, axis=0), longest)
    at = np.arange(len(rows))
    told, reach, score, slope = (np.stack(parts)[best, at] for parts in zip(*outlooks, strict=True))
    score = np.where(np.isnan(score), score, scores.max(axis=0))
    for name, value in (("told", told), ("reach", reach), ("score", score), ("slope", slope * scale[:, 0])):
        a[name] = np.array(a[name], dtype=np.float64)
        a[name][rows] = value
    a["told_at"] = np.array(a["told_at"], dtype=np.float64)
    a["told_at"][rows] = now


def _ahead(
    trend: _Trend, block: int, seen_slope: FloatArray | None = None, seen_rise: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(told, reach, score, slope) of one window, usage in limits: quantiles of the time, probability, -log10 p.

    `seen_slope` per second and `seen_rise`: how much yesterday rose by itself over the same hours, and after them.
    """
    seen = trend.span * block
    if seen_slope is not None:  # before a day is known, the rise of a morning looks like a leak
        seen = np.where(np.isnan(seen_slope), seen / UNKNOWN_DAY, seen)
    believed = np.minimum(seen, HORIZON) / block  # blocks
    slope, rise, z = trend.slope, np.zeros(len(trend.slope)), trend.z
    if seen_slope is not None and seen_rise is not None:
        usual = np.maximum(np.nan_to_num(seen_slope), 0.0) * block
        slope, rise = slope - usual, np.nan_to_num(seen_rise)
        # what the day does by itself is no leak: the test counts the share of the slope that is left
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(trend.slope > 0, np.clip(slope / trend.slope, 0.0, 1.0), 1.0)
        z = z * left
    centre = trend.span / 2

    def deviation(blocks: FloatArray) -> FloatArray:
        return np.sqrt(
            trend.level_error**2
            + (trend.slope_error * (blocks + centre)) ** 2
            + (MISFIT * slope * blocks) ** 2
            + trend.wander**2 * blocks
        )

    with np.errstate(divide="ignore", invalid="ignore"):
        expected = trend.level + rise + slope * believed
        margin = (expected - 1.0) / deviation(believed)
        reach = np.exp(-tails.upper(-margin))
        reach = np.where(slope > 0, reach, np.where(trend.level >= 1.0, 1.0, 0.0))
        score = np.clip(tails.upper(z) / math.log(10), 0.0, MOST_SCORE)
        score = np.where(reach >= SURE, score, np.minimum(score, reach))  # a rise that ends in time is no alarm
        middle = np.where(slope > 0, np.maximum(1.0 - trend.level - rise, 0.0) / slope, math.inf)
        bend = deviation(np.where(np.isfinite(middle), middle, 0.0)) / np.where(slope > 0, slope, np.nan)
        told = middle[:, None] + np.array([-1.2816, 0.0, 1.2816]) * np.nan_to_num(bend)[:, None]
    told = np.maximum(told, 0.0) * block
    hidden = ~(z >= RISING)[:, None] | ~(told <= FURTHEST)
    unknown = np.isnan(trend.slope)
    return (
        np.where(hidden, math.inf, told),
        np.where(unknown, np.nan, reach),
        np.where(unknown, np.nan, score),
        trend.slope / block,
    )


def _trend(floors: FloatArray, tops: FloatArray, apart: int | None) -> _Trend:
    """Median of the pairwise slopes (row, block), and what it rests on; of pairs a multiple of `apart` blocks apart.

    Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968; Hirsch, Slack and Smith,
    "Techniques of trend analysis for monthly water quality data", Water Resources Research 18(1), 1982, for pairs of
    one season. The variance of the rank statistic is widened for dependence as Hamed and Rao do.
    """
    n = floors.shape[1]
    early, late = _pairs(n, apart)
    rise = floors[:, late] - floors[:, early]
    slope = _median(rise / (late - early))
    known = ~np.isnan(floors)
    count = known.sum(axis=1)
    place = np.arange(n, dtype=np.float64)
    first = np.where(known.any(axis=1), known.argmax(axis=1), n - 1)
    span = (n - first).astype(np.float64)
    rest = floors - slope[:, None] * (place - (n - 1))  # the line is 0 at the end of the window
    end = _median(rest)
    if apart is not None:  # the day's own shape stays in: the highest of the last day is what comes again
        last = rest[:, -apart:]
        end = np.where(np.isnan(last).all(axis=1), np.nan, np.fmax.reduce(last, axis=1))
        rest = rest - _median_by_phase(rest, apart)
    off = rest - (_median(rest) if apart is not None else end)[:, None]
    halved = math.sqrt(2) if apart is not None else 1.0  # each time of day has taken a mean of two days with it
    noise = np.maximum(1.4826 * halved * _median(np.abs(off)), _LEAST_RISE)
    memory = _memory(off)
    independent = np.maximum(count * (1 - memory) / (1 + memory), 2.0)
    lag = max(n // 4, 1)
    with np.errstate(invalid="ignore"):
        wandered = 1.4826 * _median(np.abs(off[:, lag:] - off[:, :-lag]))
        wander = np.sqrt(np.maximum(wandered**2 - 2 * noise**2, 0.0) / lag)
    ranks = np.nansum(np.sign(rise), axis=1)
    error = noise * math.sqrt(12) / (np.maximum(span, 2.0) * np.sqrt(independent))
    z = slope / np.sqrt(error**2 + wander**2 / np.maximum(span, 2.0))
    if apart is None:
        n_known = count.astype(np.float64)
        variance = n_known * (n_known - 1) * (2 * n_known + 5) / 18 * (1 + memory) / (1 - memory)
        z = np.minimum(z, ranks / np.sqrt(np.maximum(variance, 1.0)))
    else:  # two days know no more than a dozen pairs: too few for ranks alone, but nearly all must agree
        z = np.where(ranks >= AGREED * (~np.isnan(rise)).sum(axis=1), z, np.minimum(z, 0.0))
    enough = count >= (LEAST_BLOCKS if apart is None else PER_DAY + LEAST_BLOCKS)
    slope = np.where(enough, slope, np.nan)
    return _Trend(
        level=end + _along(floors, tops, slope, apart),
        slope=slope,
        slope_error=error,
        level_error=noise / np.sqrt(independent),
        wander=wander,
        z=z,
        span=span if apart is None else np.full(len(span), float(PER_DAY)),
    )


def _along(floors: FloatArray, tops: FloatArray, slope: FloatArray, apart: int | None) -> FloatArray:
    """(row,) how far the tops stand above the floors, if they rise along with them; else 0.

    A heap that is collected when it is full always reaches the same top: there the floors must reach the limit.
    """
    early, late = _pairs(tops.shape[1], apart)
    with np.errstate(invalid="ignore"):
        top = _median((tops[:, late] - tops[:, early]) / (late - early))
        return np.where((top >= 0.5 * slope) & (slope > 0), np.nan_to_num(_median(tops - floors)), 0.0)


def _of_last_day(far: FloatArray, far_top: FloatArray) -> _Trend:
    """Trend of the last day less the day before it: a leak that is younger than a day stands out of the day's shape.

    The level is the highest that the day before yesterday's shape comes to with what has been gained since.
    """
    base, gained = far[:, :PER_DAY], far[:, PER_DAY:] - far[:, :PER_DAY]
    trend = _trend(gained, gained, None)
    most = np.where(np.isnan(base).all(axis=1), np.nan, _highest(base))
    above = _along(far[:, PER_DAY:], far_top[:, PER_DAY:], trend.slope, None)
    whole = (~np.isnan(gained)).sum(axis=1) >= LEAST_BLOCKS
    return replace(
        trend,
        level=np.where(whole, trend.level + most + above, np.nan),
        slope=np.where(whole, trend.slope, np.nan),
    )


def _yesterday(far: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """((row,), (row,)) slope per second over yesterday's like of the last `window` seconds, and its rise in as many
    after; NaN and 0 where yesterday is not known."""
    here = FAR - 1 - PER_DAY
    blocks = max(window // FAR_BLOCK, 1)
    # a morning comes an hour sooner or later: the steepest of three neighbouring windows counts
    rises = np.stack([far[:, here + by] - far[:, here + by - blocks] for by in (-1, 0, 1)], axis=1)
    slope = _highest(rises) / (blocks * FAR_BLOCK)
    later = _highest(far[:, here : here + blocks + 1])
    return slope, np.maximum(np.nan_to_num(later - far[:, here]), 0.0)


def _highest(values: FloatArray) -> FloatArray:
    return np.asarray(np.fmax.reduce(values, axis=1))


def _segment(floors: FloatArray) -> IntArray:
    """(row,) block that the newest segment begins at: after a fall that has no like in the window (a restart)."""
    fall = np.nan_to_num(floors[:, :-1] - floors[:, 1:], nan=0.0)
    ordered = np.sort(fall, axis=1)
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(floors).all(axis=1)
        span = np.where(known, np.fmax.reduce(floors, axis=1) - np.fmin.reduce(floors, axis=1), 0.0)
    alone = (ordered[:, -1] > ALIKE * np.maximum(ordered[:, -2], 0.0)) & (ordered[:, -1] > 0.25 * span)
    return np.where(alone & (span > 10 * _LEAST_RISE), np.argmax(fall, axis=1) + 1, 0).astype(np.int64)


def _memory(off: FloatArray) -> FloatArray:
    """(row,) correlation of neighbours, 0 to 0.9."""
    both = np.where(np.isnan(off[:, 1:]) | np.isnan(off[:, :-1]), 0.0, off[:, 1:] * off[:, :-1]).sum(axis=1)
    size = np.nansum(off * off, axis=1)
    return np.asarray(np.clip(both / np.maximum(size, 1e-30), 0.0, 0.9))


def _median(values: FloatArray) -> FloatArray:
    """(row,) median of what is known; NaN where nothing is."""
    ordered = np.sort(values, axis=1)  # NaN sorts last
    count = (~np.isnan(values)).sum(axis=1)
    rows, last = np.arange(len(values)), np.maximum(count - 1, 0)
    middle = (ordered[rows, last // 2] + ordered[rows, (last + 1) // 2]) / 2
    return np.asarray(np.where(count > 0, middle, np.nan))


def _median_by_phase(values: FloatArray, apart: int) -> FloatArray:
    """(row, block) mean of all blocks of the same time of day: of two days, the median is the mean."""
    rows, n = values.shape
    known = ~np.isnan(values)
    folded = np.where(known, values, 0.0).reshape(rows, n // apart, apart).sum(axis=1)
    count = known.reshape(rows, n // apart, apart).sum(axis=1)
    return np.tile(folded / np.maximum(count, 1), (1, n // apart))


@functools.cache
def _pairs(n: int, apart: int | None) -> tuple[IntArray, IntArray]:
    early, late = np.triu_indices(n, 1)
    if apart is not None:
        early, late = early[(late - early) % apart == 0], late[(late - early) % apart == 0]
    return early.astype(np.int64), late.astype(np.int64)
