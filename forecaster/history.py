"""What Prometheus has said so far, on two grids, and what one cycle gets of it.

A fine grid (the step, two days) and a coarse one (its means, weeks) for all rows; a row is a workload's load or the
usage of one of its resources. An expression is asked once however many use it, a template stays one query. Each
interval the loads are asked for at this moment; each step the grids move on by a short range query that overlaps what
is known; what is missing before that is read bit by bit, fine before coarse and newest first: a cold start hurts
nobody. Faults of Prometheus are results here, not exceptions: a reason per row.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np

from forecaster import capacity_facts, grid, promql
from forecaster.anomaly.causes import Pods
from forecaster.capacity_facts import CapacityFacts, Lesson
from forecaster.chunks import CHUNK_SECONDS, CHUNK_VERSION, ChunkHead, Span, merged, without
from forecaster.chunks import HistoryChunk as HistoryChunk  # what `dump` gives and `restore` takes
from forecaster.cluster_facts import ClusterFacts
from forecaster.domain import (
    LOAD,
    BoolArray,
    Calendar,
    Context,
    Event,
    FloatArray,
    HpaFacts,
    IntArray,
    ResourceSpec,
    Samples,
    ScaleSpec,
    SeriesBatch,
    SeriesKey,
    Workload,
    WorkloadSpec,
)
from forecaster.errors import InputError, SourceError
from forecaster.ports import MetricSource
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.learned_capacity import Learned

FINE_COLUMNS = 2_880
OVERLAP = 3  # steps that are read again: a scrape can be late
LIVE_STEPS = 10  # what is further behind is back-fill
STALE_STEPS = 3
PIECE_POINTS = 1_000_000  # of one back-fill query: some 35 MB of JSON, far under Prometheus' 50 M samples
PIECE_COLUMNS = 10_000
READ_POINTS = 4_000_000  # fine points of back-fill in one reading: seconds, not minutes, of Prometheus' time
POOL_ROWS = 1_024  # at a time: after a cold start all of the fine grid is pooled
MOST_SKEW = 5.0  # seconds between the two clocks before it matters
DROPPED_AFTER = 86_400  # seconds without a sample until a row of a template goes
NEW_ROWS_EVERY = 3_600  # seconds between back-fills for labels that are new in a template
MOST_PODS = 1_000  # of one resource of one workload that are told apart
NO_PODS = Pods()
KEPT_PODS = 3_600  # seconds that a pod without a sample is kept: anomaly.peers begins anew with it then
KEPT_VALUES = 3_600  # seconds that a capacity or limit outlives its last answer
NEVER_NEGATIVE = 1_440  # samples without a negative one before a negative one is a fault
ACCEPT_NEGATIVE = 60  # negative samples in a row until they are the way things are now
GAP_STEPS = 30  # least age of a row, in steps, before its gaps are judged

Labels = tuple[str, ...]  # values of the forEach labels; () for a plain workload


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """All that one cycle knows of the outside at `now`.

    The arrays of `context` are windows on the history: they hold until the next `read`.
    """

    now: datetime  # by Prometheus' clock where that is more than 5 s off ours, for the grid lives by it
    workloads: tuple[Workload, ...]  # templates filled in
    context: Context  # rows = keys; through the last whole step at or before `now`
    new_column: bool  # the grid moved since the last reading
    newest: FloatArray  # (row,) by instant query at `now`, for resources the last grid value; NaN where missing
    newest_at: IntArray  # (row,) Unix seconds of it
    data_through: FloatArray  # (row,) Unix seconds of the last real sample; NaN: never one
    reasons: tuple[tuple[Reason, ...], ...]  # (row,)
    notices: tuple[Reason, ...]  # about the source as a whole, and entries that gave no workload
    series_count: FloatArray  # (row,) series behind a sum; NaN where there is no sum
    capacity: Mapping[str, float]  # workload -> load that fills one replica, of those that ask for it by PromQL
    limits: FloatArray  # (row,) resource limit; NaN for loads and where unknown
    facts: Mapping[str, HpaFacts]  # "namespace/hpa" ->
    clock_skew_seconds: float | None  # Prometheus' clock minus ours
    learned: Mapping[str, Learned] = field(default_factory=dict)  # workload -> what was learned of its capacity
    pods: Pods = NO_PODS  # usage of single pods at the grid's head; `row` counts the rows of `context`


# --- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Expression:
    """One PromQL text: asked once, whoever uses it."""

    text: str
    users: list[_Series] = field(default_factory=list)
    through: int | None = None  # the grid has been read up to here
    missing: dict[str, list[Span]] = field(default_factory=lambda: {"fine": [], "coarse": []})
    partial: list[Span] = field(default_factory=list)  # read with warnings: not to be learned from
    refilled_at: int = 0
    wants_refill: bool = False  # a template has rows whose past is not known
    failures: int = 0  # of back-fill, in a row
    suspect: bool = False  # its last query got no answer: it is asked last, so that it cannot starve the others
    error: SourceError | None = None  # of this reading
    is_partial: bool = False
    warnings: tuple[str, ...] = ()
    answered: bool = False  # in this reading

    @property
    def rows(self) -> int:
        return max(1, sum(len(user.row_of) for user in self.users))


@dataclass(slots=True, eq=False)
class _Series:
    """The rows of one role of one entry."""

    entry: _Entry
    role: str
    expression: _Expression
    count: str | None  # PromQL of the number of series behind its sum
    row_of: dict[Labels, int] = field(default_factory=dict)
    crowded: dict[Labels, int] = field(default_factory=dict)  # series for one row, where there are several
    # Label sets of the last answer (by kind of query), their rows, and which of them have one.
    seen: dict[bool, tuple[Any, IntArray, IntArray]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Entry:
    """One entry of the configuration."""

    spec: WorkloadSpec
    id: str
    series: list[_Series] = field(default_factory=list)
    workloads: dict[Labels, Workload] = field(default_factory=dict)
    notice: Reason | None = None
    expanded: Any = None  # label sets of the last answer that workloads were made of


@dataclass(slots=True)
class _Row:
    key: SeriesKey
    text: str  # stored identity
    series: _Series
    labels: Labels


@dataclass(frozen=True, slots=True)
class _Layout:
    """What depends on the list of rows alone."""

    keys: tuple[SeriesKey, ...]
    calendar: Calendar
    resources: IntArray  # rows that are not loads


class _Table:
    """Arrays with one value per row."""

    BLANK: ClassVar[dict[str, float]] = {
        "first_seen": np.nan,
        "through": np.nan,  # time of the last real sample
        "newest": np.nan,
        "newest_at": 0.0,
        "count": np.nan,
        "limit": np.nan,
        "limit_at": 0.0,
        "samples": 0.0,  # numbers seen, counted up to what `ever_negative` needs
        "negative": 0.0,  # 1: has been
        "cut": 0.0,  # 1: the newest value was negative, and a fault
        "negatives": 0.0,  # in a row
        "negative_at": np.nan,  # newest negative sample that was taken for a fault
    }

    def __init__(self) -> None:
        self.arrays = {name: np.full(0, blank) for name, blank in self.BLANK.items()}

    def __getitem__(self, name: str) -> FloatArray:
        return self.arrays[name]

    def add(self, count: int) -> None:
        for name, blank in self.BLANK.items():
            self.arrays[name] = np.concatenate([self.arrays[name], np.full(count, blank)])

    def keep(self, rows: IntArray) -> None:
        for name in self.BLANK:
            self.arrays[name] = self.arrays[name][rows]


# --- history ---------------------------------------------------------------------------------------------------------


class History:
    """Rolling history of all workloads. One thread at a time."""

    def __init__(
        self,
        specs: Sequence[WorkloadSpec],
        step: timedelta,
        span: timedelta,
        interval: timedelta = timedelta(seconds=15),
        kube_state_metrics: bool = True,
    ) -> None:
        self._step = int(step.total_seconds())
        if self._step < 1 or step != timedelta(seconds=self._step):
            raise ValueError(f"a step of {step} is not a whole number of seconds")
        self._coarse_step = grid.coarse_step(self._step)
        self._span = span
        self._interval = interval
        self._kube_state_metrics = kube_state_metrics
        self._specs = tuple(specs)
        self._fine: grid.RollingGrid | None = None
        self._coarse: grid.RollingGrid | None = None
        self._rows: list[_Row] = []
        self._layout: _Layout | None = None
        self._few: FloatArray | None = None  # result of `_gaps`
        self._table = _Table()
        self._expressions: dict[str, _Expression] = {}
        self._entries: list[_Entry] = []
        self._names: set[str] = set()
        self._events: tuple[Event, ...] = ()
        self._own: dict[SeriesKey, Sequence[Span]] = {}
        self._chunks: list[HistoryChunk] = []  # restored, waiting for the first reading
        self._facts = ClusterFacts()
        self._lessons = CapacityFacts()
        self._pods: dict[tuple[str, str], tuple[int, float]] = {}  # (row's text, pod) -> (last seen, usage at the head)
        self._pods_laid: tuple[_Layout, Pods] | None = None
        self._capacity: dict[str, tuple[float, float]] = {}  # workload -> (value, when)
        self._skew = 0.0
        self._known_skew: float | None = None
        self._dirty_from: int | None = None  # oldest fine time written since coarse columns were made
        self._masks: tuple[Any, BoolArray | None, BoolArray | None] | None = None
        self._changed: set[str] = set()  # chunks written since the last dump
        self._notices: list[Reason] = []
        for spec in self._specs:
            self._add_entry(spec)

    # --- the surface ---

    @property
    def backlog(self) -> int:
        """Seconds of history, summed over expressions, that are still to be read."""
        spans = (span for one in self._expressions.values() for missing in one.missing.values() for span in missing)
        return sum(until - after for after, until in spans)

    def read(self, source: MetricSource, now: datetime) -> Reading:
        """What is known at `now` (aware). Never raises for Prometheus' faults: they become reasons.

        `now` is the time of the call: the difference between the two clocks is measured against it.
        """
        self._notices = []
        asking = _Asking(source)
        loads = dict.fromkeys(entry.series[0].expression.text for entry in self._entries)
        self._forget_answers(loads)
        self._table["newest"][:] = np.nan
        suspects = [one for one in self._expressions.values() if one.suspect]
        at = self._instants(asking, [self._expressions[text] for text in loads], now)
        seconds = at.timestamp()
        moved = self._move(seconds)
        if moved:
            self._forget_answers(self._expressions.keys() - loads.keys())
            self._live(asking, [one for one in self._expressions.values() if not one.suspect])
            self._slow_facts(asking, at)
        self._backfill(asking)
        for one in suspects:
            if one.text in loads:
                answer = self._ask_instant(asking, one, at)
                if answer is not None:
                    self._take_instant(one, answer, seconds)
            if moved:
                self._live(asking, [one])
        self._pool()
        self._resource_newest()
        if not self.backlog and self._kube_state_metrics:
            self._learn_capacity(asking, at)
        if moved:
            self._drop(seconds)
        return self._reading(asking, at, moved)

    def exclude(self, events: Sequence[Event], own: Mapping[SeriesKey, Sequence[Span]] | None = None) -> None:
        """Intervals that are not to be learned from: those of `events` that say so, and single rows' `own` ones.

        Replaces the ones before.
        """
        self._events = tuple(event for event in events if event.exclude)
        self._own = dict(own or {})
        self._masks = None

    def masks(self) -> tuple[BoolArray | None, BoolArray | None]:
        """(row, time) of both grids as `exclude` has left them, after a reading; None where nothing is masked."""
        return self._masked()

    def reconfigure(self, specs: Sequence[WorkloadSpec]) -> None:
        """Takes other workloads; rows whose key is the same keep their history."""
        fresh = History(
            specs,
            timedelta(seconds=self._step),
            self._span,
            self._interval,
            self._kube_state_metrics,
        )
        if self._fine is not None:
            fresh.restore(list(self.dump()))
        ids = {entry.id for entry in fresh._entries}
        fresh._events, fresh._own, fresh._facts, fresh._skew = self._events, self._own, self._facts, self._skew
        fresh._known_skew, fresh._lessons, fresh._pods = self._known_skew, self._lessons, self._pods
        names = {work.name for entry in self._entries if entry.id in ids for work in entry.workloads.values()}
        fresh._capacity = {name: value for name, value in self._capacity.items() if name in names}
        for name in self.__dict__:
            setattr(self, name, getattr(fresh, name))

    def dump(self, changed_only: bool = False) -> Iterator[HistoryChunk]:
        """Chunks of six hours for the store, oldest first; once back-fill is done only the newest ones change.

        Samples that came with warnings are left out: they are read again after a restart. `changed_only` gives those
        that were written since the last dump.
        """
        if self._fine is None or self._coarse is None:
            return
        changed, self._changed = self._changed, set()
        for name, one in (("fine", self._fine), ("coarse", self._coarse)):
            for after in range(grid.floor_to(one.first - one.step, CHUNK_SECONDS), one.head, CHUNK_SECONDS):
                if not changed_only or f"{name}/{after}" in changed:
                    yield self._chunk(name, one, after)

    def restore(self, chunks: Iterable[HistoryChunk]) -> None:
        """Takes chunks of `dump`, before the first reading; those of other steps, versions or entries are left out.

        What they hold is not asked for again.
        """
        if self._fine is not None:
            raise ValueError("history has been read already")
        ids = {entry.id: entry for entry in self._entries}
        steps = {"fine": self._step, "coarse": self._coarse_step}
        foreign = 0
        for chunk in sorted(chunks, key=lambda chunk: (chunk.head.resolution != "fine", -chunk.head.after)):
            head = chunk.head
            if head.version != CHUNK_VERSION or steps.get(head.resolution) != head.step or head.after % head.step:
                foreign += 1
                continue
            self._chunks.append(chunk)
            for key, entry, labels in zip(head.keys, head.entries, head.labels, strict=True):
                owner = ids.get(entry)
                role = key.rpartition("/")[2]
                if owner is not None and labels and labels not in owner.workloads and role == LOAD:
                    self._add_workload(owner, labels)
        if foreign:
            text = f"{foreign} chunks of stored history are of another step or version and were left out"
            self._restore_notice = Reason(ReasonCode.HISTORY_TOO_SHORT, text)

    _restore_notice: Reason | None = None

    # --- entries, workloads, rows ---

    def _add_entry(self, spec: WorkloadSpec) -> None:
        entry = _Entry(spec, _digest(f"{spec.name}\0{','.join(spec.for_each)}\0{spec.load}\0{self._step}"))
        self._entries.append(entry)
        roles = [(LOAD, spec.load), *((resource.name, resource.usage) for resource in spec.resources)]
        for role, text in roles:
            expression = self._expressions.setdefault(text, _Expression(text))
            series = _Series(entry, role, expression, _count(text))
            expression.users.append(series)
            entry.series.append(series)
        if not spec.for_each:
            self._add_workload(entry, ())

    def _add_workload(self, entry: _Entry, labels: Labels) -> None:
        """A workload and its rows, at the end."""
        spec = entry.spec
        values = dict(zip(spec.for_each, labels, strict=True))
        name = _filled(spec.name, values)
        if values and name == spec.name:
            name = "/".join((name, *labels))
        if name in self._names:
            entry.notice = Reason(
                ReasonCode.CONFIG_INVALID, f"two workloads are called {name!r}: the second is left out"
            )
            return
        self._names.add(name)
        scale = spec.scale and replace(
            spec.scale, namespace=_filled(spec.scale.namespace, values), hpa=_filled(spec.scale.hpa, values)
        )
        key = f"{name}#{_digest(f'{spec.load}{chr(0)}{self._step}')}"
        entry.workloads[labels] = Workload(name, key, values, spec, scale)
        for series in entry.series:
            series.row_of[labels] = len(self._rows)
            series.seen = {}
            self._rows.append(_Row(SeriesKey(name, series.role), f"{key}/{series.role}", series, labels))
        self._layout = None
        self._table.add(len(entry.series))
        for one in (self._fine, self._coarse):
            if one is not None:
                one.add_rows(len(entry.series))
        self._masks = None

    def _expand(self, entry: _Entry, answer: Samples) -> None:
        """Workloads for label combinations that are new; beyond `max_series` the rest is cut, in order of labels."""
        if entry.expanded == answer.labels:  # quick, for the source gives the same objects again
            return
        entry.expanded = answer.labels
        found = {_combination(labels, entry.spec.for_each) for labels in answer.labels}
        entry.notice = None
        nameless = {labels for labels in found if not all(labels)}
        if nameless:
            text = f"{entry.spec.name}: {len(nameless)} series lack a label of {list(entry.spec.for_each)}"
            entry.notice = Reason(ReasonCode.NO_DATA, text)
        fresh = sorted(found - nameless - entry.workloads.keys())
        room = max(0, entry.spec.max_series - len(entry.workloads))
        if len(fresh) > room:
            text = (
                f"{entry.spec.name}: {len(found)} series, {entry.spec.max_series} are allowed (maxSeries); "
                f"{len(fresh) - room} are left out"
            )
            entry.notice = Reason(ReasonCode.TOO_MANY_SERIES, text)
        for labels in fresh[:room]:
            self._add_workload(entry, labels)
        if fresh[:room] and self._fine is not None:
            for series in entry.series:
                series.expression.wants_refill = True

    def _refill(self, expression: _Expression) -> None:
        """Back-fill for new rows of a template that is already being read; what is known is not rewritten.

        It reads the whole template again, so it is done once an hour at most: what is new has little past.
        """
        assert self._fine is not None
        head = self._fine.head
        if expression.wants_refill and not head - expression.refilled_at < NEW_ROWS_EVERY:
            expression.wants_refill, expression.refilled_at = False, head
            expression.missing = self._all_missing(head)

    def _drop(self, now: float) -> None:
        """Rows of templates go when they have had no sample for a day while their query answered."""
        through = self._table["through"]
        gone: set[int] = set()
        alive = bool(np.isfinite(self._table["newest"]).any())  # a Prometheus that lost its data says nothing
        for entry in self._entries:
            if not entry.spec.for_each:
                continue
            load = entry.series[0]
            behind = load.expression.missing["fine"]
            if load.expression.error is not None or not load.expression.answered or behind or not alive:
                continue
            for labels, row in list(load.row_of.items()):
                if np.isfinite(through[row]) and now - through[row] <= DROPPED_AFTER:
                    continue
                gone.update(series.row_of.pop(labels) for series in entry.series)
                self._names.discard(entry.workloads.pop(labels).name)
                entry.expanded = None
        if not gone:
            return
        keep = np.array([row for row in range(len(self._rows)) if row not in gone], dtype=np.int64)
        place = {int(old): new for new, old in enumerate(keep)}
        self._rows = [self._rows[row] for row in keep]
        self._layout = None
        self._table.keep(keep)
        for one in (self._fine, self._coarse):
            assert one is not None
            one.keep_rows(keep)
        for entry in self._entries:
            for series in entry.series:
                series.row_of = {labels: place[row] for labels, row in series.row_of.items()}
                series.seen = {}
        self._masks = None

    # --- asking ---

    def _instants(self, asking: _Asking, expressions: Sequence[_Expression], now: datetime) -> datetime:
        """The loads of this moment; returns the moment by Prometheus' clock."""
        at = now + timedelta(seconds=self._skew)
        again = True
        todo = [one for one in expressions if not one.suspect]
        while todo:
            expression = todo.pop(0)
            answer = self._ask_instant(asking, expression, at)
            if answer is None:
                again = False  # it may have taken long: `now` is no longer now, and says nothing of the clocks
                continue
            if again and answer.server_time is not None:
                again = False
                skew = (answer.server_time - now).total_seconds() + 0.5 - answer.query_seconds
                self._known_skew = skew
                used = skew if abs(skew) > MOST_SKEW else 0.0
                if abs(used - self._skew) > MOST_SKEW or (used == 0.0) != (self._skew == 0.0):
                    self._skew = used  # the clocks have moved against each other: ask for the right moment
                    at = now + timedelta(seconds=used)
                    todo.insert(0, expression)
                    continue
            self._take_instant(expression, answer, at.timestamp())
        if abs(self._skew) > MOST_SKEW:
            side = "ahead of" if self._skew > 0 else "behind"
            text = f"Prometheus' clock is {abs(self._skew):.0f} s {side} ours; its clock is used"
            self._notices.append(Reason(ReasonCode.DATA_FAULT, text))
        return at

    def _ask_instant(self, asking: _Asking, expression: _Expression, at: datetime) -> Samples | None:
        try:
            answer = asking.instant(expression.text, at)
        except SourceError as error:
            self._failed(expression, error)
            return None
        expression.answered = True
        self._warned(expression, answer)
        return answer

    def _take_instant(self, expression: _Expression, answer: Samples, at: float) -> None:
        for series in expression.users:
            if series.role != LOAD:
                continue
            if series.entry.spec.for_each:
                self._expand(series.entry, answer)
            rows, values = self._rows_of(series, answer, judge=True)
            if not len(rows):
                continue
            newest = self._sound(rows, values[:, 0], at)
            self._table["cut"][rows] = np.isnan(newest) & np.isfinite(values[:, 0])
            known = np.isfinite(newest)
            table = self._table
            table["newest"][rows] = newest
            table["newest_at"][rows] = at
            table["first_seen"][rows[known]] = np.fmin(table["first_seen"][rows[known]], at)
            table["through"][rows[known]] = at  # not the maximum: our clock may have jumped back

    def _move(self, now: float) -> bool:
        """Moves the grids on to `now`. True if a step has passed, and at first."""
        head = grid.floor_to(now, self._step)
        if self._fine is not None and head < self._fine.head - FINE_COLUMNS * self._step:
            # The clock was days ahead and has been set right: what we hold lies in the future. Begin anew.
            self._fine = self._coarse = None
            self._chunks.clear()
            for one in self._expressions.values():
                one.through, one.partial = None, []
            blank = _Table()
            blank.add(len(self._rows))
            blank.arrays["newest"], blank.arrays["newest_at"] = self._table["newest"], self._table["newest_at"]
            self._table = blank
        if self._fine is None or self._coarse is None:
            columns = max(FINE_COLUMNS * self._step, int(self._span.total_seconds())) // self._coarse_step
            self._fine = grid.RollingGrid(self._step, FINE_COLUMNS, head)
            self._coarse = grid.RollingGrid(self._coarse_step, columns, grid.floor_to(head, self._coarse_step))
            self._fine.add_rows(len(self._rows))
            self._coarse.add_rows(len(self._rows))
            for expression in self._expressions.values():
                expression.missing = self._all_missing(head)
                expression.refilled_at = head
            self._take_chunks()
            self._masks = None
            return True
        if head <= self._fine.head:
            through = self._table["through"]
            through[:] = np.fmin(through, max(now, 0.0))  # after a jump back: ages are never negative
            return False
        self._few = None
        self._fine.advance(head)
        self._coarse.advance(grid.floor_to(head, self._coarse_step))
        return True

    def _all_missing(self, head: int) -> dict[str, list[Span]]:
        assert self._fine is not None
        assert self._coarse is not None
        pooled_from = self._pooled_from()
        first = self._coarse.first - self._coarse_step
        return {
            "fine": [(self._fine.first - self._step, head)],
            "coarse": [(first, pooled_from)] if pooled_from > first else [],
        }

    def _pooled_from(self) -> int:
        """Coarse columns after this time are means of the fine grid we hold."""
        assert self._fine is not None
        oldest = self._fine.first - self._step
        return -grid.floor_to(-oldest, self._coarse_step)

    def _live(self, asking: _Asking, expressions: Iterable[_Expression]) -> None:
        """The newest columns of these expressions, with an overlap; what is further behind becomes back-fill."""
        assert self._fine is not None
        head = self._fine.head
        for expression in expressions:
            if expression.error is not None:
                continue
            self._refill(expression)
            if expression.through is None:  # nothing has been read yet: all of it is back-fill
                continue
            since = expression.through
            if head - since > LIVE_STEPS * self._step:
                self._gap(expression, since - OVERLAP * self._step, head)
                continue
            after = since - OVERLAP * self._step
            if self._read_fine(asking, expression, after, head, open_from=after + self._step, known_until=since):
                expression.through = head

    def _gap(self, expression: _Expression, after: int, head: int) -> None:
        """We were away, or Prometheus was: the time since becomes back-fill, at both resolutions."""
        assert self._fine is not None
        oldest = self._fine.first - self._step
        expression.missing["fine"] = merged([*expression.missing["fine"], (max(after, oldest), head)])
        pooled_from = self._pooled_from()
        begin = grid.floor_to(after, self._coarse_step)
        if begin < pooled_from:
            expression.missing["coarse"] = merged([*expression.missing["coarse"], (begin, pooled_from)])
        expression.through = head

    def _backfill(self, asking: _Asking) -> None:
        """A measured amount of what is missing: fine before coarse, newest first, all expressions in turn."""
        assert self._fine is not None
        for expression in self._expressions.values():
            if expression.through is None:  # nothing has been read yet: all of it, up to now
                expression.missing = self._all_missing(self._fine.head)
        left = READ_POINTS // (8 if getattr(asking.source, "slowed", False) else 1)
        for resolution, weight in (("fine", 1), ("coarse", self._coarse_step // self._step)):
            waiting = [one for one in self._expressions.values() if one.missing[resolution] and not one.suspect]
            while waiting and left > 0 and asking.broken is None:
                for expression in list(waiting):
                    if left <= 0 or expression.error is not None:
                        waiting.remove(expression)
                        continue
                    columns = self._backfill_piece(asking, expression, resolution)
                    left -= expression.rows * columns * weight
                    if not expression.missing[resolution] or not columns:
                        waiting.remove(expression)

    def _backfill_piece(self, asking: _Asking, expression: _Expression, resolution: str) -> int:
        """Reads the newest piece that is missing; returns its columns, 0 where it failed."""
        assert self._fine is not None
        assert self._coarse is not None
        fine = resolution == "fine"
        one = self._fine if fine else self._coarse
        after, until = expression.missing[resolution][-1]
        after = max(after, one.first - one.step)
        expression.missing[resolution].pop()
        if after >= until:
            return 1
        points = PIECE_POINTS * self._step // one.step  # a coarse one costs Prometheus as many as it is the mean of
        columns = min((until - after) // one.step, PIECE_COLUMNS, max(1, points // expression.rows))
        begin = until - columns * one.step
        if fine:
            done = self._read_fine(asking, expression, begin, until, open_from=self._fine.head - self._step * OVERLAP)
        else:
            done = self._read_coarse(asking, expression, begin, until)
        if not done:
            expression.missing[resolution].append((after, until))
            if expression.failures >= 3 and not fine:
                expression.missing["coarse"] = []
                text = f"{expression.text}: its history cannot be read: {expression.error}"
                self._notices.append(Reason(ReasonCode.QUERY_ERROR, text))
            return 0
        if begin > after:
            expression.missing[resolution].append((after, begin))
        if fine and expression.through is None:
            expression.through = until
        return columns

    def _read_fine(
        self,
        asking: _Asking,
        expression: _Expression,
        after: int,
        until: int,
        open_from: int,
        known_until: int | None = None,
    ) -> bool:
        """Reads (after, until], of which all up to `known_until` was read before. False: it is to be read again."""
        assert self._fine is not None
        answer = self._ask_range(asking, expression, expression.text, after, until, self._step)
        if answer is None:
            return False
        live = known_until is not None
        first = after + self._step
        if expression.is_partial and known_until is not None:
            open_from = until + 1  # part of the truth does not replace what is known
        for series in expression.users:
            if series.role == LOAD and series.entry.spec.for_each and not series.row_of:
                # Only where instants answer nothing (all gone at this moment) do rows come from the past.
                self._expand(series.entry, answer)
            self._write(self._fine, series, answer, first, open_from, live)
        if expression.is_partial:
            span = (after if known_until is None else known_until, until)
            expression.partial = merged([*expression.partial, span])
            self._masks = None
        elif expression.partial:
            expression.partial = without(expression.partial, (after, until))
            self._masks = None
        self._dirty_from = min(first, self._dirty_from or first)
        self._few = None
        self._note_written("fine", after, until)
        # An empty answer where there were series may be a Prometheus that has just come back: it is asked again, until
        # what is missing is more than live reading covers.
        return bool(answer.labels) or not live

    def _read_coarse(self, asking: _Asking, expression: _Expression, after: int, until: int) -> bool:
        assert self._coarse is not None
        # The mean of the step's grid points inside (t - coarse step, t]: a subquery's range takes in its left edge
        # before Prometheus 3, so it is a second shorter.
        newline = "\n" if "#" in expression.text else ""  # a comment would swallow the bracket
        query = f"avg_over_time(({expression.text}{newline})[{self._coarse_step - 1}s:{self._step}s])"
        answer = self._ask_range(asking, expression, query, after, until, self._coarse_step)
        if answer is None:
            return False
        for series in expression.users:
            self._write(self._coarse, series, answer, after + self._coarse_step, until + 1, live=False)
        if expression.is_partial:
            expression.partial = merged([*expression.partial, (after, until)])
            self._masks = None
        self._note_written("coarse", after, until)
        return True

    def _ask_range(
        self, asking: _Asking, expression: _Expression, query: str, after: int, until: int, step: int
    ) -> Samples | None:
        start, end = datetime.fromtimestamp(after + step, UTC), datetime.fromtimestamp(until, UTC)
        try:
            answer = asking.range(query, start, end, timedelta(seconds=step))
        except SourceError as error:
            self._failed(expression, error)
            return None
        expression.answered, expression.failures = True, 0
        self._warned(expression, answer)
        return answer

    def _forget_answers(self, texts: Iterable[str]) -> None:
        for text in texts:
            one = self._expressions[text]
            one.error, one.is_partial, one.warnings, one.answered = None, False, (), False

    def _failed(self, expression: _Expression, error: SourceError) -> None:
        if isinstance(error, _NotAsked):  # no fault of this expression
            if not expression.answered:
                expression.error = error
            return
        expression.error = error
        expression.suspect = error.reason in _LOST
        expression.failures += 1

    def _warned(self, expression: _Expression, answer: Samples) -> None:
        # Of this answer alone: a complete one after a partial one is complete.
        expression.suspect = False
        expression.is_partial, expression.warnings = answer.partial, answer.warnings

    def _write(
        self, one: grid.RollingGrid, series: _Series, answer: Samples, first: int, open_from: int, live: bool
    ) -> None:
        rows, values = self._rows_of(series, answer, judge=False)
        if not len(rows):
            return
        if live:
            newest_known = first + (values.shape[1] - 1) * one.step
            values = self._sound(rows, values, newest_known)
        else:
            self._table["negative"][rows[(values < 0).any(axis=1)]] = 1.0
        one.write(rows, first, values, open_from)
        known = np.isfinite(values)
        any_known = known.any(axis=1)
        if not any_known.any():
            return
        rows, known = rows[any_known], known[any_known]
        table = self._table
        oldest = first + one.step * known.argmax(axis=1)
        newest = first + one.step * (known.shape[1] - 1 - known[:, ::-1].argmax(axis=1))
        table["first_seen"][rows] = np.fmin(table["first_seen"][rows], oldest)
        table["through"][rows] = np.fmax(table["through"][rows], newest)
        counted = known.sum(axis=1) if not live else np.minimum(known.sum(axis=1), 1)  # the overlap is counted once
        table["samples"][rows] += counted * (one.step // self._step)

    def _rows_of(self, series: _Series, answer: Samples, judge: bool) -> tuple[IntArray, FloatArray]:
        """Rows and values (rows, time) of an answer. Several series for one row: only where they do not overlap."""
        if not answer.labels:
            if judge:
                series.crowded = {}
            return np.empty(0, dtype=np.int64), answer.values
        seen = series.seen.get(judge)
        if seen is None or seen[0] != answer.labels:  # the source gives the same objects again: a quick comparison
            names = series.entry.spec.for_each
            places = [series.row_of.get(_combination(labels, names), -1) for labels in answer.labels]
            rows = np.array(places, dtype=np.int64)
            series.seen[judge] = seen = (answer.labels, rows, np.flatnonzero(rows >= 0))
        _, rows, wanted = seen
        rows, values = rows[wanted], answer.values[wanted] if len(wanted) < len(rows) else answer.values
        unique, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        if len(unique) == len(rows):
            if judge:
                series.crowded = {}
            return rows, values
        known = np.zeros((len(unique), values.shape[1]), dtype=np.int64)
        total = np.zeros((len(unique), values.shape[1]))
        np.add.at(known, inverse, np.isfinite(values))
        np.add.at(total, inverse, np.where(np.isfinite(values), values, 0.0))
        if judge:
            crowd = counts > 1
            series.crowded = {
                self._rows[int(row)].labels: int(n) for row, n in zip(unique[crowd], counts[crowd], strict=True)
            }
        return unique, np.where(known == 1, total, np.nan)

    def _sound(self, rows: IntArray, values: FloatArray, at: float) -> FloatArray:
        """Values (rows,) at `at`, or (rows, time) of the grid up to it, less faults: a negative value in a series that
        has had none in a day of samples (D16). After an hour of them they are the way things are now.
        """
        below = values < 0
        if not below.any():
            return values
        table = self._table
        if values.ndim == 1:
            where: BoolArray = below
            times = np.full(len(rows), at)
        else:
            where = np.asarray(below.any(axis=1))
            times = at - self._step * below[:, ::-1].argmax(axis=1)
        fault = where & (table["negative"][rows] == 0) & (table["samples"][rows] >= NEVER_NEGATIVE)
        if values.ndim == 2:
            since = table["negative_at"][rows]
            follows = times - since <= STALE_STEPS * self._step
            count = np.where(follows, table["negatives"][rows], 0.0) + ~(times <= since)
            table["negatives"][rows[fault]] = count[fault]
            fault &= count < ACCEPT_NEGATIVE
            table["negative_at"][rows[fault]] = times[fault]
        table["negative"][rows[where & ~fault]] = 1.0
        cut = fault if values.ndim == 1 else fault[:, None] & below
        return np.where(cut, np.nan, values)

    def _pool(self) -> None:
        """Coarse columns that the fine grid has news for."""
        assert self._fine is not None
        assert self._coarse is not None
        dirty, self._dirty_from = self._dirty_from, None
        if dirty is None or not self._rows:
            return
        after = max(grid.floor_to(dirty - self._step, self._coarse_step), self._pooled_from())
        until = self._coarse.head
        if until <= after:
            return
        fine = self._fine.between(after, until)
        for begin in range(0, len(fine), POOL_ROWS):
            means = grid.pool_mean(fine[begin : begin + POOL_ROWS], self._coarse_step // self._step)
            rows = np.arange(begin, begin + len(means), dtype=np.int64)
            self._coarse.write(rows, after + self._coarse_step, means, open_from=after)
        self._note_written("coarse", after, until)

    def _resource_newest(self) -> None:
        """Resources are read once a step: their newest value is the grid's last."""
        assert self._fine is not None
        table, rows = self._table, self._laid_out().resources
        through = table["through"][rows]
        fresh = np.asarray(self._fine.head - through <= self._step * STALE_STEPS)  # False for never
        rows, through = rows[fresh], through[fresh]
        columns = self._fine.columns - 1 - (self._fine.head - through.astype(np.int64)) // self._step
        table["newest"][rows] = self._fine.view()[rows, np.minimum(columns, self._fine.columns - 1)]
        table["newest_at"][rows] = through

    def _slow_facts(self, asking: _Asking, at: datetime) -> None:
        """Once a step: counts behind sums, limits, capacities, and what kube-state-metrics says."""
        now = at.timestamp()
        table = self._table
        slowed = bool(getattr(asking.source, "slowed", False))
        table["count"][:] = np.nan
        self._ask_pods(asking)
        if not slowed:
            for entry in self._entries:
                for series in entry.series:
                    if series.count is not None and series.row_of and series.expression.error is None:
                        answer = self._quietly(asking, series.count, at)
                        if answer is not None:
                            rows, values = self._rows_of(_apart(series), answer, judge=False)
                            table["count"][rows] = values[:, 0]
        for entry in self._entries:
            for resource, series in zip(entry.spec.resources, entry.series[1:], strict=True):
                self._limit(asking, resource, series, at)
            if entry.spec.scale is not None and entry.spec.scale.capacity_query is not None:
                self._ask_capacity(asking, entry, entry.spec.scale, at)
        stale = table["limit_at"] < now - KEPT_VALUES
        table["limit"][stale] = np.nan
        self._capacity = {name: one for name, one in self._capacity.items() if now - one[1] <= KEPT_VALUES}
        if self._kube_state_metrics and any(entry.spec.scale is not None for entry in self._entries):
            try:
                self._facts.read(asking, at, optional=not slowed)
            except SourceError as error:
                self._notices.append(Reason(error.reason, f"kube-state-metrics: {error}"))

    def _learn_capacity(self, asking: _Asking, at: datetime) -> None:
        """Capacities that nobody wrote down, a few at a time, once their history is there."""
        wanted = [
            (entry, labels, work)
            for entry in self._entries
            for labels, work in entry.workloads.items()
            if work.scale is not None and work.scale.capacity_per_replica is None and work.scale.capacity_query is None
        ]
        self._lessons.keep([work.name for _, _, work in wanted])
        due = [one for one in wanted if self._lessons.due(one[2].name, at)]
        if not due or bool(getattr(asking.source, "slowed", False)):
            return
        try:
            self._lessons.read(asking, at, self._lessons_of(due))
        except SourceError as error:
            self._notices.append(Reason(error.reason, f"learning capacity: {error}"))

    def _lessons_of(self, due: Sequence[tuple[_Entry, Labels, Workload]]) -> list[Lesson]:
        assert self._coarse is not None
        columns = int(capacity_facts.SPAN.total_seconds()) // self._coarse_step
        times, values = self._coarse.times[-columns:], self._coarse.view()[:, -columns:]
        _, masked = self._masked()
        lessons: list[Lesson] = []
        for entry, labels, workload in due:
            scale, row = workload.scale, entry.series[0].row_of.get(labels)
            if scale is None or row is None:
                continue
            facts = self._facts.facts.get(f"{scale.namespace}/{scale.hpa}")
            own = self._own_cpu(entry, labels)
            target = None if facts is None else facts.scale_target
            limit = None if own is None else float(self._table["limit"][own])
            lessons.append(
                Lesson(
                    workload=workload.name,
                    scale_target=None if target is None else f"{scale.namespace}/{target}",
                    times=times,
                    load=values[row].astype(np.float64),
                    masked=None if masked is None else masked[row, -columns:],
                    usage=None if own is None else values[own].astype(np.float64),
                    limit=limit if limit is not None and np.isfinite(limit) else None,
                    ready=None if facts is None else facts.ready_replicas,
                )
            )
        return lessons

    def _own_cpu(self, entry: _Entry, labels: Labels) -> int | None:
        """The row of a workload's own resource `cpu`."""
        for resource, series in zip(entry.spec.resources, entry.series[1:], strict=True):
            if resource.name == "cpu":
                return series.row_of.get(labels)
        return None

    def _limit(self, asking: _Asking, resource: ResourceSpec, series: _Series, at: datetime) -> None:
        if resource.limit is None or not series.row_of:
            return
        answer = self._quietly(asking, resource.limit, at)
        if answer is None:
            return
        rows, values = self._spread(series, answer)
        known = np.isfinite(values)
        self._table["limit"][rows[known]] = values[known]
        self._table["limit_at"][rows[known]] = at.timestamp()

    def _ask_pods(self, asking: _Asking) -> None:
        """Usage of single pods at the head of the grid. A pod that is not there is NaN until it is forgotten."""
        assert self._fine is not None
        head = self._fine.head
        found: dict[tuple[str, str], tuple[int, float]] = {
            key: (seen, math.nan) for key, (seen, _) in self._pods.items() if head - seen < KEPT_PODS
        }
        for entry in self._entries:
            for resource, series in zip(entry.spec.resources, entry.series[1:], strict=True):
                if resource.per_pod is None or not series.row_of:
                    continue
                answer = self._quietly(asking, resource.per_pod, datetime.fromtimestamp(head, UTC))
                if answer is not None:
                    self._take_pods(found, resource, series, answer, head)
        self._pods, self._pods_laid = found, None

    def _take_pods(
        self,
        found: dict[tuple[str, str], tuple[int, float]],
        resource: ResourceSpec,
        series: _Series,
        answer: Samples,
        head: int,
    ) -> None:
        of: dict[int, list[tuple[str, float]]] = defaultdict(list)
        for labels, value in zip(answer.labels, answer.values[:, 0].tolist(), strict=True):
            row = series.row_of.get(_combination(labels, series.entry.spec.for_each))
            name = labels.get(resource.pod_label)
            if row is not None and name and math.isfinite(value):
                of[row].append((name, value))
        for row, pods in of.items():
            if len(pods) > MOST_PODS:
                text = f"{self._rows[row].key.workload}: {len(pods)} series of perPod, {MOST_PODS} are told apart"
                self._notices.append(Reason(ReasonCode.TOO_MANY_SERIES, text))
                continue
            found.update({(self._rows[row].text, name): (head, value) for name, value in pods})

    def _pods_now(self) -> Pods:
        """By the rows as they are now; made once a step, for that is how often pods are read."""
        layout = self._laid_out()
        if self._pods_laid is None or self._pods_laid[0] is not layout:
            self._pods_laid = layout, self._lay_pods()
        return self._pods_laid[1]

    def _lay_pods(self) -> Pods:
        if not self._pods:
            return NO_PODS
        rows = {row.text: i for i, row in enumerate(self._rows)}
        known = [(name, rows[text], value) for (text, name), (_, value) in self._pods.items() if text in rows]
        return Pods(
            tuple(name for name, _, _ in known),
            np.array([row for _, row, _ in known], dtype=np.int64),
            np.array([value for _, _, value in known], dtype=np.float64),
        )

    def _ask_capacity(self, asking: _Asking, entry: _Entry, scale: ScaleSpec, at: datetime) -> None:
        assert scale.capacity_query is not None
        answer = self._quietly(asking, scale.capacity_query, at)
        if answer is None:
            return
        rows, values = self._spread(entry.series[0], answer)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            if np.isfinite(value):
                self._capacity[self._rows[row].key.workload] = (value, at.timestamp())

    def _spread(self, series: _Series, answer: Samples) -> tuple[IntArray, FloatArray]:
        """Rows and values (rows,) of an answer that may also be one number for all rows of a template."""
        if len(answer.labels) == 1 and not any(name in answer.labels[0] for name in series.entry.spec.for_each):
            rows = np.array(list(series.row_of.values()), dtype=np.int64)
            return rows, np.full(len(rows), answer.values[0, 0])
        rows, values = self._rows_of(_apart(series), answer, judge=False)
        return rows, values[:, 0]

    def _quietly(self, asking: _Asking, query: str, at: datetime) -> Samples | None:
        """The answer to a query that no row depends on; its failure is a notice."""
        try:
            return asking.instant(query, at)
        except SourceError as error:
            self._notices.append(Reason(error.reason, f"{query}: {error}"))
            return None

    # --- the reading ---

    def _laid_out(self) -> _Layout:
        if self._layout is None:
            self._layout = _Layout(
                keys=tuple(row.key for row in self._rows),
                calendar=Calendar(tuple(row.series.entry.spec.timezone for row in self._rows)),
                resources=np.array([i for i, row in enumerate(self._rows) if row.key.role != LOAD], dtype=np.int64),
            )
        return self._layout

    def _reading(self, asking: _Asking, at: datetime, moved: bool) -> Reading:
        assert self._fine is not None
        assert self._coarse is not None
        layout = self._laid_out()
        keys = layout.keys
        masked, coarse_masked = self._masked()
        context = Context(
            fine=SeriesBatch(
                keys, datetime.fromtimestamp(self._fine.head, UTC), timedelta(seconds=self._step), self._fine.view()
            ),
            coarse=SeriesBatch(
                keys,
                datetime.fromtimestamp(self._coarse.head, UTC),
                timedelta(seconds=self._coarse_step),
                self._coarse.view(),
            ),
            calendar=layout.calendar,
            masked=masked,
            coarse_masked=coarse_masked,
        )
        table = self._table
        reasons = self._reasons(asking, at)
        notices = self._source_notices(asking)
        return Reading(
            now=at,
            workloads=tuple(work for entry in self._entries for work in entry.workloads.values()),
            context=context,
            new_column=moved,
            newest=table["newest"].copy(),
            newest_at=table["newest_at"].astype(np.int64),
            data_through=table["through"].copy(),
            reasons=reasons,
            notices=notices,
            series_count=table["count"].copy(),
            capacity={name: value for name, (value, _) in self._capacity.items()},
            limits=table["limit"].copy(),
            facts=self._facts.facts,
            clock_skew_seconds=self._known_skew,
            learned=dict(self._lessons.learned),
            pods=self._pods_now(),
        )

    def _reasons(self, asking: _Asking, at: datetime) -> tuple[tuple[Reason, ...], ...]:
        now, table = at.timestamp(), self._table
        through = table["through"]
        old = ~(now - through <= STALE_STEPS * self._step)  # True for never, too
        faulty: BoolArray = np.asarray(now - table["negative_at"] <= STALE_STEPS * self._step) | (table["cut"] > 0)
        gaps = np.where(old, -1.0, self._gaps())  # what is old has a better reason
        alive: bool | None = None
        reasons: list[tuple[Reason, ...]] = [()] * len(self._rows)
        troubled = old | faulty | (gaps >= 0)
        for row, one in enumerate(self._rows):
            series, expression = one.series, one.series.expression
            if not troubled[row] and expression.error is None and not expression.is_partial and not series.crowded:
                continue
            found: list[Reason] = []
            if one.labels in series.crowded:
                text = (
                    f"{series.crowded[one.labels]} series where one is wanted: aggregate the expression, as by sum(…)"
                )
                found.append(Reason(ReasonCode.TOO_MANY_SERIES, text))
            if expression.error is not None:
                found.append(Reason(expression.error.reason, str(expression.error)))
            if expression.is_partial:
                found.append(Reason(ReasonCode.PARTIAL_DATA, "; ".join(expression.warnings)))
            if old[row] and not found:
                if alive is None:
                    alive = self._alive(asking, at)
                found.append(self._absent(row, alive, now))
            if faulty[row]:
                found.append(Reason(ReasonCode.DATA_FAULT, "a negative value, where there has never been one"))
            if gaps[row] >= 0:
                found.append(Reason(ReasonCode.TOO_MANY_GAPS, f"{gaps[row]:.0%} of the samples of the last day exist"))
            reasons[row] = tuple(found)
        return tuple(reasons)

    def _absent(self, row: int, alive: bool, now: float) -> Reason:
        """Why a row without a fresh sample has none, though its query was answered."""
        through = self._table["through"][row]
        if not np.isfinite(through):
            return Reason(ReasonCode.NO_DATA, f"{self._rows[row].series.expression.text} has never matched anything")
        age = timedelta(seconds=round(now - through))
        if alive:
            return Reason(ReasonCode.SERIES_GONE, f"Prometheus answers without it for {age}")
        return Reason(ReasonCode.STALE_DATA, f"the newest sample is {age} old")

    def _alive(self, asking: _Asking, at: datetime) -> bool:
        """Whether Prometheus has fresh samples at all: an empty answer soon after its restart says nothing."""
        if np.isfinite(self._table["newest"]).any():
            return True
        try:
            answer = asking.instant("count(up)", at)
        except SourceError:
            return False
        return bool(answer.values.size and answer.values[0, 0] > 0)

    def _gaps(self) -> FloatArray:
        """(row,) share of the last day's samples (or since first seen) that exist, where it is under half; else -1."""
        assert self._fine is not None
        if self._few is not None and len(self._few) == len(self._rows):
            return self._few
        self._few = result = np.full(len(self._rows), -1.0)
        if not self._rows:
            return result
        head, first_seen = self._fine.head, self._table["first_seen"]
        begin = max(self._fine.first - self._step, head - 86_400)
        due = (head - np.fmax(first_seen - self._step, begin)) / self._step
        known = np.isfinite(self._fine.between(grid.floor_to(begin, self._step), head)).sum(axis=1)
        pending = np.array([bool(row.series.expression.missing["fine"]) for row in self._rows])
        few = ~pending & (due >= GAP_STEPS) & (known < 0.5 * due)
        result[few] = known[few] / due[few]
        return result

    def _source_notices(self, asking: _Asking) -> tuple[Reason, ...]:
        notices = list(self._notices)
        if self._restore_notice is not None:
            notices.append(self._restore_notice)
            self._restore_notice = None
        if asking.broken is not None:
            notices.append(Reason(asking.broken.reason, str(asking.broken)))
        for entry in self._entries:
            expression = entry.series[0].expression
            if entry.notice is not None:
                notices.append(entry.notice)
            elif not entry.workloads:
                if expression.error is not None:
                    notices.append(Reason(expression.error.reason, f"{entry.spec.name}: {expression.error}"))
                else:
                    notices.append(Reason(ReasonCode.NO_DATA, f"{entry.spec.name}: {expression.text} matches nothing"))
        return tuple(dict.fromkeys(notices))

    # --- masks ---

    def _masked(self) -> tuple[BoolArray | None, BoolArray | None]:
        """(row, time) of both grids; None where nothing is masked."""
        assert self._fine is not None
        assert self._coarse is not None
        stamp = (self._fine.head, len(self._rows))
        if self._masks is not None and self._masks[0] == stamp:
            return self._masks[1], self._masks[2]
        oldest = self._coarse.first - self._coarse_step
        spans: list[tuple[Span, list[int]]] = []
        rows_of: dict[str, list[int]] = defaultdict(list)
        if self._events:
            for row, one in enumerate(self._rows):
                rows_of[one.key.workload].append(row)
            rows_of["*"] = list(range(len(self._rows)))
        for event in self._events:
            rows = rows_of.get(event.workload, [])
            begin, end = event.starts_at.timestamp(), event.ends_at.timestamp()
            # t is the end of an interval: the first that is touched ends after the event's start
            span = (grid.floor_to(begin, self._step), -grid.floor_to(-end, self._step))
            spans.append((span, rows))
        if self._own:
            spans += [(span, [row]) for row, one in enumerate(self._rows) for span in self._own.get(one.key, ())]
        for expression in self._expressions.values():
            expression.partial = [span for span in expression.partial if span[1] > oldest]
            rows = [row for user in expression.users for row in user.row_of.values()]
            spans += [(span, rows) for span in expression.partial]
        spans = [(span, rows) for span, rows in spans if rows and span[1] > oldest]
        masks: list[BoolArray | None] = []
        for span_grid in (self._fine, self._coarse):
            mask: BoolArray | None = None
            times = span_grid.times
            for (after, until), rows in spans:
                columns = np.flatnonzero((times > after) & (times - span_grid.step < until))
                if len(columns):
                    if mask is None:
                        mask = np.zeros((len(self._rows), span_grid.columns), dtype=np.bool_)
                    mask[np.asarray(rows)[:, None], slice(int(columns[0]), int(columns[-1]) + 1)] = True
            masks.append(mask)
        self._masks = (stamp, masks[0], masks[1])
        return masks[0], masks[1]

    # --- the store's cache ---

    def _note_written(self, resolution: str, after: int, until: int) -> None:
        for chunk in range(grid.floor_to(after, CHUNK_SECONDS), until, CHUNK_SECONDS):
            self._changed.add(f"{resolution}/{chunk}")

    def _chunk(self, name: str, one: grid.RollingGrid, after: int) -> HistoryChunk:
        first = max(grid.floor_to(after, one.step), one.first - one.step)
        last = min(grid.floor_to(after + CHUNK_SECONDS, one.step), one.head)
        values = np.array(one.between(first, last))
        times = first + one.step * np.arange(1, values.shape[1] + 1)
        read: list[Span] = []
        for row, entry in enumerate(self._rows):
            expression = entry.series.expression
            for begin, end in expression.partial:
                values[row, (times > begin) & (times - one.step < end)] = np.nan
            read.append(self._read_part(name, expression, first, last))
        head = ChunkHead(
            version=CHUNK_VERSION,
            resolution=name,
            slot=after,
            after=first,
            step=one.step,
            keys=tuple(row.text for row in self._rows),
            entries=tuple(row.series.entry.id for row in self._rows),
            labels=tuple(row.labels for row in self._rows),
            read=tuple(read),
            columns=values.shape[1],
        )
        return HistoryChunk(head, values)

    def _read_part(self, name: str, expression: _Expression, first: int, last: int) -> Span:
        """The newest part of (first, last] that need not be asked for again."""
        if expression.through is None:
            return (0, 0)
        through = expression.through if name == "fine" else grid.floor_to(expression.through, self._coarse_step)
        end = min(last, through)
        begin = first
        again = [*expression.missing[name], *expression.partial]
        if name == "coarse":  # its newest part is pooled from the fine grid
            again += expression.missing["fine"]
        for after, until in again:
            if after < end and until > begin:
                begin = max(begin, until)
        return (begin, end) if begin < end else (0, 0)

    def _take_chunks(self) -> None:
        """Writes restored chunks into the grids, and takes what they cover off what is missing."""
        chunks, self._chunks = self._chunks, []
        row_of = {row.text: at for at, row in enumerate(self._rows)}
        covered: dict[str, dict[int, list[Span]]] = {"fine": defaultdict(list), "coarse": defaultdict(list)}
        for chunk in chunks:
            head = chunk.head
            one = self._fine if head.resolution == "fine" else self._coarse
            assert one is not None
            if chunk.until > one.head:  # of a clock that was ahead
                continue
            pairs = [(row_of[key], at) for at, key in enumerate(head.keys) if key in row_of]
            if not pairs:
                continue
            rows, places = np.array(pairs, dtype=np.int64).T
            values = np.asarray(chunk.values)[places]
            one.write(rows, head.after + head.step, values, open_from=head.after)
            self._restored(rows, values, head)
            for row, place in pairs:
                if head.read[place][1]:
                    covered[head.resolution][row].append(head.read[place])
        for expression in self._expressions.values():
            rows = [row for user in expression.users for row in user.row_of.values()]
            if not rows:
                continue
            for resolution, of_row in covered.items():
                # What the row that knows least has: rows of one expression were read together.
                least = min(
                    (merged(of_row.get(row, [])) for row in rows), key=lambda spans: sum(b - a for a, b in spans)
                )
                missing = expression.missing[resolution]
                for span in least:
                    missing = without(missing, span)
                expression.missing[resolution] = missing
                if resolution == "fine" and least:
                    expression.through = least[-1][1]
        if self._fine is not None:
            for expression in self._expressions.values():
                if expression.through is not None:  # the newest part: read with the overlap, as ever
                    expression.missing["fine"] = without(
                        expression.missing["fine"], (expression.through, self._fine.head)
                    )

    def _restored(self, rows: IntArray, values: FloatArray, head: ChunkHead) -> None:
        known = np.isfinite(values)
        some = known.any(axis=1)
        rows, known, values = rows[some], known[some], values[some]
        if not len(rows):
            return
        table = self._table
        first = head.after + head.step * (1 + known.argmax(axis=1))
        last = head.after + head.step * (known.shape[1] - known[:, ::-1].argmax(axis=1))
        table["first_seen"][rows] = np.fmin(table["first_seen"][rows], first)
        table["through"][rows] = np.fmax(table["through"][rows], last)
        table["samples"][rows] += known.sum(axis=1)
        table["negative"][rows[np.where(known, values, 0.0).min(axis=1) < 0]] = 1.0


_LOST = (ReasonCode.STALE_DATA, ReasonCode.UNAUTHORISED)


class _NotAsked(SourceError):
    """The source was lost earlier in this reading."""


class _Asking:
    """A source for the length of one reading: the same query is sent once, and none after the source is lost."""

    def __init__(self, source: MetricSource) -> None:
        self.source = source
        self.broken: SourceError | None = None
        self._answers: dict[tuple[str, datetime], Samples | SourceError] = {}

    def instant(self, query: str, at: datetime) -> Samples:
        known = self._answers.get((query, at))
        if known is None:
            try:
                known = self._guarded(lambda: self.source.instant(query, at))
            except SourceError as error:
                known = error
            self._answers[query, at] = known
        if isinstance(known, SourceError):
            raise known
        return known

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        return self._guarded(lambda: self.source.range(query, start, end, step))

    def _guarded(self, ask: Any) -> Samples:
        if self.broken is not None:
            raise _NotAsked(str(self.broken), self.broken.reason)
        try:
            answer: Samples = ask()
        except SourceError as error:
            if error.reason in _LOST:
                self.broken = error  # each further query would wait for the same time-out
            raise
        return answer


def _apart(series: _Series) -> _Series:
    """The same rows, for an answer to another query, whose label sets must not displace the remembered ones."""
    return _Series(series.entry, series.role, series.expression, None, series.row_of)


def read_once(source: MetricSource, query: str, now: datetime, span: timedelta, step: timedelta) -> Reading:
    """The whole history of one expression, for `forecaster forecast`. Raises SourceError where it cannot be read."""
    history = History([WorkloadSpec(name="query", load=query)], step, span, kube_state_metrics=False)
    while True:
        reading = history.read(source, now)
        failed = next((one.error for one in history._expressions.values() if one.error is not None), None)
        if failed is not None:
            raise failed
        if not history.backlog:
            return reading


# --- small things ----------------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with {label} replaced, in one pass: a label's value is never read as a placeholder."""
    if not values:
        return text
    parts = text.split("{")
    out = [parts[0]]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        out.append(values[name] + rest if brace and name in values else "{" + part)
    return "".join(out)


def _combination(labels: Mapping[str, str], names: Sequence[str]) -> Labels:
    return tuple([labels.get(name, "") for name in names])


def _count(text: str) -> str | None:
    try:
        return promql.count_behind_sum(text)
    except InputError:  # a dialect that the parser does not know; Prometheus will judge it
        return None
