"""The highest load of 14 days is right at every step, though it is looked up once an hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import BoolArray, Calendar, Context, FloatArray, SeriesBatch, SeriesKey
from forecaster.scaling.new_peak import SPAN, HighestLoad

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEYS = (SeriesKey("a"), SeriesKey("b"))
FINE = np.array([[1.0, 5.0, 2.0], [1.0, np.nan, 3.0]])
COARSE = np.array([[4.0, 3.0], [7.0, np.nan]])


def context(
    fine: FloatArray = FINE,
    coarse: FloatArray = COARSE,
    step: int = 0,
    masked: BoolArray | None = None,
    keys: tuple[SeriesKey, ...] = KEYS,
    coarse_masked: BoolArray | None = None,
) -> Context:
    origin = NOW + step * MINUTE
    return Context(
        SeriesBatch(keys, origin, MINUTE, fine),
        SeriesBatch(keys, origin, 5 * MINUTE, coarse),
        Calendar(("UTC",) * len(keys)),
        masked,
        coarse_masked,
    )


def test_it_is_the_highest_of_both_grids_and_nan_without_a_sample() -> None:
    np.testing.assert_array_equal(HighestLoad().of(context(), True), [5.0, 7.0])
    nothing = np.full((2, 3), np.nan)
    np.testing.assert_array_equal(HighestLoad().of(context(nothing, nothing), True), [np.nan, np.nan])


def test_masked_samples_are_no_peaks() -> None:
    masked, coarse_masked = np.zeros((2, 3), dtype=np.bool_), np.zeros((2, 2), dtype=np.bool_)
    masked[0, 1], coarse_masked[1, 0] = True, True
    found = HighestLoad().of(context(masked=masked, coarse_masked=coarse_masked), True)
    np.testing.assert_array_equal(found, [4.0, 3.0])


def test_what_is_older_than_14_days_does_not_count() -> None:
    coarse = np.full((2, SPAN // 300 + 1), 1.0)
    coarse[0, 0], coarse[1, 1] = 99.0, 98.0
    np.testing.assert_array_equal(HighestLoad().of(context(coarse=coarse), True), [5.0, 98.0])


def test_between_renewals_the_newest_column_is_taken_in_and_a_masked_one_is_not() -> None:
    one, blank = HighestLoad(), np.zeros((2, 3), dtype=np.bool_)
    one.of(context(masked=blank), True)
    masked = blank.copy()
    masked[1, -1] = True
    newest = np.full((2, 3), 50.0)
    np.testing.assert_array_equal(one.of(context(newest, step=1, masked=masked), True), [50.0, 7.0])
    gone = np.full((2, 3), np.nan)
    np.testing.assert_array_equal(one.of(context(gone, step=2, masked=blank), True), [50.0, 7.0])


def test_it_is_renewed_after_an_hour_with_other_rows_or_masks_or_while_back_fill_runs() -> None:
    low = np.full((2, 3), 2.0)
    later = {
        "an hour": (context(low, low, step=60), True),
        "other rows": (context(low, low, step=1, keys=(SeriesKey("a"), SeriesKey("c"))), True),
        "masks": (context(low, low, step=1, masked=np.zeros((2, 3), dtype=np.bool_)), True),
        "back-fill": (context(low, low, step=1), False),
        "a clock set back": (context(low, low, step=-60), True),
    }
    for name, (known, complete) in later.items():
        one = HighestLoad()
        one.of(context(), True)
        np.testing.assert_array_equal(one.of(known, complete), [2.0, 2.0], err_msg=name)
    one = HighestLoad()
    one.of(context(low, low), False)
    np.testing.assert_array_equal(one.of(context(step=1), True), [5.0, 7.0])  # back-fill has ended
