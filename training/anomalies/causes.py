"""The product's kinds with a cause as a detector of workloads: usage given load, peers, and memory towards its limit.

It runs the code of the live service, `forecaster.anomaly.causes`, step by step over many workloads at once; the score
of a workload is the highest over its kinds and resources. Faults of the data are no matter of this detector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.anomaly import causes
from forecaster.domain import FloatArray, IntArray
from training.anomalies.workloads import Observed

BUDGET = 0.1  # false alarms a week of the incidents whose samples are not learned from
CPU, MEMORY = "cpu", "memory"


class Causes:
    """Scores workloads by `kinds`, all of them unless given."""

    def __init__(self, kinds: Sequence[str] = causes.KINDS) -> None:
        self._kinds = tuple(kinds)

    def workload_scores(self, observed: Observed) -> FloatArray:
        """See WorkloadDetector."""
        return self.scores_of_all([observed])[0]

    def scores_of_all(self, them: Sequence[Observed]) -> list[FloatArray]:
        """`workload_scores` of each; all of one length and step. They learn from each other only what a fleet may:
        thresholds while they are young."""
        by_kind = scored(them)
        return [np.fmax.reduce([by_kind[kind][i] for kind in self._kinds]) for i in range(len(them))]


def scored(them: Sequence[Observed]) -> dict[str, FloatArray]:
    """Kind -> (workload, n) scores, the highest over CPU and memory. All of one length and step."""
    count, n, step = len(them), len(them[0].times), them[0].step
    if any(len(one.times) != n or one.step != step for one in them):
        raise ValueError("workloads that are scored together are of one length and step")
    keys = [f"{i}#0/{role}" for i in range(count) for role in (CPU, MEMORY)]
    load, replicas = (np.repeat(np.stack(part), 2, axis=0) for part in _shared(them))
    usage = np.stack([series for one in them for series in (one.cpu, one.memory)])
    limit = np.array([bound for one in them for bound in (np.nan, one.memory_limit)])
    pods = np.concatenate([one.pods for one in them])
    row = np.concatenate([np.full(len(one.pods), 2 * i, dtype=np.int64) for i, one in enumerate(them)])
    names = tuple(f"pod-{i}" for one in them for i in range(len(one.pods)))
    quiet = np.zeros(2 * count, dtype=np.bool_)
    times: IntArray = np.stack([one.times for one in them])
    if (times != times[0]).any():
        raise ValueError("workloads that are scored together are on one grid")
    out = {kind: np.full((count, n), np.nan) for kind in causes.KINDS}
    state = causes.start(keys)
    for j in range(n):
        seen = causes.Seen(
            now=int(times[0, j]),
            load=load[:, j],
            usage=usage[:, j],
            limit=limit,
            replicas=replicas[:, j],
            masked=quiet,
            faulty=quiet,
            pods=causes.Pods(names, row, pods[:, j]),
        )
        found = causes.follow(state, seen, BUDGET, step)
        state = found.state
        for kind, score in found.scores.items():
            out[kind][:, j] = np.fmax(score[0::2], score[1::2])
    return out


def _shared(them: Sequence[Observed]) -> tuple[list[FloatArray], list[FloatArray]]:
    return [one.load for one in them], [one.replicas for one in them]
