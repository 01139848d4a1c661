"""Merge patch (RFC 7396), JSON patch (RFC 6902), and bodies of an apply (JSON, or YAML as far as plain blocks go)."""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.apiserver.errors import bad_request, rejected
from tests.apiserver.fields import Json


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merge_patch(found.get(name), value)
    return found


def strategic_patch(target: Json, patch: Json) -> Json:
    """As a merge patch, for no list of these kinds is joined by strategic merge; its `$` directives are dropped."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if not name.startswith("$")}
        return value

    merged: Json = merge_patch(target, plain(patch))
    return merged


def json_patch(target: Json, operations: Any) -> Json:
    """Error 400 where this is no list of operations, 422 where one cannot be carried out."""
    if not isinstance(operations, list):
        kind = "object" if isinstance(operations, dict) else "string"
        text = f"json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp"
        raise bad_request(f"error decoding patch: {text}")
    document = copy.deepcopy(target)
    for operation in operations:
        verb, path = operation.get("op"), pointer(operation.get("path", ""))
        value = copy.deepcopy(operation.get("value"))
        if verb == "test":
            if not same(lookup(document, path), value):
                raise rejected()
        elif verb == "remove":
            take(document, path)
        elif verb == "replace":
            lookup(document, path)
            put(document, path, value, insert=False)
        elif verb == "add":
            put(document, path, value, insert=True)
        elif verb in ("move", "copy"):
            source = pointer(operation.get("from", ""))
            moved = copy.deepcopy(lookup(document, source))
            if verb == "move":
                take(document, source)
            put(document, path, moved, insert=True)
        else:
            raise rejected()
    return document


def same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def pointer(text: str) -> list[str]:
    if not text.startswith("/"):
        raise rejected()
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def index(holder: list[Any], part: str, end: int) -> int:
    if not part.isdigit() or int(part) >= end:
        raise rejected()
    return int(part)


def lookup(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list):
            document = document[index(document, part, len(document))]
        else:
            raise rejected()
    return document


def take(document: Any, path: list[str]) -> None:
    holder = lookup(document, path[:-1])
    lookup(document, path)
    del holder[index(holder, path[-1], len(holder)) if isinstance(holder, list) else path[-1]]


def put(document: Any, path: list[str], value: Any, *, insert: bool) -> None:
    holder = lookup(document, path[:-1])
    if isinstance(holder, dict):
        holder[path[-1]] = value
    elif isinstance(holder, list) and insert:
        holder.insert(len(holder) if path[-1] == "-" else index(holder, path[-1], len(holder) + 1), value)
    elif isinstance(holder, list):
        holder[index(holder, path[-1], len(holder))] = value
    else:
        raise rejected()


def applied_body(raw: bytes) -> tuple[Json, list[str]]:
    """The object of an apply and the keys that it has twice. Error 400 where it is neither JSON nor plain YAML."""
    twice: list[str] = []

    def pairs(rows: list[tuple[str, Any]]) -> Json:
        seen: Json = {}
        for name, value in rows:
            if name in seen:
                twice.append(name)
            seen[name] = value
        return seen

    text = raw.decode()
    try:
        body = json.loads(text, object_pairs_hook=pairs) if text.strip() else {}
    except ValueError:
        body = plain_yaml(text)
    if not isinstance(body, dict):
        raise bad_request("error decoding YAML: error unmarshaling JSON: the body is no object")
    return body, twice


def plain_yaml(text: str) -> Json:
    """YAML of nested block mappings with plain scalars; anything else is refused as broken."""
    root: Json = {}
    levels: list[tuple[int, Json]] = [(-1, root)]
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        name, colon, value = line.strip().partition(":")
        if not colon or value.strip()[:1] in ("{", "[", "|", ">", "&", "*") or name.startswith(("-", "{")):
            problem = "yaml: line 1: did not find expected ',' or '}'"
            raise bad_request(f"error decoding YAML: error converting YAML to JSON: {problem}")
        while levels[-1][0] >= indent:
            levels.pop()
        if value.strip():
            try:
                levels[-1][1][name] = json.loads(value)
            except ValueError:
                levels[-1][1][name] = value.strip()
        else:
            inner: Json = {}
            levels[-1][1][name] = inner
            levels.append((indent, inner))
    return root
