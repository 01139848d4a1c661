"""What kube-state-metrics says of the HPAs, by way of Prometheus: one query per metric, for all HPAs at once.

Once a step the numbers of the HPAs; once an hour how long pods take from creation to Ready. Where kube-state-metrics is
missing there are no facts, and nobody is told a guess.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta

import numpy as np

from forecaster.domain import HpaFacts, Samples
from forecaster.ports import MetricSource
from forecaster.scaling.lead_time import lead_time_quantile

LEAD_TIME_LEVEL = 0.9
LEAD_TIME_SPAN = timedelta(days=14)
LEAD_TIME_EVERY = timedelta(hours=1)
KEPT = timedelta(minutes=5)  # facts outlive their absence so long: kube-state-metrics restarts too
LONGEST_START = 3_600.0  # seconds; a pod that became Ready again later (a probe that failed) is not a start
_PARENTS = {"ReplicaSet": "Deployment", "StatefulSet": "StatefulSet"}

Target = tuple[str, str, str]  # namespace, kind, name


@dataclass(slots=True)
class ClusterFacts:
    """Facts of all HPAs, renewed by `read`."""

    facts: Mapping[str, HpaFacts] = field(default_factory=dict)  # "namespace/hpa" ->
    _seen_at: dict[str, datetime] = field(default_factory=dict)
    _lead_times: dict[Target, tuple[timedelta | None, int]] = field(default_factory=dict)
    _lead_times_at: datetime | None = None

    def read(self, source: MetricSource, at: datetime, optional: bool = True) -> Mapping[str, HpaFacts]:
        """Facts at `at`. Raises SourceError where the source fails; `facts` then still holds the ones before.

        `optional` False leaves the hourly query for another time.
        """
        maxima = _by_hpa(source.instant("kube_horizontalpodautoscaler_spec_max_replicas", at))
        fresh: dict[str, HpaFacts] = {}
        if maxima:
            fresh = self._ask(source, at, maxima)
            due = self._lead_times_at is None or not (
                timedelta(0) <= at - self._lead_times_at < LEAD_TIME_EVERY
            )  # `at` can jump back
            if optional and due:
                self._lead_times_at = at
                self._lead_times = read_lead_times(source, at)
            fresh = {name: self._with_lead_time(name, one) for name, one in fresh.items()}
        for name in fresh:
            self._seen_at[name] = at
        for name, one in self.facts.items():
            if name not in fresh and at - self._seen_at[name] < KEPT:
                fresh[name] = one
        self._seen_at = {name: seen for name, seen in self._seen_at.items() if name in fresh}
        self.facts = fresh
        return fresh

    def _ask(self, source: MetricSource, at: datetime, maxima: Mapping[str, float]) -> dict[str, HpaFacts]:
        prefix = "kube_horizontalpodautoscaler_"
        minima = _by_hpa(source.instant(f"{prefix}spec_min_replicas", at))
        current = _by_hpa(source.instant(f"{prefix}status_current_replicas", at))
        query = f'{prefix}spec_target_metric{{metric_target_type="utilization"}}'
        targets = _by_hpa(source.instant(query, at), prefer=("metric_name", "cpu"))
        averages: dict[str, float] = {}
        now_average: dict[str, float] = {}
        if maxima.keys() - targets.keys():  # an HPA without a utilization target has another metric
            kind = '{metric_target_type="average"}'
            averages = _only(source.instant(f"{prefix}spec_target_metric{kind}", at))
            now_average = _only(source.instant(f"{prefix}status_target_metric{kind}", at))
        scaled = _scale_targets(source.instant(f"{prefix}info", at))
        ready: dict[Target, float] = {}
        for kind, metric in (
            ("Deployment", "kube_deployment_status_replicas_ready"),
            ("StatefulSet", "kube_statefulset_status_replicas_ready"),
        ):
            answer = source.instant(metric, at)
            for labels, value in zip(answer.labels, answer.values[:, 0], strict=True):
                if math.isfinite(value):
                    ready[labels.get("namespace", ""), kind, labels.get(kind.lower(), "")] = float(value)
        facts = {}
        for name, maximum in maxima.items():
            target = scaled.get(name)
            facts[name] = HpaFacts(
                min_replicas=_whole(minima.get(name)),
                max_replicas=_whole(maximum),
                current_replicas=_whole(current.get(name)),
                ready_replicas=None if target is None else _whole(ready.get(target)),
                target_ratio=targets[name] / 100.0 if targets.get(name, 0.0) > 0 else None,
                target_average=averages.get(name),
                current_average=now_average.get(name),
                scale_target=None if target is None else f"{target[1]}/{target[2]}",
            )
        return facts

    def _with_lead_time(self, name: str, facts: HpaFacts) -> HpaFacts:
        if facts.scale_target is None:
            return facts
        kind, _, target = facts.scale_target.partition("/")
        lead_time, pods = self._lead_times.get((name.partition("/")[0], kind, target), (None, 0))
        return replace(facts, lead_time=lead_time, lead_time_pods=pods)


def read_lead_times(source: MetricSource, at: datetime) -> dict[Target, tuple[timedelta | None, int]]:
    """Per scale target: p90 from pod creation to Ready over 14 days, and the pods that it rests on.

    None for the time where more than a tenth never became Ready. Pods are matched to their Deployment by their owner, a
    ReplicaSet named after it and a hash. kube_pod_status_ready_time is the time of the *last* change to Ready, so its
    minimum is taken, and what is far off is not counted.
    """
    span = f"[{int(LEAD_TIME_SPAN.total_seconds()) // 86400}d]"
    pod = "namespace, pod"
    owners = source.instant(
        f"max by ({pod}, owner_kind, owner_name) "
        f'(last_over_time(kube_pod_owner{{owner_kind=~"ReplicaSet|StatefulSet"}}{span}))',
        at,
    )
    if not owners.labels:
        return {}
    created = by_pod(source.instant(f"min by ({pod}) (last_over_time(kube_pod_created{span}))", at))
    ready = by_pod(source.instant(f"min by ({pod}) (min_over_time(kube_pod_status_ready_time{span}))", at))
    last: dict[tuple[str, str], float] = {}
    if created.keys() - ready.keys():
        # How long the pods that never were Ready were watched: until their last sample, to ten minutes (finer costs
        # Prometheus more than it tells us).
        last = by_pod(source.instant(f"max by ({pod}) (max_over_time(timestamp(kube_pod_created)[14d:10m]))", at))
    durations: dict[Target, list[tuple[float, bool]]] = defaultdict(list)
    now = at.timestamp()
    for labels in owners.labels:
        key = (labels.get("namespace", ""), labels.get("pod", ""))
        born = created.get(key)
        if born is None or now - born > LEAD_TIME_SPAN.total_seconds():
            continue
        kind, name = _PARENTS.get(labels.get("owner_kind", ""), ""), labels.get("owner_name", "")
        if kind == "Deployment":
            name = name.rpartition("-")[0]
        became = ready.get(key)
        if became is None:
            durations[key[0], kind, name].append((min(last.get(key, now) + 600.0, now) - born, False))
        elif 0.0 <= became - born <= LONGEST_START:
            durations[key[0], kind, name].append((became - born, True))
    found: dict[Target, tuple[timedelta | None, int]] = {}
    for target, pods in durations.items():
        seconds = lead_time_quantile(
            np.array([time for time, _ in pods]), np.array([seen for _, seen in pods]), LEAD_TIME_LEVEL
        )
        found[target] = (timedelta(seconds=seconds) if math.isfinite(seconds) else None, len(pods))
    return found


def with_hpas(facts: Mapping[str, HpaFacts], seen: Mapping[str, HpaFacts]) -> dict[str, HpaFacts]:
    """`facts` of kube-state-metrics with what the API server says in their place, field by field, where it says it."""
    merged = dict(facts)
    for name, one in seen.items():
        known = facts.get(name)
        if known is None:
            merged[name] = one
            continue
        told = {field.name: value for field in fields(one) if (value := getattr(one, field.name)) is not None}
        told.pop("lead_time_pods")  # only kube-state-metrics knows pods
        merged[name] = replace(known, **told)
    return merged


def shared_scale_targets(facts: Mapping[str, HpaFacts]) -> dict[str, tuple[str, ...]]:
    """HPAs that scale one and the same target: "namespace/hpa" -> the others on it. Refused by the decision."""
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, one in facts.items():
        if one.scale_target is not None:
            together[name.partition("/")[0], one.scale_target].append(name)
    return {
        name: tuple(sorted(other for other in names if other != name))
        for names in together.values()
        if len(names) > 1
        for name in names
    }


def _by_hpa(answer: Samples, prefer: tuple[str, str] | None = None) -> dict[str, float]:
    """ "namespace/hpa" -> value. Of several series for one HPA the one with label `prefer` counts, else the first."""
    found: dict[str, float] = {}
    preferred: set[str] = set()
    for labels, value in zip(answer.labels, answer.values[:, 0], strict=True):
        name = f"{labels.get('namespace', '')}/{labels.get('horizontalpodautoscaler', '')}"
        liked = prefer is not None and labels.get(prefer[0]) == prefer[1]
        if math.isfinite(value) and (name not in found or (liked and name not in preferred)):
            found[name] = float(value)
            if liked:
                preferred.add(name)
    return found


def _only(answer: Samples) -> dict[str, float]:
    """ "namespace/hpa" -> value, of HPAs with a single such series: of several nobody knows which the load is."""
    counts: dict[str, int] = defaultdict(int)
    for labels in answer.labels:
        counts[f"{labels.get('namespace', '')}/{labels.get('horizontalpodautoscaler', '')}"] += 1
    return {name: value for name, value in _by_hpa(answer).items() if counts[name] == 1}


def _scale_targets(answer: Samples) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for labels in answer.labels:
        namespace = labels.get("namespace", "")
        kind, name = labels.get("scaletargetref_kind", ""), labels.get("scaletargetref_name", "")
        if kind and name:
            found[f"{namespace}/{labels.get('horizontalpodautoscaler', '')}"] = (namespace, kind, name)
    return found


def by_pod(answer: Samples) -> dict[tuple[str, str], float]:
    """(namespace, pod) -> value, of an instant answer; what is no number is left out."""
    return {
        (labels.get("namespace", ""), labels.get("pod", "")): float(value)
        for labels, value in zip(answer.labels, answer.values[:, 0], strict=True)
        if math.isfinite(value)
    }


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
