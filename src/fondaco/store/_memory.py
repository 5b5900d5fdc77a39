"""Memory: loads, copies and prefetches at plain addresses, for the kernels of this package.

A kernel that takes an address as an int costs 20 ns a call to enter; the same kernel taking a NumPy array costs 150 ns, which is as much
as the whole probe of a key. Addresses also let one kernel run over several mapped files. The price: nothing here checks bounds. Every
caller checks positions that come from a file, and keeps the memory alive while a kernel runs.

Loads are little-endian and unaligned (records lie at any byte). Thread rule: pure functions of memory.
"""

# mypy: disable-error-code="untyped-decorator, import-untyped"
# (numba and llvmlite carry no types)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I8_POINTER = ir.IntType(8).as_pointer()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def _load(builder: Any, address: Any, bits: int) -> Any:
    # align=1: without it LLVM may choose aligned vector loads, which fault on a record at an odd position
    return builder.load(builder.inttoptr(address, ir.IntType(bits).as_pointer()), align=1)


@intrinsic
def load8(typing_context: Any, address: Any) -> Any:
    """uint64 of the byte at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 8), _I64)

    return types.uint64(types.int64), generate


@intrinsic
def load32(typing_context: Any, address: Any) -> Any:
    """uint64 of the 4 bytes at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 32), _I64)

    return types.uint64(types.int64), generate


@intrinsic
def load64(typing_context: Any, address: Any) -> Any:
    """uint64 of the 8 bytes at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], 64)

    return types.uint64(types.int64), generate


@intrinsic
def store8(typing_context: Any, address: Any, value: Any) -> Any:
    """Write the low byte of `value` at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(builder.trunc(args[1], ir.IntType(8)), builder.inttoptr(args[0], _I8_POINTER), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def copy(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes between places that do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [_I8_POINTER, _I8_POINTER, _I64])
        pointers = [builder.inttoptr(args[0], _I8_POINTER), builder.inttoptr(args[1], _I8_POINTER)]
        builder.call(memcpy, [*pointers, args[2], ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at `address`; never faults, whatever the address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8_POINTER, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_I8_POINTER], kind)
        builder.call(function, [builder.inttoptr(args[0], _I8_POINTER), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def bytes_address(typing_context: Any, data: Any) -> Any:
    """Address of the first byte of a `bytes` argument; valid while the caller holds the object."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from numba.np.arrayobj import make_array

        return builder.ptrtoint(make_array(signature.args[0])(context, builder, args[0]).data, _I64)

    return types.int64(data), generate
