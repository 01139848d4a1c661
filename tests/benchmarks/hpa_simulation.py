"""HPA decisions a second of the simulator, on one core: a day of `--services` services, each 15 s. Prints one table."""

from __future__ import annotations

import argparse
import time

import numpy as np

from forecaster.scaling.cluster import Service, Startup
from forecaster.scaling.hpa import SYNC_SECONDS, with_defaults
from forecaster.scaling.simulate import Simulation

DAY = 1440  # steps of a minute


def loads(services: int) -> dict[str, np.ndarray]:
    """(service, minute): what makes an HPA work more, and more."""
    rng = np.random.default_rng(0)
    size = rng.uniform(0.5, 1.5, (services, 1))
    flat = np.broadcast_to(2_000.0 * size, (services, DAY)).copy()
    day = 2_000.0 * (1.2 - np.cos(2.0 * np.pi * np.arange(DAY) / DAY)) * size
    return {"flat": flat, "daily shape": day, "daily shape, 5 % noise": day * rng.normal(1.0, 0.05, day.shape)}


def measure(services: int, repeats: int) -> None:
    plain = Service(100.0, Startup.lognormal(60.0, 90.0))
    behaved = Service(100.0, Startup.lognormal(60.0, 90.0), behavior=with_defaults(None, None))
    decisions = services * DAY * 60 / SYNC_SECONDS
    started = time.perf_counter()
    Simulation([plain], np.ones(1)).step(np.ones(1))
    first = time.perf_counter() - started
    print(f"first call (imports numba; compiles, or finds what was compiled before): {first:.1f} s")
    print(f"{services} services, {decisions / 1e6:.1f} million decisions; million a second, the best of {repeats}")
    for name, load in loads(services).items():
        figures = []
        for service in (plain, behaved):
            times = []
            for _ in range(repeats):
                simulation = Simulation([service] * services, load[:, 0])
                started = time.perf_counter()
                simulation.run(load, None, 60.0)
                times.append(time.perf_counter() - started)
            figures.append(decisions / min(times) / 1e6)
        print(f"  {name:24} no behavior {figures[0]:5.1f}   behavior {{}} {figures[1]:5.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    measure(told.services, told.repeats)
