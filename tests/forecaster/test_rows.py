"""State keeps its rows when the set of workloads changes."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.rows import Rows

BLANK = {"level": np.array([0.9]), "ring": np.zeros((1, 3), dtype=np.float32)}


def test_a_known_key_keeps_its_row_and_a_new_one_starts_blank() -> None:
    rows = Rows(("a", "b"), {"level": np.array([0.1, 0.2]), "ring": np.ones((2, 3), dtype=np.float32)})
    moved = rows.aligned(("b", "new"), BLANK)
    np.testing.assert_array_equal(moved.arrays["level"], [0.2, 0.9])
    np.testing.assert_array_equal(moved.arrays["ring"], [[1, 1, 1], [0, 0, 0]])


def test_the_same_keys_cost_nothing() -> None:
    rows = Rows(("a",), {"level": np.array([0.1]), "ring": np.ones((1, 3), dtype=np.float32)})
    assert rows.aligned(("a",), BLANK) is rows


def test_an_array_of_another_shape_starts_blank_instead_of_breaking() -> None:
    rows = Rows(("a",), {"level": np.array([0.1]), "ring": np.ones((1, 2), dtype=np.float32)})
    moved = rows.aligned(("a",), BLANK)
    np.testing.assert_array_equal(moved.arrays["ring"], np.zeros((1, 3)))
    np.testing.assert_array_equal(moved.arrays["level"], [0.1])


def test_arrays_of_another_length_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="1 keys"):
        Rows(("a",), {"level": np.zeros(2)})
