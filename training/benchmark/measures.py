"""Measures of answers against what came: per series, then per family. docs/benchmarks.md defines each of them.

Every figure of a model rests on the same series and origins as the figures it is set beside: those at which a sample
came and the model, daily seasonal naive and ours (where it runs) all have an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forecaster.accuracy import inside, mase, quantile_loss
from forecaster.domain import BoolArray, FloatArray, IntArray
from training.backtest import DECILES, LEVELS, observed
from training.benchmark.answers import NAIVE, OURS, OURS_TUNED, Answer
from training.benchmark.panels import DAY, HOUR, Panel
from training.benchmark.ties import share_inside

FLOOR = 1e-3  # of a series' usual distance from its median: losses below it count as it
RISE = 0.2  # of the level: from here on a rise matters
LONGEST_PEAK = HOUR  # longer than any lead time
DECILE = [LEVELS.index(level) for level in DECILES]
MIDDLE = LEVELS.index(0.5)


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series, horizon and model."""

    family: str
    series: str
    horizon: str
    model: str
    asked: int  # origins at which a sample came, naive and ours answered, and the model was asked
    origins: int  # of these, those that it answered
    wql: float
    loss: float  # relative to daily seasonal naive
    ours: float  # our loss relative to it, on the same origins; NaN where ours did not run
    tuned: float  # that of ours fine-tuned, likewise
    naive_is_perfect: bool  # its loss is below the floor
    mase: float
    inside80: float  # count; NaN where the model has no such band
    inside98: float
    tied80: float  # the same counts with ties shared out, see training.benchmark.ties
    tied98: float
    rises: int  # that matter, among origins whose window is known
    seen: int
    calm: int  # origins without one
    called: int  # of these, at which it said one


@dataclass
class Hours:
    """Coverage of our 80 % band by hour of the day (UTC) of what is forecast."""

    inside: dict[str, FloatArray] = field(default_factory=dict)  # horizon -> (24,)
    count: dict[str, FloatArray] = field(default_factory=dict)

    def add(self, horizon: str, hours: IntArray, hits: BoolArray) -> None:
        self.inside[horizon] = self.inside.get(horizon, np.zeros(24)) + np.bincount(hours[hits], minlength=24)
        self.count[horizon] = self.count.get(horizon, np.zeros(24)) + np.bincount(hours, minlength=24)


def score(panel: Panel, answers: Mapping[str, Answer], hours: Hours) -> list[SeriesRow]:
    """Rows of all series, horizons and models of a panel; daily seasonal naive is among `answers`."""
    steps = np.array(list(panel.horizons.values()), dtype=np.int64)
    came = observed(panel.series, panel.columns, steps)
    tops, whole = _tops(panel, steps)
    level, now = _level(panel)
    out: list[SeriesRow] = []
    for row, key in enumerate(panel.series.keys):
        before = np.asarray(panel.series.values[row, panel.firsts[row] : panel.columns[row, 0] + 1], dtype=np.float64)
        floor = floor_of(before)
        for h, name in enumerate(panel.horizons):
            y = came[row, :, h]
            loss = {one: _loss(y, answer.values[row, :, h]) for one, answer in answers.items()}
            base = ~np.isnan(loss[NAIVE])
            for mine_too in (OURS, OURS_TUNED):
                if mine_too in loss:
                    base &= ~np.isnan(loss[mine_too])
            for model, answer in answers.items():
                asked = base & answer.asked
                use = asked & ~np.isnan(loss[model])
                if not asked.any():
                    continue
                mine, q = y[use], answer.values[row, use, h]
                naive = max(float(loss[NAIVE][use].sum()), floor * use.sum())
                total = float(np.abs(mine).sum())
                hit80 = inside(mine, q[:, LEVELS.index(0.1)], q[:, LEVELS.index(0.9)])
                hit98 = inside(mine, q[:, 0], q[:, -1])
                rise = _rises(
                    answer.upper[row, use, h], tops[row, use, h], now[row, use], level[row, use], whole[row, use, h]
                )
                out.append(
                    SeriesRow(
                        family=panel.family,
                        series=key.workload,
                        horizon=name,
                        model=model,
                        asked=int(asked.sum()),
                        origins=int(use.sum()),
                        wql=2 * float(loss[model][use].sum()) / total if total else math.nan,
                        loss=_ratio(loss[model][use], naive, floor),
                        ours=_ratio(loss[OURS][use], naive, floor) if OURS in loss else math.nan,
                        tuned=_ratio(loss[OURS_TUNED][use], naive, floor) if OURS_TUNED in loss else math.nan,
                        naive_is_perfect=bool(use.any() and loss[NAIVE][use].sum() <= floor * use.sum()),
                        mase=mase(mine, q[:, MIDDLE], before, panel.day) if use.any() else math.nan,
                        inside80=float(hit80.sum()),
                        inside98=float(hit98.sum()) if not np.isnan(q[:, 0]).any() else math.nan,
                        tied80=float(share_inside(mine, q, LEVELS, (0.1, 0.9), floor).sum()),
                        tied98=float(share_inside(mine, q, LEVELS, (0.01, 0.99), floor).sum()),
                        **rise,
                    )
                )
                if model == OURS and use.any():
                    at = panel.series.times[panel.columns[row, use]] + steps[h] * panel.step - 1
                    hours.add(name, at % DAY // HOUR, hit80)
    return out


def floor_of(before: FloatArray) -> float:
    """Loss below which no difference is one: a thousandth of the mean distance from the median, per origin."""
    known = before[~np.isnan(before)]
    middle = float(np.median(known))
    usual = float(np.abs(known - middle).mean()) or abs(middle) or 1.0
    return FLOOR * usual


def _loss(y: FloatArray, quantiles: FloatArray) -> FloatArray:
    """(origin,) mean pinball loss over the deciles."""
    return np.asarray(quantile_loss(y, quantiles[:, DECILE], np.array(DECILES)).mean(axis=-1))


def _ratio(loss: FloatArray, naive: float, floor: float) -> float:
    return max(float(loss.sum()), floor * len(loss)) / naive if len(loss) else math.nan


def _tops(panel: Panel, steps: IntArray) -> tuple[FloatArray, BoolArray]:
    """(series, origin, horizon) highest sample up to each horizon, and whether half of them are there.

    Not beyond LONGEST_PEAK.
    """
    rows, width = panel.series.values.shape
    out = np.full((*panel.columns.shape, len(steps)), np.nan)
    whole = np.zeros(out.shape, dtype=np.bool_)
    for h, reach in enumerate(steps.tolist()):
        if reach * panel.step > LONGEST_PEAK:
            continue
        at = panel.columns[:, :, None] + np.arange(1, reach + 1)
        taken = panel.series.values[np.arange(rows)[:, None, None], np.minimum(at, width - 1)]
        known = ~np.isnan(taken) & (at < width)
        out[:, :, h] = np.where(known, taken, -np.inf).max(axis=-1)
        whole[:, :, h] = 2 * known.sum(axis=-1) >= reach
    return out, whole


def _level(panel: Panel) -> tuple[FloatArray, FloatArray]:
    """(series, origin) what a rise is measured by, and the value at the origin."""
    rows = np.arange(len(panel.series.keys))[:, None]
    now = np.asarray(panel.series.values, dtype=np.float64)[rows, panel.columns]
    at = np.maximum(panel.columns[:, :, None] - np.arange(panel.day), 0)
    day = np.abs(panel.series.values[rows[:, :, None], at].astype(np.float64))
    known = ~np.isnan(day)
    mean = np.where(known, day, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.fmax(np.abs(now), mean), now


def _rises(upper: FloatArray, top: FloatArray, now: FloatArray, level: FloatArray, whole: BoolArray) -> dict[str, int]:
    """Of (origin,): a rise matters where the highest value to come lies RISE of the level above the value now."""
    usable = whole & ~np.isnan(now) & ~np.isnan(upper) & (level > 0)
    upper, top, now, level = upper[usable], top[usable], now[usable], level[usable]
    rise = top - now >= RISE * level
    seen = upper >= now + (top - now) / 2
    called = upper >= now + RISE * level
    return {
        "rises": int(rise.sum()),
        "seen": int((rise & seen).sum()),
        "calm": int((~rise).sum()),
        "called": int((~rise & called).sum()),
    }


# --- families --------------------------------------------------------------------------------------------------------


def geometric(values: Iterable[float]) -> float:
    """NaN where there is none."""
    known = [value for value in values if value == value]
    return math.exp(sum(math.log(value) for value in known) / len(known)) if known else math.nan


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.median(known)) if known else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def figures(rows: Sequence[SeriesRow]) -> dict[str, float | int]:
    """The figures of some series of one horizon and model, as the JSON names them."""
    scored = [row for row in rows if row.origins]
    banded = [row for row in scored if row.inside98 == row.inside98]
    origins = sum(row.origins for row in scored)
    return {
        "series": len(scored),
        "origins": origins,
        "answered": _share(origins, sum(row.asked for row in rows)),
        "wql": _median(row.wql for row in scored),
        "relativeWql": geometric(row.loss for row in scored),
        "forecasterRelativeWql": geometric(row.ours for row in scored),
        "tunedRelativeWql": geometric(row.tuned for row in scored),
        "naiveIsPerfect": sum(row.naive_is_perfect for row in scored),
        "mase": _median(row.mase for row in scored),
        "coverage80": _share(sum(row.inside80 for row in scored), origins),
        "coverage98": _share(sum(row.inside98 for row in banded), sum(row.origins for row in banded)),
        "coverage80Ties": _share(sum(row.tied80 for row in scored), origins),
        "coverage98Ties": _share(sum(row.tied98 for row in banded), sum(row.origins for row in banded)),
        "peakRecall": _share(sum(row.seen for row in scored), sum(row.rises for row in scored)),
        "peakFalse": _share(sum(row.called for row in scored), sum(row.calm for row in scored)),
        "rises": sum(row.rises for row in scored),
    }
