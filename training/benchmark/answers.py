"""The models of a benchmark by name, and what each of them answers at the origins of a panel."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from forecaster.foresight import Make, name_of
from forecaster.ports import Forecaster
from models import chain
from models.persistence import Persistence
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive
from training import backtest
from training.backtest import LEVELS
from training.benchmark import baselines
from training.benchmark.panels import Panel

OURS = "forecaster"
OURS_TUNED = "forecaster_tuned"  # the same with a network that was fine-tuned on the family's past
_TUNED = "_tuned"
NAIVE = "seasonal_naive_day"  # what all others are measured beside
PEAK_SECONDS = 900  # window of the chain's peak
ENOUGH = 84  # forecasts of one panel, below which a slow baseline is not asked less often: its figure would be chance
_RAW: dict[str, Callable[[], Forecaster]] = {
    NAIVE: lambda: SeasonalNaive("day"),
    "seasonal_naive_week": lambda: SeasonalNaive("week"),
    "persistence": Persistence,
    "profile": Profile,
}


@dataclass(frozen=True, slots=True)
class Single:
    """A baseline that forecasts one series at a time."""

    answer: Callable[[FloatArray, Sequence[int], int], baselines.Told]
    every: int = 1  # it is asked at each so many origins, of families that have many forecasts
    package: str | None = None  # that it needs

    def stride(self, rows: int, origins: int) -> int:
        """It is asked at each so many origins of a panel of that many series: at all of them where it is small."""
        return max(1, min(self.every, rows * origins // ENOUGH))


SINGLE = {
    "ridge": Single(baselines.ridge),
    "auto_ets": Single(baselines.auto_ets, every=4, package="statsforecast"),
    "mstl": Single(baselines.mstl, every=7, package="statsforecast"),
    "fracast": Single(baselines.fracast, every=2, package="fracast"),
}
BASELINES = (*_RAW, *SINGLE)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model said of a panel; NaN where it had no answer or was not asked."""

    model: str
    values: FloatArray  # (series, origin, horizon, LEVELS)
    upper: FloatArray  # (series, origin, horizon) 0.9 quantile of the maximum up to the horizon
    asked: BoolArray  # (origin,)
    seconds: float  # of the processor, for the machine may be busy with other work


def raw_names(model: str) -> tuple[str, ...]:
    """Forecasters of the chain that are no baseline: the network."""
    names = tuple(name_of(forecaster).replace("-", "_") for forecaster in chain.named(model)())
    return tuple(name for name in names if name not in BASELINES)


def names_of(model: str, tuned: bool = False) -> tuple[str, ...]:
    """All models of a run, ours first; with `tuned` those of the fine-tuned network too."""
    mine = (OURS, *raw_names(model))
    return (*mine, *(f"{name}{_TUNED}" for name in mine if tuned), *BASELINES)


def is_tuned(name: str) -> bool:
    """Whether the model is asked with the network that was fine-tuned on the family."""
    return name.endswith(_TUNED)


def missing_packages(names: Sequence[str]) -> dict[str, str]:
    """Baseline -> the package without which it is left out."""
    wanted = {name: SINGLE[name].package for name in names if name in SINGLE}
    return {
        name: package
        for name, package in wanted.items()
        if package is not None and importlib.util.find_spec(package) is None
    }


def answer(panel: Panel, name: str, model: str) -> Answer:
    """What model `name` says at the origins of the panel; `model` is the artifact of our chain."""
    steps = list(panel.horizons.values())
    began = time.process_time()
    kind = name.removesuffix(_TUNED)
    if kind == OURS:
        issued = _ours(panel, chain.named(model), steps)
    elif kind in SINGLE:
        return _single(panel, kind, SINGLE[kind], steps)
    else:
        issued = backtest.run(panel.series, _raw(kind, model), panel.columns, steps, uppers=True)
    asked = np.ones(panel.columns.shape[1], dtype=np.bool_)
    return Answer(name, issued.values, issued.upper, asked, time.process_time() - began)


def _ours(panel: Panel, make: Make, steps: list[int]) -> backtest.Issued:
    return backtest.replay(
        panel.series,
        make,
        panel.columns,
        steps,
        start=panel.starts,
        stride=panel.stride,
        window=max(1, PEAK_SECONDS // panel.step),
    )


def _raw(name: str, model: str) -> Forecaster:
    if name in _RAW:
        return _RAW[name]()
    found = [one for one in chain.named(model)() if name_of(one).replace("-", "_") == name]
    return found[0]


def _single(panel: Panel, name: str, one: Single, steps: list[int]) -> Answer:
    rows, origins = panel.columns.shape
    values = np.full((rows, origins, len(steps), len(LEVELS)), np.nan)
    upper = np.full((rows, origins, len(steps)), np.nan)
    asked = np.arange(origins) % one.stride(rows, origins) == 0
    one.answer(np.arange(200.0) % 7, [1], panel.step)  # compiles and loads before the clock runs
    began = time.process_time()
    for row in range(rows):
        for place in np.flatnonzero(asked).tolist():
            past = np.asarray(panel.series.values[row, panel.firsts[row] : panel.columns[row, place] + 1])
            values[row, place], upper[row, place] = one.answer(past, steps, panel.step)
    return Answer(name, values, upper, asked, time.process_time() - began)
