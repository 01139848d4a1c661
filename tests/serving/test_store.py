"""The store: what survives, what is refused, and what happens when the disk does not play along."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.domain import Event, Nearby, Override
from forecaster.errors import InputError, StoreError
from forecaster.rows import Rows
from serving import store as stores
from serving.delivery.notices import Message
from serving.store import MIGRATIONS, Store, StoredDecision, StoreLimits
from tests.serving.publications import NOW, incident

QUICK = StoreLimits(lock_deadline_s=0.05, lock_deadline_degraded_s=0.01)


def rows(number: float = 1.5) -> Rows:
    return Rows(("a#1/load", "b#2/cpu"), {"shift": np.array([number, np.nan]), "kind": np.array([[1], [2]], np.int32)})


def decision(minute: int, workload: str = "checkout", floor: int | None = 3) -> StoredDecision:
    at = NOW + timedelta(minutes=minute)
    return StoredDecision(workload, f"{workload}#1", at, {"inputs": {"load": "0x1p+3"}}, {"floor": floor})


def event(id: str = "e1") -> Event:
    return Event(id, "deploy", "*", NOW, NOW + timedelta(hours=1), "v2")


def test_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    file = str(tmp_path / "f.db")
    with_state = Store(file)
    with_state.save_state("calibration", 3, rows(), NOW)
    with_state.close()
    found, said = Store(file).load_states({"calibration": 3})
    assert said == []
    assert found["calibration"].keys == rows().keys
    for name, array in rows().arrays.items():
        np.testing.assert_array_equal(found["calibration"].arrays[name], array)
        assert found["calibration"].arrays[name].dtype == array.dtype


def test_state_of_another_version_is_discarded_and_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    store.save_state("calibration", 3, rows(), NOW)
    store.save_state("gone", 1, rows(), NOW)
    store.flush()
    found, said = store.load_states({"calibration": 4})
    assert found == {}
    assert len(said) == 2 and "is of version 3, this release writes 4" in said[0] + said[1]


def test_unchanged_state_is_not_written_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    assert store.save_state("calibration", 1, rows(), NOW)
    assert not store.save_state("calibration", 1, rows(), NOW)
    assert store.save_state("calibration", 1, rows(2.0), NOW)


def test_damaged_state_is_discarded_and_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    store.save_state("calibration", 1, rows(), NOW)
    store.flush()
    with sqlite3.connect(tmp_path / "f.db") as raw:
        raw.execute("UPDATE state SET body = substr(body, 1, 60)")
    raw.close()
    found, said = store.load_states({"calibration": 1})
    assert found == {} and "damaged" in said[0]


def test_objects_are_refused_as_state(tmp_path: Path) -> None:
    guilty = Rows(("a",), {"x": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="Python objects"):
        Store(str(tmp_path / "f.db")).save_state("x", 1, guilty, NOW)


def test_small_collections_survive(tmp_path: Path) -> None:
    file = str(tmp_path / "f.db")
    store = Store(file)
    override = Override("o1", "checkout", "pin", NOW, NOW + timedelta(hours=1), 3, None, "x")
    store.put_event(event())
    store.put_override(override)
    store.put_incidents([incident()])
    store.set_feedback("i1", "real")
    store.close()
    again = Store(file)
    assert again.events == {"e1": event()}
    assert again.overrides == {"o1": override}
    assert again.incidents["i1"].feedback == "real"
    assert np.isnan(again.incidents["i1"].expected_high)
    assert again.delete_override("o1") and not again.delete_override("o1")
    again.close()
    assert Store(file).overrides == {}


def test_decisions_are_found_by_time_newest_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    store.add_decisions([decision(0), decision(1, floor=None), decision(2), decision(1, "other")])
    before = store.decisions("checkout", NOW + timedelta(minutes=1))
    store.flush()
    after = store.decisions("checkout", NOW + timedelta(minutes=1))
    assert before == after == [decision(1, floor=None), decision(0)]
    assert [len(one) for one in store.floors(NOW, NOW + timedelta(minutes=2)).values()] == [3, 1]


def test_old_decisions_and_chunks_go(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    store.add_decisions([decision(0), decision(60)])
    store.put_chunks([("fine/0", 100, b"old"), ("fine/1", int(NOW.timestamp()), b"new")])
    store.flush()
    store.prune(NOW + timedelta(days=30, minutes=30), NOW)
    store.flush()
    assert [one.at for one in store.decisions("checkout")] == [NOW + timedelta(hours=1)]
    assert list(store.chunks()) == [b"new"]


def test_the_oldest_decisions_go_when_the_file_is_too_large(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"), StoreLimits(most_bytes=400_000))
    for minute in range(300):
        body = {"noise": np.random.default_rng(minute).bytes(1_500).hex()}
        store.add_decisions([StoredDecision("w", "w#1", NOW + timedelta(minutes=minute), body, {"floor": 1})])
    store.flush()
    store.prune(NOW, NOW)
    store.flush()
    left = store.decisions("w", limit=1_000)
    assert 50 < len(left) < 250
    assert left[0].at == NOW + timedelta(minutes=299)


# --- refusals at the start -------------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for url in (f"sqlite:///{tmp_path}/file/f.db", str(tmp_path), "mysql://x/y", "://", "sqlite:////proc/none/f.db"):
        with pytest.raises(InputError) as caught:
            Store(url)
        assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_release_is_refused_and_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "f.db"
    Store(str(file)).close()
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = file.read_bytes()
    with pytest.raises(InputError, match="newer release"):
        Store(str(file))
    assert file.read_bytes() == before


def test_a_store_of_the_first_schema_is_brought_up_and_keeps_its_incidents(tmp_path: Path) -> None:
    file = tmp_path / "f.db"
    numbers = dict.fromkeys(("score", "observed", "expected_low", "expected_high"), "1.5")
    texts = {name: name for name in ("id", "workload", "role", "kind", "direction", "severity", "sentence")}
    times = {"opened_at": NOW.isoformat(), "onset": NOW.isoformat(), "closed_at": None}
    with sqlite3.connect(file) as raw:
        for statement in MIGRATIONS[0]:
            raw.execute(statement.format(blob="BLOB"))
        body = json.dumps({**texts, **numbers, **times, "feedback": "real"})
        raw.execute("INSERT INTO incidents VALUES ('id', 'workload', 1, ?)", (body,))
        raw.execute("PRAGMA user_version = 1")
    raw.close()
    store = Store(str(file))
    (one,) = store.incidents.values()
    assert (one.score, one.threshold, one.feedback, one.parts, one.nearby) == (1.5, 0.0, "real", (), ())
    store.put_message(Message("m", "on-call", "incident.opened", NOW, "{}"))
    store.put_accounts({"id": {"version": 1}}, NOW)
    store.close()
    again = Store(str(file))
    assert again.messages() == [Message("m", "on-call", "incident.opened", NOW, "{}")]
    assert again.accounts(["id", "other"]) == {"id": {"version": 1}}
    again.delete_message("m")
    assert again.flush() and again.messages() == []
    again.close()


def test_incidents_come_back_with_their_evidence(tmp_path: Path) -> None:
    one = replace(incident(), expected_high=140.0, threshold=3.5, cause="c")
    one = replace(one, parts=(one.part(),), nearby=(Nearby("deploy", NOW, "deploy (v2) at 12:00 UTC"),))
    store = Store(str(tmp_path / "f.db"))
    store.put_incidents([one])
    store.close()
    again = Store(str(tmp_path / "f.db"))
    assert again.incidents == {"i1": one}
    again.close()


def test_a_damaged_file_is_refused_with_advice_and_set_aside_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "f.db"
    file.write_bytes(b"this is no database, it only looks like a file" * 200)
    with pytest.raises(StoreError, match="integrity_check"):
        Store(str(file))
    moved = stores.set_aside(str(file), datetime(2026, 3, 2, tzinfo=UTC))
    assert moved is not None and moved.name == "f.db.damaged-20260302T000000Z" and moved.exists()
    assert Store(str(file)).flush()
    assert stores.set_aside(str(tmp_path / "none.db"), NOW) is None


# --- trouble while it runs -------------------------------------------------------------------------------------------


def test_a_locked_store_degrades_and_recovers_with_nothing_lost(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"), QUICK)
    other = sqlite3.connect(tmp_path / "f.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.add_decisions([decision(0)])
    store.put_event(event())
    assert not store.flush()
    assert store.degraded is not None and "locked" in store.degraded
    store.put_event(event("e2"))
    assert store.decisions("checkout") == [decision(0)]
    other.execute("ROLLBACK")
    other.close()
    assert store.flush()
    assert store.degraded is None
    store.close()
    assert set(Store(str(tmp_path / "f.db")).events) == {"e1", "e2"}


def test_what_waits_in_memory_is_bounded_and_the_cheapest_goes_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"), StoreLimits(lock_deadline_s=0.0, most_pending_bytes=5_000))
    other = sqlite3.connect(tmp_path / "f.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.put_event(event())
    for i in range(6):
        store.put_chunks([(f"fine/{i}", i, b"x" * 2_000)])
        assert not store.flush()
    assert store._pending_bytes <= 5_000
    other.close()
    assert store.flush()
    assert len(list(store.chunks())) < 3
    store.close()
    assert set(Store(str(tmp_path / "f.db")).events) == {"e1"}


def test_a_full_disk_leaves_the_service_in_memory_until_there_is_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if not done or done.returncode != 0:
        pytest.skip("needs root and a mount of a small tmpfs")
    try:
        store = Store(str(small / "f.db"), QUICK)
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4_096) and shutil.disk_usage(small).free:
                pass
        store.put_chunks([("fine/0", 1, b"x" * 100_000)])
        store.put_event(event())
        assert not store.flush()
        assert store.degraded is not None
        assert store.events == {"e1": event()}
        filler.unlink()
        assert store.flush()
        assert store.degraded is None
        store.close()
        again = Store(str(small / "f.db"))
        assert set(again.events) == {"e1"} and list(again.chunks()) == [b"x" * 100_000]
        again.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_another_service_on_the_same_store_is_noticed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    assert store.claim("one", NOW) is None
    store.flush()
    assert store.claim("two", NOW + timedelta(seconds=20)) == "one"
    assert store.claim("two", NOW + timedelta(seconds=200)) is None


def test_one_that_ended_cleanly_is_no_other_service(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "f.db"))
    store.claim("one", NOW)
    store.flush()
    store.release("another")
    store.flush()
    assert store.claim("two", NOW + timedelta(seconds=5)) == "one"
    store.flush()
    store.release("one")  # the store is the other one's by now
    store.flush()
    assert store.claim("three", NOW + timedelta(seconds=6)) == "two"
    store.flush()
    store.release("three")
    store.flush()
    assert store.claim("four", NOW + timedelta(seconds=7)) is None


def test_what_another_process_wrote_is_taken(tmp_path: Path) -> None:
    ours, theirs = Store(str(tmp_path / "f.db")), Store(str(tmp_path / "f.db"))
    theirs.put_event(event())
    theirs.flush()
    revision = ours.revision
    ours.refresh()
    assert ours.events == {"e1": event()} and ours.revision == revision + 1
    ours.refresh()
    assert ours.revision == revision + 1
    ours.put_event(event("e2"))
    ours.refresh()
    ours.flush()
    theirs.refresh()
    assert set(theirs.events) == set(ours.events) == {"e1", "e2"}


# --- kill -9 ---------------------------------------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from datetime import UTC, datetime
import numpy as np
from forecaster.domain import Event
from forecaster.rows import Rows
from serving.store import Store, StoredDecision
file, first, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
count = 0
def failpoint(name):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
store = Store(file, failpoint=failpoint)
at = datetime(2026, 3, 2, tzinfo=UTC)
for turn in range(first, first + 50):
    value = float(turn)
    for part in ("a", "b"):  # one transaction: either both say `turn`, or neither
        store.save_state(part, 1, Rows(("k",), {"turn": np.array([value])}), at)
    store.put_event(Event(f"e{turn}", "other", "*", at, at.replace(hour=1)))
    if not store.flush():
        sys.exit(3)
    print(turn, flush=True)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_leaves_a_whole_store(tmp_path: Path) -> None:
    """One process per kill; each goes on where the one before died, through migration, rows and commit."""
    file = str(tmp_path / "f.db")
    written = -1
    for turn, kill_at in enumerate([*range(1, 16), 22, 31, 47]):
        first = 1_000 * (turn + 1)
        done = subprocess.run(
            [sys.executable, "-c", WRITER, file, str(first), str(kill_at)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        said = [int(line) for line in done.stdout.split()]
        written = said[-1] if said else written
        with sqlite3.connect(file) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()
        store = Store(file)
        found, discarded = store.load_states({"a": 1, "b": 1})
        assert discarded == []
        assert found.keys() in ({"a", "b"}, set())
        if found:
            values = {float(one.arrays["turn"][0]) for one in found.values()}
            assert len(values) == 1
            (newest,) = values
            assert newest >= written  # what was reported as written is there
            assert f"e{int(newest)}" in store.events
        else:
            assert written == -1
        store.close()
