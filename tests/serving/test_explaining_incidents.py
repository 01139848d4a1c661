"""`forecaster explain --incident`: the digits of an incident, recomputed from the store and over REST."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forecaster.anomaly import account, grouping
from forecaster.anomaly.grouping import Groups
from forecaster.domain import Incident
from forecaster.errors import InputError
from serving import explaining_incidents as explaining
from serving.cli import app
from serving.client import Client
from serving.store import Store
from tests.forecaster.anomaly.test_account import lived
from tests.serving.page import scenes
from tests.serving.publications import NOW, incident


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Incident, dict[str, object]]:
    """A store with a real incident of two series, the incident, and its accounts."""
    before, seen, found = lived(0.3)
    now = datetime.fromtimestamp(seen.now, UTC)
    made = grouping.step(Groups(), found.opened, now, 300.0, 5)
    one = next(one for one in made.opened if one.workload == "checkout")
    records = dict(account.accounts(before, seen, found, 0.1, 300.0))
    file = str(tmp_path_factory.mktemp("store") / "f.db")
    store = Store(file)
    store.put_incidents([one, replace(incident("rule"), kind="data_fault", score=0.0, threshold=0.0)])
    store.put_accounts(records, now)
    store.close()
    return file, one, records  # type: ignore[return-value]


def run(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["explain", *args])
    return done.exit_code, done.output


def test_every_digit_is_recomputed_from_the_store(stored: tuple[str, Incident, dict[str, object]]) -> None:
    file, one, _ = stored
    assert len(one.parts) >= 2
    code, text = run("--incident", one.id, "--store", file)
    assert code == 0, text
    assert "every digit is the same, bit by bit" in text and one.sentence in text
    for part in one.parts:
        assert f"checkout {part.role} (residual, up)" in text and f"{part.score:.4f}" in text
    code, text = run("--incident", one.id, "--store", file, "--json")
    told = json.loads(text)
    assert code == 0 and told["same"] and told["schemaVersion"] == 1
    assert [each["told"] == each["recomputed"] for each in told["series"]] == [True] * len(one.parts)


@pytest.mark.parametrize("name", ["score", "expected_low", "expected_high", "threshold", "observed"])
def test_a_digit_that_was_altered_is_found(
    stored: tuple[str, Incident, dict[str, object]], tmp_path: Path, name: str
) -> None:
    _, one, records = stored
    worst = replace(one.parts[0], **{name: getattr(one.parts[0], name) * (1 + 1e-12)})
    store = Store(str(tmp_path / "f.db"))
    store.put_incidents([replace(one, parts=(worst, *one.parts[1:]))])
    store.put_accounts(records, NOW)  # type: ignore[arg-type]
    store.close()
    code, text = run("--incident", one.id, "--store", str(tmp_path / "f.db"))
    assert code == 1 and "RECOMPUTED DIFFERENTLY" in text and name in text and "bit by bit" not in text


def test_what_is_told_of_the_whole_must_be_that_of_its_worst_series(
    stored: tuple[str, Incident, dict[str, object]],
) -> None:
    _, one, records = stored
    assert explaining.explained(one, records).same  # type: ignore[arg-type]
    assert not explaining.explained(replace(one, score=one.score + 1), records).same  # type: ignore[arg-type]


def test_an_incident_without_an_account_is_not_said_to_be_sound(
    stored: tuple[str, Incident, dict[str, object]],
) -> None:
    _, one, records = stored
    some = {one.parts[0].id: records[one.parts[0].id]}
    made = explaining.explained(one, some)  # type: ignore[arg-type]
    assert not made.same and "NOT RECOMPUTED" in explaining.as_text(made)


def test_a_fault_of_the_data_has_no_digits(stored: tuple[str, Incident, dict[str, object]]) -> None:
    code, text = run("--incident", "rule", "--store", stored[0])
    assert code == 0 and "opened by a rule" in text and "bit by bit" not in text


def test_a_common_cause_names_the_incidents_of_its_workloads() -> None:
    one = incident("a")
    fleet = replace(one, id="c", kind=grouping.COMMON_CAUSE, workload="*", parts=(one.part(),))
    assert "checkout: forecaster explain --incident a" in explaining.as_text(explaining.explained(fleet, {}))


def test_what_is_not_there_or_not_named_is_said(stored: tuple[str, Incident, dict[str, object]]) -> None:
    with pytest.raises(InputError, match="no incident 'nope' is stored"):
        explaining.from_store(stored[0], "nope")
    for arguments in ([], ["checkout", "--incident", "x"]):
        done = CliRunner().invoke(app, ["explain", *arguments])
        assert done.exit_code != 0 and isinstance(done.exception, InputError)


@pytest.fixture
def service(stored: tuple[str, Incident, dict[str, object]]) -> Iterator[Client]:
    found = scenes.edges(scenes.made(("checkout", "b")))
    found.store.put_incidents([stored[1], replace(incident("b"), threshold=2.0)])
    found.store.put_accounts(stored[2], NOW)  # type: ignore[arg-type]
    with scenes.served(found) as url:
        yield Client(url)


def test_over_rest_it_is_the_same(service: Client, stored: tuple[str, Incident, dict[str, object]]) -> None:
    file, one, _ = stored
    over_rest = explaining.from_service(service, one.id)
    assert over_rest.same and over_rest.incident == one
    assert explaining.as_text(over_rest) == explaining.as_text(explaining.from_store(file, one.id))
    assert explaining.from_service(service, "b").incident.expected_high != 0  # NaN travels as null
