"""The store of users' values: what is written is read again, and what is damaged is nothing."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.actuator.keep import Keep, Kept, read, write
from serving.actuator.kube import Kind, KubeError
from serving.actuator.policy import MOST_REPLICAS, Hold, Owner
from tests.apiserver import CONFIG_MAP, FakeApiServer
from tests.serving.actuator.conftest import Connect
from tests.serving.actuator.harness import NAME, OWN

MANAGERS = st.text("abcdefghijklmnopqrstuvwxyz-_/.0123456789", min_size=1, max_size=30)
OWNERS = st.builds(
    Owner, MANAGERS, st.sampled_from(["Apply", "Update"]), st.sampled_from(["autoscaling/v1", "autoscaling/v2"])
)
HOLDS = st.builds(Hold, st.integers(0, MOST_REPLICAS), st.lists(OWNERS, max_size=3).map(tuple))
ENTRIES = st.builds(Kept, st.text(min_size=1), st.none() | HOLDS, st.none() | st.text())


@given(ENTRIES)
def test_what_is_written_is_read_again(kept: Kept) -> None:
    assert read(write(kept)) == kept


@given(st.text() | st.sampled_from(["null", "[]", "7", '{"uid": 1, "userMinReplicas": -1, "owners": "nobody"}']))
def test_anything_else_is_nothing_or_harmless(text: str) -> None:
    kept = read(text)
    assert kept is None or kept.hold is None or kept.hold.users_own >= 0


def keep(connect: Connect, may_write: bool = True) -> Keep:
    return Keep(connect(may_write=lambda: may_write), OWN, NAME)


KEPT = Kept("u1", Hold(3, (Owner("helm", "Update", "autoscaling/v2"),)))


def test_entries_come_back_and_go(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect)
    one.load()
    one.write({"shop/checkout": KEPT, "shop/cart": Kept("u2", None, "kubectl-edit")})
    other = keep(connect)
    other.load()
    assert other.hold_of("shop/checkout", "u1") == KEPT.hold
    assert other.hold_of("shop/checkout", "u9") is None  # of another object under this name
    assert other.aside_of("shop/cart", "u2") == "kubectl-edit"
    other.write({"shop/checkout": None})
    assert set(server.get(OWN, NAME, CONFIG_MAP)["data"]) == {"shop_cart"}


def test_what_is_there_already_costs_no_request(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect)
    one.write({"shop/checkout": KEPT})
    seen = len(server.requests)
    one.write({"shop/checkout": KEPT, "shop/never": None})
    assert len(server.requests) == seen


def test_who_may_not_write_does_not_write_the_store_either(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect, may_write=False)
    with pytest.raises(KubeError) as refused:
        one.write({"shop/checkout": KEPT})
    assert refused.value.kind is Kind.NOT_ALLOWED
    assert one.entries == {}
    assert not server.requests


def test_a_change_that_came_too_late_is_none(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect)
    one.write({"shop/checkout": KEPT})
    one.write({"shop/checkout": None}, {"shop/checkout": Kept("old", None)})
    assert one.entries == {"shop/checkout": KEPT}
    one.write({"shop/checkout": None}, {"shop/checkout": KEPT})
    assert one.entries == {}


def test_a_name_too_long_for_a_config_map_spoils_no_other_entry(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect)
    one.write({f"shop/{'a' * 253}": KEPT, "shop/checkout": KEPT})
    assert set(server.get(OWN, NAME, CONFIG_MAP)["data"]) == {"shop_checkout"}


def test_several_threads_lose_nothing(server: FakeApiServer, connect: Connect) -> None:
    one = keep(connect)
    threads = [threading.Thread(target=one.write, args=({f"shop/a{n}": KEPT},)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.get(OWN, NAME, CONFIG_MAP)["data"]) == 8
