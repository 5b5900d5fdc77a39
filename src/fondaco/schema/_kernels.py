"""The lowest layer of the batch codec: loads and stores at absolute addresses, varints, UTF-8 checks. All of it runs without the GIL.

Rows lie wherever they lie (a bytes object, a joined buffer, several memory maps), so the kernels work on addresses instead of arrays: one
kernel serves all of them, and an address costs nothing to pass. Nothing here checks bounds; the callers (`_decode_kernels`,
`_encode_kernels`) do, before each load. Addresses and counts are int64; little-endian machines only, as Avro's floats are.
"""

# mypy: disable-error-code="no-any-return, untyped-decorator"
from __future__ import annotations

import functools
import sys
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit, types

from fondaco.core import memory
from fondaco.core.memory import load_i64, load_u8, load_u64, store_i8
from fondaco.schema import _ops
from fondaco.schema.resolution import ZERO_SIZE_ITEMS_MAX

if sys.byteorder != "little":  # pragma: no cover - no such machine is supported
    raise ImportError("the batch codec copies Avro's little-endian numbers as they are; this machine is big-endian")


def _digest() -> int:
    sources = [Path(file) for file in (memory.__file__, _ops.__file__, __file__)]
    return zlib.crc32(b"".join(path.read_bytes() for path in sources if path.is_file()) + str(ZERO_SIZE_ITEMS_MAX).encode())


# Numba's cache on disk looks at the file of a kernel only, so a kernel from there may know other op-codes than ours, and would go astray.
# The interpreters are passed this number and compare it with the one that they were compiled with.
SOURCES: Final = _digest()


@functools.cache
def current(kernel: Any, operand_count: int) -> Any:
    """`kernel(SOURCES, *operands, state)`, compiled again if the cached one was made from other sources; asked once a process."""
    state = np.zeros(_ops.STATE_WORDS, np.int64)
    kernel(SOURCES, *[0] * operand_count, state.ctypes.data)  # no rows: it looks at `state` only
    if state[_ops.STATUS] == _ops.STALE:
        kernel.recompile()
    return kernel


@njit(nogil=True, cache=True)
def at(table: int, index: int) -> int:
    """The int64 at `index` of the table that begins at address `table`."""
    return load_i64(table + 8 * index)


# -- varints ------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def read_varint(position: int, end: int) -> tuple[int, int]:
    """Zigzag varint of more than one byte, or at the end: (value, next position). Next position 0: it runs past `end`; -1: past 64 bits."""
    bits = types.uint64(0)
    shift = types.uint64(0)
    while position < end:
        byte = load_u8(position)
        position += 1
        if shift == 63 and byte > 1:
            return 0, -1
        bits |= types.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return types.int64(bits >> types.uint64(1)) ^ -types.int64(bits & types.uint64(1)), position
        shift += types.uint64(7)
    return 0, 0


@njit(nogil=True, cache=True)
def write_varint(address: int, value: int) -> int:
    """Write `value` as a zigzag varint; the address after it."""
    bits = types.uint64((value << 1) ^ (value >> 63))
    while bits >= types.uint64(0x80):
        store_i8(address, types.int64(bits | types.uint64(0x80)))
        address += 1
        bits >>= types.uint64(7)
    store_i8(address, types.int64(bits))
    return address + 1


# -- text ---------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def utf8_fault(position: int, end: int) -> int:
    """Address of the first byte that does not begin a well-formed UTF-8 sequence, or 0. Source: Unicode 16, table 3-7."""
    while position < end:
        while end - position >= 8 and load_u64(position) & types.uint64(0x8080808080808080) == 0:
            position += 8
        if position >= end:
            break
        first = load_u8(position)
        if first < 0x80:
            position += 1
            continue
        low, high, length = 0x80, 0xBF, 2  # bounds of the second byte; bytes of the sequence
        if first < 0xC2 or first > 0xF4:
            return position
        if first >= 0xF0:
            length = 4
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        elif first >= 0xE0:
            length = 3
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        if end - position < length:
            return position
        second = load_u8(position + 1)
        if second < low or second > high:
            return position
        for offset in range(2, length):
            if load_u8(position + offset) & 0xC0 != 0x80:
                return position
        position += length
    return 0


@njit(nogil=True, cache=True)
def hex_digit(byte: int) -> int:
    """Value of an ASCII hexadecimal digit, or -1."""
    if 48 <= byte <= 57:
        return byte - 48
    byte |= 32
    return byte - 87 if 97 <= byte <= 102 else -1


@njit(nogil=True, cache=True)
def parse_uuid(source: int, target: int) -> bool:
    """36 characters `8-4-4-4-12` at `source` -> 16 bytes at `target`; False where they are no UUID."""
    position = source
    for index in range(16):
        if index in (4, 6, 8, 10):
            if load_u8(position) != 45:
                return False
            position += 1
        high, low = hex_digit(load_u8(position)), hex_digit(load_u8(position + 1))
        if high < 0 or low < 0:
            return False
        store_i8(target + index, 16 * high + low)
        position += 2
    return True


@njit(nogil=True, cache=True)
def print_uuid(source: int, target: int) -> None:
    """16 bytes at `source` -> 36 characters at `target`, in lower case."""
    position = target
    for index in range(16):
        if index in (4, 6, 8, 10):
            store_i8(position, 45)
            position += 1
        byte = load_u8(source + index)
        for digit in (byte >> 4, byte & 15):
            store_i8(position, digit + (48 if digit < 10 else 87))
            position += 1


# -- decimals -----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def decimal_from_avro(source: int, size: int, target: int, width: int) -> bool:
    """Big-endian two's complement of `size` bytes -> little-endian of `width`; False where it does not fit."""
    sign = 0xFF if load_u8(source) >= 0x80 else 0
    while size > width:  # leading bytes that only repeat the sign are allowed
        if load_u8(source) != sign or (load_u8(source + 1) ^ sign) >= 0x80:
            return False
        source += 1
        size -= 1
    for index in range(size):
        store_i8(target + index, load_u8(source + size - 1 - index))
    for index in range(size, width):
        store_i8(target + index, sign)
    return True


@njit(nogil=True, cache=True)
def decimal_bytes_needed(source: int, width: int) -> int:
    """Bytes of the shortest two's complement of the little-endian integer of `width` bytes at `source` (1 for zero)."""
    sign = 0xFF if load_u8(source + width - 1) >= 0x80 else 0
    size = width
    while size > 1 and load_u8(source + size - 1) == sign and (load_u8(source + size - 2) ^ sign) < 0x80:
        size -= 1
    return size


@njit(nogil=True, cache=True)
def decimal_within(source: int, width: int, bounds: int) -> bool:
    """Whether low <= integer <= high; `bounds` holds low, then high, like the integer as little-endian words of 64 bits."""
    return not (_decimal_less(source, bounds, width) or _decimal_less(bounds + width, source, width))


@njit(nogil=True, cache=True)
def _decimal_less(left: int, right: int, width: int) -> bool:
    top = width - 8
    if load_i64(left + top) != load_i64(right + top):
        return load_i64(left + top) < load_i64(right + top)
    for word in range(top - 8, -8, -8):
        if load_u64(left + word) != load_u64(right + word):
            return load_u64(left + word) < load_u64(right + word)
    return False
