"""`forecaster benchmark`: runs all models on all panels, in processes of their own, and gathers what they reach."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forecaster.errors import InputError
from models import chain
from training.benchmark import measures, sets
from training.benchmark.answers import (
    BASELINES,
    NAIVE,
    OURS,
    OURS_TUNED,
    SINGLE,
    Answer,
    answer,
    is_tuned,
    missing_packages,
    names_of,
)
from training.benchmark.measures import Hours, SeriesRow, geometric
from training.benchmark.panels import HORIZONS, Panel, Skipped, files_of, panels_of
from training.benchmark.work import Call, done

if TYPE_CHECKING:
    from training.benchmark.tuned import Tuned

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
    tune: bool = False  # fine-tune on each family's past, and report beside
    sets: bool = False  # the two sets of series of training.benchmark.sets, instead of families


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
    tuned: float = math.nan  # that of ours fine-tuned


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
    helped: Mapping[str, bool] = field(default_factory=dict)  # family -> whether fine-tuning did; {}: it was not asked


def benchmark(asked: Asked, progress: Callable[[float], None]) -> Told:
    """Raises InputError for what the user must mend."""
    names, left_out = _models(asked)
    panels, skipped = _panels(asked)
    rows, hours = [], Hours()
    seconds, forecasts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    with tempfile.TemporaryDirectory() as folder:
        networks = _tuned(panels, names, asked, Path(folder))
        answered = _answered(panels, names, asked, networks, progress)
    for panel, answers in answered:
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
        helped={family: one.helped for family, one in networks.items()},
    )


def _panels(asked: Asked) -> tuple[list[Panel], list[Skipped]]:
    if asked.sets:
        return sets.panels_of(asked.data, asked.stamps_end), []
    panels: list[Panel] = []
    skipped: list[Skipped] = []
    for path in files_of(asked.data, asked.only):
        made, without = panels_of(path, asked.stamps_end, asked.part, asked.origins)
        panels += made
        skipped += without
    return panels, skipped


def _tuned(panels: Sequence[Panel], names: Sequence[str], asked: Asked, folder: Path) -> dict[str, Tuned]:
    """Family -> the network that was fine-tuned on what lies before its first origins."""
    if not any(is_tuned(name) for name in names):
        return {}
    from training.benchmark.tuned import tuned

    return tuned(panels, asked.model, folder)


def _models(asked: Asked) -> tuple[tuple[str, ...], dict[str, str]]:
    """The models that run, daily seasonal naive always, and the baselines whose package is missing."""
    known = names_of(asked.model, asked.tune)
    wanted = known if asked.models is None else (*asked.models, NAIVE)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--models: {unknown[0]!r} is not known: write some of {', '.join(known)}")
    missing = missing_packages(wanted)
    return tuple(name for name in known if name in wanted and name not in missing), missing


# --- processes -------------------------------------------------------------------------------------------------------


def _answered(
    panels: Sequence[Panel],
    names: Sequence[str],
    asked: Asked,
    networks: Mapping[str, Tuned],
    progress: Callable[[float], None],
) -> list[tuple[Panel, dict[str, Answer]]]:
    """The answers of all models to all panels; what takes longest goes first."""
    work = sorted(
        ((_cost(panel, name), place, name) for place, panel in enumerate(panels) for name in names), reverse=True
    )

    def model(place: int, name: str) -> str:
        return networks[panels[place].family].folder if is_tuned(name) else asked.model

    out: list[dict[str, Answer]] = [{} for _ in panels]
    calls = [Call(cost, answer, (panels[place], name, model(place, name))) for cost, place, name in work]
    for (_, place, name), said in zip(work, done(calls, asked.processes, progress), strict=True):
        out[place][name] = said
    return [(panel, {name: answers[name] for name in names}) for panel, answers in zip(panels, out, strict=True)]


def _cost(panel: Panel, name: str) -> float:
    """About the seconds of one core, for the order and the bar."""
    rows, origins = panel.columns.shape
    if name in (OURS, OURS_TUNED):
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
        rated = [row for row in fit if not math.isnan(_beside(row))]
        if rated:
            hardest = max(rated, key=_beside)
            tuned = hardest.figures["tunedRelativeWql"] / hardest.figures["relativeWql"]
            out.append(Best(family, horizon, hardest.model, _beside(hardest), tuned))
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


def tuned_beside_best(told: Told, horizon: str) -> float:
    """Ours fine-tuned over the same baselines; NaN where it did not run."""
    return geometric(one.tuned for one in told.best if one.horizon == horizon)


def worst_hour(told: Told, horizon: str) -> tuple[int, float] | None:
    """(hour of the day, coverage of our 80 % band) that lies furthest from 80 %."""
    count, hits = told.hours.count.get(horizon), told.hours.inside.get(horizon)
    if count is None or hits is None:
        return None
    shares = [(hour, hits[hour] / count[hour]) for hour in range(24) if count[hour] >= LEAST_OF_HOUR]
    return max(shares, key=lambda pair: abs(pair[1] - 0.8), default=None)
