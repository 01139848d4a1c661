"""The fake API server against recordings of a real one.

The recordings are no part of the project: FORECASTER_APISERVER_TRANSCRIPTS names their file, and without it these tests
are skipped. Each case is a list of exchanges; they are sent to the fake in order, with its uids, resourceVersions and
generated names in place of the recorded ones, and the answers are compared: status, reason, message, causes, and of
objects spec, labels, annotations and managedFields (without times and without order).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.apiserver import LEASE, FakeApiServer

Json = dict[str, Any]
FILE = os.environ.get("FORECASTER_APISERVER_TRANSCRIPTS", "")
CASES: list[Json] = json.loads(Path(FILE).read_text())["cases"] if FILE else []
SHOP = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"

AGREE: set[str] = set()

NOT_REPLAYED = {
    **dict.fromkeys(
        (
            "5-controller/new-hpa-no-metrics",
            "5-controller/raise-floor",
            "5-controller/lower-floor",
            "5-controller/zero-replicas",
            "5-controller/target-absent",
            "5-controller/two-hpas-one-target",
        ),
        "needs the HPA controller, Deployments and passes of 15 s",
    ),
    "4-restart/storage-away": "needs a storage that can be frozen; `hang` plays it",
    "4-restart/restart/": "the server of the recording was restarted between watches; tested in test_fake_apiserver.py",
    "4-restart/killed": "the same",
    "4-restart/drain": "the same",
}


def reason_not_replayed(case: str) -> str | None:
    return next((reason for start, reason in NOT_REPLAYED.items() if case.startswith(start)), None)


# --- what was not recorded ----------------------------------------------------------------------------------------


def checkout(server: FakeApiServer) -> None:
    server.create_hpa("shop", "checkout", min_replicas=3)


def services(server: FakeApiServer) -> None:
    for number in range(7):
        server.create_hpa("shop", f"svc-{number}", max_replicas=6)


def checkout_and_services(server: FakeApiServer) -> None:
    checkout(server)
    patch("checkout", minReplicas=8)(server)
    services(server)


def changed_services(server: FakeApiServer) -> None:
    services(server)
    patch("svc-0", minReplicas=4)(server)
    patch("svc-6", minReplicas=4)(server)


def status_written(current: int, desired: int, **more: Any) -> Callable[[FakeApiServer], Any]:
    conditions = [
        {"type": name, "status": "False", "reason": "Played", "message": str(desired), "lastTransitionTime": None}
        for name in ("AbleToScale", "ScalingActive")
    ]
    return lambda server: server.write_status("shop", "checkout", current, desired, conditions=conditions, **more)


def controlled(server: FakeApiServer) -> None:
    checkout(server)
    status_written(4, 0, currentMetrics=[{"type": ""}])(server)


def patch(name: str, **spec: Any) -> Callable[[FakeApiServer], Any]:
    return lambda server: server.patch_as("unknown", "shop", name, {"spec": spec})


def autoscaled(minimum: int | None) -> Callable[[FakeApiServer], None]:
    """`kubectl autoscale` speaks protobuf; its object through autoscaling/v1."""

    def prepare(server: FakeApiServer) -> None:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"}
        spec = {"maxReplicas": 10, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 70}
        if minimum is not None:
            spec["minReplicas"] = minimum
        head = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"}
        body = {**head, "metadata": {"name": "checkout", "namespace": "shop"}, "spec": spec}
        status, _, _ = exchange(
            server,
            "POST",
            SHOP.replace("v2", "v1"),
            {"fieldManager": "kubectl-autoscale"},
            {},
            "admin",
            json.dumps(body),
        )
        assert status == 201

    return prepare


def going(server: FakeApiServer) -> None:
    server.create_hpa("going", "checkout", min_replicas=3, manager="unknown", labels={"app": "checkout"})
    server.terminate_namespace("going")


def lease(server: FakeApiServer) -> None:
    spec = {"holderIdentity": "", "leaseDurationSeconds": 15, "leaseTransitions": 0}
    spec |= {f"{name}Time": "2026-11-23T19:07:44.794652Z" for name in ("acquire", "renew")}
    metadata = {"name": "forecaster-actuator"}
    server.create(LEASE, "shop", {"metadata": metadata, "spec": spec}, "unknown")


def no_seats(server: FakeApiServer) -> None:
    checkout(server)
    server.throttle("throttled")


def finalizer(server: FakeApiServer) -> None:
    server.patch_as("unknown", "shop", "checkout", {"metadata": {"finalizers": ["example.com/hold"]}})


def policy(server: FakeApiServer) -> None:
    checkout(server)
    text = "ValidatingAdmissionPolicy 'min-cap' with binding 'min-cap' denied request: "
    text += "minReplicas above 6 needs an approval"
    server.policy(lambda kind, new: text if new["spec"]["minReplicas"] > 6 else None)


# Case (or its beginning) -> step -> what happens before it.
BEFORE: dict[str, dict[int, Callable[[FakeApiServer], Any]]] = {
    "1-take/kubectl-autoscale/min-given": {2: autoscaled(3)},
    "1-take/kubectl-autoscale/min-absent": {2: autoscaled(None)},
    "2-deleting/namespace-terminating": {0: going},
    "2-deleting/deletion-timestamp": {4: finalizer},
    "3-read/": {4: changed_services},
    "4-auth/": {0: checkout},
    "4-lease/time-format": {0: lease},
    "4-list/continue-expired": {0: checkout_and_services, 1: FakeApiServer.compact},
    "4-list/": {0: services},
    "4-overload/": {0: no_seats},
    "4-validation/max-lowered": {},
    "4-validation/admission-policy": {0: policy},
    "4-validation/": {0: checkout},
    "4-watch/forbidden": {0: services, 1: lambda server: server.deny("reader", resource="horizontalpodautoscalers")},
    "4-watch/": {0: services},
    "5-controller/stale-resourceVersion-by-status-write": {
        0: controlled,
        1: status_written(4, 6, currentMetrics=None, lastScaleTime="2026-01-01T00:00:00Z"),
    },
}


def web(on: bool) -> Callable[[FakeApiServer], Any]:
    label = {"tier": "web" if on else None}
    return lambda server: server.patch_as("unknown", "shop", "svc-1", {"metadata": {"labels": label}})


def new_and_gone(server: FakeApiServer) -> None:
    server.create_hpa("shop", "new-1", max_replicas=6)
    patch("new-1", minReplicas=4)(server)
    patch("new-1", minReplicas=4)(server)  # an equal patch sends nothing
    server.delete_hpa("shop", "new-1")


def web_and_not(server: FakeApiServer) -> None:
    web(True)(server)
    web(False)(server)


def change_and_bookmark(server: FakeApiServer) -> None:
    patch("svc-0", minReplicas=3)(server)
    server.send_bookmarks()


def withdrawn(server: FakeApiServer) -> None:
    server.deny("reader", resource="horizontalpodautoscalers")
    patch("svc-0", minReplicas=3)(server)
    server.allow("reader", resource="horizontalpodautoscalers")


# Case -> step -> what happens while that watch runs.
DURING: dict[str, dict[int, Callable[[FakeApiServer], Any]]] = {
    "4-watch/events": {0: new_and_gone, 1: web_and_not},
    "4-watch/bookmarks": {0: change_and_bookmark},
    "4-watch/forbidden-mid-way": {0: withdrawn},
    "4-watch/too-old": {3: patch("svc-0", minReplicas=4)},
}

# What the fake says in its own words: only the beginning of the message is compared.
OWN_WORDS = {("4-list/continue-after-compaction", 2): "invalid continue token: continue key is not valid: "}
SKIPPED_STEPS = {
    ("1-take/kubectl-autoscale/min-given", 0): "protobuf",
    ("1-take/kubectl-autoscale/min-absent", 0): "protobuf",
    ("4-validation/annotations", 0): "the recorded body is cut; tested in test_fake_apiserver.py",
    ("4-validation/admission-policy", 2): "policies that only warn are not modelled",
    ("4-auth/self-subject-access-review", 4): "the build's own details",
    ("4-auth/self-subject-access-review", 5): "the build's own details",
}


def chosen(table: dict[str, dict[int, Callable[[FakeApiServer], Any]]], case: str, step: int) -> Any:
    found = next((steps for start, steps in table.items() if case.startswith(start)), {})
    return found.get(step, lambda server: None)


# --- replay -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def send(
    server: FakeApiServer, method: str, path: str, query: Json, headers: Json, user: str, body: str | None
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    if user == "invalid token":
        headers = {**headers, "Authorization": "Bearer nonsense"}
    elif user != "anonymous":
        headers = {**headers, "Authorization": f"Bearer {server.token(user)}"}
    target = path + ("?" + urlencode(query) if query else "")
    connection.request(method, target, None if body is None else body.encode(), headers)
    with contextlib.closing(connection), connection.getresponse() as response:
        yield response


def exchange(
    server: FakeApiServer, method: str, path: str, query: Json, headers: Json, user: str, body: str | None
) -> tuple[int, dict[str, str], Any]:
    with send(server, method, path, query, headers, user, body) as response:
        raw = response.read()
        found = {name.lower(): value for name, value in response.headers.items()}
    is_json = found.get("content-type") == "application/json"
    return response.status, found, json.loads(raw) if is_json else raw.decode()


class Replay:
    """One case against one server. `names` maps recorded uids, versions, names and tokens to those of the fake."""

    def __init__(self, case: Json, server: FakeApiServer) -> None:
        self.case, self.server = case, server
        self.names: dict[str, str] = {}
        self.answers: list[Any] = []
        self.problems: list[str] = []

    def own(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.names.get(value, value)
        if isinstance(value, list):
            return [self.own(part) for part in value]
        return {name: self.own(part) for name, part in value.items()} if isinstance(value, dict) else value

    def text(self, value: str) -> str:
        """A message in the fake's names; what only the recording knows is cut out."""
        for recorded, own in self.names.items():
            if len(recorded) > 8:
                value = value.replace(recorded, own)
        value = re.sub(r'patch: Invalid value: "\{.*\}": ', "patch: Invalid value: …: ", value, flags=re.DOTALL)
        value = re.sub(r'^Invalid value: "\{.*\}": ', "Invalid value: …: ", value, flags=re.DOTALL)
        value = re.sub(r'(Event )"([a-z]+[-.])\w{5}"', r'\1"\2…"', value)
        value = re.sub(r"(too old resource version: \d+) \(\d+\)", r"\1 (…)", value)
        return re.sub(r"(current: )\d+", r"\1…", value)

    def learn(self, recorded: Any, own: Any) -> None:
        if not isinstance(recorded, dict) or not isinstance(own, dict):
            return
        for name in ("uid", "resourceVersion", "name", "continue"):
            left = (recorded.get("metadata") or {}).get(name)
            right = (own.get("metadata") or {}).get(name)
            if left and right:
                self.names[left] = right
        for left, right in zip(recorded.get("items") or [], own.get("items") or [], strict=False):
            self.learn(left, right)

    def check(self, step: int, what: str, recorded: Any, own: Any) -> None:
        if recorded != own:
            self.problems.append(f"step {step}: {what}\n  recorded {recorded}\n  fake     {own}")

    def run(self) -> None:
        for number, step in enumerate(self.case["steps"]):
            name = self.case["case"]
            self.answers.append(None)
            chosen(BEFORE, name, number)(self.server)
            if "request" not in step or (name, number) in SKIPPED_STEPS:
                continue
            if "events" in step["response"]:
                self.watch(number, step)
            else:
                self.exchange(number, step)

    def arguments(self, request: Json, query: Json) -> tuple[Any, ...]:
        body = request.get("bodyText")
        if "body" in request:
            body = json.dumps(self.own(request["body"]))
        path = "/".join(self.names.get(part, part) for part in request["path"].split("/"))
        return request["method"], path, query, request.get("headers") or {}, request["user"], body

    def exchange(self, number: int, step: Json) -> None:
        request, recorded = step["request"], step["response"]
        query = self.own(request.get("query") or {})
        status, headers, body = exchange(self.server, *self.arguments(request, query))
        self.answers[number] = body
        self.check(number, "status", recorded["status"], status)
        for name in ("warning", "retry-after"):
            self.check(number, name, (recorded["headers"] or {}).get(name), headers.get(name))
        media = recorded["headers"].get("content-type", "").partition(";")[0]
        self.check(number, "content type", media, headers["content-type"].partition(";")[0])
        if (same := recorded.get("bodySameAsStep")) is not None:
            earlier = self.answers[same]
            if earlier is not None:
                self.check(number, f"body as in step {same}", *(timeless(one) for one in (earlier, body)))
            return
        self.compare(number, recorded.get("body"), body)
        self.learn(recorded.get("body"), body)

    def compare(self, number: int, recorded: Any, own: Any) -> None:
        if not isinstance(recorded, dict) or not isinstance(own, dict):
            if not (isinstance(recorded, str) and recorded.startswith("<")):
                self.check(number, "body", recorded, own)
            return
        self.check(number, "kind", recorded.get("kind"), own.get("kind"))
        if recorded.get("kind") == "Status":
            self.compare_status(number, recorded, own)
            return
        if "items" in recorded:
            for name in ("remainingItemCount",):
                self.check(number, name, recorded["metadata"].get(name), own["metadata"].get(name))
            self.check(number, "continue", "continue" in recorded["metadata"], "continue" in own["metadata"])
            for left, right in zip(recorded["items"], own["items"], strict=False):
                self.compare(number, left, right)
            if "left out" not in json.dumps(recorded):
                self.check(number, "number of items", len(recorded["items"]), len(own["items"]))
            return
        for name in ("spec", "note", "series", "regarding", "data", "gitVersion"):
            if name in recorded or name in own:
                self.check(number, name, self.own(recorded.get(name)), own.get(name))
        self.check(number, "metadata", visible(recorded), visible(own))

    def compare_status(self, number: int, recorded: Json, own: Json) -> None:
        start = OWN_WORDS.get((self.case["case"], number))
        for name in ("status", "reason", "code"):
            self.check(number, name, recorded.get(name), own.get(name))
        if start is not None:
            assert own["message"].startswith(start)
            return
        self.check(number, "message", self.text(recorded.get("message", "")), self.text(own.get("message", "")))
        details, found = recorded.get("details"), own.get("details")
        self.check(number, "details", bare(details), bare(found))
        self.check(number, "causes", self.causes(details), self.causes(found))
        self.check(number, "metadata", sorted(recorded["metadata"]), sorted(own["metadata"]))

    def causes(self, details: Json | None) -> list[str]:
        rows = (details or {}).get("causes") or []
        return sorted(json.dumps({name: self.text(value) for name, value in row.items()}) for row in rows)

    def watch(self, number: int, step: Json) -> None:
        """A watch is ended by the test, not by its timeout."""
        request, recorded = step["request"], step["response"]
        query = self.own(request["query"])
        given = request["query"].get("resourceVersion", "")
        if given.isdigit() and len(given) == 4 and given not in self.names:
            query["resourceVersion"] = str(self.server.store.version)
        with send(self.server, *self.arguments(request, query)) as response:
            self.check(number, "status", recorded["status"], response.status)
            chosen(DURING, self.case["case"], number)(self.server)
            wanted = recorded["events"]
            events: list[Json] = []
            while len(events) < len(wanted):
                events.append(json.loads(response.readline()))
            self.server.close_watches()
            events += [json.loads(line) for line in response]
        self.check(number, "events", [one["type"] for one in wanted], [one["type"] for one in events])
        for left, right in zip(wanted, events, strict=False):
            self.compare(number, left["object"], right["object"])
            self.learn(left["object"], right["object"])


def bare(details: Json | None) -> Json | None:
    """Details without causes, and without what differs by run."""
    if details is None:
        return None
    found = {name: value for name, value in details.items() if name not in ("causes", "uid")}
    if "name" in found:
        found["name"] = re.sub(r"^([a-z]+[-.])\w{5}$", r"\1…", found["name"])
    return found


def visible(body: Json) -> Json:
    metadata = body.get("metadata") or {}
    found = {name: metadata.get(name) for name in ("labels", "annotations", "finalizers")}
    found["deleting"] = "deletionTimestamp" in metadata
    found["managedFields"] = entries(metadata)
    return found


def entries(metadata: Json) -> list[str]:
    rows = [{k: v for k, v in row.items() if k != "time"} for row in metadata.get("managedFields") or []]
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def timeless(body: Any) -> Any:
    if isinstance(body, dict) and "metadata" in body and body.get("kind") != "Status":
        metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        return {**body, "metadata": {**metadata, "managedFields": entries(body["metadata"])}}
    return body


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running


@pytest.mark.skipif(not FILE, reason="FORECASTER_APISERVER_TRANSCRIPTS names no file of recordings")
@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_the_fake_answers_as_recorded(case: Json, server: FakeApiServer) -> None:
    if reason := reason_not_replayed(case["case"]):
        pytest.skip(reason)
    replay = Replay(case, server)
    replay.run()
    assert not replay.problems, "\n".join(replay.problems)
    AGREE.add(case["case"])


@pytest.mark.skipif(not FILE, reason="FORECASTER_APISERVER_TRANSCRIPTS names no file of recordings")
def test_every_case_is_replayed_or_left_out_for_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    names = [case["case"] for case in CASES]
    for start in NOT_REPLAYED:
        assert any(name.startswith(start) for name in names), f"no case begins with {start}"
    left_out = [name for name in names if reason_not_replayed(name)]
    with capsys.disabled():
        print(f"\n{len(AGREE)} of {len(names)} recorded cases agree in this process, {len(left_out)} are not replayed")
