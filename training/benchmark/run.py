"""`forecaster benchmark`: runs all models on all panels, in processes of their own, and gathers what they reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forecaster.errors import InputError
from models import chain
from training.benchmark import measures
from training.benchmark.answers import BASELINES, NAIVE, OURS, SINGLE, Answer, answer, missing_packages, names_of
from training.benchmark.measures import Hours, SeriesRow, geometric
from training.benchmark.panels import HORIZONS, Panel, Skipped, files_of, panels_of
from training.benchmark.work import Call, done

LEAST_ANSWERED = 0.5  # of a family's origins and series: a baseline below it is not taken for its best one
LEAST_OF_HOUR = 100  # forecasts of one hour of the day, below which its coverage is not told


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the verb."""

    data: Path
    stamps_end: bool = False
    part: str = "test"
    origins: int = 28
    only: str | None = None
    models: tuple[str, ...] | None = None
    model: str = chain.BUNDLED
    processes: int = 2


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family, horizon and model."""

    family: str
    horizon: str
    model: str
    figures: Mapping[str, float | int]


@dataclass(frozen=True, slots=True)
class Best:
    """Ours beside the baseline that did best on one family and horizon, chosen in hindsight."""

    family: str
    horizon: str
    baseline: str
    ratio: float  # WQL of ours over its, on the same series and origins


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """The outcome of a run."""

    asked: Asked
    models: tuple[str, ...]
    left_out: Mapping[str, str]  # baseline -> package that is not installed
    rows: tuple[FamilyRow, ...]
    series: tuple[SeriesRow, ...]
    best: tuple[Best, ...]
    hours: Hours
    skipped: tuple[Skipped, ...]
    seconds: Mapping[str, float]  # model -> of all its forecasts, over all processes
    forecasts: Mapping[str, int]  # model -> origins × series that it was asked


def benchmark(asked: Asked, progress: Callable[[float], None]) -> Told:
    """Raises InputError for what the user must mend."""
    names, left_out = _models(asked)
    panels: list[Panel] = []
    skipped: list[Skipped] = []
    for path in files_of(asked.data, asked.only):
        made, without = panels_of(path, asked.stamps_end, asked.part, asked.origins)
        panels += made
        skipped += without
    rows, hours = [], Hours()
    seconds, forecasts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for panel, answers in _answered(panels, names, asked, progress):
        rows += measures.score(panel, answers, hours)
        for name, one in answers.items():
            seconds[name] += one.seconds
            forecasts[name] += int(one.asked.sum()) * len(panel.series.keys)
    rows.sort(key=lambda row: (row.family, list(HORIZONS).index(row.horizon), row.series, names.index(row.model)))
    by_family = _families(rows, names)
    return Told(
        asked=asked,
        models=names,
        left_out=left_out,
        rows=tuple(by_family),
        series=tuple(rows),
        best=tuple(_best(by_family)),
        hours=hours,
        skipped=tuple(skipped),
        seconds=seconds,
        forecasts=forecasts,
    )


def _models(asked: Asked) -> tuple[tuple[str, ...], dict[str, str]]:
    """The models that run, daily seasonal naive always, and the baselines whose package is missing."""
    known = names_of(asked.model)
    wanted = known if asked.models is None else (*asked.models, NAIVE)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--models: {unknown[0]!r} is not known: write some of {', '.join(known)}")
    missing = missing_packages(wanted)
    return tuple(name for name in known if name in wanted and name not in missing), missing


# --- processes -------------------------------------------------------------------------------------------------------


def _answered(
    panels: Sequence[Panel], names: Sequence[str], asked: Asked, progress: Callable[[float], None]
) -> list[tuple[Panel, dict[str, Answer]]]:
    """The answers of all models to all panels; what takes longest goes first."""
    work = sorted(
        ((_cost(panel, name), place, name) for place, panel in enumerate(panels) for name in names), reverse=True
    )
    out: list[dict[str, Answer]] = [{} for _ in panels]
    calls = [Call(cost, answer, (panels[place], name, asked.model)) for cost, place, name in work]
    for (_, place, name), said in zip(work, done(calls, asked.processes, progress), strict=True):
        out[place][name] = said
    return [(panel, {name: answers[name] for name in names}) for panel, answers in zip(panels, out, strict=True)]


def _cost(panel: Panel, name: str) -> float:
    """About the seconds of one core, for the order and the bar."""
    rows, origins = panel.columns.shape
    if name == OURS:
        stations = (int(panel.columns.max()) - int(panel.starts.min())) / panel.stride
        return float(stations * (0.04 + 0.002 * rows))
    each = {"ridge": 0.015, "auto_ets": 0.03, "mstl": 0.4, "fracast": 0.07}.get(name, 0.004)
    return float(rows * origins * each) / (SINGLE[name].stride(rows, origins) if name in SINGLE else 1)


# --- gathering -------------------------------------------------------------------------------------------------------


def _families(rows: Sequence[SeriesRow], names: Sequence[str]) -> list[FamilyRow]:
    by: dict[tuple[str, str, str], list[SeriesRow]] = {}
    for row in rows:
        by.setdefault((row.family, row.horizon, row.model), []).append(row)
    ordered = sorted(by, key=lambda key: (key[0], list(HORIZONS).index(key[1]), names.index(key[2])))
    return [FamilyRow(*key, measures.figures(by[key])) for key in ordered]


def _best(rows: Sequence[FamilyRow]) -> list[Best]:
    """The best baseline of each family and horizon; of those that answered half of the series and origins."""
    by: dict[tuple[str, str], list[FamilyRow]] = {}
    for row in rows:
        by.setdefault((row.family, row.horizon), []).append(row)
    out = []
    for (family, horizon), members in by.items():
        most = max(row.figures["series"] for row in members)
        fit = [
            row
            for row in members
            if row.model in BASELINES
            and row.figures["answered"] >= LEAST_ANSWERED
            and row.figures["series"] >= LEAST_ANSWERED * most
        ]
        ratios = [(_beside(row), row.model) for row in fit if not math.isnan(_beside(row))]
        if ratios:
            ratio, model = max(ratios)
            out.append(Best(family, horizon, model, ratio))
    return out


def _beside(row: FamilyRow) -> float:
    """Ours over the row's model."""
    return row.figures["forecasterRelativeWql"] / row.figures["relativeWql"]


def over_families(told: Told, horizon: str, model: str, name: str = "relativeWql") -> float:
    """Geometric mean over the families, each counting once."""
    return geometric(row.figures[name] for row in told.rows if row.horizon == horizon and row.model == model)


def beside_best(told: Told, horizon: str) -> tuple[float, Best | None]:
    """Ours over the best baseline of each family: geometric mean over families, and the worst of them."""
    mine = [one for one in told.best if one.horizon == horizon]
    return geometric(one.ratio for one in mine), max(mine, key=lambda one: one.ratio, default=None)


def worst_hour(told: Told, horizon: str) -> tuple[int, float] | None:
    """(hour of the day, coverage of our 80 % band) that lies furthest from 80 %."""
    count, hits = told.hours.count.get(horizon), told.hours.inside.get(horizon)
    if count is None or hits is None:
        return None
    shares = [(hour, hits[hour] / count[hour]) for hour in range(24) if count[hour] >= LEAST_OF_HOUR]
    return max(shares, key=lambda pair: abs(pair[1] - 0.8), default=None)
