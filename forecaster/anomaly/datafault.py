"""Incidents of the data itself: what the tripwires and the reader found wrong with a row.

Opened at once, closed after three clean samples: a fault that flaps is one incident. No budget is needed, for the
tripwires are rules that sound data does not break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from forecaster.anomaly.incidents import named, opened_incident
from forecaster.domain import FloatArray, Incident, IntArray
from forecaster.rows import Arrays

CLEAN_STEPS = 3
KIND = "data_fault"


def blank() -> Arrays:
    """One row of state: clean samples since the fault was last seen."""
    return {"clean": np.full(1, CLEAN_STEPS, dtype=np.int64)}


def follow_faults(
    state: Arrays,
    open_: Mapping[str, Incident],
    keys: Sequence[str],
    faults: IntArray,
    words: Callable[[int], str | None],
    expected: tuple[FloatArray, FloatArray, FloatArray],
    now: int,
) -> tuple[Arrays, dict[str, Incident], tuple[Incident, ...], tuple[Incident, ...]]:
    """(state, open ones by row key, opened, closed). `faults` (row,): 0 for none; `words` tells one row's fault.

    `expected` holds observed, low and high (row,). Rows that are no longer in `keys` close.
    """
    faulty = faults != 0
    clean = np.where(faulty, 0, np.minimum(np.asarray(state["clean"], dtype=np.int64) + 1, CLEAN_STEPS))
    still = dict(open_)
    opened: list[Incident] = []
    closed: list[Incident] = []
    observed, low, high = expected
    for row in np.flatnonzero(faulty).tolist():
        key = keys[row]
        if key in still:
            continue
        values = (float(observed[row]), float(low[row]), float(high[row]))
        incident = opened_incident(key, KIND, now, now, 0.0, 0.0, 0, values)
        workload, role = named(key)
        text = f"{workload}: {role} cannot be trusted: {words(row) or 'its data contradicts itself'}"
        still[key] = replace(incident, severity="warning", sentence=text)
        opened.append(still[key])
    if still:
        row_of = {key: row for row, key in enumerate(keys)}
        for key in list(still):
            at = row_of.get(key)
            if at is None or clean[at] >= CLEAN_STEPS:
                closed.append(replace(still.pop(key), closed_at=datetime.fromtimestamp(now, UTC)))
    return {"clean": clean}, still, tuple(opened), tuple(closed)
