"""Reads the configuration: a YAML file and the environment become one frozen tree, or a list of what is wrong.

Owns the file, the environment's overrides and the checks that need the text as it was written (secrets, repeated keys
and names). `config_tree.py` owns the keys and their ranges. No secret is read here, only where one lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forecaster import config_values as values
from forecaster import config_yaml
from forecaster.config_environ import overrides
from forecaster.config_problems import Place, Problem, of_error, shown
from forecaster.config_reference import json_schema, render_reference
from forecaster.config_tree import Config, PrometheusConfig
from forecaster.config_yaml import Document, YamlError
from forecaster.errors import InputError

__all__ = ["Config", "PrometheusConfig", "json_schema", "load_config", "render_reference"]

MOST_PROBLEMS = 10  # lines of one refusal
_SECRET_HEADER = re.compile(r"authorization|cookie|token|secret|password|api-?key", re.IGNORECASE)


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in `path`, overridden by `FORECASTER_…` of `environ`.

    Raises InputError with a line for each problem: FILE:LINE:COLUMN: path.of.field: VALUE what is wrong: write X
    """
    try:
        document = config_yaml.parse(_text(path))
    except YamlError as error:
        raise InputError(f"{path}:{error.mark.line}:{error.mark.column}: {error}") from None
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise InputError(f"{path}:1:1: the file is {shown(data)}: write keys and values, such as workloads: []")
    problems = [*_repeated_keys(document), *_secrets(data)]
    data, variables, wrong = overrides(data, environ)
    problems += [*wrong, *_whole(data)]
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems += of_error(error)
    if problems:
        raise InputError(_told(problems, Place(path, document, variables)))
    return config


def _text(path: Path) -> str:
    """The file's text. Raises InputError."""
    try:
        with path.open("rb") as file:
            content = file.read(config_yaml.LARGEST + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file: name the configuration with --config FILE") from None
    except IsADirectoryError:
        raise InputError(f"{path}: this is a directory: name the file in it") from None
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "its name is not one"
        raise InputError(f"{path}: the file cannot be read: {words}") from None
    if len(content) > config_yaml.LARGEST:
        raise InputError(f"{path}: the file is larger than {config_yaml.LARGEST >> 20} MiB: write templates (forEach)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{path}:{line}:{column}: the byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from None


def _told(problems: list[Problem], place: Place) -> str:
    lines = list(dict.fromkeys(line for _, line in sorted(place.line(problem) for problem in problems)))
    rest = len(lines) - MOST_PROBLEMS
    more = [f"{place.path}: and {rest} more like these"] if rest > 0 else []
    return "\n".join(lines[:MOST_PROBLEMS] + more)


# --- checks of the text ----------------------------------------------------------------------------------------------


def _repeated_keys(document: Document) -> Iterator[Problem]:
    for path, second, first in document.repeated:
        yield Problem(path, f"the key stands in line {first.line} already", "remove one of the two", mark=second)


def _secrets(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Secrets that stand in the file itself. Whoever may read a ConfigMap would read them."""
    prometheus = data.get("prometheus")
    prometheus = prometheus if isinstance(prometheus, Mapping) else {}
    url = prometheus.get("url")
    if isinstance(url, str) and re.match(r"[^/?#]*://[^/?#]*@", url):
        write = "basicAuth: {username: …, passwordFile: …} beside it, or FORECASTER_PROMETHEUS__URL in the environment"
        hidden = re.sub(r"://.*@", "://***@", url)
        yield Problem(("prometheus", "url"), "holds a user or password", write, hidden)
    headers = prometheus.get("headers")
    for name in headers if isinstance(headers, Mapping) else ():
        if _SECRET_HEADER.search(name):
            write = "it into bearerTokenFile, or FORECASTER_PROMETHEUS__HEADERS in the environment"
            yield Problem(("prometheus", "headers", name), "this header is a secret", write)
    mlflow = data.get("mlflow")
    for path, text, variable in (
        (("store",), data.get("store"), "FORECASTER_STORE"),
        (("mlflow", "trackingUri"), isinstance(mlflow, Mapping) and mlflow.get("trackingUri"), ""),
    ):
        if isinstance(text, str) and values.has_password(text):
            write = f"it without, and the whole into {variable or 'FORECASTER_MLFLOW__TRACKING_URI'} in the environment"
            yield Problem(path, "holds a password", write, values.redacted(text))


def _whole(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What one entry cannot see: names that repeat, and workloads without a Prometheus."""
    entries = data.get("workloads")
    if not isinstance(entries, list):
        return
    if entries and "prometheus" not in data:
        yield Problem(("prometheus",), "is missing", "prometheus: {url: http://prometheus:9090}")
    seen: dict[str, int] = {}
    for i, entry in enumerate(entries):
        name = _name(entry)
        if name in seen:
            path = ("workloads", i, "name") if "name" in entry else ("workloads", i)
            yield Problem(path, f"is the name of workloads[{seen[name]}] already", "another name", shown(name))
        elif name is not None:
            seen[name] = i


def _name(entry: object) -> str | None:
    """The name that the entry will have."""
    if not isinstance(entry, Mapping):
        return None
    name, labels = entry.get("name"), entry.get("forEach")
    if name is None and isinstance(labels, list) and labels:
        name = "/".join(f"{{{label}}}" for label in labels)
    return name if isinstance(name, str) else None
