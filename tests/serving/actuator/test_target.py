"""The raised CPU target: single decisions, a state machine of doubts, writes, and the whole actuator."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.actuator import hpas, keep, policy, target, target_writes, writes
from serving.actuator.keep import Keep, Kept
from serving.actuator.kube import Kind, Kube, KubeError
from serving.actuator.leader import Leadership
from serving.actuator.policy import EDITS_WITHIN, Code, CpuTarget, Hold, Hpa, Offer, Owner, Restore, Take
from serving.actuator.restoring import Restored, restore_all
from serving.actuator.run import Settings
from serving.actuator.target import Drop, GiveBack, Raise, TargetState, TargetVerdict, decide, recognise
from serving.hpa_reader import facts_of
from tests.apiserver import CONFIG_MAP, LEASE, FakeApiServer, cpu_metric
from tests.serving.actuator.conftest import Connect
from tests.serving.actuator.harness import NAME, OWN, FakeService, access, actuating, item, managed
from tests.serving.actuator.test_policy import FLUX, KEDA, KUBECTL
from tests.serving.actuator.test_writes import NOBODYS, ONE_SHOT, seen

V1 = Owner("kubectl-autoscale", "Update", "autoscaling/v1")
HPA = Hpa("shop", "checkout", "u1", "10", min_replicas=8, max_replicas=20, target=CpuTarget(70, (KUBECTL,)))
NEW = TargetState("u1")


def offer(raised: int | None = 85, **more: Any) -> Offer:
    told = {"hpa_uid": "u1", "mode": "apply", "floor": 8, "expires_at": 600.0, "target_until": 300.0, **more}
    return Offer("shop", "checkout", target=raised, **told)


def raised(hpa: Hpa, value: int = 85, own: int = 70, **more: Any) -> Hpa:
    marks = target.marks_of(Hold(own, (KUBECTL,)))
    told = CpuTarget(value, (), True, True, marks[target.USERS_OWN], marks[target.OWNERS])
    return dataclasses.replace(hpa, target=dataclasses.replace(told, **more))


def codes(verdict: TargetVerdict) -> set[Code]:
    return {one.code for one in verdict.said}


# --- decisions -------------------------------------------------------------------------------------------------------


def test_a_target_is_taken_stepped_and_given_back() -> None:
    first = decide(NEW, offer(), HPA, 0.0)
    assert first.action == Raise(85, Hold(70, (KUBECTL,)), force=True)
    assert first.state.hold is None and first.after.hold == Hold(70, (KUBECTL,))
    stands = raised(HPA)
    assert decide(first.after, offer(), stands, 1.0).action is None
    assert decide(first.after, offer(88), stands, 1.0).action == Raise(88, Hold(70, (KUBECTL,)), force=False)
    last = decide(first.after, offer(None), stands, 2.0)
    assert last.action == GiveBack(Hold(70, (KUBECTL,))) and last.after.hold is None
    assert codes(last) == {Code.TARGET_RESTORED}


@pytest.mark.parametrize(
    ("told", "hpa"),
    [
        (None, {}),
        (offer(expires_at=1.0), {}),
        (offer(target_until=1.0), {}),  # the floor may count for longer
        (offer(hpa_uid="u2"), {}),
        (offer(hpa_uid=None), {}),
        (offer(mode="recommend"), {}),
        (offer(paused=True), {}),
        (offer(floor=None), {}),
        (offer(None), {}),
        (offer(70), {}),
        (offer(floor=10_000), {}),
        (offer(), {"mode": "observe"}),
        (offer(), {"mode": "nonsense"}),
    ],
)
def test_whatever_is_in_doubt_gives_it_back_at_once_and_raises_nothing(told: Offer | None, hpa: dict[str, Any]) -> None:
    assert decide(NEW, told, dataclasses.replace(HPA, **hpa), 2.0).action is None
    stands = dataclasses.replace(raised(HPA), **hpa)
    assert decide(recognise(stands), told, stands, 2.0).action == GiveBack(Hold(70, (KUBECTL,)))


def test_never_above_ninety() -> None:
    made = decide(NEW, offer(100), HPA, 0.0)
    assert isinstance(made.action, Raise) and made.action.target == 90


def test_a_floor_that_does_not_stand_raises_nothing_and_takes_back_after_a_moment() -> None:
    low = dataclasses.replace(HPA, min_replicas=7)
    assert decide(NEW, offer(), low, 0.0).action is None
    stands = dataclasses.replace(raised(HPA), min_replicas=7)
    state = decide(recognise(stands), offer(), stands, 10.0)
    assert state.action is None
    assert decide(state.after, offer(), stands, 10.0 + target.FLOOR_WITHIN - 1).action is None
    assert isinstance(decide(state.after, offer(), stands, 10.0 + target.FLOOR_WITHIN).action, GiveBack)
    whole = decide(state.after, offer(), raised(HPA), 20.0)
    assert whole.action is None and whole.state.short_since is None
    most = dataclasses.replace(HPA, min_replicas=20)
    assert isinstance(decide(NEW, offer(floor=30), most, 0.0).action, Raise)  # the HPA allows no more


def test_after_a_start_silence_is_no_doubt_for_a_moment() -> None:
    stands = raised(HPA)
    state = recognise(stands, grace_until=60.0)
    assert decide(state, None, stands, 59.0).action is None
    assert decide(state, offer(None), stands, 1.0).action is not None  # that is a word
    assert isinstance(decide(state, None, stands, 60.0).action, GiveBack)


@pytest.mark.parametrize("owner", [FLUX, KEDA, V1])
def test_owners_that_come_back_keep_their_metrics(owner: Owner) -> None:
    made = decide(NEW, offer(), dataclasses.replace(HPA, target=CpuTarget(70, (owner,))), 0.0)
    assert made.action is None and codes(made) == {Code.OWNED_BY_OTHER}


def test_an_hpa_without_a_cpu_target_is_left_alone() -> None:
    assert decide(NEW, offer(), dataclasses.replace(HPA, target=CpuTarget(None, (KUBECTL,))), 0.0).action is None


def test_an_edit_has_the_last_word_and_a_second_one_ends_it() -> None:
    stands = raised(HPA)
    edited = raised(HPA, 75, owners=(KUBECTL,), ours=False)
    told = offer(expires_at=2000.0, target_until=2000.0)
    first = decide(recognise(stands), told, edited, 0.0)
    assert first.action == Raise(85, Hold(75, (KUBECTL,)), force=True) and Code.USER_EDIT in codes(first)
    second = decide(first.after, told, edited, EDITS_WITHIN - 1)
    assert isinstance(second.action, Drop) and Code.STEPPED_ASIDE in codes(second)
    left = dataclasses.replace(HPA, target=CpuTarget(75, (KUBECTL,)))
    assert decide(second.after, told, left, EDITS_WITHIN).action is None
    renewed = decide(second.after, dataclasses.replace(told, mode="recommend"), left, EDITS_WITHIN)
    assert isinstance(decide(renewed.state, told, left, EDITS_WITHIN).action, Raise)


def test_where_all_memory_is_lost_it_says_so_and_errs_towards_replicas() -> None:
    stands = raised(HPA, users_own=None, former=None)
    made = decide(recognise(stands), offer(), stands, 0.0)
    assert Code.TARGET_UNKNOWN in codes(made)
    back = decide(recognise(stands), None, stands, 0.0)
    assert back.action == GiveBack(Hold(50, ()))
    kept = recognise(stands, Hold(65, (KUBECTL,)))
    assert decide(kept, None, stands, 0.0).action == GiveBack(Hold(65, (KUBECTL,)))
    assert not decide(kept, offer(), stands, 0.0).said


def test_the_service_sees_the_users_own_target() -> None:
    told = facts_of(dataclasses.replace(raised(HPA), target_ratio=0.85))
    assert (told.cpu_target, told.target_ratio) == (70, 0.7)
    told = facts_of(dataclasses.replace(HPA, target_ratio=0.7))
    assert (told.cpu_target, told.target_ratio) == (70, 0.7)


class Doubts(RuleBasedStateMachine):
    """Offers come and go, floors move, people edit, the actuator restarts; writes succeed or fail."""

    @initialize()
    def begin(self) -> None:
        self.now, self.own = 0.0, 70
        self.hpa, self.state = HPA, NEW
        self.offer: Offer | None = None
        self.failing = False

    def act(self) -> None:
        made = decide(self.state, self.offer, self.hpa, self.now)
        self.state = made.state
        if made.action is None or self.failing:
            return
        self.state = made.after
        match made.action:
            case Raise(target=value, hold=hold):
                assert hold.users_own == self.own
                self.hpa = raised(self.hpa, value, hold.users_own)
            case GiveBack(hold=hold):
                assert hold == Hold(self.own, (KUBECTL,))
                self.hpa = dataclasses.replace(self.hpa, target=CpuTarget(hold.users_own, hold.former))
            case Drop():
                told = dataclasses.replace(self.hpa.target, marked=False, users_own=None, former=None)
                self.hpa = dataclasses.replace(self.hpa, target=told)

    @rule(
        value=st.sampled_from([None, 60, 80, 95]),
        mode=st.sampled_from(["apply", "recommend"]),
        floor=st.integers(1, 12),
    )
    def recommend(self, value: int | None, mode: str, floor: int) -> None:
        until = self.now + target.VALIDITY
        self.offer = offer(value, mode=mode, floor=floor, expires_at=self.now + 900, target_until=until)
        self.act()

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.act()

    @rule(floor=st.integers(1, 12))
    def floor_moves(self, floor: int) -> None:
        self.hpa = dataclasses.replace(self.hpa, min_replicas=floor)
        self.act()

    @rule(value=st.sampled_from([50, 65, 75]))
    def edit(self, value: int) -> None:
        self.own = value
        told = dataclasses.replace(self.hpa.target, value=value, owners=(KUBECTL,), ours=False)
        self.hpa = dataclasses.replace(self.hpa, target=told)
        self.act()

    @rule()
    def edit_another_metric(self) -> None:
        told = dataclasses.replace(self.hpa.target, owners=(KUBECTL,), ours=False)
        self.hpa = dataclasses.replace(self.hpa, target=told)
        self.act()

    @rule()
    def restart(self) -> None:
        kept = self.state.hold  # the store is written before the HPA, and after it
        self.state = recognise(self.hpa, kept, self.now + 60.0, self.state.wrote, self.state.aside)
        self.act()

    @rule(failing=st.booleans())
    def writes_fail(self, failing: bool) -> None:
        self.failing = failing
        self.act()

    @invariant()
    def what_stands_is_the_users_or_sheltered(self) -> None:
        if not hasattr(self, "hpa") or self.failing:
            return
        told = self.hpa.target
        if told.value == self.own:  # also while it is about to be given back
            return
        assert told.ours and told.value is not None and self.own < told.value <= target.MOST
        assert told.users_own == str(self.own) and self.state.aside is None
        if self.now >= self.state.grace_until:
            assert self.offer is not None and self.now < self.offer.target_until and self.offer.mode == "apply"
            assert self.offer.target is not None and self.offer.floor is not None
            short = self.hpa.min_replicas < self.offer.floor
            assert not short or self.now - (self.state.short_since or 0.0) < target.FLOOR_WITHIN


TestDoubts = Doubts.TestCase
TestDoubts.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- writes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kube(connect: Connect) -> Kube:
    return connect(may_write=lambda: True)


def taken(kube: Kube, server: FakeApiServer, value: int = 85) -> tuple[Hpa, Hold]:
    hpa = seen(server)
    assert hpa.target.value is not None
    hold = Hold(hpa.target.value, hpa.target.owners)
    return target_writes.perform(kube, hpa, Raise(value, hold, force=bool(hold.former))), hold


def cpu_of(server: FakeApiServer, name: str = "cart") -> int:
    told = hpas.cpu_metric(server.get("shop", name)["spec"]["metrics"])
    assert told is not None
    return int(told["averageUtilization"])


@pytest.mark.parametrize("owner", [one for one in ONE_SHOT | NOBODYS if one != "kubectl autoscale"])
def test_the_whole_way_for_each_owner(server: FakeApiServer, kube: Kube, owner: str) -> None:
    (ONE_SHOT | NOBODYS)[owner](server)
    before, spec = managed(server, "cart"), server.get("shop", "cart")["spec"]
    if owner in NOBODYS:  # the HPA's metrics are stated by an owner that comes back
        refusal = target.why_not(seen(server))
        assert refusal is not None and refusal.code is Code.OWNED_BY_OTHER
        return
    hpa, hold = taken(kube, server)
    assert (hpa.target.value, hpa.target.ours, hpa.target.owners) == (85, True, ())
    floors_hold = Hold(hpa.min_replicas, hpa.owners)
    floored = writes.perform(kube, hpa, Take(8, floors_hold, force=True))
    assert floored is not None
    assert target.users_own(floored) == 70
    hpa = target_writes.perform(kube, floored, Raise(88, hold, force=False))
    assert hpa.target.value == 88 and hpa.min_replicas == 8 and hpa.ours
    assert {one.query["fieldManager"] for one in server.writes("actuator")} == {"forecaster-actuator", target.MANAGER}
    done = target_writes.perform(kube, hpa, GiveBack(hold))
    assert (done.target.value, done.target.marked, done.target.owners) == (70, False, hold.former)
    assert done.min_replicas == 8 and done.ours
    restored = writes.perform(kube, done, Restore(floors_hold))
    assert restored is not None and not restored.marked
    assert server.get("shop", "cart")["spec"] == spec
    assert sorted(map(json.dumps, managed(server, "cart"))) == sorted(map(json.dumps, before))
    assert not (server.get("shop", "cart")["metadata"].get("annotations") or {})


MEMORY = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}
RPS = {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}}


def with_metrics(server: FakeApiServer, *more: Any) -> None:
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    server.create_hpa(
        "shop", "cart", min_replicas=3, max_replicas=20, manager="kubectl-client-side-apply", metrics=[*more, cpu]
    )


def test_other_metrics_stay_as_they_are(server: FakeApiServer, kube: Kube) -> None:
    with_metrics(server, MEMORY, RPS)
    before = server.get("shop", "cart")["spec"]["metrics"]
    hpa, hold = taken(kube, server)
    assert server.get("shop", "cart")["spec"]["metrics"][:2] == before[:2] and cpu_of(server) == 85
    target_writes.perform(kube, hpa, GiveBack(hold))
    assert server.get("shop", "cart")["spec"]["metrics"] == before


def test_a_metric_that_somebody_adds_in_between_is_not_lost(server: FakeApiServer, kube: Kube) -> None:
    with_metrics(server)
    cpu = server.get("shop", "cart")["spec"]["metrics"]
    server.on_next_write(
        lambda old, new: server.patch_as("kubectl-edit", "shop", "cart", {"spec": {"metrics": [*cpu, RPS]}}),
        lambda one: one.query.get("fieldManager") == target.MANAGER,
    )
    with pytest.raises(writes.Changed):
        taken(kube, server)
    assert len(server.get("shop", "cart")["spec"]["metrics"]) == 2 and cpu_of(server) == 70
    hpa, hold = taken(kube, server)
    server.patch_as("kubectl-edit", "shop", "cart", {"spec": {"metrics": cpu}})
    with pytest.raises(writes.Changed) as changed:
        target_writes.perform(kube, hpa, GiveBack(hold))
    assert cpu_of(server) == 70
    left = target_writes.perform(kube, changed.value.hpa, Drop())
    assert not left.target.marked and [one.manager for one in left.target.owners] == ["kubectl-edit"]


def test_status_writes_in_between_cost_another_try(server: FakeApiServer, kube: Kube) -> None:
    with_metrics(server)
    server.on_next_write(
        lambda old, new: server.write_status("shop", "cart", 3, 3),
        lambda one: one.query.get("fieldManager") == target.MANAGER,
    )
    assert taken(kube, server)[0].target.value == 85


def test_it_is_not_forced_without_leave(server: FakeApiServer, kube: Kube) -> None:
    with_metrics(server)
    hpa = seen(server)
    with pytest.raises(KubeError) as refused:
        target_writes.perform(kube, hpa, Raise(85, Hold(70, ()), force=False))
    assert refused.value.kind is Kind.FIELD_CONFLICT and cpu_of(server) == 70


def test_the_store_holds_both_and_reads_what_was_written_before() -> None:
    both = Kept("u", Hold(3, (KUBECTL,)), "somebody", Hold(70, (KUBECTL,)))
    assert keep.read(keep.write(both)) == both
    assert keep.read('{"uid": "u", "userMinReplicas": 3, "owners": "nobody"}') == Kept("u", Hold(3, ()))
    assert keep.read('{"uid": "u", "userCpuTarget": "x", "metricsOwners": "nobody"}') is None


# --- the whole actuator ----------------------------------------------------------------------------------------------


def test_it_is_raised_beside_the_floor_and_given_back_exactly(server: FakeApiServer, service: FakeService) -> None:
    before, spec = managed(server), server.get("shop", "checkout")["spec"]
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        assert running.minimum() == 8
        running.settles(lambda: '"userCpuTarget":70' in server.get(OWN, NAME, CONFIG_MAP)["data"]["shop_checkout"])
        running.settles(
            lambda: 'forecaster_actuator_cpu_target_percent{namespace="shop",hpa="checkout"} 85' in running.metrics()
        )
        service.recommend(item(server, 12, raisedTarget=85))
        running.settles(lambda: running.minimum() == 12)
        running.turns()
        assert cpu_of(server, "checkout") == 85  # a floor that rises is no doubt
        service.recommend(item(server, 12))
        running.settles(lambda: cpu_of(server, "checkout") == 70)
        assert running.minimum() == 12
        service.recommend(item(server, 12, mode="recommend"))
        running.settles(lambda: managed(server) == before)
        assert server.get("shop", "checkout")["spec"] == spec
        running.settles(lambda: not server.get(OWN, NAME, CONFIG_MAP).get("data"))
        running.settles(lambda: running.reasons() >= {"TargetRaised", "TargetRestored", "FloorTaken", "Restored"})


def test_it_ends_five_minutes_after_the_last_word(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85, validForSeconds=3600.0))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        service.dead = True
        service.wake()
        running.clock.ahead += 290.0
        running.turns()
        assert cpu_of(server, "checkout") == 85
        running.clock.ahead += 15.0
        running.settles(lambda: cpu_of(server, "checkout") == 70)
        assert running.minimum() == 8  # the floor counts for an hour


def test_a_restart_goes_on_with_it_and_the_word_of_the_next_one_counts(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
    with actuating(server, service, me="two") as running:
        running.settles(lambda: running.actuator.turns > 3 and running.actuator._leading)
        running.turns()
        assert cpu_of(server, "checkout") == 85
        service.recommend(item(server, 8))
        running.settles(lambda: cpu_of(server, "checkout") == 70)


def test_annotations_that_somebody_wipes_are_known_from_the_store(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        running.settles(lambda: "shop_checkout" in server.get(OWN, NAME, CONFIG_MAP)["data"])
    wiped = {"metadata": {"annotations": {target.USERS_OWN: None, target.OWNERS: None}}}
    server.patch_as("kubectl-annotate", "shop", "checkout", wiped)
    with actuating(server, service, me="two") as running:
        service.recommend(item(server, 8))
        running.settles(lambda: cpu_of(server, "checkout") == 70)
        owner = ("kubectl-client-side-apply", "Update")
        running.settles(lambda: server.owners("shop", "checkout", "spec.metrics") == [owner])


def test_a_dry_run_says_and_writes_nothing(
    server: FakeApiServer, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.patch_as("kubectl-client-side-apply", "shop", "checkout", {"spec": {"minReplicas": 8}})
    with actuating(server, service, Settings(apply=False)) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: "would write: CPU target 70 % → 85 %" in caplog.text)
        running.turns()
    assert not [one for one in server.requests if one.method != "GET"]
    assert caplog.text.count("would write") == 1


def test_a_steady_target_costs_no_request(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85 and "TargetRaised" in running.reasons())
        running.settles(lambda: bool(server.watches))
        running.turns()
        before = len([one for one in server.requests if "lease" not in one.path])
        for _ in range(3):
            service.recommend(item(server, 8, raisedTarget=85))
            server.write_status("shop", "checkout", 8, 8)
            running.turns()
        after = [(one.method, one.path, str(one.query)) for one in server.requests if "lease" not in one.path]
        assert len(after) == before, after


def restored(server: FakeApiServer, only_targets: bool) -> list[Restored]:
    kube = Kube(access(server))
    leadership = Leadership(kube, OWN, NAME, "restore")
    kube.may_write = leadership.may_write
    try:
        return restore_all(kube, Keep(kube, OWN, NAME), leadership, (None,), lambda _: None, only_targets)
    finally:
        kube.close()


@pytest.mark.parametrize("only_targets", [True, False])
def test_the_restore_job_gives_it_back(server: FakeApiServer, service: FakeService, only_targets: bool) -> None:
    before = managed(server)
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
    (one,) = restored(server, only_targets)
    assert (one.target_before, one.target_after, one.error) == (85, 70, "")
    assert (one.before, one.after) == (8, 8 if only_targets else 3)
    assert cpu_of(server, "checkout") == 70
    assert (managed(server) == before) is not only_targets
    data = server.get(OWN, NAME, CONFIG_MAP).get("data") or {}
    assert ("userMinReplicas" in data.get("shop_checkout", "")) is only_targets
    assert not restored(server, True)


@pytest.mark.parametrize("value", ["85", 0, 101, 85.5, True, -3])
def test_a_malformed_target_is_not_believed(server: FakeApiServer, service: FakeService, value: Any) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=value))
        running.settles(lambda: "Malformed" in running.reasons())
        assert cpu_of(server, "checkout") == 70 and running.minimum() == 3


# --- what a review found ---------------------------------------------------------------------------------------------


def test_the_floor_does_not_wait_for_an_hpa_that_wants_less_by_a_raised_target() -> None:
    """The service tells what the load needs at the user's own target; the HPA aims at ours."""
    hpa = dataclasses.replace(
        HPA, min_replicas=8, ours=True, owners=(), marked=True, users_own="3", former="nobody", current_replicas=8,
        desired_replicas=8, grows_alone=True,
    )  # fmt: skip
    told = dataclasses.replace(offer(floor=10), reactive=12)
    state, rules = policy.recognise(hpa), policy.Rules()
    assert isinstance(policy.decide(state, told, hpa, 0.0, rules).action, policy.Nothing)  # the HPA goes to 12 itself
    taken = dataclasses.replace(hpa, target=raised(HPA, 80, 50).target)  # 12 at 50 % are 8 at 80 %
    assert policy.decide(state, told, taken, 0.0, rules).action == policy.Step(10, Hold(3, ()))


def test_an_edit_of_another_metric_makes_our_number_nobodys_word() -> None:
    state = dataclasses.replace(recognise(raised(HPA)), wrote=85)
    edited = raised(HPA, 85, owners=(KUBECTL,), ours=False)
    first = decide(state, offer(), edited, 0.0)
    assert first.action == Raise(85, Hold(70, (KUBECTL,)), force=True) and Code.USER_EDIT in codes(first)
    again = decide(first.state, offer(), edited, 1.0)  # the write is late: that is no second edit
    assert again.action == first.action and Code.USER_EDIT not in codes(again)
    put_right = decide(first.state, offer(None), edited, 1.0)
    assert put_right.action == Raise(70, Hold(70, (KUBECTL,)), force=True)
    stands = raised(HPA, 70, 70)
    assert decide(put_right.after, offer(None), stands, 2.0).action == GiveBack(Hold(70, (KUBECTL,)))
    flux = decide(state, offer(), raised(HPA, 85, owners=(FLUX,), ours=False), 0.0)
    assert flux.after.hold is None  # who comes back states it on purpose
    seen_later = recognise(edited, Hold(70, (KUBECTL,)), wrote=85)
    assert decide(seen_later, offer(None), edited, 0.0).action == put_right.action


def test_an_offer_that_has_expired_raises_nothing_in_the_grace_of_a_start() -> None:
    stands = raised(HPA)
    state = recognise(stands, grace_until=60.0)
    told = offer(95, mode="recommend", expires_at=40.0, target_until=40.0)
    back = decide(state, told, stands, 1.0)
    assert isinstance(back.action, GiveBack)
    assert decide(back.after, told, HPA, 41.0).action is None
    assert decide(state, dataclasses.replace(told, mode="apply"), stands, 41.0).action is None  # as it stands


def test_after_a_give_back_it_is_not_raised_at_once() -> None:
    back = decide(recognise(raised(HPA)), offer(None), raised(HPA), 0.0)
    told = offer(expires_at=2000.0, target_until=2000.0)
    assert decide(back.after, told, HPA, target.AGAIN_AFTER - 1).action is None
    assert isinstance(decide(back.after, told, HPA, target.AGAIN_AFTER).action, Raise)


@pytest.mark.parametrize("name", [target.USERS_OWN, target.OWNERS])
def test_an_annotation_that_somebody_wrote_does_not_hold_it_up(server: FakeApiServer, kube: Kube, name: str) -> None:
    with_metrics(server)
    _, hold = taken(kube, server)
    server.patch_as("kubectl-annotate", "shop", "cart", {"metadata": {"annotations": {name: "60"}}})
    assert target_writes.perform(kube, seen(server), Raise(88, hold, force=False)).target.value == 88
    done = target_writes.perform(kube, seen(server), GiveBack(hold))
    assert (done.target.value, done.target.marked) == (70, False)


def test_annotations_are_not_dropped_while_the_metrics_are_ours_alone(server: FakeApiServer, kube: Kube) -> None:
    with_metrics(server)
    hpa, _ = taken(kube, server, 65)
    stale = dataclasses.replace(hpa, target=dataclasses.replace(hpa.target, ours=False))
    with pytest.raises(writes.Changed):
        target_writes.perform(kube, stale, Drop())
    assert cpu_of(server) == 65


def edit_another_metric(server: FakeApiServer) -> None:
    metrics = server.get("shop", "checkout")["spec"]["metrics"]
    server.patch_as("kubectl-edit", "shop", "checkout", {"spec": {"metrics": [*metrics, MEMORY]}})


@pytest.mark.parametrize("away", [False, True], ids=["seen", "while the actuator was away"])
def test_a_metric_that_somebody_adds_stays_and_our_number_goes(
    server: FakeApiServer, service: FakeService, away: bool
) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        running.settles(lambda: '"cpuTarget":85' in server.get(OWN, NAME, CONFIG_MAP)["data"]["shop_checkout"])
        if not away:
            edit_another_metric(server)
            running.settles(lambda: "UserEdit" in running.reasons())
    if away:
        edit_another_metric(server)
    with actuating(server, service, me="two") as running:
        service.recommend(item(server, 8))
        owner = ("kubectl-edit", "Update")
        running.settles(lambda: server.owners("shop", "checkout", "spec.metrics") == [owner])
        running.settles(lambda: cpu_of(server, "checkout") == 70)
        assert server.get("shop", "checkout")["spec"]["metrics"][1] == MEMORY


def test_head_room_is_given_back_before_replicas(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        running.turns()
        before = len(server.writes("actuator"))
        service.recommend(item(server, 8, mode="recommend"))
        running.settles(lambda: running.minimum() == 3)
        managers = [
            one.query["fieldManager"] for one in server.writes("actuator")[before:] if "fieldManager" in one.query
        ]
        assert managers.index(target.MANAGER) < managers.index("forecaster-actuator")


def test_that_we_stepped_aside_is_known_after_a_restart(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        for value in (60, 61):
            service.recommend(item(server, 8, raisedTarget=85))
            running.settles(lambda: cpu_of(server, "checkout") == 85)
            running.turns()
            server.patch_as("kubectl-edit", "shop", "checkout", {"spec": {"metrics": [cpu_metric(value)]}})
            running.settles(lambda: "UserEdit" in running.reasons())
        running.settles(lambda: "SteppedAside" in running.reasons())
        running.settles(lambda: "targetAside" in server.get(OWN, NAME, CONFIG_MAP)["data"].get("shop_checkout", ""))
    with actuating(server, service, me="two") as running:
        service.recommend(item(server, 9, raisedTarget=85))
        running.settles(lambda: running.minimum() == 9)
        running.turns(5)
        assert cpu_of(server, "checkout") == 61


def test_a_service_that_has_just_started_says_nothing(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
        asked = service.asked
        service.body = b'{"items": [], "next": null, "madeAt": null}'
        service.wake()
        running.settles(lambda: service.asked > asked + 1 and "the service" in running.actuator.trouble)
        running.turns()
        assert cpu_of(server, "checkout") == 85 and running.minimum() == 8


def test_the_job_for_targets_does_not_look_alive_where_there_is_none(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)
    before = server.get(OWN, NAME, LEASE)
    assert restored(server, only_targets=True) == []
    assert server.get(OWN, NAME, LEASE) == before


def test_a_raise_that_is_refused_does_not_hold_up_the_give_back(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)

        def refuse(kind: Any, body: dict[str, Any]) -> str | None:
            told = hpas.cpu_metric(body.get("spec", {}).get("metrics"))
            return "no more than 85 %" if told is not None and told["averageUtilization"] > 85 else None

        server.store.policies.append(refuse)
        service.recommend(item(server, 8, raisedTarget=90))
        running.settles(lambda: "WriteFailed" in running.reasons())
        service.recommend(item(server, 8))
        running.settles(lambda: cpu_of(server, "checkout") == 70, 5.0)  # the raise waits for ten seconds at least


def test_a_restore_that_stops_half_way_tells_what_stands(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8, raisedTarget=85))
        running.settles(lambda: cpu_of(server, "checkout") == 85)
    of_patches = lambda one: one.headers.get("content-type") == "application/json-patch+json"  # noqa: E731
    server.fail_next(of_patches, 500, times=None)  # the number is right by then
    (one,) = restored(server, only_targets=True)
    assert one.error and (one.target_before, one.target_after) == (85, 70)
