"""Draws a forecast: braille lines for the terminal, a picture for a file. Knows nothing of where it came from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster import grid
from forecaster.domain import FloatArray
from forecaster.errors import InputError

if TYPE_CHECKING:
    from serving.foretelling import Told

PAST = 3.0  # times the horizon that is shown of the past
MOST_DRAWN = 4  # series of one terminal


def terminal(told: list[Told], width: int, height: int, colours: bool) -> str:
    """One plot a series; the first few of many."""
    parts = [_plot(one, width, height, colours) for one in told[:MOST_DRAWN]]
    if len(told) > MOST_DRAWN:
        parts.append(f"… and {len(told) - MOST_DRAWN} more series: --series ID draws one, --json gives all.")
    return "\n\n".join(parts)


def _plot(one: Told, width: int, height: int, colours: bool) -> str:
    import plotille

    head = f"{one.name}\n"
    if not one.answer["values"]:
        reason = one.answer["reason"] or {}
        return f"{head}no forecast: {reason.get('code')}: {reason.get('detail')}"
    times, past, ahead, bands = _curves(one)
    figure = plotille.Figure()
    figure.width, figure.height = max(width - 20, 30), max(min(height - 12, 24), 8)
    figure.color_mode, figure.with_colors = "names", colours
    figure.x_label, figure.y_label = "UTC", "load"
    figure.register_label_formatter(float, _number)
    figure.register_label_formatter(np.float64, _number)
    highest = max(float(np.nanmax(past)) if np.isfinite(past).any() else 0.0, float(bands.max()))
    lowest = min(float(np.nanmin(past)) if np.isfinite(past).any() else 0.0, float(bands.min()))
    room = 0.05 * (highest - lowest or abs(highest) or 1.0)
    figure.set_y_limits(min_=0.0 if lowest >= 0 else lowest - room, max_=highest + room)
    figure.set_x_limits(min_=float(times[0]), max_=float(ahead[-1]))
    figure.x_ticks_fkt = _clock
    times, past = _thinned(times, past, 2 * figure.width)
    for begin, end in _pieces(past):
        figure.plot(times[begin:end].tolist(), past[begin:end].tolist(), lc="white" if colours else None)
    levels = one.answer["quantiles"]
    for i, level in enumerate(levels):
        colour = ("cyan" if abs(level - 0.5) < 1e-9 else "blue") if colours else None
        figure.plot(ahead.tolist(), bands[:, i].tolist(), lc=colour)
    last = ", ".join(f"{level:g}: {value:.4g}" for level, value in zip(levels, bands[-1], strict=True))
    origin = one.answer["origin"].isoformat(timespec="minutes")
    foot = f"from {origin} by {one.answer['modelVersion']}; at the end, by quantile {last}"
    reason = one.answer["reason"]
    note = f"\n{reason['code']}: {reason['detail']}".rstrip(": ") if reason else ""
    return f"{head}{figure.show()}\n{foot}{note}"


def picture(told: list[Told], file: Path) -> None:
    """A PNG, one panel a series. Raises InputError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    drawn = told[:MOST_DRAWN]
    figure = Figure(figsize=(11, 3.8 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for one, axis in zip(drawn, axes, strict=True):
        axis.set_title(one.name, loc="left", fontsize=10)
        times, past, ahead, bands = _curves(one)
        axis.plot([_moment(t) for t in times], past, color="#333333", linewidth=0.9, label="load")
        if len(ahead):
            when = [_moment(t) for t in ahead]
            levels = one.answer["quantiles"]
            for low in range(len(levels) // 2):
                high = len(levels) - 1 - low
                label = f"{levels[low]:g} to {levels[high]:g}"
                axis.fill_between(
                    when, bands[:, low], bands[:, high], color="#1f77b4", alpha=0.22, linewidth=0, label=label
                )
            middle = int(np.abs(np.asarray(levels) - 0.5).argmin())
            axis.plot(when, bands[:, middle], color="#1f77b4", linewidth=1.4, label=f"forecast ({levels[middle]:g})")
            axis.axvline(_moment(times[-1]), color="#999999", linewidth=0.8, linestyle=":")
        else:
            reason = one.answer["reason"] or {}
            axis.text(0.5, 0.5, f"no forecast: {reason.get('code')}", transform=axis.transAxes, ha="center")
        if np.nanmin(past) >= 0:
            axis.set_ylim(bottom=0)
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axis.set_xlabel("UTC")
        axis.grid(alpha=0.25)
        axis.legend(loc="upper left", fontsize=8, frameon=False)
    try:
        figure.savefig(file, format="png", dpi=110)
    except OSError as error:
        raise InputError(f"--png: {file} cannot be written: {error.strerror or error}") from error


def _curves(one: Told) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(times of the past, values, times ahead, (time, quantile)); the past no longer than a few horizons."""
    step = one.step.total_seconds()
    bands = np.array(one.answer["values"], dtype=np.float64)
    count = len(bands)
    ahead = one.times[-1] + step * np.arange(1, count + 1, dtype=np.float64)
    shown = max(round(PAST * count), 60)
    return one.times[-shown:].astype(np.float64), one.values[-shown:], ahead, bands


def _thinned(times: FloatArray, values: FloatArray, most: int) -> tuple[FloatArray, FloatArray]:
    """Means of neighbours, at most `most` points: a terminal has no more dots, and would show a solid block."""
    every = max(1, len(values) // most)
    count = len(values) // every * every
    if not count:
        return times, values
    return times[-count:].reshape(-1, every)[:, -1], grid.pool_mean(values[None, -count:], every)[0]


def _pieces(values: FloatArray) -> list[tuple[int, int]]:
    """Runs without a gap: a line must not bridge what is missing."""
    known = np.r_[False, ~np.isnan(values), False].astype(np.int8)
    begins, ends = np.flatnonzero(np.diff(known) == 1), np.flatnonzero(np.diff(known) == -1)
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _moment(seconds: float) -> Any:
    return datetime.fromtimestamp(float(seconds), UTC)


def _clock(low: float, high: float) -> str:
    return f"{datetime.fromtimestamp(low, UTC):%d. %H:%M}"


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)
