"""The alert rules load in a real Prometheus' eyes, fire when they should, and name metrics and reasons that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.reasons import ReasonCode
from serving.metrics_text import FAMILIES

RULES = Path(__file__).resolve().parents[2] / "deploy" / "base" / "rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The rules as Prometheus takes them, and their cases beside them."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text())["spec"]))
    shutil.copy(CASES, tmp_path)
    return tmp_path


def promtool(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *args], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.prometheus
def test_promtool_takes_the_rules(folder: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_rules_fire_when_they_should_and_only_then(folder: Path) -> None:
    done = promtool("test", "rules", CASES.name, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_the_cases_would_notice_a_rule_that_says_nothing(folder: Path) -> None:
    rules = folder / "rules.yaml"
    rules.write_text(
        rules.read_text().replace("forecaster_cycle_age_seconds > 300", "forecaster_cycle_age_seconds > 1e9")
    )
    assert promtool("test", "rules", CASES.name, cwd=folder).returncode != 0


def test_every_alert_on_the_service_has_a_case() -> None:
    def alerts(groups: Any) -> set[str]:
        return {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}

    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    ours = alerts(group for group in groups if group["name"] != "forecaster-actuator")
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {one["alertname"] for case in cases for one in case.get("alert_rule_test", ()) if one["exp_alerts"]}
    assert ours == fired


def test_rules_name_metrics_and_reasons_that_exist() -> None:
    text = RULES.read_text()
    names = set(re.findall(r"\b(forecaster_[a-z_]+|process_[a-z_]+)\b", text))
    own = {name for name in names if not name.startswith("forecaster_actuator")}
    recorded = {"forecaster_false_alarm_budget_used"}
    assert own - recorded <= FAMILIES.keys()
    (reasons,) = re.findall(r'reason=~"([^"]+)"', text)
    assert set(reasons.split("|")) <= {code.value for code in ReasonCode}
