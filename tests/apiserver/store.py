"""What the fake keeps: objects, their history of events, and the rules of every write."""

from __future__ import annotations

import base64
import copy
import json
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.apiserver import fields, patches
from tests.apiserver.errors import (
    ApiError,
    Problem,
    bad_request,
    conflict,
    exists,
    expired,
    field_conflict,
    forbidden_value,
    internal,
    invalid,
    invalid_options,
    invalid_value,
    not_found,
    required,
    too_long,
)
from tests.apiserver.fields import FieldConflict, Json
from tests.apiserver.kinds import (
    Kind,
    as_version,
    check_applied,
    decode_problem,
    decoded,
    from_version,
    tidy,
    unknown_fields,
)

Key = tuple[str, str]  # namespace, name
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
LIST_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Change:
    """One event of the history. `before`: the object as it was, None when it was created."""

    version: int
    kind: Kind
    type: str  # ADDED, MODIFIED, DELETED
    object: Json
    before: Json | None


@dataclass(frozen=True)
class Write:
    """What all writes have in common."""

    manager: str
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    may_create: Callable[[], None] = lambda: None  # raises where an apply to an absent object may not create it
    before_store: Callable[[Json | None, Json], None] = lambda old, new: None
    warn: Callable[[str], None] = lambda text: None


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Objects and events under one lock. `changed` wakes the watches."""

    FIRST = 1000

    def __init__(self, namespaces: set[str]) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = self.FIRST
        self.oldest = self.FIRST  # a watch from before is too old
        self.compacted = self.FIRST  # a continue token from before is too old
        self.namespaces = set(namespaces)
        self.terminating: set[str] = set()
        self.objects: dict[tuple[str, str], dict[Key, Json]] = {}
        self.history: list[Change] = []
        self.policies: list[Callable[[Kind, Json], str | None]] = []

    # --- reading ----------------------------------------------------------------------------------------------

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        with self.lock:
            return self.table(kind).get((namespace, name))

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self.find(kind, namespace, name)
        if found is None:
            raise not_found(kind.named(name))
        return copy.deepcopy(found)

    def table(self, kind: Kind) -> dict[Key, Json]:
        return self.objects.setdefault(id_of(kind), {})

    def at(self, kind: Kind, version: int) -> dict[Key, Json]:
        """All objects of a kind as they were at `version`."""
        table = dict(self.table(kind))
        for change in reversed(self.history):
            if change.version <= version:
                break
            if change.kind is not kind:
                continue
            key = key_of(change.object)
            if change.before is None:
                table.pop(key, None)
            else:
                table[key] = change.before
        return table

    def list(
        self, kind: Kind, namespace: str, chosen: Callable[[Json], bool], query: dict[str, str]
    ) -> tuple[list[Json], Json]:
        """Objects and the list's metadata."""
        with self.lock:
            version, start = self.version, ""
            wanted = query.get("resourceVersion", "")
            if wanted and not wanted.isdigit():
                raise bad_request("invalid resource version: " + unparsable("resourceVersion", wanted))
            if token := query.get("continue"):
                version, start = self.open_token(token)
            elif wanted and int(wanted) > self.version:
                causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
                text = f"Timeout: Too large resource version: {wanted}, current: {self.version}"
                details = {"causes": causes, "retryAfterSeconds": 1}
                raise ApiError(504, "Timeout", text, details, {"Retry-After": "1"})
            elif wanted and query.get("resourceVersionMatch") == "Exact":
                version = int(wanted)
                if version < self.compacted:
                    raise expired("The resourceVersion for the provided list is too old.")
            table = self.at(kind, version) if version != self.version else self.table(kind)
            found = [
                body
                for key, body in sorted(table.items())
                if namespace in ("", key[0]) and "/".join(key) > start and chosen(body)
            ]
            metadata: Json = {"resourceVersion": str(version)}
            limit = int(query.get("limit") or 0)
            if limit and len(found) > limit:
                metadata["continue"] = make_token(version, "/".join(key_of(found[limit - 1])))
                metadata["remainingItemCount"] = len(found) - limit
                found = found[:limit]
            return copy.deepcopy(found), metadata

    def open_token(self, token: str) -> tuple[int, str]:
        try:
            found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            version, start = int(found["rv"]), str(found["start"])
        except (ValueError, KeyError, TypeError) as error:
            raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error
        if version == -1:
            return self.version, start
        if version < self.compacted:
            raise expired(LIST_EXPIRED, {"continue": make_token(-1, start)})
        return version, start

    # --- writing ----------------------------------------------------------------------------------------------

    def create(self, kind: Kind, version: str, namespace: str, body: Any, write: Write) -> Json:
        body = copy.deepcopy(decoded(kind, version, body))
        metadata = body.setdefault("metadata", {})
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        self.strict(kind, version, body, write, "")
        metadata["namespace"] = namespace
        if metadata.get("generateName") and not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        new = tidy(kind, from_version(kind, body, version, None))
        return self.store_new(kind, version, namespace, new, write, None)

    def store_new(
        self, kind: Kind, version: str, namespace: str, new: Json, write: Write, applied: fields.Paths | None
    ) -> Json:
        name = new["metadata"].get("name", "")
        kind.default(new)
        new |= {"apiVersion": kind.version(kind.versions[0]), "kind": kind.kind}
        if "status" in kind.empty[kind.versions[0]]:
            new["status"] = copy.deepcopy(kind.empty[kind.versions[0]]["status"])
        with self.lock:
            if namespace not in self.namespaces:
                raise ApiError(
                    404,
                    "NotFound",
                    f'namespaces "{namespace}" not found',
                    {"name": namespace, "kind": "namespaces"},
                )
            if problems := kind.validate(new, None):
                raise kind.invalid(name, problems)
            if applied is not None:
                write.may_create()
            what = kind.named(name)
            if namespace in self.terminating:
                text = f"unable to create new content in namespace {namespace} because it is being terminated"
                cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
                details = {**what.details, "causes": [{**cause, "field": "metadata.namespace"}]}
                raise ApiError(403, "Forbidden", f'{what.title} "{name}" is forbidden: {text}', details)
            self.admit(kind, new)
            if (namespace, name) in self.table(kind):
                raise exists(what)
            metadata = new["metadata"]
            for given in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"):
                metadata.pop(given, None)
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            full = kind.version(version)
            if applied is None:
                key = fields.owner(write.manager, "Update", full)
                zero = kind.empty[version]
                managers = fields.update(
                    {},
                    key,
                    full,
                    lambda _: fields.compare(kind.shapes[version], zero, as_version(kind, new, version)),
                    now(),
                )
            else:
                managers = {fields.owner(write.manager, "Apply", full): fields.Entry(applied, full, now())}
            metadata["managedFields"] = fields.write_managers(managers)
        write.before_store(None, new)
        with self.lock:
            if (namespace, name) in self.table(kind):
                raise exists(what)
            return new if write.dry_run else self.commit(kind, "ADDED", new, None)

    def replace(self, kind: Kind, version: str, namespace: str, name: str, body: Any, write: Write) -> Json:
        """PUT."""
        body = decoded(kind, version, body)
        what = kind.named(name)
        given = body.get("metadata") or {}
        if given.get("name", name) != name:
            text = f"the name of the object ({given['name']}) does not match the name on the URL ({name})"
            raise bad_request(text)
        self.strict(kind, version, body, write, name)

        def change(live: Json) -> Json:
            if not kind.unconditional_update and not given.get("resourceVersion"):
                problem = invalid_value("metadata.resourceVersion", "0", "must be specified for an update")
                raise invalid(f'{what.title} "{name}"', what.details, [problem])
            uid = live["metadata"]["uid"]
            if given.get("uid") and given["uid"] != uid:
                key = f"/registry/{kind.resource}/{namespace}/{name}"
                text = f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: "
                text += f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {uid}"
                raise conflict(what, text)
            return from_version(kind, body, version, live)

        return self.update(kind, version, namespace, name, write, change)

    def patch(
        self,
        kind: Kind,
        version: str,
        namespace: str,
        name: str,
        content: str,
        raw: bytes,
        query: dict[str, str],
        write: Write,
    ) -> Json:
        check_patch_options(content, query)
        if content == APPLY:
            return self.apply(kind, version, namespace, name, raw, write)
        try:
            patch = json.loads(raw)
        except ValueError as error:
            raise bad_request(f"error decoding patch: {error}") from error

        def change(live: Json) -> Json:
            current = as_version(kind, live, version)
            if content == JSON_PATCH:
                patched = patches.json_patch(current, patch)
            elif content == STRATEGIC:
                patched = patches.strategic_patch(current, patch)
            else:
                patched = patches.merge_patch(current, patch)
            if problem := decode_problem(kind, version, patched):
                raise unreadable(patched, problem)
            self.strict(kind, version, patched, write, name, patched)
            return from_version(kind, patched, version, live)

        return self.update(kind, version, namespace, name, write, change)

    def strict(
        self, kind: Kind, version: str, body: Json, write: Write, name: str, patched: Json | None = None
    ) -> None:
        unknown = unknown_fields(kind, version, body)
        for field in unknown:
            if write.validation == "Strict":
                text = f"strict decoding error: unknown field {json.dumps(field)}"
                if patched is not None:
                    raise unreadable(patched, text)
                title = f"{kind.kind} in version {json.dumps(version)} cannot be handled as a {kind.kind}: "
                raise bad_request(title + text)
            if write.validation == "Warn":
                write.warn(f"unknown field {json.dumps(field)}")

    def update(
        self,
        kind: Kind,
        version: str,
        namespace: str,
        name: str,
        write: Write,
        change: Callable[[Json], Json],
        subresource: str = "",
    ) -> Json:
        """Any write but an apply: compute the new object, book the changed fields on the writer, store."""
        full = kind.version(version)
        writer = fields.owner(write.manager, "Update", full, subresource)

        def build(live: Json) -> Json:
            new = copy.deepcopy(change(copy.deepcopy(live)))
            given = (new.get("metadata") or {}).get("managedFields")
            new = self.settle(kind, live, new, subresource)
            managers = self.managers(live, given)
            if managers:
                managers = fields.update(managers, writer, full, self.difference(kind, live, new), now())
            new["metadata"]["managedFields"] = fields.write_managers(managers)
            return new

        return self.write(kind, namespace, name, write, build)

    def apply(self, kind: Kind, version: str, namespace: str, name: str, raw: bytes, write: Write) -> Json:
        """Server-side apply."""
        body, twice = patches.applied_body(raw)
        full = kind.version(version)
        for field in twice:
            text = f"line 1: key {json.dumps(field)} already set in map"
            if write.validation == "Strict":
                problem = f"error converting YAML to JSON: yaml: unmarshal errors:\n  {text}"
                raise bad_request(f"error strict decoding YAML: {problem}")
            if write.validation == "Warn":
                write.warn(text)
        if body.get("apiVersion") != full or body.get("kind") != kind.kind:
            given = body.get("apiVersion", "")
            group = given or "/"
            raise bad_request(f"invalid object type: {group}, Kind={body.get('kind', '')}")
        metadata = body.setdefault("metadata", {})
        if metadata.get("managedFields") is not None:
            raise bad_request("metadata.managedFields must be nil")
        if metadata.get("name", name) != name:
            text = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise bad_request(text)
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata |= {"name": name, "namespace": namespace}
        body.pop("status", None)  # the main resource does not take it
        check_applied(kind, version, body, f"{namespace}/{name}")
        shape = kind.shapes[version]
        claimed = frozenset(fields.leaves(shape, body)) - fields.STRIPPED
        preconditions = {key: metadata.pop(key) for key in ("uid", "resourceVersion") if metadata.get(key)}
        owner = fields.owner(write.manager, "Apply", full)
        if self.find(kind, namespace, name) is None:
            what = kind.named(name)
            if uid := preconditions.get("uid"):
                text = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                raise conflict(what, text)
            new = tidy(kind, from_version(kind, body, version, None))
            return self.store_new(kind, version, namespace, new, write, claimed)

        def build(live: Json) -> Json:
            current = as_version(kind, live, version)
            managers = self.managers(live, None)
            if not managers:  # fields from before the first apply belong to a name of their own
                first = fields.owner("before-first-apply", "Update", full)
                compare = fields.compare(shape, kind.empty[version], current)
                managers = {first: fields.Entry(compare.changed, full, now())}
            before = managers.get(owner)
            merged = fields.merge(shape, current, body)
            owned = claimed.union(*(entry.paths for key, entry in managers.items() if key != owner))
            dropped = (before.paths if before else frozenset()) - owned
            dropped &= frozenset(fields.leaves(shape, merged))
            merged = fields.without(shape, merged, dropped)
            merged["metadata"] |= preconditions
            book = {**managers, owner: fields.Entry(claimed, full, now())}
            undefaulted = from_version(kind, merged, version, live)
            difference = self.difference(kind, live, undefaulted)
            allowed = self.client_side_fields(live, version, kind) if write.manager == "kubectl" else frozenset()
            try:
                book = fields.strip(book, owner, difference, write.force)
            except FieldConflict as error:
                left = [one for one in error.conflicts if one[1] not in allowed]
                if left:
                    raise field_conflict(FieldConflict(left)) from error
                book = fields.strip(book, owner, difference, force=True)
            if not claimed:
                book.pop(owner, None)
            new = self.settle(kind, live, undefaulted, "")
            new["metadata"]["managedFields"] = fields.write_managers(book)
            return new

        return self.write(kind, namespace, name, write, build)

    def client_side_fields(self, live: Json, version: str, kind: Kind) -> fields.Paths:
        """What `kubectl apply` booked before: `kubectl apply --server-side` takes these fields without a conflict."""
        text = (live["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/last-applied-configuration")
        if not text:
            return frozenset()
        applied = json.loads(text)
        paths = frozenset(fields.leaves(kind.shapes[version], applied)) - fields.STRIPPED
        compare = fields.compare(kind.shapes[version], applied, as_version(kind, live, version))
        return paths - compare.modified - compare.removed

    def difference(self, kind: Kind, live: Json, new: Json) -> fields.Compare:
        def compare(full: str) -> fields.Difference:
            version = full.rpartition("/")[2]
            if version not in kind.shapes:
                version = kind.versions[0]
            return fields.compare(kind.shapes[version], as_version(kind, live, version), as_version(kind, new, version))

        return compare

    def managers(self, live: Json, given: Any) -> fields.Managers:
        """Those of the request where it carries a valid list, else those of the live object."""
        if given in ([], [{}]):
            return {}
        try:
            found = fields.read_managers(given)
        except (ValueError, AttributeError):
            found = {}
        return found or fields.read_managers(live["metadata"].get("managedFields"))

    def settle(self, kind: Kind, live: Json, new: Json, subresource: str) -> Json:
        """The new object with what a request cannot set, in its stored form, with defaults."""
        metadata = new.setdefault("metadata", {})
        for name in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "name", "namespace"):
            metadata.pop(name, None)
            if name in live["metadata"]:
                metadata[name] = live["metadata"][name]
        metadata.setdefault("uid", live["metadata"]["uid"])
        if subresource:
            new = {**live, "status": new.get("status", {}), "metadata": {**live["metadata"], **kept(metadata)}}
        elif "status" in live:
            new["status"] = copy.deepcopy(live["status"])
        new |= {"apiVersion": live["apiVersion"], "kind": live["kind"]}
        new = tidy(kind, new)
        kind.default(new)
        return new

    def write(self, kind: Kind, namespace: str, name: str, write: Write, build: Callable[[Json], Json]) -> Json:
        """Read, change, compare and swap; once more when somebody else wrote in between."""
        told = False
        while True:
            with self.lock:
                live = self.find(kind, namespace, name)
                if live is None:
                    raise not_found(kind.named(name))
                new = build(copy.deepcopy(live))
                self.check_version(kind, live, new)
                if problems := kind.validate(new, live):
                    raise kind.invalid(name, problems)
                self.admit(kind, new)
                if told or write.dry_run:
                    return self.swap(kind, live, new, write)
            write.before_store(copy.deepcopy(live), copy.deepcopy(new))
            told = True
            with self.lock:
                if self.find(kind, namespace, name) is live:
                    return self.swap(kind, live, new, write)

    def check_version(self, kind: Kind, live: Json, new: Json) -> None:
        given = new["metadata"].get("resourceVersion") or "0"
        current = live["metadata"]["resourceVersion"]
        if not given.isdigit():
            raise internal(f"strconv.ParseUint: parsing {json.dumps(given)}: invalid syntax")
        if given not in ("0", current):
            raise conflict(kind.named(live["metadata"]["name"]))
        new["metadata"]["resourceVersion"] = current

    def swap(self, kind: Kind, live: Json, new: Json, write: Write) -> Json:
        if without_times(new) == without_times(live):
            return copy.deepcopy(live)
        if write.dry_run:
            return new
        metadata = new["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            return self.commit(kind, "DELETED", new, live)
        return self.commit(kind, "MODIFIED", new, live)

    def delete(self, kind: Kind, namespace: str, name: str, options: Json) -> Json:
        with self.lock:
            live = self.get(kind, namespace, name)
            what = kind.named(name)
            metadata = live["metadata"]
            wanted = options.get("preconditions") or {}
            for field, text in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
                if wanted.get(field) not in (None, metadata[field]):
                    text = f"Precondition failed: {text} in precondition: {wanted[field]}, {text} in object meta: "
                    raise conflict(what, text + metadata[field])
            before = self.table(kind)[(namespace, name)]
            if metadata.get("finalizers"):
                if "deletionTimestamp" not in metadata:
                    metadata |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                    return self.commit(kind, "MODIFIED", live, before)
                return live
            self.commit(kind, "DELETED", live, before)
            details = {**what.details, "uid": metadata["uid"]}
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def admit(self, kind: Kind, new: Json) -> None:
        """Admission policies of the test: a text is a refusal."""
        for policy in self.policies:
            if text := policy(kind, copy.deepcopy(new)):
                what = kind.named(new["metadata"]["name"])
                details = {**what.details, "causes": [{"message": text}]}
                raise ApiError(422, "Invalid", f'{what.title} "{what.name}" is forbidden: {text}', details)

    def commit(self, kind: Kind, event: str, new: Json, before: Json | None) -> Json:
        self.version += 1
        new = copy.deepcopy(new)
        new["metadata"]["resourceVersion"] = str(self.version)
        key = key_of(new)
        if event == "DELETED":
            del self.table(kind)[key]
        else:
            self.table(kind)[key] = new
        self.history.append(Change(self.version, kind, event, new, before))
        self.changed.notify_all()
        return copy.deepcopy(new)


def id_of(kind: Kind) -> tuple[str, str]:
    return kind.group, kind.resource


def key_of(body: Json) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def kept(metadata: Json) -> Json:
    return {name: value for name, value in metadata.items() if name in ("resourceVersion", "uid")}


def make_token(version: int, start: str) -> str:
    body = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def without_times(body: Json) -> Json:
    found = copy.deepcopy(body)
    entries = found["metadata"].get("managedFields") or []
    rows = [{name: value for name, value in entry.items() if name != "time"} for entry in entries]
    found["metadata"]["managedFields"] = sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
    return found


def unparsable(field: str, value: str) -> str:
    quoted = json.dumps(value)
    return f"{field}: Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: invalid syntax"


def unreadable(patched: Json, problem: str) -> ApiError:
    """422: the patched object cannot be read as its kind."""
    text = json.dumps(patched, separators=(",", ":"))
    return invalid(' ""', {}, [invalid_value("patch", json.dumps(text), problem)])


def check_patch_options(content: str, query: dict[str, str]) -> None:
    if content not in (APPLY, MERGE, JSON_PATCH, STRATEGIC):
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    problems: list[Problem] = []
    manager = query.get("fieldManager", "")
    if content == APPLY and not manager:
        problems.append(required("fieldManager", "is required for apply patch"))
    if content != APPLY and "force" in query:
        problems.append(forbidden_value("force", "may not be specified for non-apply patch"))
    problems += manager_problems(manager) + dry_run_problems(query)
    if problems:
        raise invalid_options("PatchOptions", *problems)


def manager_problems(manager: str) -> list[Problem]:
    if len(manager.encode()) > 128:
        return [too_long("fieldManager", 128)]
    for place, letter in enumerate(manager):
        if not letter.isprintable():
            text = f"invalid character U+{ord(letter):04X} (at position {place})"
            return [invalid_value("fieldManager", json.dumps(manager), text)]
    return []


def dry_run_problems(query: dict[str, str]) -> list[Problem]:
    word = query.get("dryRun")
    if word in (None, "All"):
        return []
    text = f'Unsupported value: [{json.dumps(word)}]: supported values: "All"'
    return [Problem("FieldValueNotSupported", "dryRun", text)]
