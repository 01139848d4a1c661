"""The raised CPU target of one HPA: pure functions of (state, recommendation, HPA, now); nothing here writes.

Experimental. A floor that outlives us costs replicas; a raised target that outlives us costs head-room. So it never
walks: whatever is in doubt gives the user's own value back at once, and only what the service says anew raises it.
`spec.metrics` is one atomic field, so raising one number takes the whole list: it has a field manager of its own, and
what becomes of it never touches the ownership of `minReplicas`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from serving.actuator.policy import (
    EDITS_WITHIN,
    Code,
    Hold,
    Hpa,
    Offer,
    Said,
    counting,
    mode_of,
    ownership_refusal,
    read_owners,
    read_users_own,
    write_owners,
)

MANAGER = "forecaster-target"
USERS_OWN = "forecaster.io/user-cpu-target"
OWNERS = "forecaster.io/metrics-owner"

MOST = 90  # per cent, whatever is recommended
VALIDITY = 300.0  # seconds; a longer validity of the recommendation does not prolong it
AGAIN_AFTER = 300.0  # seconds from a give-back until it may be raised again: each turn is a turn of the HPA's mind
FLOOR_WITHIN = 30.0  # seconds in which a floor that rises may lag behind what is recommended
_UNKNOWN = 50  # per cent, where annotation and store are lost: too low costs replicas, too high availability


@dataclass(frozen=True, slots=True)
class TargetState:
    """All that is remembered of one HPA's target. `Hold.users_own` is per cent here."""

    uid: str
    hold: Hold | None = None
    grace_until: float = -math.inf  # after a start: until then silence is no doubt
    short_since: float | None = None  # since when the floor lags behind
    edits: tuple[float, ...] = ()
    aside: str | None = None
    guessed: bool = False  # the user's own target is not known any more
    wrote: int | None = None  # what we wrote last, per cent, while it may stand
    left_in: bool = False  # that number stands in a list that is known to be somebody else's
    not_before: float = -math.inf  # when it may be raised again


@dataclass(frozen=True, slots=True)
class Raise:
    """The target becomes `target`. `force`: it may be taken over from the owners that stand in the HPA now."""

    target: int
    hold: Hold
    force: bool


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The user's target, and the field, go back to where they came from."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Drop:
    """The field is no longer ours: only our annotations are left to remove."""


TargetAction = Raise | GiveBack | Drop


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """What to do; `after` is known once it is done."""

    state: TargetState
    after: TargetState
    action: TargetAction | None = None
    said: tuple[Said, ...] = ()


def recognise(
    hpa: Hpa,
    kept: Hold | None = None,
    grace_until: float = -math.inf,
    wrote: int | None = None,
    aside: str | None = None,
) -> TargetState:
    """The state of an HPA that is seen for the first time. The annotations count first, then the store.

    `kept`, `wrote` and `aside` are what the store says. Somebody may have edited another metric while nobody looked:
    then the list is not ours any more, and our number still stands in it.
    """
    told, state = hpa.target, TargetState(hpa.uid, aside=aside)
    if not told.ours:
        if kept is not None and wrote is not None and told.value == wrote != kept.users_own:
            return replace(state, hold=kept, wrote=wrote)
        return state
    state = replace(state, grace_until=grace_until, wrote=told.value)
    own, former = read_users_own(told.users_own), read_owners(told.former)
    if own is not None:
        if former is None:
            former = () if kept is None else kept.former
        return replace(state, hold=Hold(own, former))
    if kept is not None:
        return replace(state, hold=kept)
    own = _UNKNOWN if told.value is None else min(_UNKNOWN, told.value)
    return replace(state, hold=Hold(own, former or ()), guessed=True)


def users_own(hpa: Hpa) -> int | None:
    """The user's own target, per cent, also while we hold it; None where no metric asks for one."""
    hold = recognise(hpa).hold
    if hpa.target.value is None or hold is None or hpa.target.owners:
        return hpa.target.value
    return hold.users_own


def decide(state: TargetState, offer: Offer | None, hpa: Hpa, now: float) -> TargetVerdict:
    """What to do with the target of `hpa` at `now`. `state` must be of its uid (`recognise`)."""
    assert state.uid == hpa.uid, "the state of another object"
    said: list[Said] = []
    told = hpa.target
    if hpa.deleting:
        return TargetVerdict(state, state)
    if state.hold is None and told.ours and not told.owners:  # a write of ours whose answer never came
        found = recognise(hpa)
        state = replace(state, hold=found.hold, guessed=found.guessed, wrote=found.wrote)
    if state.hold is not None and state.guessed:
        note = f"annotation {USERS_OWN} and our store are lost: {state.hold.users_own} % is taken for the user's target"
        said.append(Said(Code.TARGET_UNKNOWN, note))
    state = _edited(state, hpa, now, said)
    state = _renewed(state, offer, hpa, now)
    state, doubt = _doubt(state, offer, hpa, now)
    if doubt is not None:
        return _back(state, hpa, doubt, said, now)
    counts = counting(offer, hpa, now, [])
    own = told.value if state.hold is None else state.hold.users_own
    if counts is None or counts.target is None or own is None or state.short_since is not None:
        return _verdict(state, None, said, now)  # as it stands, for a moment
    wanted = min(counts.target, MOST)
    if state.hold is not None and _ours(hpa):
        if wanted == told.value:
            return _verdict(state, None, said, now)
        said.append(Said(Code.TARGET_RAISED, f"CPU target {told.value} % → {wanted} %"))
        return _verdict(state, Raise(wanted, state.hold, force=False), said, now)
    refusal = why_not(hpa)
    if refusal is not None:
        said.append(refusal)
    if refusal is not None or now < state.not_before:
        return _verdict(state, Drop() if told.marked else None, said, now)
    said.append(Said(Code.TARGET_RAISED, f"CPU target {told.value} % → {wanted} %; the user's own {own} % is kept"))
    return _verdict(state, Raise(wanted, Hold(own, told.owners), force=bool(told.owners)), said, now)


def _ours(hpa: Hpa) -> bool:
    return hpa.target.ours and not hpa.target.owners


def _back(state: TargetState, hpa: Hpa, doubt: str, said: list[Said], now: float) -> TargetVerdict:
    """The user's own target must stand."""
    told = hpa.target
    if state.hold is None:
        if state.aside is not None:
            said.append(Said(Code.OWNED_BY_OTHER, doubt))
        return _verdict(state, Drop() if told.marked else None, said, now)
    note = f"{told.value} % → {state.hold.users_own} %, the user's own: {doubt}"
    said.append(Said(Code.TARGET_RESTORED, note))
    if _ours(hpa):
        return _verdict(state, GiveBack(state.hold), said, now)
    # The list is somebody else's by now, and our number is in it: it is put right first, and then given back to him.
    return _verdict(state, Raise(state.hold.users_own, Hold(state.hold.users_own, told.owners), force=True), said, now)


def _verdict(state: TargetState, action: TargetAction | None, said: list[Said], now: float) -> TargetVerdict:
    match action:
        case Raise(target=value, hold=hold):
            after = replace(state, hold=hold, wrote=value, left_in=False)
        case GiveBack() | Drop():
            after = replace(state, hold=None, short_since=None, guessed=False, wrote=None, grace_until=-math.inf)
        case _:
            after = state
    if isinstance(action, GiveBack):
        after = replace(after, not_before=now + AGAIN_AFTER)
    return TargetVerdict(state, after, action, tuple(said))


def _edited(state: TargetState, hpa: Hpa, now: float, said: list[Said]) -> TargetState:
    """Somebody wrote the metrics while they were ours: theirs are the user's, and a second time we step aside.

    Where our own number still stands in them, it was another metric that he wrote: the number is no word of his.
    """
    told = hpa.target
    if state.hold is None or _ours(hpa):
        return state
    left = state.wrote is not None and told.value == state.wrote != state.hold.users_own and why_not(hpa) is None
    if left and state.left_in and state.hold.former == told.owners:  # noticed before
        return state
    who = ", ".join(owner.manager for owner in told.owners) or "somebody"
    edits = (*(at for at in state.edits if now - at < EDITS_WITHIN), now)
    standing = "no CPU target" if told.value is None else f"CPU target {told.value} %"
    what = "another metric is the user's, our CPU target is not" if left else f"{standing} is the user's now"
    said.append(Said(Code.USER_EDIT, f"{who} wrote spec.metrics: {what}"))
    aside = state.aside
    if len(edits) > 1:
        aside = who
        minutes = f"{EDITS_WITHIN / 60:.0f} minutes"
        said.append(
            Said(Code.STEPPED_ASIDE, f"{who} wrote spec.metrics twice within {minutes}: left alone until mode is anew")
        )
    return replace(
        state,
        hold=Hold(state.hold.users_own, told.owners) if left else None,
        wrote=state.wrote if left else None,
        left_in=left,
        edits=edits,
        aside=aside,
        short_since=None,
        guessed=False,
        grace_until=-math.inf,
    )


def _renewed(state: TargetState, offer: Offer | None, hpa: Hpa, now: float) -> TargetState:
    """Consent that comes back is a new one."""
    offer = counting(offer, hpa, now, [])
    if offer is not None and mode_of(offer, hpa, []) != "apply":
        return replace(state, aside=None, edits=())
    return state


def _doubt(state: TargetState, offer: Offer | None, hpa: Hpa, now: float) -> tuple[TargetState, str | None]:
    """Why the user's own target must stand; None where a raised one may."""
    if state.aside is not None:
        return state, f"stepped aside for {state.aside}"
    if state.guessed:
        return state, "the user's own target is not known any more"
    found = counting(offer, hpa, now, [])
    if found is None:
        if (
            state.hold is not None
            and _ours(hpa)
            and now < state.grace_until
            and (offer is None or now >= offer.expires_at)
        ):
            return state, None
        return state, "no recommendation counts"
    if mode_of(found, hpa, []) != "apply" or found.paused:
        return state, "paused" if found.paused else "the mode is not apply"
    if found.floor is None or found.target is None:
        return state, "the service does not recommend another"
    if now >= found.target_until:
        return state, "the service has not said so for five minutes"
    own = hpa.target.value if state.hold is None else state.hold.users_own
    if hpa.target.value is None or own is None:
        return state, "no metric asks for a CPU utilization"
    if min(found.target, MOST) <= own:
        return state, "it is no lower than what is recommended"
    if hpa.min_replicas >= min(found.floor, hpa.max_replicas):
        return replace(state, short_since=None), None
    if state.hold is None or not _ours(hpa):
        return state, "the floor that replaces the head-room does not stand yet"
    since = now if state.short_since is None else state.short_since
    if now - since < FLOOR_WITHIN:  # it is about to be raised
        return replace(state, short_since=since), None
    return replace(state, short_since=since), "the floor that replaces the head-room does not stand"


def why_not(hpa: Hpa) -> Said | None:
    """Why the metrics of this HPA must not be taken over; None where they may."""
    if any(owner.api_version == "autoscaling/v1" for owner in hpa.target.owners):
        note = "its CPU target is owned through autoscaling/v1: apply a manifest of autoscaling/v2 once"
        return Said(Code.OWNED_BY_OTHER, note)
    return ownership_refusal(hpa, "spec.metrics", hpa.target.owners)


def marks_of(hold: Hold) -> dict[str, str]:
    return {USERS_OWN: str(hold.users_own), OWNERS: write_owners(hold.former)}
