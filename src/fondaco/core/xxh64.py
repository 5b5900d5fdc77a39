"""XXH64: the hash of keys, sections and log records, as kernels over plain addresses.

Yann Collet, "XXH64 algorithm description" (xxHash specification 0.1.1), seed 0. Pure functions of memory, without the GIL; bounds are the
callers' affair (`core.memory`). Importing this imports numba.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types

from fondaco.core.memory import load_u64, loader

U64Array = npt.NDArray[np.uint64]

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
PRIME5 = np.uint64(0x27D4EB2F165667C5)
_ZERO = np.uint64(0)

load8: Any = loader(ir.IntType(8), types.uint64, "zext")
load32: Any = loader(ir.IntType(32), types.uint64, "zext")
load64: Any = load_u64


@njit(nogil=True, cache=True)
def _rotate(value: np.uint64, count: int) -> np.uint64:
    return (value << np.uint64(count)) | (value >> np.uint64(64 - count))


@njit(nogil=True, cache=True)
def _round(accumulator: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(accumulator + lane * _P2, 31) * _P1


@njit(nogil=True, cache=True)
def _merge(hash_: np.uint64, accumulator: np.uint64) -> np.uint64:
    return (hash_ ^ _round(_ZERO, accumulator)) * _P1 + _P4


@njit(nogil=True, cache=True)
def avalanche(hash_: np.uint64) -> np.uint64:
    hash_ = (hash_ ^ (hash_ >> np.uint64(33))) * _P2
    hash_ = (hash_ ^ (hash_ >> np.uint64(29))) * _P3
    return hash_ ^ (hash_ >> np.uint64(32))


@njit(nogil=True, cache=True)
def mix8(hash_: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(hash_ ^ _round(_ZERO, lane), 27) * _P1 + _P4


@njit(nogil=True, cache=True)
def mix4(hash_: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(hash_ ^ (lane * _P1), 23) * _P2 + _P3


@njit(nogil=True, cache=True)
def mix1(hash_: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(hash_ ^ (lane * PRIME5), 11) * _P1


@njit(nogil=True, cache=True)
def xxh64(address: int, length: int) -> np.uint64:
    """XXH64 with seed 0 of `length` bytes at `address`."""
    end = address + length
    if length >= 32:
        a = _P1 + _P2
        b = _P2
        c = _ZERO
        d = _ZERO - _P1
        while address + 32 <= end:
            a = _round(a, load64(address))
            b = _round(b, load64(address + 8))
            c = _round(c, load64(address + 16))
            d = _round(d, load64(address + 24))
            address += 32
        hash_ = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        hash_ = _merge(_merge(_merge(_merge(hash_, a), b), c), d)
    else:
        hash_ = PRIME5
    hash_ += np.uint64(length)
    while address + 8 <= end:
        hash_ = mix8(hash_, load64(address))
        address += 8
    if address + 4 <= end:
        hash_ = mix4(hash_, load32(address))
        address += 4
    while address < end:
        hash_ = mix1(hash_, load8(address))
        address += 1
    return avalanche(hash_)


@njit(nogil=True, cache=True)
def xxh64_start(state: U64Array) -> None:
    """Begin a hash in pieces: uint64 [4] accumulators. Every piece is a multiple of 32 bytes, which sections are by their padding."""
    state[0] = _P1 + _P2
    state[1] = _P2
    state[2] = _ZERO
    state[3] = _ZERO - _P1


@njit(nogil=True, cache=True)
def xxh64_update(state: U64Array, address: int, length: int) -> None:
    """Add `length` bytes, a multiple of 32."""
    a, b, c, d = state[0], state[1], state[2], state[3]
    end = address + length
    while address + 32 <= end:
        a = _round(a, load64(address))
        b = _round(b, load64(address + 8))
        c = _round(c, load64(address + 16))
        d = _round(d, load64(address + 24))
        address += 32
    state[0], state[1], state[2], state[3] = a, b, c, d


@njit(nogil=True, cache=True)
def xxh64_finish(state: U64Array, total: int) -> np.uint64:
    """The hash of `total` bytes, a multiple of 32."""
    if total < 32:
        return xxh64(0, 0)
    a, b, c, d = state[0], state[1], state[2], state[3]
    hash_ = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    hash_ = _merge(_merge(_merge(_merge(hash_, a), b), c), d)
    return avalanche(hash_ + np.uint64(total))
