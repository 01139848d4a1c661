"""Where rows begin when they get another model: from what a back-test of it has measured, else from nothing.

A back-test ends with the same state that the service keeps, so that what it learned of a row's misses is taken over as
it is. Rows that it has not seen, or in which another forecaster was better, begin blank and say `calibrating`. What is
measured is what is issued: the mixture that a network is the first of, where a chain has a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecaster import calibration
from forecaster.calibration import Layout
from forecaster.domain import BoolArray
from forecaster.rows import Arrays, Rows

CALIBRATION = (
    "offset",
    "sum",
    "count",
    "hits",
    "windows",
    "peak_offset",
    "peak_sum",
    "peak_count",
    "peak_below",
    "peak_windows",
)
_SKILL = "skill_"
SKILL = ("loss", "beside", "windows")


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """Rows measured in a back-test, float32: the arrays of CALIBRATION, and `skill_…` (row,) of that model."""

    version: str  # as rows carry it: Foresight.head_version, or that of one forecaster alone
    layout: str  # Layout.version of the calibration
    rows: Rows


def measured(version: str, layout: Layout, state: Rows, skills: Mapping[str, NDArray[np.generic]]) -> Starts:
    """What a back-test that ended with `state` knows of the model that rows carry as `version`; `skills`: its column
    (row,) of each of SKILL.

    Only rows whose forecasts were its own.
    """
    mine = np.flatnonzero(np.asarray(state.arrays["model"]) == calibration.code(version))
    arrays: Arrays = {name: np.asarray(state.arrays[name][mine], dtype=np.float32) for name in CALIBRATION}
    arrays |= {f"{_SKILL}{name}": np.asarray(skills[name][mine], dtype=np.float32) for name in SKILL}
    return Starts(version, layout.version, Rows(tuple(state.keys[row] for row in mine.tolist()), arrays))


def begun(state: Rows, layout: Layout, rows: BoolArray, code: int, starts: Starts | None) -> Rows:
    """Calibration in which `rows` (row,) have just got the model with this code: measured ones from there, the others
    from nothing. Forecasts of the model before that wait for their time still count for coverage."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    for name in CALIBRATION:
        arrays[name][rows] = 0
    arrays["model"][rows] = code
    into, source = _places(state, rows, starts, layout.version)
    if starts is not None:
        for name in CALIBRATION:
            given = starts.rows.arrays.get(name)
            if given is not None and given.shape[1:] == arrays[name].shape[1:]:
                arrays[name][into] = given[source]
    return Rows(state.keys, arrays)


def judged(state: Rows, layout: Layout, column: int, starts: Starts, now: int) -> Rows:
    """Skill in which the forecaster of `column` has the losses that its back-test has measured."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    into, source = _places(state, np.ones(len(state.keys), dtype=np.bool_), starts, layout.version)
    for name in SKILL:
        arrays[name][into, column] = starts.rows.arrays[f"{_SKILL}{name}"][source]
    arrays["updated_at"][into] = np.maximum(arrays["updated_at"][into], now)
    return Rows(state.keys, arrays)


def _places(state: Rows, rows: BoolArray, starts: Starts | None, layout: str) -> tuple[list[int], list[int]]:
    """Rows of `state` among `rows` that were measured, and where in `starts` they stand."""
    if starts is None or starts.layout != layout:
        return [], []
    row_of = {key: i for i, key in enumerate(starts.rows.keys)}
    into = [row for row in np.flatnonzero(rows).tolist() if state.keys[row] in row_of]
    return into, [row_of[state.keys[row]] for row in into]
