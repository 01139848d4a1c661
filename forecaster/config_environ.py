"""`FORECASTER_…` variables that override single values of the file. The environment is an argument, never read here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from forecaster import config_yaml
from forecaster.config_entries import Entry, scalars
from forecaster.config_problems import Problem
from forecaster.config_yaml import Path as Loc

PREFIX = "FORECASTER_"
# Variables that others of us read: the command line, and the tests.
_OURS = frozenset(PREFIX + name for name in ("CONFIG", "TOKEN", "URL", "HPA_VECTORS", "APISERVER_TRANSCRIPTS"))
# Kubernetes tells each pod of the services beside it, of one called "forecaster" too; a port of it is tcp://…
_SERVICE_LINK = re.compile(r"FORECASTER_(SERVICE_|PORT_)|FORECASTER_\w*_(SERVICE_HOST|SERVICE_PORT|PORT_\d+_(TCP|UDP))")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


@cache
def variables() -> Mapping[str, tuple[Entry, ...]]:
    """Every variable, and the way down to what it sets."""
    return {PREFIX + "__".join(one.name.upper() for one in way): way for way in scalars()}


def overrides(
    data: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[Loc, str], list[Problem]]:
    """`data` with the values of `environ` in it, which variable each path came from, and what is wrong with them.

    `data` itself is left alone, for aliases may share its parts.
    """
    merged = dict(data)
    sources: dict[Loc, str] = {}
    problems: list[Problem] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or _is_other(name, environ[name]):
            continue
        way = variables().get(name)
        if way is None:
            problems.append(_unknown(name))
            continue
        try:
            value = _value(way[-1], environ[name])
        except config_yaml.YamlError:
            problems.append(Problem((), "is not a mapping", "{Name: text}", variable=name))
            continue
        path = tuple(one.key for one in way)
        if _put(merged, path, value):
            sources[path] = name
    return merged, sources, problems


def _is_other(name: str, value: str) -> bool:
    if name in _OURS or _SERVICE_LINK.match(name):
        return True
    return name.endswith("_PORT") and _SERVICE_URL.match(value) is not None


def _value(entry: Entry, text: str) -> Any:
    is_mapping = entry.written is not None and entry.written.schema.get("type") == "object"
    return config_yaml.parse(text).data if is_mapping else text


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> bool:
    """Sets it, in copies of the mappings above; False where the file has no mapping there, which is reported anyway."""
    for key in path[:-1]:
        below = data.get(key, {})
        if not isinstance(below, Mapping):
            return False
        data[key] = dict(below)
        data = data[key]
    data[path[-1]] = value
    return True


def _unknown(name: str) -> Problem:
    bare = {known.replace("_", ""): known for known in variables()}
    found = difflib.get_close_matches(name.replace("_", ""), bare, n=1, cutoff=0.7)
    deeper = [known for known in variables() if known.endswith("__" + name.removeprefix(PREFIX))]
    write = (
        deeper[0]
        if len(deeper) == 1
        else bare[found[0]]
        if found
        else "one that the configuration reference names, or remove the line"
    )
    if name.startswith("FORECASTER_WORKLOADS"):
        write = "workloads in the file"
    return Problem((), "this variable is not known", write, variable=name)
