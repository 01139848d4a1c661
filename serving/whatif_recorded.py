"""`forecaster whatif --recorded`: the log of a running service from its store, over the load in Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from forecaster.errors import InputError
from forecaster.scaling import decision
from forecaster.scaling.record import from_json
from forecaster.scaling.whatif import peaks
from forecaster.scaling.whatif.hours import tick_times
from forecaster.scaling.whatif.shadow import Issued, Shadow, shadow_of
from forecaster.scaling.whatif.trial import CUT, DAY, TEST_DAYS, Trial, trial_of
from serving.loop import DECISION_EVERY
from serving.store import Store, StoredDecision, existing
from serving.whatif import Wanted, mixture_of

_AT_ONCE = 2_000  # decisions in memory: each holds all that it rested on
_BEFORE = timedelta(hours=1)  # what was said before the first tick may stand in it


def shadows(url: str | None, wanted: Wanted) -> tuple[Shadow, ...]:
    """One for each trial whose log is long enough; the others are left out with their reason.

    Raises InputError: no store, or no log that is long enough.
    """
    if not url:
        raise InputError("--recorded: the configuration names no store:, so nothing that the service said was kept")
    existing(url)
    store = Store(url)
    try:
        found, why = [], []
        for one in wanted.trials:
            trial = recent(one)
            try:
                found.append(_shadow(store, trial, wanted))
            except InputError as error:
                why.append((one.name, str(error)))
    finally:
        store.close()
    if not found:
        raise InputError(f"--recorded: {why[0][1]}" if why else "--recorded: no workload can be judged")
    wanted.left_out += why
    return tuple(found)


def recent(trial: Trial) -> Trial:
    """The same service with the newest days as its test part; a receipt's own may end long before the log begins."""
    most = round(TEST_DAYS / (1 - CUT) * DAY) // trial.step
    if len(trial.values) <= most:
        return trial
    return trial_of(
        trial.name,
        trial.times[-most:],
        trial.values[-most:],
        trial.step,
        trial.start_up,
        capacity=trial.capacity,
        hpa=trial.hpa,
    )


def _shadow(store: Store, trial: Trial, wanted: Wanted) -> Shadow:
    times = tick_times(trial)
    since, until = (datetime.fromtimestamp(int(at), UTC) for at in (times[0], times[-1]))
    log = [_issued(one) for one in _stored(store, trial.name, since - _BEFORE, until)]
    if store.degraded is not None:
        raise InputError(f"store: {store.name}: {store.degraded}")
    (said,) = mixture_of([trial], [trial.start_up])
    return shadow_of(trial, peaks.on_ticks(trial, said, 0), log[::-1], wanted.scales[trial.name], DECISION_EVERY)


def _stored(store: Store, workload: str, since: datetime, until: datetime) -> Iterator[StoredDecision]:
    """All of a workload, newest first."""
    while page := store.decisions(workload, until, _AT_ONCE, since):
        yield from page
        until = page[-1].at - timedelta(milliseconds=1)


def _issued(one: StoredDecision) -> Issued:
    said: Mapping[str, Any] = one.decision
    inputs = from_json(decision.DecisionInput, one.record["inputs"])
    valid = timedelta(microseconds=said["valid_for"])
    whole = decision.validity(inputs.spec, inputs.lead_time)
    return Issued(one.at.timestamp(), said["floor"], valid.total_seconds(), valid >= whole)
