"""Level shifts on a daily wave, through the live scoring with frozen forecasts: recall, delay, incidents.

`python tests/benchmarks/level_shifts.py`: rows of a wave five times as high as its noise, forecast by the profile; a
shift of three deviations of the noise on the day after the third week. From the second week on, what alarms before it
counts as false.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.anomaly import follow
from forecaster.anomaly.follow import Seen
from forecaster.domain import ForecastRequest, SeriesBatch, SeriesKey
from forecaster.past import Past
from models.profile import Profile

STEP, DAY = 300, 288
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
HOUR = 3_600 // STEP
WEEKS, LATE = 3, 6 * 3_600 // STEP  # weeks before the shift; steps in which it should be told
BEGIN = 1_772_323_200


def loads(rows: int, phi: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, time) loads, and (row,) step of the shift."""
    rng = np.random.default_rng(seed)
    steps = (7 * WEEKS + 2) * DAY
    noise = rng.normal(0, 1, (rows, steps))
    for j in range(1, steps):
        noise[:, j] = phi * noise[:, j - 1] + np.sqrt(1 - phi * phi) * noise[:, j]
    wave = 50 * np.sin(2 * np.pi * (np.arange(steps)[None, :] / DAY + rng.random((rows, 1))))
    at = 7 * WEEKS * DAY + rng.integers(0, DAY, rows)
    shift = 30.0 * rng.choice([-1, 1], rows)[:, None] * (np.arange(steps)[None, :] >= at[:, None])
    return 200 + wave + 10 * noise + shift, at


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--phi", type=float, default=0.0, help="memory of the noise from step to step")
    parser.add_argument("--budget", type=float, default=0.1)
    asked = parser.parse_args()
    values, at = loads(asked.rows, asked.phi, 1)
    keys = tuple(SeriesKey(f"w{row}") for row in range(asked.rows))
    names = tuple(f"w{row}#1/load" for row in range(asked.rows))
    end = datetime.fromtimestamp(BEGIN + values.shape[1] * STEP, UTC)
    past = Past(SeriesBatch(keys, end, timedelta(seconds=STEP), values.astype(np.float32)))
    request = ForecastRequest(np.array([1, HOUR]), LEVELS, np.full(asked.rows, 1))
    forecaster, state = Profile(), follow.start(names)
    waiting: dict[int, np.ndarray] = {}
    near = np.full((asked.rows, len(LEVELS)), np.nan)
    quiet, none = np.zeros(asked.rows, dtype=np.bool_), np.zeros(asked.rows, dtype=np.int64)
    opened: list[tuple[int, int]] = []
    for j in range(2 * DAY, values.shape[1]):
        far = waiting.pop(j, np.full_like(near, np.nan))
        seen = Seen(BEGIN + (j + 1) * STEP, values[:, j], near, far, LEVELS, quiet, none)
        found = follow.follow(state, seen, asked.budget, STEP)
        state = found.state
        opened += [(j, int(one.workload[1:])) for one in found.opened]
        answer = forecaster.forecast(past.at(j), request)
        near = answer.values[:, 0]
        waiting[j + HOUR] = answer.values[:, 1]
    false = sum(7 * DAY <= j < at[row] for j, row in opened)
    weeks = sum((one - 7 * DAY) / (7 * DAY) for one in at)
    delays, single = [], 0
    for row in range(asked.rows):
        mine = [j - at[row] for j, one in opened if one == row and j >= at[row]]
        if mine and mine[0] <= LATE:
            delays.append(mine[0] * STEP / 60)
        single += len(mine) == 1
    median = np.median(delays) if delays else np.nan
    print(f"{len(delays) / asked.rows:.0%} told within {LATE // HOUR} h, median delay {median:.0f} min")
    print(f"exactly one incident {single / asked.rows:.0%}; {false / weeks:.2f} false alarms a week before")


if __name__ == "__main__":
    main()
