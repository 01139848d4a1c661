"""The series list of the yardstick: which series of the development data are loads, and which days of them.

Several are cuts of one series or machines of one fleet, so that intervals over them are too narrow. Knows no forecast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.errors import InputError
from forecaster.tidy import TidySeries, read_tidy

SMOOTH, NOISY, COARSE = "smooth", "noisy", "5 min"
_GROUPS = {SMOOTH: ("1 min", SMOOTH), NOISY: ("1 min", NOISY), COARSE: (COARSE,)}
_MACHINES = ("1-6", "1-7", "2-1", "2-2", "2-7", "2-8", "3-3", "3-4")


@dataclass(frozen=True, slots=True)
class Member:
    """One series of the list."""

    file: str  # stem
    series: str
    kind: str  # smooth | noisy | 5 min
    days: tuple[int, int] | None = None  # from the begin of the series; None: all
    lowest: float | None = None  # this quantile of the series is taken off, and what falls below 0 is 0

    @property
    def name(self) -> str:
        cut = "" if self.days is None else f"[{self.days[0]}-{self.days[1]}]"
        return f"{self.file}/{self.series}{cut}"


MEMBERS = (
    Member("worldcup98", "requests_per_minute", SMOOTH),
    Member("worldcup98", "requests_per_minute", SMOOTH, (0, 29)),
    Member("worldcup98", "requests_per_minute", SMOOTH, (29, 58)),
    *(Member("smd_1m", f"machine_{one}/d25_curr_estab", SMOOTH) for one in _MACHINES if one != "2-2"),
    Member("nasa_http_1m", "requests_per_minute", NOISY, (0, 27)),
    Member("nasa_http_1m", "requests_per_minute", NOISY, (34, 62)),
    *(Member("smd_1m", f"machine_{one}/d18_eth1_fi", NOISY) for one in _MACHINES),
    Member("datacenter_avg", "alibaba2018/cpu_util_percent", NOISY),
    Member("datacenter_avg", "alibaba2018/disk_io_percent", NOISY),
    Member("isp_traffic_5m", "eu_transatlantic_link_bits", COARSE),
    Member("isp_traffic_5m", "uk_academic_backbone_bits", COARSE),
    Member("donut_kpi", "cpu4", COARSE, lowest=0.001),
    Member("donut_kpi", "server_res_eth1out_curve_6", COARSE),
    Member("donut_kpi", "server_res_eth1out_curve_61", COARSE),
    *(Member("bitbrains_vm_5m", f"vm_{one}/cpu_pct", COARSE) for one in (11, 135, 826, 846, 867, 871, 875, 895)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A load on its own grid."""

    name: str
    groups: tuple[str, ...]  # of the summary
    step: int  # seconds
    times: IntArray  # ends of intervals, Unix seconds
    values: FloatArray


def is_yardstick(folder: Path) -> bool:
    """All files of the list lie there."""
    return all((folder / f"{stem}.parquet").is_file() for stem in {one.file for one in MEMBERS})


def read(folder: Path, stamps_end: bool) -> Iterator[Loaded]:
    """The members of the list, in its order. Raises InputError where one is missing."""
    files: dict[str, dict[str, TidySeries]] = {}
    for one in MEMBERS:
        path = folder / f"{one.file}.parquet"
        if one.file not in files:
            files[one.file] = {series.name: series for series in read_tidy(path, stamps_end)}
        if one.series not in files[one.file]:
            raise InputError(f"{path}: no series {one.series!r}, which the yardstick's list has")
        yield _cut(one, files[one.file][one.series])


def _cut(member: Member, series: TidySeries) -> Loaded:
    step = series.usual_step
    times, values = series.on_grid(step)
    if member.days is not None:
        first, last = (day * 86_400 // step for day in member.days)
        times, values = times[first:last], values[first:last]
    if member.lowest is not None:
        values = np.maximum(values - np.nanquantile(values, member.lowest), 0.0)
    return Loaded(member.name, _GROUPS[member.kind], step, times, values)
