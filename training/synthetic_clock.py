"""The grid of a synthetic group, read on the wall clock: what the seasons, jobs and events of its series look up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forecaster.domain import FloatArray, IntArray
from models.wall_clock import DAY, utc_offsets

MINUTE, HOUR, WEEK = 60, 3_600, 7 * DAY


@dataclass(frozen=True, eq=False)
class Clock:
    """Intervals of `step` seconds; the first one ends at `first_end` (Unix seconds)."""

    step: int
    first_end: int
    size: int
    timezone: str = "UTC"

    @cached_property
    def edges(self) -> IntArray:
        """(size + 1,) Unix seconds: interval j lies between edges[j] and edges[j + 1]."""
        return self.first_end + self.step * np.arange(-1, self.size, dtype=np.int64)

    @cached_property
    def offsets(self) -> IntArray:
        """(size,) seconds between UTC and the wall clock at the end of each interval."""
        return utc_offsets(self.timezone, self.edges[1:])

    @cached_property
    def local(self) -> FloatArray:
        """(size,) the middle of each interval on the wall clock, in seconds since the wall clock's 1970-01-01."""
        return np.asarray(self.edges[:-1] + self.offsets + self.step / 2)

    @cached_property
    def day(self) -> IntArray:
        """(size,) day on the wall clock, counted from the first one."""
        days = (self.local // DAY).astype(np.int64)
        return np.asarray(days - days[0])

    @cached_property
    def day_fraction(self) -> FloatArray:
        """(size,) share of the wall clock's day gone by, 0 to 1."""
        return np.asarray(self.local % DAY / DAY)

    @cached_property
    def weekday(self) -> IntArray:
        """(size,) 0 is Monday."""
        return np.asarray((self.local // DAY).astype(np.int64) + 3) % 7

    @property
    def days(self) -> int:
        return int(self.day[-1]) + 1

    @property
    def span(self) -> int:
        """Seconds covered."""
        return self.step * self.size

    def steps(self, seconds: float) -> float:
        return seconds / self.step

    def moments(self, day: IntArray, seconds: FloatArray) -> FloatArray:
        """Unix times at which the wall clock shows `seconds` after midnight of `day` (counted as in `day`)."""
        midnight = (self.local[0] // DAY) * DAY
        wall = midnight + day * DAY + seconds
        near = np.searchsorted(self.edges[1:], wall - self.offsets[0]).clip(0, self.size - 1)
        return np.asarray(wall - self.offsets[near])

    def weekday_of(self, day: IntArray) -> IntArray:
        """0 is Monday, for days counted as in `day`."""
        return np.asarray((self.weekday[0] + day) % 7)
