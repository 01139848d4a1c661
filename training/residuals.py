"""What a model misses, row by row, measured as the service would: replayed over the newest day at the own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np

from forecaster import blend, starts
from forecaster.domain import Context, IntArray
from forecaster.foresight import Foresight, Make
from forecaster.skill import until
from models.artifact import Residuals
from training.backtest import issued_at

SPAN = timedelta(days=1)
STRIDE = timedelta(minutes=15)


def measured(
    make: Make,
    context: Context,
    keys: Sequence[str],
    windows: IntArray,
    progress: Callable[[float], None] = lambda share: None,
) -> Residuals | None:
    """Calibration and skill that rows of `context` would have after SPAN of this chain; None where no row has any.

    They are those of the chain's mixture, in rows that are served by it at the end.
    `context` is what is known now, on both grids, its end not learned from by the model; `keys` name the rows as
    stored state does, `windows` (row,) are the steps that decisions look ahead. Nothing at a moment sees what is after.
    """
    step = context.fine.step
    foresight = Foresight(make, step)
    foresight.align(tuple(keys), context.fine.keys)
    width = context.fine.values.shape[1]
    stride = max(1, STRIDE // step)
    first = max(width - 1 - SPAN // step, width // 2)
    columns = range(first, width, stride)
    for done, column in enumerate(columns):
        issued_at(foresight, until(context, column), windows, complete=False)
        progress((done + 1) / len(columns))
    foresight.observe(context, windows)
    column = foresight.chain.names.index(blend.NAME)
    skills = {name: np.asarray(foresight.skill.arrays[name])[:, column] for name in starts.SKILL}
    found = starts.measured(foresight.head_version, foresight.layout, foresight.calibration, skills)
    if not found.rows.keys:
        return None
    arrays = {name: np.asarray(array, dtype=np.float32) for name, array in found.rows.arrays.items()}
    return Residuals(found.layout, found.rows.keys, arrays)
