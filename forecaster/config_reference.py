"""The reference of the configuration for people and its JSON Schema for editors, made from the tree itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from forecaster.config_entries import Entry, entries
from forecaster.config_tree import Config
from forecaster.config_written import show_flag

EXAMPLE = """\
prometheus:
  url: http://prometheus:9090
  bearerTokenFile: /run/secrets/prom/token
step: 1m
interval: 15s
history: 28d
store: sqlite:////var/lib/forecaster/forecaster.db
workloads:
  - name: checkout
    load: sum(rate(http_requests_total{app="checkout"}[1m]))
    timezone: Europe/Berlin
    scale:
      hpa: shop/checkout
      capacityPerReplica: 120        # load at which one replica is full
      leadTime: auto
      risk: 1%                       # share of time allowed above capacity
      mode: recommend
      bounds: {minReplicas: 2, maxReplicas: 40}
      schedule:
        - {cron: "0 8 * * 1-5", duration: 10h, minReplicas: 6}
    resources:
      - name: memory
        usage: sum(container_memory_working_set_bytes{pod=~"checkout-.*"})
        limit: sum(kube_pod_container_resource_limits{resource="memory", pod=~"checkout-.*"})
  - forEach: [namespace, app]        # a template: one workload for each combination of labels, read by one query
    load: sum by (namespace, app) (rate(http_requests_total[1m]))
    scale: {hpa: "{namespace}/{app}", capacityPerReplica: 120}
alarms:
  falseAlarmsPerWorkloadPerWeek: 0.1
  webhooks:
    - {name: on-call, url: "https://hooks.example.com/forecaster", secretFile: /run/secrets/hooks/key}
"""

_INTRODUCTION = f"""\
# Configuration reference

Generated from `forecaster/config_tree.py` and `config_workloads.py`. A file with everything that is used most:

```yaml
{EXAMPLE}```

**Durations** are whole numbers with units, largest first: `28d`, `1h30m`, `15s`, `500ms`. **Quantities** are numbers
with or without a Kubernetes suffix: `120`, `1.5k`, `250m`, `2Gi`. **Percentages** are written `1%` or `0.01`.
Everything has a default but what is marked *required*. Unknown and repeated keys are errors.

**Errors** come one a line, in the order of the file: `FILE:LINE:COLUMN: path.of.field: VALUE what is wrong: write X`.

**Reload.** The file is read again when its content changes, between two cycles. A bad one keeps the old configuration.
What is not beneath `workloads`, save the alarm budget, takes effect after a restart.

**Environment.** `FORECASTER_` and the path of a single value in capitals, words parted by `_`, levels by `__`,
overrides the file: `FORECASTER_STEP=30s`, `FORECASTER_PROMETHEUS__URL`, `FORECASTER_SERVER__PORT`,
`FORECASTER_PROMETHEUS__BASIC_AUTH__PASSWORD_FILE`. Lists only come from the file. Unknown variables are errors.

**Secrets** stand in files that this one names, or in the environment, never in this file.

**Editors** complete and check the file with `forecaster/config.schema.json`; for the YAML language server begin it
with `# yaml-language-server: $schema=PATH/config.schema.json`.
"""


def render_reference() -> str:
    """docs/configuration-reference.md."""
    parts = [_INTRODUCTION]
    for title, section in _sections(Config, ""):
        heading = f"## {title}" if title else "## Top level"
        parts.append("\n".join([heading, "", _sentence(section), "", *_table(section)]) + "\n")
    return "\n".join(parts)


def _sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, section
    for one in entries(section):
        if one.section is not None:
            yield from _sections(one.section, f"{path}{'.' if path else ''}{one.key}{'[]' if one.is_list else ''}")


def _sentence(section: type[BaseModel]) -> str:
    if section is Config:
        return "Everything that can be set."
    return " ".join((section.__doc__ or "").split())


def _table(section: type[BaseModel]) -> list[str]:
    rows = [(f"`{one.key}`", _how(one), _default(one), one.text) for one in entries(section)]
    cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return ["| key | how to write it | default | meaning |", "|---|---|---|---|", *(f"| {row} |" for row in cells)]


def _how(entry: Entry) -> str:
    one = "section" if entry.section is not None else entry.written.how if entry.written else ""
    return f"list of {one}s" if entry.is_list and entry.section else f"list of {one}" if entry.is_list else one


def _default(entry: Entry) -> str:
    if entry.required:
        return "*required*"
    if entry.default is None and entry.written is not None and " " in entry.default_text:
        return entry.default_text  # words, not a value
    return f"`{entry.default_text}`" if entry.default_text else "–"


# --- JSON Schema -----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file. Editors check form with it; ranges and PromQL are checked on loading."""
    sections = {section.__name__: section for _, section in _sections(Config, "") if section is not Config}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Forecaster configuration",
        **_object(Config),
        "$defs": {name: _object(section) for name, section in sections.items()},
    }


def _object(section: type[BaseModel]) -> dict[str, Any]:
    required = [one.key for one in entries(section) if one.required]
    return {
        "type": "object",
        "description": _sentence(section),
        "additionalProperties": False,
        "properties": {one.key: _property(one) for one in entries(section)},
        **({"required": required} if required else {}),
    }


def _property(entry: Entry) -> dict[str, Any]:
    if entry.section is not None:
        one: dict[str, Any] = {"$ref": f"#/$defs/{entry.section.__name__}"}
    else:
        assert entry.written is not None
        one = dict(entry.written.schema)
    schema = {"type": "array", "items": one} if entry.is_list else one
    if entry.default_text and " " not in entry.default_text and not entry.is_list:
        assert entry.written is not None
        is_plain = entry.default is not None and entry.written.show in (str, show_flag)
        schema = {**schema, "default": entry.default if is_plain else entry.default_text}
    return {**schema, "description": entry.text}
