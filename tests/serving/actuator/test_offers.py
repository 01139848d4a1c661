"""Recommendations as received: their age, what several say of one HPA, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.actuator.offers import FORGET_SECONDS, Service, ServiceError, read
from tests.serving.actuator.harness import FakeService

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)


def told(floor: int | None = 8, age: float = 0.0, **more: Any) -> dict[str, Any]:
    made_at = (NOW - timedelta(seconds=age)).isoformat()
    return {
        "namespace": "shop",
        "hpa": "checkout",
        "hpaUid": "u1",
        "floor": floor,
        "mode": "apply",
        "validForSeconds": 300.0,
        "madeAt": made_at,
        **more,
    }


def test_expiry_is_validity_less_age_on_our_clock() -> None:
    offer = read([told(age=40.0)], NOW, 1000.0).offers["shop/checkout"]
    assert offer.expires_at == 1260.0


def test_made_anew_counts_from_then() -> None:
    offer = read([told(age=400.0)], NOW, 1000.0, (NOW - timedelta(seconds=10)).isoformat()).offers["shop/checkout"]
    assert offer.expires_at == 1290.0
    older = read([told(age=40.0)], NOW, 1000.0, (NOW - timedelta(seconds=400)).isoformat()).offers["shop/checkout"]
    assert older.expires_at == 1260.0


def test_made_in_the_future_is_made_now() -> None:
    assert read([told(age=-600.0)], NOW, 1000.0).offers["shop/checkout"].expires_at == 1300.0


@given(
    age=st.floats(-1e6, 1e6),
    validity=st.floats(0, 86_400),
    arrived=st.floats(0, 1e9),
    anew=st.none() | st.floats(-1e6, 1e6),
)
def test_nothing_outlives_its_validity(age: float, validity: float, arrived: float, anew: float | None) -> None:
    again = None if anew is None else (NOW - timedelta(seconds=anew)).isoformat()
    offer = read([told(age=age, validForSeconds=validity)], NOW, arrived, again).offers["shop/checkout"]
    assert offer.expires_at <= arrived + validity


@given(st.lists(st.tuples(st.integers(1, 100) | st.none(), st.sampled_from(["observe", "recommend", "apply", "x"]),
                          st.floats(0, 400), st.booleans(), st.sampled_from(["u1", "u2", None])),
                min_size=1, max_size=5))  # fmt: skip
def test_several_for_one_hpa_are_as_cautious_as_the_most_cautious(
    ones: list[tuple[int | None, str, float, bool, str | None]],
) -> None:
    items = [
        told(floor, age, mode=mode, hpaUid=uid, reasons=[{"code": "paused"}] if paused else [])
        for floor, mode, age, paused, uid in ones
    ]
    offer = read(items, NOW, 1000.0).offers["shop/checkout"]
    floors = [one[0] for one in ones if one[0] is not None]
    modes = {one[1] for one in ones}
    uids = {one[4] for one in ones}
    assert offer.floor == (max(floors) if floors else None)
    assert offer.mode == next(mode for mode in ("x", "observe", "recommend", "apply") if mode in modes)
    assert offer.expires_at == pytest.approx(1300.0 - max(one[2] for one in ones))
    assert offer.paused == any(one[3] for one in ones)
    assert offer.hpa_uid == (uids.pop() if len(uids) == 1 else None)


@pytest.mark.parametrize(
    "item",
    [7, None, "x", [], {}, told(namespace="a/b"), told(hpa=""), told(hpa="A"), told(hpa=7), told(floor=1.5),
     told(floor=float("inf")), told(validForSeconds=float("nan")), told(validForSeconds=True),
     told(validForSeconds=1e300),
     told(madeAt=None), told(madeAt="0001-01-01T00:00:00+23:59"), told(mode=["apply"]), told(hpaUid="")],
)  # fmt: skip
def test_what_is_malformed_is_left_out_and_said_and_harms_no_other(item: Any) -> None:
    answer = read([item, told(hpa="cart")], NOW, 1000.0)
    assert set(answer.offers) == {"shop/cart"}
    assert len(answer.malformed) == 1


@pytest.mark.parametrize("more", [{"reasons": [1, None]}, {"candidates": [7, {"name": 1}]}, {"reasons": {"a": 1}}])
def test_odd_words_spoil_no_floor(more: dict[str, Any]) -> None:
    assert read([told(**more)], NOW, 1000.0).offers["shop/checkout"].floor == 8


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[FakeService]:
    one = FakeService()
    yield one
    one.close()


class Hand:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_seen_before_it_never_gets_younger(service: FakeService) -> None:
    clock = Hand()
    polling = Service(service.url, monotonic=clock)
    service.recommend(told() | {"madeAt": service.now().isoformat()})
    first = polling.poll().offers["shop/checkout"].expires_at
    for hours in (1, -1, -2):
        service.offset = timedelta(hours=hours)
        clock.now += 10
        assert polling.poll(wait=False).offers["shop/checkout"].expires_at <= first
    service.items = []
    polling.poll(wait=False)  # gone, and there again
    service.items = [told() | {"madeAt": (service.now() - timedelta(hours=1)).isoformat()}]
    assert polling.poll(wait=False).offers["shop/checkout"].expires_at <= first
    polling.close()


def test_what_is_not_spoken_of_any_more_is_forgotten_after_a_day(service: FakeService) -> None:
    clock = Hand()
    polling = Service(service.url, monotonic=clock)
    for number in range(5):
        service.items = [told(hpa=f"preview-{number}")]
        polling.poll(wait=False)
        clock.now += FORGET_SECONDS
    assert len(polling._known) == 1
    polling.close()


def test_a_service_that_does_not_wait_is_noticed(service: FakeService) -> None:
    polling = Service(service.url)
    polling.poll()
    assert not polling.repeated
    polling.poll(wait=False)
    assert not polling.repeated  # it was not asked to wait
    polling._etag = 'W/"elsewhere"'
    polling.poll()
    assert not polling.repeated  # news
    polling.close()


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 01 Mar 2026 08:00:00"])
def test_an_answer_without_a_date_is_no_answer(
    service: FakeService, date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling = Service(service.url)
    monkeypatch.setattr("tests.serving.actuator.harness.format_datetime", lambda *_, **__: date)
    if date.startswith("Sun"):
        polling.poll()  # without a zone it is UTC
    else:
        with pytest.raises(ServiceError, match="no Date"):
            polling.poll()
    polling.close()


@pytest.mark.parametrize("token", ["canary\nX: y", "canary-ä"])
def test_a_token_that_cannot_be_sent_is_said_without_it(service: FakeService, token: str) -> None:
    polling = Service(service.url, lambda: token)
    with pytest.raises(ServiceError) as error:
        polling.poll()
    assert "canary" not in str(error.value)
    polling.close()
