"""Replays the past: what forecasters, or the live chain with all that it learns on the way, said at given moments.

Nothing at a moment has seen a sample after it. A column of a batch is a moment: the end of its interval. Knows no
file, no baseline and no gate; those are made of what is here. Serves the benchmark and the retrain job's gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from forecaster.accuracy import quantile_loss
from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesBatch
from forecaster.foresight import Foresight, Make
from forecaster.past import SPAN, Past
from forecaster.ports import Forecaster
from forecaster.quantiles import at_level

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEVELS = (0.01, *DECILES, 0.99)

Columns = Sequence[int] | IntArray  # (origin,) for all series, or (series, origin), each its own


@dataclass(frozen=True, slots=True, eq=False)
class Issued:
    """What was said at each origin; NaN where nothing was."""

    columns: IntArray  # (series, origin) of the batch
    horizons: IntArray  # (horizon,) steps
    levels: tuple[float, ...]
    values: FloatArray  # (series, origin, horizon, level)
    upper: FloatArray  # (series, origin, horizon) 0.9 quantile of the maximum over (origin, origin + horizon]: that of
    # the peak where its window is the horizon, else the highest 0.9 quantile of a single moment
    model: tuple[tuple[str, ...], ...]  # (series, origin) which forecaster gave it; "none"


# --- running ---------------------------------------------------------------------------------------------------------


def replay(
    series: SeriesBatch,
    make: Make,
    columns: Columns,
    horizons: Sequence[int] | IntArray,
    *,
    start: int | IntArray,
    stride: int,
    window: int,
    levels: tuple[float, ...] = LEVELS,
    span: timedelta = SPAN,
    done: Callable[[float], None] = lambda share: None,
) -> Issued:
    """The chain of `make` as the service issues it: run forward from column `start` on, scored at `columns`.

    Each `stride` columns, and at each of `columns`, in the order of forecaster.cycle: it learns from all samples that
    came since, forecasts, calibrates, issues. What it learns is what it issued at those moments, so that a stride of
    many steps learns from fewer forecasts than the service does, never from later ones. No sample is masked: the
    detection of anomalies is not part of it, and nothing is withheld as stale. A row joins at its own `start` (series,)
    and leaves after its last column, as workloads do. `horizons` must be among those of foresight.horizons; `window`
    (steps) is that of the peak. The chain's levels are read at `levels` as the API does.
    """
    out = _Record(series, columns, horizons, levels)
    foresight = Foresight(make, series.step)
    unknown = sorted(set(out.horizons.tolist()) - set(foresight.horizons.tolist()))
    if unknown:
        raise ValueError(f"the chain does not forecast {unknown} steps ahead")
    starts = np.broadcast_to(np.asarray(start, dtype=np.int64), (len(series.keys),))
    ends = out.columns.max(axis=1)
    if (starts > out.columns.min(axis=1)).any() or (starts < 0).any():
        raise ValueError("an origin lies before the start of its row")
    past = Past(series, span)
    stations = np.union1d(np.arange(starts.min(), ends.max() + 1, stride), out.columns)
    rows = np.zeros(0, dtype=np.int64)
    for count, column in enumerate(stations.tolist()):
        present = np.flatnonzero((starts <= column) & (column <= ends))
        if not len(present):
            continue
        if not np.array_equal(present, rows):
            rows, keys = present, tuple(series.keys[row] for row in present.tolist())
            foresight.align(tuple(f"{key.workload}/{key.role}" for key in keys), keys)
            windows = np.full(len(rows), window, dtype=np.int64)
        out.keep(column, rows, issued_at(foresight, past.at(column, rows), windows, complete=True))
        done((count + 1) / len(stations))
    return out.finished()


def issued_at(foresight: Foresight, context: Context, windows: IntArray, *, complete: bool) -> Forecast:
    """What the live chain issues at the end of `context`: it learns from what came since, forecasts, calibrates."""
    foresight.observe(context, windows)
    foresight.run(context, windows, complete)
    at = np.full(len(windows), int(context.fine.origin.timestamp()), dtype=np.int64)
    newest = np.asarray(context.fine.values[:, -1], dtype=np.float64)
    return foresight.issue(context.fine.origin, newest, at, (None,) * len(windows))


def run(
    series: SeriesBatch,
    forecaster: Forecaster,
    columns: Columns,
    horizons: Sequence[int] | IntArray,
    *,
    levels: tuple[float, ...] = LEVELS,
    span: timedelta = SPAN,
    uppers: bool = False,
    done: Callable[[float], None] = lambda share: None,
    timezones: Sequence[str] | None = None,
) -> Issued:
    """One forecaster at each of `columns`, in the order of time, raw: no choice, no calibration.

    The window of the peak is the first of `horizons`; with `uppers` it is asked for a peak up to each of them.
    """
    out = _Record(series, columns, horizons, levels)
    asked = tuple(sorted({*levels, 0.5, 0.9}))
    past, stations = Past(series, span, timezones), np.unique(out.columns)
    for count, column in enumerate(stations.tolist()):
        rows = np.flatnonzero((out.columns == column).any(axis=1))
        context = past.at(column, rows)
        windows = np.full(len(rows), out.horizons[0], dtype=np.int64)
        out.keep(column, rows, forecaster.forecast(context, ForecastRequest(out.horizons, asked, windows)))
        for horizon in out.horizons[1:].tolist() if uppers else ():
            request = ForecastRequest(np.array([horizon]), asked, np.full(len(rows), horizon, dtype=np.int64))
            out.keep_upper(column, rows, horizon, forecaster.forecast(context, request))
        done((count + 1) / len(stations))
    return out.finished()


class _Record:
    """Takes forecasts as they come and keeps those of the scored columns."""

    def __init__(
        self, series: SeriesBatch, columns: Columns, horizons: Sequence[int] | IntArray, levels: tuple[float, ...]
    ) -> None:
        given, rows = np.asarray(columns, dtype=np.int64), len(series.keys)
        self.columns = np.broadcast_to(given, (rows, given.shape[-1]))
        self.horizons, self.levels = np.asarray(horizons, dtype=np.int64), levels
        shape = (*self.columns.shape, len(self.horizons))
        self._values, self._upper = np.full((*shape, len(levels)), np.nan), np.full(shape, np.nan)
        self._model = [["none"] * shape[1] for _ in range(rows)]

    def keep(self, column: int, rows: IntArray, forecast: Forecast) -> None:
        """The forecast of `rows`, in that order; of those of them that are scored at the column."""
        mine, origin = np.nonzero(self.columns[rows] == column)
        if not len(mine):
            return
        at = (rows[mine], origin)
        places = np.searchsorted(forecast.horizons, self.horizons)
        self._values[at] = read_at(forecast.values[mine][:, places], forecast.levels, self.levels)
        upper = read_at(forecast.values[mine], forecast.levels, (0.9,))[..., 0]
        self._upper[at] = np.maximum.accumulate(upper, axis=1)[:, places]
        for horizon in np.intersect1d(self.horizons, forecast.windows).tolist():
            self.keep_upper(column, rows, horizon, forecast)
        for i, j in zip(mine.tolist(), origin.tolist(), strict=True):
            self._model[int(rows[i])][j] = "none" if forecast.missing[i] is not None else forecast.model[i]

    def keep_upper(self, column: int, rows: IntArray, horizon: int, forecast: Forecast) -> None:
        """The forecast's peak, in the rows whose window is the horizon."""
        mine, origin = np.nonzero((self.columns[rows] == column) & (forecast.windows == horizon)[:, None])
        top = read_at(forecast.peak[mine], forecast.levels, (0.9,))[:, 0]
        self._upper[rows[mine], origin, int(np.searchsorted(self.horizons, horizon))] = top

    def finished(self) -> Issued:
        model = tuple(tuple(names) for names in self._model)
        return Issued(self.columns, self.horizons, self.levels, self._values, self._upper, model)


def read_at(quantiles: FloatArray, known: tuple[float, ...], wanted: tuple[float, ...]) -> FloatArray:
    """Quantiles (…, known level) at the levels `wanted`: (…, wanted level)."""
    if known == wanted:
        return quantiles
    flat = quantiles.reshape(-1, len(known))
    read = [flat[:, known.index(level)] if level in known else at_level(flat, known, level) for level in wanted]
    return np.stack(read, axis=-1).reshape(*quantiles.shape[:-1], len(wanted))


# --- scoring ---------------------------------------------------------------------------------------------------------


def observed(series: SeriesBatch, columns: Columns, horizons: Sequence[int] | IntArray) -> FloatArray:
    """(series, origin, horizon) what came; NaN where nothing did, or the data end before."""
    rows, width = series.values.shape
    at = np.asarray(columns)[..., :, None] + np.asarray(horizons)
    at = np.broadcast_to(at, (rows, *at.shape[-2:]))
    taken = series.values[np.arange(rows)[:, None, None], np.minimum(at, width - 1)].astype(np.float64)
    return np.where(at < width, taken, np.nan)


def pinball(series: SeriesBatch, issued: Issued) -> FloatArray:
    """(series, origin, horizon) pinball loss, the mean over the levels, in the unit of the series.

    NaN where nothing was observed or nothing was said.
    """
    came = observed(series, issued.columns, issued.horizons)
    return np.asarray(quantile_loss(came, issued.values, np.array(issued.levels)).mean(axis=-1))


def losses(
    series: SeriesBatch,
    forecaster: Forecaster,
    columns: Columns,
    horizons: Sequence[int] | IntArray,
    *,
    levels: tuple[float, ...] = DECILES,
    span: timedelta = SPAN,
    timezones: Sequence[str] | None = None,
) -> FloatArray:
    """(series, origin) pinball loss of a forecaster, the mean over horizons and levels, in the unit of the series.

    The mean is over the horizons at which something was observed; NaN where there is none, or no forecast. Two
    forecasters are compared on the entries that both have.
    """
    loss = pinball(series, run(series, forecaster, columns, horizons, levels=levels, span=span, timezones=timezones))
    known = ~np.isnan(loss)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(known, loss, 0.0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)
        )
