"""The traffic of the demo: a pure function of seed and time.

Load is what is offered in the 15 s that begin at a time, requests per second. The demo begins on a Monday at six; what
happens then is at fixed times, so that there is something to see, and what happens on other days is drawn from the
seed. What a moment holds depends on nothing later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from serving.demo.services import CATALOG, CHECKOUT, GATEWAY, INFERENCE, INVOICES, NAMES, ORDERS

START = int(datetime(2026, 3, 2, 6, 0, tzinfo=UTC).timestamp())  # a Monday
TICK = 15
MINUTE, HOUR, DAY = 60, 3_600, 86_400
POD_BYTES = 300 * 2**20
POD_LIMIT_BYTES = 1024 * 2**20

Times = NDArray[np.int64]
Floats = NDArray[np.float64]

FLASH_SECONDS, FLASH_FACTOR = 40 * MINUTE, 2.6
DEPLOY_SECONDS = 4 * MINUTE
LEAK_SECONDS, LEAK_BYTES_PER_HOUR = 9 * HOUR, 70 * 2**20
HALF_SECONDS = 10 * MINUTE
GAP_SECONDS = 8 * MINUTE


@dataclass(frozen=True, slots=True)
class Happening:
    """Something out of the ordinary; `until` is its end. Unix seconds."""

    time: int
    until: int
    workload: str
    kind: str  # flash_crowd | deploy | memory_leak | missing_scrapes | scrape_gap
    sentence: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """What users and scrapes do, by seed."""

    seed: int

    def load(self, times: Times) -> Floats:
        """(service, time): offered in the tick that begins at each time, in the order of NAMES."""
        made = {name: shape(self, times) for name, shape in _SHAPES.items()}
        for one in self.happenings(int(times[0]) - FLASH_SECONDS, int(times[-1])):
            since = (times - one.time).astype(np.float64)
            if one.kind == "flash_crowd":
                rise = np.clip(since / (3 * MINUTE), 0.0, 1.0) * np.clip(
                    (FLASH_SECONDS - since) / (15 * MINUTE), 0.0, 1.0
                )
                made[one.workload] = made[one.workload] * (1.0 + (FLASH_FACTOR - 1.0) * rise)
            elif one.kind == "deploy":
                made[one.workload] = made[one.workload] * np.where((since >= 0) & (since < DEPLOY_SECONDS), 0.7, 1.0)
        return np.array([made[name] for name in NAMES])

    def memory_per_pod(self, times: Times) -> Floats:
        """(time,) bytes that a pod of the catalog holds."""
        leaked = np.zeros(len(times))
        for one in self.happenings(int(times[0]) - LEAK_SECONDS, int(times[-1])):
            if one.kind == "memory_leak":
                since = (times - one.time).astype(np.float64)
                leaked += np.where((since >= 0) & (times < one.until), since / HOUR * LEAK_BYTES_PER_HOUR, 0.0)
        return POD_BYTES * (1.0 + 0.01 * self.noise(times, 90, 10 * MINUTE)) + leaked

    def scraped(self, times: Times) -> Floats:
        """(service, time): share of the scrape targets that answered at each time; NaN where none did."""
        shares = np.ones((len(NAMES), len(times)))
        for one in self.happenings(int(times[0]) - HALF_SECONDS, int(times[-1])):
            if one.kind in ("missing_scrapes", "scrape_gap"):
                during = (times >= one.time) & (times < one.until)
                shares[NAMES.index(one.workload), during] = np.nan if one.kind == "scrape_gap" else 0.5
        return shares

    def happenings(self, since: int, until: int) -> list[Happening]:
        """What begins in [since, until], in order of time."""
        found = []
        for day in range((since - START) // DAY, (until - START) // DAY + 1):
            found += [one for one in self._of_day(day) if since <= one.time <= until]
        return sorted(found, key=lambda one: one.time)

    def _of_day(self, day: int) -> list[Happening]:
        """Days are counted from START, each begins at six. What went before, the model may have learned from."""
        begin = START + day * DAY
        if day == 0:
            return [
                _flash(begin + 80 * MINUTE),
                *_deploy(begin + 130 * MINUTE),
                _half(begin + 160 * MINUTE),
                _gap(begin + 250 * MINUTE),
            ]
        chance, when = self.uniform(np.array([day]), 70)[0], self.uniform(np.array([day]), 71)[0]
        at = begin + int(when * 15 * HOUR) // TICK * TICK
        if chance < 0.25:
            return [_flash(at)]
        if chance < 0.4 and day > 0:
            return list(_deploy(at))
        if chance < 0.7:
            return [_half(at)] if chance < 0.55 else [_gap(at)]
        return []

    # --- chance ---

    def uniform(self, index: NDArray[np.int64], stream: int) -> Floats:
        """In (0, 1), by seed, stream and index alone (splitmix64)."""
        with np.errstate(over="ignore"):
            z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z += np.uint64(self.seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(stream) * np.uint64(
                0x8CB92BA72F3D8DD7
            )
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

    def normal(self, index: NDArray[np.int64], stream: int) -> Floats:
        """Standard normal numbers (Box and Muller, 1958)."""
        u, v = self.uniform(index, 2 * stream), self.uniform(index, 2 * stream + 1)
        made: Floats = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
        return made

    def noise(self, times: Times, stream: int, period: int) -> Floats:
        """Wanders on the scale of `period` seconds: straight lines between normal numbers."""
        index, share = times // period, (times % period) / period
        made: Floats = (1.0 - share) * self.normal(index, stream) + share * self.normal(index + 1, stream)
        return made

    def jitter(self, times: Times, stream: int, tick: float, slow: float) -> Floats:
        """Factor around 1: `tick` is the deviation from one 15 s to the next, `slow` that of quarter hours."""
        quick = self.normal(times // TICK, stream)
        made: Floats = np.maximum(1.0 + tick * quick + slow * self.noise(times, stream + 1, 15 * MINUTE), 0.05)
        return made


# --- what a normal day looks like ------------------------------------------------------------------------------------


def _second_of_day(times: Times) -> Floats:
    return (times % DAY).astype(np.float64)


def _weekend(times: Times) -> NDArray[np.bool_]:
    weekend: NDArray[np.bool_] = (times // DAY + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    return weekend


def _bell(second: Floats, peak_hour: float, width_hours: float) -> Floats:
    distance = (second / HOUR - peak_hour + 12.0) % 24.0 - 12.0
    bell: Floats = np.exp(-0.5 * (distance / width_hours) ** 2)
    return bell


def _orders(traffic: Traffic, times: Times) -> Floats:
    second = _second_of_day(times)
    opened, closed = second - 9 * HOUR, second - 17.5 * HOUR
    rise = 1.0 / (1.0 + np.exp(-np.clip(opened / 75.0, -50.0, 50.0)))
    fall = 1.0 / (1.0 + np.exp(np.clip(closed / 300.0, -50.0, 50.0)))
    rush = 0.6 * np.exp(-np.maximum(opened, 0.0) / (25 * MINUTE))
    trading = np.where(_weekend(times), 0.0, rise * fall * (1.0 + rush))
    return (90.0 + 900.0 * trading) * traffic.jitter(times, 10, 0.03, 0.03)


def _checkout(traffic: Traffic, times: Times) -> Floats:
    second = _second_of_day(times)
    day = 320.0 + 500.0 * _bell(second, 13.0, 3.0) + 620.0 * _bell(second, 20.0, 2.2)
    for hour in (10.0, 18.0):
        since = second - hour * HOUR
        up = np.clip(since / (2.5 * MINUTE), 0.0, 1.0)
        day = day + 720.0 * up * np.exp(-np.maximum(since - 3 * MINUTE, 0.0) / (18 * MINUTE))
    return day * np.where(_weekend(times), 0.85, 1.0) * traffic.jitter(times, 20, 0.04, 0.03)


def _invoices(traffic: Traffic, times: Times) -> Floats:
    second = _second_of_day(times) % HOUR
    batch = (second < 12 * MINUTE) * 120.0
    return (60.0 + 15.0 * _bell(_second_of_day(times), 14.0, 4.0) + batch) * traffic.jitter(times, 30, 0.04, 0.03)


def _catalog(traffic: Traffic, times: Times) -> Floats:
    return 260.0 * traffic.jitter(times, 40, 0.02, 0.015)


def _gateway(traffic: Traffic, times: Times) -> Floats:
    day = 2_600.0 + 900.0 * _bell(_second_of_day(times), 15.0, 5.0)
    gusts = 1.0 + 0.10 * traffic.noise(times, 52, MINUTE)
    return day * gusts * traffic.jitter(times, 50, 0.06, 0.04)


def _inference(traffic: Traffic, times: Times) -> Floats:
    """Each hour may hold a burst, at any minute: 60 % within a minute, for ten to thirty minutes."""
    level = np.ones(len(times))
    for back in (0, 1):
        hour = times // HOUR - back
        begins = hour * HOUR + (traffic.uniform(hour, 160) * HOUR).astype(np.int64)
        lasts = 600.0 + 1_200.0 * traffic.uniform(hour, 161)
        since = (times - begins).astype(np.float64)
        burst = (traffic.uniform(hour, 162) < 0.12) & (since >= 0) & (since < lasts)
        level = level + burst * 0.9 * np.clip(since / 60.0, 0.0, 1.0)
    day = 55.0 + 25.0 * _bell(_second_of_day(times), 15.0, 5.0)
    return day * level * traffic.jitter(times, 60, 0.05, 0.04)


_SHAPES: dict[str, Callable[[Traffic, Times], Floats]] = {
    ORDERS: _orders,
    CHECKOUT: _checkout,
    INVOICES: _invoices,
    CATALOG: _catalog,
    GATEWAY: _gateway,
    INFERENCE: _inference,
}


# --- what is out of the ordinary -------------------------------------------------------------------------------------


def _flash(at: int) -> Happening:
    text = f"A flash crowd on {CHECKOUT}: {FLASH_FACTOR:g} times the load in three minutes. Nobody could foresee it."
    return Happening(at, at + FLASH_SECONDS, CHECKOUT, "flash_crowd", text)


def _deploy(at: int) -> tuple[Happening, Happening]:
    leak_at = at + DEPLOY_SECONDS
    hours = LEAK_SECONDS // HOUR
    return (
        Happening(at, leak_at, CATALOG, "deploy", f"A release of {CATALOG}: for minutes some requests go elsewhere."),
        Happening(
            leak_at,
            leak_at + LEAK_SECONDS,
            CATALOG,
            "memory_leak",
            f"The release leaks: each pod of {CATALOG} grows by {LEAK_BYTES_PER_HOUR >> 20} MiB an hour, until it is "
            f"rolled back {hours} hours later.",
        ),
    )


def _half(at: int) -> Happening:
    text = f"Half of the scrape targets of {GATEWAY} do not answer: the sum falls, the load does not."
    return Happening(at, at + HALF_SECONDS, GATEWAY, "missing_scrapes", text)


def _gap(at: int) -> Happening:
    text = f"No scrape of {INFERENCE} arrives for {GAP_SECONDS // MINUTE} minutes."
    return Happening(at, at + GAP_SECONDS, INFERENCE, "scrape_gap", text)
