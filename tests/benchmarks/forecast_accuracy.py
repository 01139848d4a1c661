"""Accuracy of the statistical forecasters on a folder of tidy parquet files, beside seasonal naive and AutoETS.

    python tests/benchmarks/forecast_accuracy.py DATA_DIR [--json] [--part test|tune] [--origins N] [--only FAMILY]

Rolling origins over the last 30 % of each series (`--part tune`: over what lies between 30 % and 60 %), forecasts at
15 min, 1 h and 24 h from what was known at each origin: up to 28 days before it. Files stamp the start of an interval;
inside, t is its end. Uncalibrated: what the online calibration adds is not in these figures. A figure of a family is
the geometric mean over its series of the ratio to daily seasonal naive, and the mean of the coverages. Series on which
daily seasonal naive makes no error at all are counted, not averaged. AutoETS (statsforecast, no season, the last 576
samples) sees every fourth origin; its ratio is taken on those origins alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from forecaster.accuracy import inside, mase, quantile_loss
from forecaster.domain import Context, FloatArray, ForecastRequest, SeriesKey
from forecaster.ports import Forecaster
from models.persistence import Persistence
from models.posted import context_of
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive

LEVELS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
SCORED = slice(1, 10)  # the nine deciles
HORIZONS = {"15m": 900, "1h": 3600, "24h": 86_400}
HISTORY_SECONDS = 28 * 86_400
ETS_EVERY, ETS_SAMPLES = 4, 576
MODELS: dict[str, Callable[[], Forecaster]] = {
    "forecaster": Profile,
    "persistence": Persistence,
    "seasonal_naive_day": lambda: SeasonalNaive("day"),
    "seasonal_naive_week": lambda: SeasonalNaive("week"),
}
BASE = "seasonal_naive_day"


@dataclass(frozen=True)
class Family:
    """Series of one file that share grid and times."""

    name: str
    keys: tuple[str, ...]
    values: FloatArray  # (series, time)
    first_end: int  # Unix seconds: end of the first interval
    step: int


def families(folder: Path, only: str | None) -> list[Family]:
    """The files of `folder` that look like series, cut into groups on one time axis."""
    found = []
    for path in sorted(folder.glob("*.parquet")):
        if only is not None and only not in path.stem:
            continue
        table = pd.read_parquet(path)
        groups: dict[tuple[int, int, int], list[tuple[str, FloatArray]]] = {}
        for name, part in table.groupby("series_id", observed=True):
            times = part["timestamp"].astype("datetime64[s, UTC]").astype("int64").to_numpy()
            order = np.argsort(times)
            step = int(np.median(np.diff(times[order])))
            values = part["value"].to_numpy(dtype=np.float64)[order]
            first, count = int(times[order][0]), len(values)
            assert int(times[order][-1]) == first + (count - 1) * step, f"{path}: {name} is not on a regular grid"
            groups.setdefault((first, count, step), []).append((str(name), values))
        for (first, _, step), members in groups.items():
            keys = tuple(name for name, _ in members)
            found.append(Family(path.stem, keys, np.array([v for _, v in members]), first + step, step))
    return found


def origins_of(family: Family, part: str, count: int) -> list[int]:
    """Columns of the origins; each leaves room for the longest horizon that fits."""
    width = family.values.shape[1]
    start, end = (round(0.7 * width), width) if part == "test" else (round(0.3 * width), round(0.6 * width))
    longest = min(max(HORIZONS.values()) // family.step, (end - start) // 2)
    # An odd stride, so that the origins meet every hour of the day.
    places = np.linspace(start, end - 1 - longest, count)
    return [int(place) for place in places]


def at_origin(family: Family, column: int) -> Context:
    """What was known at the end of column `column`."""
    first = max(0, column + 1 - HISTORY_SECONDS // family.step)
    origin = datetime.fromtimestamp(family.first_end + column * family.step, UTC)
    keys = [SeriesKey(name) for name in family.keys]
    full = context_of(keys, family.values[:, first : column + 1], origin, timedelta(seconds=family.step))
    fine = full.fine.values[:, -2880:]
    return Context(type(full.fine)(full.fine.keys, origin, full.fine.step, fine), full.coarse, full.calendar)


def request_for(family: Family, steps: Sequence[int]) -> ForecastRequest:
    windows = np.full(len(family.keys), max(1, 600 // family.step))
    return ForecastRequest(np.array(steps, dtype=np.int64), LEVELS, windows)


def auto_ets(values: FloatArray, steps: Sequence[int]) -> FloatArray | None:
    """(step, level) of AutoETS; None where it cannot be fitted."""
    from statsforecast.models import AutoETS

    tail = values[-ETS_SAMPLES:]
    known = ~np.isnan(tail)
    if known.sum() < 24 or np.ptp(tail[known]) == 0:
        return None
    index = np.arange(len(tail))
    filled = np.interp(index, index[known], tail[known])
    bands = [20.0, 40.0, 60.0, 80.0, 98.0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = AutoETS(season_length=1).forecast(y=filled, h=max(steps), level=bands)
    except Exception:  # a baseline that fails to fit is left out of its own row, and counted there
        return None
    rows = np.array(steps) - 1
    low = [answer[f"lo-{band:g}" if f"lo-{band:g}" in answer else f"lo-{band}"][rows] for band in reversed(bands)]
    high = [answer[f"hi-{band:g}" if f"hi-{band:g}" in answer else f"hi-{band}"][rows] for band in bands]
    return np.stack([*low, answer["mean"][rows], *high], axis=1)


def measure(family: Family, part: str, count: int, ets: bool) -> tuple[list[dict[str, object]], dict[str, float]]:
    """One row per series, horizon and model; and the seconds that each model took."""
    names = {seconds // family.step: name for name, seconds in HORIZONS.items() if seconds >= family.step}
    steps = sorted(names)
    columns = origins_of(family, part, count)
    shape = (len(family.keys), len(columns), len(steps), len(LEVELS))
    answers = {name: np.full(shape, np.nan) for name in MODELS}
    if ets:
        answers["auto_ets"] = np.full(shape, np.nan)
    peaks = {name: np.full((shape[0], shape[1], len(LEVELS)), np.nan) for name in MODELS}
    observed = np.full(shape[:3], np.nan)
    tops = np.full(shape[:2], np.nan)
    spent = dict.fromkeys(answers, 0.0)
    width = family.values.shape[1]
    for i, column in enumerate(columns):
        context, request = at_origin(family, column), request_for(family, steps)
        for j, step in enumerate(steps):
            if column + step < width:
                observed[:, i, j] = family.values[:, column + step]
        window = family.values[:, column + 1 : column + 1 + int(request.windows[0])]
        tops[:, i] = np.where(np.isnan(window).any(axis=1), np.nan, np.fmax.reduce(window, axis=1))
        for name, make in MODELS.items():
            began = time.perf_counter()
            forecast = make().forecast(context, request)
            spent[name] += time.perf_counter() - began
            answers[name][:, i], peaks[name][:, i] = forecast.values, forecast.peak
        if ets and i % ETS_EVERY == 0:
            began = time.perf_counter()
            for row in range(len(family.keys)):
                answer = auto_ets(family.values[row, : column + 1], steps)
                if answer is not None:
                    answers["auto_ets"][row, i] = answer
            spent["auto_ets"] += time.perf_counter() - began
    levels = np.array(LEVELS)
    rows: list[dict[str, object]] = []
    for row, key in enumerate(family.keys):
        past = family.values[row, : columns[0] + 1]
        for j, step in enumerate(steps):
            base = answers[BASE][row, :, j]
            for name, answer in answers.items():
                mine = answer[row, :, j]
                y = np.where(np.isnan(mine[:, 0]) | np.isnan(base[:, 0]), np.nan, observed[row, :, j])
                known = ~np.isnan(y)
                if not known.any():
                    continue
                loss = float(quantile_loss(y[known], mine[known][:, SCORED], levels[SCORED]).sum())
                naive = float(quantile_loss(y[known], base[known][:, SCORED], levels[SCORED]).sum())
                total = float(np.abs(y[known]).sum())
                top = np.where(np.isnan(peaks[name][row, :, 0]), np.nan, tops[row]) if name in peaks else np.array([])
                seen = ~np.isnan(top)
                rows.append(
                    {
                        "task": "forecast",
                        "family": family.name,
                        "series": key,
                        "horizon": names[step],
                        "model": name,
                        "origins": int(known.sum()),
                        "wql": 2 * loss / 9 / total if total else math.nan,
                        "relativeWql": loss / naive if naive > 0 else math.nan,
                        "naiveIsPerfect": naive == 0,
                        "mase": mase(y, mine[:, 5], past, max(1, 86_400 // family.step)),
                        "coverage80": float(inside(y[known], mine[known, 1], mine[known, 9]).mean()),
                        "coverage98": float(inside(y[known], mine[known, 0], mine[known, 10]).mean()),
                        "peakBelow90": float((top[seen] <= peaks[name][row, seen, 9]).mean())
                        if seen.any()
                        else math.nan,
                        "peakBelow99": float((top[seen] <= peaks[name][row, seen, 10]).mean())
                        if seen.any()
                        else math.nan,
                    }
                )
    return rows, spent


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Per family, horizon and model; family "all" is the mean over series of all families."""
    table = pd.DataFrame(rows)
    both = pd.concat([table, table.assign(family="all")])
    out = []
    for (family, horizon, model), part in both.groupby(["family", "horizon", "model"], sort=True):
        ratio = part["relativeWql"].astype(float)
        good = ratio[(ratio > 0) & np.isfinite(ratio)]
        out.append(
            {
                "task": "forecast",
                "family": family,
                "horizon": horizon,
                "model": model,
                "series": len(part),
                "naiveIsPerfect": int(part["naiveIsPerfect"].sum()),
                "wql": float(part["wql"].median()),
                "relativeWql": float(np.exp(np.log(good).mean())) if len(good) else math.nan,
                "mase": float(part["mase"].median()),
                **{
                    name: float((part[name] * part["origins"]).sum() / part["origins"][part[name].notna()].sum())
                    if part[name].notna().any()
                    else math.nan
                    for name in ("coverage80", "coverage98", "peakBelow90", "peakBelow99")
                },
            }
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=("test", "tune"), default="test")
    parser.add_argument("--origins", type=int, default=37)
    parser.add_argument("--only", default=None)
    parser.add_argument("--no-ets", action="store_true")
    parser.add_argument("--series", action="store_true", help="one line per series too")
    options = parser.parse_args()
    began = time.perf_counter()
    rows: list[dict[str, object]] = []
    spent: dict[str, float] = {}
    for family in families(options.data, options.only):
        part, seconds = measure(family, options.part, options.origins, not options.no_ets)
        rows += part
        for name, value in seconds.items():
            spent[name] = spent.get(name, 0.0) + value
        print(f"{family.name}: {len(family.keys)} series, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    result = summary(rows)
    if options.json:
        seconds = {name: round(value, 1) for name, value in spent.items()}
        print(json.dumps({"schemaVersion": 1, "part": options.part, "rows": result, "seconds": seconds}, indent=1))
        return 0
    figures = ("80%", "98%", "pk90", "pk99")
    head = f"{'family':24} {'h':>4} {'model':20} {'n':>4} {'WQL':>8} {'rel.':>6} {'MASE':>6} "
    head += " ".join(f"{figure:>5}" for figure in figures)
    print(head)
    for row in sorted(
        result, key=lambda r: (r["family"] == "all", r["family"], list(HORIZONS).index(str(r["horizon"])))
    ):
        shares = [f"{row[name]:5.3f}" for name in ("coverage80", "coverage98", "peakBelow90", "peakBelow99")]
        print(
            f"{row['family']:24} {row['horizon']:>4} {row['model']:20} {row['series']:>4} {row['wql']:8.4f}"
            f" {row['relativeWql']:6.3f} {row['mase']:6.3f} {' '.join(shares)}"
        )
    if options.series:
        for row in rows:
            if row["model"] == "forecaster":
                print(row["family"], row["series"], row["horizon"], f"{row['relativeWql']:.3f} {row['coverage80']:.2f}")
    print(f"AutoETS on every {ETS_EVERY}th origin; seconds by model:", {k: round(v, 1) for k, v in spent.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
