"""Writes the pages and the JSON Schema that are made from the code; `--check` only says which are out of date.

A test runs the check, so the pages and the code cannot drift apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from forecaster.config import json_schema, render_reference
from forecaster.reasons import ADVICE, ReasonCode

ROOT = Path(__file__).resolve().parent.parent


def reasons() -> str:
    """docs/reasons.md: every code of the closed list, what it means and what to do."""
    rows = [f"| `{code}` | {ADVICE[code][0]} | {ADVICE[code][1]} |" for code in ReasonCode]
    head = [
        "# Reason codes",
        "",
        "Whenever something is missing, held back or bound, one of these codes says why: in `reasons` of REST answers,",
        "in `forecaster_workload_status{reason}` and in the output of `forecaster check`. The list is closed: alerts",
        "and scripts may rely on it. Generated from `forecaster/reasons.py`.",
        "",
        "| code | meaning | what to do |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def schema() -> str:
    """forecaster/config.schema.json, which is shipped in the package."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


PAGES = {
    "docs/reasons.md": reasons,
    "docs/configuration-reference.md": render_reference,
    "forecaster/config.schema.json": schema,
}


def main(check: bool) -> int:
    stale = [name for name, make in PAGES.items() if _text(ROOT / name) != make()]
    for name in stale:
        if check:
            print(f"{name} is out of date: run python tools/generate_docs.py", file=sys.stderr)
        else:
            (ROOT / name).write_text(PAGES[name]())
            print(f"wrote {name}")
    return 1 if check and stale else 0


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
