"""What stopped the decode kernel, in words: its status becomes a `DecodeError` that names row, byte, field and value."""

from __future__ import annotations

from typing import Any

import numpy as np

from fondaco.core.errors import DecodeError
from fondaco.schema import _ops as o
from fondaco.schema._code import CompiledCode
from fondaco.schema.resolution import ZERO_SIZE_ITEMS_MAX


def decode_fault(compiled: CompiledCode, state: np.ndarray[Any, np.dtype[np.int64]], row_start: int) -> DecodeError:
    """The error for a kernel that stopped with a status from FIRST_FAULT on. `row_start`: address of the row's first byte."""
    pc, row, position = int(state[o.PC]), int(state[o.ROW]), int(state[o.POSITION])
    reason = _reason(compiled, pc, int(state[o.STATUS]), int(state[o.DETAIL]))
    offset = position - row_start
    for data in compiled.constants:  # a default cannot be at fault: it was checked with the schema
        assert not 0 <= position - np.frombuffer(data or b"\x00", np.uint8).ctypes.data < len(data), (reason, data)
    return DecodeError(offset, reason, row, compiled.paths[pc // o.WIDTH] or None)


def _reason(compiled: CompiledCode, pc: int, status: int, detail: int) -> str:
    operand: list[int] = compiled.code[pc + 1 : pc + o.WIDTH].tolist()
    match status:
        case o.TRUNCATED:
            return "the row ends inside a number" if compiled.code[pc] < o.VARINT_OPS else f"the row ends inside a value of {detail} bytes"
        case o.VARINT_TOO_LONG:
            return "a varint that does not fit 64 bits"
        case o.INT_RANGE:
            return f"{detail} does not fit an int (32 bits)"
        case o.BAD_BOOLEAN:
            return f"a boolean is 0 or 1, not {detail}"
        case o.NEGATIVE_LENGTH:
            return f"negative length {detail}"
        case o.TOO_LONG:
            return f"a length of {detail} bytes runs past the end of the row"
        case o.BAD_UTF8:
            return f"byte 0x{detail:02x} is not UTF-8 here"
        case o.BAD_BRANCH:
            branches = 2 if compiled.code[pc] == o.OPTIONAL else operand[1]
            return f"union branch {detail}; there are {branches}"
        case o.BAD_SYMBOL:
            return f"enum symbol {detail}; there are {operand[2]}"
        case o.UNKNOWN_SYMBOL:
            return f"the reader's enum has neither the writer's symbol {detail} nor a default"
        case o.TOO_MANY_ITEMS:
            return f"{detail} items do not fit the rest of the row"
        case o.EMPTY_ITEMS:
            return f"{detail} items without bytes; a row may have {ZERO_SIZE_ITEMS_MAX} of them"
        case o.BAD_BLOCK_SIZE:
            return f"a block says that it has {detail} bytes, which is not so"
        case o.TRAILING:
            return f"{detail} bytes after the end of the row"
        case o.BAD_UUID:
            return "text that is not a UUID (8-4-4-4-12 hexadecimal digits)"
        case o.BAD_DECIMAL:
            return f"{detail} bytes that are not a decimal of the schema's precision"
        case o.BAD_TIME:
            what = "a time of day" if operand[1] == 0 else f"a date or timestamp, which lies from {operand[1]} to {operand[2]}"
            return f"{detail} is not {what}"
    assert status == o.REFUSED, status
    return compiled.reasons[operand[0]]
