"""Generated Python that reads one row: from a tree of steps to the text of functions specialised to it.

The text follows the bytes: locals for the fields, one dict literal at the end, neighbouring fields of fixed width read by one `struct`
call, a one-byte integer by table, floats of an array and vectors as one NumPy view. No bookkeeping for errors: every read is checked,
but by the cheapest means at hand (IndexError of the buffer, a comparison), and when a check fails the caller asks `faults` what was
wrong and where.

In generated text: `d` buffer, `p` position, `e` end of the row, `t` depth inside records that can contain themselves, `z` how many items
without bytes are still allowed, `b` first byte of a varint, `q` end of a run.

Thread rule: generating is pure; generated functions keep no state. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, cast

import numpy as np

from fondaco.core.errors import InputError
from fondaco.schema._graph import StepGraph
from fondaco.schema._source import Source
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
from fondaco.schema.types import Date, Fixed, Primitive, Timestamp, Vector
from fondaco.schema.vectors import vector_dtype, view_vector
from fondaco.schema.wire import SHIFT_1, SHIFT_2, ZIGZAG, MalformedRowError, read_rest, read_unsigned

Getter = Callable[[Any, int, int], Any]

READ_FAULTS: Final = (IndexError, ValueError, OverflowError, ArithmeticError, RecursionError, struct.error, MalformedRowError)
"""What generated code raises on bytes that are not a row."""

_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_STRUCT_CODES: Final = {"float": "f", "double": "d", "boolean": "B"}
_WIDTHS: Final = {"null": 0, "float": 4, "double": 8, "boolean": 1}
_FIXED_IN_STRUCT_MAX: Final = 64
_VARINT: Final = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
_PATTERN_BYTES_MAX: Final = 4096
FLOAT_DTYPES: Final = {"<f4": np.dtype("<f4"), "<f8": np.dtype("<f8")}


def read_float_blocks(d: Any, p: int, e: int, n: int, dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Items of an array of floats in any number of blocks; `n` is the count of the first, already read. See `_float_array`."""
    parts = []
    while n:
        size = None
        if n < 0:
            n = -n
            size, p = _long(d, p)
        q = p + n * dtype.itemsize
        if q > e or (size is not None and size != q - p):
            raise MalformedRowError
        parts.append(np.frombuffer(d, dtype, n, p))
        n, p = _long(d, q)
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)) if parts else np.empty(0, dtype), p


def skip_block(d: Any, p: int, e: int, n: int) -> tuple[int, int]:
    """A block that says its size in bytes, to be skipped: -> (count, position after it)."""
    size, p = _long(d, p)
    if not p <= p + size <= e:
        raise MalformedRowError
    return -n, p + size


def _long(d: Any, p: int) -> tuple[int, int]:
    if (b := d[p]) < 128:
        return ZIGZAG[b], p + 1
    n, p = read_unsigned(d, p + 1, b)
    return ~(n >> 1) if n & 1 else n >> 1, p


def _as_float32(number: float) -> float:
    return float(np.float32(number))


class DecoderSource:
    """Generates the functions for one tree of steps."""

    def __init__(self, root: Step) -> None:
        self.root = root
        self.source = Source(
            ZIGZAG=ZIGZAG,
            BOOLEANS=(False, True),
            Malformed=MalformedRowError,
            READ_FAULTS=READ_FAULTS,
            read_rest=read_rest,
            read_unsigned=read_unsigned,
            SHIFT_1=SHIFT_1,
            SHIFT_2=SHIFT_2,
            read_float_blocks=read_float_blocks,
            skip_block=skip_block,
            frombuffer=np.frombuffer,
            fromordinal=date.fromordinal,
            timedelta=timedelta,
            EPOCH=datetime(1970, 1, 1, tzinfo=UTC),
            EPOCH_LOCAL=datetime(1970, 1, 1),
            as_float32=_as_float32,
        )
        self._functions: dict[tuple[int, bool], str] = {}
        self._graph = StepGraph(root)
        self._text, self._bytes = "d[p:q].decode()", "d[p:q]"  # of bytes; `get_function` takes any buffer
        self._budget = ", z" if self._graph.items_without_bytes else ""

    # -- whole rows -------------------------------------------------------------------------------------------------------------

    def decode_function(self, plain: Callable[[bytes], Any]) -> Callable[[Any], Any]:
        """`decode(data) -> value`; `plain(data)` decides where a check failed: raises the error, or returns the value after all."""
        source = self.source
        source.names |= {"plain": plain, "row_bytes": _row_bytes}
        with source.function("def decode(d):"):
            with source.block("if d.__class__ is not bytes:"):
                source.line("d = row_bytes(d)")
            source.line("p = 0; e = len(d)")
            with source.block("try:"):
                self._start()
                value = self._value(self.root)
            with source.block("except READ_FAULTS:"):
                source.line("return plain(d)")
            with source.block("if p != e:"):
                source.line("return plain(d)")
            source.line(f"return {value}")
        return cast("Callable[[Any], Any]", self._build("decode"))

    def read_function(self, plain: Callable[[bytes, int], tuple[Any, int]]) -> Callable[[bytes, int], tuple[Any, int]]:
        """`read(d, p) -> (value, position after it)`, for rows that follow one another; `plain(d, p)` as in `decode_function`."""
        source = self.source
        source.names["plain"] = plain
        with source.function("def read(d, p):"):
            source.line("e = len(d); begin = p")
            with source.block("try:"):
                self._start()
                value = self._value(self.root)
            with source.block("except READ_FAULTS:"):
                source.line("return plain(d, begin)")
            with source.block("if p > e:"):
                source.line("return plain(d, begin)")
            source.line(f"return {value}, p")
        return cast("Callable[[bytes, int], tuple[Any, int]]", self._build("read"))

    def get_function(self, record: ReadRecord, index: int, plain: Getter, *, sealed: bool = False) -> Getter:
        """`get(d, p, e) -> value` of the writer's member `index`, passing over those before it; `plain(d, p, e)` as above.

        `d` is bytes, a memoryview of bytes or an mmap; views of it are returned where values are views. `sealed`: the bytes are known to
        be a whole row, so a field that only fields of fixed width follow is found from the end.
        """
        source = self.source
        source.names["plain"] = plain
        self._text, self._bytes = "str(d[p:q], 'utf-8')", "bytes(d[p:q])"
        with source.function("def get(d, p, e):"):
            source.line("begin = p")
            with source.block("try:"):
                self._start()
                self._seek([member.step for member in record.members], index, sealed)
                value = self._value(record.members[index].step)
            with source.block("except READ_FAULTS:"):
                source.line("return plain(d, begin, e)")
            with source.block("if p > e:"):  # read from bytes after the row, which the buffer happens to hold
                source.line("return plain(d, begin, e)")
            source.line(f"return {value}")
        return cast(Getter, self._build("get"))

    def _seek(self, steps: Sequence[Step], index: int, sealed: bool) -> None:
        """Code that moves `p` to the step at `index`."""
        before, after = self._patterns(steps[:index]), self._patterns(steps[index:])
        from_start = before is not None and before[1] is not None
        if sealed and not from_start and after is not None and after[1] is not None:
            self.source.line(f"p = e - {after[1]}")
        else:
            self._skip_all(steps[:index])

    def _start(self) -> None:
        self.source.line("t = 0")
        if self._budget:
            self.source.line(f"z = [{ZERO_SIZE_ITEMS_MAX}]")

    def _build(self, name: str) -> Any:
        return self.source.build(name, "row decoder")

    # -- values -----------------------------------------------------------------------------------------------------------------

    def _value(self, step: Step) -> str:
        """Code that reads `step`; returns an expression for its value."""
        target = self.source.fresh("v")
        return self._read(step, target)

    def _read(self, step: Step, target: str) -> str:
        """Code that reads `step` into the local `target`, or needs no code and returns another expression."""
        if self._in_function(step):
            self._call(step, target)
            return target
        return self._read_here(step, target)

    def _in_function(self, step: Step) -> bool:
        complex_step = isinstance(step, ReadRecord | ReadUnion | ReadArray | ReadMap)
        return complex_step and (id(step) in self._graph.shared or self.source.deep)

    def _call(self, step: Step, target: str | None) -> None:
        """Code that reads `step` into `target` (None: passes over it) by a function of its own."""
        key = (id(step), target is None)
        name = self._functions.get(key)
        recursive = id(step) in self._graph.recursive
        if name is None:
            name = self._functions[key] = self.source.fresh("skip" if target is None else "read")
            with self.source.function(f"def {name}(d, p, e, t{self._budget}):"):
                if recursive:
                    with self.source.block(f"if t > {DEPTH_MAX}:"):
                        self.source.line("raise Malformed")
                if target is None:
                    self._skip_here(step)
                    self.source.line("return p")
                else:
                    value = self._read_here(step, "v")
                    self.source.line(f"return {value}, p")
        result = "p" if target is None else f"{target}, p"
        self.source.line(f"{result} = {name}(d, p, e, t{' + 1' if recursive else ''}{self._budget})")

    def _read_here(self, step: Step, target: str) -> str:
        match step:
            case ReadPrimitive():
                return self._primitive(step, target)
            case ReadFixed():
                self._fixed(step.target, target)
            case ReadEnum():
                self._varint(target)
                symbols = tuple(step.target.symbols[index] if index >= 0 else None for index in step.index_map)
                with self.source.block(f"if {target} < 0:"):
                    self.source.line("raise Malformed")
                self.source.line(f"{target} = {self.source.constant(symbols)}[{target}]")
                if None in symbols:
                    with self.source.block(f"if {target} is None:"):
                        self.source.line("raise Malformed")
            case ReadArray():
                self._array(step, target)
            case ReadMap():
                self._map(step, target)
            case ReadRecord():
                return self._record(step)
            case ReadUnion():
                self._union(step, target)
            case WrapUnion():
                return self._read(step.inner, target)
            case Skip():
                self._skip_all([step])
                return "None"
            case Refuse():
                self.source.line("raise Malformed")
                return "None"
        return target

    def _varint(self, target: str, *, bits: int = 64) -> None:
        """Code that reads an int or long: forms of up to 3 bytes in place, longer ones by a call."""
        line = self.source.line
        line("b = d[p]")
        line(f"if b < 128: {target} = ZIGZAG[b]; p += 1")
        line(f"elif (c := d[p + 1]) < 128: n = b + SHIFT_1[c]; {target} = ~(n >> 1) if n & 1 else n >> 1; p += 2")
        with self.source.block("else:"):
            line("n = b + SHIFT_1[c] + SHIFT_2[c := d[p + 2]]; p += 3")
            line("if c > 127: n, p = read_rest(d, p, n)")
            if bits == 32:
                with self.source.block("if n >> 32:"):
                    line("raise Malformed")
            line(f"{target} = ~(n >> 1) if n & 1 else n >> 1")

    def _run(self, length: str) -> None:
        """Code that moves `q` behind the next `length` bytes, which must be there."""
        self.source.line(f"q = p + {length}")
        with self.source.block("if not p <= q <= e:"):
            self.source.line("raise Malformed")

    def _primitive(self, step: ReadPrimitive, target: str) -> str:
        line, wire, wanted = self.source.line, step.wire, step.target.kind
        match wire:
            case "null":
                return "None"
            case "boolean":
                line(f"{target} = BOOLEANS[d[p]]; p += 1")
            case "int" | "long":
                self._varint(target, bits=32 if wire == "int" else 64)
                if wanted in ("float", "double"):
                    line(f"{target} = {'as_float32' if wanted == 'float' else 'float'}({target})")
            case "float" | "double":
                unpack = self.source.constant(_unpacker("<" + _STRUCT_CODES[wire]))
                line(f"{target}, = {unpack}(d, p); p += {_WIDTHS[wire]}")
            case "bytes" | "string":
                self._varint("q")
                self._run("q")
                line(f"{target} = {self._text if wanted == 'string' else self._bytes}; p = q")
        return self._convert(step.target, target)

    def _convert(self, kind: Primitive | Fixed, target: str) -> str:
        convert = from_base(kind)
        if convert is None:
            return target
        match kind.logical:
            case Date():
                expression = f"fromordinal({target} + {_EPOCH_ORDINAL})"
            case Timestamp("micros", local):
                expression = f"{'EPOCH_LOCAL' if local else 'EPOCH'} + timedelta(0, 0, {target})"
            case Timestamp("millis", local):
                expression = f"{'EPOCH_LOCAL' if local else 'EPOCH'} + timedelta(0, 0, 0, {target})"
            case _:
                expression = f"{self.source.constant(convert)}({target})"
        self.source.line(f"{target} = {expression}")
        return target

    def _fixed(self, kind: Fixed, target: str) -> None:
        if isinstance(kind.logical, Vector):
            with self.source.block(f"if p + {kind.size} > e:"):
                self.source.line("raise Malformed")
            if kind.logical.dtype == "int8":
                self.source.names["view_vector"] = view_vector
                self.source.line(f"{target} = view_vector({self.source.constant(kind.logical)}, d, p); p += {kind.size}")
            else:
                dtype = self.source.constant(vector_dtype(kind.logical.dtype))
                self.source.line(f"{target} = frombuffer(d, {dtype}, {kind.logical.dim}, p); p += {kind.size}")
            return
        self._run(str(kind.size))
        self.source.line(f"{target} = {self._bytes}; p = q")
        self._convert(kind, target)

    # -- collections ------------------------------------------------------------------------------------------------------------

    def _array(self, step: ReadArray, target: str) -> None:
        dtype = float_array_dtype(step.target)
        wire = step.item.wire if isinstance(step.item, ReadPrimitive) else None
        if wire in ("float", "double"):
            self._float_array("<f4" if wire == "float" else "<f8", dtype or "", target)
            return
        items, append = self.source.fresh("items"), self.source.fresh("append")
        self.source.line(f"{items} = []; {append} = {items}.append")

        def read_item() -> None:
            self.source.line(f"{append}({self._read(step.item, self.source.fresh('v'))})")

        self._blocks(min_step_size(step.item), read_item)
        if dtype:
            self.source.names["array"] = np.array
            self.source.line(f"{target} = array({items}, {dtype!r})")
        else:
            self.source.line(f"{target} = {items}")

    def _float_array(self, wire: str, wanted: str, target: str) -> None:
        """One NumPy view when all items lie in one block, as every writer we know does; any number of blocks otherwise."""
        line, dtype = self.source.line, np.dtype(wire)
        name = self.source.constant(FLOAT_DTYPES[wire])
        self._varint("n")
        line(f"q = p + {dtype.itemsize} * n")
        with self.source.block("if n > 0 and q < e and not d[q]:"):
            line(f"{target} = frombuffer(d, {name}, n, p); p = q + 1")
        with self.source.block("else:"):
            line(f"{target}, p = read_float_blocks(d, p, e, n, {name})")
        if wanted != wire:
            line(f"{target} = {target}.astype({wanted!r})")

    def _map(self, step: ReadMap, target: str) -> None:
        items, key = self.source.fresh("items"), self.source.fresh("key")
        self.source.line(f"{items} = {{}}")

        def read_entry() -> None:
            self._varint("q")
            self._run("q")
            self.source.line(f"{key} = {self._text}; p = q")
            self.source.line(f"{items}[{key}] = {self._read(step.value, self.source.fresh('v'))}")

        self._blocks(1 + min_step_size(step.value), read_entry)
        self.source.line(f"{target} = {items}")

    def _blocks(self, size_min: int, read_item: Callable[[], None]) -> None:
        """Code around `read_item` for the blocks of an array or map whose items take at least `size_min` bytes."""
        line, block = self.source.line, self.source.block
        count, stop = self.source.fresh("n"), self.source.fresh("stop")
        with block("while True:"):
            self._varint(count)
            with block(f"if {count} > 0:"):
                line(f"{stop} = -1")
            with block(f"elif {count} < 0:"):
                line(f"{count} = -{count}")
                self._varint("q")
                self._run("q")
                line(f"{stop} = q")
            with block("else:"):
                line("break")
            self._check_count(count, size_min)
            with block(f"for _ in range({count}):"):
                read_item()
            with block(f"if {stop} >= 0 and p != {stop}:"):
                line("raise Malformed")

    def _check_count(self, count: str, size_min: int) -> None:
        line, block = self.source.line, self.source.block
        if size_min:
            with block(f"if {count} * {size_min} > e - p:" if size_min > 1 else f"if {count} > e - p:"):
                line("raise Malformed")
        else:
            line(f"z[0] -= {count}")
            with block("if z[0] < 0:"):
                line("raise Malformed")

    # -- records and unions -----------------------------------------------------------------------------------------------------

    def _record(self, step: ReadRecord) -> str:
        values: dict[int, str] = {}
        members = list(step.members)
        while members:
            if members[0].reader_index is None:
                count = next((i for i, member in enumerate(members) if member.reader_index is not None), len(members))
                self._skip_all([member.step for member in members[:count]])
                del members[:count]
                continue
            stops = (i for i, member in enumerate(members) if member.reader_index is None or not _struct_code(member.step))
            count = next(stops, len(members))
            if count > 1:
                targets = self._struct([member.step for member in members[:count]])
                for member, target in zip(members[:count], targets, strict=True):
                    values[cast(int, member.reader_index)] = target
                del members[:count]
            else:
                values[members[0].reader_index] = self._value(members[0].step)
                del members[:1]
        for default in step.defaults:
            values[default.reader_index] = self._default(step, default.reader_index, default.value)
        fields = step.target.fields
        return "{" + ", ".join(f"{fields[index].name!r}: {values[index]}" for index in range(len(fields))) + "}"

    def _default(self, step: ReadRecord, index: int, value: Any) -> str:
        if not isinstance(value, dict | list | np.ndarray):
            return self.source.constant(value)
        member = step.target.fields[index]  # mutable: every row gets its own
        return self.source.constant(lambda: default_value(member.type, member.default)) + "()"

    def _struct(self, steps: Sequence[Step]) -> list[str]:
        """Neighbours of fixed width, read by one call."""
        targets = [self.source.fresh("v") for _ in steps]
        layout = "<" + "".join(_struct_code(step) for step in steps)
        self.source.line(f"{', '.join(targets)}, = {self.source.constant(_unpacker(layout))}(d, p); p += {struct.calcsize(layout)}")
        for step, target in zip(steps, targets, strict=True):
            if isinstance(step, ReadFixed):
                self._convert(step.target, target)
            elif isinstance(step, ReadPrimitive) and step.wire == "boolean":
                self.source.line(f"{target} = BOOLEANS[{target}]")
        return targets

    def _union(self, step: ReadUnion, target: str) -> None:
        line, block = self.source.line, self.source.block
        line("b = d[p]; p += 1")
        # An index in more bytes than needed is legal, and no writer does it: it ends in the plain walk.
        if len(step.branches) > 64:
            line("if b > 127: b, p = read_unsigned(d, p, b)")
        order = sorted(range(len(step.branches)), key=lambda index: _is_null(step.branches[index]))  # the likely one first
        for place, index in enumerate(order):
            with block(f"{'elif' if place else 'if'} b == {2 * index}:"):
                value = self._read(step.branches[index], target)
                if value != target:
                    line(f"{target} = {value}")
        with block("else:"):
            line("raise Malformed")

    # -- passing over -----------------------------------------------------------------------------------------------------------

    def _skip_all(self, steps: Sequence[Step]) -> None:
        """Code that passes over neighbours: constants are added up, runs of varints become one regular expression."""
        pending: list[tuple[bytes, int | None]] = []  # (pattern, width if it is fixed)
        for step in steps:
            item = self._pattern(step)
            if item is not None and sum(len(pattern) for pattern, _ in pending) + len(item[0]) < _PATTERN_BYTES_MAX:
                if item[1] != 0:
                    pending.append(item)
                continue
            self._skip_run(pending)
            pending = []
            if item is not None:
                pending.append(item)
            else:
                self._skip(step)
        self._skip_run(pending)

    def _skip_run(self, run: list[tuple[bytes, int | None]]) -> None:
        while run and run[-1][1] is not None and all(width is not None for _, width in run):
            self.source.line(f"p += {sum(width or 0 for _, width in run)}")
            with self.source.block("if p > e:"):
                self.source.line("raise Malformed")
            return
        if not run:
            return
        match = self.source.constant(re.compile(b"".join(pattern for pattern, _ in run), re.DOTALL).match)
        # A form that the pattern does not know (a branch index in more bytes than needed) ends in None, then in `faults`, which reads it.
        self.source.line(f"m = {match}(d, p, e)")
        with self.source.block("if m is None:"):
            self.source.line("raise Malformed")
        self.source.line("p = m.end()")

    def _skip(self, step: Step) -> None:
        if isinstance(step, ReadRecord | ReadUnion | ReadArray | ReadMap) and (id(step) in self._graph.shared or self.source.deep):
            self._call(step, None)
        else:
            self._skip_here(step)

    def _skip_here(self, step: Step) -> None:
        line, block = self.source.line, self.source.block
        match step:
            case Skip():
                self._skip(self._graph.plain(step))
            case WrapUnion():
                self._skip(step.inner)
            case ReadPrimitive(wire="string" | "bytes"):
                self._varint("q")
                self._run("q")
                line("p = q")
            case ReadRecord():
                self._skip_all([member.step for member in step.members])
            case ReadUnion():
                line("b = d[p]; p += 1")
                if len(step.branches) > 64:
                    line("if b > 127: b, p = read_unsigned(d, p, b)")
                for index, branch in enumerate(step.branches):
                    with block(f"{'elif' if index else 'if'} b == {2 * index}:"):
                        self._skip_all([branch])
                with block("else:"):
                    line("raise Malformed")
            case ReadArray():
                self._skip_blocks(step.item, key=False)
            case ReadMap():
                self._skip_blocks(step.value, key=True)
            case Refuse():
                line("raise Malformed")
            case _:
                self._skip_all([step])

    def _skip_blocks(self, item: Step, *, key: bool) -> None:
        line, block = self.source.line, self.source.block
        count = self.source.fresh("n")
        size_min = min_step_size(item) + key
        pattern = None if key else self._pattern(item)
        with block("while True:"):
            self._varint(count)
            with block(f"if not {count}:"):
                line("break")
            with block(f"if {count} < 0:"):
                line(f"{count}, p = skip_block(d, p, e, {count})")
                if not size_min:
                    self._check_count(count, 0)
                line("continue")
            self._check_count(count, size_min)
            if pattern is not None and pattern[1] is not None:
                line(f"p += {count} * {pattern[1]}")
                return
            with block(f"for _ in range({count}):"):
                if key:
                    self._skip_here(ReadPrimitive("string", Primitive("string")))
                self._skip(item)

    def _pattern(self, step: Step) -> tuple[bytes, int | None] | None:
        """A regular expression that matches every value of `step`, and its width if that is fixed; None if no such expression is known."""
        match step:
            case Skip():
                return self._pattern(self._graph.plain(step))
            case WrapUnion():
                return self._pattern(step.inner)
            case ReadPrimitive(wire="null"):
                return b"", 0
            case ReadPrimitive(wire="boolean"):
                return rb"[\x00\x01]", 1
            case ReadPrimitive(wire="int" | "long") | ReadEnum():
                return _VARINT, None
            case ReadPrimitive(wire="float" | "double"):
                return _any_bytes(_WIDTHS[step.wire])
            case ReadFixed():
                return _any_bytes(step.target.size)
            case ReadRecord() if id(step) not in self._graph.shared:
                return self._patterns([member.step for member in step.members])
            case ReadUnion() if id(step) not in self._graph.shared and len(step.branches) <= 64:
                parts = [self._pattern(branch) for branch in step.branches]
                known = [part[0] for part in parts if part is not None]
                if len(known) == len(parts) and sum(map(len, known)) <= _PATTERN_BYTES_MAX:
                    return b"(?:" + b"|".join(re.escape(bytes((2 * index,))) + part for index, part in enumerate(known)) + b")", None
        return None

    def _patterns(self, steps: Sequence[Step]) -> tuple[bytes, int | None] | None:
        parts = [self._pattern(step) for step in steps]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or sum(len(pattern) for pattern, _ in known) > _PATTERN_BYTES_MAX:
            return None
        widths = [width for _, width in known if width is not None]
        return b"".join(pattern for pattern, _ in known), sum(widths) if len(widths) == len(known) else None


def _unpacker(layout: str) -> Callable[[Any, int], tuple[Any, ...]]:
    return struct.Struct(layout).unpack_from


def _any_bytes(count: int) -> tuple[bytes, int]:
    return (b".{%d}" % count if count else b""), count


def _struct_code(step: Step) -> str:
    """Format of a value of fixed width that `struct` reads, or nothing."""
    if isinstance(step, ReadPrimitive) and step.target.kind in ("float", "double", "boolean"):
        return _STRUCT_CODES.get(step.wire, "")
    if isinstance(step, ReadFixed) and 0 < step.target.size <= _FIXED_IN_STRUCT_MAX and not isinstance(step.target.logical, Vector):
        return f"{step.target.size}s"
    return ""


def _is_null(step: Step) -> bool:
    return isinstance(step, ReadPrimitive) and step.wire == "null"


def _row_bytes(data: Any) -> bytes:
    """The bytes of one row given as any buffer.

    Raises:
        InputError: not a buffer of bytes.
    """
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise InputError(f"a row to decode is bytes (or another buffer), not {type(data).__name__} {str(data)[:60]!r}") from None
