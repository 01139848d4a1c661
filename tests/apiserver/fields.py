"""Who owns which field: FieldsV1 sets, comparison of objects, server-side apply and update.

Own code after the public description of Kubernetes' structured merge (kubernetes-sigs/structured-merge-diff, README and
`merge/update.go`). A path is a tuple of FieldsV1 keys, `("f:spec", "f:minReplicas")`; a set of paths is a frozenset.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
Paths = frozenset[Path]
Json = dict[str, Any]

# Kept by the server itself, so nobody owns them.
STRIPPED: Paths = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    ]
)


@dataclass(frozen=True)
class Shape:
    """What is known of a value: `scalar` (with its Go type), `atomic`, `struct`, `map`, `set` or `list` by key."""

    kind: str
    type: str = ""  # of a scalar: string, int32, time, microtime, any
    fields: Mapping[str, Shape] = field(default_factory=dict)  # of a struct
    item: Shape | None = None  # of a map, or of a list by key
    key: str = ""  # of a list by key


def string() -> Shape:
    return Shape("scalar", "string")


def int32() -> Shape:
    return Shape("scalar", "int32")


def microtime() -> Shape:
    return Shape("scalar", "microtime")


def anything() -> Shape:
    return Shape("scalar", "any")


def atomic() -> Shape:
    return Shape("atomic")


def struct(**fields: Shape) -> Shape:
    return Shape("struct", fields=fields)


def mapping(item: Shape | None = None) -> Shape:
    return Shape("map", item=item or string())


METADATA = struct(
    name=string(),
    generateName=string(),
    namespace=string(),
    uid=string(),
    resourceVersion=string(),
    generation=anything(),
    creationTimestamp=anything(),
    deletionTimestamp=anything(),
    deletionGracePeriodSeconds=anything(),
    selfLink=string(),
    labels=mapping(),
    annotations=mapping(),
    finalizers=Shape("set"),
    ownerReferences=atomic(),
    managedFields=atomic(),
)


def children(shape: Shape, value: Any) -> Iterator[tuple[str, Any, Shape]]:
    """The parts of a container as (FieldsV1 key, value, shape); nothing for a scalar, an atomic or an absent value."""
    if shape.kind == "struct" and isinstance(value, dict):
        for name, part in value.items():
            yield f"f:{name}", part, shape.fields.get(name, anything())
    elif shape.kind == "map" and isinstance(value, dict):
        assert shape.item is not None
        for name, part in value.items():
            yield f"f:{name}", part, shape.item
    elif shape.kind == "set" and isinstance(value, list):
        for part in value:
            yield "v:" + json.dumps(part), part, anything()
    elif shape.kind == "list" and isinstance(value, list):
        assert shape.item is not None
        for part in value:
            yield "k:" + json.dumps({shape.key: part.get(shape.key)}, separators=(",", ":")), part, shape.item


def leaves(shape: Shape, value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths that an applied object claims: its leaves, empty containers, and the items of keyed lists."""
    empty = True
    for key, part, part_shape in children(shape, value):
        empty = False
        if key.startswith("k:"):
            yield (*path, key)
        yield from leaves(part_shape, part, (*path, key))
    if empty and path:
        yield path


def nodes(shape: Shape, value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path of a value, containers too."""
    if path:
        yield path
    for key, part, part_shape in children(shape, value):
        yield from nodes(part_shape, part, (*path, key))


@dataclass(frozen=True)
class Difference:
    added: Paths
    modified: Paths
    removed: Paths

    @property
    def changed(self) -> Paths:
        return self.added | self.modified


def compare(shape: Shape, old: Json, new: Json) -> Difference:
    """What differs between two objects, without the paths that the server keeps itself."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()

    def walk(part_shape: Shape, before: Any, after: Any, path: Path) -> None:
        left = {key: (value, inner) for key, value, inner in children(part_shape, before)}
        right = {key: (value, inner) for key, value, inner in children(part_shape, after)}
        if not left and not right:
            if before != after or type(before) is not type(after):
                modified.add(path)
            return
        for key in left.keys() | right.keys():
            here = (*path, key)
            if key not in left:
                added.update(nodes(right[key][1], right[key][0], here))
            elif key not in right:
                removed.update(nodes(left[key][1], left[key][0], here))
            else:
                walk(left[key][1], left[key][0], right[key][0], here)

    walk(shape, old, new, ())
    return Difference(*(frozenset(paths) - STRIPPED for paths in (added, modified, removed)))


def merge(shape: Shape, live: Any, config: Any) -> Any:
    """`config` laid over `live`: containers are merged, scalars and atomics replaced."""
    if shape.kind in ("struct", "map") and isinstance(live, dict) and isinstance(config, dict):
        merged = dict(live)
        for name, part in config.items():
            inner = shape.fields.get(name, anything()) if shape.kind == "struct" else shape.item or anything()
            merged[name] = merge(inner, live[name], part) if name in live else copy.deepcopy(part)
        return merged
    if shape.kind == "set" and isinstance(live, list) and isinstance(config, list):
        return live + [part for part in config if part not in live]
    if shape.kind == "list" and isinstance(live, list) and isinstance(config, list):
        assert shape.item is not None
        by_key = {part.get(shape.key): part for part in live}
        for part in config:
            key = part.get(shape.key)
            by_key[key] = merge(shape.item, by_key[key], part) if key in by_key else copy.deepcopy(part)
        return list(by_key.values())
    return copy.deepcopy(config)


def without(shape: Shape, value: Any, gone: Paths, path: Path = ()) -> Any:
    """`value` without the paths of `gone`."""
    if isinstance(value, dict) and shape.kind in ("struct", "map"):
        kept = {}
        for key, part, inner in children(shape, value):
            if (*path, key) not in gone:
                kept[key[2:]] = without(inner, part, gone, (*path, key))
        return kept
    if isinstance(value, list) and shape.kind in ("set", "list"):
        return [
            without(inner, part, gone, (*path, key))
            for key, part, inner in children(shape, value)
            if (*path, key) not in gone
        ]
    return copy.deepcopy(value)


def encode(paths: Paths) -> Json:
    tree: Json = {}
    for path in sorted(paths):
        node = tree
        for key in path:
            node = node.setdefault(key, {})
    for path in paths:  # a container that is itself a member, beside its parts
        node = tree
        for key in path:
            node = node[key]
        if node and "." not in node:
            node["."] = {}
    return tree


def decode(tree: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """The paths of a FieldsV1 object. ValueError where it is none."""
    if not isinstance(tree, Mapping):
        raise ValueError("FieldsV1 is no object")
    for key, inner in tree.items():
        if key == ".":
            yield path
            continue
        if key[:2] not in ("f:", "k:", "v:", "i:"):
            raise ValueError(f"missing colon or unknown path element {key!r}")
        if inner == {}:
            yield (*path, key)
        else:
            yield from decode(inner, (*path, key))


@dataclass(frozen=True, order=True)
class Owner:
    """One entry of managedFields. An Apply entry is one per manager, whatever its version."""

    operation: str
    manager: str
    version: str  # "" in the identity of an Apply entry
    subresource: str = ""

    def text(self, version: str) -> str:
        name = json.dumps(self.manager)
        if self.subresource:
            name += f" with subresource {json.dumps(self.subresource)}"
        return name if self.operation == "Apply" else f"{name} using {version}"


@dataclass
class Entry:
    paths: Paths
    version: str
    time: str


Managers = dict[Owner, Entry]


def owner(manager: str, operation: str, version: str, subresource: str = "") -> Owner:
    return Owner(operation, manager, "" if operation == "Apply" else version, subresource)


def read_managers(entries: Any) -> Managers:
    """The managers of `metadata.managedFields`. ValueError where an entry is invalid."""
    managers: Managers = {}
    for entry in entries or []:
        if not isinstance(entry, dict) or entry.get("operation") not in ("Apply", "Update"):
            raise ValueError("operation must be `Apply` or `Update`")
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1" or not entry.get("apiVersion"):
            raise ValueError("fieldsType must be `FieldsV1`")
        version = entry["apiVersion"]
        key = owner(entry.get("manager", ""), entry["operation"], version, entry.get("subresource", ""))
        managers[key] = Entry(frozenset(decode(entry.get("fieldsV1") or {})), version, entry.get("time", ""))
    return managers


def write_managers(managers: Managers) -> list[Json]:
    def order(item: tuple[Owner, Entry]) -> tuple[str, ...]:
        key, entry = item
        return (key.operation, entry.time, key.manager, entry.version, key.subresource)

    found = []
    for key, entry in sorted(managers.items(), key=order):
        row: Json = {
            "manager": key.manager,
            "operation": key.operation,
            "apiVersion": entry.version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(entry.paths),
        }
        if key.subresource:
            row["subresource"] = key.subresource
        found.append(row)
    return found


class FieldConflict(Exception):
    """An apply that is not forced and would change what others own."""

    def __init__(self, conflicts: list[tuple[str, Path]]) -> None:
        super().__init__("conflict")
        self.conflicts = conflicts  # (owner as text, path)


Compare = Callable[[str], Difference]  # by version, for an owner's set speaks of the fields of its own version


def strip(managers: Managers, workflow: Owner, difference: Compare, force: bool) -> Managers:
    """The managers after a write by `workflow`, which takes what it changes. FieldConflict unless `force`."""
    conflicts: list[tuple[str, Path]] = []
    kept: Managers = {}
    for key, entry in managers.items():
        if key == workflow:
            kept[key] = entry
            continue
        change = difference(entry.version)
        lost = entry.paths & change.changed
        conflicts += [(key.text(entry.version), path) for path in sorted(lost)]
        left = entry.paths - lost - change.removed
        if left:
            kept[key] = Entry(left, entry.version, entry.time)
    if conflicts and not force:
        raise FieldConflict(conflicts)
    return kept


def update(managers: Managers, writer: Owner, version: str, difference: Compare, now: str) -> Managers:
    """The managers after an Update (PUT, POST or any other patch): the writer owns what it changed."""
    change = difference(version)
    before = managers.get(writer)
    kept = strip({key: entry for key, entry in managers.items() if key != writer}, writer, difference, force=True)
    paths = (before.paths if before else frozenset()) - change.removed | change.changed
    if paths:
        time = now if change.changed or before is None else before.time
        kept[writer] = Entry(paths, version, time)
    return kept


def path_text(path: Path) -> str:
    return "".join(f".{key[2:]}" if key.startswith("f:") else f"[{key[2:]}]" for key in path)
