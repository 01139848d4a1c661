"""The forecasts of a cycle: the chain of forecasters, the choice among them, calibration, re-anchoring.

Arrays over all rows; what is remembered is named `Rows`, realigned when the rows change. Knows no Prometheus, no
workload and no decision. A forecaster that raises or answers nonsense loses its rows for that step, and says so.
"""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from forecaster import blend, calibration, reanchor, skill, starts
from forecaster.cores import one_thread_a_product
from forecaster.domain import (
    BoolArray,
    Context,
    FloatArray,
    Forecast,
    ForecastRequest,
    IntArray,
    SeriesBatch,
    SeriesKey,
)
from forecaster.ports import Forecaster, Forgetful
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows
from forecaster.starts import Starts

logger = logging.getLogger(__name__)

LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
MINUTE, HOUR = 60, 3_600
FOLLOWED = tuple(
    MINUTE * m for m in (1, 2, 3, 5, 10, 15, 30, 60, 180, 360, 720, 1440)
)  # seconds; calibrated one by one
SHOWN = (20 * MINUTE, 45 * MINUTE, *range(5_400, 6 * HOUR, 1_800), *range(7 * HOUR, 24 * HOUR, HOUR))  # between them
REFERENCE = "persistence"  # what the skill of the others is measured beside
# Of the forecasters alone the one whose peaks count without a working day of measured windows. It gives the peak at
# first where there is no network; where there is one, their mean does, in which each mends the other (decision 0007).
PROVEN = "profile"
PRIOR_ROWS = 256  # whose first skill is measured in one step: a back-test costs ten forecasts
ABSURD = 1e6  # times the largest value of the past: no forecast of ours

Make = Callable[[], Sequence[Forecaster]]
Blocked = tuple[Reason | None, ...]
Notes = tuple[tuple[Reason, ...], ...]


def horizons(step: int) -> tuple[IntArray, IntArray]:
    """(all, followed) steps ahead, ascending: every followed horizon is among all."""
    followed = sorted({1, *(max(1, round(seconds / step)) for seconds in FOLLOWED)})
    every = sorted({*followed, *(max(1, round(seconds / step)) for seconds in SHOWN)})
    return np.array(every, dtype=np.int64), np.array(followed, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Remarks:
    """What is to be said about the forecast of each row, besides why there is none."""

    notes: Notes
    skill: FloatArray  # (row, forecaster) loss beside the reference's
    chosen: IntArray  # (row,)
    coverage: FloatArray  # (row, band)


class Foresight:
    """Forecasts of all rows, from step to step. One thread at a time."""

    def __init__(self, make: Make, step: timedelta) -> None:
        self._make = make
        self._chain_of = make()
        self._step = int(step.total_seconds())
        self.horizons, self._followed = horizons(self._step)
        self._name(self._chain_of)
        self.layout = calibration.Layout(self._step, tuple(self._followed.tolist()), LEVELS)
        self._places = np.searchsorted(self.horizons, self._followed)
        self._far = int(self.horizons[reanchor.far_index(self.horizons)])
        self.keys: tuple[str, ...] = ()
        self._series: tuple[SeriesKey, ...] = ()
        self.calibration = calibration.blank((), self.layout)
        self.skill = skill.blank((), self.chain)
        self.blend = blend.blank((), self.mixture)
        self.memory = Rows((), {}).aligned((), reanchor.blank())
        self._tried: set[str] = set()  # rows whose skill had its back-test
        self._seen = 0  # grid time of the last observation
        self._saturated: deque[tuple[int, BoolArray]] = deque(maxlen=256)  # by grid time
        self._base: Forecast | None = None  # calibrated, not re-anchored
        self._hidden: BoolArray | None = None  # (row,) rows whose sample at its origin was kept from the forecasters
        self.remarks: Remarks | None = None
        self.rejected: Counter[str] = Counter()  # forecaster -> rows that it lost to an error or to nonsense
        self._beginning: dict[int, Starts | None] = {}  # model code -> where rows that get this model begin
        self.is_stale = False  # another model was taken since the last `run`

    # --- rows ---

    def align(self, keys: tuple[str, ...], series: tuple[SeriesKey, ...]) -> None:
        """Takes another list of rows; what is new starts from nothing."""
        self._series = series
        if keys == self.keys:
            return
        self.calibration = self.calibration.aligned(keys, calibration.blank(("",), self.layout).arrays)
        self.skill = self.skill.aligned(keys, skill.blank(("",), self.chain).arrays)
        self.blend = self.blend.aligned(keys, blend.blank(("",), self.mixture).arrays)
        self.memory = self.memory.aligned(keys, reanchor.blank())
        self._saturated.clear()
        self._base, self.remarks = None, None
        self.keys = keys

    def restart(self, rows: BoolArray) -> None:
        """Forgets what was learned of some rows (row,): their unit has changed."""
        if not rows.any():
            return
        self.calibration = self.calibration.cleared(rows, calibration.blank(("",), self.layout).arrays)
        self.skill = self.skill.cleared(rows, skill.blank(("",), self.chain).arrays)
        self.blend = self.blend.cleared(rows, blend.blank(("",), self.mixture).arrays)
        self.memory = self.memory.cleared(rows, reanchor.blank())
        series = {self._series[row] for row in np.flatnonzero(rows).tolist()}
        for forecaster in self._chain_of:
            if isinstance(forecaster, Forgetful):
                forecaster.forget(series)

    def take(self, make: Make, measured: Starts | None = None) -> None:
        """Another chain from now on, between two steps. Forecasters of a version that was there stay as they are.

        What was learned of a forecaster that is new, or has another version, counts no more: rows that get it begin
        with what `measured` says of them, else `calibrating`. Raises ValueError where the chain lacks the reference.
        """
        made = tuple(make())
        before, mixture_before = self.chain, self.mixture
        old = {forecaster.version: forecaster for forecaster in self._chain_of}
        others = [forecaster for forecaster in made if forecaster.version not in old]
        fresh = {forecaster.version for forecaster in others}
        if tuple(forecaster.version for forecaster in made) != tuple(old):
            anew = {name_of(forecaster) for forecaster in others}
            self._name(made)
            self.skill = skill.relaid(self.skill, before, self.chain, anew | {blend.NAME})
            self.blend = blend.relaid(self.blend, mixture_before, self.mixture, anew)
            if self._is_mixed:
                fresh.add(self.head_version)
            self._beginning |= {calibration.code(version): None for version in fresh}
            self.is_stale = True
        self._make = make
        self._chain_of = tuple(old.get(forecaster.version, forecaster) for forecaster in made)
        if measured is None or measured.version not in {self.head_version, *(one.version for one in made)}:
            return
        self._beginning[calibration.code(measured.version)] = measured
        if measured.version in fresh:
            column = self.chain.names.index(measured.version.partition("/")[0])
            self.skill = starts.judged(self.skill, self.layout, column, measured, self._seen)

    # --- one step ---

    def saw_saturation(self, head: int, saturated: BoolArray) -> None:
        """Rows (row,) that were saturated in the interval that ends at `head`; true stays true."""
        if self._saturated and self._saturated[-1][0] == head:
            self._saturated[-1] = (head, self._saturated[-1][1] | saturated)
        elif saturated.any():
            self._saturated.append((head, saturated))

    def observe(self, context: Context, windows: IntArray) -> None:
        """Learns from the samples that came since the last step; before the new forecast is made."""
        head = int(context.fine.origin.timestamp())
        width = context.fine.values.shape[1]
        passed = (head - self._seen) // self._step if self._seen else width
        tail = int(min(width, max(passed, 0) + int(windows.max(initial=1)) + 10, 1_440))
        self._seen = head
        times = context.fine.times[-tail:]
        values = np.asarray(context.fine.values[:, -tail:], dtype=np.float64)
        masked = None if context.masked is None else context.masked[:, -tail:]
        saturated = self._saturated_in(times)
        self.calibration = calibration.observe(self.calibration, self.layout, times, values, masked, saturated)
        clean = values if masked is None else np.where(masked, np.nan, values)
        self.skill = skill.observe(self.skill, self.chain, self._step, times, clean)
        if self._is_mixed:
            self.blend = blend.observe(self.blend, self.mixture, times, _demand(clean, saturated))
        held = np.isnan(clean) if saturated is None else np.isnan(clean) | saturated
        arrays = self.memory.arrays
        # A miss is one of a known step: after a pause the columns in between are gone through too, as far as matters.
        first = max(tail - passed, 0)
        for column in sorted({*range(first, min(first + self._far, tail)), tail - 1}):
            at = int(times[column])
            arrays = reanchor.learned(arrays, clean[:, column], at, self._step, self._far, ~held[:, column])
        self.memory = Rows(self.keys, arrays)

    def run(self, context: Context, windows: IntArray, complete: bool) -> None:
        """Runs the forecasters on `context`. `complete`: the past is all there, so that a back-test says something."""
        self._hidden = None if context.masked is None else context.masked[:, -1].copy()
        with one_thread_a_product():
            self._run(context, windows, complete)

    def _run(self, context: Context, windows: IntArray, complete: bool) -> None:
        request = ForecastRequest(self.horizons, LEVELS, windows)
        if complete:
            self._first_skill(context, windows)
        alone = [self._answer(forecaster, context, request) for forecaster in self._chain_of]
        answers = self._with_mixture(alone, self.blend)
        head = int(context.fine.origin.timestamp())
        if self._is_mixed:
            self.blend = blend.issue(self.blend, self.mixture, alone, head)
        available = blend.answered(answers)
        chosen, self.skill = skill.choose(self.skill, available, self.chain.first, self.chain.proven)
        self.skill = skill.issue(self.skill, answers, head)
        used = skill.picked(answers, chosen)
        if self._is_mixed:
            # Skill is that of the window's peak. At other horizons another forecaster may be the better one, and the
            # mixture has weights for each: the choice is about the peak alone.
            used = dataclasses.replace(answers[0], peak=used.peak)
        self._begin(used)
        self._base, self.is_stale = calibration.apply(self.calibration, used, self.layout), False
        self.memory = Rows(self.keys, reanchor.remembered(self.memory.arrays, self._base))
        said = calibration.reasons(self.calibration, self.layout)
        worse = skill.reasons(self.skill, self.chain, chosen, available)
        own = used.notes or ((),) * len(self.keys)
        failed = _failures(alone)
        self.remarks = Remarks(
            notes=tuple((*a, *b, *c, *d) for a, b, c, d in zip(failed, own, worse, said, strict=True)),
            skill=skill.ratios(self.skill),
            chosen=chosen,
            coverage=calibration.coverage(self.calibration, self.layout),
        )

    def frozen(self) -> Forecast:
        """The forecast as the model made it, calibrated, before any re-anchoring."""
        assert self._base is not None, "run comes first"
        return self._base

    # --- each interval ---

    def issue(self, now: datetime, newest: FloatArray, newest_at: IntArray, blocked: Blocked) -> Forecast:
        """The forecast that counts now: re-anchored to the newest values, remembered so that it will be judged.

        Rows with a reason in `blocked` are NaN and carry it.
        """
        assert self._base is not None, "run comes first"
        tau = reanchor.memory_seconds(self.memory.arrays, self._step, self._far)
        forecast = without(reanchor.reanchored(self._base, now, newest, newest_at, tau, self._hidden), blocked)
        followed = dataclasses.replace(
            forecast, horizons=self._followed, values=forecast.values[:, self._places], notes=()
        )
        self.calibration = calibration.issue(self.calibration, followed, int(now.timestamp()))
        return forecast

    # --- stored ---

    def dump(self) -> dict[str, Rows]:
        return {
            "calibration": _marked(self.calibration, self.layout.version),
            "skill": _marked(self.skill, self.chain.version),
            "blend": _marked(self.blend, self.mixture.version),
            "reanchor": _marked(self.memory, f"{self._step}/{self._far}"),
        }

    def restore(self, states: Mapping[str, Rows]) -> list[str]:
        """Takes what `dump` gave, before the first step; says what had to be discarded."""
        said = []
        wanted = (
            ("calibration", self.layout.version),
            ("skill", self.chain.version),
            ("blend", self.mixture.version),
        )
        for name, version in (*wanted, ("reanchor", f"{self._step}/{self._far}")):
            rows = states.get(name)
            if rows is None:
                continue
            arrays = dict(rows.arrays)
            mark = arrays.pop("mark", np.zeros(0, dtype=np.uint32))
            if len(mark) != len(rows.keys) or (np.asarray(mark) != _mark(version)).any():
                said.append(f"stored {name} is for other forecasters or another step: it begins anew")
                continue
            setattr(self, "memory" if name == "reanchor" else name, Rows(rows.keys, arrays))
        return said

    # --- inside ---

    def _name(self, made: Sequence[Forecaster]) -> None:
        """Takes the names of a chain: the mixture of all first, then each alone; one by itself needs no mixture."""
        names = tuple(name_of(forecaster) for forecaster in made)
        self.mixture = blend.Layout(self._step, tuple(self._followed.tolist()), names, names.index(REFERENCE))
        self._is_mixed = len(names) > 1
        first = (blend.NAME,) if self._is_mixed else ()
        every = (*first, *names)
        proven = every.index(PROVEN) if PROVEN in every else 0
        begin = 0 if set(blend.PEAKS) <= set(names) else proven
        self.chain = skill.Chain(every, len(first) + names.index(REFERENCE), begin, proven)
        # What rows carry as their model that use the first entry of the chain.
        self.head_version = blend.label(made[0].version) if self._is_mixed else made[0].version

    def _with_mixture(self, alone: Sequence[Forecast], weights: Rows) -> list[Forecast]:
        """The forecasts of the chain, in its order; `weights` is the mixture's state of these rows."""
        first = [blend.mixed(weights, self.mixture, alone, self.head_version)] if self._is_mixed else []
        return [*first, *alone]

    def _begin(self, used: Forecast) -> None:
        """Rows that have just got a model which was taken begin where it says."""
        if not self._beginning:
            return
        given = np.array([reason is None for reason in used.missing], dtype=np.bool_)
        codes = calibration.codes_of(used.model)
        for code, measured in self._beginning.items():
            rows = given & (codes == code) & (np.asarray(self.calibration.arrays["model"]) != code)
            if rows.any():
                self.calibration = starts.begun(self.calibration, self.layout, rows, code, measured)

    def _answer(self, forecaster: Forecaster, context: Context, request: ForecastRequest) -> Forecast:
        answer, lost = answer_of(forecaster, context, request)
        if lost:
            self.rejected[name_of(forecaster)] += lost
        return answer

    def _first_skill(self, context: Context, windows: IntArray) -> None:
        """A back-test for rows whose skill nobody has measured, some of them each step."""
        untried = [row for row, key in enumerate(self.keys) if key not in self._tried]
        if not untried:
            return
        rows = np.array(untried[:PRIOR_ROWS], dtype=np.int64)
        self._tried |= {self.keys[row] for row in rows.tolist()}
        before = Rows(
            tuple(self.keys[row] for row in rows.tolist()), {n: a[rows] for n, a in self.skill.arrays.items()}
        )
        request = ForecastRequest(self._followed, LEVELS, windows[rows])
        trial, here, told = self._make(), only(context, rows), list[tuple[int, Sequence[Forecast]]]()

        def ask(past: Context) -> Sequence[Forecast]:
            alone = [answer_of(forecaster, past, request)[0] for forecaster in trial]
            told.append((past.fine.values.shape[1] - 1, alone))
            return self._with_mixture(alone, blend.blank(before.keys, self.mixture))

        after = skill.with_prior(before, self.chain, here, ask, request.windows)
        if told:
            known = Rows(before.keys, {n: a[rows] for n, a in self.blend.arrays.items()})
            self.blend = replaced(self.blend, rows, blend.with_prior(known, self.mixture, here, told))
        if after is not before:
            self.skill = replaced(self.skill, rows, after)

    def _saturated_in(self, times: IntArray) -> BoolArray | None:
        first = int(times[0])
        flags: BoolArray | None = None
        for at, rows in self._saturated:
            column = (at - first) // self._step
            if 0 <= column < len(times):
                if flags is None:
                    flags = np.zeros((len(self.keys), len(times)), dtype=np.bool_)
                flags[:, column] |= rows
        return flags


def replaced(state: Rows, rows: IntArray, by: Rows) -> Rows:
    """The same with other arrays for `rows` (row,), in their order."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    for name, array in by.arrays.items():
        arrays[name][rows] = array
    return Rows(state.keys, arrays)


def _demand(values: FloatArray, saturated: BoolArray | None) -> FloatArray:
    """The samples that say what was wanted: a lower bound is none."""
    return values if saturated is None else np.where(saturated, np.nan, values)


# --- small things ----------------------------------------------------------------------------------------------------


def name_of(forecaster: Forecaster) -> str:
    """`profile` of `profile/1`."""
    return forecaster.version.partition("/")[0]


def answer_of(forecaster: Forecaster, context: Context, request: ForecastRequest) -> tuple[Forecast, int]:
    """What a forecaster says, less what no forecaster may give, and how many rows it lost to an error or nonsense."""
    try:
        given = forecaster.forecast(context, request)
        answer = sound(given, context)
        return answer, sum(a is None and b is not None for a, b in zip(given.missing, answer.missing, strict=True))
    except Exception as error:  # one forecaster's bug must not take the others' forecasts away
        logger.exception("forecaster failed: model=%s", forecaster.version)
        why = Reason(ReasonCode.MODEL_UNAVAILABLE, f"{forecaster.version}: {error!r}")
        return nothing(context, request, why), len(context.fine.keys)


def only(context: Context, rows: IntArray) -> Context:
    """Some rows of a context."""

    def part(batch: SeriesBatch) -> SeriesBatch:
        keys = tuple(batch.keys[row] for row in rows.tolist())
        return dataclasses.replace(batch, keys=keys, values=batch.values[rows])

    return dataclasses.replace(
        context,
        fine=part(context.fine),
        coarse=part(context.coarse),
        calendar=dataclasses.replace(
            context.calendar, timezones=tuple(context.calendar.timezones[row] for row in rows.tolist())
        ),
        masked=None if context.masked is None else context.masked[rows],
        coarse_masked=None if context.coarse_masked is None else context.coarse_masked[rows],
    )


def nothing(context: Context, request: ForecastRequest, why: Reason) -> Forecast:
    """A forecast in which no row has an answer."""
    rows, levels = len(context.fine.keys), tuple(request.levels)
    return Forecast(
        origin=context.fine.origin,
        step=context.fine.step,
        horizons=request.horizons,
        levels=levels,
        values=np.full((rows, len(request.horizons), len(levels)), np.nan),
        peak=np.full((rows, len(levels)), np.nan),
        windows=request.windows,
        model=("none",) * rows,
        missing=(why,) * rows,
    )


def _failures(answers: Sequence[Forecast]) -> Notes:
    """(row,) that a forecaster failed or gave nonsense, also where another one has answered in its place."""
    out: list[tuple[Reason, ...]] = [()] * len(answers[0].missing)
    for answer in answers:
        for row, reason in enumerate(answer.missing):
            if reason is not None and reason.code is ReasonCode.MODEL_UNAVAILABLE and not out[row]:
                out[row] = (reason,)
    return tuple(out)


def without(forecast: Forecast, blocked: Blocked) -> Forecast:
    """The forecast less the rows that carry a reason."""
    rows = [row for row, reason in enumerate(blocked) if reason is not None]
    if not rows:
        return forecast
    values, peak = forecast.values.copy(), forecast.peak.copy()
    values[rows], peak[rows] = np.nan, np.nan
    missing = list(forecast.missing)
    for row in rows:
        missing[row] = blocked[row]
    return dataclasses.replace(forecast, values=values, peak=peak, missing=tuple(missing))


def sound(forecast: Forecast, context: Context) -> Forecast:
    """The forecast less rows that no forecaster may give: a NaN, an infinity, quantiles that cross, absurd sizes."""
    given = np.array([reason is None for reason in forecast.missing], dtype=np.bool_)
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(forecast.values).max(axis=(1, 2)), np.abs(forecast.peak).max(axis=1))
        crossed = (np.diff(forecast.values, axis=-1) < 0).any(axis=(1, 2)) | (np.diff(forecast.peak, axis=-1) < 0).any(
            axis=1
        )
    suspect = given & (~np.isfinite(size) | crossed | (size > 0))
    largest = np.zeros(len(given))
    if suspect.any():
        largest = np.fmax(
            np.fmax.reduce(np.abs(context.fine.values), axis=1, initial=0.0),
            np.fmax.reduce(np.abs(context.coarse.values), axis=1, initial=0.0),
        )
    bad = given & (~np.isfinite(size) | crossed | (size > ABSURD * np.maximum(largest, 1e-300)))
    if not bad.any():
        return forecast
    reason = Reason(ReasonCode.MODEL_UNAVAILABLE, "the model gave numbers that cannot be")
    return without(forecast, tuple(reason if wrong else None for wrong in bad.tolist()))


def _mark(version: str) -> int:
    return zlib.crc32(version.encode())


def _marked(state: Rows, version: str) -> Rows:
    mark = np.full(len(state.keys), _mark(version), dtype=np.uint32)
    return Rows(state.keys, {**state.arrays, "mark": mark})
