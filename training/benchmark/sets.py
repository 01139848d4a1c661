"""Two fixed sets of public series at five minutes, an hour ahead, over the last seven days of each: one seasonal, one
bursty. Small enough to compare any model on in minutes; docs/benchmarks.md names where the series come from.

A set is a family of the benchmark, so that all measures hold for it. Finer series count as means of five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from forecaster import grid
from forecaster.domain import FloatArray, IntArray, SeriesBatch, SeriesKey
from forecaster.errors import InputError
from forecaster.tidy import TidySeries, read_tidy
from training.benchmark.panels import DAY, HOUR, WARM, WEEK, Panel

STEP = 300  # seconds
AHEAD = HOUR // STEP
STRIDE = HOUR // STEP  # of the chain


@dataclass(frozen=True, slots=True)
class Members:
    """Series of one file."""

    file: str
    ending: str  # of their names; "" is any
    first: int | None = None  # so many of them in order of name; None: all


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Series, and how often they are asked in their last week."""

    name: str
    every: int  # columns between two origins
    members: tuple[Members, ...]


SETS = (
    SeriesSet(
        "seasonal set",
        4 * HOUR // STEP,  # 42 origins
        (
            Members("donut_kpi", ""),
            Members("isp_traffic_5m", ""),
            Members("google2011_cluster", ""),
            Members("worldcup98", ""),
        ),
    ),
    SeriesSet(
        "bursty set",
        6 * HOUR // STEP,  # 28 origins
        (
            Members("bitbrains_vm_5m", "/cpu_pct", 10),
            Members("datacenter_avg", "google2019/avg_cpu"),
            Members("datacenter_avg", "google2019/avg_mem"),
            Members("datacenter_avg", "google2019/avg_assigned_mem"),
            Members("datacenter_avg", "google2019/avg_cycles_per_instruction"),
            Members("genai_requests_5m", "requests_total"),
            Members("genai_requests_5m", "exec_seconds_total"),
            Members("genai_requests_5m", "predict_type=TXT_2_IMG"),
            Members("genai_requests_5m", "predict_type=IMG_2_IMG"),
            Members("google2019_instances_5m", "instance_22/avg_cpu_usage"),
            Members("google2019_instances_5m", "instance_82/avg_cpu_usage"),
            Members("nasa_http_1m", ""),
        ),
    ),
)


def panels_of(data: Path, stamps_end: bool) -> list[Panel]:
    """A panel for each set. Raises InputError naming the file or the series that the folder lacks."""
    read: dict[str, list[TidySeries]] = {}
    return [_panel(one, data, stamps_end, read) for one in SETS]


def _panel(one: SeriesSet, data: Path, stamps_end: bool, read: dict[str, list[TidySeries]]) -> Panel:
    found: list[tuple[str, int, FloatArray]] = []
    for members in one.members:
        if members.file not in read:
            read[members.file] = list(read_tidy(_file(data, members.file), stamps_end))
        chosen = [series for series in read[members.file] if series.name.endswith(members.ending)][: members.first]
        if len(chosen) < (members.first or 1):
            raise InputError(
                f"--sets: {data} lacks series of {members.file} that end in {members.ending!r}: "
                "docs/benchmarks.md says which are needed"
            )
        found += [(f"{members.file}: {series.name}", *_at_five_minutes(series)) for series in chosen]
    return _made(one, found)


def _file(data: Path, stem: str) -> Path:
    for ending in (".parquet", ".csv"):
        if (data / f"{stem}{ending}").exists():
            return data / f"{stem}{ending}"
    raise InputError(f"--sets: {data} holds no {stem}.parquet or .csv: docs/benchmarks.md says which files are needed")


def _at_five_minutes(series: TidySeries) -> tuple[int, FloatArray]:
    """(time of the last column, values), from the first sample to the last."""
    step = series.usual_step
    if STEP % step:
        raise InputError(f"--sets: {series.name} has a step of {step} s, which five minutes are no multiple of")
    times, values = series.on_grid(step)
    last = int(times[-1]) // STEP * STEP
    values = values[: len(values) - (int(times[-1]) - last) // step]
    ratio = STEP // step
    pooled = grid.pool_mean(values[None, len(values) % ratio :], ratio)[0]
    known = np.flatnonzero(~np.isnan(pooled))
    return last - (len(pooled) - 1 - int(known[-1])) * STEP, pooled[known[0] : known[-1] + 1]


def _made(one: SeriesSet, found: list[tuple[str, int, FloatArray]]) -> Panel:
    """Dates are moved by whole weeks; all rows are asked at the same columns, as far as their last week allows."""
    last = max(end for _, end, _ in found)
    moved = [(name, end + (last - end) // WEEK * WEEK, values) for name, end, values in found]
    first = min(end - (len(values) - 1) * STEP for _, end, values in moved)
    width = (last - first) // STEP + 1
    table = np.full((len(moved), width), np.nan)
    firsts, starts, columns = [], [], []
    for row, (_, end, values) in enumerate(moved):
        after = (end - first) // STEP + 1
        begin = after - len(values)
        table[row, begin:after] = values
        asked = _origins(after, one.every)
        firsts.append(begin)
        start = max(begin + DAY // STEP, int(asked[0]) - WARM // STEP)
        starts.append(min(-(-start // STRIDE) * STRIDE, int(asked[0])))
        columns.append(asked)
    return Panel(
        family=one.name,
        series=SeriesBatch(
            tuple(SeriesKey(name) for name, *_ in moved),
            datetime.fromtimestamp(last, UTC),
            timedelta(seconds=STEP),
            table,
        ),
        firsts=np.array(firsts, dtype=np.int64),
        starts=np.array(starts, dtype=np.int64),
        columns=np.stack(columns),
        stride=STRIDE,
        horizons={"1h": AHEAD},
    )


def _origins(after: int, every: int) -> IntArray:
    """(origin,) whole multiples of `every` in the week before column `after`, with room for the horizon."""
    newest = (after - 1 - AHEAD) // every * every
    return newest - every * np.arange(WEEK // STEP // every - 1, -1, -1, dtype=np.int64)
