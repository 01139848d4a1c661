"""The fake API server: its rules of ownership, its errors, its watches, and the faults that a test can order."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.apiserver import CONFIG_MAP, ApiError, FakeApiServer, cpu_metric, right

Json = dict[str, Any]
HPAS = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"
CHECKOUT = f"{HPAS}/checkout"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
EVENTS = "/apis/events.k8s.io/v1/namespaces/shop/events"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
US = "forecaster-actuator"


class Client:
    """One user's connection, kept open; a fresh one after a fault."""

    def __init__(self, server: FakeApiServer, user: str = "actuator") -> None:
        self.server, self.user = server, user
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json", **query: Any) -> Any:
        """(status, body); the body is parsed where it is JSON."""
        with self.open(method, path, body, content, **query) as response:
            raw = response.read()
            self.headers = response.headers
        parsed = json.loads(raw) if response.headers["Content-Type"] == "application/json" else raw.decode()
        return response.status, parsed

    def open(self, method: str, path: str, body: Any, content: str, **query: Any) -> http.client.HTTPResponse:
        target = path + ("?" + urlencode(query) if query else "")
        headers = {"Authorization": f"Bearer {self.server.token(self.user)}"}
        data = None
        if body is not None:
            headers["Content-Type"] = content
            data = json.dumps(body).encode()
        self.connection.request(method, target, data, headers)
        return self.connection.getresponse()

    def apply(self, spec: Json, *, force: bool = False, metadata: Json | None = None, **query: Any) -> Any:
        head = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        body = {**head, "metadata": {"name": "checkout", **(metadata or {})}, "spec": spec}
        return self.ask("PATCH", CHECKOUT, body, APPLY, fieldManager=US, force=str(force).lower(), **query)


@contextlib.contextmanager
def client(server: FakeApiServer, user: str = "actuator") -> Iterator[Client]:
    found = Client(server, user)
    with contextlib.closing(found.connection):
        yield found


@contextlib.contextmanager
def watching(server: FakeApiServer, **query: Any) -> Iterator[Iterator[Json]]:
    """The events of a watch, as an iterator that ends with the stream."""
    with client(server) as asker, asker.open("GET", HPAS, None, "", watch=1, **query) as response:
        assert response.status == 200
        yield (json.loads(line) for line in response)


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.fixture
def us(server: FakeApiServer) -> Iterator[Client]:
    with client(server) as found:
        yield found


def minimum(server: FakeApiServer) -> int:
    found = server.get("shop", "checkout")["spec"]["minReplicas"]
    assert isinstance(found, int)
    return found


def version(server: FakeApiServer) -> str:
    return str(server.get("shop", "checkout")["metadata"]["resourceVersion"])


# --- ownership ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "given", "named"),
    [
        ("Update", 3, '"helm" using autoscaling/v2'),
        ("Update", None, '"helm" using autoscaling/v2'),  # the default that was filled in is owned
        ("Apply", 3, '"helm"'),
    ],
)
def test_a_field_that_another_owns_is_a_conflict(
    server: FakeApiServer, us: Client, operation: str, given: int | None, named: str
) -> None:
    server.create_hpa("shop", "checkout", min_replicas=given, manager="helm", operation=operation)
    status, body = us.apply({"minReplicas": 5})
    assert (status, body["reason"]) == (409, "Conflict")
    assert body["message"] == f"Apply failed with 1 conflict: conflict with {named}: .spec.minReplicas"
    cause = {"reason": "FieldManagerConflict", "message": f"conflict with {named}", "field": ".spec.minReplicas"}
    assert body["details"]["causes"] == [cause]
    assert us.apply({"minReplicas": 5}, force=True)[0] == 200
    assert server.owners("shop", "checkout") == [(US, "Apply")]


def test_an_apply_owner_without_the_field_leaves_it_free(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", min_replicas=None, manager="helm", operation="Apply")
    assert (minimum(server), server.owners("shop", "checkout")) == (1, [])
    assert us.apply({"minReplicas": 5})[0] == 200
    assert us.apply({})[1]["spec"]["minReplicas"] == 1  # nobody owns it: the default


def test_an_equal_value_is_shared(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", min_replicas=3, manager="helm")
    assert us.apply({"minReplicas": 3})[0] == 200
    assert sorted(server.owners("shop", "checkout")) == [(US, "Apply"), ("helm", "Update")]
    assert us.apply({"minReplicas": 4})[0] == 409
    assert us.apply({})[1]["spec"]["minReplicas"] == 3


def test_an_equal_apply_changes_nothing(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    us.apply({"minReplicas": 5}, force=True)
    before = server.get("shop", "checkout")
    assert us.apply({"minReplicas": 5})[0] == 200
    assert server.get("shop", "checkout") == before


@pytest.mark.parametrize("spec", [{}, {"minReplicas": None}])
def test_giving_up_what_only_we_own_makes_it_the_default(server: FakeApiServer, us: Client, spec: Json) -> None:
    server.create_hpa("shop", "checkout", min_replicas=3, annotations={"theirs": "x"})
    us.apply({"minReplicas": 5}, force=True, metadata={"annotations": {"ours": "3"}})
    us.apply(spec)
    assert minimum(server) == 1
    assert server.get("shop", "checkout")["metadata"]["annotations"] == {"theirs": "x"}


def test_any_other_patch_takes_the_field_silently(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", manager="helm", operation="Apply")
    server.patch_as("kubectl-patch", "shop", "checkout", {"spec": {"minReplicas": 4}})
    assert server.owners("shop", "checkout") == [("kubectl-patch", "Update")]
    server.patch_as("kubectl-edit", "shop", "checkout", {"spec": {"minReplicas": 4}})  # equal: no trace
    assert server.owners("shop", "checkout") == [("kubectl-patch", "Update")]
    server.patch_as(US, "shop", "checkout", [{"op": "replace", "path": "/spec/minReplicas", "value": 6}])
    assert us.apply({"minReplicas": 7})[0] == 409  # our own Update entry is another owner


def test_the_user_agent_is_the_manager_where_none_is_named(server: FakeApiServer) -> None:
    server.create_hpa("shop", "checkout")
    with client(server, "admin") as admin:
        headers = {"User-Agent": "keda/v2 (linux)", "Content-Type": MERGE, "Authorization": "Bearer admin-token"}
        admin.connection.request("PATCH", CHECKOUT, b'{"spec":{"minReplicas":4}}', headers)
        assert admin.connection.getresponse().status == 200
    assert server.owners("shop", "checkout") == [("keda", "Update")]


def test_a_replace_wipes_our_annotation(server: FakeApiServer, us: Client) -> None:
    first = server.create_hpa("shop", "checkout", min_replicas=3, manager="keda")
    us.apply({"minReplicas": 5}, force=True, metadata={"annotations": {"ours": "3"}})
    body = {"metadata": {"labels": {"app": "checkout"}}, "spec": first["spec"]}
    server.replace_as("keda", "shop", "checkout", body)
    assert minimum(server) == 3
    assert "annotations" not in server.get("shop", "checkout")["metadata"]
    assert server.owners("shop", "checkout") == [("keda", "Update")]


def test_metrics_are_one_field(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", manager="helm", metrics=[cpu_metric(70), cpu_metric(50)])
    status, body = us.apply({"metrics": [cpu_metric(90)], "minReplicas": 5})
    assert status == 409
    assert [cause["field"] for cause in body["details"]["causes"]] == [".spec.metrics", ".spec.minReplicas"]
    us.apply({"metrics": [cpu_metric(90)]}, force=True)
    assert server.get("shop", "checkout")["spec"]["metrics"] == [cpu_metric(90)]
    us.apply({})
    assert server.get("shop", "checkout")["spec"]["metrics"] == [cpu_metric(80)]


def test_the_restore_in_two_writes_is_exact(server: FakeApiServer, us: Client) -> None:
    before = server.create_hpa("shop", "checkout", min_replicas=3, manager="helm")
    us.apply({"minReplicas": 5}, force=True, metadata={"annotations": {"ours": "3"}})
    _, body = us.apply({"minReplicas": 3}, metadata={"annotations": {"ours": "3"}})
    operations = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]},
        {"op": "remove", "path": "/metadata/annotations/ours"},
        {"op": "replace", "path": "/metadata/managedFields", "value": before["metadata"]["managedFields"]},
    ]
    status, body = us.ask("PATCH", CHECKOUT, operations, JSON_PATCH, fieldManager=US)
    assert status == 200
    assert body["metadata"]["managedFields"] == before["metadata"]["managedFields"]
    assert (body["spec"], "annotations" in body["metadata"]) == (before["spec"], False)
    assert us.ask("PATCH", CHECKOUT, operations, JSON_PATCH, fieldManager=US)[0] == 422  # the test no longer holds


@pytest.mark.parametrize(("given", "owners"), [([], []), ([{}], []), ([{"operation": "No"}], [("helm", "Update")])])
def test_written_managed_fields(server: FakeApiServer, us: Client, given: list[Json], owners: list[Any]) -> None:
    server.create_hpa("shop", "checkout", manager="helm")
    operation = {"op": "replace", "path": "/metadata/managedFields", "value": given}
    assert us.ask("PATCH", CHECKOUT, [operation], JSON_PATCH)[0] == 200
    assert server.owners("shop", "checkout") == owners
    status, body = us.apply({"minReplicas": 5})
    assert status == 409 and ("before-first-apply" in body["message"]) == (owners == [])


# --- preconditions and validation ---------------------------------------------------------------------------------


def test_preconditions(server: FakeApiServer, us: Client) -> None:
    uid = server.create_hpa("shop", "checkout")["metadata"]["uid"]
    stale = version(server)
    server.write_status("shop", "checkout", 2, 2)
    assert version(server) != stale
    status, body = us.apply({"minReplicas": 5}, force=True, metadata={"uid": uid, "resourceVersion": stale})
    assert (status, body["reason"], "causes" in body["details"]) == (409, "Conflict", False)
    assert us.apply({"minReplicas": 5}, force=True, metadata={"uid": uid})[0] == 200
    server.recreate_hpa("shop", "checkout")
    status, body = us.apply({"minReplicas": 6}, force=True, metadata={"uid": uid})
    assert (status, body["details"]["causes"][0]["field"]) == (422, "metadata.uid")
    server.delete_hpa("shop", "checkout")
    status, body = us.apply({"minReplicas": 6}, force=True, metadata={"uid": uid})
    assert (status, "uid mismatch" in body["message"]) == (409, True)
    assert us.apply({"minReplicas": 6})[0] == 422  # an apply to an absent object is a create
    assert us.ask("PATCH", CHECKOUT, {"spec": {"minReplicas": 6}}, MERGE)[0] == 404
    with pytest.raises(KeyError):
        server.get("shop", "checkout")


def test_dry_run_stores_nothing(server: FakeApiServer, us: Client) -> None:
    before = server.create_hpa("shop", "checkout", min_replicas=3)
    assert us.apply({"minReplicas": 5}, dryRun="All")[0] == 409
    status, body = us.apply({"minReplicas": 5}, force=True, dryRun="All")
    assert (status, body["spec"]["minReplicas"]) == (200, 5)
    assert us.apply({"minReplicas": 5}, force=True, dryRun="true")[0] == 422
    assert server.get("shop", "checkout") == before


@pytest.mark.parametrize(
    ("value", "by_apply", "by_merge"), [(0, 422, 422), (11, 422, 422), ("5", 500, 422), (2.5, 500, 422), (10, 200, 200)]
)
def test_values_that_are_refused(server: FakeApiServer, us: Client, value: Any, by_apply: int, by_merge: int) -> None:
    server.create_hpa("shop", "checkout", max_replicas=10)
    assert us.apply({"minReplicas": value}, force=True)[0] == by_apply
    assert us.ask("PATCH", CHECKOUT, {"spec": {"minReplicas": value}}, MERGE)[0] == by_merge


def test_our_floor_blocks_a_lower_maximum(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", manager="helm")
    us.apply({"minReplicas": 8}, force=True)
    with pytest.raises(ApiError, match=r"spec\.maxReplicas: Invalid value: 6") as caught:
        server.patch_as("helm", "shop", "checkout", {"spec": {"maxReplicas": 6}})
    assert caught.value.code == 422


def test_annotations_have_a_limit(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    status, body = us.apply({}, metadata={"annotations": {"a": "x" * 262145}})
    assert (status, body["details"]["causes"][0]["reason"]) == (422, "FieldValueTooLong")


def test_an_object_that_is_deleting_still_takes_applies(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout", finalizers=["example.com/hold"])
    server.delete_hpa("shop", "checkout")
    status, body = us.apply({"minReplicas": 4}, force=True)
    assert (status, "deletionTimestamp" in body["metadata"]) == (200, True)
    server.patch_as("holder", "shop", "checkout", {"metadata": {"finalizers": None}})
    assert us.ask("GET", CHECKOUT)[0] == 404


def test_an_admission_policy_refuses(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    server.policy(lambda kind, new: "too many" if new["spec"]["minReplicas"] > 6 else None)
    status, body = us.apply({"minReplicas": 7}, force=True)
    assert (status, body["reason"], body["details"]["causes"]) == (422, "Invalid", [{"message": "too many"}])


# --- other kinds --------------------------------------------------------------------------------------------------


def test_a_lease(server: FakeApiServer, us: Client) -> None:
    body: Json = {"metadata": {"name": "us"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    status, first = us.ask("POST", LEASES, body)
    assert status == 201
    status, again = us.ask("POST", LEASES, body)
    assert (status, again["reason"]) == (409, "AlreadyExists")
    assert us.ask("PUT", f"{LEASES}/us", body)[0] == 422  # no resourceVersion
    body["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
    body["spec"]["holderIdentity"] = "b"
    assert us.ask("PUT", f"{LEASES}/us", body)[0] == 200
    body["spec"]["holderIdentity"] = "c"
    status, stale = us.ask("PUT", f"{LEASES}/us", body)
    assert (status, stale["reason"]) == (409, "Conflict")
    for text, wanted in (("12:00:00.000000Z", 200), ("12:00:00Z", 422), ("12:00:00.123Z", 422)):
        patch = {"spec": {"renewTime": f"2026-01-01T{text}"}}
        assert us.ask("PATCH", f"{LEASES}/us", patch, MERGE)[0] == wanted


def test_an_event(server: FakeApiServer, us: Client) -> None:
    event: Json = {
        "metadata": {"generateName": "checkout-"},
        "eventTime": "2026-01-01T12:00:00.000000Z",
        "reportingController": "forecaster.io/actuator",
        "reportingInstance": "a",
        "action": "Raise",
        "reason": "FloorRaised",
        "type": "Normal",
        "note": "3 -> 5",
        "regarding": {"kind": "HorizontalPodAutoscaler", "name": "checkout", "namespace": "shop"},
    }
    status, body = us.ask("POST", EVENTS, event)
    assert status == 201 and body["metadata"]["name"].startswith("checkout-")
    for name in ("eventTime", "reportingController", "reportingInstance", "action", "reason", "type"):
        assert us.ask("POST", EVENTS, {k: v for k, v in event.items() if k != name})[0] == 422
    assert us.ask("POST", EVENTS, {**event, "note": "x" * 1025})[0] == 422
    assert us.ask("POST", EVENTS, {**event, "metadata": {"generateName": "checkout."}})[0] == 422
    path = f"{EVENTS}/{body['metadata']['name']}"
    for count, wanted in ((1, 422), (2, 200)):
        series = {"series": {"count": count, "lastObservedTime": "2026-01-01T12:00:00.000000Z"}}
        assert us.ask("PATCH", path, series, MERGE)[0] == wanted


def test_a_config_map(server: FakeApiServer) -> None:
    server.add_user("keeper", right(("", "configmaps"), "get patch", "shop"))
    with client(server, "keeper") as keeper:
        path = "/api/v1/namespaces/shop/configmaps/state"
        assert keeper.ask("GET", path)[0] == 404
        server.create(CONFIG_MAP, "shop", {"metadata": {"name": "state"}, "data": {"a": "1"}})
        status, body = keeper.ask("PATCH", path, {"data": {"a": None, "b": "2"}}, MERGE)
        assert (status, body["data"]) == (200, {"b": "2"})
        assert keeper.ask("GET", "/api/v1/namespaces/default/configmaps/state")[0] == 403


# --- rights -------------------------------------------------------------------------------------------------------


def test_rights(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    status, body = us.ask("DELETE", CHECKOUT)
    assert (status, body["reason"]) == (403, "Forbidden")
    assert 'User "actuator" cannot delete resource "horizontalpodautoscalers"' in body["message"]
    server.deny("actuator", "patch", "shop")
    assert us.apply({"minReplicas": 5}, force=True)[0] == 403
    assert us.ask("GET", CHECKOUT)[0] == 200
    asked = {"group": "autoscaling", "resource": "horizontalpodautoscalers", "verb": "patch", "namespace": "shop"}
    review = {"spec": {"resourceAttributes": asked}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert us.ask("POST", path, review)[1]["status"]["allowed"] is False
    server.allow("actuator", "patch", "shop")
    assert us.ask("POST", path, review)[1]["status"]["allowed"] is True
    server.tokens.clear()
    server.tokens["other"] = "actuator"
    us.connection.request("GET", CHECKOUT, headers={"Authorization": "Bearer actuator-token"})
    with us.connection.getresponse() as response:
        assert (response.status, json.loads(response.read())["reason"]) == (401, "Unauthorized")


# --- lists and watches --------------------------------------------------------------------------------------------


def test_pages_show_one_version(server: FakeApiServer, us: Client) -> None:
    for number in range(5):
        server.create_hpa("shop", f"svc-{number}")
    server.create_hpa("other", "elsewhere")
    _, first = us.ask("GET", HPAS, limit=2)
    server.delete_hpa("shop", "svc-3")
    _, second = us.ask("GET", HPAS, **{"limit": 2, "continue": first["metadata"]["continue"]})
    assert [one["metadata"]["name"] for one in second["items"]] == ["svc-2", "svc-3"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    server.compact()
    status, body = us.ask("GET", HPAS, **{"limit": 2, "continue": second["metadata"]["continue"]})
    assert (status, body["reason"]) == (410, "Expired")
    _, rest = us.ask("GET", HPAS, **{"limit": 2, "continue": body["metadata"]["continue"]})
    assert [one["metadata"]["name"] for one in rest["items"]] == ["svc-4"]
    _, everywhere = us.ask("GET", "/apis/autoscaling/v2/horizontalpodautoscalers")
    assert len(everywhere["items"]) == 5


def test_a_watch_shows_what_happens(server: FakeApiServer) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    with watching(server, resourceVersion=at, allowWatchBookmarks="true") as events:
        server.create_hpa("other", "elsewhere")
        server.patch_as("x", "shop", "checkout", {"spec": {"minReplicas": 4}})
        server.patch_as("x", "shop", "checkout", {"spec": {"minReplicas": 4}})
        server.write_status("shop", "checkout", 4, 4)
        server.recreate_hpa("shop", "checkout")
        server.send_bookmarks()
        seen = [next(events) for _ in range(5)]
        assert [one["type"] for one in seen] == ["MODIFIED", "MODIFIED", "DELETED", "ADDED", "BOOKMARK"]
        assert seen[1]["object"]["status"]["desiredReplicas"] == 4
        assert seen[4]["object"]["metadata"] == {"resourceVersion": str(server.store.version)}
        server.close_watches()
        assert list(events) == []


def test_a_watch_ends_at_its_timeout_with_a_bookmark_before(server: FakeApiServer) -> None:
    with watching(server, timeoutSeconds=2.05, allowWatchBookmarks="true") as events:
        assert [one["type"] for one in events] == ["BOOKMARK"]
    server.lose_bookmarks = True
    with watching(server, timeoutSeconds=0.05, allowWatchBookmarks="true") as events:
        assert list(events) == []


def test_a_watch_from_too_long_ago_is_an_error_inside_200(server: FakeApiServer) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    with watching(server, resourceVersion=at) as running:
        server.expire_watches()
        assert [one["object"]["reason"] for one in running] == ["Expired"]
    with watching(server, resourceVersion=at) as events:
        error = list(events)
    assert [(one["type"], one["object"]["code"]) for one in error] == [("ERROR", 410)]


def test_a_silent_watch_and_one_from_the_future(server: FakeApiServer) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    server.silent = True
    with watching(server, resourceVersion=at, timeoutSeconds=0.2) as events:
        server.write_status("shop", "checkout", 3, 3)
        assert list(events) == []
    server.silent = False
    with watching(server, resourceVersion=int(at) + 1000, timeoutSeconds=0.2) as events:
        server.write_status("shop", "checkout", 4, 4)
        assert list(events) == []


def test_rights_that_are_withdrawn_do_not_end_a_watch(server: FakeApiServer, us: Client) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    with watching(server, resourceVersion=at) as events:
        server.deny("actuator")
        server.write_status("shop", "checkout", 3, 3)
        assert next(events)["type"] == "MODIFIED"
    assert us.ask("GET", HPAS)[0] == 403


# --- life and faults ----------------------------------------------------------------------------------------------


def test_a_restart_makes_every_older_version_too_old(server: FakeApiServer) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    port = server.port
    with client(server) as us, us.open("GET", HPAS, None, "", watch=1, resourceVersion=at) as response:
        server.kill()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            response.read()  # no final chunk
    with client(server) as us, pytest.raises(ConnectionRefusedError):
        us.ask("GET", CHECKOUT)
    server.restart(forbidden_requests=2)
    assert server.port == port
    with client(server) as us:
        assert [us.ask("GET", HPAS)[0] for _ in range(3)] == [403, 403, 200]
    with watching(server, resourceVersion=at) as events:
        assert [one["object"]["code"] for one in events] == [410]
    assert server.get("shop", "checkout")["metadata"]["resourceVersion"] == at


def test_a_server_that_drains_refuses_new_connections_only(server: FakeApiServer) -> None:
    at = server.create_hpa("shop", "checkout")["metadata"]["resourceVersion"]
    with watching(server, resourceVersion=at) as events:
        server.drain()
        with client(server) as us, pytest.raises(ConnectionRefusedError):
            us.ask("GET", CHECKOUT)
        server.write_status("shop", "checkout", 3, 3)
        assert next(events)["type"] == "MODIFIED"
        server.stop()
        assert list(events) == []


def test_failures_on_order(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    server.fail_next("patch shop", 500, reason="InternalError", times=2)
    server.throttle_next("get ", retry_after=7)
    assert us.ask("GET", CHECKOUT) == (429, "Too many requests, please try again later.\n")
    assert us.headers["Retry-After"] == "7"
    assert [us.apply({"minReplicas": 5}, force=True)[0] for _ in range(3)] == [500, 500, 200]
    server.break_json("get ")
    with pytest.raises(ValueError):
        us.ask("GET", CHECKOUT)
    server.throttle("actuator")
    assert us.ask("GET", CHECKOUT)[0] == 429
    server.throttle("actuator", on=False)
    assert us.ask("GET", CHECKOUT)[0] == 200
    assert [one.status for one in server.writes("actuator")] == [500, 500, 200]
    assert server.writes("actuator")[0].json["spec"] == {"minReplicas": 5}
    assert server.writes("actuator")[0].query == {"fieldManager": US, "force": "true"}


def test_an_answer_that_is_lost_after_the_write(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    server.cut_next("patch ", after_write=True)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        us.apply({"minReplicas": 5}, force=True)
    assert minimum(server) == 5
    server.cut_next("patch ")
    us.connection.close()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        us.apply({"minReplicas": 6})
    assert minimum(server) == 5
    server.fail_next("patch ", 504, reason="Timeout", after_write=True)
    us.connection.close()
    assert us.apply({"minReplicas": 7})[0] == 504
    assert minimum(server) == 7


def test_a_request_that_hangs_until_it_is_released(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    found: list[int] = []
    with server.hang("patch ") as hang:
        thread = threading.Thread(target=lambda: found.append(us.apply({"minReplicas": 5}, force=True)[0]))
        thread.start()
        assert hang.entered.wait(10)
        assert (found, minimum(server)) == ([], 2)
    thread.join(10)
    assert (found, minimum(server)) == ([200], 5)


def test_a_race_that_is_lost(server: FakeApiServer, us: Client) -> None:
    server.create_hpa("shop", "checkout")
    at = version(server)
    server.on_next_write(
        lambda old, new: server.patch_as("kubectl-edit", "shop", "checkout", {"spec": {"minReplicas": 4}})
    )
    assert us.apply({"minReplicas": 5}, force=True, metadata={"resourceVersion": at})[0] == 409
    assert minimum(server) == 4
    server.on_next_write(lambda old, new: server.write_status("shop", "checkout", 4, 4))
    assert us.apply({"minReplicas": 5}, force=True)[0] == 200  # tried again on the new object, as the real one does
    body = server.get("shop", "checkout")
    assert (body["spec"]["minReplicas"], body["status"]["currentReplicas"]) == (5, 4)
