"""`forecaster whatif`: where loads come from (files, or Prometheus by the configuration), and what runs on them.

The receipt itself is forecaster.scaling.whatif; here are files, Prometheus and the forecasters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from forecaster.domain import Context, Forecast, ForecastRequest, ScaleSpec
from forecaster.errors import InputError
from forecaster.scaling.whatif import peaks, yardstick
from forecaster.scaling.whatif.peaks import Said
from forecaster.scaling.whatif.receipt import DIAL, Receipt, receipt_of
from forecaster.scaling.whatif.report import Recorded, Told
from forecaster.scaling.whatif.served import play_served
from forecaster.scaling.whatif.trial import MAX_REPLICAS, MIN_REPLICAS, SIZE_REPLICAS, TARGET, Hpa, Trial, trial_of
from forecaster.scaling.whatif.yardstick import Loaded
from forecaster.tidy import read_tidy
from models.artifact import bundled
from models.fits import REFRESH_SECONDS, FitCache
from models.neural import Neural
from models.persistence import Persistence
from models.profile import Profile

DETAILED = 12  # receipts with a frontier and worst hours, unless a page is asked for
NETWORK_SECONDS = 300  # the network is asked so often: each step costs five times as much, and gains nothing
_AT_ONCE = 32  # services whose days run side by side: memory
_PROCESSES = 2  # a receipt is plain Python and small arrays: threads would wait for each other
_WORTH_PROCESSES = 8  # services; below, starting processes costs more than they save
_WORTH_ONE = 10_000  # steps of all services, for one more process that makes half of the forecasts: it starts in 1.5 s

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """What the command line says of capacity and HPA, for loads that come from files."""

    capacity: float | None = None
    replicas: int = SIZE_REPLICAS
    min_replicas: int = MIN_REPLICAS
    max_replicas: int = MAX_REPLICAS
    target: int = TARGET
    stabilization_seconds: float = 300.0
    manifest: Hpa | None = None  # takes the place of the last four

    @property
    def hpa(self) -> Hpa:
        if self.manifest is not None:
            return self.manifest
        return Hpa(self.target, self.stabilization_seconds, self.min_replicas, self.max_replicas)


@dataclass(slots=True, eq=False)
class Wanted:
    """Trials at their start-up times, and what could not be one."""

    trials: list[Trial] = field(default_factory=list)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    recorded: dict[str, Recorded] | None = None
    scales: dict[str, ScaleSpec] = field(default_factory=dict)  # as configured; none of a file


def start_ups_of(text: str) -> tuple[int, ...]:
    """Seconds, from `60,180s,10m`. Raises InputError naming the part that is wrong."""
    found = []
    for part in text.split(","):
        word = part.strip()
        unit = {"s": 1, "m": 60}.get(word[-1:], 0)
        digits = word[:-1] if unit else word
        if not digits.isdigit() or int(digits) * (unit or 1) % 15 or not int(digits):
            raise InputError(f"--startup: {word!r}: write seconds that are a multiple of 15, as 60,180,600 or 3m")
        found.append(int(digits) * (unit or 1))
    return tuple(dict.fromkeys(found))


def from_files(data: Path, stamps_end: bool, start_ups: Sequence[int], size: Size, every: bool, only: str) -> Wanted:
    """Each series of a file or folder at each start-up time; of the development data the yardstick's list."""
    loads = _loads(data, stamps_end, every)
    out = Wanted()
    for one in loads:
        if only and only not in one.name:
            continue
        out.kinds[one.name] = one.groups
        for start_up in start_ups:
            try:
                out.trials.append(
                    trial_of(
                        one.name,
                        one.times,
                        one.values,
                        one.step,
                        start_up,
                        capacity=size.capacity,
                        hpa=size.hpa,
                        replicas=size.replicas,
                    )
                )
            except InputError as error:
                out.left_out.append((one.name, str(error)))
    if not out.trials:
        why = out.left_out[0][1] if out.left_out else f"no series has {only!r} in its name"
        raise InputError(f"--data: {data}: {why}")
    return out


def _loads(data: Path, stamps_end: bool, every: bool) -> list[Loaded]:
    if data.is_dir() and yardstick.is_yardstick(data) and not every:
        return list(yardstick.read(data, stamps_end))
    if not data.exists():
        raise InputError(f"--data: there is no {data}")
    files = sorted(one for one in data.iterdir() if one.suffix in (".parquet", ".csv")) if data.is_dir() else [data]
    if not files:
        raise InputError(f"--data: {data} holds no .parquet or .csv file")
    out = []
    for path in files:
        for series in read_tidy(path, stamps_end):
            if not series.usual_step:
                raise InputError(f"{path}: {series.name} has one row: a receipt needs two days at least")
            try:
                times, values = series.on_grid(series.usual_step)
            except ValueError as error:
                raise InputError(f"{path}: {error}") from None
            name = series.name if len(files) == 1 else f"{path.stem}/{series.name}"
            out.append(Loaded(name, ("",), series.usual_step, times, values))
    return out


def told(
    wanted: Wanted,
    *,
    price: float | None = None,
    detailed: bool = False,
    served: bool = False,
    beside: bool = False,
    done: Callable[[float], None] = lambda share: None,
) -> Told:
    """The receipts of all trials, in their order. `done` takes the share that is.

    `served`: the risk dial is also played where load is seen as it was served, which takes minutes. `beside`: where one
    process makes the receipts, a second one may make half of their forecasts.
    """
    points = detailed or len(wanted.trials) <= DETAILED
    receipts: dict[tuple[str, int], Receipt] = {}
    groups = batches(wanted.trials)
    beside = beside and not _worth_processes(groups)
    for some in each_batch(groups, partial(_made, points=points, served=served, beside=beside), done):
        receipts |= some
    done(1.0)
    ordered = [receipts[one.name, one.start_up] for one in wanted.trials]
    return Told(ordered, wanted.kinds, wanted.left_out, price, wanted.recorded)


def batches(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials of one step whose days can run side by side, a name's start-up times together."""
    names = list(dict.fromkeys(one.name for one in trials))
    steps = {one.name: one.step for one in trials}
    out = []
    for step in sorted(set(steps.values())):
        members = [name for name in names if steps[name] == step]
        count = -(-len(members) // _AT_ONCE)
        if len(members) >= _WORTH_PROCESSES:
            count = max(count, _PROCESSES)
        size = -(-len(members) // count)
        for first in range(0, len(members), size):
            some = members[first : first + size]
            out.append([one for one in trials if one.name in some])
    return out


def each_batch(
    groups: Sequence[list[Trial]], work: Callable[..., T], done: Callable[[float], None] = lambda share: None
) -> Iterator[T]:
    """What `work` makes of each group, in order: in this process, or in one for each core where it is worth one.

    `work` takes a group and, in this process alone, `done` for its progress.
    """
    if not _worth_processes(groups):
        for number, group in enumerate(groups):
            yield work(group, done=_part(done, number, len(groups)))
        return
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        for number, made in enumerate(pool.map(work, groups)):
            done((number + 1) / len(groups))
            yield made


def _worth_processes(groups: Sequence[list[Trial]]) -> bool:
    return len(groups) >= _PROCESSES and min(len(group) for group in groups) >= _WORTH_PROCESSES // _PROCESSES


def _made(
    trials: Sequence[Trial],
    points: bool,
    served: bool,
    beside: bool,
    done: Callable[[float], None] = lambda share: None,
) -> dict[tuple[str, int], Receipt]:
    if not served:
        return _receipts(trials, points, beside, done)
    return _with_served(_receipts(trials, points, beside, _between(done, 0.0, 0.3)), _between(done, 0.3, 1.0))


def _with_served(
    receipts: dict[tuple[str, int], Receipt], done: Callable[[float], None]
) -> dict[tuple[str, int], Receipt]:
    """Of one step. The loop is closed, so each has its own forecasts: the profile's, for the network takes too long."""
    trials = [one.trial for one in receipts.values()]
    came = play_served(trials, lambda: Profile(cache=FitCache(renews=False)), DIAL, done=done)
    return {key: replace(one, served=found) for (key, one), found in zip(receipts.items(), came, strict=True)}


def _part(done: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Progress of one batch within all; the end is said once, by the caller."""
    return lambda share: done(min((number + share) / count, 0.999))


def _between(done: Callable[[float], None], first: float, last: float) -> Callable[[float], None]:
    return lambda share: done(first + share * (last - first))


def mixture_of(
    trials: Sequence[Trial], start_ups: Sequence[int], done: Callable[[float], None] = lambda share: None
) -> list[Said]:
    """What the mixture of profile and network said of each trial; all of one step."""
    profile = _of_profile(trials, start_ups, _between(done, 0.0, 0.5))
    network = _of_network(trials, start_ups, _between(done, 0.5, 1.0))
    return _averaged(profile, network, _every(trials))


def _of_profile(trials: Sequence[Trial], start_ups: Sequence[int], done: Callable[[float], None]) -> list[Said]:
    return peaks.replay(trials, Profile(cache=FitCache(renews=False)), start_ups, done)


def _of_network(
    trials: Sequence[Trial], start_ups: Sequence[int], done: Callable[[float], None] = lambda share: None
) -> list[Said]:
    return peaks.replay(trials, _ByWindow(), start_ups, done, _every(trials))


def _of_persistence(trials: Sequence[Trial], start_ups: Sequence[int]) -> list[Said]:
    return peaks.replay(trials, Persistence(cache=FitCache(renews=False)), start_ups)


def _averaged(profile: Sequence[Said], network: Sequence[Said], every: int) -> list[Said]:
    return [peaks.averaged(one, other, every) for one, other in zip(profile, network, strict=True)]


def _every(trials: Sequence[Trial]) -> int:
    """After how many steps the network is asked again."""
    return max(NETWORK_SECONDS // trials[0].step, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Each:
    """What each forecaster of a receipt said of each trial."""

    profile: list[Said]
    network: list[Said]  # NaN where it was not asked
    persistence: list[Said]
    every: int  # after how many steps the network was asked again

    def mixture(self) -> list[Said]:
        return _averaged(self.profile, self.network, self.every)


def forecasts_of(
    trials: Sequence[Trial],
    start_ups: Sequence[int],
    beside: bool = False,
    done: Callable[[float], None] = lambda share: None,
) -> Each:
    """Of trials of one step. `beside`: where it is worth it, in one more process than this."""
    if not beside or sum(one.end - one.first for one in trials) < _WORTH_ONE:
        profile = _of_profile(trials, start_ups, _between(done, 0.0, 0.5))
        network = _of_network(trials, start_ups, _between(done, 0.5, 1.0))
        return Each(profile, network, _of_persistence(trials, start_ups), _every(trials))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        later = pool.submit(_of_network, trials, start_ups)
        last = pool.submit(_of_persistence, trials, start_ups)
        profile = _of_profile(trials, start_ups, done)
        return Each(profile, later.result(), last.result(), _every(trials))


class _ByWindow:
    """The network that ships, one for each window: what one has measured of a past holds for one window.

    It measures all pasts anew every two hours of the clock, as often as the service does on average, and not a few rows
    at each step: so a receipt does not depend on what else is replayed beside it.
    """

    def __init__(self) -> None:
        self._artifact = bundled()
        self.version = Neural(self._artifact).version
        self._by_window: dict[int, tuple[int, Neural]] = {}

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Of rows that all ask for the same window."""
        window, hours = int(request.windows[0]), int(context.fine.origin.timestamp()) // REFRESH_SECONDS
        known = self._by_window.get(window)
        if known is None or known[0] != hours:
            known = hours, Neural(self._artifact, cache=FitCache(renews=False))
            self._by_window[window] = known
        return known[1].forecast(context, request)


def _receipts(
    trials: Sequence[Trial], points: bool, beside: bool, done: Callable[[float], None]
) -> dict[tuple[str, int], Receipt]:
    by_name = {one.name: one for one in reversed(trials)}
    start_ups = sorted({one.start_up for one in trials})
    singles = list(by_name.values())
    each = forecasts_of(singles, start_ups, beside, done)
    ours, last = each.mixture(), each.persistence
    out = {}
    for one in trials:
        row, column = singles.index(by_name[one.name]), start_ups.index(one.start_up)
        out[one.name, one.start_up] = receipt_of(
            one, peaks.on_ticks(one, ours[row], column), peaks.on_ticks(one, last[row], column), points=points
        )
    return out
