"""How soon the bands hold again after a level shift: generated series that double at once, the live chain replayed.

Coverage is told by the time since the shift at which a forecast came due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import FloatArray, SeriesBatch, SeriesKey
from forecaster.foresight import Make
from training.backtest import observed, replay

STEP, DAY = 300, 86_400
COLUMNS = DAY // STEP  # of a day
HORIZONS = {"5m": 1, "15m": 3, "1h": 12}
LEVELS = (0.1, 0.9)
_END = datetime(2026, 3, 14, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is generated and how often the chain runs."""

    rows: int = 24
    past_days: int = 10  # before the shift
    warm_days: int = 3  # of these, the chain runs
    after_days: int = 2
    stride: int = 3  # columns between two runs
    factor: float = 2.0
    window_hours: int = 12  # over which coverage is taken
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """Coverage of the 80 % band, all rows together."""

    hours: tuple[int, ...]  # (window,) its end, since the shift; 0 is the one before it
    coverage: dict[str, FloatArray]  # horizon -> (window,)


def measured(make: Make, plan: Plan | None = None) -> Recovery:
    """The chain of `make` before and after the shift. Deterministic in the plan."""
    plan = plan or Plan()
    series, shift = shifted(plan)
    width = series.values.shape[1]
    columns = np.arange(shift - COLUMNS, width - 1 - max(HORIZONS.values()), plan.stride)
    start = shift - plan.warm_days * COLUMNS
    issued = replay(
        series,
        make,
        columns,
        list(HORIZONS.values()),
        start=start,
        stride=plan.stride,
        window=HORIZONS["15m"],
        levels=LEVELS,
    )
    came = observed(series, issued.columns, issued.horizons)
    hit = (came >= issued.values[..., 0]) & (came <= issued.values[..., 1])
    each = plan.window_hours * 3_600 // STEP
    ends = np.arange(0, width - shift + 1, each)
    coverage = {}
    for h, (name, steps) in enumerate(HORIZONS.items()):
        due = issued.columns[0] + steps - shift  # columns since the last one before the shift
        inside = [(due > end - each) & (due <= end) for end in ends.tolist()]
        coverage[name] = np.array([hit[:, chosen, h].mean() for chosen in inside])
    return Recovery(tuple((ends * STEP // 3_600).tolist()), coverage)


def shifted(plan: Plan) -> tuple[SeriesBatch, int]:
    """(series, the last column before they are `factor` times what they were): days of several shapes, with noise."""
    random = np.random.default_rng(plan.seed)
    width = (plan.past_days + plan.after_days) * COLUMNS
    shift = plan.past_days * COLUMNS - 1
    t = np.arange(width)
    phase, depth = random.uniform(0, 1, (plan.rows, 1)), random.uniform(0.2, 0.7, (plan.rows, 1))
    size = random.uniform(0.02, 0.08, (plan.rows, 1))
    noise = random.normal(0, 1, (plan.rows, width))
    for column in range(1, width):  # an AR(1): what is high now is likely to be so in five minutes
        noise[:, column] = 0.6 * noise[:, column - 1] + 0.8 * noise[:, column]
    level = 10.0 ** random.uniform(0.5, 3, (plan.rows, 1))
    values = level * (1 + depth * np.sin(2 * np.pi * (t / COLUMNS + phase))) * np.maximum(1 + size * noise, 0.05)
    values[:, shift + 1 :] *= plan.factor
    keys = tuple(SeriesKey(f"s{row:02}") for row in range(plan.rows))
    return SeriesBatch(keys, _END, timedelta(seconds=STEP), values), shift
