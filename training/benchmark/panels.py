"""Series of files made ready for a benchmark: which are scored, at which origins, and why the others are not.

A file is a family. Its series of one step share a grid, a panel; dates are moved by whole weeks for that, so that
hours and weekdays stay. What lies after the part that is scored is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from forecaster.domain import FloatArray, IntArray, SeriesBatch, SeriesKey
from forecaster.errors import InputError
from forecaster.tidy import TidySeries, read_tidy

HOUR, DAY, WEEK = 3_600, 86_400, 604_800
HORIZONS = {"5m": 300, "15m": 900, "1h": HOUR, "24h": DAY}
PARTS = {"test": (0.7, 1.0), "tune": (0.3, 0.6)}  # shares of a series
WARM = 14 * DAY  # before the part: what the chain learns from
BEFORE = 1.25 * DAY  # of samples before the part: the day-ago baseline rests on them
FEWEST = 4  # origins
SMALL = 3  # series; a family of fewer gets more origins, so that its figures rest on as many forecasts
MOST_STATIONS = 700  # moments of one replay; where that is not enough for hourly ones they lie further apart


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Series of one family on one grid, with as many origins each."""

    family: str
    series: SeriesBatch  # NaN before a series begins and after it ends
    firsts: IntArray  # (series,) column of the first sample
    starts: IntArray  # (series,) column from which the chain runs
    columns: IntArray  # (series, origin)
    stride: int  # columns between two runs of the chain; starts and origins are such columns
    horizons: dict[str, int]  # name -> steps

    @property
    def step(self) -> int:
        return int(self.series.step.total_seconds())

    @property
    def day(self) -> int:
        """Columns of a day, at least one."""
        return max(1, DAY // self.step)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A series that is not scored."""

    family: str
    series: str
    why: str


def files_of(data: Path, only: str | None) -> list[Path]:
    """The tidy files of a folder, or the one. Raises InputError where there is none."""
    if data.is_dir():
        found = sorted(path for path in data.iterdir() if path.suffix in (".parquet", ".csv"))
    elif data.exists():
        found = [data]
    else:
        raise InputError(f"--data: there is no {data}")
    if not found:
        raise InputError(f"--data: {data} holds no .parquet or .csv file")
    chosen = [path for path in found if only is None or only in path.stem]
    if not chosen:
        raise InputError(f"--only: no family of {', '.join(path.stem for path in found)} has {only!r} in its name")
    return chosen


def panels_of(path: Path, stamps_end: bool, part: str, origins: int) -> tuple[list[Panel], list[Skipped]]:
    """The panels of a file and the series left out. Raises InputError where the file cannot be read."""
    by_step: dict[int, list[tuple[str, int, FloatArray]]] = {}
    skipped = []
    for one in read_tidy(path, stamps_end):
        taken = _taken(one, part)
        if isinstance(taken, str):
            skipped.append(Skipped(path.stem, one.name, taken))
        else:
            by_step.setdefault(one.usual_step, []).append((one.name, *taken))
    panels = []
    for step, members in sorted(by_step.items()):
        made, left_out = _panels(path.stem, step, members, part, origins)
        panels += made
        skipped += left_out
    return panels, skipped


def _taken(one: TidySeries, part: str) -> tuple[int, FloatArray] | str:
    """(time of the last column, values) up to the end of the part, or why not."""
    step = one.usual_step
    if not step:
        return "it has one row"
    if not any(_fits(seconds, step) for seconds in HORIZONS.values()):
        return f"its step of {step} s fits no horizon of {', '.join(HORIZONS)}"
    try:
        times, values = one.on_grid(step)
    except ValueError as error:
        return str(error)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return "it has no sample"
    times, values = times[known[0] : known[-1] + 1], values[known[0] : known[-1] + 1]
    begin, end = (round(share * len(values)) for share in PARTS[part])
    if begin * step < BEFORE:
        return f"{begin * step / HOUR:.1f} h before the {part} part: seasonal naive needs {BEFORE / HOUR:g} h"
    if np.isnan(values[begin:end]).all():
        return f"no sample in the {part} part"
    return int(times[end - 1]), values[:end]


def _fits(seconds: int, step: int) -> bool:
    return seconds >= step and seconds % step == 0


def _panels(
    family: str, step: int, members: Sequence[tuple[str, int, FloatArray]], part: str, origins: int
) -> tuple[list[Panel], list[Skipped]]:
    """One panel for each number of origins: short series have fewer, families of one or two series more."""
    last = max(end for _, end, _ in members)
    moved = [(name, end + (last - end) // WEEK * WEEK, values) for name, end, values in members]
    first = min(end - (len(values) - 1) * step for _, end, values in moved)
    width = (last - first) // step + 1
    share = PARTS[part][0] / PARTS[part][1]
    spans = [len(values) - round(share * len(values)) for _, _, values in moved]
    stride = _stride(max(HOUR / step, (max(spans) + WARM / step) / MOST_STATIONS), max(1, DAY // step))
    origins *= math.ceil(SMALL / len(members))
    groups: dict[int, list[tuple[str, int, FloatArray, IntArray, int]]] = {}
    skipped = []
    for (name, end, values), span in zip(moved, spans, strict=True):
        after = (end - first) // step + 1  # column after its last one
        begin = after - len(values)
        columns = _origins(after - span, after, step, stride, origins)
        if len(columns) < FEWEST:
            skipped.append(Skipped(family, name, f"{span * step / HOUR:.1f} h of {part} part leave too few origins"))
            continue
        start = max(begin + DAY // step, after - span - WARM // step)
        start = min(-(-start // stride) * stride, int(columns[0]))
        groups.setdefault(len(columns), []).append((name, begin, values, columns, start))
    out = []
    for _, rows in sorted(groups.items(), reverse=True):
        table = np.full((len(rows), width), np.nan)
        for row, (_, begin, values, _, _) in enumerate(rows):
            table[row, begin : begin + len(values)] = values
        keys = tuple(SeriesKey(name) for name, *_ in rows)
        out.append(
            Panel(
                family=family,
                series=SeriesBatch(keys, datetime.fromtimestamp(last, UTC), timedelta(seconds=step), table),
                firsts=np.array([begin for _, begin, *_ in rows], dtype=np.int64),
                starts=np.array([row[4] for row in rows], dtype=np.int64),
                columns=np.stack([row[3] for row in rows]),
                stride=stride,
                horizons={name: seconds // step for name, seconds in HORIZONS.items() if _fits(seconds, step)},
            )
        )
    return out, skipped


def _stride(least: float, day: int) -> int:
    """Columns: at least so many, and with no divisor in common with the day, so that they come by at all its hours."""
    columns = math.ceil(least)
    while math.gcd(columns, day) != 1:
        columns += 1
    return columns


def _origins(begin: int, end: int, step: int, stride: int, count: int) -> IntArray:
    """(origin,) columns in [begin, end), on the stride and about evenly apart, that meet many hours of the day.

    They leave room for the longest horizon, or half of the part where that is less.
    """
    longest = min(DAY // step, (end - begin) // 2)
    first = -(-begin // stride) * stride
    room = (end - 1 - longest - first) // stride
    if room < 0:
        return np.zeros(0, dtype=np.int64)
    count = min(count, room + 1)
    widest = np.linspace(0, room, count)
    # Evenly apart they may meet the same few hours; then as far as that, a stride more or less.
    choices = [widest.round(), *(np.floor(widest * share) for share in (1.0, 0.95, 0.9, 0.85, 0.8))]
    columns = [first + np.unique(places.astype(np.int64)) * stride for places in choices]
    return max(columns, key=lambda some: (len(some), len(np.unique(some * step // HOUR % 24))))
