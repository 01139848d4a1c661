"""Simulated workloads with one fault each, of known kind and onset: load, usage, replicas, limit, and each pod.

A load with day, week and noise; an HPA's replicas behind it; CPU as base per replica plus cost per request; memory as
a floor that follows the load a little, with the sawtooth of a collector; pods that share it unevenly. Minutes, as a
Prometheus would give them. All from (seed, kind, number) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray, IntArray
from models.wall_clock import DAY
from training.synthetic_clock import HOUR, MINUTE, Clock
from training.synthetic_random import autoregression, log_uniform
from training.synthetic_seasons import load_season

STEP = MINUTE
DAYS = 11
CALM_DAYS = 7  # before any fault: what thresholds are learned from
PODS = 10
START = 1_767_571_260  # a Monday in 2026, UTC; ends of intervals
LEAK_PER_HOUR = 0.01  # of the limit
SIGMAS = 3.0  # of a level shift, in deviations of the load's noise
SPIKE_SIGMAS = 8.0


IDLE_CORES = 0.05  # of a pod without load
MEMORY_WITH_LOAD = 0.05  # of the limit, at the mean load


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a detector may see of a workload; NaN where no sample came. One grid, ends of intervals."""

    times: IntArray  # (n,) Unix seconds
    step: int  # seconds
    load: FloatArray  # (n,) requests per second over all replicas
    cpu: FloatArray  # (n,) cores in use over all replicas
    memory: FloatArray  # (n,) of the fullest pod, in the unit of its limit
    memory_limit: float
    replicas: FloatArray  # (n,)
    pods: FloatArray  # (pod, n) cores of each pod; NaN where there is no such pod

    def until(self, rows: int) -> Observed:
        """The first rows only: a causal detector scores them alike."""
        return replace(
            self,
            times=self.times[:rows],
            load=self.load[:rows],
            cpu=self.cpu[:rows],
            memory=self.memory[:rows],
            replicas=self.replicas[:rows],
            pods=self.pods[:, :rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A workload with its fault. Rows `onset` to `end` are the fault; both are the length where there is none."""

    kind: str
    observed: Observed
    onset: int
    end: int
    deadline: int  # row until which an alarm is in time: the promise for the kind, else `end`


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault: what it does to a workload, which series shows it, and how long it lasts."""

    name: str
    signal: str  # the series of Observed that shows it best: load, cpu, memory or pods
    inject: Callable[[Generator, Observed, FloatArray, int, int], Observed]
    lasts: int | None  # seconds; None: to the end
    in_time: int | None = None  # seconds from the onset within which it should be told; None: while it lasts
    harmless: bool = False  # an alarm about cost or peers would be false


def run_of(kind: Kind, seed: int, number: int) -> Run:
    """Workload `number` with a fault of `kind`; the workloads of all kinds with one number are the same before it."""
    rng = np.random.default_rng((seed, number))
    clock = Clock(STEP, START, DAYS * DAY // STEP)
    calm, noise = _calm(rng, clock)
    onset = int((CALM_DAYS + rng.random()) * DAY // STEP)
    end = clock.size if kind.lasts is None else min(onset + kind.lasts // STEP, clock.size)
    observed = kind.inject(rng, calm, noise, onset, end)
    if kind.name == "leak":
        full = np.flatnonzero(observed.memory >= observed.memory_limit)
        end = int(full[0]) if len(full) else end
        deadline = end - 6 * HOUR // STEP
    else:
        deadline = end if kind.in_time is None else min(onset + kind.in_time // STEP, clock.size)
    if kind.name == "none":
        onset = end = deadline = clock.size
    return Run(kind.name, observed, onset, end, deadline)


def _calm(rng: Generator, clock: Clock) -> tuple[Observed, FloatArray]:
    """A workload without a fault, and the noise of its load (n,) in the unit of the load, one deviation everywhere."""
    level = log_uniform(rng, 50.0, 2_000.0)
    day = np.maximum(load_season(rng, clock, depth=rng.uniform(0.2, 0.7)), 0.15)
    noise = level * rng.uniform(0.02, 0.06) * _ar(rng, clock.size, rng.uniform(0.3, 0.9))
    load = np.maximum(level * day + noise, 0.3 * level * day)
    per_replica = float(load.mean()) / PODS
    return _behind(rng, clock.edges[1:], load, per_replica, rng.uniform(0.5, 2.0) / per_replica), noise


def _behind(rng: Generator, times: IntArray, load: FloatArray, per_replica: float, cost: float) -> Observed:
    """What an HPA and the pods make of a load (n,): `cost` cores per request and second."""
    n = len(load)
    held = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(4, load[0]), load]), 5).max(axis=1)
    replicas = np.maximum(np.ceil(held / per_replica), 2.0)
    # the cost moves a little by itself: caches, garbage collection, the mix of requests
    cores = IDLE_CORES * replicas + cost * load * (1 + 0.02 * _ar(rng, n, 0.8))
    pods = _pods(rng, cores, replicas)
    phase = (np.arange(n) / rng.uniform(20, 90) + rng.random()) % 1.0  # a collector every 20 to 90 minutes
    memory = 0.3 + 0.1 * rng.random() + MEMORY_WITH_LOAD * load / load.mean() + 0.03 * phase + 0.005 * _ar(rng, n, 0.9)
    return Observed(times, STEP, load, np.nansum(pods, axis=0), memory, 1.0, replicas, pods)


def _pods(rng: Generator, cores: FloatArray, replicas: FloatArray) -> FloatArray:
    """(PODS, n) cores of the first ten pods, the others fold into them; NaN where there is none."""
    there = np.arange(PODS)[:, None] < replicas
    weight = (1 + 0.03 * rng.standard_normal((PODS, 1))) * (1 + 0.05 * rng.standard_normal((PODS, len(cores))))
    weight = np.where(there, np.maximum(weight, 0.1), 0.0)
    return np.where(there, cores * weight / weight.sum(axis=0), np.nan)


def _ar(rng: Generator, size: int, phi: float) -> FloatArray:
    """(size,) noise of deviation 1 that remembers from minute to minute."""
    return autoregression(rng.standard_normal(size) * (1 - phi * phi) ** 0.5, phi)


# --- faults ----------------------------------------------------------------------------------------------------------


def _with_load(observed: Observed, load: FloatArray) -> Observed:
    """The same workload under another load: cost per request, idle use and memory per load stay as they were."""
    load = np.maximum(load, 0.0)
    memory = observed.memory + MEMORY_WITH_LOAD * (load - observed.load) / observed.load.mean()
    return replace(_working(observed, load / observed.load), load=load, memory=memory)


def _working(observed: Observed, ratio: FloatArray) -> Observed:
    """With `ratio` (n,) times the cores that its load takes; what pods use without load stays."""
    idle = np.minimum(IDLE_CORES * observed.replicas / observed.cpu, 1.0)
    pods = observed.pods * (idle + (1 - idle) * ratio)
    return replace(observed, pods=pods, cpu=np.nansum(pods, axis=0))


def _none(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    return one


def _leak(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    hours = np.maximum(np.arange(len(one.times)) - onset, 0) * one.step / HOUR
    return replace(one, memory=np.minimum(one.memory + LEAK_PER_HOUR * one.memory_limit * hours, one.memory_limit))


def _level_shift(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    return _moved(one, onset, end, SIGMAS * float(noise.std()) * (1 if rng.random() < 0.5 else -1))


def _spike(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    return _moved(one, onset, end, SPIKE_SIGMAS * float(noise.std()))


def _dip(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    return _moved(one, onset, end, -SPIKE_SIGMAS * float(noise.std()))


def _moved(one: Observed, onset: int, end: int, by: float) -> Observed:
    load = one.load.copy()
    load[onset:end] += by
    return _with_load(one, load)


def _variance(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    load = one.load.copy()
    load[onset:end] += 2 * noise[onset:end]  # three times the noise that is in it
    return _with_load(one, load)


def _season_loss(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    load = one.load.copy()
    load[onset:end] = load[onset] - noise[onset] + noise[onset:end]  # it stays where it was
    return _with_load(one, load)


def _frozen(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    """The exporter repeats what it said last, of everything."""

    def held(values: FloatArray) -> FloatArray:
        out = values.copy()
        out[..., onset:end] = out[..., onset : onset + 1]
        return out

    return replace(one, load=held(one.load), cpu=held(one.cpu), memory=held(one.memory), pods=held(one.pods))


def _gap(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    def without(values: FloatArray) -> FloatArray:
        out = values.copy()
        out[..., onset:end] = np.nan
        return out

    return replace(
        one,
        load=without(one.load),
        cpu=without(one.cpu),
        memory=without(one.memory),
        replicas=without(one.replicas),
        pods=without(one.pods),
    )


def _dearer(share: float, rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    during = (np.arange(len(one.times)) >= onset) & (np.arange(len(one.times)) < end)
    return _working(one, np.where(during, 1 + share, 1.0))


def _bad_pod(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    pods = one.pods.copy()
    pods[0, onset:end] *= 1.6
    return replace(one, pods=pods, cpu=np.nansum(pods, axis=0))


def _surge(rng: Generator, one: Observed, noise: FloatArray, onset: int, end: int) -> Observed:
    rise = np.clip((np.arange(len(one.times)) - onset) / 3.0, 0.0, 1.0)
    # The replicas stay: at their maximum, or not there yet.
    return _with_load(one, one.load * np.where(np.arange(len(one.times)) < end, 1 + 2 * rise, 1.0))


KINDS = (
    Kind("none", "load", _none, None),
    Kind("leak", "memory", _leak, None),
    Kind("level_shift", "load", _level_shift, None),
    Kind("cpu_per_request_10", "cpu", partial(_dearer, 0.1), None, in_time=30 * MINUTE),
    Kind("cpu_per_request_20", "cpu", partial(_dearer, 0.2), None, in_time=30 * MINUTE),
    Kind("cpu_per_request_40", "cpu", partial(_dearer, 0.4), None, in_time=30 * MINUTE),
    Kind("spike", "load", _spike, 5 * MINUTE),
    Kind("dip", "load", _dip, 5 * MINUTE),
    Kind("variance", "load", _variance, 12 * HOUR),
    Kind("season_loss", "load", _season_loss, DAY),
    Kind("frozen_exporter", "load", _frozen, 2 * HOUR),
    Kind("gap", "load", _gap, 30 * MINUTE),
    Kind("bad_pod", "pods", _bad_pod, 12 * HOUR),
    Kind("surge", "cpu", _surge, 40 * MINUTE, harmless=True),
)
