"""The interpreter that encodes: op-codes of `_ops` over Arrow buffers, into Avro rows one after the other.

One function, compiled once for all schemas. It trusts its code: addresses, offsets and the room at `target` were computed by the binder
(`_encode`) from valid Arrow arrays. What depends on values is checked here, row by row, so that the first bad row is the one reported.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator"
from __future__ import annotations

import numpy as np
from numba import njit, types

from fondaco.core.memory import copy_bytes, load_f32, load_i32, load_i64, load_u8, store_f32, store_i8, store_i32, store_i64
from fondaco.schema import _ops as o
from fondaco.schema._kernels import SOURCES, at, decimal_bytes_needed, decimal_within, parse_uuid, print_uuid, utf8_fault, write_varint

_FLOAT_MAX = np.float32(3.4028234663852886e38)
_UINT_MAX = (1 << 32) - 1
_NANOS_PER_MILLI = 1_000_000


@njit(nogil=True, cache=True)
def _is_set(bits: int, bit: int) -> bool:
    return load_u8(bits + (bit >> 3)) >> (bit & 7) & 1 != 0


@njit(nogil=True, cache=True)
def _put_decimal(source: int, target: int, size: int, width: int) -> None:
    """The little-endian integer of `width` bytes at `source` as `size` big-endian ones, which hold it."""
    sign = 0xFF if load_u8(source + width - 1) >= 0x80 else 0
    for place in range(size):
        from_low = size - 1 - place
        store_i8(target + place, load_u8(source + from_low) if from_low < width else sign)


@njit(nogil=True, cache=True)
def _put_duration(source: int, target: int) -> bool:
    months, days, nanos = load_i32(source), load_i32(source + 4), load_i64(source + 8)
    millis = nanos // _NANOS_PER_MILLI
    if months < 0 or days < 0 or nanos < 0 or millis * _NANOS_PER_MILLI != nanos or millis > _UINT_MAX:
        return False
    store_i32(target, months)
    store_i32(target + 4, days)
    store_i32(target + 8, millis)
    return True


@njit(nogil=True, cache=True)
def _quantize(source: int, target: int, dim: int) -> bool:
    """float32 [dim] -> scale = max|x| / 127 and int8 [dim], as `vectors.quantize`; False for a number that is not finite."""
    largest = np.float32(0)
    for place in range(dim):
        size = abs(load_f32(source + 4 * place))
        if not size <= _FLOAT_MAX:
            return False
        largest = max(largest, size)
    scale = types.float32(types.float64(largest) / 127.0)
    store_f32(target, scale)
    for place in range(dim):
        step = 0.0
        if scale != 0:
            step = np.rint(types.float64(load_f32(source + 4 * place)) / types.float64(scale))
        store_i8(target + 4 + place, types.int64(min(max(step, -127.0), 127.0)))
    return True


@njit(nogil=True, cache=True)
def encode_rows(
    sources: int,
    code: int,
    tables: int,
    row_count: int,
    target: int,
    origin: int,
    offsets: int,
    stack: int,
    state: int,
) -> None:
    """Encode `row_count` rows; `state` then says DONE, or why and where it stopped.

    Args (addresses but `sources`, `row_count`):
        sources: `_kernels.SOURCES`. code: instructions. tables: of unions and decimals. stack: room for the program's depth.
        target: where the first byte goes, with room for all. offsets: int64 [rows + 1]; gets each row's end, counted from `origin`.
        state: `_ops.STATE_WORDS` words; POSITION becomes the address after the last row, DEPTH and INDEX say where a bad value lies.
    """
    if sources != SOURCES:
        store_i64(state + 8 * o.STATUS, o.STALE)
        return
    row = 0
    status = 0
    depth = 0
    index = 0
    pc = 0
    while row < row_count:
        index = row
        pc = 0
        while True:
            word = code + 8 * pc
            op = at(word, 0)
            operand = at(word, 1)
            if op == o.PUT_INT32:
                target = write_varint(target, load_i32(operand + 4 * index))
            elif op == o.PUT_INT64:
                target = write_varint(target, at(operand, index))
            elif op == o.PUT_FIXED:
                size = at(word, 2)
                if size == 8:  # a double; a call of memcpy takes longer than the copy
                    store_i64(target, at(operand, index))
                elif size == 4:
                    store_i32(target, load_i32(operand + 4 * index))
                else:
                    copy_bytes(target, operand + size * index, size)
                target += size
            elif op == o.PUT_OPTIONAL:
                if _is_set(operand, at(word, 2) + index):
                    target = write_varint(target, at(word, 4))
                else:
                    target = write_varint(target, at(word, 3))
                    pc = at(word, 5)
                    continue
            elif op == o.PUT_CONSTANT:
                size = at(word, 2)
                if size == 1:
                    store_i8(target, load_u8(operand))
                else:
                    copy_bytes(target, operand, size)
                target += size
            elif op == o.PUT_TEXT or op == o.PUT_BYTES:
                source, size = at(operand, index), at(operand, index + 1) - at(operand, index)
                source += at(word, 2)
                if op == o.PUT_TEXT and utf8_fault(source, source + size) != 0:
                    status = o.BAD_VALUE
                    break
                target = write_varint(target, size)
                copy_bytes(target, source, size)
                target += size
            elif op == o.PUT_VECTOR:
                size = at(word, 3)
                first = size * index if at(word, 2) == 0 else at(word, 4) * at(at(word, 2), index)
                copy_bytes(target, operand + first, size)
                target += size
            elif op == o.PUT_ARRAY:
                first, end = at(operand, index), at(operand, index + 1)
                if end > first:
                    target = write_varint(target, end - first)
                    size = (end - first) * at(word, 3)
                    copy_bytes(target, at(word, 2) + first * at(word, 3), size)
                    target += size
                store_i8(target, 0)
                target += 1
            elif op == o.PUT_BOOLEAN:
                store_i8(target, 1 if _is_set(operand, at(word, 2) + index) else 0)
                target += 1
            elif op == o.PUT_ENUM:
                symbol = load_i32(operand + 4 * index)
                if symbol < 0:
                    status = o.BAD_VALUE
                    break
                target = write_varint(target, symbol)
            elif op == o.PUT_WITHIN:
                value = at(operand, index) if at(word, 2) == 8 else load_i32(operand + 4 * index)
                if value < at(word, 3) or value > at(word, 4):
                    status = o.BAD_VALUE
                    break
                target = write_varint(target, value)
            elif op == o.PUT_LIST:
                first, end = at(operand, index), at(operand, index + 1)
                if end > first:
                    target = write_varint(target, end - first)
                    store_i64(stack + 8 * depth, index)
                    store_i64(stack + 8 * depth + 8, end)
                    store_i64(stack + 8 * depth + 16, first)
                    depth += o.FRAME
                    index = first
                else:
                    store_i8(target, 0)
                    target += 1
                    pc = at(word, 2)
                    continue
            elif op == o.PUT_NEXT:
                index += 1
                if index < at(stack, depth - 2):
                    pc = operand
                    continue
                depth -= o.FRAME
                index = at(stack, depth)
                store_i8(target, 0)
                target += 1
            elif op == o.PUT_END:
                break
            elif op == o.REQUIRE:
                if not _is_set(operand, at(word, 2) + index):
                    status = o.BAD_NULL
                    break
            elif op == o.REQUIRE_NULL:
                if operand == 0 or _is_set(operand, at(word, 2) + index):
                    status = o.BAD_VALUE
                    break
            elif op == o.REFUSE_MARKED:
                if load_u8(operand + index) != 0:
                    status = o.BAD_VALUE
                    break
            elif op == o.PUT_SIZED:
                size = at(word, 2)
                target = write_varint(target, size)
                copy_bytes(target, operand + size * index, size)
                target += size
            elif op == o.PUT_EXACT:
                first, size = at(operand, index), at(word, 3)
                if at(operand, index + 1) - first != size:
                    status = o.BAD_VALUE
                    break
                copy_bytes(target, at(word, 2) + first, size)
                target += size
            elif op == o.PUT_DECIMAL or op == o.PUT_DECIMAL_FIXED:
                width = at(word, 2)
                source = operand + width * index
                needed = decimal_bytes_needed(source, width)
                size = needed if op == o.PUT_DECIMAL else at(word, 4)
                if needed > size or not decimal_within(source, width, tables + 8 * at(word, 3)):
                    status = o.BAD_VALUE
                    break
                if op == o.PUT_DECIMAL:
                    target = write_varint(target, size)
                _put_decimal(source, target, size, width)
                target += size
            elif op == o.PUT_UUID:
                target = write_varint(target, 36)
                print_uuid(operand + 16 * index, target)
                target += 36
            elif op == o.PUT_UUID_TEXT:
                first = at(operand, index)
                # parsed beyond what is printed: the room is there
                parsed = target if at(word, 3) != 0 else target + 40
                if at(operand, index + 1) - first != 36 or not parse_uuid(at(word, 2) + first, parsed):
                    status = o.BAD_VALUE
                    break
                if at(word, 3) != 0:
                    target += 16
                else:
                    target = write_varint(target, 36)
                    print_uuid(parsed, target)
                    target += 36
            elif op == o.PUT_DURATION:
                if not _put_duration(operand + 16 * index, target):
                    status = o.BAD_VALUE
                    break
                target += 12
            elif op == o.PUT_QUANTIZED:
                dim = at(word, 3)
                first = dim * index if at(word, 2) == 0 else at(at(word, 2), index)
                if not _quantize(operand + 4 * first, target, dim):
                    status = o.BAD_VALUE
                    break
                target += 4 + dim
            elif op == o.PUT_SCALED:
                dim = at(word, 3)
                store_i32(target, load_i32(operand + 4 * index))
                copy_bytes(target + 4, at(word, 2) + dim * index, dim)
                target += 4 + dim
            elif op == o.CHOOSE:
                store_i64(stack + 8 * depth, index)
                store_i64(stack + 8 * depth + 8, 0)
                store_i64(stack + 8 * depth + 16, 0)
                depth += o.FRAME
                pc = at(tables, at(word, 3) + load_u8(operand + index))
                index = at(at(word, 2), index)
                continue
            elif op == o.CHOOSE_END:
                depth -= o.FRAME
                index = at(stack, depth)
            else:  # PUT_JUMP
                pc = operand
                continue
            pc += o.WIDTH
        if status != 0:
            break
        row += 1
        store_i64(offsets + 8 * row, target - origin)
    store_i64(state + 8 * o.STATUS, status if status != 0 else o.DONE)
    store_i64(state + 8 * o.ROW, row)
    store_i64(state + 8 * o.PC, pc)
    store_i64(state + 8 * o.POSITION, target)
    store_i64(state + 8 * o.INDEX, index)
    store_i64(state + 8 * o.DEPTH, depth)
