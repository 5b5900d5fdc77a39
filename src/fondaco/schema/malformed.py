"""Malformed: a plain walk over the bytes of a row, to say exactly what is wrong with them and where.

The generated decoders only notice that something is not as they expect; then this walk reads the row again, step by step, and names byte,
field and reason, or returns the value if the form was merely unusual. It is also the reference that tests compare the fast decoders with.

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from fondaco.core.errors import DecodeError
from fondaco.schema._graph import StepGraph
from fondaco.schema._nodes import short_path
from fondaco.schema.defaults import default_value, float_array_dtype
from fondaco.schema.logical import from_base
from fondaco.schema.resolution import (
    DEPTH_MAX,
    ZERO_SIZE_ITEMS_MAX,
    ReadArray,
    ReadEnum,
    ReadFixed,
    ReadMap,
    ReadPrimitive,
    ReadRecord,
    ReadUnion,
    Refuse,
    Skip,
    Step,
    WrapUnion,
    min_step_size,
)
from fondaco.schema.types import Fixed, Primitive


def read_row(step: Step, data: bytes) -> Any:
    """The value of `data`, which is exactly one row.

    Raises:
        DecodeError: position, field, reason.
    """
    value, end = read_next_row(step, data, 0)
    if end != len(data):
        raise DecodeError(end, f"{len(data) - end} bytes left over after the row")
    return value


def read_next_row(step: Step, data: bytes, start: int) -> tuple[Any, int]:
    """The value of the row that begins at `start`, and the position after it.

    Raises:
        DecodeError: position (counted from `start`), field, reason.
    """
    walk = _Walk(step, data, start)
    try:
        return walk.read(step, 0), walk.position
    except RecursionError:
        raise walk.error("nested deeper than the caller's stack allows") from None


class _Walk:
    def __init__(self, root: Step, data: bytes, start: int) -> None:
        self.data, self.start, self.position = data, start, start
        self._names: list[str] = []  # fields on the way to the value at work
        self._items_left = ZERO_SIZE_ITEMS_MAX
        self._graph = StepGraph(root)

    def error(self, reason: str, position: int | None = None) -> DecodeError:
        where = self.position if position is None else position
        return DecodeError(where - self.start, reason, field=short_path(".".join(self._names)) or None)

    # -- pieces -----------------------------------------------------------------------------------------------------------------

    def take(self, count: int, noun: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise self.error(f"truncated: {noun} takes {count} bytes, {left} are left")
        piece = self.data[self.position : self.position + count]
        self.position += count
        return piece

    def unsigned(self, noun: str) -> int:
        begin, number, shift = self.position, 0, 0
        while True:
            if self.position >= len(self.data):
                raise self.error(f"truncated inside {noun}")
            byte = self.data[self.position]
            self.position += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift == 70:
                raise self.error(f"{noun} of more than 10 bytes", begin)
        if number >> 64:
            raise self.error(f"{noun} of more than 64 bits", begin)
        return number

    def long(self, noun: str) -> int:
        number = self.unsigned(noun)
        return (number >> 1) ^ -(number & 1)

    def length(self, noun: str) -> int:
        begin = self.position
        length = self.long(f"the length of {noun}")
        if length < 0:
            raise self.error(f"negative length {length} of {noun}", begin)
        if length > len(self.data) - self.position:
            raise self.error(f"{noun} of {length} bytes, {len(self.data) - self.position} are left", begin)
        return length

    # -- steps ------------------------------------------------------------------------------------------------------------------

    def read(self, step: Step, depth: int) -> Any:
        if id(step) in self._graph.recursive:
            depth += 1
            if depth > DEPTH_MAX:
                raise self.error(f"records nested deeper than {DEPTH_MAX}")
        match step:
            case ReadPrimitive():
                return self._primitive(step)
            case ReadFixed():
                begin = self.position
                return self._convert(step.target, self.take(step.target.size, f"fixed {step.target.fullname!r}"), begin)
            case ReadEnum():
                return self._enum(step)
            case ReadArray():
                return self._array(step, depth)
            case ReadMap():
                return self._map(step, depth)
            case ReadRecord():
                return self._record(step, depth)
            case ReadUnion():
                begin = self.position
                index = self.unsigned("a union's branch")
                if index & 1 or index >> 1 >= len(step.branches):
                    raise self.error(f"union branch {(index >> 1) ^ -(index & 1)}; there are {len(step.branches)}", begin)
                return self.read(step.branches[index >> 1], depth)
            case WrapUnion():
                return self.read(step.inner, depth)
            case Skip():
                self.read(self._graph.plain(step), depth)
                return None
            case Refuse():
                raise self.error(f"the reader has no place for this value: {step.reason}")

    def _primitive(self, step: ReadPrimitive) -> Any:
        begin, wanted = self.position, step.target.kind
        value: Any = None
        match step.wire:
            case "boolean":
                byte = self.take(1, "a boolean")[0]
                if byte > 1:
                    raise self.error(f"boolean byte {byte}; 0 or 1 are allowed", begin)
                value = byte == 1
            case "int" | "long":
                value = self.long(f"an {step.wire}" if step.wire == "int" else "a long")
                if step.wire == "int" and not -(1 << 31) <= value < 1 << 31:
                    raise self.error(f"int {value} does not fit 32 bits", begin)
                if wanted == "float":
                    value = float(np.float32(value))
                elif wanted == "double":
                    value = float(value)
            case "float":
                value = struct.unpack("<f", self.take(4, "a float"))[0]
            case "double":
                value = struct.unpack("<d", self.take(8, "a double"))[0]
            case "bytes" | "string":
                value = self.take(self.length(f"a {step.wire}" if step.wire == "string" else "bytes"), step.wire)
                if wanted == "string":
                    value = self._text(value, begin)
        return self._convert(step.target, value, begin)

    def _text(self, data: bytes, begin: int) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise self.error(f"not UTF-8: {exc.reason} at its byte {exc.start}", begin) from None

    def _convert(self, kind: Primitive | Fixed, value: Any, begin: int) -> Any:
        convert = from_base(kind)
        if convert is None:
            return value
        try:
            return convert(value)
        except (ValueError, OverflowError, ArithmeticError) as exc:
            raise self.error(f"{str(value)[:80]} is no {kind.logical}: {exc}", begin) from exc

    def _enum(self, step: ReadEnum) -> str:
        begin = self.position
        index = self.long("an enum's index")
        if not 0 <= index < len(step.index_map):
            raise self.error(f"enum index {index}; {step.target.fullname!r} of the writer has {len(step.index_map)} symbols", begin)
        if step.index_map[index] < 0:
            raise self.error(
                f"symbol {index} of the writer's {step.target.fullname!r} is unknown to the reader, which has no default", begin
            )
        return step.target.symbols[step.index_map[index]]

    def _array(self, step: ReadArray, depth: int) -> Any:
        items: list[Any] = []
        for count in self._blocks(min_step_size(step.item), "array"):
            items.extend(self.read(step.item, depth) for _ in range(count))
        dtype = float_array_dtype(step.target)
        return np.array(items, dtype) if dtype else items

    def _map(self, step: ReadMap, depth: int) -> dict[str, Any]:
        items = {}
        for count in self._blocks(1 + min_step_size(step.value), "map"):
            for _ in range(count):
                begin = self.position
                key = self._text(self.take(self.length("a map's key"), "a map's key"), begin)
                items[key] = self.read(step.value, depth)
        return items

    def _blocks(self, size_min: int, noun: str) -> Any:
        """Yields the count of each block; the caller reads its items before the next."""
        while True:
            begin, stop = self.position, None
            count = self.long(f"the count of an {noun}'s block")
            if count == 0:
                return
            if count < 0:
                count = -count
                stop = self.length("a block")
                stop += self.position
            left = len(self.data) - self.position
            if count * size_min > left:
                raise self.error(f"a block of {count} items of at least {size_min} bytes, {left} bytes are left", begin)
            if size_min == 0:
                self._items_left -= count
                if self._items_left < 0:
                    raise self.error(f"more than {ZERO_SIZE_ITEMS_MAX} items without bytes in one row", begin)
            yield count
            if stop is not None and self.position != stop:
                raise self.error(f"a block says it ends at byte {stop - self.start}, its items end at {self.position - self.start}", begin)

    def _record(self, step: ReadRecord, depth: int) -> dict[str, Any]:
        values: dict[int, Any] = {}
        for member in step.members:
            self._names.append(member.name)
            value = self.read(member.step, depth)
            self._names.pop()
            if member.reader_index is not None:
                values[member.reader_index] = value
        fields = step.target.fields
        for default in step.defaults:
            member_type = fields[default.reader_index]
            values[default.reader_index] = default_value(member_type.type, member_type.default)
        return {fields[index].name: values[index] for index in range(len(fields))}
