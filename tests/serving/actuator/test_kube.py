"""The client of the API server: what answers mean, deadlines, and that nothing is written without leave."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.actuator import hpas, kube, writes
from serving.actuator.kube import Kind, Kube, KubeError, refusal
from serving.actuator.policy import USERS_OWN, Hold
from tests.apiserver import FakeApiServer
from tests.faultproxy import FaultProxy
from tests.serving.actuator.conftest import Connect
from tests.serving.actuator.harness import OWN, access

Json = dict[str, Any]


def status(code: int, reason: str = "", message: str = "", *causes: tuple[str, str]) -> Json:
    told = [{"reason": why, "field": field} for why, field in causes]
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": {"causes": told}}


CONFLICT = ("FieldManagerConflict", ".spec.minReplicas")


@pytest.mark.parametrize(
    ("code", "told", "kind"),
    [
        (409, status(409, "Conflict", "Apply failed with 1 conflict", CONFLICT), Kind.FIELD_CONFLICT),
        (409, status(409, "Conflict", "the object has been modified"), Kind.STALE),
        (409, status(409, "Conflict", "uid mismatch: … no existing object was found"), Kind.GONE),
        (409, status(409, "AlreadyExists", "already exists"), Kind.EXISTS),
        (422, status(422, "Invalid", "immutable", ("FieldValueInvalid", "metadata.uid")), Kind.REPLACED),
        (422, status(422, "Invalid", "", ("FieldValueInvalid", "spec.minReplicas")), Kind.INVALID),
        (422, status(422, "Invalid", "the server rejected our request"), Kind.INVALID),
        (401, status(401, "Unauthorized"), Kind.UNAUTHORISED),
        (403, status(403, "Forbidden"), Kind.FORBIDDEN),
        (404, status(404, "NotFound"), Kind.GONE),
        (404, {"message": "404 page not found"}, Kind.SERVER),
        (410, status(410, "Expired"), Kind.EXPIRED),
        (429, {"message": "Too many requests"}, Kind.THROTTLED),
        (500, status(500, ""), Kind.SERVER),
        (502, {"message": "bad gateway"}, Kind.SERVER),
        (504, status(504, "Timeout"), Kind.SERVER),
        (302, {}, Kind.INVALID),
        (400, status(400, "BadRequest"), Kind.INVALID),
        (409, {"details": [], "message": 7}, Kind.STALE),
        (422, {"details": {"causes": 7}}, Kind.INVALID),
        (409, {"details": {"causes": [7, None]}}, Kind.STALE),
    ],
)
def test_what_a_refusal_means(code: int, told: Json, kind: Kind) -> None:
    error = refusal(code, told)
    assert error.kind is kind
    assert error.unknown == (kind is Kind.SERVER)  # whether it was done


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [("7", None, 7.0), (None, 3, 3.0), ("7", 3, 7.0), ("soon", None, None), ("-1", None, None), ("1e9", None, None),
     ("nan", None, None), (None, None, None)],
)  # fmt: skip
def test_how_long_to_wait(header: str | None, details: int | None, seconds: float | None) -> None:
    told = {"details": {"retryAfterSeconds": details}}
    assert refusal(429, told, header).retry_after == seconds


def test_conflicting_fields_are_named() -> None:
    annotation = ("FieldManagerConflict", f".metadata.annotations.{USERS_OWN}")
    assert refusal(409, status(409, "Conflict", "", CONFLICT, annotation)).fields == {
        ".spec.minReplicas",
        f".metadata.annotations.{USERS_OWN}",
    }


def test_without_leave_nothing_is_written(server: FakeApiServer, connect: Connect) -> None:
    client = connect()  # by default there is none
    body = {"metadata": {"uid": "u"}}
    for write in (
        lambda: client.apply_hpa("shop", "checkout", body),
        lambda: client.apply_hpa("shop", "checkout", body, force=True),
        lambda: client.patch_hpa("shop", "checkout", []),
        lambda: client.merge_config_map(OWN, "x", {}),
    ):
        with pytest.raises(KubeError) as refused:
            write()
        assert refused.value.kind is Kind.NOT_ALLOWED
    assert not server.requests
    with pytest.raises(AssertionError):
        client.apply_hpa("shop", "checkout", {"metadata": {"uid": ""}})


def test_a_body_that_drips_has_a_deadline_for_all_of_it(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "WRITE_SECONDS", 0.5)
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.set("throttle", rate=250)
        client = Kube(access(server))
        client._client.base_url = proxy.url  # type: ignore[assignment]
        with pytest.raises(KubeError, match="did not end in time") as refused:
            client.get_lease(OWN, "x")
        assert refused.value.kind is Kind.UNREACHABLE
        client.close()


@pytest.mark.parametrize("fault", ["refuse", "stall", "reset", "stall_after_headers"])
def test_a_connection_that_fails_is_one_kind_of_error(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(kube, "WRITE_SECONDS", 0.3)
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.set(fault)
        client = Kube(access(server))
        client._client.base_url = proxy.url  # type: ignore[assignment]
        with pytest.raises(KubeError) as refused:
            client.get_lease(OWN, "x")
        assert refused.value.unknown
        client.close()


def test_many_watches_leave_a_connection_for_the_lease(server: FakeApiServer, connect: Connect) -> None:
    """One for each namespace."""
    client = connect()
    version = client.list_hpas("shop").version
    watches = [client.watch_hpas("shop", version, 300.0) for _ in range(40)]
    threads = [threading.Thread(target=lambda one=one: list(one), daemon=True) for one in watches]
    for thread in threads:
        thread.start()
    assert server.wait_for(lambda: len(server.watches) == 40)
    with pytest.raises(KubeError) as refused:
        client.get_lease(OWN, "x")
    assert refused.value.kind is Kind.GONE
    server.close_watches()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"<html>", b"\xff"])
def test_what_is_no_object_is_no_answer(server: FakeApiServer, connect: Connect, body: bytes) -> None:
    server.fail_next("get ", 200, body=body)
    with pytest.raises(KubeError) as refused:
        connect().get_hpa("shop", "checkout")
    assert refused.value.kind is Kind.UNREACHABLE
    assert refused.value.unknown


# --- recordings of a real API server ----------------------------------------------------------------------------------

FILE = os.environ.get("FORECASTER_APISERVER_TRANSCRIPTS", "")
CASES: list[Json] = json.loads(Path(FILE).read_text())["cases"] if FILE else []
recorded = pytest.mark.skipif(not FILE, reason="FORECASTER_APISERVER_TRANSCRIPTS names no file of recordings")


def exchanges() -> list[tuple[str, Json, Json, Any]]:
    """(place, request, response, body) of every recorded exchange."""
    found = []
    for case in CASES:
        for number, step in enumerate(case["steps"]):
            if "response" not in step:
                continue
            answer = step["response"]
            same = answer.get("bodySameAsStep")
            body = case["steps"][same]["response"].get("body") if same is not None else answer.get("body")
            found.append((f"{case['case']}#{number}", step["request"], answer, body))
    return found


def lesson(code: int, body: Any, place: str) -> Kind:
    """What APISERVER_TRANSCRIPTS teaches of it, told apart by the recorded words."""
    text = body if isinstance(body, str) else str(body.get("message"))
    if code == 409:
        for words, kind in (
            ("Apply failed with", Kind.FIELD_CONFLICT),
            ("uid mismatch", Kind.GONE),
            ("already exists", Kind.EXISTS),
            ("has been modified", Kind.STALE),
            ("UID in precond", Kind.STALE),
        ):
            if words in text:
                return kind
        raise AssertionError(f"{place}: {text}")
    if code == 422:
        return Kind.REPLACED if "metadata.uid" in text else Kind.INVALID
    by_status = {
        400: Kind.INVALID,
        401: Kind.UNAUTHORISED,
        403: Kind.FORBIDDEN,
        404: Kind.GONE,
        410: Kind.EXPIRED,
        415: Kind.INVALID,
        429: Kind.THROTTLED,
    }
    return by_status.get(code, Kind.SERVER)


@recorded
def test_every_recorded_refusal_is_told_apart() -> None:
    seen = set()
    for place, _, answer, body in exchanges():
        code = answer["status"]
        if code < 300:
            continue
        told = body if isinstance(body, dict) else {"message": body}
        headers = {name.lower(): value for name, value in answer.get("headers", {}).items()}
        error = refusal(code, told, headers.get("retry-after"))
        assert error.kind is lesson(code, body, place), place
        if code == 429:
            assert error.retry_after == 1.0
        seen.add(error.kind)
    assert seen >= set(Kind) - {Kind.UNREACHABLE, Kind.NOT_ALLOWED}


@recorded
def test_every_recorded_hpa_is_understood() -> None:
    count = 0
    for place, _, answer, body in exchanges():
        if not isinstance(body, dict) or answer["status"] >= 300 or body.get("kind") != "HorizontalPodAutoscaler":
            continue
        if not str(body.get("apiVersion", "")).startswith("autoscaling/") or not body["metadata"].get("uid"):
            continue
        hpa = hpas.parse(body)
        count += 1
        assert hpa.min_replicas == body["spec"].get("minReplicas", 1), place
        holders = [
            entry["manager"]
            for entry in body["metadata"].get("managedFields", [])
            if "f:minReplicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        ]
        assert len(hpa.owners) + hpa.ours == len(holders), place
    assert count > 300


def restores() -> list[tuple[str, list[Json]]]:
    wanted = ("6-protocol/one-shot-owner", "1-give-up/restore-in-two-writes/")
    return [(case["case"], case["steps"]) for case in CASES if case["case"].startswith(wanted)]


@recorded
@pytest.mark.parametrize(("case", "steps"), restores(), ids=[case for case, _ in restores()])
def test_our_restore_is_the_recorded_one(case: str, steps: list[Json]) -> None:
    """The JSON patch that was sent to the real server, made from the HPA that it had just shown."""
    patch = next(
        number
        for number, step in enumerate(steps)
        if step.get("request", {}).get("user") == "actuator"
        and step["request"]["headers"].get("content-type", "").startswith("application/json-patch")
    )
    sent = steps[patch]["request"]["body"]
    fields = next(one["value"] for one in sent if one["path"] == "/metadata/managedFields")
    told = body_of(steps, patch - 1)
    taken = [
        number
        for number, step in enumerate(steps[:patch])
        if step.get("request", {}).get("user") == "actuator" and step["request"]["method"] == "PATCH"
    ]
    before = next(
        body
        for number in range(taken[0] - 1, -1, -1)
        if "response" in steps[number]
        and isinstance(body := body_of(steps, number), dict)
        and body.get("kind") == "HorizontalPodAutoscaler"
    )
    parsed = hpas.parse(before)
    made = writes.restoring(told, Hold(parsed.min_replicas, parsed.owners))
    ours = next(one["value"] for one in made if one["path"] == "/metadata/managedFields")

    def comparable(entries: list[Json]) -> list[str]:
        return sorted(json.dumps({k: v for k, v in one.items() if k != "time"}, sort_keys=True) for one in entries)

    assert comparable(ours) == comparable(fields)
    tests = {one["path"]: one["value"] for one in made if one["op"] == "test"}
    for one in sent:
        if one["op"] == "test":
            assert tests[one["path"]] == one["value"]


def body_of(steps: list[Json], number: int) -> Any:
    answer = steps[number].get("response", {})
    same = answer.get("bodySameAsStep")
    return body_of(steps, same) if same is not None else answer.get("body")
