"""Work shared among cores: every part once, errors come through, the limit on threads is lifted at the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from forecaster.cores import one_thread_a_product, side_by_side


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=12))
def test_every_part_is_worked_on_once(parts: list[int]) -> None:
    done: list[int] = []
    side_by_side(done.append, iter(parts))
    assert sorted(done) == sorted(parts)


@pytest.mark.parametrize("count", [1, 5])
def test_an_error_of_a_part_comes_through(count: int) -> None:
    def fail(part: int) -> None:
        if part == count - 1:
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match=f"part {count - 1}"):
        side_by_side(fail, range(count))


def test_parts_see_the_callers_handling_of_numbers() -> None:
    found: list[float] = []
    with np.errstate(divide="ignore"):
        side_by_side(lambda part: found.append(float(np.float64(part) / np.zeros(1)[0])), [1, 2, 3, 4])
    assert found == [np.inf] * 4


def threads() -> set[int]:
    return {one["num_threads"] for one in ThreadpoolController().select(user_api="blas").info()}


def test_products_of_matrices_get_their_threads_back() -> None:
    before = threads()
    with one_thread_a_product():
        with one_thread_a_product():
            assert threads() == {1}
        assert threads() == {1}
    with pytest.raises(KeyError), one_thread_a_product():
        raise KeyError
    assert threads() == before
