"""`forecaster actuate`: what is seen and what is recommended come in, writes go out.

One thread decides; it never waits for a network. Watches, the long poll and the lease have threads of their own and
put what they learn into one queue; writes are done by a few workers, at most a stated number a second, raises before
all else and the biggest deficit first. A write that hangs holds up its own HPA and no other.
"""

from __future__ import annotations

import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from serving.actuator import offers as service
from serving.actuator import target, target_writes, watching, writes
from serving.actuator.keep import Keep, Kept
from serving.actuator.kube import Kind, Kube, KubeError
from serving.actuator.leader import RETRY_SECONDS, Leadership
from serving.actuator.offers import SKEW_SECONDS, Answer, ServiceError
from serving.actuator.policy import (
    Action,
    Code,
    Hpa,
    HpaState,
    Nothing,
    Offer,
    Raise,
    Rules,
    Said,
    Step,
    Take,
    Verdict,
    allot,
    decide,
    recognise,
    urgency,
)
from serving.actuator.target import Raise as RaiseTarget
from serving.actuator.target import TargetState, TargetVerdict
from serving.actuator.telling import Teller

TICK_SECONDS = 1.0  # so often what depends on time alone is looked at
WORKERS = 8
LEAST_BACK_OFF, MOST_BACK_OFF = 1.0, 300.0
MOST_WHILE_DOWN = 30.0  # back-off while the server does not answer, or with 5xx: it may be well again at any moment
GRACE_SECONDS = 60.0  # after a start, for the service to answer, before floors that were found walk back
AHEAD = 100  # take-overs that wait for their turn are stored with the one before them, in one write
STORE_AGAIN_SECONDS = 30.0  # between attempts to write to the store what is missing there
QUICK_POLL, SLOW_WAIT = 1.0, 5.0  # a service that says the same at once is asked again after a while
_HAPPENED = frozenset(  # told when they are done, or when they are noticed: not things that go on
    {
        Code.FLOOR_RAISED,
        Code.FLOOR_LOWERED,
        Code.FLOOR_TAKEN,
        Code.RESTORED,
        Code.WALKING_BACK,
        Code.USER_EDIT,
        Code.STEPPED_ASIDE,
        Code.TARGET_RAISED,
        Code.TARGET_RESTORED,
    }
)
_NOTICED = frozenset({Code.USER_EDIT, Code.STEPPED_ASIDE})
_log = logging.getLogger("forecaster.actuator")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose."""

    apply: bool = False
    rules: Rules = field(default_factory=Rules)
    most_added: int = 500  # replicas above the users' own values, over all HPAs
    writes_per_second: float = 10.0
    scopes: tuple[str | None, ...] = (None,)  # namespaces; None: all


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has finished."""

    key: str
    verdict: Verdict | TargetVerdict
    hpa: Hpa | None  # as it is now; None where nothing is known
    error: KubeError | None = None
    changed: bool = False  # the decision must be made anew
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Unserved:
    """The service did not answer."""

    text: str


Message = watching.Sight | Answer | Unserved | Done


@dataclass(slots=True)
class Failing:
    """Writes to one HPA that fail."""

    times: int
    until: float  # monotonic seconds before which it is left alone
    text: str
    read_first: bool = False
    changes: int = 0  # times in a row that the HPA had changed meanwhile
    raising: bool = False  # of a target: what failed was to raise it


@dataclass(slots=True)
class Counts:
    """For /metrics."""

    writes: dict[tuple[str, str], int] = field(default_factory=dict)  # (action, result) ->
    delays: list[float] = field(default_factory=list)  # seconds from a recommendation to its write, the recent ones
    delay_sum: float = 0.0
    delay_count: int = 0
    malformed: int = 0
    polls_failed: int = 0
    store_failed: int = 0


class Actuator:
    """The state of all HPAs, and what is to be done. `handle` and `step` are called by one thread."""

    def __init__(
        self,
        kube: Kube,
        keep: Keep,
        teller: Teller,
        settings: Settings,
        may_write: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.counts = settings, Counts()
        self.hpas: dict[str, Hpa] = {}
        self.states: dict[str, HpaState] = {}
        self.targets: dict[str, TargetState] = {}
        self.offers: Mapping[str, Offer] = {}
        self.malformed: Mapping[str, str] = {}  # "namespace/hpa", or the place in the answer -> what is wrong
        self.failing: dict[str, Failing] = {}
        self.failing_targets: dict[str, Failing] = {}
        self.served_at = -math.inf  # monotonic seconds of the last answer of the service
        self.ticked_at = monotonic()
        self.turns = 0  # of `step`
        self.skew_seconds = 0.0
        self.trouble: dict[str, str] = {}  # what does not answer -> the words
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._kube, self._keep, self._teller = kube, keep, teller
        self._may_write, self._monotonic = may_write, monotonic
        self._listed: set[str | None] = set()
        self._refused: set[str | None] = set()  # scopes that we lastingly may not read
        self._dirty: set[str] = set()
        self._busy: set[str] = set()
        self._short: set[str] = set()  # got less than they wanted, for the limit on replicas added
        self._pending: dict[str, tuple[int, int]] = {}  # what workers are writing: (floor, the user's own)
        self._wanted_at: dict[str, float] = {}
        self._soon: dict[str, Kept] = {}  # what is to be kept of take-overs that wait for their turn
        self._stopped_until = -math.inf  # the API server asked for a pause
        self._tokens, self._tokens_at = settings.writes_per_second, monotonic()
        self._swept_at = self._begin_at = self._stored_at = -math.inf
        self._leading = False
        self._refusals = 0  # 403 for the store, in a row
        self._closed = False
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="write")
        self._rng = random.Random()  # noqa: S311 - jitter

    @property
    def ready(self) -> bool:
        """All scopes have been read once: before, an HPA that we hold could be unknown.

        One that we may not read does not stop the others: nothing there can be written either.
        """
        return bool(self._listed) and self._listed | self._refused >= set(self.settings.scopes)

    @property
    def added(self) -> int:
        """Replicas that our floors add to the users' own values, over all HPAs. For any thread."""
        return sum(
            max(0, hpa.min_replicas - state.hold.users_own)
            for key, state in list(self.states.items())
            if state.hold is not None and (hpa := self.hpas.get(key)) is not None
        )

    @property
    def _reserved(self) -> int:
        """What `added` does not hold yet of the writes under way. The watch may tell of them before the worker does."""
        more = 0
        for key, (floor, own) in self._pending.items():
            hpa, state = self.hpas.get(key), self.states.get(key)
            if hpa is None or state is None:
                continue
            counted = max(0, hpa.min_replicas - state.hold.users_own) if state.hold is not None else 0
            more += max(0, floor - own - counted)
        return more

    def close(self) -> None:
        """Waits for the writes that are under way, and for what is to be said; both end within seconds."""
        self._closed = True
        self._workers.shutdown(wait=True, cancel_futures=True)
        while not self.inbox.empty():  # what the last writes brought is told, too
            if isinstance(message := self.inbox.get_nowait(), Done):
                self.handle(message)
        self._teller.close()

    # --- what comes in ---

    def handle(self, message: Message) -> None:
        match message:
            case watching.Listed():
                self._on_list(message)
            case watching.Changed(hpa=hpa):
                self._on_seen(hpa)
            case watching.Deleted(hpa=hpa):
                if (known := self.hpas.get(hpa.key)) is None or known.uid == hpa.uid:
                    self._forget(hpa.key)
            case watching.Trouble(scope=scope, text=text, forbidden=forbidden):
                self._said_trouble(f"HPAs of {scope or 'all namespaces'}", text)
                if forbidden:
                    self._refused.add(scope)
            case Answer():
                self._on_answer(message)
            case Unserved(text=text):
                self.counts.polls_failed += 1
                self._said_trouble("the service", text)
            case Done():
                self._on_done(message)

    def _said_trouble(self, what: str, text: str) -> None:
        if self.trouble.get(what) != text:
            _log.warning("%s: %s", what, text)
        self.trouble[what] = text

    def _well_again(self, what: str) -> bool:
        if self.trouble.pop(what, None) is None:
            return False
        _log.info("%s: well again", what)
        return True

    def _try_again_soon(self, scope: str | None) -> None:
        """The server answers again: what waited because it did not need not wait for its time."""
        soon = self._monotonic() + LEAST_BACK_OFF
        for key, failing in (*self.failing.items(), *self.failing_targets.items()):
            if failing.read_first and (scope is None or key.partition("/")[0] == scope):
                failing.until = min(failing.until, soon)

    def _on_list(self, listed: watching.Listed) -> None:
        self._refused.discard(listed.scope)
        if self._well_again(f"HPAs of {listed.scope or 'all namespaces'}"):
            self._try_again_soon(listed.scope)
        for text in listed.invalid:
            _log.warning("an HPA is left alone: %s", text)
        found = {hpa.key for hpa in listed.found}
        for hpa in listed.found:
            self._on_seen(hpa, listed.afresh)
        gone = [
            key
            for key, hpa in self.hpas.items()
            if key not in found and (listed.scope is None or hpa.namespace == listed.scope)
        ]
        for key in gone:
            self._forget(key)
        self._listed.add(listed.scope)

    def _on_seen(self, hpa: Hpa, afresh: bool = False) -> None:
        known = self.hpas.get(hpa.key)
        if known is not None and known.uid == hpa.uid and not afresh and _older(hpa, known):
            return  # the answer to a write of ours came before the watch told of what was there before it
        self.hpas[hpa.key] = hpa
        state = self.states.get(hpa.key)
        if state is None or state.uid != hpa.uid:
            self.states[hpa.key] = self._first_state(hpa)
            self.targets[hpa.key] = self._first_target(hpa)
            self.failing.pop(hpa.key, None)
            self.failing_targets.pop(hpa.key, None)
            self._teller.forget(hpa.key)
        self._dirty.add(hpa.key)

    def _forget(self, key: str) -> None:
        hpa = self.hpas.pop(key, None)
        self.states.pop(key, None)
        self.targets.pop(key, None)
        self.failing.pop(key, None)
        self.failing_targets.pop(key, None)
        self._short.discard(key)
        self._wanted_at.pop(key, None)
        self._teller.forget(key)
        if hpa is not None and key in self._keep.entries:
            self._keep_later({key: None})

    def _keep_later(self, changes: Mapping[str, Kept | None], seen: Mapping[str, Kept | None] | None = None) -> None:
        if self.settings.apply and self._may_write() and not self._closed:
            self._workers.submit(self._keep_safely, changes, seen)

    def _on_answer(self, answer: Answer) -> None:
        self._well_again("the service")
        self.served_at = now = self._monotonic()
        if abs(answer.skew_seconds) > SKEW_SECONDS and abs(self.skew_seconds) <= SKEW_SECONDS:
            _log.warning("the clocks of the service and of this host differ by %.0f s", answer.skew_seconds)
        self.skew_seconds = answer.skew_seconds
        for where, why in answer.malformed.items():
            self.counts.malformed += 1
            self._said_trouble(f"recommendation {where}", why)
        for what in [one for one in self.trouble if one.startswith("recommendation ")]:
            if what.removeprefix("recommendation ") not in answer.malformed:
                self._well_again(what)
        for key, offer in answer.offers.items():
            before = self.offers.get(key)
            if before is None or before.floor != offer.floor:
                self._wanted_at[key] = now
        for key in [key for key in self._wanted_at if key not in answer.offers]:
            del self._wanted_at[key]
        self._dirty.update(answer.offers, self.offers, answer.malformed, self.malformed)
        self.offers, self.malformed = answer.offers, answer.malformed

    def _on_done(self, done: Done) -> None:
        self._busy.discard(done.key)
        self._pending.pop(done.key, None)
        self._dirty.add(done.key)
        action = _action_name(done.verdict)
        result = "ok" if done.error is None and not done.changed else done.error.kind.value if done.error else "changed"
        self.counts.writes[action, result] = self.counts.writes.get((action, result), 0) + 1
        known = self.hpas.get(done.key)
        if known is None or known.uid != done.verdict.state.uid:
            return  # deleted, or made anew, in the meantime
        if done.hpa is not None and done.hpa.uid == known.uid and not _older(done.hpa, known):
            self.hpas[done.key] = done.hpa
        if isinstance(done.verdict, TargetVerdict):
            self._on_target_done(known, done, done.verdict)
            return
        if done.error is not None:
            self._failed(known, done.error)
            return
        if done.changed:
            self._back_off(known, "it changes all the time", quick=True)
            return
        self.failing.pop(done.key, None)
        self._teller.standing_now(known, (), "write")
        after = done.verdict.after
        before = self.states.get(done.key)
        if before is not None:  # what was noticed while the write was under way stays
            after = replace(after, good_until=max(after.good_until, before.good_until))
        self.states[done.key] = after
        for said in done.verdict.said:
            if said.code in _HAPPENED and said.code not in _NOTICED:
                offer = self.offers.get(done.key)
                self._teller.once(known, said, offer.words if offer is not None and _explained(said) else "")
        if isinstance(done.verdict.action, Take | Step) and (since := self._wanted_at.pop(done.key, None)) is not None:
            delay = self._monotonic() - since
            self.counts.delay_sum += delay
            self.counts.delay_count += 1
            self.counts.delays = [*self.counts.delays[-999:], delay]

    def _on_target_done(self, hpa: Hpa, done: Done, verdict: TargetVerdict) -> None:
        if done.error is not None:
            self._failed(hpa, done.error, of=verdict)
            return
        if done.changed:
            self._back_off(hpa, "it changes all the time", quick=True, of=verdict)
            return
        self.failing_targets.pop(done.key, None)
        self._teller.standing_now(hpa, (), "target write")
        self.targets[done.key] = verdict.after
        for said in verdict.said:
            if said.code in _HAPPENED and said.code not in _NOTICED:
                self._teller.once(hpa, said)

    def _failed(self, hpa: Hpa, error: KubeError, of: TargetVerdict | None = None) -> None:
        if error.kind in (Kind.GONE, Kind.REPLACED):
            self._forget(hpa.key)  # the watch tells what is there now
            return
        if error.kind is Kind.NOT_ALLOWED:
            return
        if error.kind is Kind.THROTTLED:
            self._stopped_until = self._monotonic() + (error.retry_after or 1.0)
        self._back_off(hpa, str(error), error, of=of)

    def _back_off(
        self, hpa: Hpa, text: str, error: KubeError | None = None, quick: bool = False, of: TargetVerdict | None = None
    ) -> None:
        """`of`: the verdict, where it is one on a target."""
        failing, source = (self.failing, "write") if of is None else (self.failing_targets, "target write")
        raising = of is not None and _raises(of)
        before = failing.get(hpa.key)
        times, changes = (before.times, before.changes) if before is not None else (0, 0)
        times, changes = (times, changes + 1) if quick else (times + 1, 0)
        down = error is not None and error.kind in (Kind.UNREACHABLE, Kind.SERVER)
        longest = MOST_WHILE_DOWN if down or (of is not None and not raising) else MOST_BACK_OFF
        wait = min(longest, LEAST_BACK_OFF * 2.0 ** min(max(changes if quick else times, 1) - 1, 10))
        wait = self._rng.uniform(0.75 * wait, wait)
        if quick and changes <= 2:
            wait = 0.0
        if error is not None and error.kind in (Kind.INVALID, Kind.FIELD_CONFLICT):
            wait = max(wait, 10.0)  # it would be refused again
        if error is not None and error.retry_after is not None:
            wait = max(wait, error.retry_after)
        read_first = error is not None and (error.unknown or error.kind is Kind.FIELD_CONFLICT)
        failing[hpa.key] = Failing(times, self._monotonic() + wait, text, read_first, changes, raising)
        if error is None or (error.kind is Kind.FORBIDDEN and times < 3) or error.kind is Kind.STALE:
            return  # a server that has just started forbids everything for a moment
        code = Code.FORBIDDEN if error.kind is Kind.FORBIDDEN else Code.WRITE_FAILED
        self._teller.standing_now(hpa, (Said(code, text),), source)

    # --- what goes out ---

    def step(self) -> None:
        """Decides what is due, and hands writes to the workers as far as the limits allow."""
        now = self.ticked_at = self._monotonic()
        self.turns += 1
        if not self.ready or not self._begun(now):
            return
        if now - self._swept_at >= TICK_SECONDS:
            self._swept_at = now
            self._dirty.update(key for key, state in self.states.items() if state.hold is not None)
            self._dirty.update(key for key, state in self.targets.items() if state.hold is not None)
            self._dirty.update(self._short)
            self._dirty.update(key for key, one in self.failing.items() if one.until <= now)
            self._dirty.update(key for key, one in self.failing_targets.items() if one.until <= now)
        keys, self._dirty = self._dirty, set()
        verdicts: dict[str, Verdict] = {}
        for key in keys:
            if key in self._busy:
                continue  # it comes back when the worker is done
            try:
                verdict = self._decided(key, now)
            except Exception as error:  # one HPA must not stop the others
                _log.exception("%s: no decision", key)
                self.failing[key] = Failing(1, now + MOST_BACK_OFF, f"a fault of ours: {error}")
                continue
            if verdict is not None:
                verdicts[key] = verdict
        limited = self._limited(verdicts)
        up = {key: one for key, one in limited.items() if self._goes_up(key, one)}
        rest = {key: one for key, one in limited.items() if key not in up}
        targets = self._target_verdicts(keys - up.keys(), now)
        back = {key: one for key, one in targets.items() if not _raises(one)}
        # Replicas first, then head-room; what takes replicas away, or head-room, comes last.
        self._soon = self._dispatch(up, now)
        self._dispatch_targets(back)
        self._dispatch({key: one for key, one in rest.items() if key not in back}, now)
        self._dispatch_targets({key: one for key, one in targets.items() if _raises(one) and key not in rest})
        self._dirty.update(back.keys() & rest.keys())
        self._repair_store(now)

    def _goes_up(self, key: str, verdict: Verdict) -> bool:
        floor = _floor_of(verdict.action)
        return floor is not None and floor > self.hpas[key].min_replicas

    def _begun(self, now: float) -> bool:
        """Whether it is ours to decide. Who waits for the lease forgets nothing and knows nothing: what the other one
        did in the meantime is read from the store and from the HPAs when the lease comes.
        """
        if not self.settings.apply:
            return True
        if not self._may_write():
            self._leading = False
            return False
        if self._leading:
            return True
        if now < self._begin_at:
            return False
        try:
            self._keep.load()
            self._well_again("the store")
        except KubeError as error:
            self.counts.store_failed += 1
            self._refusals = self._refusals + 1 if error.kind is Kind.FORBIDDEN else 0
            self._said_trouble("the store", f"ConfigMap {self._keep.namespace}/{self._keep.name}: {error}")
            lasting = error.kind is Kind.GONE or self._refusals > watching.STARTING_UP
            if not lasting:
                self._begin_at = now + RETRY_SECONDS
                return False
        for name in self._keep.damaged:
            _log.warning("ConfigMap %s/%s: %s is damaged", self._keep.namespace, self._keep.name, name)
        for key, hpa in self.hpas.items():
            # How long the last recommendation counts is not known: the service gets a moment to say it anew.
            self.states[key] = replace(self._first_state(hpa), good_until=now + GRACE_SECONDS)
            self.targets[key] = self._first_target(hpa, now + GRACE_SECONDS)
        self._dirty.update(self.hpas)
        self._leading = True
        return True

    def _repair_store(self, now: float) -> None:
        """What the store lacks (a write that failed, a ConfigMap made anew) or holds of HPAs that are gone."""
        if not self._leading or now - self._stored_at < STORE_AGAIN_SECONDS:
            return
        self._stored_at = now
        changes: dict[str, Kept | None] = {
            key: kept
            for key, state in self.states.items()
            if key not in self._busy and (kept := self._entry(key, state)) is not None
        }
        entries = dict(self._keep.entries)
        changes = {key: kept for key, kept in changes.items() if entries.get(key) != kept}
        scopes = self._listed
        for key, kept in entries.items():
            read = None in scopes or key.partition("/")[0] in scopes
            if read and key not in changes and self._needless(key, kept):
                changes[key] = None
        if changes:
            self._keep_later(changes, {key: entries.get(key) for key in changes})

    def _needless(self, key: str, kept: Kept) -> bool:
        """An entry of an HPA that is gone, or that is not ours and about to be nothing else."""
        hpa, state = self.hpas.get(key), self.states.get(key)
        if hpa is None or state is None or hpa.uid != kept.uid:
            return True
        waits = key in self._busy or key in self._dirty or key in self._soon or key in self.failing
        waits |= key in self.failing_targets
        return not waits and not hpa.marked and not hpa.target.marked and self._entry(key, state) is None

    def _entry(self, key: str, state: HpaState) -> Kept | None:
        """What the store is to hold of an HPA; None: nothing."""
        kept = Kept(state.uid, state.hold, state.aside)
        raised = self.targets.get(key)
        if raised is not None and raised.uid == state.uid:
            kept = replace(kept, target_aside=raised.aside)
            if raised.hold is not None and not raised.guessed:
                kept = replace(kept, target=raised.hold, raised=raised.wrote)
        return None if kept.empty else kept

    def _first_state(self, hpa: Hpa) -> HpaState:
        state = recognise(hpa, self._keep.hold_of(hpa.key, hpa.uid))
        return replace(state, aside=self._keep.aside_of(hpa.key, hpa.uid))

    def _first_target(self, hpa: Hpa, grace_until: float = -math.inf) -> TargetState:
        kept = self._keep.of(hpa.key, hpa.uid)
        return target.recognise(hpa, kept.target, grace_until, kept.raised, kept.target_aside)

    def _decided(self, key: str, now: float) -> Verdict | None:
        hpa, state = self.hpas.get(key), self.states.get(key)
        if hpa is None or state is None:
            return None
        failing = self.failing.get(key)
        if failing is not None and failing.until > now:
            return None
        if not self.settings.apply:  # another actuator may be writing: what it did is no edit by hand
            state = replace(state, hold=recognise(hpa).hold if not hpa.owners else None)
        verdict = decide(state, self.offers.get(key), hpa, now, self.settings.rules)
        for said in verdict.said:
            if said.code in _NOTICED:
                self._teller.once(hpa, said)
        standing = [one for one in verdict.said if one.code not in _HAPPENED]
        if key in self.malformed:
            standing.append(Said(Code.MALFORMED, f"the recommendation is malformed: {self.malformed[key]}"))
        self._teller.standing_now(hpa, tuple(standing), "decision")
        if verdict.state.aside != state.aside:
            self._keep_later({key: self._entry(key, replace(verdict.state, hold=None))})
        self.states[key] = verdict.state
        floor = _floor_of(verdict.action)
        if key in self._short and (floor is None or floor <= hpa.min_replicas):
            self._short.discard(key)
            self._teller.standing_now(hpa, (), "limit")
        if not isinstance(verdict.action, Nothing):
            return verdict
        self._wanted_at.pop(key, None)
        if self.failing.pop(key, None) is not None:  # what failed is not wanted any more
            self._teller.standing_now(hpa, (), "write")
        return None

    def _limited(self, verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
        """Raises cut to what may be added over all HPAs."""
        raises = [
            Raise(key, self.hpas[key].min_replicas, floor, self.hpas[key].current_replicas)
            for key, verdict in verdicts.items()
            if (floor := _floor_of(verdict.action)) is not None and floor > self.hpas[key].min_replicas
        ]
        given = allot(raises, self.added + self._reserved, self.settings.most_added)
        limited = dict(verdicts)
        for one in raises:
            floor = given[one.key]
            self._short.discard(one.key)
            if floor == one.wanted:
                self._teller.standing_now(self.hpas[one.key], (), "limit")
                continue
            self._short.add(one.key)
            note = f"floor {one.wanted} wanted, {floor} given: {self.settings.most_added} replicas may be added in all"
            verdict = verdicts[one.key]
            self._teller.standing_now(self.hpas[one.key], (Said(Code.LIMIT_REACHED, note),), "limit")
            if floor == one.stands:
                del limited[one.key]
            elif isinstance(verdict.action, Take | Step):
                said = tuple(
                    Said(said.code, f"minReplicas {one.stands} → {floor}") if _explained(said) else said
                    for said in verdict.said
                )
                limited[one.key] = replace(verdict, action=replace(verdict.action, floor=floor), said=said)
        return limited

    def _dispatch(self, verdicts: Mapping[str, Verdict], now: float) -> dict[str, Kept]:
        """Returns what is to be kept of take-overs that must wait."""
        self._tokens = min(
            self.settings.writes_per_second,
            self._tokens + (now - self._tokens_at) * self.settings.writes_per_second,
        )
        self._tokens_at = now
        if not self.settings.apply:
            for key, verdict in verdicts.items():
                self._teller.standing_now(self.hpas[key], tuple(_would(verdict)), "dry run")
            return {}
        allowed = self._may_write() and now >= self._stopped_until
        soon: dict[str, Kept] = {}
        for key in sorted(verdicts, key=lambda one: self._order(one, verdicts[one])):
            if not allowed or self._tokens < 1.0 or len(self._busy) >= WORKERS:
                self._dirty.add(key)
                if len(soon) < AHEAD and isinstance(verdicts[key].action, Take):
                    soon[key] = _must(self._entry(key, replace(verdicts[key].after, aside=None)))
                continue
            self._tokens -= 1.0
            self._busy.add(key)
            action = verdicts[key].action
            if isinstance(action, Take | Step):
                self._pending[key] = (action.floor, action.hold.users_own)
            failing = self.failing.get(key)
            self._workers.submit(self._work, self.hpas[key], verdicts[key], failing is not None and failing.read_first)
        return soon

    def _target_verdicts(self, keys: set[str], now: float) -> dict[str, TargetVerdict]:
        """Each waits for its back-off, but a give-back not for that of a raise."""
        found: dict[str, TargetVerdict] = {}
        for key in keys:
            hpa, state = self.hpas.get(key), self.targets.get(key)
            if hpa is None or state is None or key in self._busy:
                continue
            failing = self.failing_targets.get(key)
            try:
                verdict = self._target_decided(key, hpa, state, now)
            except Exception as error:  # one HPA must not stop the others
                _log.exception("%s: no decision on its target", key)
                self.failing_targets[key] = Failing(1, now + MOST_BACK_OFF, f"a fault of ours: {error}")
                continue
            waits = failing is not None and failing.until > now
            if verdict is not None and (not waits or (failing is not None and failing.raising > _raises(verdict))):
                found[key] = verdict
        return found

    def _target_decided(self, key: str, hpa: Hpa, state: TargetState, now: float) -> TargetVerdict | None:
        if not self.settings.apply:  # another actuator may be writing
            state = replace(state, hold=target.recognise(hpa).hold if not hpa.target.owners else None)
        verdict = target.decide(state, self.offers.get(key), hpa, now)
        for said in verdict.said:
            if said.code in _NOTICED:
                self._teller.once(hpa, said)
        standing = tuple(one for one in verdict.said if one.code not in _HAPPENED)
        self._teller.standing_now(hpa, standing, "target")
        self.targets[key] = verdict.state
        if verdict.action is not None:
            return verdict
        if self.failing_targets.pop(key, None) is not None:
            self._teller.standing_now(hpa, (), "target write")
        return None

    def _dispatch_targets(self, verdicts: Mapping[str, TargetVerdict]) -> None:
        if not self.settings.apply:
            for key, verdict in verdicts.items():
                self._teller.standing_now(self.hpas[key], tuple(_would(verdict)), "target dry run")
            return
        allowed = self._may_write() and self._tokens_at >= self._stopped_until
        for key in sorted(verdicts):
            if not allowed or self._tokens < 1.0 or len(self._busy) >= WORKERS:
                self._dirty.add(key)
                continue
            self._tokens -= 1.0
            self._busy.add(key)
            self._workers.submit(self._work, self.hpas[key], verdicts[key], False)

    def _order(self, key: str, verdict: Verdict) -> tuple[int, int, str]:
        hpa = self.hpas[key]
        floor = _floor_of(verdict.action)
        if floor is None or floor <= hpa.min_replicas:
            return (1, 0, key)
        return (0, *urgency(Raise(key, hpa.min_replicas, floor, hpa.current_replicas)))

    # --- in a worker ---

    def _work(self, hpa: Hpa, verdict: Verdict | TargetVerdict, read_first: bool) -> None:
        began = self._monotonic()
        try:
            self.inbox.put(self._worked(hpa, verdict, read_first, began))
        except Exception as error:  # a fault of ours must not leave the HPA locked
            _log.exception("%s: the write failed", hpa.key)
            self.inbox.put(Done(hpa.key, verdict, None, KubeError(Kind.UNREACHABLE, f"a fault of ours: {error}")))

    def _worked(self, hpa: Hpa, verdict: Verdict | TargetVerdict, read_first: bool, began: float) -> Done:
        def done(found: Hpa | None, error: KubeError | None = None, changed: bool = False) -> Done:
            return Done(hpa.key, verdict, found, error, changed, self._monotonic() - began)

        try:
            if read_first:
                fresh = writes.read(self._kube, hpa)
                if fresh.version != hpa.version:
                    return done(fresh, changed=True)
            found = (
                self._target_written(hpa, verdict)
                if isinstance(verdict, TargetVerdict)
                else self._floor_written(hpa, verdict)
            )
        except writes.Changed as changed:
            return done(changed.hpa, changed=True)
        except KubeError as error:
            return done(None, error)
        except ValueError as error:
            return done(None, KubeError(Kind.UNREACHABLE, f"the answer is no HPA: {error}"))
        return done(found)

    def _floor_written(self, hpa: Hpa, verdict: Verdict) -> Hpa | None:
        if isinstance(verdict.action, Take):
            kept = self._entry(hpa.key, replace(verdict.after, aside=None))
            if self._keep.entries.get(hpa.key) != kept:
                self._keep_safely({**self._soon, hpa.key: kept})
        found = writes.perform(self._kube, hpa, verdict.action)
        if verdict.after.hold is None:
            self._keep_safely({hpa.key: self._entry(hpa.key, verdict.after)})
        return found

    def _target_written(self, hpa: Hpa, verdict: TargetVerdict) -> Hpa:
        """The user's own target is in the store before it is gone from the HPA, and until it is back."""
        assert verdict.action is not None
        kept = replace(self._keep.of(hpa.key, hpa.uid), target_aside=verdict.after.aside)
        if isinstance(verdict.action, RaiseTarget):
            raised = replace(kept, target=verdict.action.hold, raised=verdict.action.target)
            self._keep_safely({hpa.key: raised})
        found = target_writes.perform(self._kube, hpa, verdict.action)
        if verdict.after.hold is None:
            rest = replace(kept, target=None, raised=None)
            self._keep_safely({hpa.key: None if rest.empty else rest})
        return found

    def _keep_safely(self, changes: Mapping[str, Kept | None], seen: Mapping[str, Kept | None] | None = None) -> None:
        """The annotation holds the user's value, too: a store that fails stops no write."""
        try:
            self._keep.write(changes, seen)
        except KubeError as error:
            self.counts.store_failed += 1
            _log.warning("ConfigMap %s/%s: %s", self._keep.namespace, self._keep.name, error)


def _older(one: Hpa, other: Hpa) -> bool:
    """By resourceVersion, where both are numbers as the API server's are."""
    return one.version.isdigit() and other.version.isdigit() and int(one.version) < int(other.version)


def _floor_of(action: Action) -> int | None:
    return action.floor if isinstance(action, Take | Step) else None


def _explained(said: Said) -> bool:
    return said.code in (Code.FLOOR_RAISED, Code.FLOOR_LOWERED, Code.FLOOR_TAKEN)


def _must(kept: Kept | None) -> Kept:
    assert kept is not None, "a take-over has a hold"
    return kept


def _action_name(verdict: Verdict | TargetVerdict) -> str:
    """`take`, `step`, `restore`, …; those of the target with its name."""
    name = type(verdict.action).__name__.lower()
    return f"target_{name}" if isinstance(verdict, TargetVerdict) else name


def _raises(verdict: TargetVerdict) -> bool:
    """Not where a Raise puts the user's own number back into a list that is somebody else's by now."""
    action = verdict.action
    return isinstance(action, RaiseTarget) and action.target > action.hold.users_own


def _would(verdict: Verdict | TargetVerdict) -> list[Said]:
    """What a dry run tells."""
    return [Said(one.code, f"would write: {one.note}" if one.code in _HAPPENED else one.note) for one in verdict.said]


# --- the process -----------------------------------------------------------------------------------------------------


class Process:
    """The threads around an Actuator."""

    def __init__(self, actuator: Actuator, kube: Kube, poll: service.Service, leadership: Leadership | None) -> None:
        self.actuator, self.leadership = actuator, leadership
        self._kube, self._poll = kube, poll
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> int:
        """Until it is told to stop (0), or loses the lease (1)."""
        threads = [("poll", self._poll_forever)]
        threads += [
            (f"watch {scope or 'all'}", watching.Watch(self._kube, scope, self.actuator.inbox.put, self._stop.wait).run)
            for scope in self.actuator.settings.scopes
        ]
        if self.leadership is not None:
            self.leadership.turn()
            threads.append(("lease", self._lead_forever))
        for name, work in threads:
            threading.Thread(target=work, name=name, daemon=True).start()
        lost = False
        while not self._stop.is_set() and not lost:
            self._turn()
            lost = self.leadership is not None and self.leadership.lost
        if lost and self.leadership is not None:
            _log.error("the lease is lost (%s): this process ends", self.leadership.trouble)
        self._stop.set()
        self.actuator.close()
        if self.leadership is not None:
            self.leadership.release()  # nothing, where it is lost
        return int(lost)

    def _turn(self) -> None:
        """Waits for a message, takes all that are there, and acts on them."""
        try:
            self._handled(self.actuator.inbox.get(timeout=0.25))
            while True:
                self._handled(self.actuator.inbox.get_nowait())
        except queue.Empty:
            pass
        self.actuator.step()

    def _handled(self, message: Message) -> None:
        try:
            self.actuator.handle(message)
        except Exception:  # one message must not end the process: it would come again after the restart
            _log.exception("a message of kind %s", type(message).__name__)

    def _poll_forever(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.actuator.inbox.put(self._poll.poll(wait=failures == 0))
                failures, wait = 0, 0.1
                if self._poll.repeated and time.monotonic() - began < QUICK_POLL:
                    wait = SLOW_WAIT
            except Exception as error:  # a thread that ends would let every recommendation expire
                if not isinstance(error, ServiceError):
                    _log.exception("the service")
                failures += 1
                self.actuator.inbox.put(Unserved(str(error)))
                wait = min(30.0, 2.0 ** min(failures - 1, 5)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            self._stop.wait(wait)

    def _lead_forever(self) -> None:
        assert self.leadership is not None
        while not self._stop.wait(RETRY_SECONDS):
            before = self.leadership.may_write()
            self.leadership.turn()
            if self.leadership.may_write() and not before:
                _log.info("the lease is ours: writing")
