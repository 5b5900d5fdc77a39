"""Rows: one row at a time, bytes to Python values and back, by functions generated for the schema.

A decoder is made from a resolved plan (`resolution`), so reading old rows with a new schema costs nothing extra; an encoder from a type.
Making one takes some hundred microseconds for ten fields and happens at first use; `Codec` keeps them. What the values are: `logical`.

Arrays of float or double and vectors are read-only NumPy views of the row's bytes (which they keep alive); a union's value is plain.

Thread rule: any thread may call a decoder or encoder. Source: Apache Avro 1.12.0 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

from fondaco.core.errors import DecodeError, FieldNotFoundError
from fondaco.schema._decoder import DecoderSource, Getter
from fondaco.schema._encoder import EncoderSource
from fondaco.schema.defaults import field_default
from fondaco.schema.malformed import read_next_row, read_row
from fondaco.schema.misfit import picker, row_fault
from fondaco.schema.resolution import ReadRecord, Step
from fondaco.schema.types import Type


class RowDecoder:
    """Reads rows by the plan `step`."""

    def __init__(self, step: Step) -> None:
        self.step = step

    @cached_property
    def decode(self) -> Callable[[Any], Any]:
        """`decode(data) -> value` of a buffer that is exactly one row; raises DecodeError naming byte, field and reason."""
        return DecoderSource(self.step).decode_function(partial(read_row, self.step))

    @cached_property
    def _read(self) -> Callable[[bytes, int], tuple[Any, int]]:
        return DecoderSource(self.step).read_function(partial(read_next_row, self.step))

    def decode_many(self, data: bytes, count: int) -> Iterator[Any]:
        """The `count` rows that follow one another in `data` and fill it, as in a block of an Avro file.

        Raises:
            DecodeError: `row` is the index of the row; `position` counts from its first byte.
        """
        read, position = self._read, 0
        for row in range(count):
            try:
                value, end = read(data, position)
            except DecodeError as exc:
                raise DecodeError(exc.position, exc.reason, row, exc.field) from None
            yield value
            position = end
        if position != len(data):
            raise DecodeError(position, f"{len(data) - position} bytes left over after {count} rows")

    def getters(self, *, sealed: bool = False) -> Getters:
        """Functions that read one field of a record each; `sealed`: from bytes that are known to be a whole row."""
        if not isinstance(self.step, ReadRecord):
            raise TypeError("only the fields of a record can be read one by one")
        return Getters(self.step, sealed=sealed)


class Getters(dict[str, Getter]):
    """Field name -> `get(buffer, start, end) -> value`; made when first asked for.

    Raises:
        FieldNotFoundError: the reader's record has no such field; suggests the nearest.
    """

    def __init__(self, step: ReadRecord, *, sealed: bool) -> None:
        super().__init__()
        self._step, self._sealed = step, sealed
        self.names = tuple(member.name for member in step.target.fields)
        self.view = dict.fromkeys(self.names).keys()

    def __missing__(self, name: str) -> Getter:
        if name not in self.names:
            raise FieldNotFoundError(str(name), self.names, f"record {self._step.target.fullname!r}")
        getter = self[name] = self._make(self.names.index(name))
        return getter

    def _make(self, reader_index: int) -> Getter:
        step, name = self._step, self.names[reader_index]
        for index, member in enumerate(step.members):
            if member.reader_index == reader_index:
                return DecoderSource(step).get_function(
                    step, index, lambda data, start, end: read_row(step, bytes(data[start:end]))[name], sealed=self._sealed
                )
        # The writer has no such field: any row of it gives the default, freshly made.
        return lambda data, start, end: field_default(step.target.fields[reader_index])


class RowEncoder:
    """Writes rows of `kind`."""

    def __init__(self, kind: Type) -> None:
        self.kind = kind

    @cached_property
    def encode(self) -> Callable[[Any], bytes]:
        """`encode(value) -> bytes`; raises RowError naming field, value and expectation."""
        return EncoderSource(self.kind, picker).encode_function(lambda value: row_fault(self.kind, value))
