"""What is wrong with the newest samples: faults of the data, anomalies, and what must not be learned from.

Once a step, on grid samples. Scored are forecasts frozen before the sample came, one step and one hour earlier. Knows
no Prometheus and no decision; that hears of faults of the data only, a flash crowd that is flagged still scales.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from forecaster.anomaly import account, budget, feedback, follow
from forecaster.anomaly.feedback import NOTHING, Taught
from forecaster.anomaly.incidents import named
from forecaster.chunks import Span
from forecaster.domain import BoolArray, FloatArray, Forecast, Incident, SeriesKey
from forecaster.foresight import HOUR
from forecaster.publication import FINE_SPAN, Band
from forecaster.reasons import Reason
from forecaster.rows import Arrays, Rows
from forecaster.scaling import tripwires

MOST_COLUMNS = 360  # of what was expected: 29 MB for 10,000 rows
DOUBT = 120  # seconds by which a fault of the unit can be dated too early: they are forgotten with the old unit's past


class Vigil:
    """Faults, incidents and exclusions of all rows, from step to step. One thread at a time."""

    def __init__(
        self, step: timedelta, levels: tuple[float, ...], per_week: float, span: timedelta, beside: float = 0.0
    ) -> None:
        """`per_week`: false alarms of a workload; `beside`: share of it for other kinds where there are resources."""
        self._step, self._levels = int(step.total_seconds()), levels
        self._span = int(span.total_seconds())
        self.per_week, self._beside = per_week, beside
        self.keys: tuple[str, ...] = ()
        self._series: tuple[SeriesKey, ...] = ()
        self._tripwires = Rows((), {})
        self._anomalies = follow.start(())
        self._frozen = Rows((), {})
        self.excluded: dict[str, list[Span]] = {}  # row key -> (after, until]
        self.faults: tripwires.Faults | None = None
        self.followed: follow.Followed | None = None
        self._taught = NOTHING
        self._columns = min(MOST_COLUMNS, int(FINE_SPAN.total_seconds()) // self._step)
        self._band_times = np.zeros(self._columns, dtype=np.int64)
        self._band = Rows((), {}).aligned((), self._blank_band())
        self.accounts: dict[str, Mapping[str, Any]] = {}  # of the last step: what the digits of incidents rest on

    def spend(self, per_week: float) -> None:
        """Another budget, from the next step on."""
        if per_week != self.per_week:
            self.per_week = per_week
            self._anomalies = follow.with_other_budget(self._anomalies)

    def teach(self, taught: Taught) -> None:
        """What people said of incidents, all of it; counts from the next step on."""
        if taught == self._taught:
            return
        self._taught = taught
        for key in list(self.excluded):
            given_back = self._taught.harmless.get(named(key), ())
            # what is left of a span and shorter than a step holds no sample
            spans = [one for one in feedback.without(self.excluded[key], given_back) if one[1] - one[0] >= self._step]
            self.excluded[key] = spans
            if not spans:
                del self.excluded[key]

    def align(self, keys: tuple[str, ...], series: tuple[SeriesKey, ...]) -> None:
        """Takes another list of rows."""
        self._series = series
        if keys == self.keys:
            return
        self.keys = keys
        self._tripwires = self._tripwires.aligned(keys, tripwires.blank())
        self._anomalies = follow.start(keys, self._anomalies)
        self._frozen = self._frozen.aligned(keys, self._blank())
        self._band = self._band.aligned(keys, self._blank_band())
        self.faults, self.followed = None, None

    def freeze(self, forecast: Forecast) -> None:
        """Remembers what was forecast for the next step and for an hour on, to judge the samples when they come."""
        origin = int(forecast.origin.timestamp())
        hour = int(np.searchsorted(forecast.horizons * self._step, HOUR))
        a = {name: array.copy() for name, array in self._frozen.arrays.items()}
        a["near"][:], a["near_due"][:] = forecast.values[:, 0], origin + int(forecast.horizons[0]) * self._step
        if hour < len(forecast.horizons):
            due = origin + int(forecast.horizons[hour]) * self._step
            slot = (due // self._step) % a["far"].shape[1]
            a["far"][:, slot], a["far_due"][:, slot] = forecast.values[:, hour], due
        self._frozen = Rows(self.keys, a)

    def step(
        self,
        head: int,
        observed: FloatArray,
        series_count: FloatArray,
        ready: FloatArray,
        masked: BoolArray,
        reasons: Sequence[tuple[Reason, ...]],
    ) -> None:
        """Judges the samples (row,) of the grid time `head`; `masked`: marked by people, or read with warnings."""
        self._tripwires, faults = tripwires.check(self._tripwires, observed, series_count, ready, head)
        kind = np.array(faults.kind)
        for row, said in enumerate(reasons):
            if said and kind[row] == 0:
                kind[row] = tripwires.from_reasons([reason.code for reason in said])
        a = self._frozen.arrays
        slot = (head // self._step) % a["far"].shape[1]
        near = np.where((a["near_due"] == head)[:, None], a["near"], np.nan)
        far = np.where((a["far_due"][:, slot] == head)[:, None], a["far"][:, slot], np.nan)
        seen = follow.Seen(
            now=head,
            observed=observed,
            one_step=near,
            one_hour=far,
            levels=self._levels,
            masked=masked,
            faults=kind,
            fault_words=faults.describe,
        )
        self.faults = faults
        before, expected = follow.as_expected(self._anomalies, self._taught.expected, head)
        mine = budget.beside_causes(self.keys, self.per_week, self._beside)
        found = follow.follow(before, seen, mine, self._step, self._taught)
        self.accounts = account.accounts(before, seen, found, mine, self._step)
        found = replace(found, closed=(*expected, *found.closed))
        begun = self.new_regime()
        self.followed = follow.begun_anew(found, begun, head)
        self._anomalies = self.followed.state
        self._remember_band(head, self.followed)
        if begun.any():  # what was forecast of these rows was in another unit: it judges nothing that comes
            self._frozen = self._frozen.cleared(begun, self._blank())
        self._exclude(head, self.followed.exclude & ~masked)

    @property
    def band(self) -> Band:
        """What was expected in the last hours, before each sample came."""
        low, high = (np.asarray(self._band.arrays[name], dtype=np.float32) for name in ("low", "high"))
        return Band(self._band_times, low, high)

    def _remember_band(self, head: int, found: follow.Followed) -> None:
        """New arrays each time: the ones before may be drawn from by another thread."""
        self._band_times = np.append(self._band_times[1:], head)
        arrays = {
            name: np.concatenate([self._band.arrays[name][:, 1:], values.astype(np.float32)[:, None]], axis=1)
            for name, values in (("low", found.low), ("high", found.high))
        }
        self._band = Rows(self.keys, arrays)

    def _blank_band(self) -> Arrays:
        empty = np.full((1, self._columns), np.nan, dtype=np.float32)
        return {"low": empty, "high": empty}

    def open_incidents(self) -> tuple[Incident, ...]:
        """Also right after a restart, before the first step."""
        return (*self._anomalies.open.values(), *self._anomalies.faults.values())

    def own_spans(self) -> dict[SeriesKey, Sequence[Span]]:
        """What is not to be learned from, by series."""
        return {
            series: spans
            for key, series in zip(self.keys, self._series, strict=True)
            if (spans := self.excluded.get(key))
        }

    def fault_words(self, row: int) -> str | None:
        """What is wrong with a row's data now, in words."""
        return None if self.faults is None else self.faults.describe(row)

    def _exclude(self, head: int, excluded: BoolArray) -> None:
        oldest = head - self._span
        for row in np.flatnonzero(excluded).tolist():
            self._add(self.keys[row], (head - self._step, head))
        for row in np.flatnonzero(self.new_regime()).tolist():
            # the past is in another unit: nothing of it may be learned from, and what came since may
            since = head - int(tripwires.ACCEPT_UNIT) + DOUBT
            self.excluded[self.keys[row]] = [(oldest, since)]
        for key in list(self.excluded):
            self.excluded[key] = [span for span in self.excluded[key] if span[1] > oldest]
            if not self.excluded[key]:
                del self.excluded[key]

    def new_regime(self) -> BoolArray:
        """(row,) rows whose unit was accepted as changed in this step."""
        if self.faults is None:
            return np.zeros(len(self.keys), dtype=np.bool_)
        begun = (
            np.asarray(self._tripwires.arrays["seen"], dtype=np.float64) <= 1
        )  # the levels of the unit are learned anew
        return np.asarray(self.faults.accepted & begun)

    def _add(self, key: str, span: Span) -> None:
        spans = self.excluded.setdefault(key, [])
        if spans and spans[-1][1] >= span[0]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], span[1]))
        else:
            spans.append(span)

    def _blank(self) -> dict[str, np.ndarray]:
        levels, slots = len(self._levels), math.ceil(HOUR / self._step) + 1
        return {
            "near": np.full((1, levels), np.nan, dtype=np.float32),
            "near_due": np.zeros(1, dtype=np.int64),
            "far": np.full((1, slots, levels), np.nan, dtype=np.float32),
            "far_due": np.zeros((1, slots), dtype=np.int64),
        }

    # --- stored ---

    def dump(self) -> dict[str, Rows]:
        rows, told = follow.dump(self._anomalies)
        texts = np.array([json.dumps(one).encode() for one in told], dtype=np.bytes_) if told else np.zeros(0, "S1")
        spans = [(key, span) for key, spans in self.excluded.items() for span in spans]
        return {
            "anomaly": rows,
            "incidents": Rows(tuple(f"{i}" for i in range(len(told))), {"json": texts}),
            "tripwires": self._tripwires,
            "excluded": Rows(
                tuple(key for key, _ in spans),
                {"span": np.array([span for _, span in spans], dtype=np.int64).reshape(len(spans), 2)},
            ),
        }

    def restore(self, states: Mapping[str, Rows]) -> None:
        """Takes what `dump` gave, before the first step. Raises ValueError, KeyError or InputError where it cannot."""
        if "anomaly" in states and "incidents" in states:
            told = [json.loads(bytes(text)) for text in states["incidents"].arrays["json"]]
            self._anomalies = follow.restore(states["anomaly"], told)
        if "tripwires" in states:
            self._tripwires = states["tripwires"]
        if "excluded" in states:
            rows = states["excluded"]
            for key, (after, until) in zip(rows.keys, rows.arrays["span"].tolist(), strict=True):
                self._add(key, (after, until))
