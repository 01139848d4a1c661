"""Online weights over the forecasters of a chain: one mixture per row, by what each has missed at each horizon.

Whole quantile functions are averaged (Vincentization: weights are alike at all levels, so quantiles cannot cross).
Weights are those of exponentially weighted aggregation (Vovk; Cesa-Bianchi and Lugosi, "Prediction, Learning, and
Games", 2006): exp(-η · excess loss), with η growing with the root of the number of windows that were judged, losses in
units of the reference's on the same windows, fading over seven days, and a prior that stands for a few windows. Where
fewer windows of a forecaster than of the best one were judged, or the other way round, the fewer count for its η: a
newcomer neither takes a row over by its prior nor is shut out by it. The mixture gives the values at all horizons; for
the peak over the window of a decision it is one of those to choose from (forecaster.skill). Its own peak is the plain
mean of those in PEAKS: weights for values say little of maxima, and the two err on opposite sides.

The state is a Rows of arrays; functions are pure and return a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster import calibration
from forecaster.accuracy import mean_quantile_losses
from forecaster.domain import BoolArray, Context, FloatArray, Forecast, IntArray
from forecaster.reasons import Reason
from forecaster.rows import Rows

STATE_VERSION = "blend/1"
NAME = "blend"
PEAKS = ("network", "profile")  # whose peaks are averaged, where both answer
LEVELS = (0.1, 0.5, 0.9)  # at which a miss is measured
PENDING = 3  # forecasts waiting for their time, per row and horizon
MEMORY_SECONDS = 7 * 86_400
_COLD = 4.0  # windows that the prior stands for
_ONE_DAY = 0.5  # what a window of a back-test counts beside one of live: all are of one day, and may share its luck
_RATE = 4.0  # η with one window
_MOST_WINDOWS = 150.0  # beyond which η grows no more
_LEAST = 1e-12
_PRIOR: Mapping[str, float] = {"network": 0.85, "profile": 0.95, "persistence": 1.05}  # loss beside the reference's
_PRIOR_OTHER = 1.25


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of the state mean."""

    step: int  # seconds
    horizons: tuple[int, ...]  # steps; followed one by one, weights in between are interpolated
    names: tuple[str, ...]  # of the forecasters
    reference: int  # index of the one whose losses are the unit

    @property
    def version(self) -> str:
        """Identity of stored state."""
        return f"{STATE_VERSION}/{self.step}/{','.join(map(str, self.horizons))}/{'+'.join(self.names)}"


def label(version: str) -> str:
    """What the mixture is called as a model, where the chain begins with a forecaster of `version`."""
    return f"{NAME}/{version.replace('/', '-')}"


def blank(keys: Sequence[str], layout: Layout) -> Rows:
    """State that knows nothing; `blank(("",), layout).arrays` is what Rows.aligned wants for new rows."""
    n, h, f = len(keys), len(layout.horizons), len(layout.names)
    return Rows(
        tuple(keys),
        {
            "loss": np.zeros((n, h, f), dtype=np.float32),
            "beside": np.zeros((n, h, f), dtype=np.float32),  # the reference's loss on the same windows
            "windows": np.zeros((n, h, f), dtype=np.float32),  # effective number of them
            "updated_at": np.zeros((n, h), dtype=np.uint32),
            "issued_at": np.zeros((n, h), dtype=np.uint32),
            "due": np.zeros((n, h, PENDING), dtype=np.uint32),  # 0: an empty place
            "waiting": np.zeros((n, h, PENDING, f, len(LEVELS)), dtype=np.float32),
        },
    )


def relaid(state: Rows, before: Layout, after: Layout, anew: Collection[str] = ()) -> Rows:
    """State for other forecasters: what was measured stays with its name, but for those in `anew`."""
    fresh = blank(state.keys, after).arrays
    kept = [name for name in after.names if name in before.names and name not in anew]
    into, source = [after.names.index(name) for name in kept], [before.names.index(name) for name in kept]
    for name in ("loss", "beside", "windows"):
        fresh[name][:, :, into] = state.arrays[name][:, :, source]
    fresh["waiting"][...] = np.nan
    fresh["waiting"][:, :, :, into] = state.arrays["waiting"][:, :, :, source]
    for name in ("updated_at", "issued_at", "due"):
        fresh[name] = state.arrays[name]
    return Rows(state.keys, fresh)


# --- mixing ----------------------------------------------------------------------------------------------------------


def weights(state: Rows, layout: Layout, available: BoolArray) -> FloatArray:
    """(row, horizon, forecaster) summing to 1 over those `available` (row, forecaster); 0 where none is."""
    loss, beside, windows = (np.asarray(state.arrays[name], dtype=np.float64) for name in ("loss", "beside", "windows"))
    prior = np.array([_PRIOR.get(name, _PRIOR_OTHER) for name in layout.names])
    usual = np.where(windows > 0, beside / np.maximum(windows, 1e-9), 1.0)
    ratio = (loss + _COLD * usual * prior + _LEAST) / (beside + _COLD * usual + _LEAST)
    ratio = np.where(available[:, None, :], ratio, np.inf)
    best = ratio.argmin(axis=2)[..., None]
    least = np.take_along_axis(ratio, best, axis=2)
    known = np.minimum(windows, np.take_along_axis(windows, best, axis=2))  # of both
    rate = _RATE * np.sqrt(np.minimum(known + _COLD, _MOST_WINDOWS))
    with np.errstate(invalid="ignore"):  # inf / inf, where none answers
        raw = np.where(np.isfinite(ratio), np.exp(-rate * (ratio / np.maximum(least, _LEAST) - 1)), 0.0)
    total = raw.sum(axis=2, keepdims=True)
    return np.asarray(raw / np.where(total > 0, total, 1.0))


def mixed(state: Rows, layout: Layout, forecasts: Sequence[Forecast], version: str) -> Forecast:
    """The mixture of `forecasts`, in the order of the layout; rows that none answers carry the first one's reason.

    Remarks on a row are those of the first forecaster that answers it.
    """
    first = forecasts[0]
    available = answered(forecasts)
    followed = weights(state, layout, available)
    between = calibration.between(layout.horizons, first.horizons)  # (horizon, followed)
    values, peak = np.zeros_like(first.values), np.zeros_like(first.peak)
    for_peak = peak_weights(followed, layout, available, np.asarray(first.windows))
    rows = range(len(available))
    for k, forecast in enumerate(forecasts):
        given = available[:, k]
        if not given.any():
            continue
        said, top = forecast.values, forecast.peak
        if not given.all():  # NaN has no weight, but NaN * 0 is NaN
            said, top = np.where(given[:, None, None], said, 0.0), np.where(given[:, None], top, 0.0)
        weight = followed[:, :, k] @ between.T  # (row, horizon)
        values += weight[..., None] * said
        peak += for_peak[:, k][:, None] * top
    none: BoolArray = np.logical_not(available.any(axis=1))
    values[none], peak[none] = np.nan, np.nan
    return dataclasses.replace(
        first,
        values=values,
        peak=peak,
        model=(version,) * len(rows),
        missing=tuple(first.missing[row] if none[row] else None for row in rows),
        notes=_notes(forecasts, available),
    )


def peak_weights(followed: FloatArray, layout: Layout, available: BoolArray, windows: IntArray) -> FloatArray:
    """(row, forecaster) weights for the peak: half each of PEAKS where both answer, else those of values that far.

    `followed` (row, horizon, forecaster) as `weights` gives them.
    """
    out = np.asarray(followed[np.arange(len(windows)), _nearest(layout.horizons, windows)])
    pair = [layout.names.index(name) for name in PEAKS if name in layout.names]
    if len(pair) < len(PEAKS):
        return out
    both = np.asarray(available[:, pair].all(axis=1))
    half = np.isin(np.arange(out.shape[1]), pair) / len(pair)
    return np.asarray(np.where(both[:, None], half, out))


def answered(forecasts: Sequence[Forecast]) -> BoolArray:
    """(row, forecaster) whether it has an answer."""
    given = np.array([[one is None for one in forecast.missing] for forecast in forecasts], dtype=np.bool_)
    return np.asarray(given.reshape(len(forecasts), len(forecasts[0].missing)).T)


def _notes(forecasts: Sequence[Forecast], available: BoolArray) -> tuple[tuple[Reason, ...], ...]:
    """(row,) of the first forecaster that answers; () where no forecaster remarks anything."""
    if not any(forecast.notes for forecast in forecasts):
        return ()
    speaker = available.argmax(axis=1).tolist()
    return tuple(forecasts[i].notes[row] if forecasts[i].notes else () for row, i in enumerate(speaker))


def _nearest(horizons: Sequence[int], windows: IntArray) -> IntArray:
    """(row,) index of the followed horizon that is nearest to each window, in the logarithm."""
    away = np.abs(np.log(np.asarray(horizons, dtype=np.float64))[None, :] - np.log(np.maximum(windows, 1))[:, None])
    return np.asarray(away.argmin(axis=1))


def with_prior(state: Rows, layout: Layout, context: Context, told: Sequence[tuple[int, Sequence[Forecast]]]) -> Rows:
    """State whose rows without a single judged forecast start from those of a back-test.

    `told`: by column of the context's fine grid, what the forecasters said there of the followed horizons, from what
    was known there. What came is in the context; a sample that is masked or not there judges nothing. Origins that lie
    closer together than a horizon count for less.
    """
    new = np.asarray(state.arrays["windows"]).sum(axis=(1, 2)) == 0
    if not new.any() or not told:
        return state
    values = np.asarray(context.fine.values, dtype=np.float64)
    if context.masked is not None:
        values = np.where(context.masked, np.nan, values)
    a: dict[str, NDArray[Any]] = dict(state.arrays)
    for name in ("loss", "beside", "windows", "updated_at"):
        a[name] = a[name].copy()
    columns = [column for column, _ in told]
    apart = (max(columns) - min(columns)) / max(len(columns) - 1, 1)
    for column, forecasts in told:
        levels = [forecasts[0].levels.index(level) for level in LEVELS]
        for h, steps in enumerate(layout.horizons):
            if column + steps >= values.shape[1]:
                break
            said = np.stack([forecast.values[:, h][:, levels] for forecast in forecasts], axis=1)
            loss = mean_quantile_losses(values[:, column + steps], said, LEVELS)
            beside = loss[:, [layout.reference]]
            both = ~np.isnan(loss) & ~np.isnan(beside) & new[:, None]
            worth = _ONE_DAY * (min(1.0, apart / steps) if apart else 1.0)
            a["loss"][:, h] += worth * np.where(both, loss, 0)
            a["beside"][:, h] += worth * np.where(both, beside, 0)
            a["windows"][:, h] += worth * both
            at = int(context.fine.times[column + steps])
            a["updated_at"][:, h] = np.where(
                both.any(axis=1), np.maximum(a["updated_at"][:, h], at), a["updated_at"][:, h]
            )
    return Rows(state.keys, a)


# --- learning --------------------------------------------------------------------------------------------------------


def issue(state: Rows, layout: Layout, forecasts: Sequence[Forecast], now: int) -> Rows:
    """Remembers what each forecaster says at the followed horizons, thinned to PENDING a horizon."""
    a: dict[str, NDArray[Any]] = dict(state.arrays)
    lead = np.array(layout.horizons, dtype=np.int64) * layout.step
    spacing = np.maximum(lead // PENDING, layout.step)
    given = np.array([reason is None for reason in forecasts[layout.reference].missing], dtype=np.bool_)
    row, horizon = np.nonzero(given[:, None] & (now - a["issued_at"].astype(np.int64) >= spacing))
    if not len(row):
        return state
    for name in ("due", "waiting", "issued_at"):
        a[name] = a[name].copy()
    place = a["due"][row, horizon].argmin(axis=1)
    columns = np.searchsorted(forecasts[0].horizons, layout.horizons)
    levels = [forecasts[0].levels.index(level) for level in LEVELS]
    said = np.stack([forecast.values[row, columns[horizon]][:, levels] for forecast in forecasts], axis=1)
    a["waiting"][row, horizon, place] = said.astype(np.float32)
    a["due"][row, horizon, place] = (now + lead[horizon]).astype(np.uint32)
    a["issued_at"][row, horizon] = now
    return Rows(state.keys, a)


def observe(state: Rows, layout: Layout, times: IntArray, values: FloatArray) -> Rows:
    """Judges the forecasts that came due: times (time,) on the fine grid, values (row, time), NaN where not to be
    learned from.

    Forecasts due before times[0] are dropped unjudged; those whose sample is still missing wait for it.
    """
    if not len(times):
        return state
    first, last = int(times[0]), int(times[-1])
    due = np.asarray(state.arrays["due"], dtype=np.int64)
    passed = (due > 0) & (due <= last)
    if not passed.any():
        return state
    a: dict[str, NDArray[Any]] = dict(state.arrays)
    for name in ("due", "loss", "beside", "windows", "updated_at"):
        a[name] = a[name].copy()
    row, horizon, place = np.nonzero(passed)
    at = due[row, horizon, place]
    column = -(-(at - first) // layout.step)
    came = np.where(column >= 0, values[row, np.maximum(column, 0)], np.nan)
    judged = ~np.isnan(came)
    done = judged | (column < 0)
    a["due"][row[done], horizon[done], place[done]] = 0
    row, horizon, place, at, came = row[judged], horizon[judged], place[judged], at[judged], came[judged]
    order = np.lexsort((at, horizon, row))
    row, horizon, place, at, came = row[order], horizon[order], place[order], at[order], came[order]
    loss = mean_quantile_losses(came, a["waiting"][row, horizon, place], LEVELS)  # (n, forecaster)
    beside = loss[:, [layout.reference]]
    both = ~np.isnan(loss) & ~np.isnan(beside)
    loss, beside = np.where(both, loss, 0.0), np.where(both, beside, 0.0)
    for turn in calibration.turns(row * len(layout.horizons) + horizon):
        r, h = row[turn], horizon[turn]
        before = a["updated_at"][r, h].astype(np.int64)
        fade = np.exp(-np.maximum(at[turn] - before, 0) / MEMORY_SECONDS)[:, None]
        for name, amount in (("loss", loss), ("beside", beside), ("windows", both)):
            a[name][r, h] = a[name][r, h] * fade + amount[turn] / PENDING
        a["updated_at"][r, h] = np.maximum(before, at[turn])
    return Rows(state.keys, a)
