"""Work of a benchmark shared by processes: calls that know about how long they take, and a bar that moves by that."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A function of a module and its arguments, which can be sent to another process."""

    cost: float  # about the seconds of one core
    function: Callable[..., T]
    arguments: tuple[Any, ...]


def done(calls: Sequence[Call[T]], processes: int, progress: Callable[[float], None]) -> list[T]:
    """What the calls answer, in their order; they begin in it too, so that long ones should stand first.

    `progress` is told the share that is done.
    """
    whole, passed = sum(call.cost for call in calls) or 1.0, 0.0
    out: dict[int, T] = {}
    if processes == 1:
        for place, call in enumerate(calls):
            out[place] = call.function(*call.arguments)
            passed += call.cost
            progress(passed / whole)
    else:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(variable, "1")  # a process a core; more threads than cores only wait for each other
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            running: dict[Future[T], int] = {}
            waiting = list(reversed(range(len(calls))))
            try:
                while waiting or running:
                    while waiting and len(running) < processes:
                        place = waiting.pop()
                        running[pool.submit(calls[place].function, *calls[place].arguments)] = place
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        place = running.pop(future)
                        out[place] = future.result()
                        passed += calls[place].cost
                        progress(passed / whole)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    progress(1.0)
    return [out[place] for place in range(len(calls))]
