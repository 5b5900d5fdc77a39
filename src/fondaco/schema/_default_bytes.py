"""Defaults as bytes: the Avro encoding of a default written in a schema.

Both compilers splice defaults in as bytes: the decoder reads a missing field from its default's bytes as if they stood in the row, and the
encoder copies them into rows whose table lacks the column.
"""

from __future__ import annotations

import struct
from typing import Any, cast

from fondaco.schema.defaults import default_branch
from fondaco.schema.types import Array, Enum, Field, Fixed, Map, Primitive, Record, Type, Union
from fondaco.schema.wire import encode_long


def default_bytes(member: Field) -> bytes:
    """Encoding of the default of a field that has one (checked when the schema was parsed)."""
    return _encode(member.type, member.default)


def _encode(kind: Type, default: Any) -> bytes:
    match kind:
        case Primitive():
            return _primitive(kind.kind, default)
        case Fixed():
            return cast(str, default).encode("latin-1")
        case Enum():
            return encode_long(kind.symbols.index(default))
        case Array():
            return _blocks([_encode(kind.items, item) for item in default])
        case Map():
            return _blocks([_primitive("string", key) + _encode(kind.values, value) for key, value in default.items()])
        case Union():
            index = default_branch(kind, default)
            return encode_long(index) + _encode(kind.branches[index], default)
        case Record():
            return b"".join(_encode(member.type, default.get(member.name, member.default)) for member in kind.fields)


def _primitive(kind: str, default: Any) -> bytes:
    match kind:
        case "null":
            return b""
        case "boolean":
            return b"\x01" if default else b"\x00"
        case "int" | "long":
            return encode_long(default)
        case "float":
            return struct.pack("<f", default)
        case "double":
            return struct.pack("<d", default)
    data: bytes = default.encode("latin-1" if kind == "bytes" else "utf-8")
    return encode_long(len(data)) + data


def _blocks(items: list[bytes]) -> bytes:
    return (encode_long(len(items)) + b"".join(items) if items else b"") + b"\x00"
