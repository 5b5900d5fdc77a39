"""Generated Python that writes one row: from a type to the text of a function specialised to it.

The text follows the fields. Values of the expected Python type take the short way; anything else goes through a conversion that accepts
what loses nothing (NumPy's scalars, ints for floats) and refuses the rest. As in the decoder, a refusal is not described here: the caller
asks `misfit` which field, which value and what was expected.

In generated text: `o` the bytes so far, `a` its append, `t` depth inside records that can contain themselves, `v...` values.

Thread rule: generating is pure; generated functions keep no state. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from fondaco.schema._default_bytes import default_bytes
from fondaco.schema._source import Source
from fondaco.schema.coerce import as_bytes, as_float, as_float32, as_int, as_items, as_text, float_items, integer_range
from fondaco.schema.defaults import float_array_dtype
from fondaco.schema.logical import to_base
from fondaco.schema.resolution import DEPTH_MAX
from fondaco.schema.types import Array, Enum, Fixed, Map, Primitive, Record, Type, Union
from fondaco.schema.wire import MalformedRowError, encode_long

WRITE_FAULTS: Final = (
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
    OverflowError,
    ArithmeticError,
    RecursionError,
    struct.error,
    MalformedRowError,
)
"""What generated code raises on a value that does not fit."""

_MISSING: Final = object()


class EncoderSource:
    """Generates the functions for one type."""

    def __init__(self, root: Type, pick: Callable[[Union], Callable[[Any], tuple[int, Any]]]) -> None:
        self.root = root
        self._pick = pick  # chooses the branch of a union that is more than optional
        self._functions: dict[int, str] = {}
        self._recursive: dict[int, bool] = {}
        self.source = Source(
            Malformed=MalformedRowError,
            Mapping=Mapping,
            numpy_bool=np.bool_,
            MISSING=_MISSING,
            WRITE_FAULTS=WRITE_FAULTS,
            as_float=as_float,
            as_float32=as_float32,
            as_int=as_int,
            as_items=as_items,
            as_text=as_text,
            encode_long=encode_long,
            float_items=float_items,
            as_bytes=as_bytes,
        )

    def encode_function(self, fault: Callable[[Any], Exception]) -> Callable[[Any], bytes]:
        """`encode(value) -> bytes`; `fault(value)` makes the error for a value that does not fit."""
        source = self.source
        source.names["fault"] = fault
        with source.function("def encode(v):"):
            source.line("o = bytearray(); a = o.append; t = 0")
            with source.block("try:"):
                self._write(self.root, "v")
            with source.block("except WRITE_FAULTS as exc:"):
                source.line("raise fault(v) from exc")
            source.line("return bytes(o)")
        encode: Callable[[Any], bytes] = source.build("encode", "row encoder")
        return encode

    # -- by type ----------------------------------------------------------------------------------------------------------------

    def _write(self, kind: Type, value: str) -> None:
        """Code that appends the bytes of the local `value`."""
        nested = isinstance(kind, Record) or (self.source.deep and isinstance(kind, Union | Array | Map))
        if nested and (kind is not self.root or self._is_recursive(kind)):
            self._call(kind, value)
        else:
            self._write_here(kind, value)

    def _call(self, kind: Type, value: str) -> None:
        name = self._functions.get(id(kind))
        if name is None:
            name = self._functions[id(kind)] = self.source.fresh("write")
            with self.source.function(f"def {name}(o, a, v, t):"):
                with self.source.block(f"if t > {DEPTH_MAX}:"):
                    self.source.line("raise Malformed")
                self._write_here(kind, "v")
        inside = " + 1" if self._is_recursive(kind) else ""
        self.source.line(f"{name}(o, a, {value}, t{inside})")

    def _is_recursive(self, kind: Type) -> bool:
        if not isinstance(kind, Record):
            return False
        if id(kind) not in self._recursive:
            self._recursive[id(kind)] = _contains(kind, kind)
        return self._recursive[id(kind)]

    def _write_here(self, kind: Type, value: str) -> None:
        match kind:
            case Primitive():
                self._primitive(kind, value)
            case Fixed():
                self._fixed(kind, value)
            case Enum():
                places = self.source.constant({symbol: encode_long(index) for index, symbol in enumerate(kind.symbols)})
                self.source.line(f"o += {places}[{value}]")
            case Array():
                self._array(kind, value)
            case Map():
                self._map(kind, value)
            case Union():
                self._union(kind, value)
            case Record():
                self._record(kind, value)

    def _primitive(self, kind: Primitive, value: str) -> None:
        line, block = self.source.line, self.source.block
        convert = to_base(kind)
        if convert is not None:
            line(f"{value} = {self.source.constant(convert)}({value})")
        match kind.kind:
            case "null":
                with block(f"if {value} is not None:"):
                    line("raise Malformed")
            case "boolean":
                with block(f"if {value} is True or {value} is False or {value}.__class__ is numpy_bool:"):
                    line(f"a(1 if {value} else 0)")
                with block("else:"):
                    line("raise Malformed")
            case "int" | "long":
                self._integer(kind, value)
            case "float":
                with block(f"if {value}.__class__ is not float:"):
                    line(f"{value} = as_float({value})")
                line(f"o += as_float32({value})")
            case "double":
                with block(f"if {value}.__class__ is not float:"):
                    line(f"{value} = as_float({value})")
                line(f"o += {self.source.constant(struct.Struct('<d').pack)}({value})")
            case "string":
                with block(f"if {value}.__class__ is not str:"):
                    line(f"{value} = as_text({value})")
                line(f"{value} = {value}.encode()")
                self._sized(value)
            case "bytes":
                with block(f"if {value}.__class__ is not bytes:"):
                    line(f"{value} = as_bytes({value})")
                self._sized(value)

    def _integer(self, kind: Primitive, value: str) -> None:
        line, block = self.source.line, self.source.block
        low, high = integer_range(kind)
        with block(f"if {value}.__class__ is not int:"):
            line(f"{value} = as_int({value})")
        with block(f"if {max(low, -64)} <= {value} < 64:"):
            line(f"a(({value} << 1) ^ ({value} >> 63))")
        if low < -8192 and high > 8191:
            with block(f"elif -8192 <= {value} < 8192:"):
                line(f"n = ({value} << 1) ^ ({value} >> 63); a(n & 127 | 128); a(n >> 7)")
        with block(f"elif {low} <= {value} <= {high}:"):
            line(f"o += encode_long({value})")
        with block("else:"):
            line("raise Malformed")

    def _sized(self, value: str) -> None:
        line, block = self.source.line, self.source.block
        line(f"n = len({value})")
        with block("if n < 64:"):
            line("a(n << 1)")
        with block("else:"):
            line("o += encode_long(n)")
        line(f"o += {value}")

    def _fixed(self, kind: Fixed, value: str) -> None:
        convert = to_base(kind)
        if convert is not None:
            self.source.line(f"{value} = {self.source.constant(convert)}({value})")
        else:
            with self.source.block(f"if {value}.__class__ is not bytes:"):
                self.source.line(f"{value} = as_bytes({value})")
        with self.source.block(f"if len({value}) != {kind.size}:"):
            self.source.line("raise Malformed")
        self.source.line(f"o += {value}")

    def _array(self, kind: Array, value: str) -> None:
        line, block = self.source.line, self.source.block
        dtype = float_array_dtype(kind)
        if dtype is not None:
            line(f"n, {value} = float_items({value}, {dtype!r})")
            with block("if n:"):
                line(f"o += encode_long(n); o += {value}")
            line("a(0)")
            return
        item = self.source.fresh("v")
        line(f"{value} = as_items({value})")
        with block(f"if {value}:"):
            line(f"o += encode_long(len({value}))")
            with block(f"for {item} in {value}:"):
                self._write(kind.items, item)
        line("a(0)")

    def _map(self, kind: Map, value: str) -> None:
        line, block = self.source.line, self.source.block
        key, item = self.source.fresh("v"), self.source.fresh("v")
        self._check_mapping(value)
        with block(f"if {value}:"):
            line(f"o += encode_long(len({value}))")
            with block(f"for {key}, {item} in {value}.items():"):
                self._write(Primitive("string"), key)
                self._write(kind.values, item)
        line("a(0)")

    def _check_mapping(self, value: str) -> None:
        with self.source.block(f"if {value}.__class__ is not dict and not isinstance({value}, Mapping):"):
            self.source.line("raise Malformed")

    def _union(self, kind: Union, value: str) -> None:
        line, block = self.source.line, self.source.block
        null, inner = kind.null_index, kind.optional
        if inner is not None and null is not None:
            with block(f"if {value} is None:"):
                line(f"a({2 * null})")
            with block("else:"):
                line(f"a({2 * (1 - null)})")
                self._write(inner, value)
            return
        index = self.source.fresh("i")
        line(f"{index}, {value} = {self.source.constant(self._pick(kind))}({value})")
        line(f"o += encode_long({index})")
        for place, branch in enumerate(kind.branches):
            with block(f"{'elif' if place else 'if'} {index} == {place}:"):
                self._write(branch, value)

    def _record(self, kind: Record, value: str) -> None:
        line, block = self.source.line, self.source.block
        self._check_mapping(value)
        has_defaults = any(member.has_default for member in kind.fields)
        if has_defaults:
            line(f"n = {len(kind.fields)}")
        names = [self.source.fresh("v") for _ in kind.fields]
        # Read all fields first: `n` counts those present, and a key too many is found before anything is written.
        for member, name in zip(kind.fields, names, strict=True):
            if member.has_default:
                line(f"{name} = {value}.get({member.name!r}, MISSING)")
                line(f"if {name} is MISSING: n -= 1")
            else:
                line(f"{name} = {value}[{member.name!r}]")
        with block(f"if len({value}) != {'n' if has_defaults else len(kind.fields)}:"):
            line("raise Malformed")
        for member, name in zip(kind.fields, names, strict=True):
            if member.has_default:
                default = self.source.constant(default_bytes(member))
                with block(f"if {name} is MISSING:"):
                    line(f"o += {default}")
                with block("else:"):
                    self._write(member.type, name)
            else:
                self._write(member.type, name)


def _contains(record: Type, target: Type) -> bool:
    """Whether a value of `target` can lie inside one of `record`."""
    seen: set[int] = set()
    stack: list[Type] = [record]
    while stack:
        kind = stack.pop()
        children: list[Type] = []
        match kind:
            case Array():
                children = [kind.items]
            case Map():
                children = [kind.values]
            case Union():
                children = list(kind.branches)
            case Record():
                children = [member.type for member in kind.fields]
        for child in children:
            if child is target:
                return True
            if id(child) not in seen:
                seen.add(id(child))
                stack.append(child)
    return False
