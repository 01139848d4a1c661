"""The actuator's decisions: single cases, and a state machine of users, owners, outages and restarts."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.actuator.policy import (
    EDITS_WITHIN,
    Code,
    Hold,
    Hpa,
    HpaState,
    LetGo,
    Nothing,
    Offer,
    Owner,
    Raise,
    Restore,
    Rules,
    Step,
    Take,
    Verdict,
    allot,
    decide,
    marks_of,
    read_owners,
    read_users_own,
    recognise,
    write_owners,
)

KUBECTL = Owner("kubectl-client-side-apply", "Update", "autoscaling/v2")
HELM3 = Owner("helm", "Update", "autoscaling/v2")
AUTOSCALE = Owner("kubectl-autoscale", "Update", "autoscaling/v1")
HELM4 = Owner("helm", "Apply", "autoscaling/v2")
SSA = Owner("kubectl", "Apply", "autoscaling/v2")
FLUX = Owner("kustomize-controller", "Apply", "autoscaling/v2")
ARGO = Owner("argocd-controller", "Update", "autoscaling/v2")
KEDA = Owner("keda", "Update", "autoscaling/v2")
TERRAFORM = Owner("Terraform", "Update", "autoscaling/v2")
HPA = Hpa("shop", "checkout", "u1", "10", min_replicas=3, max_replicas=20, owners=(KUBECTL,))
RULES = Rules()


def offer(floor: int | None = 8, **more: object) -> Offer:
    told = {"hpa_uid": "u1", "mode": "apply", "expires_at": 300.0, **more}
    return Offer("shop", "checkout", floor=floor, **told)  # type: ignore[arg-type]


def held(hpa: Hpa, floor: int, users_own: int = 3, former: tuple[Owner, ...] = (KUBECTL,)) -> Hpa:
    marks = marks_of(Hold(users_own, former))
    return dataclasses.replace(
        hpa,
        min_replicas=floor,
        owners=(),
        ours=True,
        marked=True,
        users_own=marks["forecaster.io/user-min-replicas"],
        former=marks["forecaster.io/min-replicas-owner"],
    )


def codes(verdict: Verdict) -> set[Code]:
    return {one.code for one in verdict.said}


def test_a_floor_above_the_users_own_takes_the_field_and_keeps_what_was_there() -> None:
    verdict = decide(recognise(HPA), offer(), HPA, 0.0, RULES)
    assert verdict.action == Take(8, Hold(3, (KUBECTL,)), force=True)
    assert verdict.after.hold == Hold(3, (KUBECTL,))
    assert verdict.state.hold is None  # a write that fails leaves nothing behind


def test_nobodys_field_is_taken_without_force() -> None:
    hpa = dataclasses.replace(HPA, owners=(), min_replicas=1)
    assert decide(recognise(hpa), offer(), hpa, 0.0, RULES).action == Take(8, Hold(1, ()), force=False)


@pytest.mark.parametrize("floor", [1, 2, 3])
def test_a_floor_at_or_below_the_users_own_leaves_the_field_alone(floor: int) -> None:
    assert decide(recognise(HPA), offer(floor), HPA, 0.0, RULES).action == Nothing()


@pytest.mark.parametrize("owner", [KUBECTL, HELM3, AUTOSCALE, Owner("kubectl-edit", "Update", "autoscaling/v2")])
def test_one_shot_owners_may_be_taken_over(owner: Owner) -> None:
    hpa = dataclasses.replace(HPA, owners=(owner,))
    assert isinstance(decide(recognise(hpa), offer(), hpa, 0.0, RULES).action, Take)


@pytest.mark.parametrize("owner", [HELM4, SSA, FLUX, ARGO, KEDA, TERRAFORM, Owner("before-first-apply", "Apply", "v1")])
def test_owners_that_come_back_or_would_be_blocked_keep_the_field(owner: Owner) -> None:
    for owners in ((owner,), (KUBECTL, owner)):
        hpa = dataclasses.replace(HPA, owners=owners)
        verdict = decide(recognise(hpa), offer(), hpa, 0.0, RULES)
        assert verdict.action == Nothing()
        assert [one.code for one in verdict.said] == [Code.OWNED_BY_OTHER]
        assert owner.manager in verdict.said[0].note


def test_an_hpa_of_keda_is_left_alone_whoever_owns_the_field() -> None:
    hpa = dataclasses.replace(HPA, scaled_object="checkout")
    assert codes(decide(recognise(hpa), offer(), hpa, 0.0, RULES)) == {Code.OWNED_BY_OTHER}


def test_scale_to_zero_is_left_alone() -> None:
    hpa = dataclasses.replace(HPA, min_replicas=0)
    verdict = decide(recognise(hpa), offer(), hpa, 0.0, RULES)
    assert verdict.action == Nothing()
    assert codes(verdict) == {Code.HPA_INVALID}


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (offer(hpa_uid=None), Code.UID_UNKNOWN),
        (offer(hpa_uid="u0"), Code.UID_DIFFERS),
        (offer(201), Code.ABSURD_FLOOR),
        (offer(mode="aply"), Code.MODE_UNKNOWN),
    ],
)
def test_what_is_wrong_with_a_recommendation_is_said_and_nothing_written(one: Offer, code: Code) -> None:
    verdict = decide(recognise(HPA), one, HPA, 0.0, RULES)
    assert verdict.action == Nothing()
    assert code in codes(verdict)


def test_a_floor_above_the_maximum_is_cut_to_it() -> None:
    verdict = decide(recognise(HPA), offer(50), HPA, 0.0, RULES)
    assert isinstance(verdict.action, Take)
    assert verdict.action.floor == 20


def test_expired_or_cautious_recommendations_write_nothing() -> None:
    for one in (None, offer(expires_at=5.0), offer(mode="recommend"), offer(mode="observe"), offer(None)):
        assert decide(recognise(HPA), one, HPA, 5.0, RULES).action == Nothing()
    cautious = dataclasses.replace(HPA, mode="recommend")
    assert decide(recognise(cautious), offer(), cautious, 0.0, RULES).action == Nothing()


def test_an_annotation_cannot_be_bolder_than_the_configuration() -> None:
    bold = dataclasses.replace(HPA, mode="apply")
    assert decide(recognise(bold), offer(mode="recommend"), bold, 0.0, RULES).action == Nothing()


def test_steps_need_no_force_and_an_equal_floor_no_write() -> None:
    hpa = held(HPA, 8)
    state = recognise(hpa)
    assert decide(state, offer(10), hpa, 0.0, RULES).action == Step(10, Hold(3, (KUBECTL,)))
    assert decide(state, offer(5), hpa, 0.0, RULES).action == Step(5, Hold(3, (KUBECTL,)))
    assert decide(state, offer(8), hpa, 0.0, RULES).action == Nothing()
    assert decide(state, offer(2), hpa, 0.0, RULES).action == Step(3, Hold(3, (KUBECTL,)))  # never below the user's


def test_withdrawn_consent_and_pause_give_back_at_once() -> None:
    hpa = held(HPA, 12)
    for one in (offer(mode="recommend"), offer(None, paused=True), offer(12, paused=True)):
        assert decide(recognise(hpa), one, hpa, 0.0, RULES).action == Restore(Hold(3, (KUBECTL,)))
    annotated = dataclasses.replace(hpa, mode="observe")
    assert isinstance(decide(recognise(annotated), offer(), annotated, 0.0, RULES).action, Restore)


def test_the_walk_back_is_by_steps_and_ends_with_a_restore() -> None:
    hpa = held(HPA, 12)
    state, now, floors = recognise(hpa), 1000.0, []
    while True:
        verdict = decide(state, None, hpa, now, RULES)
        if isinstance(verdict.action, Restore):
            break
        if isinstance(verdict.action, Step):
            floors.append((now, verdict.action.floor))
            hpa = dataclasses.replace(hpa, min_replicas=verdict.action.floor)
        state, now = verdict.after, now + 1.0
    assert floors[0][0] == 1000.0
    assert [floor for _, floor in floors] == [10, 8, 7, 6, 5, 4, 3]
    assert {later[0] - earlier[0] for earlier, later in itertools.pairwise(floors)} == {60.0}


def test_nothing_moves_while_what_was_written_still_counts() -> None:
    hpa = held(HPA, 8)
    state = decide(recognise(hpa), offer(8, expires_at=300.0), hpa, 0.0, RULES).state
    for one in (None, offer(8, hpa_uid="u0"), offer(8, hpa_uid=None), offer(500)):
        assert decide(state, one, hpa, 299.0, RULES).action == Nothing()
        assert isinstance(decide(state, one, hpa, 300.0, RULES).action, Step)


def test_a_raise_waits_while_the_hpa_goes_further_by_itself() -> None:
    hpa = dataclasses.replace(held(HPA, 4), current_replicas=5, desired_replicas=6, grows_alone=True)
    state = recognise(hpa)
    ramp = offer(8, reactive=15)  # the load has overtaken the floor: the HPA's next pass gives 12
    first = decide(state, ramp, hpa, 0.0, RULES)
    assert first.action == Nothing()
    assert decide(first.state, ramp, hpa, 29.0, RULES).action == Nothing()
    assert decide(first.state, ramp, hpa, 30.0, RULES).action == Step(8, Hold(3, (KUBECTL,)))  # it did not move
    moved = dataclasses.replace(hpa, desired_replicas=12)
    assert decide(first.state, ramp, moved, 15.0, RULES).action == Step(8, Hold(3, (KUBECTL,)))  # jumped to no more
    for other in (
        dataclasses.replace(hpa, grows_alone=False),  # no metrics, or a slower scale-up of the user's
        dataclasses.replace(hpa, desired_replicas=8),
    ):
        assert isinstance(decide(state, ramp, other, 0.0, RULES).action, Step)
    unknown = dataclasses.replace(held(HPA, 1, users_own=1), grows_alone=True)  # what runs is not known: no 0
    assert isinstance(decide(recognise(unknown), offer(2, reactive=15), unknown, 0.0, RULES).action, Step)
    for one in (
        offer(8),
        offer(8, reactive=7),
        offer(13, reactive=15),
    ):  # ahead of the load, or of what one pass can do
        assert isinstance(decide(state, one, hpa, 0.0, RULES).action, Step)


def test_an_edit_by_hand_is_the_users_new_value_and_taken_over_once_more() -> None:
    before = recognise(held(HPA, 8))
    edited = dataclasses.replace(
        held(HPA, 8), min_replicas=5, ours=False, owners=(Owner("kubectl-edit", "Update", "v2"),)
    )
    verdict = decide(before, offer(9), edited, 100.0, RULES)
    assert codes(verdict) == {Code.USER_EDIT, Code.FLOOR_TAKEN}
    assert verdict.action == Take(9, Hold(5, edited.owners), force=True)


def test_a_second_edit_within_ten_minutes_is_the_last_word_until_the_consent_is_renewed() -> None:
    hand = Owner("kubectl-patch", "Update", "autoscaling/v2")
    hpa, state = held(HPA, 8), recognise(held(HPA, 8))
    edited = dataclasses.replace(hpa, min_replicas=4, ours=False, owners=(hand,))
    state = decide(state, offer(9), edited, 100.0, RULES).after
    again = dataclasses.replace(edited, min_replicas=5)
    verdict = decide(state, offer(9), again, 100.0 + EDITS_WITHIN - 1, RULES)
    assert Code.STEPPED_ASIDE in codes(verdict)
    assert verdict.action == LetGo()
    alone = dataclasses.replace(again, marked=False)
    assert decide(verdict.after, offer(9), alone, 5000.0, RULES).action == Nothing()
    later = offer(9, expires_at=9999.0)
    withdrawn = decide(verdict.after, dataclasses.replace(later, mode="recommend"), alone, 5001.0, RULES)
    assert isinstance(decide(withdrawn.after, later, alone, 5002.0, RULES).action, Take)


def test_a_second_edit_later_than_that_is_taken_over_again() -> None:
    hand = Owner("kubectl-patch", "Update", "autoscaling/v2")
    state = dataclasses.replace(recognise(held(HPA, 8)), edits=(0.0,))
    edited = dataclasses.replace(held(HPA, 8), min_replicas=5, ours=False, owners=(hand,))
    late = decide(state, offer(9, expires_at=9999.0), edited, EDITS_WITHIN, RULES)
    assert isinstance(late.action, Take)


def test_an_owner_that_states_our_very_value_gets_the_field() -> None:
    shared = dataclasses.replace(held(HPA, 8), owners=(FLUX,))
    verdict = decide(recognise(held(HPA, 8)), offer(9), shared, 0.0, RULES)
    assert verdict.action == LetGo()
    assert {Code.USER_EDIT, Code.OWNED_BY_OTHER} <= codes(verdict)


def test_a_deleting_hpa_is_left_alone() -> None:
    hpa = dataclasses.replace(held(HPA, 8), deleting=True)
    assert decide(recognise(hpa), offer(9), hpa, 0.0, RULES).action == Nothing()


def test_a_write_whose_answer_never_came_is_found_again() -> None:
    assert decide(HpaState("u1"), offer(8), held(HPA, 8), 0.0, RULES).state.hold == Hold(3, (KUBECTL,))


def test_after_a_restart_the_annotation_counts_then_the_store_then_what_stands() -> None:
    hpa = held(HPA, 8)
    kept = Hold(2, (HELM3,))
    assert recognise(hpa, kept).hold == Hold(3, (KUBECTL,))
    wiped = dataclasses.replace(hpa, users_own=None, former=None)
    assert recognise(wiped, kept).hold == kept
    assert recognise(wiped).hold == Hold(8, ())
    for text in ("-1", "3.0", "", "99999999999", "drei", "٣"):
        assert recognise(dataclasses.replace(hpa, users_own=text), kept).hold == kept
    assert recognise(HPA, kept).hold is None  # the field is not ours: what stands there is the user's


# --- all together ----------------------------------------------------------------------------------------------------

names = st.text("abcdefghijklmnopqrstuvwxyz-/.0123456789", min_size=1, max_size=20)
owner_values = st.builds(
    Owner,
    names.filter(lambda text: ", " not in text),
    st.sampled_from(["Apply", "Update"]),
    st.sampled_from(["autoscaling/v1", "autoscaling/v2"]),
)


@given(st.lists(owner_values, max_size=3))
def test_owners_survive_their_annotation(owners: list[Owner]) -> None:
    assert read_owners(write_owners(owners)) == tuple(owners)


@given(st.integers(0, 2**31 - 1))
def test_the_users_value_survives_its_annotation(value: int) -> None:
    assert read_users_own(str(value)) == value


raises = st.builds(
    lambda key, stands, more, current: Raise(key, stands, stands + more, current),
    st.integers(0, 999).map(str),
    st.integers(0, 50),
    st.integers(1, 50),
    st.none() | st.integers(0, 100),
)


@given(st.lists(raises, max_size=12, unique_by=lambda one: one.key), st.integers(0, 200), st.integers(0, 200))
def test_no_more_is_added_than_allowed_and_the_neediest_come_first(wishes: list[Raise], added: int, most: int) -> None:
    given_floors = allot(wishes, added, most)
    assert given_floors.keys() == {one.key for one in wishes}
    extra = sum(given_floors[one.key] - one.stands for one in wishes)
    assert extra <= max(0, most - added)
    for one in wishes:
        assert one.stands <= given_floors[one.key] <= one.wanted
    short = [one for one in wishes if given_floors[one.key] < one.wanted]
    if short:  # who got all that he wanted is at least as needy as who did not
        assert extra == max(0, most - added)
        neediest = max(one.wanted - (one.stands if one.current is None else one.current) for one in short)
        for one in wishes:
            if given_floors[one.key] == one.wanted:
                assert one.wanted - (one.stands if one.current is None else one.current) >= neediest


# --- a cluster with people in it -------------------------------------------------------------------------------------


class Cluster(RuleBasedStateMachine):
    """An HPA with owners and hands, a service that comes and goes, an actuator that decides, fails and restarts.

    The model of the API: an apply without force is refused where another manager holds the field with another value;
    with force it takes it; whoever writes the field otherwise becomes its one owner.
    """

    VALIDITY = 300.0

    @initialize(low=st.integers(1, 6), owner=st.sampled_from([None, KUBECTL, HELM3, AUTOSCALE, FLUX, HELM4, ARGO]))
    def begin(self, low: int, owner: Owner | None) -> None:
        self.now, self.serial = 1000.0, 1
        self.users_own = 1 if owner is None else low
        self.former: tuple[Owner, ...] = () if owner is None else (owner,)
        self.hpa = Hpa("shop", "checkout", "u1", "1", self.users_own, 20, owners=self.former)
        self.state = recognise(self.hpa)
        self.offer: Offer | None = None
        self.kept: Hold | None = None
        self.last_good = -math.inf  # until when a recommendation counted last
        self.failing, self.well_since = False, -math.inf

    # --- the world ---

    @rule(seconds=st.sampled_from([1.0, 15.0, 60.0, 61.0, 400.0, 1200.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds // 15))):  # the actuator looks at least every few seconds
            self.now += min(15.0, seconds)
            self.act()

    @rule(floor=st.integers(1, 30), mode=st.sampled_from(["apply", "apply", "apply", "recommend"]))
    def recommended(self, floor: int, mode: str) -> None:
        self.offer = offer(floor, hpa_uid=self.hpa.uid, mode=mode, expires_at=self.now + self.VALIDITY)

    @rule()
    def service_dies(self) -> None:
        self.offer = None

    @rule()
    def paused(self) -> None:
        self.offer = offer(None, hpa_uid=self.hpa.uid, paused=True, expires_at=self.now + self.VALIDITY)

    @rule(value=st.integers(1, 9), owner=st.sampled_from([KUBECTL, HELM3, AUTOSCALE, FLUX, ARGO]))
    def somebody_sets_it(self, value: int, owner: Owner) -> None:
        if value == self.hpa.min_replicas and owner.operation == "Update":
            return  # leaves no trace
        shared = value == self.hpa.min_replicas and self.hpa.ours
        self.users_own, self.former = value, (owner,)
        self.hpa = self.bump(min_replicas=value, owners=(owner,), ours=shared, max_replicas=max(20, value))

    @rule()
    def annotations_are_wiped(self) -> None:
        self.hpa = self.bump(users_own=None, former=None)

    @rule(low=st.integers(1, 6))
    def deleted_and_made_anew(self, low: int) -> None:
        self.serial += 1
        self.users_own, self.former = low, (KUBECTL,)
        self.hpa = Hpa("shop", "checkout", f"u{self.serial}", "1", low, 20, owners=(KUBECTL,))

    @rule(high=st.integers(10, 30))
    def maximum_changes(self, high: int) -> None:
        if high >= self.hpa.min_replicas:  # else the API server refuses it
            self.hpa = self.bump(max_replicas=high)

    @rule()
    def actuator_restarts(self) -> None:
        self.state = recognise(self.hpa, self.kept if self.state.uid == self.hpa.uid else None)

    @rule(failing=st.booleans())
    def api_server(self, failing: bool) -> None:
        if self.failing and not failing:
            self.well_since = self.now
        self.failing = failing

    def bump(self, **changes: object) -> Hpa:
        return dataclasses.replace(self.hpa, version=str(int(self.hpa.version) + 1), **changes)  # type: ignore[arg-type]

    # --- the actuator ---

    @rule()
    def act(self) -> None:
        if self.state.uid != self.hpa.uid:
            self.state, self.kept = recognise(self.hpa), None
        counts = (
            self.offer is not None
            and self.now < self.offer.expires_at
            and self.offer.hpa_uid == self.hpa.uid
            and self.offer.mode == "apply"
        )
        if counts:
            assert self.offer is not None
            self.last_good = self.offer.expires_at
        verdict = decide(self.state, self.offer, self.hpa, self.now, RULES)
        self.state = verdict.state
        action = verdict.action
        if isinstance(action, Nothing):
            return
        # I2: what raises rests on a recommendation that counts now, and only that.
        if isinstance(action, Take) or (isinstance(action, Step) and action.floor > self.hpa.min_replicas):
            assert counts, "a raise without a recommendation"
            assert self.offer is not None
            assert self.offer.floor is not None
            assert action.floor <= max(self.offer.floor, self.users_own)
        if self.failing:
            return
        self.perform(action)
        self.state = verdict.after

    def perform(self, action: object) -> None:
        match action:
            case Take(floor=floor, hold=hold, force=force):
                assert hold == Hold(self.users_own, self.former), "what is kept is not the user's"
                assert force == bool(self.hpa.owners)
                assert all(owner.one_shot for owner in self.hpa.owners), "taken from an owner that comes back"
                self.kept = hold
                self.write(floor, hold)
            case Step(floor=floor, hold=hold):
                assert self.hpa.ours
                assert not self.hpa.owners, "a step that would be refused"
                self.write(floor, hold)
            case Restore(hold=hold):
                assert self.hpa.ours
                self.kept = None
                self.hpa = self.bump(
                    min_replicas=hold.users_own,
                    owners=hold.former,
                    ours=False,
                    marked=False,
                    users_own=None,
                    former=None,
                )
            case LetGo():
                self.hpa = self.bump(
                    min_replicas=self.hpa.min_replicas, ours=False, marked=False, users_own=None, former=None
                )

    def write(self, floor: int, hold: Hold) -> None:
        marks = marks_of(hold)
        self.hpa = self.bump(
            min_replicas=floor,
            owners=(),
            ours=True,
            marked=True,
            users_own=marks["forecaster.io/user-min-replicas"],
            former=marks["forecaster.io/min-replicas-owner"],
        )

    # --- what holds at any time ---

    @invariant()
    def within_the_users_bounds(self) -> None:
        if not hasattr(self, "hpa"):
            return
        assert self.users_own <= self.hpa.min_replicas <= self.hpa.max_replicas  # I4

    @invariant()
    def the_users_value_comes_back_in_time(self) -> None:
        if not hasattr(self, "hpa") or self.failing:
            return
        # I3: the last step of a walk from 30 replicas by 20 % a minute comes after 14 minutes.
        if self.now > max(self.last_good, self.well_since) + 15 * 60.0 + 15.0 and (
            self.offer is None or self.now >= self.offer.expires_at
        ):
            self.act()
            assert self.hpa.min_replicas == self.users_own
            assert self.hpa.owners == self.former
            assert not self.hpa.marked


Cluster.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCluster = Cluster.TestCase
