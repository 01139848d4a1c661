"""Settings of each policy: what can be turned, and which a receipt tries. Choice is made on the training part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.cluster import Service
from forecaster.scaling.whatif import floors
from forecaster.scaling.whatif.peaks import LEVELS
from forecaster.scaling.whatif.trial import DAY, Trial

TARGETS = tuple(range(40, 101, 5))  # of a tuned HPA, per cent
STABILIZATIONS = (0.0, 60.0, 300.0, 900.0, 1800.0)  # seconds
RISKS = (0.005, 0.01)  # reference risks: shares of time
SAFETY_RISK = 0.01  # of the safety mode, on the user's own HPA
SAFER_RISK = 0.005  # the same, for more: chosen on training parts, where it costs no more than safety may
CALM_TARGET, CALM_HOLD = 90, 300.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a policy. No level: an HPA alone."""

    target: int  # of the HPA, per cent
    stabilization: float  # of the HPA, seconds
    hold: float = 0.0  # of our floor, seconds
    level: float | None = None  # of the peak's quantile; as asked of the dial where it is dialled
    dialled: bool = False  # the level turns so that the floors' own misses come to 1 - level

    @property
    def calm(self) -> bool:
        """What the default may do: HPA at 90 % at most, our hold and the HPA's at least five minutes."""
        return self.target <= CALM_TARGET and self.hold >= CALM_HOLD and self.stabilization >= CALM_HOLD

    @property
    def words(self) -> str:
        hpa = f"target {self.target} %, stabilization {self.stabilization:.0f} s"
        if self.level is None:
            return hpa
        dial = f"dial {100 * (1 - self.level):g} %" if self.dialled else f"level {self.level:g}"
        return f"{hpa}, {dial}, hold {self.hold:.0f} s"


HPAS = tuple(Setting(target, window) for target in TARGETS for window in STABILIZATIONS)
_CALM_WAYS = tuple((target, 300.0, hold) for target in (70, 80, 90) for hold in (300.0, 900.0))
_FREE_WAYS = (
    *((100, 0.0, hold) for hold in (60.0, 300.0, 900.0, 1800.0)),
    (90, 0.0, 300.0),
    (80, 60.0, 300.0),
    (90, 900.0, 900.0),
)
QUANTILES = (0.5, 0.75, 0.9, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)
FLOORS = tuple(
    Setting(target, window, hold, level) for target, window, hold in (*_CALM_WAYS, *_FREE_WAYS) for level in QUANTILES
)
FEWER = tuple(one for one in FLOORS if one.level in (0.75, 0.9, 0.96, 0.98, 0.99, 0.999) and one.hold >= CALM_HOLD)


def service_of(trial: Trial, setting: Setting, fresh: bool = False) -> Service:
    return trial.service(setting.target, setting.stabilization, fresh)


class Floors:
    """Floors of one forecaster on one trial, for any setting; each made once."""

    def __init__(self, trial: Trial, peaks: FloatArray) -> None:
        """`peaks` (tick, level) at LEVELS."""
        self._trial, self._peaks = trial, peaks
        self._highest = highest_load(trial)
        self._need = self._capped(np.array(QUANTILES))
        self._made: dict[tuple[float, float | None, bool], IntArray] = {}

    def of(self, setting: Setting) -> IntArray | None:
        """(tick,); None for an HPA alone."""
        if setting.level is None:
            return None
        key = (setting.hold, setting.level, setting.dialled)
        if key not in self._made:
            self._made[key] = self._dialled(setting) if setting.dialled else self._fixed(setting)
        return self._made[key]

    def _fixed(self, setting: Setting) -> IntArray:
        return floors.floors_of(self._need[:, QUANTILES.index(setting.level or 0.0)], self.rules(setting))

    def _dialled(self, setting: Setting) -> IntArray:
        trial = self._trial
        made, _ = floors.dialled(
            self._peaks,
            LEVELS,
            trial.load,
            floors.most_needed(self._highest, trial.capacity),
            self.rules(setting),
            capacity=trial.capacity,
            lead_seconds=float(trial.start_up),
            asked=round(1 - (setting.level or 0.0), 9),
        )
        return made

    def rules(self, setting: Setting) -> floors.FloorRules:
        return floors.FloorRules(self._trial.hpa.min_replicas, self._trial.hpa.max_replicas, setting.hold)

    def _capped(self, wanted: FloatArray) -> IntArray:
        need = floors.needs(self._peaks, LEVELS, wanted, self._trial.capacity)
        return floors.capped(need, self._highest, self._trial.capacity)


def highest_load(trial: Trial) -> FloatArray:
    """(tick,) highest sample of the 14 days before, each known at the begin of the tick; NaN where there is none."""
    import pandas as pd

    width = 14 * DAY // trial.step
    rolled = pd.Series(trial.values).rolling(width, min_periods=1).max().shift(1).to_numpy()
    return np.repeat(np.asarray(rolled[trial.first : trial.end], dtype=np.float64), trial.per_step)
