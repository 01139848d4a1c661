"""Since when a load is known."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.domain import Calendar, Context, FloatArray, SeriesBatch, SeriesKey
from forecaster.reasons import ReasonCode
from forecaster.scaling.short_history import KnownSince, too_short

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
NAN = math.nan


def context(fine: list[list[float]], coarse: list[list[float]], origin: datetime = NOW) -> Context:
    keys = tuple(SeriesKey(f"w{i}", "load") for i in range(len(fine)))
    batches = [
        SeriesBatch(keys, origin, step, np.array(values))
        for step, values in ((timedelta(minutes=1), fine), (timedelta(minutes=5), coarse))
    ]
    return Context(batches[0], batches[1], Calendar(("UTC",) * len(fine)))


def ages(since: FloatArray, now: datetime = NOW) -> list[float]:
    return [(now.timestamp() - one) / 60 for one in since.tolist()]


def test_the_first_sample_of_either_grid_counts_and_none_is_not_known() -> None:
    known = context([[NAN, 1.0], [NAN, 1.0], [NAN, NAN]], [[NAN, NAN, NAN], [NAN, 2.0, NAN], [NAN, NAN, NAN]])
    first, second, third = ages(KnownSince().of(known, complete=True))
    assert (first, second) == (1.0, 10.0) and math.isnan(third)


def test_back_fill_is_seen_at_once_and_a_complete_history_once_an_hour() -> None:
    one, short = KnownSince(), context([[1.0]], [[NAN, NAN]])
    assert ages(one.of(short, complete=False)) == [1.0]
    longer = Context(short.fine, context([[1.0]], [[2.0, 2.0]]).coarse, short.calendar)
    assert ages(one.of(longer, complete=False)) == [10.0]
    assert ages(one.of(longer, complete=True)) == [10.0]
    assert ages(one.of(short, complete=True)) == [10.0]  # what has left the grid has been known all the same


def test_a_row_whose_first_sample_has_just_come_is_known_from_it() -> None:
    one, before = KnownSince(), context([[NAN, NAN], [1.0, 1.0]], [[NAN], [1.0]])
    assert math.isnan(one.of(before, complete=True)[0])
    fine = SeriesBatch(
        before.fine.keys, NOW + timedelta(minutes=1), timedelta(minutes=1), np.array([[NAN, 3.0], [1.0, 1.0]])
    )
    after = Context(fine, before.coarse, before.calendar)
    assert ages(one.of(after, complete=True)) == [0.0, 5.0]


@pytest.mark.parametrize(("hours", "short"), [(0.0, True), (47.9, True), (48.0, False), (NAN, False)])
def test_two_days_are_enough_and_nothing_known_is_said_elsewhere(hours: float, short: bool) -> None:
    found = too_short(NOW.timestamp() - 3600 * hours, NOW.timestamp())
    assert (found is not None) == short
    assert found is None or found.code is ReasonCode.HISTORY_TOO_SHORT
