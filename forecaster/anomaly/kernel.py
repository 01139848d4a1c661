"""The inner loop of the change statistics: what one more sample says of each row, given the row's own past.

Plain functions over arrays that mean the same interpreted and compiled by numba; nothing here imports numba. Every
statistic is a number with a sign, divided by its own usual size, and turned into -log10 of a p-value by its own past:
by rank where enough of the past lies beyond, by a fitted Pareto tail outside. They are combined by the root of their
squares, and that is scored by the row's own block maxima. `statistics.py` says what is in the state.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

WINDOW = 96  # samples kept
BINS, BIN_WIDTH, LOWEST = 64, 0.2, -5.0  # histogram over the logarithm of a statistic over its usual size
MEMORY = 20_000.0  # samples that histograms and usual sizes remember
LEAST = 240.0  # samples of a statistic before it is scored: the tail of a shorter past is a guess
TAIL_SHARE, TAIL_LEAST = 0.02, 20.0  # the fitted tail begins where this share, or so many, lie beyond
LEAST_EXCESS = 0.1  # of the logarithm: the thinnest tail that is believed
HIGHEST = 20.0

RESIDUAL, VARIANCE, SHIFT, SHAPE, DRIFT, FORECAST = 0, 1, 2, 3, 4, 5
LEARNED = 5  # the statistics that have a histogram: the first so many
STATISTICS = 6

SHORT, LONG = 6, 48  # samples: a shift is the mean of the newest against the median of those before
LAG = 16  # samples of the window that the shape is judged in
AXES = 3  # directions that a usual window is made of
AXES_EVERY = 12  # samples between two steps towards them
SHAPE_MEMORY = 5_000.0
COARSE, COARSE_STEP, COARSE_NEW = 48, 12, 4  # drift: means of 12 samples, the newest four against the median before
FORGET = 0.9995  # of the regression
STEPS, REGRESSORS = 12, 4

BLOCK, BLOCKS = 288, 32  # samples of a block, and blocks remembered
EDGE = math.log10(BLOCK)  # score of a usual maximum of a block: below it ranks count, beyond it the fitted tail
LOW_RANK, HIGH_RANK = 0.25, 0.6  # of the block maxima: what a Gumbel distribution is fitted to; incidents lie above
PRIOR_BLOCKS, PRIOR_PLACE, PRIOR_SPREAD = 4.0, 2.5, 0.6  # of block maxima before there are own ones
WINDOW_VOICE = 0.7  # of spread and shape in naming an incident: one odd sample makes its whole window odd
QUIET_DRIFT = 2.0  # -log10 p up to which a drift adds nothing: most rows wander
TOLD_FADES, TOLD_MARGIN = 300.0, 1.1  # samples in which what was told fades, and how far beyond it news must lie
REPETITIVE = 0.9  # share of repeated values from which a row is near-constant
COARSE_FLOOR, FINE_FLOOR = 1e-2, 1e-3  # usual size of a statistic, at least so much of the level

# places in `marks`
SEEN, LEVEL, SLOW, FAST, STEP_SIZE, ERROR_SIZE, REPEAT, IN_BLOCK, BLOCK_MAX, BLOCKS_SEEN = range(10)
PLACE, SPREAD, TOLD, COARSE_SUM, COARSE_COUNT, COARSE_SEEN, EXPECTED, BELOW, ABOVE = range(10, 19)
SIZES, COUNTS, WEIGHTS, INVERSE = 20, 26, 32, 36
MARKS = INVERSE + REGRESSORS * REGRESSORS


def run(
    values: Any,
    forecast: Any,
    ring: Any,
    coarse: Any,
    marks: Any,
    covariance: Any,
    axes: Any,
    past: Any,
    combined: Any,
    maxima: Any,
    score: Any,
    news: Any,
    parts: Any,
    loud: Any,
    side: Any,
    band: Any,
) -> None:
    """Takes in samples (row, time) in order of time and writes score, news, loud, side (row, time), parts (row, time,
    statistic) and band (row, time, low | middle | high): what was expected of the sample before it came.

    A sample that is NaN changes nothing. `forecast` (row, time) is the signed score against a forecast, NaN for none.
    """
    statistics = np.zeros(STATISTICS)
    scratch = np.zeros(WINDOW)
    for row in range(values.shape[0]):
        for t in range(values.shape[1]):
            band[row, t, 0], band[row, t, 1], band[row, t, 2] = (
                marks[row, BELOW],
                marks[row, EXPECTED],
                marks[row, ABOVE],
            )
            x = values[row, t]
            score[row, t], news[row, t], loud[row, t], side[row, t] = math.nan, math.nan, FORECAST, 0
            for k in range(STATISTICS):
                parts[row, t, k] = math.nan
            if math.isnan(x):
                continue
            measure(x, ring[row], coarse[row], marks[row], covariance[row], axes[row], past[row], statistics, scratch)
            statistics[FORECAST] = forecast[row, t]
            squares, most = -1.0, 0.0
            for k in range(STATISTICS):
                parts[row, t, k] = statistics[k]
                if math.isnan(statistics[k]):
                    continue
                size = max(abs(statistics[k]) - QUIET_DRIFT, 0.0) if k == DRIFT else abs(statistics[k])
                squares = max(squares, 0.0) + size * size
                voice = WINDOW_VOICE * size if k in (VARIANCE, SHAPE) else size
                if voice > most:
                    most, loud[row, t], side[row, t] = voice, k, (1 if statistics[k] > 0 else -1)
            if squares < 0:
                continue
            size = math.sqrt(squares)
            score[row, t] = graded(size, marks[row], combined[row])
            news[row, t] = score[row, t] if is_new(size, marks[row]) else min(score[row, t], EDGE)
            kept(size, marks[row], combined[row])
            blocked(size, marks[row], maxima[row])


def measure(
    x: float, ring: Any, coarse: Any, marks: Any, covariance: Any, axes: Any, past: Any, out: Any, scratch: Any
) -> None:
    """Writes the signed -log10 p of each statistic for one sample into `out`, NaN where not known yet; learns it."""
    seen = marks[SEEN]
    last = ring[WINDOW - 1]
    for i in range(WINDOW - 1):
        ring[i] = ring[i + 1]
    ring[WINDOW - 1] = x
    marks[SEEN] = seen + 1.0
    marks[LEVEL] += (abs(x) - marks[LEVEL]) / min(seen + 1.0, MEMORY)
    for k in range(STATISTICS):
        out[k] = math.nan
    if seen == 0.0:
        marks[SLOW], marks[FAST] = x, x
        return
    repeated = 1.0 if x == last else 0.0
    marks[REPEAT] += (repeated - marks[REPEAT]) / min(seen + 1.0, MEMORY)
    floor = max((COARSE_FLOOR if marks[REPEAT] > REPETITIVE else FINE_FLOOR) * marks[LEVEL], 1e-12)

    if seen >= STEPS:
        out[RESIDUAL] = learnt(innovation(x, last, ring, marks, floor), RESIDUAL, floor, marks, past)
    if seen >= WINDOW:
        out[VARIANCE] = learnt(dispersion(ring), VARIANCE, floor, marks, past)
    if seen >= SHORT + LONG:
        out[SHIFT] = learnt(shifted(ring, SHORT, LONG, scratch), SHIFT, floor, marks, past)
    if seen >= LAG:
        odd = shape(ring, marks, floor, covariance, axes, scratch)
        if seen >= 3 * LAG:
            out[SHAPE] = learnt(odd, SHAPE, floor, marks, past)
    drifted(x, coarse, marks)
    # judged once for each new mean: between two of them nothing is learned that would be independent
    if marks[COARSE_SEEN] >= COARSE and marks[COARSE_COUNT] == 0:
        out[DRIFT] = learnt(shifted(coarse, COARSE_NEW, COARSE - COARSE_NEW, scratch), DRIFT, floor, marks, past)
    marks[SLOW] += (x - marks[SLOW]) / min(seen + 1.0, 2_000.0)
    marks[FAST] += 0.05 * (x - marks[FAST])
    expect(x, last, ring, marks, floor, past)


def regressor(k: int, ring: Any, back: int, fast: float, slow: float) -> float:
    """What the regression knows `back` samples ago: the last change, and how far off the last value was from means."""
    end = WINDOW - 1 - back
    newest = ring[end]
    if k == 0:
        return float(newest - ring[end - 1])
    if k == 1:
        return float(newest - (ring[end - 1] + ring[end - 2] + ring[end - 3]) / 3)
    return float(newest - (fast if k == 2 else slow))


def innovation(x: float, last: float, ring: Any, marks: Any, floor: float) -> float:
    """The sample less what an adaptive regression on the row's newest samples expected: recursive least squares,
    with errors bounded at four times the usual, lest an incident teach."""
    change = abs(x - last)
    count = marks[SEEN] - STEPS
    bounded = change if count < 50 else min(change, 5 * marks[STEP_SIZE] + floor)
    marks[STEP_SIZE] += (bounded - marks[STEP_SIZE]) / min(max(count, 1.0), 5_000.0)
    unit = max(marks[STEP_SIZE], floor)
    u0 = regressor(0, ring, 1, marks[FAST], marks[SLOW]) / unit
    u1 = regressor(1, ring, 1, marks[FAST], marks[SLOW]) / unit
    u2 = regressor(2, ring, 1, marks[FAST], marks[SLOW]) / unit
    u3 = regressor(3, ring, 1, marks[FAST], marks[SLOW]) / unit
    w = WEIGHTS
    error = (x - last) / unit - (marks[w] * u0 + marks[w + 1] * u1 + marks[w + 2] * u2 + marks[w + 3] * u3)
    usual = marks[ERROR_SIZE] if marks[ERROR_SIZE] > 0 else abs(error)
    learnt_error = min(max(error, -4 * usual), 4 * usual)
    norm = u0 * u0 + u1 * u1 + u2 * u2 + u3 * u3
    shrink = 1.0 if norm < 400.0 else math.sqrt(400.0 / norm)
    u0, u1, u2, u3 = u0 * shrink, u1 * shrink, u2 * shrink, u3 * shrink
    p = INVERSE
    g0 = marks[p] * u0 + marks[p + 1] * u1 + marks[p + 2] * u2 + marks[p + 3] * u3
    g1 = marks[p + 4] * u0 + marks[p + 5] * u1 + marks[p + 6] * u2 + marks[p + 7] * u3
    g2 = marks[p + 8] * u0 + marks[p + 9] * u1 + marks[p + 10] * u2 + marks[p + 11] * u3
    g3 = marks[p + 12] * u0 + marks[p + 13] * u1 + marks[p + 14] * u2 + marks[p + 15] * u3
    gain = (g0, g1, g2, g3)
    total = FORGET + u0 * g0 + u1 * g1 + u2 * g2 + u3 * g3
    for i in range(REGRESSORS):
        marks[w + i] += gain[i] / total * learnt_error
        for j in range(REGRESSORS):
            marks[p + REGRESSORS * i + j] = (marks[p + REGRESSORS * i + j] - gain[i] * gain[j] / total) / FORGET
    for i in range(REGRESSORS):
        if marks[p + REGRESSORS * i + i] > 1e3:  # a direction that is not excited grows without end
            for j in range(REGRESSORS):
                marks[p + REGRESSORS * i + j], marks[p + REGRESSORS * j + i] = 0.0, 0.0
            marks[p + REGRESSORS * i + i] = 10.0
    size = min(abs(error), 5 * usual)
    marks[ERROR_SIZE] = usual + (size - usual) / min(max(count, 1.0), 500.0)
    return float(error * unit)


def dispersion(ring: Any) -> float:
    """Mean distance of the window's samples from their mean."""
    mean = 0.0
    for i in range(WINDOW):
        mean += ring[i]
    mean /= WINDOW
    total = 0.0
    for i in range(WINDOW):
        total += abs(ring[i] - mean)
    return float(total / WINDOW)


def shifted(ring: Any, short: int, long: int, scratch: Any) -> float:
    """Mean of the newest `short` less the median of the `long` before them."""
    size = len(ring)
    total = 0.0
    for i in range(size - short, size):
        total += ring[i]
    for i in range(long):
        scratch[i] = ring[size - short - long + i]
    ordered = np.sort(scratch[:long])
    return float(total / short - 0.5 * (ordered[(long - 1) // 2] + ordered[long // 2]))


def shape(ring: Any, marks: Any, floor: float, covariance: Any, axes: Any, scratch: Any) -> float:
    """Root mean square of what the usual directions of the last windows cannot explain of the newest window: what
    Sub-PCA measures, with a covariance that forgets and axes that follow it by orthogonal iteration."""
    unit = max(marks[STEP_SIZE], floor)
    mean = 0.0
    for i in range(LAG):
        mean += ring[WINDOW - LAG + i]
    mean /= LAG
    power = 0.0
    for i in range(LAG):
        scratch[i] = min(max((ring[WINDOW - LAG + i] - mean) / unit, -1e6), 1e6)
        power += scratch[i] * scratch[i]
    left = power
    for a in range(AXES):
        along = 0.0
        for i in range(LAG):
            along += axes[i, a] * scratch[i]
        left -= along * along
    count = min(marks[SEEN], SHAPE_MEMORY)
    usual = 0.0
    for i in range(LAG):
        usual += covariance[i, i]
    weight = min(1.0, 9.0 * usual / power) if power > 0 and marks[SEEN] > 5 * LAG else 1.0  # no outlier turns the axes
    for i in range(LAG):
        for j in range(LAG):
            covariance[i, j] += (weight * scratch[i] * scratch[j] - covariance[i, j]) / count
    if marks[SEEN] % AXES_EVERY == 0:
        turned(covariance, axes)
    return float(math.sqrt(max(left, 0.0) / LAG) * unit)


def turned(covariance: Any, axes: Any) -> None:
    """One step of orthogonal iteration: axes times covariance, made orthonormal again."""
    fresh = np.zeros((LAG, AXES))
    for a in range(AXES):
        for i in range(LAG):
            total = 0.0
            for j in range(LAG):
                total += covariance[i, j] * axes[j, a]
            fresh[i, a] = total
        for b in range(a):
            along = 0.0
            for i in range(LAG):
                along += fresh[i, a] * fresh[i, b]
            for i in range(LAG):
                fresh[i, a] -= along * fresh[i, b]
        norm = 0.0
        for i in range(LAG):
            norm += fresh[i, a] * fresh[i, a]
        norm = math.sqrt(norm)
        for i in range(LAG):
            fresh[i, a] = fresh[i, a] / norm if norm > 1e-9 else 0.0
    for a in range(AXES):
        for i in range(LAG):
            # an axis of nothing would stay so: it keeps the old direction until there is something to follow
            axes[i, a] = fresh[i, a] if fresh[:, a].any() else axes[i, a]


def drifted(x: float, coarse: Any, marks: Any) -> None:
    """Adds the sample to the means of COARSE_STEP samples."""
    marks[COARSE_SUM] += x
    marks[COARSE_COUNT] += 1.0
    if marks[COARSE_COUNT] >= COARSE_STEP:
        for i in range(COARSE - 1):
            coarse[i] = coarse[i + 1]
        coarse[COARSE - 1] = marks[COARSE_SUM] / COARSE_STEP
        marks[COARSE_SUM], marks[COARSE_COUNT] = 0.0, 0.0
        marks[COARSE_SEEN] += 1.0


def learnt(value: float, which: int, floor: float, marks: Any, past: Any) -> float:
    """The signed -log10 p of one statistic by its own past, NaN while that is short; then it is part of that past."""
    count = marks[COUNTS + which]
    unit = max(marks[SIZES + which], floor)
    size = abs(value)
    side = 1 if value > 0 else 0
    out = math.nan
    if count > 0:
        at = (math.log(size / unit + 1e-12) - LOWEST) / BIN_WIDTH
        total = 0.0
        for k in range(BINS):
            total += past[which, 0, k] + past[which, 1, k]
        if count >= LEAST:
            rare = min(2 * tail(at, past[which, side], total), 1.0)
            out = min(-math.log10(max(rare, 1e-20)), HIGHEST) * (1.0 if side == 1 else -1.0)
        if total > MEMORY:
            for k in range(BINS):
                past[which, 0, k] *= 1 - 1 / MEMORY
                past[which, 1, k] *= 1 - 1 / MEMORY
        past[which, side, min(max(int(at), 0), BINS - 1)] += 1.0
    bounded = size if count < 50 else min(size, 5 * unit)
    marks[SIZES + which] += (bounded - marks[SIZES + which]) / min(count + 1.0, MEMORY)
    marks[COUNTS + which] = count + 1.0
    return out


def tail(at: float, bins: Any, total: float) -> float:
    """Share of a past of `total` that lies beyond place `at` (in bins) of one side's histogram."""
    need = max(TAIL_LEAST, TAIL_SHARE * total)
    beyond, area = 0.0, 0.0
    begin, there, over = 0, 0.0, 0.0
    found = False
    for k in range(BINS - 1, -1, -1):
        beyond += bins[k]
        area += (beyond - bins[k] / 2) * BIN_WIDTH
        if beyond >= need and not found:
            begin, there, over, found = k, beyond, area, True
    if not found:
        there, over = max(beyond, 0.5), area
    place = min(max(int(at), 0), BINS - 1)
    if at > begin + 1:
        excess = max(over / there, LEAST_EXCESS)
        return float((there + 0.5) / (total + 1) * math.exp(-(at - begin) * BIN_WIDTH / excess))
    beyond = 0.0
    for k in range(BINS - 1, place, -1):
        beyond += bins[k]
    part = min(max(at - place, 0.0), 1.0)
    return float((beyond + bins[place] * (1 - part) + 0.5) / (total + 1))


def expect(x: float, last: float, ring: Any, marks: Any, floor: float, past: Any) -> None:
    """What the regression expects of the next sample, and the interval that 98 % of its errors keep to."""
    unit = max(marks[STEP_SIZE], floor)
    shift = 0.0
    for k in range(REGRESSORS):
        shift += marks[WEIGHTS + k] * regressor(k, ring, 0, marks[FAST], marks[SLOW])
    total = 0.0
    for k in range(BINS):
        total += past[RESIDUAL, 0, k] + past[RESIDUAL, 1, k]
    if marks[SEEN] < STEPS or total < LEAST:
        marks[EXPECTED], marks[BELOW], marks[ABOVE] = math.nan, math.nan, math.nan
        return
    # no regression sends the next sample further than a window of samples has reached
    shift = min(max(shift, -100 * unit), 100 * unit)
    marks[EXPECTED] = x + shift
    usual = max(marks[SIZES + RESIDUAL], floor)
    for side in range(2):
        need, beyond, place = 0.01 * total, 0.0, 0
        for k in range(BINS - 1, -1, -1):
            beyond += past[RESIDUAL, side, k]
            if beyond >= need:
                place = k + 1
                break
        reach = usual * math.exp(LOWEST + place * BIN_WIDTH)
        if side == 1:
            marks[ABOVE] = marks[EXPECTED] + reach
        else:
            marks[BELOW] = marks[EXPECTED] - reach


def graded(size: float, marks: Any, combined: Any) -> float:
    """-log10 p of the combined size: by rank in the row's own past, and beyond what a block's maximum usually is by
    the Gumbel distribution of such maxima."""
    far = (size - marks[PLACE]) / marks[SPREAD]
    if far > 0:
        return float(min(EDGE + far / math.log(10.0), HIGHEST))
    at = (math.log(size + 1e-12) - LOWEST) / BIN_WIDTH
    total = 0.0
    for k in range(BINS):
        total += combined[k]
    place = min(max(int(at), 0), BINS - 1)
    beyond = 0.0
    for k in range(BINS - 1, place, -1):
        beyond += combined[k]
    beyond += combined[place] * (1 - min(max(at - place, 0.0), 1.0))
    return min(max(-math.log10((beyond + 0.5) / (total + 1.0)), 0.0), EDGE)


def is_new(size: float, marks: Any) -> bool:
    """Whether the size stands out from what was told lately: an echo, or the plateau after a change, does not."""
    return bool((size - marks[PLACE]) / marks[SPREAD] > TOLD_MARGIN * marks[TOLD])


def kept(size: float, marks: Any, combined: Any) -> None:
    """Makes the combined size part of the past, and of what has been told: an echo of it is news no more."""
    total = 0.0
    for k in range(BINS):
        total += combined[k]
    if total > MEMORY:
        for k in range(BINS):
            combined[k] *= 1 - 1 / MEMORY
    combined[min(max(int((math.log(size + 1e-12) - LOWEST) / BIN_WIDTH), 0), BINS - 1)] += 1.0
    marks[TOLD] = max(marks[TOLD] * math.exp(-1 / TOLD_FADES), (size - marks[PLACE]) / marks[SPREAD])


def blocked(size: float, marks: Any, maxima: Any) -> None:
    """Keeps the maximum of each block; at its end fits the Gumbel distribution by two quantiles, mixed with a prior."""
    marks[BLOCK_MAX] = max(marks[BLOCK_MAX], size)
    marks[IN_BLOCK] += 1.0
    if marks[IN_BLOCK] < BLOCK:
        return
    for i in range(BLOCKS - 1):
        maxima[i] = maxima[i + 1]
    maxima[BLOCKS - 1] = marks[BLOCK_MAX]
    marks[IN_BLOCK], marks[BLOCK_MAX] = 0.0, 0.0
    marks[BLOCKS_SEEN] = min(marks[BLOCKS_SEEN] + 1.0, BLOCKS)
    known = int(marks[BLOCKS_SEEN])
    ordered = np.sort(maxima[BLOCKS - known :])
    low, high = ranked_at(ordered, LOW_RANK), ranked_at(ordered, HIGH_RANK)
    below, above = -math.log(-math.log(LOW_RANK)), -math.log(-math.log(HIGH_RANK))
    spread = max((high - low) / (above - below), 0.3 * PRIOR_SPREAD)
    weight = known / (known + PRIOR_BLOCKS)
    marks[SPREAD] = math.exp(weight * math.log(spread) + (1 - weight) * math.log(PRIOR_SPREAD))
    marks[PLACE] = weight * (high - above * spread) + (1 - weight) * PRIOR_PLACE


def ranked_at(ordered: Any, rank: float) -> float:
    """Quantile of sorted numbers at place rank (n + 1)."""
    last = len(ordered) - 1
    place = min(max(rank * (len(ordered) + 1) - 1, 0.0), float(last))
    below = int(place)
    return float(ordered[below] + (place - below) * (ordered[min(below + 1, last)] - ordered[below]))


HELPERS = (
    regressor,
    innovation,
    dispersion,
    shifted,
    turned,
    shape,
    drifted,
    tail,
    learnt,
    expect,
    measure,
    graded,
    is_new,
    kept,
    ranked_at,
    blocked,
)
"""What `run` calls: numba is told of each before it compiles."""
