"""Memory: loads, stores, copies and prefetches at plain addresses, for kernels.

A kernel that takes an address as an int costs 20 ns a call to enter; the same kernel taking a NumPy array costs 150 ns, which is as much
as the whole probe of a key. Addresses also let one kernel run over a bytes object, a joined buffer and several memory maps alike. The
price: nothing here checks bounds. Every caller checks positions that come from outside, and keeps the memory alive while a kernel runs.

Loads and stores are little-endian and unaligned (rows lie at any byte). Importing this imports numba. Pure functions; any thread.
"""

# mypy: disable-error-code="untyped-decorator, import-untyped"
# (numba and llvmlite carry no types)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def loader(memory: ir.Type, result: Any, extend: str | None = None) -> Any:
    """`load(address)` of one number of type `memory` as `result`; `extend`: "zext" or "sext", if that is wider."""

    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            # align=1: without it LLVM may choose aligned vector loads, which fault on a record at an odd position
            value = builder.load(builder.inttoptr(args[0], memory.as_pointer()), align=1)
            return getattr(builder, extend)(value, ir.IntType(64)) if extend else value

        return result(types.int64), codegen

    return intrinsic(load)


def storer(memory: ir.Type, argument: Any, *, truncate: bool = False) -> Any:
    """`store(address, value)` of one number of type `memory`, given as `argument`; `truncate`: its low bits, if that is wider."""

    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.trunc(args[1], memory) if truncate else args[1]
            builder.store(value, builder.inttoptr(args[0], memory.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, argument), codegen

    return intrinsic(store)


load_u8 = loader(ir.IntType(8), types.int64, "zext")
load_i8 = loader(ir.IntType(8), types.int64, "sext")
load_i32 = loader(ir.IntType(32), types.int64, "sext")
load_u32 = loader(ir.IntType(32), types.int64, "zext")
load_i64 = loader(ir.IntType(64), types.int64)
load_u64 = loader(ir.IntType(64), types.uint64)
load_f32 = loader(ir.FloatType(), types.float32)
store_i8 = storer(ir.IntType(8), types.int64, truncate=True)
store_i32 = storer(ir.IntType(32), types.int64, truncate=True)
store_i64 = storer(ir.IntType(64), types.int64)
store_f32 = storer(ir.FloatType(), types.float32)
store_f64 = storer(ir.DoubleType(), types.float64)


def _copy(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, ir.IntType(64)])
        ends = [builder.inttoptr(args[i], pointer) for i in (0, 1)]
        builder.call(function, [*ends, args[2], ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _prefetch(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        hints = [ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)]  # read, keep, data
        builder.call(function, [builder.inttoptr(args[0], pointer), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


copy_bytes: Any = intrinsic(_copy)
"""`copy_bytes(target, source, count)`: memcpy; the ranges do not overlap."""
prefetch: Any = intrinsic(_prefetch)
"""`prefetch(address)`: ask for its cache line. Any address will do; an unmapped one is ignored."""
