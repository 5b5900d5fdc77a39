"""The interpreter that decodes: op-codes of `_ops` over the bytes of many rows, into Arrow-shaped buffers.

One function, compiled once for all schemas. It holds no memory of its own: all its state is in the arrays that the host (`columns`)
passes by address, so it can stop when a buffer is full, be given a larger one and go on with the same instruction. An instruction
changes nothing before it knows that its result fits. Every read is checked against the row's end; depth is bounded by the program.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator"
from __future__ import annotations

from numba import njit, types

from fondaco.core.memory import copy_bytes, load_f32, load_i32, load_u8, prefetch, store_f32, store_f64, store_i8, store_i32, store_i64
from fondaco.schema import _ops as o
from fondaco.schema._kernels import SOURCES, at, decimal_from_avro, decimal_within, parse_uuid, read_varint, utf8_fault
from fondaco.schema.resolution import ZERO_SIZE_ITEMS_MAX

_INT_MAX = (1 << 31) - 1
_INT_MIN = -(1 << 31)
_COUNT_MAX = 1 << 31  # offsets have 32 bits
_VARINT_BYTES_MAX = 10
_LINE_BYTES = 64  # of the processor's cache


@njit(nogil=True, cache=True)
def _stop(state: int, status: int, row: int, pc: int, position: int, detail: int) -> None:
    """Leave behind why the kernel stopped and where."""
    store_i64(state + 8 * o.STATUS, status)
    store_i64(state + 8 * o.ROW, row)
    store_i64(state + 8 * o.PC, pc)
    store_i64(state + 8 * o.POSITION, position)
    store_i64(state + 8 * o.DETAIL, detail)


@njit(nogil=True, cache=True)
def decode_rows(
    sources: int,
    code: int,
    tables: int,
    fill_pc: int,
    starts: int,
    ends: int,
    row_count: int,
    buffers: int,
    capacity: int,
    scope_used: int,
    scope_capacity: int,
    stack: int,
    state: int,
) -> None:
    """Decode rows until all are done, one is at fault or a buffer is full; `state` says which.

    Args (all addresses of int64 tables but `sources`, `fill_pc`, `row_count`):
        sources: `_kernels.SOURCES`. code: instructions; `fill_pc`: where the code for a missing row begins.
        tables: branches, symbols, bounds of decimals.
        starts, ends: address of each row's first byte and of the byte after its last; a start of 0 is a missing row.
        buffers, capacity: address of each buffer, and its bytes (looked at for string data only).
        scope_used, scope_capacity: entries written and reserved; scope 0 is the rows, fully reserved.
        stack: room for the program's depth. state: `_ops.STATE_WORDS` words, zero at first.
    """
    if sources != SOURCES:
        return _stop(state, o.STALE, 0, 0, 0, 0)
    status = at(state, o.STATUS)
    row = at(state, o.ROW)
    pc = at(state, o.PC)
    position = at(state, o.POSITION)
    end = at(state, o.LIMIT)
    index = at(state, o.INDEX)
    depth = at(state, o.DEPTH)
    free_items = at(state, o.FREE_ITEMS)
    while row < row_count:
        if status == o.BEGIN_ROW:
            ahead = row + o.PREFETCH_ROWS
            if ahead < row_count:
                line = at(starts, ahead)
                last = min(at(ends, ahead), line + o.PREFETCH_BYTES)
                while line < last:
                    prefetch(line)
                    line += _LINE_BYTES
            position = at(starts, row)
            end = at(ends, row)
            pc = 0
            if position == 0:
                end = 0
                pc = fill_pc
            index = row
            depth = 0
            free_items = ZERO_SIZE_ITEMS_MAX
        status = o.BEGIN_ROW
        full = 0  # GROW_DATA or GROW_SCOPE as soon as something does not fit
        detail = 0
        needed = 0
        while True:
            word = code + 8 * pc
            op = at(word, 0)
            if op < o.VARINT_OPS:
                # one byte is by far the most frequent length, and needs no loop
                if position < end and load_u8(position) < 0x80:
                    byte = load_u8(position)
                    value = (byte >> 1) ^ -(byte & 1)
                    after = position + 1
                else:
                    value, after = read_varint(position, end)
                    if after <= 0:
                        return _stop(state, o.TRUNCATED if after == 0 else o.VARINT_TOO_LONG, row, pc, position, 0)
                if op == o.OPTIONAL:
                    if value == at(word, 2):
                        pc = at(word, 3)
                    elif value == 1 - at(word, 2):
                        store_i8(at(buffers, at(word, 1)) + index, 1)
                        pc += o.WIDTH
                    else:
                        return _stop(state, o.BAD_BRANCH, row, pc, position, value)
                    position = after
                    continue
                if op == o.LONG:
                    store_i64(at(buffers, at(word, 1)) + 8 * index, value)
                elif op <= o.INT_AS_DOUBLE:
                    if value > _INT_MAX or value < _INT_MIN:
                        return _stop(state, o.INT_RANGE, row, pc, position, value)
                    if op == o.INT:
                        store_i32(at(buffers, at(word, 1)) + 4 * index, value)
                    elif op == o.INT_AS_LONG:
                        store_i64(at(buffers, at(word, 1)) + 8 * index, value)
                    elif op == o.INT_AS_FLOAT:
                        store_f32(at(buffers, at(word, 1)) + 4 * index, types.float32(value))
                    elif op == o.INT_AS_DOUBLE:
                        store_f64(at(buffers, at(word, 1)) + 8 * index, types.float64(value))
                elif op == o.LONG_AS_FLOAT:
                    store_f32(at(buffers, at(word, 1)) + 4 * index, types.float32(value))
                elif op == o.LONG_AS_DOUBLE:
                    store_f64(at(buffers, at(word, 1)) + 8 * index, types.float64(value))
                elif op == o.INT_WITHIN or op == o.LONG_WITHIN:
                    if value < at(word, 2) or value > at(word, 3):
                        return _stop(state, o.BAD_TIME, row, pc, position, value)
                    if op == o.INT_WITHIN:
                        store_i32(at(buffers, at(word, 1)) + 4 * index, value)
                    else:
                        store_i64(at(buffers, at(word, 1)) + 8 * index, value)
                elif op == o.ENUM:
                    if value < 0 or value >= at(word, 3):
                        return _stop(state, o.BAD_SYMBOL, row, pc, position, value)
                    symbol = at(tables, at(word, 2) + value)
                    if symbol < 0:
                        return _stop(state, o.UNKNOWN_SYMBOL, row, pc, position, value)
                    store_i32(at(buffers, at(word, 1)) + 4 * index, symbol)
                elif op <= o.SKIP_BYTES:  # a length and that many bytes
                    if value < 0:
                        return _stop(state, o.NEGATIVE_LENGTH, row, pc, position, value)
                    if value > end - after:
                        return _stop(state, o.TOO_LONG, row, pc, position, value)
                    if op == o.STRING:
                        fault = utf8_fault(after, after + value)
                        if fault != 0:
                            return _stop(state, o.BAD_UTF8, row, pc, fault, load_u8(fault))
                    if op == o.STRING or op == o.BYTES:
                        offsets = at(buffers, at(word, 1)) + 4 * index
                        used = load_i32(offsets)
                        data = at(word, 2)
                        if used + value > at(capacity, data):
                            full, detail, needed = o.GROW_DATA, data, used + value
                            break
                        copy_bytes(at(buffers, data) + used, after, value)
                        store_i32(offsets + 4, used + value)
                    elif op == o.DECIMAL_BYTES:
                        width = at(word, 2)
                        target = at(buffers, at(word, 1)) + width * index
                        fits = value > 0 and decimal_from_avro(after, value, target, width)
                        if not fits or not decimal_within(target, width, tables + 8 * at(word, 3)):
                            return _stop(state, o.BAD_DECIMAL, row, pc, position, value)
                    elif op == o.UUID_STRING and (value != 36 or not parse_uuid(after, at(buffers, at(word, 1)) + 16 * index)):
                        return _stop(state, o.BAD_UUID, row, pc, position, value)
                    after += value
                elif op == o.UNION:
                    if value < 0 or value >= at(word, 2):
                        return _stop(state, o.BAD_BRANCH, row, pc, position, value)
                    pc = at(tables, at(word, 1) + value)
                    position = after
                    continue
                else:  # the number of items in a block of an array or map
                    item_bytes = at(word, 2)
                    stop = 0  # where the block ends, if it says so
                    if value < 0:  # the number, negated; then the bytes of the block
                        value = -value
                        size, after = read_varint(after, end)
                        if after <= 0:
                            return _stop(state, o.TRUNCATED if after == 0 else o.VARINT_TOO_LONG, row, pc, position, 0)
                        if size < 0 or size > end - after:
                            return _stop(state, o.BAD_BLOCK_SIZE, row, pc, position, size)
                        stop = after + size
                    if item_bytes == 0:
                        if value < 0 or value > free_items:
                            return _stop(state, o.EMPTY_ITEMS, row, pc, position, value)
                    elif (stop == 0 or op < o.SKIP_BLOCK) and (
                        value < 0 or value > _COUNT_MAX or value * item_bytes > end - after  # a product below 2**63
                    ):
                        return _stop(state, o.TOO_MANY_ITEMS, row, pc, position, value)
                    if op >= o.SKIP_BLOCK and stop != 0:
                        position = stop
                        if item_bytes == 0:
                            free_items -= value
                        continue
                    if op == o.SKIP_ARRAY_FIXED:
                        position = after + value * item_bytes
                        if item_bytes == 0:
                            free_items -= value
                        if value == 0:
                            pc += o.WIDTH
                        continue
                    if op == o.ARRAY_FIXED and stop != 0 and after + value * item_bytes != stop:
                        return _stop(state, o.BAD_BLOCK_SIZE, row, pc, position, stop - after)
                    scope = at(word, 1)
                    first = at(scope_used, scope)
                    if first + value > at(scope_capacity, scope):
                        full, detail, needed = o.GROW_SCOPE, scope, first + value
                        break
                    position = after
                    if item_bytes == 0:
                        free_items -= value
                    if value == 0:
                        if op != o.SKIP_BLOCK:
                            store_i32(at(buffers, at(word, 3)) + 4 * index + 4, first)
                        pc = pc + o.WIDTH if op == o.ARRAY_FIXED else at(word, 4)
                    elif op == o.ARRAY_FIXED:
                        copy_bytes(at(buffers, at(word, 4)) + first * item_bytes, position, value * item_bytes)
                        position += value * item_bytes
                        store_i64(scope_used + 8 * scope, first + value)
                    else:
                        store_i64(stack + 8 * depth, index)
                        store_i64(stack + 8 * depth + 8, first + value)
                        store_i64(stack + 8 * depth + 16, stop)
                        depth += 3
                        index = first
                        pc += o.WIDTH
                    continue
                position = after
                pc += o.WIDTH
            elif op == o.FIXED:
                size = at(word, 2)
                if size > end - position:
                    return _stop(state, o.TRUNCATED, row, pc, position, size)
                target = at(buffers, at(word, 1)) + size * index
                if size == 8:  # a double; a call of memcpy takes longer than the copy
                    store_i64(target, at(position, 0))
                elif size == 4:
                    store_i32(target, load_i32(position))
                else:
                    copy_bytes(target, position, size)
                position += size
                pc += o.WIDTH
            elif op == o.NEXT:
                index += 1
                if index < at(stack, depth - 2):
                    pc = at(word, 2)
                else:
                    stop = at(stack, depth - 1)
                    if stop != 0 and position != stop:
                        return _stop(state, o.BAD_BLOCK_SIZE, row, pc, position, stop - position)
                    store_i64(scope_used + 8 * at(word, 1), index)
                    depth -= 3
                    index = at(stack, depth)
                    pc = at(word, 3)
            elif op == o.END:
                break
            elif op == o.BOOLEAN:
                if position >= end:
                    return _stop(state, o.TRUNCATED, row, pc, position, 1)
                byte = load_u8(position)
                if byte > 1:
                    return _stop(state, o.BAD_BOOLEAN, row, pc, position, byte)
                store_i8(at(buffers, at(word, 1)) + index, byte)
                position += 1
                pc += o.WIDTH
            elif op == o.SKIP_FIXED:
                if at(word, 2) > end - position:
                    return _stop(state, o.TRUNCATED, row, pc, position, at(word, 2))
                position += at(word, 2)
                pc += o.WIDTH
            elif op == o.SKIP_VARINT:
                length = 1
                while length <= _VARINT_BYTES_MAX and length <= end - position and load_u8(position + length - 1) >= 0x80:
                    length += 1
                if length > _VARINT_BYTES_MAX or length > end - position:
                    return _stop(state, o.VARINT_TOO_LONG if length > _VARINT_BYTES_MAX else o.TRUNCATED, row, pc, position, 1)
                position += length
                pc += o.WIDTH
            elif op == o.FLOAT_AS_DOUBLE:
                if end - position < 4:
                    return _stop(state, o.TRUNCATED, row, pc, position, 4)
                store_f64(at(buffers, at(word, 1)) + 8 * index, types.float64(load_f32(position)))
                position += 4
                pc += o.WIDTH
            elif op == o.DECIMAL_FIXED:
                width, size = at(word, 2), at(word, 4)
                target = at(buffers, at(word, 1)) + width * index
                if size > end - position:
                    return _stop(state, o.TRUNCATED, row, pc, position, size)
                fits = size > 0 and decimal_from_avro(position, size, target, width)
                if not fits or not decimal_within(target, width, tables + 8 * at(word, 3)):
                    return _stop(state, o.BAD_DECIMAL, row, pc, position, size)
                position += size
                pc += o.WIDTH
            elif op == o.VECTOR_INT8:
                dim = at(word, 3)
                if dim + 4 > end - position:
                    return _stop(state, o.TRUNCATED, row, pc, position, dim + 4)
                store_i32(at(buffers, at(word, 1)) + 4 * index, load_i32(position))
                copy_bytes(at(buffers, at(word, 2)) + dim * index, position + 4, dim)
                position += dim + 4
                pc += o.WIDTH
            elif op == o.VALID:
                store_i8(at(buffers, at(word, 1)) + index, 1)
                pc += o.WIDTH
            elif op == o.FILL_OFFSET:
                offsets = at(buffers, at(word, 1)) + 4 * index
                store_i32(offsets + 4, load_i32(offsets))
                pc += o.WIDTH
            elif op == o.BRANCH:
                scope = at(word, 1)
                first = at(scope_used, scope)
                if first >= at(scope_capacity, scope):
                    full, detail, needed = o.GROW_SCOPE, scope, first + 1
                    break
                store_i8(at(buffers, at(word, 2)) + index, at(word, 4))
                store_i32(at(buffers, at(word, 3)) + 4 * index, first)
                store_i64(stack + 8 * depth, index)
                depth += 1
                index = first
                pc += o.WIDTH
            elif op == o.BRANCH_END:
                store_i64(scope_used + 8 * at(word, 1), index + 1)
                depth -= 1
                index = at(stack, depth)
                pc += o.WIDTH
            elif op == o.CONSTANT:
                store_i64(stack + 8 * depth, position)
                store_i64(stack + 8 * depth + 8, end)
                depth += 2
                position = at(word, 1)
                end = position + at(word, 2)
                pc += o.WIDTH
            elif op == o.CONSTANT_END:
                depth -= 2
                position = at(stack, depth)
                end = at(stack, depth + 1)
                pc += o.WIDTH
            elif op == o.JUMP:
                pc = at(word, 1)
            else:
                return _stop(state, o.REFUSED, row, pc, position, 0)
        if full != 0:
            _stop(state, full, row, pc, position, detail)
            store_i64(state + 8 * o.LIMIT, end)
            store_i64(state + 8 * o.INDEX, index)
            store_i64(state + 8 * o.DEPTH, depth)
            store_i64(state + 8 * o.FREE_ITEMS, free_items)
            store_i64(state + 8 * o.NEEDED, needed)
            return None
        if position != end:
            return _stop(state, o.TRAILING, row, pc, position, end - position)
        row += 1
    return _stop(state, o.DONE, row, 0, 0, 0)
