"""Wire: the variable-length integers of Avro, for code that reads and writes one row at a time.

Ints and longs are zigzag-encoded and cut into groups of 7 bits, least significant first; the high bit says that another byte follows. At
most 10 bytes are read (64 bits); forms longer than needed are legal. The functions are unrolled and use tables because they are the inner
loop of single-row decoding: 330 ns for 8 bytes against 450 with shifts and masks. Generated code reads up to 3 bytes in place, and undoes
the zigzag itself.

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

from typing import Any, Final

# Table k: the k-th byte moved to its place, less the continuation bit of the byte before it. So the bytes are simply added up.
SHIFT_1, SHIFT_2, _3, _4, _5, _6, _7, _8 = (tuple((byte - 1) << 7 * place for byte in range(256)) for place in range(1, 9))

ZIGZAG: Final = tuple((byte >> 1) ^ -(byte & 1) for byte in range(128))
"""Value of an int or long of one byte."""


class MalformedRowError(Exception):
    """Raised inside generated code; the caller finds out what and where (`faults`) and raises a DecodeError or a RowError."""


def read_unsigned(d: Any, p: int, b: int) -> tuple[int, int]:
    """The bits, before zigzag (0 to 2**64 - 1), of the varint whose first byte `b` (128 or more) lies before position `p` of `d`.

    Returns:
        the bits, and the position after them.
    """
    if (c := d[p]) < 128:
        return b + SHIFT_1[c], p + 1
    if (f := d[p + 1]) < 128:
        return b + SHIFT_1[c] + SHIFT_2[f], p + 2
    return read_rest(d, p + 2, b + SHIFT_1[c] + SHIFT_2[f])


def read_rest(d: Any, p: int, n: int) -> tuple[int, int]:
    """As `read_unsigned`, when 3 bytes, all with their continuation bit, were added up to `n` before position `p`."""
    if (c := d[p]) < 128:
        return n + _3[c], p + 1
    if (f := d[p + 1]) < 128:
        return n + _3[c] + _4[f], p + 2
    if (g := d[p + 2]) < 128:
        return n + _3[c] + _4[f] + _5[g], p + 3
    n += _3[c] + _4[f] + _5[g]
    if (c := d[p + 3]) < 128:
        return n + _6[c], p + 4
    if (f := d[p + 4]) < 128:
        return n + _6[c] + _7[f], p + 5
    if (g := d[p + 5]) < 128:
        return n + _6[c] + _7[f] + _8[g], p + 6
    if (h := d[p + 6]) > 1:
        raise MalformedRowError
    return n + _6[c] + _7[f] + _8[g] + ((h - 1) << 63), p + 7


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
    # From here on the first four bytes are alike.
    a, b, c, d, z = z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21 & 127 | 128, z >> 28
    if z < 0x80:
        return bytes((a, b, c, d, z))
    if z < 0x4000:
        return bytes((a, b, c, d, z & 127 | 128, z >> 7))
    if z < 0x200000:
        return bytes((a, b, c, d, z & 127 | 128, z >> 7 & 127 | 128, z >> 14))
    if z < 0x10000000:
        return bytes((a, b, c, d, z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21))
    e, f, g, h, z = z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21 & 127 | 128, z >> 28
    return bytes((a, b, c, d, e, f, g, h, z)) if z < 0x80 else bytes((a, b, c, d, e, f, g, h, z & 127 | 128, z >> 7))
