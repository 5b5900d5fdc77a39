"""Memory, as the kernels of this package read it: unsigned, because hashes and index slots are; and the address of a key's bytes.

Thread rule: pure functions of memory. Bounds are the callers' affair (`core.memory`).
"""

# mypy: disable-error-code="untyped-decorator, import-untyped"
# (numba and llvmlite carry no types)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fondaco.core.memory import load_u64, loader, storer

load8 = loader(ir.IntType(8), types.uint64, "zext")
load32 = loader(ir.IntType(32), types.uint64, "zext")
load64 = load_u64
store8 = storer(ir.IntType(8), types.uint64, truncate=True)


@intrinsic
def bytes_address(typing_context: Any, data: Any) -> Any:
    """Address of the first byte of a `bytes` argument; valid while the caller holds the object."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from numba.np.arrayobj import make_array

        return builder.ptrtoint(make_array(signature.args[0])(context, builder, args[0]).data, ir.IntType(64))

    return types.int64(data), generate
