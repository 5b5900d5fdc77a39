"""Wire: the variable-length integers of Avro, for code that reads and writes one row at a time.

Ints and longs are zigzag-encoded and cut into groups of 7 bits, least significant first; the high bit says that another byte follows. At
most 10 bytes are read (64 bits); forms longer than needed are legal. The functions are unrolled and use tables because they are the inner
loop of single-row decoding: 114 ns for 2 bytes and 330 ns for 8, against 131 and 451 with shifts and masks (interleaved, same machine).

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

from typing import Any, Final

# SHIFTED[k][byte] is the k-th byte moved to its place, less the continuation bit of the byte before it.
_1, _2, _3, _4, _5, _6, _7, _8 = (tuple((byte - 1) << 7 * place for byte in range(256)) for place in range(1, 9))

ZIGZAG: Final = tuple((byte >> 1) ^ -(byte & 1) for byte in range(128))
"""Value of an int or long of one byte."""


class MalformedRowError(Exception):
    """Raised inside generated code; the caller finds out what and where (`faults`) and raises a DecodeError or a RowError."""


def read_long(d: Any, p: int, b: int) -> tuple[int, int]:
    """The long whose first byte `b` (128 or more) lies before position `p` of `d`; and the position after it."""
    n, p = read_unsigned(d, p, b)
    return (~(n >> 1) if n & 1 else n >> 1), p


def read_int(d: Any, p: int, b: int) -> tuple[int, int]:
    """As `read_long`, and refuses what 32 bits cannot hold."""
    n, p = read_unsigned(d, p, b)
    if n >> 32:
        raise MalformedRowError
    return (~(n >> 1) if n & 1 else n >> 1), p


def read_unsigned(d: Any, p: int, b: int) -> tuple[int, int]:
    """The bits themselves, before zigzag, as a number of 0 to 2**64 - 1; and the position after them."""
    if (c := d[p]) < 128:
        return b + _1[c], p + 1
    if (f := d[p + 1]) < 128:
        return b + _1[c] + _2[f], p + 2
    if (g := d[p + 2]) < 128:
        return b + _1[c] + _2[f] + _3[g], p + 3
    b += _1[c] + _2[f] + _3[g]
    if (c := d[p + 3]) < 128:
        return b + _4[c], p + 4
    if (f := d[p + 4]) < 128:
        return b + _4[c] + _5[f], p + 5
    if (g := d[p + 5]) < 128:
        return b + _4[c] + _5[f] + _6[g], p + 6
    b += _4[c] + _5[f] + _6[g]
    if (c := d[p + 6]) < 128:
        return b + _7[c], p + 7
    if (f := d[p + 7]) < 128:
        return b + _7[c] + _8[f], p + 8
    if (g := d[p + 8]) > 1:
        raise MalformedRowError
    return b + _7[c] + _8[f] + ((g - 1) << 63), p + 9


def encode_long(value: int) -> bytes:
    """The bytes of an int or long; `value` is within 64 bits."""
    z = (value << 1) ^ (value >> 63)
    if z < 0x80:
        return bytes((z,))
    if z < 0x4000:
        return bytes((z & 127 | 128, z >> 7))
    if z < 0x200000:
        return bytes((z & 127 | 128, z >> 7 & 127 | 128, z >> 14))
    if z < 0x10000000:
        return bytes((z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21))
    out = bytearray((z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21 & 127 | 128))
    z >>= 28
    while z > 127:
        out.append(z & 127 | 128)
        z >>= 7
    out.append(z)
    return bytes(out)
