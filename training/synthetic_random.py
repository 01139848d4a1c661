"""Random building blocks without a calendar: levels that wander, noise, switching regimes. One series at a time.

One row costs as much as a share of a block of rows from about 1,000 columns on, and a row can be composed freely.
All randomness comes from the generator passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray
from models.wall_clock import DAY
from training.synthetic_clock import HOUR, Clock


def log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def chance(rng: Generator, share: float) -> bool:
    return bool(rng.random() < share)


def pick(rng: Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def autoregression(noise: FloatArray, phi: complex) -> FloatArray:
    """x[t] = phi x[t-1] + noise[t], started at 0, over the last axis, by doubling: log2(time) passes instead of a loop.

    With a complex `phi` the real part is an AR(2) that rings at the angle of `phi`.
    """
    out = noise.astype(np.result_type(noise, phi))
    reach, factor = 1, phi
    while reach < out.shape[-1] and abs(factor) > 1e-7:
        out[..., reach:] += factor * out[..., :-reach]
        reach, factor = 2 * reach, factor * factor
    return np.asarray(out)


def ornstein_uhlenbeck(rng: Generator, size: int, time_constant: float) -> FloatArray:
    """(size,) of mean 0 and variance 1 that forgets over `time_constant` steps; started in its stationary state."""
    phi = math.exp(-1.0 / max(time_constant, 1e-3))
    noise = rng.standard_normal(size)
    noise[1:] *= math.sqrt(1.0 - phi * phi)
    return autoregression(noise, phi)


def wandering(rng: Generator, clock: Clock, slowest: float = 2 * DAY) -> FloatArray:
    """(size,) of variance 1: 1-4 Ornstein-Uhlenbeck processes, time constants from one step to `slowest` seconds."""
    parts = int(rng.integers(1, 5))
    weights = rng.dirichlet(np.full(parts, 0.7)) ** 0.5
    taus = [log_uniform(rng, 1.0, max(2.0, clock.steps(slowest))) for _ in range(parts)]
    return np.asarray(sum(w * ornstein_uhlenbeck(rng, clock.size, t) for w, t in zip(weights, taus, strict=True)))


def long_memory(rng: Generator, size: int, exponent: float) -> FloatArray:
    """(size,) standardised noise whose power falls as frequency^-exponent; 0 is white, 1 pink, 2 a random walk."""
    length = 1 << math.ceil(math.log2(1.3 * size))  # longer than needed: the transform wraps around
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    spectrum[0] = 0.0
    return standard(np.fft.irfft(spectrum, length)[:size])


def smooth(rng: Generator, size: int, length_scale: float) -> FloatArray:
    """(size,) standardised draw of a Gaussian process with a squared-exponential kernel of `length_scale` steps."""
    length = 1 << math.ceil(math.log2(1.3 * size))
    spectrum = np.fft.rfft(rng.standard_normal(length))
    angles = np.arange(len(spectrum)) * (2 * math.pi / length)
    spectrum *= np.exp(-((angles * length_scale) ** 2) / 4)
    return standard(np.fft.irfft(spectrum, length)[:size])


def random_walk(rng: Generator, size: int) -> FloatArray:
    """(size,) sum of Gaussian or heavy-tailed steps, standardised."""
    steps = rng.standard_normal(size) if chance(rng, 0.6) else rng.standard_t(rng.uniform(2.0, 5.0), size)
    if chance(rng, 0.4):  # only now and then a step at all
        steps = np.where(rng.random(size) < log_uniform(rng, 0.002, 0.5), steps, 0.0)
    return standard(np.cumsum(steps))


def arma(rng: Generator, clock: Clock) -> FloatArray:
    """(size,) standardised: AR roots between fast and days, half of them ringing at a random period, and an MA part."""
    noise: FloatArray = rng.standard_normal(clock.size)
    if chance(rng, 0.5):
        noise[1:] += rng.uniform(-0.9, 0.9) * noise[:-1]
    for _ in range(int(rng.integers(1, 3))):
        period = log_uniform(rng, 3.0, max(6.0, clock.steps(DAY / 2)))
        decay = math.exp(-1.0 / (period * log_uniform(rng, 0.1, 20.0)))
        turn = 2 * math.pi / period if chance(rng, 0.5) else 0.0
        noise = standard(autoregression(noise, decay * complex(math.cos(turn), math.sin(turn))).real)
    return noise


def volatility(rng: Generator, clock: Clock, hours: FloatArray | None = None) -> FloatArray:
    """(size,) positive, mean square about 1: clusters over minutes to days, or follows the hour of day."""
    spread = rng.uniform(0.2, 1.2)
    time_constant = max(2.0, clock.steps(log_uniform(rng, 10 * 60, 3 * DAY)))
    log_size = spread * ornstein_uhlenbeck(rng, clock.size, time_constant) - spread**2
    if hours is not None and chance(rng, 0.6):
        log_size = log_size + rng.uniform(0.3, 1.5) * (hours - 0.5)
    return np.asarray(np.exp(log_size))


def noise(rng: Generator, clock: Clock, hours: FloatArray | None = None) -> FloatArray:
    """(size,) of mean 0 and variance about 1: shape, memory and volatility drawn at random.

    hours (size,) 0 to 1 is what the volatility may follow, such as the season.
    """
    shape = pick(rng, ("gauss", "gauss", "student", "lognormal", "gamma", "laplace", "spiky", "spiky"))
    size = clock.size
    draw: FloatArray
    if shape == "gauss":
        draw = rng.standard_normal(size)
    elif shape == "student":
        draw = rng.standard_t(rng.uniform(2.1, 5.0), size) * 0.6
    elif shape == "lognormal":
        spread = rng.uniform(0.3, 1.2)
        draw = (np.exp(spread * rng.standard_normal(size)) - math.exp(spread**2 / 2)) / (spread * (1 + 2 * spread**2))
    elif shape == "gamma":
        k = log_uniform(rng, 0.3, 8.0)
        draw = (rng.standard_gamma(k, size) - k) / math.sqrt(k)
    elif shape == "laplace":
        draw = rng.laplace(size=size) / math.sqrt(2)
    else:  # now and then a sample far above the rest
        hit = rng.random(size) < log_uniform(rng, 0.001, 0.15)
        draw = 0.5 * rng.standard_normal(size)
        draw[hit] += log_uniform(rng, 1.0, 10.0) * rng.standard_gamma(rng.uniform(0.5, 4), int(hit.sum()))
        draw -= draw.mean()
    if chance(rng, 0.3):  # short memory, as of a rate over overlapping windows
        phi = rng.uniform(-0.3, 0.8)
        draw = autoregression(draw * math.sqrt(1 - phi * phi), phi)
    if chance(rng, 0.45):
        draw = draw * volatility(rng, clock, hours)
    return np.asarray(draw)


def regimes(rng: Generator, clock: Clock, shortest: float = 300.0, longest: float = 3 * DAY) -> FloatArray:
    """(size,) share of each interval in the second of two states; each has dwell times of its own, minutes to days."""
    means = [max(clock.step / 2, log_uniform(rng, shortest, longest)) for _ in range(2)]
    count = int(clock.span / sum(means) * 1.5) + 4
    sigma = rng.uniform(0.3, 1.5)
    exponential = chance(rng, 0.5)
    dwell = np.exp(sigma * rng.standard_normal((count, 2)) - sigma**2 / 2) if not exponential else None
    seconds = np.asarray(means) * (rng.standard_exponential((count, 2)) if dwell is None else dwell)
    turns = np.concatenate([[0.0], np.cumsum(seconds.ravel())]) - rng.uniform(0, seconds[0].sum())
    return pulses(clock, clock.edges[0] + turns[1:-1:2], seconds[:, 1])


def pulses(clock: Clock, starts: FloatArray, seconds: FloatArray, heights: FloatArray | float = 1.0) -> FloatArray:
    """(size,) mean over each interval of the sum of rectangles: start (Unix seconds), length and height (event,).

    Exact also for pulses shorter than a step, so a job of 20 s is a twentieth of its height in a mean of 400 s.
    """
    if not len(starts):
        return np.zeros(clock.size)
    change = np.broadcast_to(np.asarray(heights, dtype=np.float64), starts.shape)
    times = np.concatenate([starts, starts + seconds])
    order = np.argsort(times, kind="stable")
    times, slope = times[order], np.cumsum(np.concatenate([change, -change])[order])
    area = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(times))])
    return np.asarray(np.diff(np.interp(clock.edges, times, area)) / clock.step)


def shots(clock: Clock, at: FloatArray, sizes: FloatArray, decay: float, rise: float = 0.0) -> FloatArray:
    """(size,) sum of shots that jump by `sizes` at `at` (Unix seconds) and fade over `decay` seconds, after `rise`."""
    column = ((at - clock.edges[0]) // clock.step).astype(np.int64)
    inside = (column >= 0) & (column < clock.size)
    hits = np.bincount(column[inside], weights=sizes[inside], minlength=clock.size).astype(np.float64)
    faded = autoregression(hits, math.exp(-clock.step / max(decay, 1e-3)))
    if rise > clock.step:
        phi = math.exp(-clock.step / rise)
        faded = autoregression(faded * (1 - phi), phi)
    return faded


def standard(values: FloatArray) -> FloatArray:
    """`values` less their mean, over their standard deviation (left alone where that is 0)."""
    centred = values - values.mean()
    spread = centred.std()
    return np.asarray(centred / spread if spread > 0 else centred)


def hours_long(rng: Generator, low: float, high: float, count: int) -> FloatArray:
    """(count,) lengths in seconds, log-uniform between `low` and `high` hours."""
    return np.asarray(np.exp(rng.uniform(math.log(low), math.log(high), count)) * HOUR)
