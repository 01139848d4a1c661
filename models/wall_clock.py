"""Offsets of local wall clocks from UTC, for many times at once: days and weeks repeat by the clock on the wall."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from forecaster.domain import IntArray

DAY = 86_400
_GRANULE = 900  # every zone changes its clock on a quarter of an hour of UTC


def utc_offsets(timezone: str, times: IntArray) -> IntArray:
    """Seconds to add to UTC `times` (any shape, Unix seconds) to read the wall clock of `timezone` (IANA name).

    Raises zoneinfo.ZoneInfoNotFoundError for a name that is not known.
    """
    times = np.asarray(times, dtype=np.int64)
    if timezone == "UTC" or not times.size:
        return np.zeros(times.shape, dtype=np.int64)
    days, where = np.unique(times // DAY, return_inverse=True)
    starts = np.array([_offset(timezone, int(day) * DAY) for day in days], dtype=np.int64)
    ends = np.array([_offset(timezone, (int(day) + 1) * DAY) for day in days], dtype=np.int64)
    where = where.reshape(times.shape)
    offsets = starts[where]
    for day in np.flatnonzero(starts != ends):  # the few days on which the clock changes
        inside = where == day
        granules = times[inside] // _GRANULE
        offsets[inside] = [_offset(timezone, int(granule) * _GRANULE) for granule in granules]
    return np.asarray(offsets)


def days_before(timezone: str, times: IntArray, days: int) -> IntArray:
    """The UTC times at which the wall clock showed the same hour, `days` days earlier."""
    times = np.asarray(times, dtype=np.int64)
    local = times + utc_offsets(timezone, times) - days * DAY
    return np.asarray(local - utc_offsets(timezone, times - days * DAY))


@lru_cache(maxsize=65_536)
def _offset(timezone: str, time: int) -> int:
    delta = datetime.fromtimestamp(time, UTC).astimezone(ZoneInfo(timezone)).utcoffset()
    assert delta is not None
    return int(delta.total_seconds())
