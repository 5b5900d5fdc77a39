"""Atomics: loads and stores of eight aligned bytes that other threads and processes see in order.

`store_release` comes after everything that was written before it; `load_acquire` comes before everything that is read after it. Between
them they carry the publication rule of the overlay: bytes first, then the word that leads to them. On x86-64 both are plain moves.

The address must be a multiple of 8. Pure functions of memory, without the GIL; importing this imports numba.
"""

# mypy: disable-error-code="untyped-decorator, import-untyped"
# (numba and llvmlite carry no types)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic
def load_acquire(typing_context: Any, address: Any) -> Any:
    """`load_acquire(address)`: an int64; nothing after it is read before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _WORD.as_pointer()), ordering="acquire", align=8)

    return types.int64(types.int64), generate


@intrinsic
def store_release(typing_context: Any, address: Any, value: Any) -> Any:
    """`store_release(address, value)`: an int64; nothing before it is written after it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], _WORD.as_pointer()), ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit(nogil=True, cache=True)
def store_word(address: int, value: int) -> None:
    """`store_release`, for Python: everything that was written before the call is seen before the word."""
    store_release(address, value)
