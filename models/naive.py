"""What persistence and seasonal naive share: tables of empirical residuals by horizon, and the forecast made of them.

A naive forecaster is a rule that names, for any time, the value it expects; what its residuals were in the row's own
past gives the quantiles, at horizons and windows blocks.nodes_of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from forecaster.cores import side_by_side
from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, IntArray
from models.blocks import Block, Gate, forecast_of, nodes_of
from models.empirical import TABLE_LEVELS, level_weights, sample_quantiles
from models.fits import Arrays
from models.live_rows import LiveRows

_ROW_BLOCK = 256


class Rule(Protocol):
    """Expected values of some rows now, normalised."""

    def values(self, live: LiveRows, times: IntArray) -> FloatArray:
        """(row, n) expected at Unix seconds `times` (n,); NaN nowhere."""

    def peak(self, live: LiveRows, windows: IntArray) -> FloatArray:
        """(row,) expected maximum over the next `windows` (row,) steps."""


def blank(rows: int, nodes: int) -> Arrays:
    """Arrays of rows that have no forecast."""
    levels = len(TABLE_LEVELS)
    return {
        "gate": np.full(rows, Gate.EMPTY, dtype=np.int8),
        "nonnegative": np.zeros(rows, dtype=np.bool_),
        "center": np.zeros(rows),
        "scale": np.ones(rows),
        "span_seconds": np.zeros(rows),
        "table": np.zeros((rows, nodes, levels), dtype=np.float32),
        "peak_table": np.zeros((rows, nodes, levels), dtype=np.float32),
    }


def fit_rows(rows: IntArray, blocks: Iterable[Block], step: int, fit_block: Callable[[Block, Arrays], None]) -> Arrays:
    """Lets `fit_block` fill the tables of each block and puts them in the order of `rows`."""
    place = {int(row): i for i, row in enumerate(rows)}
    nodes = len(nodes_of(step))
    out = blank(len(rows), nodes)

    def one(block: Block) -> None:
        part = blank(len(block.rows), nodes)
        part["gate"], part["nonnegative"] = block.gate.copy(), block.nonnegative
        part["center"], part["scale"], part["span_seconds"] = block.center, block.scale, block.span_seconds
        fit_block(block, part)
        at = np.array([place[int(row)] for row in block.rows])
        for name, array in part.items():
            out[name][at] = array

    side_by_side(one, blocks)
    return out


def residual_table(miss: FloatArray, ahead: float) -> FloatArray:
    """(row, level) quantiles of residuals (row, n), widened for how few of them are independent."""
    table = sample_quantiles(miss)
    count = np.maximum((~np.isnan(miss)).sum(axis=1), 1)[:, None]
    widen = 1 + np.minimum(0.5 / np.sqrt(np.maximum(count * min(1.0, 1 / max(ahead, 1e-9)), 1)), 1.0)
    return np.asarray(np.nan_to_num(table * widen).astype(np.float32))


def predict(context: Context, request: ForecastRequest, fitted: Arrays, version: str, rule: Rule) -> Forecast:
    """The forecast of `rule` for all rows, with the residuals of `fitted` around it."""
    rows, levels = len(context.fine.keys), tuple(request.levels)
    values = np.full((rows, len(request.horizons), len(levels)), np.nan)
    peak = np.full((rows, len(levels)), np.nan)
    gate = np.array(fitted["gate"], dtype=np.int8)
    weights = level_weights(levels).astype(np.float32)

    def one(first: int) -> None:
        part = np.arange(first, min(first + _ROW_BLOCK, rows))
        part = part[gate[part] < Gate.SHORT]
        if not len(part):
            return
        live = LiveRows(context, part, fitted)
        known = live.find_since()
        gate[part[~known]] = Gate.EMPTY
        ahead = request.horizons.astype(np.int64) * live.step
        expected = rule.values(live, live.now + ahead)
        table = live.parameter("table", live.between_nodes(ahead[None, :] + live.gap)) @ weights
        values[part] = live.finished(expected[:, :, None] + table)
        windows = np.asarray(request.windows)[part].astype(np.int64)
        top = rule.peak(live, windows)[:, None]
        table = live.parameter("peak_table", live.between_nodes(windows[:, None] * live.step + live.gap)) @ weights
        peak[part] = live.finished(top[:, :, None] + table)[:, 0]

    side_by_side(one, range(0, rows, _ROW_BLOCK))
    return forecast_of(context, request, values, peak, gate, version)
