"""The documentation says what the code does: generated pages are current, and nothing public is left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from forecaster.reasons import ReasonCode

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_reason_code_stands_in_the_docs() -> None:
    page = (DOCS / "reasons.md").read_text()
    assert [code for code in ReasonCode if f"`{code}`" not in page] == []


def test_every_verb_and_its_options_stand_in_the_docs() -> None:
    from serving.cli import app

    page = (DOCS / "cli.md").read_text()
    missing = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if f"forecaster {name}" not in page:
            missing.append(name)
        for parameter in getattr(command, "params", []):
            option = max(parameter.opts, key=len)
            if option.startswith("--") and option not in page:
                missing.append(f"{name} {option}")
    assert missing == []


def test_every_metric_stands_in_the_docs() -> None:
    page = (DOCS / "metrics.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    names = set(re.findall(r"\bforecaster_[a-z_]+_?[a-z]+\b", source))
    assert sorted(name for name in names if name not in page) == []


def test_every_route_stands_in_the_docs() -> None:
    page = (DOCS / "rest-api.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    routes = set(re.findall(r"@\w+\.(?:get|post|delete|api_route)\(\s*\"([^\"]+)\"", source))
    assert routes, "no routes found: has the way they are declared changed?"
    plain = {re.sub(r":path}", "}", route) for route in routes}
    assert sorted(route for route in plain if route not in page) == []


def test_code_in_the_documentation_is_valid_configuration(tmp_path: Path) -> None:
    from forecaster.config import load_config

    blocks = []
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        blocks += [(page.name, text) for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    for name, text in blocks:
        if "workloads:" not in text:
            continue
        file = tmp_path / "forecaster.yaml"
        file.write_text(text if "prometheus:" in text else "prometheus: {url: http://prometheus:9090}\n" + text)
        load_config(file, {})  # raises InputError, which names page and line by its text
        assert name


def test_the_links_of_the_documentation_are_sound(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_the_simulator_runs() -> None:
    text = (DOCS / "simulator.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    plain, helped = ([float(word) for word in re.findall(r"[\d.]+", line)] for line in done.stdout.splitlines())
    assert helped[1] < plain[1]
