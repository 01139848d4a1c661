"""Replays the past: what forecasters, or the live chain with all that it learns on the way, said at given moments.

Nothing at a moment has seen a sample after it. A column of a batch is a moment: the end of its interval. Knows no
file, no baseline and no gate; those are made of what is here. Serves the benchmark and the retrain job's gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import grid
from forecaster.accuracy import quantile_loss
from forecaster.domain import Calendar, Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesBatch
from forecaster.foresight import Foresight, Make
from forecaster.history import FINE_COLUMNS
from forecaster.ports import Forecaster
from forecaster.quantiles import at_level

SPAN = timedelta(days=28)
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEVELS = (0.01, *DECILES, 0.99)
STRIDE = timedelta(hours=1)


class Past:
    """What the live history would have shown at any column of `series`: two grids, `span` back, and nothing after."""

    def __init__(self, series: SeriesBatch, span: timedelta = SPAN, timezones: Sequence[str] | None = None) -> None:
        self.series = series
        self._values = np.asarray(series.values, dtype=np.float32)
        self._calendar = Calendar(tuple(timezones) if timezones is not None else ("UTC",) * len(series.keys))
        self._step = int(series.step.total_seconds())
        self._coarse_step = grid.coarse_step(self._step)
        ratio = self._coarse_step // self._step
        first = int(series.times[0]) if series.values.shape[1] else 0
        self._coarse_first = -grid.floor_to(-first, self._coarse_step)  # end of the first coarse interval
        lead = (first - (self._coarse_first - self._coarse_step)) // self._step - 1
        whole = (lead + self._values.shape[1]) // ratio * ratio
        padded = np.concatenate((np.full((len(self._values), lead), np.nan, dtype=np.float32), self._values), axis=1)
        self._coarse = grid.pool_mean(padded[:, :whole], ratio).astype(np.float32)
        self._columns = max(FINE_COLUMNS * self._step, int(span.total_seconds())) // self._coarse_step

    def at(self, column: int) -> Context:
        """What was known at the end of `column`; views, no copies."""
        fine = self._values[:, max(0, column + 1 - FINE_COLUMNS) : column + 1]
        origin = int(self.series.times[column])
        head = grid.floor_to(origin, self._coarse_step)
        end = max((head - self._coarse_first) // self._coarse_step + 1, 0)
        coarse = self._coarse[:, max(0, end - self._columns) : end]
        if not coarse.shape[1]:
            coarse = np.full((len(fine), 1), np.nan, dtype=np.float32)
        keys = self.series.keys
        return Context(
            fine=SeriesBatch(keys, _utc(origin), self.series.step, fine),
            coarse=SeriesBatch(keys, _utc(head), timedelta(seconds=self._coarse_step), coarse),
            calendar=self._calendar,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Issued:
    """What was said at each origin; NaN where nothing was."""

    columns: IntArray  # (origin,) of the batch
    horizons: IntArray  # (horizon,) steps
    levels: tuple[float, ...]
    windows: IntArray  # (series,) steps
    values: FloatArray  # (series, origin, horizon, level)
    peak: FloatArray  # (series, origin, level) of the maximum over (origin, origin + window]
    upper: FloatArray  # (series, origin, horizon) 0.9 quantile of the maximum over (origin, origin + horizon]: that of
    # the peak where the window is the horizon, else the highest 0.9 quantile of a single moment
    model: tuple[tuple[str, ...], ...]  # (origin, series) which forecaster gave the row


# --- running ---------------------------------------------------------------------------------------------------------


def replay(
    series: SeriesBatch,
    make: Make,
    columns: Sequence[int] | IntArray,
    horizons: Sequence[int] | IntArray,
    *,
    start: int,
    stride: int,
    window: int,
    levels: tuple[float, ...] = LEVELS,
    span: timedelta = SPAN,
    step_done: Callable[[float], None] = lambda share: None,
) -> Issued:
    """The chain of `make` as the service issues it: run forward from column `start` on, scored at `columns`.

    Each `stride` columns, and at each of `columns`, in the order of forecaster.cycle: it learns from all samples that
    came since, forecasts, calibrates, issues. What it learns is what it issued at those moments, so that a stride of
    many steps learns from fewer forecasts than the service does, never from later ones. No sample is masked: the
    detection of anomalies is not part of it, and nothing is withheld as stale. `horizons` must be among those of
    foresight.horizons; `window` (steps) is that of the peak. The chain's levels are read at `levels` as the API does.
    """
    columns = np.asarray(columns, dtype=np.int64)
    wanted = np.asarray(horizons, dtype=np.int64)
    foresight = Foresight(make, series.step)
    unknown = sorted(set(wanted.tolist()) - set(foresight.horizons.tolist()))
    if unknown:
        raise ValueError(f"the chain does not forecast {unknown} steps ahead")
    if not 0 <= start <= int(columns.min(initial=series.values.shape[1] - 1)):
        raise ValueError(f"the first origin {columns.min()} lies before the start {start}")
    foresight.align(tuple(f"{key.workload}/{key.role}" for key in series.keys), series.keys)
    windows = np.full(len(series.keys), window, dtype=np.int64)
    past, out = Past(series, span), _Record(series, columns, wanted, levels, windows)
    stations = np.union1d(np.arange(start, int(columns.max(initial=start)) + 1, stride), columns)
    for done, column in enumerate(stations.tolist()):
        context = past.at(column)
        foresight.observe(context, windows)
        foresight.run(context, windows, complete=True)
        at = np.full(len(series.keys), int(series.times[column]), dtype=np.int64)
        newest = np.asarray(context.fine.values[:, -1], dtype=np.float64)
        issued = foresight.issue(context.fine.origin, newest, at, (None,) * len(series.keys))
        out.keep(column, issued)
        step_done((done + 1) / len(stations))
    return out.finished()


def run(
    series: SeriesBatch,
    forecaster: Forecaster,
    columns: Sequence[int] | IntArray,
    horizons: Sequence[int] | IntArray,
    *,
    levels: tuple[float, ...] = LEVELS,
    span: timedelta = SPAN,
    uppers: bool = False,
) -> Issued:
    """One forecaster at each of `columns`, ascending, raw: no choice, no calibration.

    The window of the peak is the first of `horizons`; with `uppers` it is asked for a peak up to each of them.
    """
    columns, wanted = np.asarray(columns, dtype=np.int64), np.asarray(horizons, dtype=np.int64)
    windows = np.full(len(series.keys), wanted[0], dtype=np.int64)
    asked = tuple(sorted({*levels, 0.5, 0.9}))
    past, out = Past(series, span), _Record(series, columns, wanted, levels, windows)
    for column in columns.tolist():
        context = past.at(column)
        out.keep(column, forecaster.forecast(context, ForecastRequest(wanted, asked, windows)))
        for horizon in wanted[1:].tolist() if uppers else ():
            request = ForecastRequest(np.array([horizon]), asked, np.full(len(series.keys), horizon, dtype=np.int64))
            out.keep_upper(column, horizon, forecaster.forecast(context, request))
    return out.finished()


class _Record:
    """Takes forecasts as they come and keeps those of the scored columns."""

    def __init__(
        self, series: SeriesBatch, columns: IntArray, horizons: IntArray, levels: tuple[float, ...], windows: IntArray
    ) -> None:
        rows, origins = len(series.keys), len(columns)
        self._place = {column: i for i, column in enumerate(columns.tolist())}
        self._columns, self._horizons, self._levels, self._windows = columns, horizons, levels, windows
        self._values = np.full((rows, origins, len(horizons), len(levels)), np.nan)
        self._peak = np.full((rows, origins, len(levels)), np.nan)
        self._upper = np.full((rows, origins, len(horizons)), np.nan)
        self._model: list[tuple[str, ...]] = [("none",) * rows] * origins

    def keep(self, column: int, forecast: Forecast) -> None:
        i = self._place.get(column)
        if i is None:
            return
        places = np.searchsorted(forecast.horizons, self._horizons)
        self._values[:, i] = read_at(forecast.values[:, places], forecast.levels, self._levels)
        self._peak[:, i] = read_at(forecast.peak, forecast.levels, self._levels)
        upper = read_at(forecast.values, forecast.levels, (0.9,))[..., 0]
        self._upper[:, i] = np.maximum.accumulate(upper, axis=1)[:, places]
        for horizon in np.intersect1d(self._horizons, self._windows).tolist():
            self.keep_upper(column, horizon, forecast)
        given = zip(forecast.model, forecast.missing, strict=True)
        self._model[i] = tuple("none" if missing is not None else model for model, missing in given)

    def keep_upper(self, column: int, horizon: int, forecast: Forecast) -> None:
        """The forecast's peak, in the rows whose window is the horizon."""
        i, h = self._place[column], int(np.searchsorted(self._horizons, horizon))
        top = read_at(forecast.peak, forecast.levels, (0.9,))[:, 0]
        self._upper[:, i, h] = np.where(forecast.windows == horizon, top, self._upper[:, i, h])

    def finished(self) -> Issued:
        return Issued(
            self._columns,
            self._horizons,
            self._levels,
            self._windows,
            self._values,
            self._peak,
            self._upper,
            tuple(self._model),
        )


def read_at(quantiles: FloatArray, known: tuple[float, ...], wanted: tuple[float, ...]) -> FloatArray:
    """Quantiles (…, known level) at the levels `wanted`: (…, wanted level)."""
    if known == wanted:
        return quantiles
    flat = quantiles.reshape(-1, len(known))
    read = [flat[:, known.index(level)] if level in known else at_level(flat, known, level) for level in wanted]
    return np.stack(read, axis=-1).reshape(*quantiles.shape[:-1], len(wanted))


# --- scoring ---------------------------------------------------------------------------------------------------------


def observed(series: SeriesBatch, columns: IntArray, horizons: IntArray) -> FloatArray:
    """(series, origin, horizon) what came; NaN where nothing did, or the data end before."""
    values = np.asarray(series.values, dtype=np.float64)
    at = np.asarray(columns)[:, None] + np.asarray(horizons)[None, :]
    taken = values[:, np.minimum(at, values.shape[1] - 1)]
    return np.where(at < values.shape[1], taken, np.nan)


def pinball(series: SeriesBatch, issued: Issued) -> FloatArray:
    """(series, origin, horizon) pinball loss, the mean over the levels, in the unit of the series.

    NaN where nothing was observed or nothing was said.
    """
    came = observed(series, issued.columns, issued.horizons)
    return np.asarray(quantile_loss(came, issued.values, np.array(issued.levels)).mean(axis=-1))


def losses(
    series: SeriesBatch,
    forecaster: Forecaster,
    columns: Sequence[int] | IntArray,
    horizons: Sequence[int] | IntArray,
    *,
    levels: tuple[float, ...] = DECILES,
    span: timedelta = SPAN,
) -> FloatArray:
    """(series, origin) pinball loss of a forecaster, the mean over horizons and levels, in the unit of the series.

    The mean is over the horizons at which something was observed; NaN where there is none, or no forecast. Two
    forecasters are compared on the entries that both have.
    """
    loss = pinball(series, run(series, forecaster, columns, horizons, levels=levels, span=span))
    known = ~np.isnan(loss)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(known, loss, 0.0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)
        )


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
