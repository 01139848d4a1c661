"""Online conformal calibration of quantiles, per row and horizon, and of the peak's quantiles, with delayed feedback.

Each quantile is moved by an offset in units of the forecast's own spread (its 80 % band). When a forecast comes due,
a level that was exceeded moves up and one that was not moves down, so that in the long run the share exceeded is what
the level says: quantile tracking with a saturating integrator (Angelopoulos, Candes and Tibshirani, "Conformal PID
control for time series prediction", 2023, arXiv 2307.16895). The forecaster is the scorecaster.

Rules: feedback only when a forecast came due, and only by real samples; a saturated sample never moves a level down
(served load is a lower bound of demand), a masked one moves none (an incident must teach neither calm nor storm), but
coverage counts both.
Forecasts waiting for their time are thinned to about PENDING a horizon, and steps are smaller where they overlap.
A row whose forecaster changes starts with its offsets at 0, that is with the new forecaster's own residuals; what
the old one had waiting still counts for coverage, never for the offsets.

The state is a Rows of arrays; all functions are pure and return a new one. Memory: about 5 kB a row for 12 horizons
and 7 levels.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster import accuracy
from forecaster.domain import BoolArray, FloatArray, Forecast, IntArray
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows

STATE_VERSION = "calibration/1"
PENDING = 12  # forecasts waiting for their time, per row and horizon
CALIBRATING_BELOW = 50  # thinned windows; at the five-minute horizon about four hours
LOST_FROM = 200  # thinned windows from which a coverage outside of chance is called lost
BANDS = (0.8, 0.98)
_RATES = (0.03, 0.06)  # of a step, in spreads: the least, in the long run, and the most, at first
_DECAY = 0.6  # over the root of the number of feedbacks, between the two
_COLD = 20.0  # feedbacks until half of an offset is believed
_SATURATION = 5.0  # of the integrator: how slowly its argument grows
_GAIN = 0.5  # of the integrator, in spreads
_REACH = 20.0  # an offset never exceeds so many spreads
_FORGET = 1 / 2000  # of the coverage counters, per thinned window
_SHOWN_SECONDS = 300  # coverage is published for the first horizon that is at least so long


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of the state mean. Another layout is another state: store it beside STATE_VERSION."""

    step: int  # seconds
    horizons: tuple[int, ...]  # steps
    levels: tuple[float, ...]

    @classmethod
    def of(cls, forecast: Forecast) -> Layout:
        horizons = tuple(int(horizon) for horizon in forecast.horizons)
        return cls(int(forecast.step.total_seconds()), horizons, tuple(forecast.levels))

    @property
    def version(self) -> str:
        """Identity of stored state."""
        marks = f"{self.step}/{','.join(map(str, self.horizons))}/{','.join(map(str, self.levels))}"
        return f"{STATE_VERSION}/{zlib.crc32(marks.encode()):08x}"

    @property
    def shown(self) -> int:
        """Index of the horizon whose coverage is published."""
        seconds = [horizon * self.step for horizon in self.horizons]
        return next((i for i, lead in enumerate(seconds) if lead >= _SHOWN_SECONDS), len(seconds) - 1)

    def band(self, nominal: float) -> tuple[int, int] | None:
        """Indices of the levels that bound the band `nominal`; None where the levels lack one."""
        low, high = (1 - nominal) / 2, (1 + nominal) / 2
        found = [next((i for i, level in enumerate(self.levels) if abs(level - x) < 1e-9), None) for x in (low, high)]
        return None if found[0] is None or found[1] is None else (found[0], found[1])


def blank(keys: Sequence[str], layout: Layout) -> Rows:
    """State that knows nothing; `blank(("",), layout).arrays` is what Rows.aligned wants for new rows."""
    n, h, q = len(keys), len(layout.horizons), len(layout.levels)

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros((n, *shape), dtype=np.float32)

    return Rows(
        tuple(keys),
        {
            "model": np.zeros(n, dtype=np.uint32),
            "offset": zeros(h, q),
            "sum": zeros(h, q),  # of exceeded minus expected
            "count": zeros(h),  # feedbacks
            "issued_at": np.zeros((n, h), dtype=np.uint32),
            "due": np.zeros((n, h, PENDING), dtype=np.uint32),  # 0: an empty place
            "by_model": np.zeros((n, h, PENDING), dtype=np.uint32),
            "waiting": zeros(h, PENDING, q),
            "hits": zeros(h, len(BANDS)),
            "windows": zeros(h),
            "counted_at": np.zeros((n, h), dtype=np.uint32),
            "peak_offset": zeros(q),
            "peak_sum": zeros(q),
            "peak_count": zeros(),
            "peak_issued_at": np.zeros(n, dtype=np.uint32),
            "peak_from": np.zeros((n, PENDING), dtype=np.uint32),
            "peak_due": np.zeros((n, PENDING), dtype=np.uint32),
            "peak_by_model": np.zeros((n, PENDING), dtype=np.uint32),
            "peak_waiting": zeros(PENDING, q),
            "peak_below": zeros(q),
            "peak_windows": zeros(),
            "peak_counted_at": np.zeros(n, dtype=np.uint32),
        },
    )


# --- applying -------------------------------------------------------------------------------------------------------


def apply(state: Rows, forecast: Forecast, layout: Layout | None = None) -> Forecast:
    """The forecast with its quantiles moved by what was learned; rows of `state` and `forecast` in the same order.

    `layout` is that of the state, where the forecast has other horizons: what was learned is interpolated in the
    logarithm of the horizon, for only a few horizons are followed. Quantiles that cross are put back in order
    (rearrangement: Chernozhukov, Fernandez-Val and Galichon, 2010). A row that was nowhere negative stays so.
    """
    a = state.arrays
    mine: BoolArray = np.equal(a["model"], codes_of(forecast.model)).reshape(-1, 1)
    move = _offsets(a["offset"], a["sum"], a["count"], forecast.levels) * mine[:, :, None]
    if layout is not None:
        move = np.asarray(between(layout.horizons, forecast.horizons) @ move)
    values = forecast.values + move * spread_of(forecast.values, forecast.levels)[..., None]
    peak_move = _offsets(a["peak_offset"], a["peak_sum"], a["peak_count"], forecast.levels) * mine
    peak = forecast.peak + peak_move * spread_of(forecast.peak, forecast.levels)[..., None]
    values, peak = np.sort(values, axis=-1), np.sort(peak, axis=-1)
    nonnegative = np.asarray((forecast.values >= 0).all(axis=(1, 2)))
    values = np.where(nonnegative[:, None, None], np.maximum(values, 0.0), values)
    peak = np.where(nonnegative[:, None], np.maximum(peak, 0.0), peak)
    return dataclasses.replace(forecast, values=values, peak=peak)


def between(known: Sequence[int], wanted: IntArray) -> FloatArray:
    """(wanted, known) weights that interpolate linearly in the logarithm of the horizon; the ends beyond it."""
    x, at = np.log(np.asarray(known, dtype=np.float64)), np.log(np.asarray(wanted, dtype=np.float64))
    return np.stack([np.interp(at, x, unit) for unit in np.eye(len(x))], axis=1)


def spread_of(quantiles: FloatArray, levels: Sequence[float]) -> FloatArray:
    """(...) width of the band between the levels nearest to 0.1 and 0.9, the unit of the offsets."""
    near = np.asarray(levels)
    low, high = int(np.abs(near - 0.1).argmin()), int(np.abs(near - 0.9).argmin())
    return np.asarray(quantiles[..., high] - quantiles[..., low])


def _offsets(
    offset: NDArray[np.generic], total: NDArray[np.generic], count: NDArray[np.generic], levels: Sequence[float]
) -> FloatArray:
    """Proportional and integral part together, in spreads; shrunk while there is little feedback."""
    n = np.asarray(count, dtype=np.float64)[..., None]
    x = np.asarray(total, dtype=np.float64) * np.log(n + 1) / (_SATURATION * (n + 1))
    # The integrator must not answer the first misses of a rare level as if they were a trend.
    integral = _GAIN * np.tan(np.clip(x, -1.5, 1.5))
    whole = (np.asarray(offset, dtype=np.float64) + integral) * n / (n + _COLD)
    return np.clip(whole, -_REACH, _REACH)


def _rate(count: NDArray[np.generic]) -> FloatArray:
    """Size of a step after so many feedbacks: fast at first, small in the long run, for its noise costs accuracy."""
    n = np.asarray(count, dtype=np.float64)
    return np.clip(_DECAY / np.sqrt(n + 1), *_RATES)


def _copied(state: Rows) -> dict[str, NDArray[Any]]:
    """Another dictionary of the same arrays: who changes one, copies it first."""
    return dict(state.arrays)


def code(model: str) -> int:
    """How the state names a forecaster."""
    return zlib.crc32(model.encode())


def codes_of(models: Sequence[str]) -> NDArray[np.uint32]:
    """(row,) `code` of each row's forecaster."""
    codes = {name: code(name) for name in set(models)}
    return np.array([codes[name] for name in models], dtype=np.uint32)


# --- issuing ----------------------------------------------------------------------------------------------------------


def issue(state: Rows, forecast: Forecast, now: int) -> Rows:
    """Remembers a forecast as it was issued at `now` (Unix seconds), after calibration and re-anchoring, thinned.

    Values are for origin + horizon, the peak for (now, now + window]. Rows of NaN are not remembered.
    """
    layout = Layout.of(forecast)
    a = _copied(state)
    codes = codes_of(forecast.model)
    given = ~np.isnan(forecast.values[:, 0, 0])
    changed = given & (np.asarray(a["model"]) != codes)
    a["model"] = np.where(given, codes, a["model"]).astype(np.uint32)
    if changed.any():
        for name in ("offset", "sum", "count", "peak_offset", "peak_sum", "peak_count"):
            a[name] = a[name].copy()
            a[name][changed] = 0
    origin = int(forecast.origin.timestamp())
    lead = np.array(layout.horizons, dtype=np.int64) * layout.step  # (horizon,)
    spacing = np.maximum(lead // PENDING, layout.step)
    since = now - np.asarray(a["issued_at"], dtype=np.int64)
    chosen = given[:, None] & (since >= spacing)
    if chosen.any():
        row, horizon = np.nonzero(chosen)
        due = np.asarray(a["due"])[row, horizon]
        place = due.argmin(axis=1)  # an empty one, else the one due first
        for name in ("due", "by_model", "waiting", "issued_at"):
            a[name] = a[name].copy()
        a["due"][row, horizon, place] = (origin + lead[horizon]).astype(np.uint32)
        a["by_model"][row, horizon, place] = codes[row]
        a["waiting"][row, horizon, place] = forecast.values[row, horizon].astype(np.float32)
        a["issued_at"][row, horizon] = now
    window = np.asarray(forecast.windows, dtype=np.int64) * layout.step
    since = now - np.asarray(a["peak_issued_at"], dtype=np.int64)
    rows = np.flatnonzero(given & (since >= np.maximum(window // PENDING, layout.step)))
    if len(rows):
        place = np.asarray(a["peak_due"])[rows].argmin(axis=1)
        for name in ("peak_from", "peak_due", "peak_by_model", "peak_waiting", "peak_issued_at"):
            a[name] = a[name].copy()
        a["peak_from"][rows, place] = now
        a["peak_due"][rows, place] = (now + window[rows]).astype(np.uint32)
        a["peak_by_model"][rows, place] = codes[rows]
        a["peak_waiting"][rows, place] = forecast.peak[rows].astype(np.float32)
        a["peak_issued_at"][rows] = now
    return Rows(state.keys, a)


# --- feedback ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Samples (row, time) that may not teach all that they say."""

    masked: BoolArray  # nothing at all
    saturated: BoolArray  # no calm


def observe(
    state: Rows,
    layout: Layout,
    times: IntArray,
    values: FloatArray,
    masked: BoolArray | None = None,
    saturated: BoolArray | None = None,
) -> Rows:
    """Learns from samples: times (time,) on the fine grid, values, masked and saturated (row, time).

    Pass the newest columns that can have changed and at least the longest window: forecasts due before times[0] are
    dropped unjudged, those whose sample is still missing wait. A peak is judged when its window has passed; with a
    sample of the window missing it can still be seen to have been exceeded, nothing else.
    """
    if not len(times):
        return state
    a = _copied(state)
    none = np.zeros(values.shape, dtype=np.bool_)
    held = Held(none if masked is None else masked, none if saturated is None else saturated)
    _observe_values(a, layout, times, values, held)
    _observe_peaks(a, layout, times, values, held)
    return Rows(state.keys, a)


def _observe_values(
    a: dict[str, NDArray[Any]], layout: Layout, times: IntArray, values: FloatArray, held: Held
) -> None:
    first, last = int(times[0]), int(times[-1])
    due = np.asarray(a["due"])
    passed = (due > 0) & (due <= last)
    if not passed.any():
        return
    row, horizon, place = np.nonzero(passed)
    at = due[row, horizon, place].astype(np.int64)
    column = -(-(at - first) // layout.step)
    seen = column >= 0
    y = np.where(seen, values[row, np.maximum(column, 0)], np.nan)
    judged = ~np.isnan(y)
    for name in ("due", "offset", "sum", "count", "hits", "windows", "counted_at"):
        a[name] = a[name].copy()
    finished = judged | ~seen
    a["due"][row[finished], horizon[finished], place[finished]] = 0
    # One feedback per row and horizon at a time: several that came due together count one after the other.
    row, horizon, place, column, y, at = (x[judged] for x in (row, horizon, place, column, y, at))
    order = np.lexsort((at, horizon, row))
    row, horizon, place, column, y, at = (x[order] for x in (row, horizon, place, column, y, at))
    levels = np.array(layout.levels)
    lead = np.array(layout.horizons, dtype=np.float64) * layout.step
    spacing = np.maximum(lead // PENDING, layout.step)
    overlap = np.sqrt(np.minimum(spacing / lead, 1.0))
    for turn in turns(row * len(lead) + horizon):
        r, h, q = row[turn], horizon[turn], np.asarray(a["waiting"])[row[turn], horizon[turn], place[turn]]
        own = np.asarray(a["by_model"])[r, h, place[turn]] == np.asarray(a["model"])[r]
        miss = (y[turn][:, None] > q) - (1 - levels)
        full = held.saturated[r, column[turn]]
        miss[full] = np.maximum(miss[full], 0)
        own &= ~held.masked[r, column[turn]]
        miss *= own[:, None]
        rate = overlap[h] * _rate(a["count"][r, h])
        a["offset"][r, h] = np.clip(a["offset"][r, h] + rate[:, None] * miss, -_REACH, _REACH)
        a["sum"][r, h] += miss
        a["count"][r, h] += own
        # Windows of length `lead` that do not overlap.
        apart = at[turn] - np.asarray(a["counted_at"])[r, h].astype(np.int64) >= lead[h]
        r, h, q, level = r[apart], h[apart], q[apart], y[turn][apart]
        a["counted_at"][r, h] = at[turn][apart]
        a["windows"][r, h] = a["windows"][r, h] * (1 - _FORGET) + 1
        for i, nominal in enumerate(BANDS):
            band = layout.band(nominal)
            if band is not None:
                hit = (level >= q[:, band[0]]) & (level <= q[:, band[1]])
                a["hits"][r, h, i] = a["hits"][r, h, i] * (1 - _FORGET) + hit


def _observe_peaks(a: dict[str, NDArray[Any]], layout: Layout, times: IntArray, values: FloatArray, held: Held) -> None:
    first, last = int(times[0]), int(times[-1])
    due = np.asarray(a["peak_due"]).astype(np.int64)
    passed = (due > 0) & (due <= last)
    if not passed.any():
        return
    row, place = np.nonzero(passed)
    start, end = np.asarray(a["peak_from"])[row, place].astype(np.int64), due[row, place]
    low, high = (start - first) // layout.step + 1, (end - first) // layout.step  # columns after start, up to end
    covered = low >= 0
    for name in ("peak_due", "peak_offset", "peak_sum", "peak_count", "peak_below", "peak_windows", "peak_counted_at"):
        a[name] = a[name].copy()
    a["peak_due"][row, place] = 0
    row, place, start, end, low, high = (x[covered] for x in (row, place, start, end, low, high))
    order = np.lexsort((end, row))
    row, place, start, end, low, high = (x[order] for x in (row, place, start, end, low, high))
    levels = np.array(layout.levels)
    for turn in turns(row):
        r, p = row[turn], place[turn]
        top, whole, full, masked = _tops(values, held, r, low[turn], high[turn])
        known = ~np.isnan(top)
        r, p, top, whole, full, masked = r[known], p[known], top[known], whole[known], full[known], masked[known]
        begin, finish = start[turn][known], end[turn][known]
        q = np.asarray(a["peak_waiting"])[r, p]
        own = np.asarray(a["peak_by_model"])[r, p] == np.asarray(a["model"])[r]
        miss = (top[:, None] > q) - (1 - levels)
        only_up = full | ~whole
        miss[only_up] = np.maximum(miss[only_up], 0)
        own &= ~masked
        miss *= own[:, None]
        window = np.maximum(finish - begin, 1)
        overlap = np.sqrt(np.minimum(np.maximum(window // PENDING, layout.step) / window, 1.0))
        rate = overlap * _rate(a["peak_count"][r])
        a["peak_offset"][r] = np.clip(a["peak_offset"][r] + rate[:, None] * miss, -_REACH, _REACH)
        a["peak_sum"][r] += miss
        a["peak_count"][r] += own & whole
        apart = whole & (begin >= np.asarray(a["peak_counted_at"])[r].astype(np.int64))
        r = r[apart]
        a["peak_counted_at"][r] = finish[apart]
        a["peak_windows"][r] = a["peak_windows"][r] * (1 - _FORGET) + 1
        a["peak_below"][r] = a["peak_below"][r] * (1 - _FORGET) + (top[apart][:, None] <= q[apart])


def _tops(
    values: FloatArray, held: Held, rows: IntArray, low: IntArray, high: IntArray
) -> tuple[FloatArray, BoolArray, BoolArray, BoolArray]:
    """(n,) maximum of what is known in columns low … high, whether all is, and whether a saturated and whether a masked
    sample is among them."""
    longest = int((high - low).max(initial=0)) + 1
    columns = low[:, None] + np.arange(longest)
    inside = columns <= high[:, None]
    columns = np.minimum(columns, values.shape[1] - 1)
    taken = np.where(inside, values[rows[:, None], columns], -np.inf)
    missing = np.isnan(taken)
    top = np.where(missing, -np.inf, taken).max(axis=1, initial=-np.inf)
    top = np.where(np.isfinite(top), top, np.nan)
    full, masked = ((flags[rows[:, None], columns] & inside).any(axis=1) for flags in (held.saturated, held.masked))
    return top, np.asarray(~missing.any(axis=1)), np.asarray(full), np.asarray(masked)


def turns(groups: IntArray) -> list[IntArray]:
    """Indices split so that no group occurs twice in a part, in order within each group (`groups` sorted)."""
    if not len(groups):
        return []
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return [np.flatnonzero(rank == turn) for turn in range(int(rank.max()) + 1)]


# --- what is published ------------------------------------------------------------------------------------------------


def coverage(state: Rows, layout: Layout) -> FloatArray:
    """(row, BANDS) measured share inside each band at the published horizon; NaN where nothing was counted."""
    windows = np.asarray(state.arrays["windows"], dtype=np.float64)[:, layout.shown, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.asarray(state.arrays["hits"])[:, layout.shown] / np.where(windows > 0, windows, np.nan))


def peak_below(state: Rows) -> FloatArray:
    """(row, level) measured share of windows whose peak stayed within each quantile; NaN where none was counted."""
    windows = np.asarray(state.arrays["peak_windows"], dtype=np.float64)[:, None]
    return np.asarray(np.asarray(state.arrays["peak_below"]) / np.where(windows > 0, windows, np.nan))


def reasons(state: Rows, layout: Layout) -> tuple[tuple[Reason, ...], ...]:
    """(row,) `calibrating` below CALIBRATING_BELOW thinned windows; `calibration_lost` where chance does not explain
    the coverage (binomial, 99.9 %) on at least LOST_FROM of them."""
    windows = np.asarray(state.arrays["windows"], dtype=np.float64)[:, layout.shown]
    measured = coverage(state, layout)
    out: list[tuple[Reason, ...]] = []
    for n, shares in zip(windows, measured, strict=True):
        if n < CALIBRATING_BELOW:
            out.append((Reason(ReasonCode.CALIBRATING, f"{int(n)} of {CALIBRATING_BELOW} windows"),))
            continue
        said: tuple[Reason, ...] = ()
        for i, nominal in enumerate(BANDS):
            low, high = accuracy.binomial_band(nominal, int(n))
            if n >= LOST_FROM and layout.band(nominal) is not None and not low <= shares[i] <= high:
                detail = f"{shares[i]:.1%} of the samples in the {nominal:.0%} band, over {int(n)} windows"
                said = (Reason(ReasonCode.CALIBRATION_LOST, detail),)
                break
        out.append(said)
    return tuple(out)
