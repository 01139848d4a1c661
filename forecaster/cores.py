"""How work on many rows is shared among cores: blocks of rows side by side, one thread for each product of matrices.

The library that multiplies matrices starts a thread per core for each product, however small, and also where two of our
threads call it at once; they then wait for each other in loops. On two busy cores a product of 1,024 × 160 × 160
numbers took fourteen times as long so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

_THREADS = 2


def side_by_side(one: Callable[[T], object], parts: Iterable[T]) -> None:
    """Calls `one` for every part, two at a time; parts are taken as they are needed. Raises what a call raised."""
    source = iter(parts)
    ahead = list(islice(source, 2))
    if len(ahead) < 2:
        for part in ahead:
            one(part)
        return
    rest, lock, none = chain(ahead, source), Lock(), object()

    def take() -> Any:
        with lock:
            return next(rest, none)

    def work() -> None:
        while (part := take()) is not none:
            one(part)

    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(copy_context().run, work) for _ in range(_THREADS)]:
            done.result()


@dataclass
class _Limit:
    """Holds for the process: the first who asks for it sets it, the last one who is done lifts it."""

    lock: Lock = field(default_factory=Lock)
    inside: int = 0
    held: Any = None


_limit = _Limit()


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Products of matrices use the caller's thread alone, until all who are inside have left."""
    with _limit.lock:
        if not _limit.inside:
            _limit.held = ThreadpoolController().select(user_api="blas").limit(limits=1)
        _limit.inside += 1
    try:
        yield
    finally:
        with _limit.lock:
            _limit.inside -= 1
            if not _limit.inside:
                _limit.held.restore_original_limits()
                _limit.held = None
