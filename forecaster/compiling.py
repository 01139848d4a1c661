"""Plain functions as machine code. numba is imported when the first one is asked for, not before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import Lock
from typing import Any

_lock = Lock()  # two threads that ask at once get the same function, which is compiled once


def compiled(run: Callable[..., None], helpers: tuple[Callable[..., Any], ...]) -> Callable[..., None]:
    """`run`, which calls `helpers`; other threads go on meanwhile.

    It is kept beside its module, or in the user's cache folder, or not at all.
    """
    with _lock:
        return _compiled(run, helpers)


@functools.cache
def _compiled(run: Callable[..., None], helpers: tuple[Callable[..., Any], ...]) -> Callable[..., None]:
    from numba import njit
    from numba.extending import register_jitable

    for helper in helpers:
        register_jitable(helper)
    try:
        made: Callable[..., None] = njit(cache=True, nogil=True, error_model="numpy")(run)
    except RuntimeError:  # no folder can be written: it is compiled anew in each process
        made = njit(nogil=True, error_model="numpy")(run)
    return made
