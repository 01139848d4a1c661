"""One service as a receipt looks at it: its load on ticks of 15 s, cut into a training and a test part, and its size.

The yardstick: a value stands for its whole step (sample and hold, gaps hold the last value), with independent noise of
1 % at each tick; straight lines between samples would give the next minutes away. Knows no file and no forecast.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.errors import InputError
from forecaster.scaling.capacity import usable_capacity
from forecaster.scaling.cluster import Service, Startup
from forecaster.scaling.hpa import SYNC_SECONDS, Behavior
from forecaster.scaling.lead_time import LONGEST

DAY = 86_400
NOISE = 0.01
CUT = 0.6  # share of the series before the test part
TRAINING_DAYS, TEST_DAYS = 10, 14
LEAST_DAYS = 2
SIZE_LEVEL, SIZE_REPLICAS = 0.995, 28  # where nothing is known of capacity: this quantile of the load fills so many
MIN_REPLICAS, MAX_REPLICAS = 2, 200
TARGET = 70
SATURATED_SHARE = 0.99  # of the highest load: a load that sits there for long was cut by what served it


@dataclass(frozen=True, slots=True)
class Hpa:
    """The user's HPA, as it is."""

    target: int = TARGET  # per cent
    stabilization_seconds: float = 300.0
    min_replicas: int = MIN_REPLICAS
    max_replicas: int = MAX_REPLICAS
    behavior: Behavior | None = None  # with its defaults filled in; None: the HPA has none

    @property
    def words(self) -> str:
        what = "" if self.behavior is None else ", its behavior"
        return f"target {self.target} %, stabilization {self.stabilization_seconds:.0f} s{what}"


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A service and its load. Days are counted from the begin of the training part."""

    name: str
    step: int  # seconds
    times: IntArray  # (step,) ends of intervals, Unix seconds; all of the series
    values: FloatArray  # (step,) as read, NaN where nothing is
    first: int  # step at which the training part begins
    cut: int  # first step of the test part
    end: int  # behind the last step of the test part
    capacity: float  # load at which one replica is full
    hpa: Hpa
    start_up: int  # seconds
    load: FloatArray  # (tick,) from the begin of training to the end of the test part
    saturated_share: float = 0.0  # of the test part

    @property
    def per_step(self) -> int:
        """Ticks of a step."""
        return int(self.step // SYNC_SECONDS)

    @property
    def cut_tick(self) -> int:
        return (self.cut - self.first) * self.per_step

    @property
    def training_days(self) -> float:
        return (self.cut - self.first) * self.step / DAY

    @property
    def test_days(self) -> float:
        return (self.end - self.cut) * self.step / DAY

    def starting_in(self, seconds: int) -> Trial:
        """The same with pods that take so long to become ready."""
        return replace(self, start_up=seconds)

    def service(self, target: int | None = None, stabilization: float | None = None, fresh: bool = False) -> Service:
        """For the simulator: under the user's HPA, or with another target or stabilization window.

        A `behavior` stays as it is, save for the window of its scale-down.
        `fresh`: an HPA whose metric is the mean of 15 s and 15 s old, instead of 60 s and 30 s.
        """
        window = self.hpa.stabilization_seconds if stabilization is None else stabilization
        behavior = self.hpa.behavior
        if behavior is not None:
            behavior = replace(behavior, scale_down=replace(behavior.scale_down, stabilization_window_seconds=window))
        return Service(
            capacity_per_replica=self.capacity,
            startup=Startup.constant(float(self.start_up)),
            target_utilization=self.hpa.target if target is None else target,
            min_replicas=self.hpa.min_replicas,
            max_replicas=self.hpa.max_replicas,
            behavior=behavior,
            downscale_stabilization_seconds=window,
            metric_delay_seconds=15.0 if fresh else 30.0,
            metric_window_seconds=15.0 if fresh else 60.0,
            usage_limit=1.5,
        )


def trial_of(
    name: str,
    times: IntArray,
    values: FloatArray,
    step: int,
    start_up: int,
    *,
    capacity: float | None = None,
    hpa: Hpa | None = None,
    replicas: int = SIZE_REPLICAS,
    noise: float = NOISE,
) -> Trial:
    """The trial of one series on a regular grid: `times` (step,) ends of intervals, `values` (step,) load.

    Without a capacity, the 99.5 % quantile of the load fills `replicas`. That is a size, not a decision, and is taken
    over the whole series. The noise of a tick depends on the name and the place of the tick alone.
    Raises InputError naming the series and the mend.
    """
    hpa = Hpa() if hpa is None else hpa
    _check(name, values, step, start_up, capacity, hpa)
    per_step, a_day = int(step // SYNC_SECONDS), DAY // step
    cut = round(CUT * len(values))
    first, end = max(cut - TRAINING_DAYS * a_day, 0), min(cut + TEST_DAYS * a_day, len(values))
    held = _held(np.asarray(values, dtype=np.float64))
    if capacity is None:
        capacity = float(np.nanquantile(values, SIZE_LEVEL)) / replicas
    if not usable_capacity(capacity):
        raise InputError(f"{name}: capacity is {capacity:g}: a load of 0 nearly always has no size")
    noisy = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(len(values) * per_step)
    ticks = slice(first * per_step, end * per_step)
    load = np.repeat(held, per_step)[ticks] * (1.0 + noise * noisy[ticks])
    return Trial(
        name=name,
        step=step,
        times=np.asarray(times, dtype=np.int64),
        values=np.asarray(values, dtype=np.float64),
        first=first,
        cut=cut,
        end=end,
        capacity=capacity,
        hpa=hpa,
        start_up=start_up,
        load=np.maximum(load, 0.0),
        saturated_share=_flat_at_top(values[cut:end]),
    )


def _check(name: str, values: FloatArray, step: int, start_up: int, capacity: float | None, hpa: Hpa) -> None:
    if step % SYNC_SECONDS or DAY % step:
        raise InputError(f"{name}: a step of {step} s: a receipt needs one that 15 s and a day are whole numbers of")
    days = len(values) * step / DAY
    if days < LEAST_DAYS:
        raise InputError(f"{name}: history_too_short: {days:.1f} days, a receipt needs {LEAST_DAYS} at least")
    if start_up < step:
        raise InputError(
            f"{name}: a start-up of {start_up} s is shorter than its step of {step} s: data cannot show it"
        )
    if start_up > LONGEST.total_seconds():
        raise InputError(
            f"{name}: a start-up of {start_up} s: a decision looks {LONGEST.seconds // 60} minutes ahead at most"
        )
    known = values[np.isfinite(values)]
    if len(known) < 0.5 * len(values):
        raise InputError(f"{name}: too_many_gaps: {len(known)} of {len(values)} samples are there")
    if (known < 0).any():
        raise InputError(f"{name}: holds values below 0: that is no load")
    if known.max() == known.min():
        raise InputError(f"{name}: constant_series: every sample is {known[0]:g}: nothing scales with it")
    if capacity is not None and not usable_capacity(capacity):
        raise InputError(f"{name}: capacity_unknown: capacity is {capacity:g}: write the load that fills one replica")
    if not 0 <= hpa.min_replicas <= hpa.max_replicas or hpa.max_replicas < 1:
        raise InputError(
            f"{name}: hpa_invalid: the minimum {hpa.min_replicas} is above the maximum {hpa.max_replicas}"
            if hpa.min_replicas > hpa.max_replicas
            else f"{name}: hpa_invalid: minimum {hpa.min_replicas}, maximum {hpa.max_replicas}"
        )
    if not 1 <= hpa.target <= 100:
        raise InputError(f"{name}: hpa_invalid: a target of {hpa.target} %")


def _held(values: FloatArray) -> FloatArray:
    """Gaps hold the last value; before the first one, that one."""
    known = np.isfinite(values)
    place = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.asarray(values[np.where(place < 0, int(np.argmax(known)), place)])


def _flat_at_top(values: FloatArray) -> float:
    """Share of samples within 1 % of the highest one: a load that was cut shows as a plateau there."""
    known = values[np.isfinite(values)]
    return float((known >= SATURATED_SHARE * known.max()).mean()) if len(known) and known.max() > 0 else 0.0
