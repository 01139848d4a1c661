"""What a raised CPU target saves, and what it costs in time above capacity, on loads of one's own: a table.

    python -m tests.benchmarks.raised_target --data FOLDER --startup 180

Beside the user's HPA alone (target 70 %): our floor on it (mixture, dial 1 %, hold 10 minutes, causal), and the same
with `manage: [minReplicas, target]` at 80 and 90 %. The rule is the live one (forecaster.scaling.raised_target), tick
by tick in a closed loop: whether it is calm depends on the replicas that are ready, and those on the target. The test
part counts. Data are sound and skill is not gated: the one reason that plays is the limit of new peaks.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from forecaster.domain import FloatArray, HpaFacts, IntArray, ScaleSpec
from forecaster.quantiles import at_level
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling import raised_target
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.raised_target import Moment
from forecaster.scaling.simulate import Simulation
from forecaster.scaling.whatif import faults, floors, peaks
from forecaster.scaling.whatif.peaks import LEVELS, Said
from forecaster.scaling.whatif.settings import highest_load
from forecaster.scaling.whatif.trial import Trial
from serving.whatif import Size, from_files, mixture_of

RAISED = (0.8, 0.9)
POLICIES = ("the HPA alone", "floor", *(f"floor, target {ratio:.0%}" for ratio in RAISED))


def wanted(trial: Trial, said: Said) -> tuple[IntArray, FloatArray, IntArray]:
    """(floors, what the forecast asks for or NaN, the limit of new peaks), (tick,) each."""
    floor, level = faults.floors_under(trial, said, 0)
    peak = peaks.on_ticks(trial, said, 0)
    rows = np.arange(len(level))
    several = np.array([at_level(peak[i : i + 1].astype(np.float64), LEVELS, level[i])[0] for i in rows])
    need = np.ceil(np.round(several / trial.capacity, 6))
    return floor, need, floors.most_needed(highest_load(trial), trial.capacity)


def played(trial: Trial, said: Said) -> FloatArray:
    """(policy, 3) replica-hours, share of time above capacity, and share of time raised, of the test part."""
    floor, need, limit = (array[trial.cut_tick :] for array in wanted(trial, said))
    load, own = trial.load[trial.cut_tick :], trial.hpa.target
    count = len(POLICIES)
    simulation = Simulation(
        [trial.service()] * count, np.full(count, load[0]), first_floors=np.array([0, *[floor[0]] * (count - 1)])
    )
    specs = [ScaleSpec("-", trial.name, raised_target_ratio=ratio) for ratio in (None, None, *RAISED)]
    facts = HpaFacts(cpu_target=own)
    asked = [raised_target.wanted(spec, facts) for spec in specs]
    hold = specs[0].hold.total_seconds() / SYNC_SECONDS
    since = [math.nan] * count
    above = hours = np.zeros(count)
    raised = np.zeros(count)
    cut = (Reason(ReasonCode.MAX_REPLICAS_REACHED),)
    for tick in range(len(load)):
        seen = float(load[max(tick - 1, 0)])
        ready = simulation.ready
        targets = np.full(count, own)
        for row in range(2, count):
            proactive = None if math.isnan(need[tick]) else int(need[tick])
            reasons = cut if need[tick] > limit[tick] else ()
            moment = Moment(int(floor[tick]), proactive, seen, trial.capacity, reasons)
            calm = raised_target.calm(moment, replace(facts, ready_replicas=int(ready[row])))
            since[row] = (since[row] if since[row] == since[row] else tick) if calm else math.nan
            if asked[row] is not None and tick - since[row] >= hold:
                targets[row] = asked[row]
        simulation.retarget(targets)
        raised += targets > own
        done = simulation.step(np.full(count, load[tick]), np.array([0, *[floor[tick]] * (count - 1)]))
        above = above + (load[tick] > done.ready[:, 0] * trial.capacity)
        hours = hours + done.replicas[:, 0] * SYNC_SECONDS / 3600
    return np.column_stack((hours, above / len(load), raised / len(load)))


def measure(data: Path, start_up: int, only: str) -> None:
    trials = from_files(data, False, (start_up,), Size(), False, only).trials
    found = []
    print(
        f"{'series':40} {'alone':>8} {'above':>7}" + "".join(f" {name[-11:]:>12} {'above':>7}" for name in POLICIES[1:])
    )
    for step in sorted({one.step for one in trials}):
        some = [one for one in trials if one.step == step]
        for trial, said in zip(some, mixture_of(some, [start_up]), strict=True):
            told = played(trial, said)
            found.append(told)
            rest = "".join(f" {hours / told[0, 0] - 1:+12.1%} {time:7.2%}" for hours, time, _ in told[1:])
            print(f"{trial.name[:40]:40} {told[0, 0]:8.0f} {told[0, 1]:7.2%}{rest}", flush=True)
    every = np.array(found)
    print(f"\n{len(every)} series, start-up {start_up} s, beside the user's HPA at its target")
    for row, name in enumerate(POLICIES):
        cost = every[:, row, 0] / every[:, 0, 0] - 1
        worse = int((every[:, row, 1] > every[:, 0, 1] + 0.001).sum())
        print(
            f"  {name:18} replica-hours {np.median(cost):+6.1%} median, {cost.mean():+6.1%} mean; above capacity "
            f"{np.median(every[:, row, 1]):.3%} median, {every[:, row, 1].mean():.3%} mean; worse by 0.1 points on "
            f"{worse}; raised {every[:, row, 2].mean():.0%} of the time"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--startup", type=int, default=180)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    measure(asked.data, asked.startup, asked.only)
