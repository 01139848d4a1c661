"""What the command line hands to the actuator's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.errors import InputError
from serving.actuator import wiring
from serving.actuator.policy import Rules
from serving.actuator.run import Settings

ROOT = Path(__file__).resolve().parents[3]


def asked(**more: object) -> wiring.Asked:
    told = {"context": "it", "token_file": None, **more}
    return wiring.Asked(
        url="http://forecaster:8080",
        token_file=told["token_file"],  # type: ignore[arg-type]
        cluster=wiring.Cluster(None, told["context"], "forecaster"),  # type: ignore[arg-type]
        settings=Settings(True, Rules(0.3, 30.0), 7, 2.5, ("shop", None)),
        host="127.0.0.1",
        port=-1,
        verbose=True,
    )


def test_all_options_arrive() -> None:
    assert wiring.Asked.of_json(asked().to_json()) == asked()


def test_what_is_wrong_is_said_before_the_process_changes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--token-file"):
        wiring.become(asked(token_file=str(tmp_path / "absent")), {})
    with pytest.raises(InputError, match="no API server is known"):
        wiring.become(asked(context=None), {"HOME": str(tmp_path)})


def test_the_process_is_small_and_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{current-context: it, contexts: [{name: it, context: {cluster: c}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}"
    )
    command = [sys.executable, "-m", "serving.cli", "actuate", "--url", "forecaster", "--kubeconfig", str(kubeconfig)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("forecaster: --url: 'forecaster' is not a URL")
    loaded = "import sys, serving.actuator.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, env=environ, check=True)
    assert not {"typer", "rich", "pydantic", "numpy", "click"} & set(done.stdout.split())
