"""The product's kinds as a detector of the benchmark: causal, alone as together, in the table."""

from __future__ import annotations

import numpy as np

from forecaster.anomaly.causes import KINDS as CAUSES
from training.anomalies.causes import Causes, scored
from training.anomalies.workloads import KINDS, run_of

BY_NAME = {kind.name: kind for kind in KINDS}


def test_a_score_rests_on_the_rows_before_it() -> None:
    observed = run_of(BY_NAME["none"], 1, 0).observed
    whole = scored([observed.until(400)])
    cut = scored([observed.until(300)])
    for kind in CAUSES:
        np.testing.assert_array_equal(whole[kind][:, :300], cut[kind])


def test_workloads_do_not_meet_in_their_scores() -> None:
    them = [run_of(BY_NAME["none"], 1, i).observed.until(300) for i in range(2)]
    together = Causes().scores_of_all(them)
    np.testing.assert_array_equal(together[1], Causes().workload_scores(them[1]))
    assert not np.isnan(together[0][100:]).all()
