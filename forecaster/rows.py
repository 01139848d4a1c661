"""State of many rows as named arrays, one row per key: what a restart restores and another set of rows realigns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Arrays that share their first axis with `keys`."""

    keys: tuple[str, ...]
    arrays: Arrays

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if len(array) != len(self.keys):
                raise ValueError(f"{len(self.keys)} keys for {name!r} of shape {array.shape}")

    def aligned(self, keys: Sequence[str], blank: Mapping[str, NDArray[np.generic]]) -> Rows:
        """The same state for another list of keys; rows that are new here hold `blank` (arrays of one row each).

        An array that is missing here, or has another shape or type than `blank` says, starts blank: the caller
        checks versions before, this only keeps shapes sound.
        """
        keys = tuple(keys)
        if keys == self.keys and all(_fits(self.arrays.get(name), row) for name, row in blank.items()):
            return self
        row_of = {key: i for i, key in enumerate(self.keys)}
        source = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
        known = source >= 0
        arrays: Arrays = {}
        for name, row in blank.items():
            fresh = np.repeat(row, len(keys), axis=0)
            mine = self.arrays.get(name)
            if mine is not None and _fits(mine, row):
                fresh[known] = mine[source[known]]
            arrays[name] = fresh
        return Rows(keys, arrays)

    def cleared(self, rows: NDArray[np.bool_], blank: Mapping[str, NDArray[np.generic]]) -> Rows:
        """The same state with `rows` (row,) blank again."""
        arrays = {name: array.copy() for name, array in self.arrays.items()}
        for name, row in blank.items():
            arrays[name][rows] = row
        return Rows(self.keys, arrays)


def _fits(array: NDArray[np.generic] | None, row: NDArray[np.generic]) -> bool:
    return array is not None and array.shape[1:] == row.shape[1:] and array.dtype == row.dtype
