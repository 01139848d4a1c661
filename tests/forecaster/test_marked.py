"""A marked incident leaves lags, fitting, calibration and retraining; coverage and risk count it all the same.

Retraining has its test beside the job (tests/training/test_retrain.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.cycle import Cycle
from forecaster.domain import Context, Event, FloatArray, Forecast, ForecastRequest, ScaleSpec, WorkloadSpec
from forecaster.foresight import LEVELS
from forecaster.publication import Publication
from models.persistence import Persistence
from models.profile import Profile
from tests.fakes import Curve, FakeSource, constant, daily

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BEGIN, END = NOW - timedelta(hours=24), NOW - timedelta(hours=20)
SCALE = ScaleSpec("shop", "web", capacity_per_replica=25.0, lead_time=timedelta(seconds=60), allow_new_peak=True)
SPEC = WorkloadSpec("web", "sum(requests)", scale=SCALE)
HPA = "kube_horizontalpodautoscaler_"
MARKED = Event("e", "incident", "web", BEGIN, END)


def times_five(begin: datetime, end: datetime, factor: float = 5.0) -> Curve:
    clean = daily(100.0, noise=0.02)

    def curve(times: FloatArray) -> FloatArray:
        inside = (times > begin.timestamp()) & (times <= end.timestamp())
        return np.where(inside, factor * clean(times), clean(times))

    return curve  # type: ignore[return-value]


def source(curve: Curve) -> FakeSource:
    hpa = {"namespace": "shop", "horizontalpodautoscaler": "web"}
    return FakeSource(
        {
            "sum(requests)": [({}, curve)],
            f"{HPA}spec_min_replicas": [(hpa, constant(2))],
            f"{HPA}spec_max_replicas": [(hpa, constant(40))],
        }
    )


@dataclass
class Seeing:
    """A profile that notes what it is shown."""

    inner: Profile = field(default_factory=Profile)
    contexts: list[Context] = field(default_factory=list)

    @property
    def version(self) -> str:
        return self.inner.version

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        self.contexts.append(context)
        return self.inner.forecast(context, request)


def cycle(curve: Curve, events: tuple[Event, ...] = ()) -> tuple[Cycle, Seeing]:
    seeing = Seeing()
    one = Cycle(
        [SPEC],
        step=MINUTE,
        interval=MINUTE,
        span=timedelta(days=3),
        source=source(curve),
        forecasters=lambda: (seeing, Persistence()),
    )
    one.set_events(events)
    return one, seeing


def medians(published: Publication) -> FloatArray:
    assert published.forecast is not None
    return np.asarray(published.forecast.values[0, :, LEVELS.index(0.5)])


# --- lags and fitting ------------------------------------------------------------------------------------------------


def test_lags_and_fitting_do_not_see_it() -> None:
    clean = medians(cycle(daily(100.0, noise=0.02))[0].run(NOW))
    poisoned = medians(cycle(times_five(BEGIN, END))[0].run(NOW))
    one, seeing = cycle(times_five(BEGIN, END), (MARKED,))
    mended = medians(one.run(NOW))
    context = next(seen for seen in seeing.contexts if seen.fine.origin == NOW)
    assert context.masked is not None and context.coarse_masked is not None
    assert context.masked.sum() == 240 and context.coarse_masked.sum() >= 48
    off = np.abs(mended / clean - 1)
    assert off.max() < 0.05 < np.abs(poisoned / clean - 1).max()  # FAULTS D20


def test_an_incident_that_may_be_learned_from_is() -> None:
    one, seeing = cycle(times_five(BEGIN, END), (replace(MARKED, exclude=False),))
    one.run(NOW)
    assert all(seen.masked is None or not seen.masked.any() for seen in seeing.contexts)


# --- calibration, coverage and risk ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived() -> dict[str, tuple[Cycle, list[Publication]]]:
    """Ninety minutes with a threefold load in the last half hour: marked from its first minute, and not."""
    begin, end = NOW + timedelta(minutes=60), NOW + timedelta(minutes=90)
    found = {}
    for name in ("marked", "unmarked"):
        one, _ = cycle(
            times_five(begin, end, 3.0), (replace(MARKED, starts_at=begin, ends_at=end),) * (name == "marked")
        )
        found[name] = one, [one.run(NOW + k * MINUTE) for k in range(91)]
    return found


def test_calibration_does_not_learn_from_it_and_coverage_counts_it(
    lived: dict[str, tuple[Cycle, list[Publication]]],
) -> None:
    states = {name: one.dump()["calibration"].arrays for name, (one, _) in lived.items()}
    judged = {name: np.asarray(state["count"])[0, 0] for name, state in states.items()}
    assert judged["marked"] < judged["unmarked"] - 20
    assert np.asarray(states["marked"]["windows"])[0, 0] == pytest.approx(
        np.asarray(states["unmarked"]["windows"])[0, 0]
    )
    for _, published in lived.values():
        before, after = published[60].workloads[0].coverage["0.8"], published[-1].workloads[0].coverage["0.8"]
        assert after < before  # both say that these samples lay outside


def test_risk_counts_it(lived: dict[str, tuple[Cycle, list[Publication]]]) -> None:
    actual = {name: published[-1].workloads[0].risk["actual"] for name, (_, published) in lived.items()}
    assert actual["marked"] > 0 and actual["unmarked"] > 0


# --- scaling ---------------------------------------------------------------------------------------------------------


def test_a_flash_crowd_that_is_flagged_still_scales(lived: dict[str, tuple[Cycle, list[Publication]]]) -> None:
    _, published = lived["unmarked"]
    flagged = [p for p in published[60:] if any(i.kind == "residual" and i.direction == "up" for i in p.incidents)]
    assert flagged, "three times the load is an anomaly"
    before, during = published[60].recommendations[0], published[-1].recommendations[0]
    assert before.desired_replicas is not None and during.desired_replicas is not None
    assert during.desired_replicas >= 2.5 * before.desired_replicas
    assert before.floor is not None and during.floor is not None and during.floor >= 2.5 * before.floor
    marked = lived["marked"][1][-1].recommendations[0]
    assert marked.floor is not None and marked.floor >= 2.5 * before.floor
