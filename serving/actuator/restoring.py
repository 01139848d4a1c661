"""`forecaster actuate --restore`: gives every HPA back, without the service and without a running actuator.

With --if-stale only when nobody renews the lease any more: a job on a schedule, for an actuator that is dead for ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from forecaster.errors import ClusterError
from serving.actuator import hpas, leader, target, target_writes, writes
from serving.actuator.keep import Keep
from serving.actuator.kube import Json, Kind, Kube, KubeError
from serving.actuator.leader import LEASE_SECONDS, RETRY_SECONDS, Leadership
from serving.actuator.policy import Code, Hpa, LetGo, Restore, recognise

ATTEMPTS = 5
DELETED = "deleted in the meantime"
T = TypeVar("T")
_log = logging.getLogger("forecaster.actuator")


@dataclass(frozen=True, slots=True)
class Restored:
    """One HPA that was ours, and what became of it."""

    key: str
    before: int  # minReplicas
    after: int
    error: str = ""
    target_before: int | None = None  # CPU target, per cent
    target_after: int | None = None


def alive(
    kube: Kube,
    namespace: str,
    name: str,
    stale_after: timedelta,
    sleep: Callable[[float], None] = time.sleep,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bool:
    """Whether an actuator renews the lease, or did so a short time ago. Raises KubeError.

    Watched for a little longer than the lease lasts: two clocks need not agree for that. `stale_after` on top of it
    lets an actuator restart; there the clocks count, and a difference only makes it earlier or later.
    """
    first = _lease(kube, namespace, name)
    if first is None:
        return False
    sleep(LEASE_SECONDS + RETRY_SECONDS)
    second = _lease(kube, namespace, name)
    if second is None:
        return False
    seen = [leader.observe(one, None, 0.0).version for one in (first, second)]
    if seen[0] != seen[1]:
        return True
    try:
        renewed = datetime.fromisoformat(str((second.get("spec") or {}).get("renewTime")))
        return wall() - renewed < stale_after
    except (ValueError, TypeError):
        return False


def _lease(kube: Kube, namespace: str, name: str) -> Json | None:
    try:
        return kube.get_lease(namespace, name)
    except KubeError as error:
        if error.kind is Kind.GONE:
            return None
        raise


def restore_all(
    kube: Kube,
    keep: Keep,
    leadership: Leadership,
    scopes: Sequence[str | None],
    sleep: Callable[[float], None] = time.sleep,
    only_targets: bool = False,
) -> list[Restored]:
    """Gives back every HPA that is ours, or only the CPU targets that we raised.

    Raises ClusterError where another actuator is writing. Where no target is raised, `only_targets` leaves the lease
    alone: who takes it looks alive to the job that gives floors back.
    """

    def listed() -> list[Hpa]:
        found = [hpa for scope in scopes for hpa in _trying(partial(_ours, kube, scope), sleep)]
        return [hpa for hpa in found if hpa.target.marked or not only_targets]

    if only_targets and not listed():
        return []
    waited = 0.0
    leadership.turn()
    while not leadership.may_write():
        if waited > LEASE_SECONDS + RETRY_SECONDS:
            who = leadership.holder or leadership.trouble or "another actuator"
            raise ClusterError(
                f"{who} holds the lease {leadership.namespace}/{leadership.name}: stop that actuator first, or pause"
            )
        sleep(RETRY_SECONDS)
        waited += RETRY_SECONDS
        leadership.turn()
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RETRY_SECONDS):
            leadership.turn()

    threading.Thread(target=renew, name="lease", daemon=True).start()
    try:
        try:
            _trying(keep.load, sleep)
        except KubeError as error:
            _log.warning("ConfigMap %s/%s: %s; the annotations must do", keep.namespace, keep.name, error)
        return [_restored(kube, keep, hpa, only_targets, sleep) for hpa in listed()]
    finally:
        ended.set()
        leadership.release()


def _trying(work: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """More than once, where the server may only be busy or starting. Raises KubeError."""
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except KubeError as error:
            if error.kind is Kind.GONE or attempt + 1 == ATTEMPTS:
                raise
            sleep(error.retry_after or 0.5 * 2**attempt)
    raise AssertionError("the last attempt raises")


def _ours(kube: Kube, scope: str | None) -> list[Hpa]:
    found: list[Hpa] = []
    more = ""
    while True:
        page = kube.list_hpas(scope, more)
        for item in page:
            try:
                hpa = hpas.parse(item)
            except ValueError as error:
                _log.warning("an HPA is left alone: %s", error)
                continue
            if (hpa.marked or hpa.target.marked) and not hpa.deleting:
                found.append(hpa)
        more = page.more
        if not more:
            return found


def _restored(kube: Kube, keep: Keep, hpa: Hpa, only_targets: bool, sleep: Callable[[float], None]) -> Restored:
    """The target first: it is head-room, the floor is replicas."""
    before, own = hpa.min_replicas, hpa.target.value
    done, text = hpa, ""
    if hpa.target.marked:
        done, text = _persistently(partial(_target_back, kube, keep), done, sleep)
        if text and text != DELETED:
            with contextlib.suppress(KubeError, ValueError):  # what the first of two writes did is told
                done = writes.read(kube, hpa)
    raised = (own, done.target.value) if hpa.target.marked else (None, None)
    if hpa.marked and not only_targets and text != DELETED:
        done, why = _persistently(partial(_floor_back, kube, keep), done, sleep)
        text = "; ".join(one for one in (text, why) if one)
    if not text:
        _forgotten(keep, done.key, only_targets)
    return Restored(hpa.key, before, done.min_replicas, text, *raised)


def _persistently(work: Callable[[Hpa], Hpa | None], hpa: Hpa, sleep: Callable[[float], None]) -> tuple[Hpa, str]:
    """(the HPA as it is now, what went wrong at the end). `work` gives None where nothing is left to do."""
    text = ""
    for attempt in range(ATTEMPTS):
        try:
            return work(hpa) or hpa, ""
        except writes.Changed as changed:
            hpa = changed.hpa
        except KubeError as error:
            if error.kind in (Kind.GONE, Kind.REPLACED):
                return hpa, DELETED
            text = str(error)
            if attempt + 1 < ATTEMPTS:
                sleep(error.retry_after or 0.5 * 2**attempt)
        except ValueError as error:  # the next HPA must not wait for ever
            text = f"the answer is no HPA: {error}"
    return hpa, text or "it changes all the time"


def _floor_back(kube: Kube, keep: Keep, hpa: Hpa) -> Hpa | None:
    if not hpa.marked:
        return None
    hold = recognise(hpa, keep.hold_of(hpa.key, hpa.uid)).hold if not hpa.owners else None
    return writes.perform(kube, hpa, LetGo() if hold is None else Restore(hold))


def _target_back(kube: Kube, keep: Keep, hpa: Hpa) -> Hpa | None:
    if not hpa.target.marked:
        return None
    kept = keep.of(hpa.key, hpa.uid)
    state = target.recognise(hpa, kept.target, wrote=kept.raised)
    verdict = target.decide(state, None, hpa, 0.0)  # without a recommendation the user's own must stand
    for said in verdict.said:
        if said.code is Code.TARGET_UNKNOWN:
            _log.warning("%s: %s", hpa.key, said.note)
    if verdict.action is None:
        return None
    done = target_writes.perform(kube, hpa, verdict.action)
    if isinstance(
        verdict.action, target.Raise
    ):  # put right in a list that is somebody else's: now it can be given back
        raise writes.Changed(done, "the number is right, and not given back yet")
    return done


def _forgotten(keep: Keep, key: str, only_target: bool) -> None:
    kept = keep.entries.get(key)
    kept = replace(kept, target=None, raised=None) if only_target and kept is not None else None
    if kept is not None and kept.empty:
        kept = None
    try:
        keep.write({key: kept})
    except KubeError as error:
        _log.warning("ConfigMap %s/%s: %s", keep.namespace, keep.name, error)
