"""What only a GPU can show: the same numbers as on the CPU, checkpoints across devices, nccl. Skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from forecaster.domain import Calendar, Context, ForecastRequest, SeriesBatch, SeriesKey
from models.artifact import bundled
from models.network import TorchNetwork, network_of
from models.neural import Neural
from tests.training.test_fit import CPU, examples, network
from training.fit import FitConfig, RandomOrder, fit, loss_of
from training.tune import TuneConfig, fine_tune
from training.windows import SeriesGroup

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = torch.device("cuda")
STEP = 60
ROOT = Path(__file__).parents[2]


def daily(rows: int, days: int) -> np.ndarray:
    """(rows, time) loads with a daily wave and noise."""
    rng = np.random.default_rng(3)
    hours = np.arange(days * 86_400 // STEP) * STEP / 3_600
    wave = 100 + 50 * np.sin(2 * np.pi * (hours[None, :] + rng.uniform(0, 24, (rows, 1))) / 24)
    return np.asarray(wave * (1 + 0.05 * rng.standard_normal(wave.shape)), dtype=np.float32)


def context(rows: int) -> Context:
    keys, values = tuple(SeriesKey(str(row)) for row in range(rows)), daily(rows, 3)
    now = datetime(2026, 3, 4, tzinfo=UTC)
    coarse = values.reshape(rows, -1, 5).mean(axis=2)
    return Context(
        fine=SeriesBatch(keys, now, timedelta(seconds=STEP), values[:, -2_000:]),
        coarse=SeriesBatch(keys, now, timedelta(seconds=5 * STEP), coarse),
        calendar=Calendar(("UTC",) * rows),
    )


def test_forecasts_are_those_of_the_cpu() -> None:
    one = bundled()
    asked = ForecastRequest(np.array([1, 5, 60, 600]), (0.1, 0.5, 0.9), np.full(8, 4))
    here = Neural(one).forecast(context(8), asked)
    there = Neural(one, TorchNetwork(one, "cuda")).forecast(context(8), asked)
    size = np.abs(here.values).mean()
    np.testing.assert_allclose(there.values, here.values, rtol=1e-3, atol=1e-3 * size)
    np.testing.assert_allclose(there.peak, here.peak, rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_it_learns(amp: bool) -> None:
    one, data = network(), examples()
    before = loss_of(one, data, GPU).mean()
    weights = fit(one, RandomOrder(data, 0), FitConfig(steps=300, batch=64, average=0.95), GPU, amp=amp)
    one.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    assert loss_of(one, data, GPU).mean() < 0.4 * before


def test_the_fit_sees_the_examples_that_the_cpu_sees() -> None:
    data, config = examples(), FitConfig(steps=20, batch=32)
    here = fit(network(), RandomOrder(data, 0), config, CPU)
    there = fit(network(), RandomOrder(data, 0), config, GPU)
    for name, array in here.items():
        np.testing.assert_allclose(there[name], array, rtol=1e-2, atol=1e-3)


def test_a_run_that_was_stopped_goes_on_on_the_gpu_or_on_the_cpu(tmp_path: Path) -> None:
    data, config = examples(), FitConfig(steps=40, batch=32)
    whole = fit(network(), RandomOrder(data, 0), config, GPU)
    for device in (GPU, CPU):
        seen = 0

        def stopped() -> bool:
            nonlocal seen
            seen += 1
            return seen == 17

        path = tmp_path / f"{device.type}.safetensors"
        fit(network(), RandomOrder(data, 0), config, GPU, checkpoint=path, stopped=stopped)
        rest = fit(network(seed=9), RandomOrder(data, 0), config, device, checkpoint=path)
        for name, array in whole.items():
            np.testing.assert_allclose(rest[name], array, rtol=1e-2, atol=1e-3)


def test_a_loss_that_is_no_number_ends_the_fit_there_too() -> None:
    data = examples()
    data.target[:] = np.inf
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(network(), RandomOrder(data, 0), FitConfig(steps=5), GPU)


def test_fine_tuning_helps_or_gives_the_artifact_back() -> None:
    group = SeriesGroup(daily(6, 12), STEP, 1_767_225_600)
    config = TuneConfig(fit=FitConfig(steps=60, batch=64, peak_rate=4e-4), examples=2_000, replay_groups=1, rounds=2)
    told: list[float] = []
    made = fine_tune(
        bundled(),
        [group],
        config=config,
        seed=1,
        device=GPU,
        report=lambda step, figures: told.append(figures["held_loss"]),
    )
    network_of(made)
    assert len(told) >= 2 and np.isfinite(told).all()


def test_torchrun_takes_nccl(tmp_path: Path) -> None:
    script = (
        "import torch\n"
        "from tests.training.test_fit import examples, network\n"
        "from training.fit import FitConfig, Processes, RandomOrder, device_of, fit, left\n"
        "device = device_of('cuda')\n"
        "group = Processes.joined(device)\n"
        "assert torch.distributed.get_backend() == 'nccl'\n"
        "fit(network(), RandomOrder(examples(), 0, group), FitConfig(steps=40, batch=32), device)\n"
        "assert device.index == group.rank\n"
        "left()\n"
    )
    (tmp_path / "run.py").write_text(script)
    count = str(torch.cuda.device_count())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    done = subprocess.run(
        [*launch, str(tmp_path / "run.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
