"""Synthetic workloads that train the shipped network: groups of series on one grid, from a seed and nothing else.

A series is a recipe (season, bursts, wandering, sparse, or a mix of recipes), a unit, and what measuring does to it.
Each series has a generator of its own from (seed, group, series), so groups can be made in any order, by any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from forecaster.domain import BoolArray, FloatArray
from models.wall_clock import DAY
from training import synthetic_bursty as bursty
from training import synthetic_events as events
from training import synthetic_recipes as seasonal
from training import synthetic_sparse as sparse
from training.synthetic_artefacts import in_a_unit, measured, missing
from training.synthetic_clock import Clock
from training.synthetic_random import autoregression, chance, log_uniform, ornstein_uhlenbeck, standard
from training.synthetic_recipes import Load


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticGroup:
    """Series on one grid. The value at column j covers the interval that ends at first_end + j * step."""

    values: FloatArray  # (series, time) float32, NaN where missing
    step: int  # seconds
    first_end: int  # Unix seconds, a multiple of step
    timezone: str  # IANA name; seasons and jobs follow its wall clock
    kinds: tuple[str, ...]  # (series,) recipe name
    saturated: BoolArray  # (series, time) true where served load was clipped at capacity: a lower bound


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one kind of series is drawn, and how often."""

    draw: Callable[[Generator, Clock], Load]
    weight: float  # share of all series, percent
    family: str  # seasonal, bursty, wandering, sparse or mixed

    @property
    def name(self) -> str:
        return self.draw.__name__


SINGLE = (
    Recipe(seasonal.daily_season, 7.0, "seasonal"),
    Recipe(seasonal.noise_free, 1.5, "seasonal"),
    Recipe(seasonal.business_hours, 2.5, "seasonal"),
    Recipe(seasonal.web_requests, 5.0, "seasonal"),
    Recipe(seasonal.link_traffic, 2.0, "seasonal"),
    Recipe(seasonal.fleet_average, 3.0, "seasonal"),
    Recipe(seasonal.weekly_profile, 1.5, "seasonal"),
    Recipe(seasonal.cpu_daily, 3.0, "seasonal"),
    Recipe(seasonal.evolving_season, 2.0, "seasonal"),
    Recipe(seasonal.drifting_season, 1.5, "seasonal"),
    Recipe(seasonal.standardised_kpi, 2.5, "seasonal"),
    Recipe(seasonal.commuters, 1.0, "seasonal"),
    Recipe(seasonal.other_season, 1.5, "seasonal"),
    Recipe(seasonal.growing, 1.0, "seasonal"),
    Recipe(seasonal.kernel_sum, 1.5, "seasonal"),
    Recipe(seasonal.saturated_service, 1.5, "seasonal"),
    Recipe(seasonal.closed_loop, 0.7, "seasonal"),
    Recipe(seasonal.retries, 0.8, "seasonal"),
    Recipe(bursty.population, 1.5, "seasonal"),
    Recipe(bursty.vm_regimes, 3.0, "bursty"),
    Recipe(bursty.modes, 4.0, "bursty"),
    Recipe(bursty.server_metric, 4.0, "bursty"),
    Recipe(bursty.vm_jobs, 2.0, "bursty"),
    Recipe(bursty.nightly_batch, 1.5, "bursty"),
    Recipe(bursty.cron_spikes, 1.0, "bursty"),
    Recipe(bursty.self_exciting, 1.0, "bursty"),
    Recipe(bursty.on_off, 1.0, "bursty"),
    Recipe(bursty.heavy_bursts, 1.0, "bursty"),
    Recipe(bursty.flash_crowds, 1.0, "bursty"),
    Recipe(bursty.network_bursts, 2.0, "bursty"),
    Recipe(bursty.sparse_work, 1.5, "bursty"),
    Recipe(bursty.wandering_level, 2.5, "wandering"),
    Recipe(bursty.random_walk, 2.0, "wandering"),
    Recipe(bursty.ringing, 1.5, "wandering"),
    Recipe(bursty.long_memory, 2.0, "wandering"),
    Recipe(bursty.clustered_volatility, 1.0, "wandering"),
    Recipe(bursty.shifting_level, 1.0, "wandering"),
    Recipe(bursty.latency, 1.5, "wandering"),
    Recipe(bursty.temperature, 1.0, "wandering"),
    Recipe(bursty.ratio, 1.5, "wandering"),
    Recipe(sparse.rare_counter, 2.0, "sparse"),
    Recipe(sparse.intermittent_demand, 1.0, "sparse"),
    Recipe(sparse.disk_rate, 1.5, "sparse"),
    Recipe(sparse.near_constant, 1.5, "sparse"),
    Recipe(sparse.constant_with_spikes, 1.0, "sparse"),
    Recipe(sparse.sticky, 1.0, "sparse"),
    Recipe(bursty.nearly_full, 1.0, "sparse"),
    Recipe(sparse.memory, 1.5, "sparse"),
    Recipe(sparse.leak, 1.0, "sparse"),
    Recipe(sparse.collector, 1.0, "sparse"),
    Recipe(sparse.per_replica, 1.0, "sparse"),
    Recipe(sparse.held_samples, 1.0, "sparse"),
    Recipe(sparse.raw_counter, 0.5, "sparse"),
)
_CLIPPED = ("saturated_service", "closed_loop")  # a mix of lower bounds is none


def _parts(rng: Generator, clock: Clock, count: int) -> list[FloatArray]:
    """`count` unrelated series of recipes that are not clipped, each over its mean size."""
    open_ended = tuple(recipe for recipe in SINGLE if recipe.name not in _CLIPPED)
    parts = [draw_recipe(rng, open_ended).draw(rng, clock).values for _ in range(count)]
    return [part / max(float(np.abs(part).mean()), 1e-9) for part in parts]


def convex_mix(rng: Generator, clock: Clock) -> Load:
    """A weighted mean of two or three series of other recipes (TSMixup)."""
    parts = _parts(rng, clock, int(rng.integers(2, 4)))
    return Load(np.asarray(rng.dirichlet(np.full(len(parts), 1.5)) @ np.stack(parts)))


def sum_of_services(rng: Generator, clock: Clock) -> Load:
    """Three to five seasonal services of sizes over two decades, added."""
    loads = [seasonal.daily_season(rng, clock).values for _ in range(int(rng.integers(3, 6)))]
    sizes = [log_uniform(rng, 0.03, 3.0) / max(float(load.mean()), 1e-9) for load in loads]
    return Load(np.asarray(sum(size * load for size, load in zip(sizes, loads, strict=True))))


def modulated(rng: Generator, clock: Clock) -> Load:
    """Another recipe whose level swells and falls over hours to a week."""
    return Load(_parts(rng, clock, 1)[0] * events.modulation(rng, clock))


def warped(rng: Generator, clock: Clock) -> Load:
    """Another recipe read by a clock that runs fast and slow, up to hours off; the samples are picked, not averaged."""
    drift = ornstein_uhlenbeck(rng, clock.size, clock.steps(log_uniform(rng, DAY / 2, 7 * DAY)))
    drift = autoregression(drift, 0.9) * 0.1 * clock.steps(log_uniform(rng, 600.0, 4 * 3_600.0))
    where = np.arange(clock.size) + drift.round().astype(np.int64)
    where = np.maximum.accumulate(where.clip(0, clock.size - 1))
    return Load(_parts(rng, clock, 1)[0][where])


def flipped(rng: Generator, clock: Clock) -> Load:
    """Another recipe upside down: free memory, idle CPU, headroom; for some below zero."""
    part = _parts(rng, clock, 1)[0]
    return Load(float(part.max()) - part if chance(rng, 0.6) else -part)


def spliced(rng: Generator, clock: Clock) -> Load:
    """One recipe up to a moment, then another: a service replaced, a data source moved."""
    first, second = _parts(rng, clock, 2)
    at = int(clock.size * rng.uniform(0.2, 0.85))
    return Load(np.concatenate([first[:at], second[at:] * log_uniform(rng, 0.2, 5.0)]))


def difference(rng: Generator, clock: Clock) -> Load:
    """A balance: one series less another, about zero, or the changes of one."""
    first, second = (standard(part) for part in _parts(rng, clock, 2))
    return Load(first - rng.uniform(0.2, 1.0) * second if chance(rng, 0.7) else np.diff(first, prepend=first[0]))


def quotient(rng: Generator, clock: Clock) -> Load:
    """One load per unit of another one: cost of a request, hits per call."""
    first, second = (np.abs(part) for part in _parts(rng, clock, 2))
    return Load(first / (second + rng.uniform(0.05, 1.0)))


RECIPES = (
    *SINGLE,
    Recipe(convex_mix, 3.0, "mixed"),
    Recipe(sum_of_services, 1.5, "mixed"),
    Recipe(modulated, 1.5, "mixed"),
    Recipe(warped, 1.2, "mixed"),
    Recipe(flipped, 1.0, "mixed"),
    Recipe(spliced, 0.8, "mixed"),
    Recipe(difference, 0.5, "mixed"),
    Recipe(quotient, 0.5, "mixed"),
)


def draw_recipe(rng: Generator, recipes: tuple[Recipe, ...]) -> Recipe:
    """One of `recipes`, by their weights."""
    weights = np.array([recipe.weight for recipe in recipes])
    return recipes[int(rng.choice(len(recipes), p=weights / weights.sum()))]


# (step in seconds, weight, fewest and most days): fine grids are short, so that no row is longer than 60,000 columns
GRIDS = (
    (15, 0.07, 4, 10),
    (30, 0.07, 4, 10),
    (60, 0.12, 10, 22),
    (120, 0.08, 10, 22),
    (300, 0.36, 22, 36),
    (600, 0.08, 28, 60),
    (900, 0.06, 28, 60),
    (1_800, 0.05, 28, 60),
    (3_600, 0.11, 60, 150),
)
_FEWEST_DAYS_FROM = 1_388_534_400  # 2014-01-01
_LATEST = 1_893_456_000  # 2030-01-01
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Sydney",
)


def clock_of(rng: Generator) -> Clock:
    """The grid of a group: step, span, start and zone."""
    weights = np.array([grid[1] for grid in GRIDS])
    step, _, fewest, most = GRIDS[int(rng.choice(len(GRIDS), p=weights / weights.sum()))]
    size = int(rng.uniform(fewest, most) * DAY / step)
    first_end = int(rng.integers(_FEWEST_DAYS_FROM, _LATEST)) // step * step
    zone = ZONES[0] if chance(rng, 0.65) else ZONES[int(rng.integers(1, len(ZONES)))]
    return Clock(step, first_end, size, zone)


def series(rng: Generator, clock: Clock, recipe: Recipe) -> tuple[FloatArray, BoolArray]:
    """One series of `recipe` as it would be measured: values (time,) float32 with gaps, saturated (time,)."""
    load = recipe.draw(rng, clock)
    values = measured(rng, clock, in_a_unit(rng, load), load.saturated)
    gone = missing(rng, clock)
    saturated = np.zeros(clock.size, dtype=np.bool_) if load.saturated is None else load.saturated & ~gone
    return np.where(gone, np.nan, values).astype(np.float32), saturated


def group(seed: int, index: int, series_per_group: int = 64) -> SyntheticGroup:
    """Group `index` of the stream of `seed`; the same whatever else was drawn before."""
    clock = clock_of(np.random.default_rng((seed, index)))
    values = np.empty((series_per_group, clock.size), dtype=np.float32)
    saturated = np.empty((series_per_group, clock.size), dtype=np.bool_)
    kinds = []
    for row in range(series_per_group):
        rng = np.random.default_rng((seed, index, row + 1))  # + 1: (seed, index, 0) would be the clock's own stream
        recipe = draw_recipe(rng, RECIPES)
        values[row], saturated[row] = series(rng, clock, recipe)
        kinds.append(recipe.name)
    return SyntheticGroup(values, clock.step, clock.first_end, clock.timezone, tuple(kinds), saturated)


def groups(seed: int, count: int, series_per_group: int = 64) -> Iterator[SyntheticGroup]:
    """Groups 0 to count - 1 of `seed` (0 or more), one after the other. See `group` to shard them over processes."""
    for index in range(count):
        yield group(seed, index, series_per_group)
