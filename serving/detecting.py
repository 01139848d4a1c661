"""`forecaster detect`: scores and incidents of a PromQL expression or of the series of a tidy file.

The live path's own code, step by step: each row is judged by what came up to it, and by nothing else. There is no
network here, so that a file of 50,000 steps takes a minute: what is expected of a sample is what the row's own newest
samples say (`forecaster.anomaly.kernel`). Series that share a grid share the pool that thresholds are learned from, as
the workloads of a fleet do.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.anomaly import kernel
from forecaster.domain import BoolArray, FloatArray, Incident, IntArray, SeriesKey
from forecaster.errors import InputError
from forecaster.foresight import LEVELS
from forecaster.vigil import Vigil
from serving import foretelling

SCHEMA_VERSION = 1
DAY = 86_400
ROLE = "value"
WARM_UP = int(kernel.LEAST) + kernel.STEPS + 1  # samples before the first score


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """One series and what was found in it; arrays (time,)."""

    name: str
    step: timedelta
    times: IntArray  # Unix seconds, ends of intervals
    values: FloatArray  # NaN where missing
    low: FloatArray  # expected before the sample came; NaN during warm-up
    high: FloatArray
    score: FloatArray  # -log10 p; NaN during warm-up and where no sample came, never 0 for that
    is_anomaly: BoolArray  # in an incident, from the sample that opened it
    incidents: tuple[Incident, ...]
    reason: str | None  # why there is no score at all, or none at first
    quirks: tuple[str, ...]  # what was odd about its rows

    @property
    def is_scored(self) -> bool:
        """Whether any of its samples has a score."""
        return bool(np.isfinite(self.score).any())


def detect(
    asked: foretelling.Asked,
    budget: float,
    now: datetime,
    environ: Mapping[str, str],
    progress: Callable[[float], None],
) -> list[Detected]:
    """Raises InputError for what the user must mend; a series that cannot be scored says why and the rest goes on.

    `budget`: false alarms per series and week. `progress` is told the share that is done.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"--budget: {budget} is not above 0: write false alarms per series and week, as 0.1")
    pasts = foretelling.pasts_of(asked, now, environ, shortest=1)
    groups: dict[tuple[timedelta, int], list[int]] = defaultdict(list)
    for i, past in enumerate(pasts):
        # the pool of a day may hold no later day of another series: only those of the same days are a fleet
        groups[past.step, int(past.times[0]) // DAY].append(i)
    out: dict[int, Detected] = {}
    total, done = sum(len(past.times) for past in pasts), 0
    for rows in groups.values():
        part = sum(len(pasts[i].times) for i in rows)
        found = _together([pasts[i] for i in rows], budget, lambda share: progress((done + share * part) / total))  # noqa: B023
        out.update(zip(rows, found, strict=True))
        done += part
    return [out[i] for i in range(len(pasts))]


def _together(pasts: Sequence[foretelling.Past], budget: float, progress: Callable[[float], None]) -> list[Detected]:
    """Series of one step whose first samples fall on one day, as one fleet."""
    step = int(pasts[0].step.total_seconds())
    first, last = min(int(past.times[0]) for past in pasts), max(int(past.times[-1]) for past in pasts)
    heads = np.arange(first, last + 1, step, dtype=np.int64)
    values = np.full((len(pasts), len(heads)), np.nan)
    for row, past in enumerate(pasts):
        at = (past.times - first) // step
        values[row, at] = past.values
    keys = tuple(f"{past.name}#{row}/{ROLE}" for row, past in enumerate(pasts))
    vigil = Vigil(pasts[0].step, LEVELS, budget, timedelta(days=28))
    vigil.align(keys, tuple(SeriesKey(past.name, ROLE) for past in pasts))
    score, low, high = (np.full(values.shape, np.nan) for _ in range(3))
    flagged = np.zeros(values.shape, dtype=np.bool_)
    incidents: list[dict[str, Incident]] = [{} for _ in keys]
    row_of = {past.name: row for row, past in enumerate(pasts)}
    nothing, unmarked = np.full(len(keys), np.nan), np.zeros(len(keys), dtype=np.bool_)
    quiet: tuple[tuple[()], ...] = tuple(() for _ in keys)
    for t, head in enumerate(heads.tolist()):
        vigil.step(head, values[:, t], nothing, nothing, unmarked, quiet)
        followed = vigil.followed
        assert followed is not None
        score[:, t], low[:, t], high[:, t] = followed.score, followed.low, followed.high
        for one in (*followed.closed, *followed.open):
            incidents[row_of[one.workload]][one.id] = one
        for one in followed.open:
            flagged[row_of[one.workload], t] = True
        if t % 1000 == 0:
            progress(t / len(heads))
    out = []
    for row, past in enumerate(pasts):
        at = (past.times - first) // step
        known = ~np.isnan(past.values)
        out.append(
            Detected(
                name=past.name,
                step=past.step,
                times=past.times,
                values=past.values,
                low=low[row, at],
                high=high[row, at],
                score=np.where(known, score[row, at], np.nan),
                is_anomaly=flagged[row, at],
                incidents=tuple(sorted(incidents[row].values(), key=lambda one: one.opened_at)),
                reason=_why_not(past.values, score[row, at]),
                quirks=past.quirks,
            )
        )
    return out


def _why_not(values: FloatArray, score: FloatArray) -> str | None:
    known = int((~np.isnan(values)).sum())
    if not known:
        return "no_data: all of its values are missing"
    if not np.isfinite(score).any():
        return f"history_too_short: it has {known} samples, the first {WARM_UP} are warm-up and have no score"
    return f"calibrating: the first {WARM_UP} samples are warm-up and have no score"


# --- told ------------------------------------------------------------------------------------------------------------


def as_json(found: Sequence[Detected], budget: float) -> str:
    """Series with their incidents; the rows themselves are for --parquet."""
    items = [
        {
            "series": one.name,
            "stepSeconds": int(one.step.total_seconds()),
            "samples": int((~np.isnan(one.values)).sum()),
            "scored": int(np.isfinite(one.score).sum()),
            "reason": one.reason,
            "quirks": list(one.quirks),
            "incidents": [_incident_json(incident) for incident in one.incidents],
        }
        for one in found
    ]
    return json.dumps({"schemaVersion": SCHEMA_VERSION, "budgetPerWeek": budget, "items": items})


def _incident_json(one: Incident) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "direction": one.direction,
        "severity": one.severity,
        "onset": one.onset.isoformat(),
        "openedAt": one.opened_at.isoformat(),
        "closedAt": None if one.closed_at is None else one.closed_at.isoformat(),
        "score": one.score,
        "observed": _number(one.observed),
        "expectedLow": _number(one.expected_low),
        "expectedHigh": _number(one.expected_high),
        "sentence": one.sentence,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_text(found: Sequence[Detected]) -> str:
    """For people: a line per series, and one per incident."""
    lines = []
    for one in found:
        weeks = len(one.times) * one.step.total_seconds() / (7 * DAY)
        said = f"{one.name}: {len(one.incidents)} incidents in {weeks:.1f} weeks"
        if not one.is_scored:
            said = f"{one.name}: not scored: {one.reason}"
        lines += [said, *(f"  {quirk}" for quirk in one.quirks)]
        lines += [f"  {i.opened_at:%Y-%m-%d %H:%M} {i.severity} {i.kind}: {i.sentence}" for i in one.incidents]
    return "\n".join(lines)


def write_parquet(found: Sequence[Detected], path: Path) -> None:
    """A row for each grid point. Raises InputError where it cannot be written."""
    import pandas as pd

    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "series_id": one.name,
                    "timestamp": pd.to_datetime(one.times, unit="s", utc=True),
                    "value": one.values,
                    "expected_low": one.low,
                    "expected_high": one.high,
                    "score": one.score,
                    "is_anomaly": one.is_anomaly,
                }
            )
            for one in found
        ],
        ignore_index=True,
    )
    try:
        table.to_parquet(path, index=False)
    except OSError as error:
        raise InputError(f"--parquet: {path} cannot be written: {error}") from None
