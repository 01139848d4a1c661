"""What people read of a retrain job."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.fake_network import network_artifact
from training import report
from training.promote import Gate, Verdict

VERDICT = Verdict((), math.log(0.9), math.log(0.95), 60, {"a": 0.8, "b": 1.02})


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.picture(tmp_path / "gate.png", VERDICT, Gate())
    assert (tmp_path / "gate.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_names_what_was_measured_and_why_it_was_held() -> None:
    text = report.model_card(network_artifact(), VERDICT)
    assert "| gate_loss_ratio | 0.9 |" in text and text.endswith("Promoted.\n")
    assert report.model_card(network_artifact(), Verdict(("too few days",))).endswith("Held: too few days.\n")
