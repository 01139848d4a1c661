"""Series on which every alarm is false: what an alarm budget comes to where nothing happens.

Two kinds. Synthetic ones are stationary by construction, about a daily shape, with noise of several memories and tails.
Surrogates keep the daily profile and the spectrum of a real series' residuals and draw their phases anew (Theiler et
al., "Testing for nonlinearity in time series", Physica D 58, 1992): its labelled and unlabelled events are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray, IntArray
from models.wall_clock import DAY
from training.anomalies import points
from training.anomalies.cases import LONGEST_WARM_UP, WARM_UP_SHARE, Case
from training.anomalies.detectors import Detector
from training.anomalies.events import Labelled, Outcome
from training.anomalies.run import BUDGETS, Scored, ratios_of, scored_by
from training.synthetic_clock import Clock
from training.synthetic_random import autoregression
from training.synthetic_seasons import load_season

LEAST_WEEKS = 160
STEP = 300
SYNTHETIC_SERIES, SYNTHETIC_WEEKS = 18, 10
START = 1_767_571_500  # a Monday in 2026, UTC; ends of intervals


@dataclass(frozen=True, slots=True, eq=False)
class NullRow:
    """A detector on one kind of null series."""

    family: str
    model: str
    budget: float
    outcome: Outcome


def measured_nulls(
    cases: Sequence[Case],
    detectors: Mapping[str, Detector],
    seed: int,
    processes: int,
    progress: Callable[[float], None],
) -> list[NullRow]:
    """The realised false alarms of all detectors on synthetic nulls and on surrogates of the families of `cases`."""
    nulls = synthetic(seed)
    for family in dict.fromkeys(case.family for case in cases):
        nulls += surrogates([case for case in cases if case.family == family], seed)
    said = scored_by(nulls, detectors, processes, progress)
    rows = []
    for family in dict.fromkeys(case.family for case in nulls):
        members = [i for i, case in enumerate(nulls) if case.family == family]
        for name in detectors:
            rows += _rows(family, name, [nulls[i] for i in members], [said[i, name] for i in members])
    return rows


def _rows(family: str, model: str, cases: Sequence[Case], scores: Sequence[Scored]) -> list[NullRow]:
    spans = [case.span for case in cases]
    return [
        NullRow(family, model, budget, points.at(ratios_of(cases, scores, budget), spans, 1.0).outcome)
        for budget in BUDGETS
    ]


def synthetic(seed: int) -> list[Case]:
    """SYNTHETIC_SERIES loads of SYNTHETIC_WEEKS: a daily shape, and noise whose law never changes."""
    clock = Clock(STEP, START, SYNTHETIC_WEEKS * 7 * DAY // STEP)
    cases = []
    for i in range(SYNTHETIC_SERIES):
        rng = np.random.default_rng((seed, i))
        cases.append(_null("synthetic", f"{i:02d}", clock.edges[1:], STEP, _load(rng, clock, i)))
    return cases


def _load(rng: Generator, clock: Clock, kind: int) -> FloatArray:
    """A load about a fixed day; `kind` goes through memories of the noise and through its tails."""
    phi = (0.0, 0.6, 0.9)[kind % 3]
    heavy = kind // 3 % 2 == 1
    draws: FloatArray = rng.standard_t(5, clock.size) / math.sqrt(5 / 3) if heavy else rng.standard_normal(clock.size)
    noise = autoregression(draws * math.sqrt(1 - phi * phi), phi)
    day = load_season(rng, Clock(clock.step, clock.first_end, DAY // clock.step))
    season = np.tile(day / day.mean(), -(-clock.size // len(day)))[: clock.size]
    return np.asarray(100 * np.maximum(season + rng.uniform(0.02, 0.1) * noise, 0.0))


def surrogates(cases: Sequence[Case], seed: int) -> list[Case]:
    """So many draws of each series that they make LEAST_WEEKS together."""
    weeks = sum(
        _null(case.family, case.name, case.span.times, case.span.step, case.values).span.weeks for case in cases
    )
    draws = math.ceil(LEAST_WEEKS / weeks)
    out = []
    for i, case in enumerate(cases):
        for draw in range(draws):
            rng = np.random.default_rng((seed, i, draw))
            values = phase_randomised(case.values, max(DAY // case.span.step, 1), rng)
            name = f"{case.name}#{draw}"
            out.append(_null(f"surrogate {case.family}", name, case.span.times, case.span.step, values))
    return out


def phase_randomised(values: FloatArray, day: int, rng: Generator) -> FloatArray:
    """A series (n,) with the daily profile of `values` and residuals of the same spectrum, random otherwise.

    `day` is the number of rows of a day. Gaps stay. It is no forecast and may look at all of the series.
    """
    known = ~np.isnan(values)
    phase = np.arange(len(values)) % day
    count = np.bincount(phase[known], minlength=day)
    mean = float(values[known].mean())
    sums = np.bincount(phase[known], weights=values[known], minlength=day)
    profile = np.where(count > 0, sums / np.maximum(count, 1), mean)[phase]
    residual = np.where(known, values - profile, 0.0)
    spectrum = np.fft.rfft(residual)
    turned = spectrum * np.exp(2j * np.pi * rng.random(len(spectrum)))
    turned[0] = spectrum[0]
    if len(values) % 2 == 0:
        turned[-1] = spectrum[-1]  # the fastest wave of an even number of rows has no phase
    return np.where(known, profile + np.fft.irfft(turned, len(values)), np.nan)


def _null(family: str, name: str, times: IntArray, step: int, values: FloatArray) -> Case:
    n = len(values)
    first = round(min(WARM_UP_SHARE * n, LONGEST_WARM_UP / step))
    span = Labelled(times, step, ~np.isnan(values), np.zeros((0, 2), dtype=np.int64), first)
    return Case(family, name, values, np.zeros(n, dtype=np.bool_), span, 0)
