"""What the external metric of `forecaster generate` costs and gives, on loads of one's own: a table.

    python -m tests.benchmarks.external_metric --data FOLDER --startup 180

The HPA reads a metric each 15 s that is the mean of a minute, 30 s old: the load alone (the reactive HPA, at its own
target of 70 %), the default metric, and that of `--save`, which comes with `behavior.scaleUp.tolerance: 0`. Our floors
are those of `forecaster whatif` (profile, dial 1 %, hold 10 minutes, causal); the test part counts. The values are
what the PromQL gives while we are alive; tests/integration/test_external_metric.py holds that to a real Prometheus.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling import raised_target
from forecaster.scaling.hpa import SYNC_SECONDS, Hpa, HpaState, Rules, reconcile, with_defaults
from forecaster.scaling.hpa_metrics import Tolerances, average_proposal
from forecaster.scaling.whatif import peaks
from forecaster.scaling.whatif.play import ready_of
from forecaster.scaling.whatif.settings import Floors, Setting
from forecaster.scaling.whatif.trial import Trial
from models.fits import FitCache
from models.profile import Profile
from serving.whatif import Size, from_files

DIAL = Setting(70, 300.0, hold=600.0, level=0.99, dialled=True)
WINDOW, DELAY = 4, 2  # ticks


def seen(load: FloatArray) -> FloatArray:
    """(tick,) what the HPA reads of the load: the mean of a minute, 30 s old."""
    padded = np.concatenate((np.full(WINDOW + DELAY - 1, load[0]), load))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, WINDOW).mean(axis=1)[: len(load)])


def scaled(values: FloatArray, target: float, trial: Trial, tolerance: float | None) -> IntArray:
    """(tick,) replicas under an HPA whose only metric is `values`. `tolerance` None: no `behavior`."""
    behavior = None if tolerance is None else with_defaults(Rules(tolerance=tolerance), None)
    tolerances = Tolerances() if tolerance is None else Tolerances(up=tolerance)
    spec = trial.hpa
    hpa = Hpa(spec.max_replicas, spec.min_replicas, behavior, metric_types=("External",))
    milli = 1000.0 / target  # the target becomes 1
    current = min(max(math.ceil(values[0] / target), spec.min_replicas), spec.max_replicas)
    state, out = HpaState(), np.empty(len(values), dtype=np.int64)
    for i, value in enumerate((values * milli).tolist()):
        proposal = average_proposal((int(value),), current, 1000, tolerances, external=True)
        done, state = reconcile(hpa, current, [proposal], state, i * SYNC_SECONDS)
        current = out[i] = done.replicas
        if state.recommendations is not None and len(state.recommendations) > 64:  # only the last window matters
            state = replace(state, recommendations=state.recommendations[-32:])
    return out


def figures(trial: Trial, floors: IntArray) -> dict[str, tuple[float, float]]:
    """policy -> (replica-hours, share of time above capacity), of the test part."""
    load, ours = trial.load[trial.cut_tick :], floors[trial.cut_tick :]
    ratio = trial.hpa.target / 100
    target, read = trial.capacity * ratio, seen(load)
    reactive = np.ceil(np.round(read / target, 6))
    metrics = {
        "reactive HPA": (read, None),
        "external metric": (np.maximum(np.maximum(ours, reactive) * target, read), None),
        "--save": (np.maximum(ours * target, read * ratio / raised_target.MOST), 0.0),
    }
    out = {}
    for name, (values, tolerance) in metrics.items():
        replicas = scaled(values, target, trial, tolerance)
        above = load > trial.capacity * ready_of(replicas, trial.start_up) * (1 + 1e-9)
        out[name] = float(replicas.sum() * SYNC_SECONDS / 3600), float(above.mean())
    return out


def measure(data: Path, start_up: int, only: str) -> None:
    trials = from_files(data, False, (start_up,), Size(), False, only).trials
    found: dict[str, list[tuple[float, float]]] = {}
    print(f"{'series':44} {'hours':>8} {'above':>7}   {'metric':>7} {'above':>7}   {'--save':>7} {'above':>7}")
    for step in sorted({one.step for one in trials}):
        some = [one for one in trials if one.step == step]
        replayed = peaks.replay(some, Profile(cache=FitCache(renews=False)), [start_up])
        for row, trial in enumerate(some):
            floors = Floors(trial, peaks.on_ticks(trial, replayed[row], 0)).of(DIAL)
            assert floors is not None
            told = figures(trial, floors)
            for name, pair in told.items():
                found.setdefault(name, []).append(pair)
            (hours, above), (cost, less), (saved, still) = told.values()
            line = f"{trial.name[:44]:44} {hours:8.0f} {above:7.2%}   {cost / hours - 1:+7.1%} {less:7.2%}   "
            print(f"{line}{saved / hours - 1:+7.1%} {still:7.2%}", flush=True)
    base = np.array(found["reactive HPA"])
    print(f"\n{len(base)} series, start-up {start_up} s: against the reactive HPA at its target")
    for name, pairs in found.items():
        here = np.array(pairs)
        cost = here[:, 0] / base[:, 0] - 1
        pooled = here[:, 0].sum() / base[:, 0].sum() - 1
        worse = int((here[:, 1] > base[:, 1] + 0.001).sum())
        print(
            f"  {name:16} replica-hours {np.median(cost):+6.1%} median, {pooled:+6.1%} pooled; above capacity "
            f"{np.median(here[:, 1]):.3%} median, {here[:, 1].mean():.3%} mean; worse by 0.1 points on {worse}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--startup", type=int, default=180)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    measure(asked.data, asked.startup, asked.only)
