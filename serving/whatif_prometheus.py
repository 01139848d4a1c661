"""Loads of the configured workloads from Prometheus, for `forecaster whatif --config`, with their HPAs as they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import capacity_facts, grid
from forecaster.cluster_facts import with_hpas
from forecaster.config import Config
from forecaster.domain import LOAD, FloatArray, HpaFacts, IntArray, Samples, Workload
from forecaster.errors import InputError, SourceError
from forecaster.history import History
from forecaster.ports import MetricSource
from forecaster.prometheus import PrometheusSource
from forecaster.scaling.deciding import Deciding, Scaled, target_ratio
from forecaster.scaling.hpa import SYNC_SECONDS, Behavior
from forecaster.scaling.whatif.play import trace
from forecaster.scaling.whatif.report import Recorded
from forecaster.scaling.whatif.trial import Hpa, Trial, trial_of
from serving.actuator import hpas
from serving.actuator.kube import Json, Kube, KubeError
from serving.hpa_manifest import Manifest, manifest_of, with_behavior
from serving.hpa_reader import access_of, facts_of
from serving.whatif import Wanted

logger = logging.getLogger(__name__)

_REPLICAS = "kube_horizontalpodautoscaler_status_current_replicas"


def from_prometheus(
    config: Config,
    now: datetime,
    start_ups: Sequence[int],
    manifests: Sequence[Manifest] = (),
    environ: Mapping[str, str] | None = None,
) -> Wanted:
    """Each workload that scales an HPA; `start_ups` empty: the lead time of each. Raises InputError.

    kube-state-metrics does not tell `behavior`: it comes from `manifests`, else from the API server where the
    configuration reads HPAs there (`kubernetes:`, with the `environ` of a pod), else the HPA is simulated without.
    """
    if config.prometheus is None:
        raise InputError("prometheus: no url is configured: write it, or --data FILE")
    where = None if environ is None or manifests else access_of(config.kubernetes, environ)
    kube = None if where is None else Kube(where)
    source = PrometheusSource(config.prometheus)
    try:
        return _wanted(config, source, now, start_ups, _Behaviors(manifests, kube))
    except SourceError as error:
        raise InputError(f"prometheus.url: {error}") from error
    finally:
        source.close()
        if kube is not None:
            kube.close()


class _Behaviors:
    """Where the `behavior` of an HPA is known from."""

    def __init__(self, manifests: Sequence[Manifest] = (), kube: Kube | None = None) -> None:
        self._manifests, self._kube = manifests, kube
        self._known: dict[tuple[str, str], Json | None] = {}

    def check(self, hpas: Sequence[tuple[str, str]]) -> None:
        """Raises InputError for a manifest that no workload scales."""
        for one in self._manifests:
            if not any(one.is_of(*hpa) for hpa in hpas):
                raise InputError(f"--hpa: no workload scales {one.namespace or '*'}/{one.name}: write the HPA of one")

    def of(self, namespace: str, name: str) -> Behavior | None:
        """None where it has none, or where nobody tells. Raises InputError for one that the API would refuse."""
        for one in self._manifests:
            if one.is_of(namespace, name):
                return one.behavior
        told = self._told(namespace, name)
        return None if told is None else manifest_of(told, f"{namespace}/{name}").behavior

    def facts(self, namespace: str, name: str) -> HpaFacts | None:
        """What the API server says: the user's own minimum and target, where ours stand in the HPA."""
        told = self._told(namespace, name)
        try:
            return None if told is None else facts_of(hpas.parse(told))
        except ValueError as error:
            raise InputError(f"{namespace}/{name}: {error}") from error

    def _told(self, namespace: str, name: str) -> Json | None:
        key = namespace, name
        if self._kube is not None and key not in self._known:
            try:
                self._known[key] = self._kube.get_hpa(namespace, name)
            except KubeError as error:
                logger.warning("HPA %s/%s cannot be read, it is simulated without behavior: %s", namespace, name, error)
                self._known[key] = None
        return self._known.get(key)


def _wanted(
    config: Config, source: MetricSource, now: datetime, start_ups: Sequence[int], behaviors: _Behaviors | None = None
) -> Wanted:
    behaviors = _Behaviors() if behaviors is None else behaviors
    learns = any(
        spec.scale is not None and spec.scale.capacity_per_replica is None and spec.scale.capacity_query is None
        for spec in config.specs()
    )
    span = capacity_facts.SPAN if learns else timedelta(hours=1)
    history = History(config.specs(), config.step, span, config.interval)
    reading = history.read(source, now)
    before = history.backlog + 1
    while learns and 0 < history.backlog < before:  # a capacity that nobody wrote down is learned from the past
        before = history.backlog
        reading = history.read(source, now)
    rows = {key.workload: i for i, key in enumerate(reading.context.fine.keys) if key.role == LOAD}
    scaled = Deciding(config.interval).gather(
        reading.workloads, rows, reading.facts, reading.capacity, reading.learned, reading.newest
    )
    behaviors.check([(one.scale.namespace, one.scale.hpa) for one in scaled])
    out = Wanted(recorded={})
    step = int(config.step.total_seconds())
    end = grid.floor_to(now.timestamp(), step)
    answers: dict[str, Samples] = {}
    for one in scaled:
        name = one.workload.name
        query = one.workload.spec.load
        if query not in answers:
            begin = end - int(config.history.total_seconds()) // step * step
            answers[query] = source.range(query, _utc(begin), _utc(end), config.step)
        why = _refused(one)
        load = None if why else _series(answers[query], one.workload)
        if why or load is None:
            out.left_out.append((name, f"{name}: {why or 'no_data: its load gives no series'}"))
            continue
        seen = behaviors.facts(one.scale.namespace, one.scale.hpa)
        if seen is not None:
            one = replace(one, facts=seen if one.facts is None else with_hpas({"": one.facts}, {"": seen})[""])
        hpa = with_behavior(_hpa(one), behaviors.of(one.scale.namespace, one.scale.hpa))
        _add(out, source, one, hpa, answers[query].times, load, step, start_ups)
    if not out.trials:
        why = out.left_out[0][1] if out.left_out else "no workload scales an HPA: write scale: under one"
        raise InputError(f"workloads: {why}")
    return out


def _refused(one: Scaled) -> str | None:
    """Why nothing can be said of a workload; the HPA stays reactive."""
    if one.hpa_fault is not None:
        return f"hpa_invalid: {one.hpa_fault}"
    if one.capacity is None:
        reason = one.capacity_reason
        return "capacity_unknown" if reason is None else f"{reason.code.value}: {reason.detail}"
    if one.facts is None and one.scale.bounds.max_replicas is None:
        return f"hpa_not_found: nothing is known of {one.scale.namespace}/{one.scale.hpa}: is kube-state-metrics there?"
    return None


def _add(
    out: Wanted,
    source: MetricSource,
    one: Scaled,
    hpa: Hpa,
    times: IntArray,
    load: FloatArray,
    step: int,
    start_ups: Sequence[int],
) -> None:
    out.kinds[one.workload.name] = ("",)
    out.scales[one.workload.name] = one.scale
    name, known = one.workload.name, np.flatnonzero(np.isfinite(load))
    if not len(known):
        out.left_out.append((name, f"{name}: no_data: every sample of its load is missing"))
        return
    times, load = times[known[0] :], load[known[0] :]
    lead = max(math.ceil(one.lead_time.total_seconds() / SYNC_SECONDS) * int(SYNC_SECONDS), step)
    for start_up in start_ups or (lead,):
        try:
            trial = trial_of(name, times, load, step, start_up, capacity=one.capacity, hpa=hpa)
        except InputError as error:
            out.left_out.append((name, str(error)))
            continue
        out.trials.append(trial)
        if out.recorded is not None and name not in out.recorded:
            out.recorded[name] = compared(trial, *_replicas(source, one, trial))


def _hpa(one: Scaled) -> Hpa:
    facts, bounds = one.facts, one.scale.bounds
    ratio = target_ratio(one)
    own = None if facts is None else facts.users_own if facts.users_own is not None else facts.min_replicas
    low = own if own is not None else bounds.min_replicas
    high = facts.max_replicas if facts is not None and facts.max_replicas is not None else bounds.max_replicas
    assert high is not None
    return Hpa(round(100 * ratio), 300.0, 1 if low is None else low, high)


def _series(answer: Samples, workload: Workload) -> FloatArray | None:
    """The one series of a plain workload, or that with the labels of a template's."""
    for labels, values in zip(answer.labels, answer.values, strict=True):
        if all(labels.get(name) == value for name, value in workload.labels.items()):
            return np.asarray(values, dtype=np.float64)
    return None


# --- simulated beside recorded ---------------------------------------------------------------------------------------


def _replicas(source: MetricSource, one: Scaled, trial: Trial) -> tuple[IntArray, FloatArray]:
    """(times, replicas) of the HPA over the test part, as kube-state-metrics has them; empty where it has none."""
    query = f'max({_REPLICAS}{{namespace="{one.scale.namespace}",horizontalpodautoscaler="{one.scale.hpa}"}})'
    begin, end = int(trial.times[trial.cut]), int(trial.times[trial.end - 1])
    answer = source.range(query, _utc(begin), _utc(end), timedelta(seconds=trial.step))
    if not len(answer.values):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return answer.times, np.asarray(answer.values[0], dtype=np.float64)


def compared(trial: Trial, times: IntArray, recorded: FloatArray) -> Recorded:
    """The user's HPA, simulated over the test part, beside `recorded` at `times` (n,)."""
    simulated = trace(trial, trial.service(), None).replicas[0]
    begin = int(trial.times[trial.cut]) - trial.step
    place = (times - begin) // int(SYNC_SECONDS) - 1
    known = np.isfinite(recorded) & (place >= 0) & (place < len(simulated))
    if not known.any() or not recorded[known].mean() > 0:
        return Recorded(math.nan, 0)
    off = np.abs(simulated[place[known]] - recorded[known]).mean() / recorded[known].mean()
    return Recorded(float(off), int(known.sum()))


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
