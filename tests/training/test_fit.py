"""The fit loop: it learns, goes on after a stop as if there had been none, and runs on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.inputs import CANDIDATES, DISTRIBUTIONS, IS_PEAK, LEVELS, POINTS, QUERY, SERIES
from models.loss import peak_weights
from models.network import CandidateMixer, NetworkConfig
from training.fit import FitConfig, RandomOrder, device_of, fit, loss_of, rate_at
from training.windows import Examples, Sampling, SeriesGroup, examples_of

CPU = torch.device("cpu")
SMALL = NetworkConfig(SERIES, QUERY, width=16, encoder_blocks=1, decoder_width=16, decoder_blocks=1)


def examples(count: int = 256, seed: int = 0) -> Examples:
    """The target is what the first input says, and a little noise: easy to learn, and no candidate tells it."""
    rng = np.random.default_rng(seed)
    series = rng.normal(size=(count, SERIES)).astype(np.float16)
    target = 2 * series[:, :1].astype(np.float32) + rng.normal(0, 0.1, (count, 3)).astype(np.float32)
    target[0, 0] = np.nan
    return Examples(
        series=series,
        query=rng.normal(size=(count, 3, QUERY)).astype(np.float16),
        points=np.zeros((count, 3, POINTS), dtype=np.float16),
        spreads=np.zeros((count, 3, DISTRIBUTIONS, len(LEVELS)), dtype=np.float16),
        available=np.ones((count, 3, CANDIDATES), dtype=np.bool_),
        target=target,
        kind=np.zeros(count, dtype=np.int16),
    )


def network(seed: int = 0) -> CandidateMixer:
    torch.manual_seed(seed)
    return CandidateMixer(SMALL)


def test_it_learns() -> None:
    one, data = network(), examples()
    before = loss_of(one, data, CPU).mean()
    told: list[int] = []
    weights = fit(
        one,
        RandomOrder(data, 0),
        FitConfig(steps=300, batch=64, average=0.95),
        CPU,
        lambda step, figures: told.append(step),
    )
    one.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    assert loss_of(one, data, CPU).mean() < 0.3 * before
    assert told == [100, 200, 300]


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    data, config = examples(), FitConfig(steps=40, batch=32)
    whole = fit(network(), RandomOrder(data, 0), config, CPU)
    seen = 0

    def stopped() -> bool:
        nonlocal seen
        seen += 1
        return seen == 17

    path = tmp_path / "checkpoint.safetensors"
    fit(network(), RandomOrder(data, 0), config, CPU, checkpoint=path, stopped=stopped)
    rest = fit(network(seed=9), RandomOrder(data, 0), config, CPU, checkpoint=path)  # its own weights do not matter
    for name, array in whole.items():
        np.testing.assert_allclose(rest[name], array, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path, begin = tmp_path / "checkpoint.safetensors", FitConfig(steps=1)
    save_file({"network/x": torch.zeros(1)}, path, {"version": "99", "step": "1"})
    with pytest.raises(ValueError, match="checkpoint of version 99"):
        fit(network(), RandomOrder(examples(), 0), begin, CPU, checkpoint=path)
    path.write_bytes(b"not this")
    with pytest.raises(ValueError, match="is no checkpoint"):
        fit(network(), RandomOrder(examples(), 0), begin, CPU, checkpoint=path)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    data = examples()
    data.series[:] = np.inf
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        fit(network(), RandomOrder(data, 0), FitConfig(steps=5), CPU)


def test_mixed_precision_learns_too() -> None:
    one, data = network(), examples()
    before = loss_of(one, data, CPU).mean()
    weights = fit(one, RandomOrder(data, 0), FitConfig(steps=200, batch=64, average=0.95), CPU, amp=True)
    one.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    assert loss_of(one, data, CPU).mean() < 0.5 * before


def test_the_rate_warms_up_and_anneals() -> None:
    config = FitConfig(steps=1_000, peak_rate=1.0, warm_up=0.1)
    rates = [rate_at(step, config) for step in range(1_000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(1.0) and rates[-1] < 0.02
    assert np.argmax(rates) in (99, 100)


def test_auto_finds_a_device() -> None:
    assert device_of("auto").type in ("cpu", "cuda", "mps")
    assert device_of("cpu") == CPU


def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    """torchrun with gloo: each process sees other examples, gradients are averaged."""
    script = (
        "import sys, numpy as np, torch\n"
        "from tests.training.test_fit import CPU, examples, network\n"
        "from training.fit import FitConfig, Processes, RandomOrder, fit\n"
        "torch.set_num_threads(1)\n"
        "group = Processes.joined(CPU)\n"
        "assert group.world == 2\n"
        "weights = fit(network(), RandomOrder(examples(), 0, group), FitConfig(steps=10, batch=32), CPU)\n"
        "np.savez(f'{sys.argv[1]}/rank{group.rank}.npz', **weights)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    (tmp_path / "run.py").write_text(script)
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "run.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other = np.load(tmp_path / "rank0.npz"), np.load(tmp_path / "rank1.npz")
    alone = fit(network(), RandomOrder(examples(), 0), FitConfig(steps=10, batch=32), CPU)
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    assert any(not np.allclose(one[name], alone[name]) for name in one.files)  # it did see other examples


def test_upper_levels_of_a_peak_count_as_much_as_its_median() -> None:
    levels = torch.tensor([0.05, 0.5, 0.8, 0.99])
    weights = peak_weights(torch.tensor([True, False]), levels)
    assert weights[0].tolist() == pytest.approx([1.0, 1.0, 1.25, 5.0252], rel=1e-3)
    assert weights[1].tolist() == [1.0] * 4


def test_the_inputs_say_where_a_peak_is_asked() -> None:
    sampling = Sampling(origins=2, horizons=3, peaks=2)
    rng = np.random.default_rng(0)
    group = SeriesGroup(rng.uniform(1, 2, size=(2, 600)), 300, 300)
    made = examples_of(group, sampling, rng)
    assert len(made)
    assert (made.query[:, :, IS_PEAK] == [0, 0, 0, 1, 1]).all()
