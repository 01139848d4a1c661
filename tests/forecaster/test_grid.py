"""Grids: alignment of any samples, the rolling window, and means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.grid import RollingGrid, coarse_step, floor_to, on_grid, pool_mean

STEP = 60


def test_grid_times_are_multiples_of_the_step() -> None:
    assert floor_to(119.9, 60) == 60 and floor_to(120, 60) == 120 and floor_to(-1, 60) == -60


@pytest.mark.parametrize(("step", "coarse"), [(15, 300), (60, 300), (120, 360), (300, 300), (420, 420), (7, 301)])
def test_the_coarse_step_is_a_whole_number_of_fine_ones(step: int, coarse: int) -> None:
    assert coarse_step(step) == coarse


def test_a_sample_belongs_to_the_interval_that_ends_after_it() -> None:
    times = np.array([1, 60, 61, 120, 181])
    row = on_grid(times, np.array([1.0, 2, 3, 4, 5]), origin=180, step=60, columns=3)
    np.testing.assert_array_equal(row, [2, 4, np.nan])


@given(
    st.lists(
        st.tuples(st.integers(0, 1200), st.one_of(st.floats(allow_infinity=True, allow_nan=True), st.just(3.0))),
        max_size=60,
    ),
    st.randoms(),
)
def test_d19_order_and_repetition_of_samples_do_not_matter(samples: list[tuple[int, float]], random: object) -> None:
    def gridded(rows: list[tuple[int, float]]) -> np.ndarray:
        times = np.array([t for t, _ in rows], dtype=np.int64)
        return on_grid(times, np.array([v for _, v in rows], dtype=float), origin=1200, step=60, columns=20)

    shuffled = [*samples, *samples[::2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = gridded(sorted(samples, key=lambda one: one[0]))
    np.testing.assert_array_equal(gridded(shuffled), expected)
    assert not np.isinf(expected).any()


def test_means_leave_missing_samples_out() -> None:
    values = np.array([[1.0, np.nan, 3.0, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(pool_mean(values, 3), [[2.0, np.nan]])


# --- the rolling window ---


def window(columns: int = 10, rows: int = 1, head: int = 600) -> RollingGrid:
    one = RollingGrid(STEP, columns, head)
    one.add_rows(rows)
    return one


ROW = np.array([0])


def test_what_is_written_is_where_its_time_says() -> None:
    one = window()
    one.write(ROW, 480, np.array([[1.0, 2.0, 3.0]]), open_from=0)
    np.testing.assert_array_equal(one.view()[0, -3:], [1, 2, 3])
    assert one.times[-3:].tolist() == [480, 540, 600]
    np.testing.assert_array_equal(one.between(480, 600)[0], [2, 3])


def test_what_lies_outside_is_left_out() -> None:
    one = window(columns=3)
    one.write(ROW, 300, np.arange(9.0)[None, :], open_from=0)
    np.testing.assert_array_equal(one.view()[0], [3, 4, 5])
    one.write(ROW, 660, np.array([[9.0]]), open_from=0)
    one.write(ROW, 0, np.array([[9.0]]), open_from=0)
    np.testing.assert_array_equal(one.view()[0], [3, 4, 5])


def test_missing_and_infinite_values_erase_nothing() -> None:
    one = window(columns=3)
    one.write(ROW, 480, np.array([[1.0, 2.0, 3.0]]), open_from=0)
    one.write(ROW, 480, np.array([[np.nan, np.inf, 1e300]]), open_from=0)
    np.testing.assert_array_equal(one.view()[0], [1, 2, 3])


def test_points_before_the_overlap_are_filled_but_not_rewritten() -> None:
    one = window(columns=4)
    one.write(ROW, 420, np.array([[1.0, np.nan, 3.0, 4.0]]), open_from=0)
    one.write(ROW, 420, np.array([[9.0, 9.0, 9.0, 9.0]]), open_from=540)
    np.testing.assert_array_equal(one.view()[0], [1, 9, 9, 9])


def test_rows_are_added_and_kept() -> None:
    one = window(columns=3, rows=3)
    one.write(np.arange(3), 600, np.array([[1.0], [2.0], [3.0]]), open_from=0)
    one.keep_rows(np.array([0, 2]))
    one.add_rows(1)
    np.testing.assert_array_equal(one.view()[:, -1], [1, 3, np.nan])
    one.add_rows(700)
    assert one.rows == 703 and np.isnan(one.view()[3:]).all()


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=30), st.integers(1, 30))
def test_the_window_is_what_a_plain_array_would_be(moves: list[tuple[int, bool]], columns: int) -> None:
    one, known = window(columns, rows=2, head=0), {}
    for steps, write in moves:
        one.advance(one.head + steps * STEP)
        if write:
            values = np.array([[one.head, one.head + 1], [-one.head, -one.head - 1]], dtype=float)
            one.write(np.arange(2), one.head - STEP, values, open_from=0)
            known[one.head - STEP], known[one.head] = values[:, 0], values[:, 1]
    blank = np.full(2, np.nan)
    expected = np.array([known.get(int(t), blank) for t in one.times]).T
    np.testing.assert_array_equal(one.view(), expected.astype(np.float32))
