"""Kernels that wait for words in mapped memory to change, asleep and without the GIL: a thread that polls costs the others nothing.

A sleep of the C library between looks; a wait never lasts longer than it was told, so that Python can handle signals in between.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator"
# (numba's decorators and external functions carry no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, types

from fondaco.store._atomics import load_acquire

I64Array = npt.NDArray[np.int64]

_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@njit(nogil=True, cache=True)
def wait_word(address: int, seen: int, poll_us: int, limit_us: int) -> bool:
    """Return True when the word at `address` is not `seen`, False after about `limit_us`."""
    waited = 0
    while load_acquire(address) == seen:
        if waited >= limit_us:
            return False
        _usleep(np.uint32(poll_us))
        waited += poll_us
    return True


@njit(nogil=True, cache=True)
def wait_any(addresses: I64Array, seen: I64Array, stop: int, poll_us: int, limit_us: int) -> bool:
    """Return True when a word is not what was `seen` of it, False after about `limit_us` or when the word at `stop` is not 0."""
    waited = 0
    while True:
        if load_acquire(stop) != 0:
            return False
        for i in range(addresses.size):
            if load_acquire(addresses[i]) != seen[i]:
                return True
        if waited >= limit_us:
            return False
        _usleep(np.uint32(poll_us))
        waited += poll_us
