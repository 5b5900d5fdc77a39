"""Row: one row's bytes, read as a mapping. A field is decoded when it is touched, and only that field.

`row["emb"]` passes over the fields before it without decoding them; a float vector comes back as a view of the bytes. Nothing is kept, so
touching a field twice decodes it twice; whoever needs many fields takes `dict(row)`, which reads the row once: `dict` asks for `keys()`
and then for every value, so `keys()` decodes the row and the next touch of each field is answered from that, once.

A row is immutable if its bytes are. It keeps the buffer alive (a memory map cannot be closed under it). Any thread may read it.
A row checks what it touches: a damaged row raises DecodeError when the damage is reached. A *sealed* row comes from bytes that a checksum
vouches for; it need not pass over the fields before one that lies at a fixed distance from its end, as an embedding usually does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping
from typing import Any, ClassVar

import numpy as np

from fondaco.core.errors import DecodeError
from fondaco.schema.rows import Getters, RowDecoder
from fondaco.schema.vectors import Buffer, QuantizedVector

_NOTHING = object()


class Row(Mapping[str, Any]):
    """A read-only mapping from field name to value. Made by a codec's `row(data, start, end)`; each codec has its own subclass."""

    __slots__ = ("_ahead", "_data", "_end", "_start")

    _getters: ClassVar[Getters]
    _decode: ClassVar[staticmethod[[Any], dict[str, Any]]]
    _rebuild: ClassVar[Callable[[bytes], tuple[Any, ...]]]  # for pickle: how to make the row of these bytes elsewhere
    _with_ahead: ClassVar[type[Row]]  # the class of rows whose next values are decoded already (`_ahead` hands each out once)

    def __init__(self, data: Buffer, start: int = 0, end: int | None = None) -> None:
        """
        Args:
            data: buffer of bytes that holds the row, such as a whole memory map.
            start, end: where in `data` the row begins and ends (None: with `data`).
        """
        self._data = data
        self._start = start
        self._end = len(data) if end is None else end

    def __getitem__(self, name: str) -> Any:
        """Decode field `name`.

        Raises:
            FieldNotFoundError: there is no such field; suggests the nearest. DecodeError: the bytes are not a row.
        """
        return self._getters[name](self._data, self._start, self._end)

    def to_dict(self) -> dict[str, Any]:
        """All fields, decoded in one pass.

        Raises:
            DecodeError: the bytes are not a row.
        """
        return self._decode(self._data[self._start : self._end])

    def to_bytes(self) -> bytes:
        """A copy of the row's bytes, as they were written (in the writer's schema)."""
        return bytes(self._data[self._start : self._end])

    @classmethod
    def written_as(cls) -> str:
        """The schema of the bytes that `to_bytes` gives, as JSON text."""
        schema: str = cls._rebuild(b"")[1][0]
        return schema

    def get(self, name: str, default: Any = None) -> Any:
        """Decode field `name`, or give `default` if the schema has no such field."""
        if name not in self._getters.names:
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._getters.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._getters.names)

    def __len__(self) -> int:
        return len(self._getters.names)

    def keys(self) -> KeysView[str]:
        """Names of the fields. Decodes the row, for `dict(row)`."""
        try:
            self._ahead: Callable[..., Any] = self._decode(self._data[self._start : self._end]).pop
        except DecodeError:  # a damaged row tells at the field that is reached
            return self._getters.view
        self.__class__ = self._with_ahead  # a class instead of a flag: `__getitem__` of the usual row stays as fast as it is
        return self._getters.view

    def items(self) -> Any:
        """Names and values, decoded in one pass."""
        return self.to_dict().items()

    def values(self) -> Any:
        """Values, decoded in one pass."""
        return self.to_dict().values()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Row):
            other = other.to_dict()
        if not isinstance(other, Mapping):
            return NotImplemented
        mine = self.to_dict()
        return mine.keys() == other.keys() and all(_equal(value, other[name]) for name, value in mine.items())

    __hash__ = None  # type: ignore[assignment]  # compared by value, which may be an array

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._rebuild(self.to_bytes())

    def __repr__(self) -> str:
        return f"Row({self.to_dict()!r})"


def row_class(decoder: RowDecoder, rebuild: Callable[[bytes], tuple[Any, ...]], *, sealed: bool = False) -> type[Row]:
    """The class of rows that `decoder` reads, which are records; `rebuild(bytes)` is what `__reduce__` of such a row gives."""

    class CodecRow(Row):
        __slots__ = ()

    class CodecRowWithAhead(CodecRow):
        __slots__ = ()

        def __getitem__(self, name: str) -> Any:
            value = self._ahead(name, _NOTHING)
            if value is not _NOTHING:
                return value
            self.__class__ = CodecRow  # type: ignore[assignment]  # its base, of the same layout
            return CodecRow.__getitem__(self, name)

    CodecRow._getters = decoder.getters(sealed=sealed)
    CodecRow._decode = staticmethod(decoder.decode)
    CodecRow._rebuild = staticmethod(rebuild)
    CodecRow._with_ahead = CodecRowWithAhead
    classes: tuple[type[Row], ...] = (CodecRow, CodecRowWithAhead)
    for made in classes:
        made.__name__ = made.__qualname__ = "Row"
    return CodecRow


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(value, right[name]) for name, value in left.items())
    if isinstance(left, np.ndarray | QuantizedVector) or isinstance(right, np.ndarray | QuantizedVector):
        if isinstance(left, QuantizedVector) and isinstance(right, QuantizedVector):
            return left == right
        try:
            return bool(np.array_equal(np.asarray(left), np.asarray(right)))
        except (TypeError, ValueError):
            return False
    if isinstance(left, list) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)
