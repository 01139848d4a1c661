"""Measured skill of the forecasters of a chain, per row, and the choice among them.

Skill is the pinball loss of the window's upper quantiles (LEVELS), raw, as each forecaster gave them, discounted over
seven days. A loss counts only beside the reference's loss on the same windows, so that forecasters with different
pasts can be compared. Calibration is not part of it. What it learned of a peak was learned of the forecaster before,
which is why a change needs a margin.
The state is a Rows of arrays; functions are pure and return a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster import calibration
from forecaster.accuracy import mean_quantile_losses
from forecaster.domain import BoolArray, Context, FloatArray, Forecast, IntArray, SeriesBatch
from forecaster.quantiles import at_level
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows

STATE_VERSION = "skill/2"
LEVELS = (0.9, 0.99)  # of the peak
MEMORY_SECONDS = 7 * 86_400
PENDING = 4
_MARGIN = 0.95  # another forecaster is taken when its loss is at most so much of the present one's
_LEAST_WINDOWS = 8.0  # effective windows before a measured ratio is believed at all
_EARNED_WINDOWS = 100.0  # … of those that stand before the proven one: a back-test alone is not enough
_COLD = 10.0  # windows' worth of "as good as the reference" in each ratio
_PRIOR_SECONDS = 86_400  # of the newest past on which a prior is measured
_PRIOR_MOST = 30.0  # windows that a prior may count for
_SAME = 1e-12
_GROSS = 5.0  # times the reference's loss, lately and usually: no forecast of ours any more, whatever it was last week
_LATELY = 2.0  # windows that "lately" remembers
_GROSS_LEAST = 0.75  # of them that must have been judged


@dataclass(frozen=True, slots=True)
class Chain:
    """Names of the forecasters, baselines last; what the others are measured beside, and what rows begin with."""

    names: tuple[str, ...]
    reference: int  # index of the one that nearly always has an answer (persistence)
    first: int = 0  # index of the one that others must beat
    proven: int = 0  # those before it, but for the first, take over only after a working day of measured windows

    @property
    def version(self) -> str:
        """Identity of stored state."""
        return f"{STATE_VERSION}/{'+'.join(self.names)}"


def blank(keys: Sequence[str], chain: Chain) -> Rows:
    """State that knows nothing; `blank(("",), chain).arrays` is what Rows.aligned wants for new rows."""
    n, f = len(keys), len(chain.names)
    return Rows(
        tuple(keys),
        {
            "loss": np.zeros((n, f)),
            "beside": np.zeros((n, f)),  # the reference's loss on the same windows
            "windows": np.zeros((n, f)),  # effective number of them
            "lately": np.zeros((n, f)),  # loss over the last windows
            "lately_beside": np.zeros((n, f)),
            "lately_windows": np.zeros((n, f)),
            "chosen": np.full(n, -1, dtype=np.int64),
            "updated_at": np.zeros(n, dtype=np.int64),
            "issued_at": np.zeros(n, dtype=np.int64),
            "start": np.zeros((n, PENDING), dtype=np.int64),
            "due": np.zeros((n, PENDING), dtype=np.int64),  # 0: an empty place
            "waiting": np.zeros((n, PENDING, f, len(LEVELS))),
        },
    )


def relaid(state: Rows, before: Chain, after: Chain, anew: Collection[str] = ()) -> Rows:
    """State for another chain: forecasters keep what was measured of them by name, but those in `anew`.

    A row whose forecaster is not in the new chain has none chosen.
    """
    fresh = blank(state.keys, after).arrays
    places = [(after.names.index(name), before.names.index(name)) for name in after.names if name in before.names]
    kept = [(new, old) for new, old in places if after.names[new] not in anew]
    into, source = [new for new, _ in kept], [old for _, old in kept]
    for name in ("loss", "beside", "windows", "lately", "lately_beside", "lately_windows"):
        fresh[name][:, into] = state.arrays[name][:, source]
    fresh["waiting"][...] = np.nan
    fresh["waiting"][:, :, into] = state.arrays["waiting"][:, :, source]
    moved = np.full(len(before.names) + 1, -1, dtype=np.int64)  # the last: none
    for new, old in places:
        moved[old] = new
    fresh["chosen"] = moved[np.asarray(state.arrays["chosen"], dtype=np.int64)]
    for name in ("updated_at", "issued_at", "start", "due"):
        fresh[name] = state.arrays[name]
    return Rows(state.keys, fresh)


def issue(state: Rows, forecasts: Sequence[Forecast], now: int) -> Rows:
    """Remembers the peaks of all forecasters of the chain, thinned to PENDING a window; NaN where one has no answer."""
    a: dict[str, NDArray[Any]] = dict(state.arrays)
    window = np.asarray(forecasts[0].windows, dtype=np.int64) * int(forecasts[0].step.total_seconds())
    since = now - np.asarray(a["issued_at"])
    step = int(forecasts[0].step.total_seconds())
    rows = np.flatnonzero(since >= np.maximum(window // PENDING, step))
    if not len(rows):
        return state
    for name in ("start", "due", "waiting", "issued_at"):
        a[name] = a[name].copy()
    place = np.asarray(a["due"])[rows].argmin(axis=1)
    a["start"][rows, place] = now
    a["due"][rows, place] = now + window[rows]
    a["waiting"][rows, place] = np.stack([_peaks(forecast)[rows] for forecast in forecasts], axis=1)
    a["issued_at"][rows] = now
    return Rows(state.keys, a)


def _peaks(forecast: Forecast) -> FloatArray:
    """(row, LEVELS)."""
    return np.stack([at_level(forecast.peak, forecast.levels, level) for level in LEVELS], axis=1)


def observe(state: Rows, chain: Chain, step: int, times: IntArray, values: FloatArray) -> Rows:
    """Scores the windows that have passed. Samples as calibration.observe; one with a missing sample is dropped."""
    if not len(times):
        return state
    first, last = int(times[0]), int(times[-1])
    due = np.asarray(state.arrays["due"], dtype=np.int64)
    passed = (due > 0) & (due <= last)
    if not passed.any():
        return state
    a: dict[str, NDArray[Any]] = {name: array.copy() for name, array in state.arrays.items()}
    row, place = np.nonzero(passed)
    start, end = np.asarray(a["start"])[row, place], due[row, place]
    a["due"][row, place] = 0
    order = np.lexsort((end, row))
    row, place, start, end = row[order], place[order], start[order], end[order]
    low, high = (start - first) // step + 1, (end - first) // step
    for turn in calibration.turns(row):
        some = turn[low[turn] >= 0]
        if len(some):
            top = _tops(values, row[some], low[some], high[some])
            loss = mean_quantile_losses(top, a["waiting"][row[some], place[some]], LEVELS)
            _score(a, chain, row[some], end[some], loss)
    return Rows(state.keys, a)


def _tops(values: FloatArray, rows: IntArray, low: IntArray, high: IntArray) -> FloatArray:
    """(n,) maximum over columns low … high; NaN where one of them is missing."""
    columns = low[:, None] + np.arange(int((high - low).max()) + 1)
    inside = columns <= high[:, None]
    taken = np.where(inside, values[rows[:, None], np.minimum(columns, values.shape[1] - 1)], -np.inf)
    return np.asarray(taken.max(axis=1))


def _score(a: dict[str, NDArray[Any]], chain: Chain, row: IntArray, end: IntArray, loss: FloatArray) -> None:
    """Adds loss (n, forecaster) of windows that ended at `end`; each row at most once."""
    both = ~np.isnan(loss) & ~np.isnan(loss[:, [chain.reference]])
    some = both.any(axis=1)
    row, end, loss, both = row[some], end[some], loss[some], both[some]
    fade = np.exp(-np.maximum(end - a["updated_at"][row], 0) / MEMORY_SECONDS)[:, None]
    weight = 1 / PENDING  # the windows overlap so many times
    a["loss"][row] = a["loss"][row] * fade + weight * np.where(both, loss, 0)
    a["beside"][row] = a["beside"][row] * fade + weight * np.where(both, loss[:, [chain.reference]], 0)
    a["windows"][row] = a["windows"][row] * fade + weight * both
    a["updated_at"][row] = np.maximum(a["updated_at"][row], end)
    fade = np.exp(-weight * both / _LATELY)
    a["lately"][row] = a["lately"][row] * fade + weight * np.where(both, loss, 0)
    a["lately_beside"][row] = a["lately_beside"][row] * fade + weight * np.where(both, loss[:, [chain.reference]], 0)
    a["lately_windows"][row] = a["lately_windows"][row] * fade + weight * both


def ratios(state: Rows) -> FloatArray:
    """(row, forecaster) loss beside the reference's on the same windows; 1 while little is known."""
    loss, beside = np.asarray(state.arrays["loss"]), np.asarray(state.arrays["beside"])
    windows = np.asarray(state.arrays["windows"])
    usual = beside / np.maximum(windows, 1e-9)  # the reference's loss per window
    return np.asarray((loss + _COLD * usual + _SAME) / (beside + _COLD * usual + _SAME))


def failing(state: Rows) -> BoolArray:
    """(row, forecaster) whether what it said lately was grossly wrong: beside the reference, then and usually.

    A model that breaks is seen in the time of a window or two; the weekly ratio would need an hour.
    """
    names = ("lately", "lately_beside", "lately_windows", "beside", "windows")
    loss, beside, windows, all_beside, all_windows = (np.asarray(state.arrays[n], dtype=np.float64) for n in names)
    usual = all_beside / np.maximum(all_windows, 1e-9) * windows
    return np.asarray((windows >= _GROSS_LEAST) & (loss > _GROSS * np.maximum(beside, usual) + _SAME))


def choose(state: Rows, available: BoolArray, first: int = 0, proven: int = 0) -> tuple[IntArray, Rows]:
    """(row,) index of the forecaster to use among those `available` (row, forecaster); -1 where none is.

    A row stays with its forecaster until another one's loss is clearly lower; a new row starts with `first`, else
    with the first of the chain that answers, unless the prior speaks against it. One that is failing now is not used
    while another one is not.
    """
    sound = available & ~failing(state)
    available = np.where(sound.any(axis=1, keepdims=True), sound, available)
    order = np.arange(available.shape[1])
    least = np.where((order < proven) & (order != first), _EARNED_WINDOWS, _LEAST_WINDOWS)
    ratio = np.where(np.asarray(state.arrays["windows"], dtype=np.float64) >= least, ratios(state), 1.0)
    ratio = np.where(available, ratio, np.inf)
    rows = np.arange(len(ratio))
    present = np.asarray(state.arrays["chosen"], dtype=np.int64)
    lost = (present < 0) | ~available[rows, np.maximum(present, 0)]
    preferred = np.where(available[:, first], first, available.argmax(axis=1))
    present = np.where(lost, preferred, present)
    best = ratio.argmin(axis=1)
    with np.errstate(invalid="ignore"):
        better = ratio[rows, best] <= _MARGIN * ratio[rows, present]
    chosen = np.where(better, best, present)
    chosen = np.where(available.any(axis=1), chosen, -1)
    arrays = {**state.arrays, "chosen": np.where(chosen >= 0, chosen, np.asarray(state.arrays["chosen"]))}
    return chosen, Rows(state.keys, arrays)


def reasons(state: Rows, chain: Chain, chosen: IntArray, available: BoolArray) -> tuple[tuple[Reason, ...], ...]:
    """(row,) `skill_below_baseline` where a forecaster is used that stands behind the one that rows begin with."""
    ratio = ratios(state)
    out: list[tuple[Reason, ...]] = []
    for row, index in enumerate(chosen):
        if index > chain.first and index >= chain.proven and available[row, chain.first]:
            worse = ratio[row, chain.first] / ratio[row, index]
            text = f"{chain.names[index]} is used: the loss of {chain.names[chain.first]} is {worse:.2f} times as large"
            out.append((Reason(ReasonCode.SKILL_BELOW_BASELINE, text),))
        else:
            out.append(())
    return tuple(out)


def picked(forecasts: Sequence[Forecast], chosen: IntArray) -> Forecast:
    """One forecast, each row from the forecaster chosen for it; -1 takes the first one's row, with its reason."""
    pick = np.maximum(chosen, 0)
    first = forecasts[0]
    values, peak = first.values.copy(), first.peak.copy()
    for i in range(1, len(forecasts)):
        rows = np.flatnonzero(pick == i)
        values[rows], peak[rows] = forecasts[i].values[rows], forecasts[i].peak[rows]
    noted = any(forecast.notes for forecast in forecasts)
    return Forecast(
        origin=first.origin,
        step=first.step,
        horizons=first.horizons,
        levels=first.levels,
        values=values,
        peak=peak,
        windows=first.windows,
        model=tuple(forecasts[i].model[row] for row, i in enumerate(pick)),
        missing=tuple(forecasts[i].missing[row] for row, i in enumerate(pick)),
        notes=tuple(forecasts[i].notes[row] if forecasts[i].notes else () for row, i in enumerate(pick))
        if noted
        else (),
    )


def with_prior(
    state: Rows,
    chain: Chain,
    context: Context,
    ask: Callable[[Context], Sequence[Forecast]],
    windows: IntArray,
    origins: int = 8,
) -> Rows:
    """State whose rows without a single measured window start from a back-test on the newest day of their past.

    `ask` gives the forecasts of the chain on a past, with peaks over `windows` (row,) steps. Strictly causal: each
    origin's forecast sees only what was before it. Ask forecasters made for this, since they are led back in time.
    """
    new = (np.asarray(state.arrays["windows"]).sum(axis=1) == 0) & (np.asarray(state.arrays["updated_at"]) == 0)
    longest = int(np.max(windows, initial=1))
    told = back_test(context, ask, longest, origins) if new.any() else []
    if not told:
        return state
    a: dict[str, NDArray[Any]] = {name: array.copy() for name, array in state.arrays.items()}
    times = context.fine.times
    worth = min(_PRIOR_MOST / len(told), float(_reach(context)) / max(longest, 1) / len(told), 4.0)
    for place, answers in told:
        columns = place + 1 + np.arange(longest)
        taken = context.fine.values[:, columns].astype(np.float64)
        if context.masked is not None:
            taken = np.where(context.masked[:, columns], np.nan, taken)
        inside = np.arange(longest)[None, :] < windows[:, None]
        top = np.where(inside, taken, -np.inf).max(axis=1)
        loss = mean_quantile_losses(top, np.stack([_peaks(answer) for answer in answers], axis=1), LEVELS)
        both = ~np.isnan(loss) & ~np.isnan(loss[:, [chain.reference]]) & new[:, None]
        a["loss"] += worth * np.where(both, loss, 0)
        a["beside"] += worth * np.where(both, loss[:, [chain.reference]], 0)
        a["windows"] += worth * both
        a["updated_at"] = np.where(both.any(axis=1), int(times[place + longest]), a["updated_at"])
    return Rows(state.keys, a)


def back_test(
    context: Context, ask: Callable[[Context], Sequence[Forecast]], longest: int = 1, origins: int = 8
) -> list[tuple[int, Sequence[Forecast]]]:
    """What `ask` gives at origins of the newest day, by column of the fine grid; `longest` columns after it are known.

    Nothing where the past is too short for that.
    """
    reach, newest = _reach(context), context.fine.values.shape[1] - 1
    if reach <= longest:
        return []
    places = np.unique(np.linspace(newest - reach, newest - longest, origins).round().astype(np.int64))
    return [(place, ask(until(context, place))) for place in places.tolist()]


def _reach(context: Context) -> int:
    """Columns of the fine grid that a back-test goes back."""
    return int(min(_PRIOR_SECONDS // int(context.fine.step.total_seconds()), context.fine.values.shape[1] // 2))


def until(context: Context, column: int) -> Context:
    """What was known at the fine column `column`; views, no copies."""
    fine, coarse = context.fine, context.coarse
    origin = int(fine.times[column])
    whole = int(np.searchsorted(coarse.times, origin, side="right"))
    whole = max(whole, 1)
    return Context(
        SeriesBatch(fine.keys, datetime.fromtimestamp(origin, UTC), fine.step, fine.values[:, : column + 1]),
        SeriesBatch(
            coarse.keys,
            datetime.fromtimestamp(int(coarse.times[whole - 1]), UTC),
            coarse.step,
            coarse.values[:, :whole],
        ),
        context.calendar,
        None if context.masked is None else context.masked[:, : column + 1],
        None if context.coarse_masked is None else context.coarse_masked[:, :whole],
    )
