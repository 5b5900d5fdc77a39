"""Kinds: the few types that expressions compute with, whatever width or dialect a source stores its columns in.

| kind | in the plan and the oracle | in SQL |
|---|---|---|
| bool, int, float, string, bytes | `bool`, `int` (64 bit), `float` (binary64), `str`, `bytes` | BOOLEAN, BIGINT, DOUBLE, VARCHAR, BLOB |
| timestamp | `int`: microseconds since 1970-01-01T00:00:00Z | BIGINT, the same |
| list<kind> | `list` | kind[] |

Decimals are computed as float. Dates are the timestamp of their midnight. Immutable values; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the names above; `item` is set for lists only."""

    name: str
    item: Kind | None = None

    def __str__(self) -> str:
        return f"list<{self.item}>" if self.item is not None else self.name

    @property
    def numeric(self) -> bool:
        """Whether arithmetic works on it."""
        return self.name in ("int", "float")

    @property
    def ordered(self) -> bool:
        """Whether `<` works on it, and so `min` and `max`."""
        return self.name in ("int", "float", "string", "timestamp")


BOOL, INT, FLOAT, STRING, BYTES, TIMESTAMP = map(Kind, ("bool", "int", "float", "string", "bytes", "timestamp"))
NULL = Kind("null")  # the kind of a literal null alone; unifies with every other


def list_of(item: Kind) -> Kind:
    """The kind of a list of `item`."""
    return Kind("list", item)


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What a source says of one column. `kind` is None where expressions cannot use it; `naive`: a time without a zone."""

    kind: Kind | None
    stored: str
    naive: bool = False


_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_SCALARS = {
    "BOOLEAN": BOOL,
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT"), INT
    ),
    **dict.fromkeys(("FLOAT", "DOUBLE"), FLOAT),
    **dict.fromkeys(("VARCHAR", "UUID"), STRING),
    "BLOB": BYTES,
    **dict.fromkeys((*_ZONED, "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE"), TIMESTAMP),
}


def column_type(stored: str) -> ColumnType:
    """The kind of a column whose DuckDB type is `stored`, such as `DECIMAL(9,2)` or `FLOAT[8]`."""
    if stored.endswith("]"):
        item = column_type(stored[: stored.rindex("[")])
        usable = item.kind is not None and item.kind.name not in ("list", "timestamp")
        return ColumnType(list_of(item.kind) if usable and item.kind is not None else None, stored)
    if stored.startswith("DECIMAL"):
        return ColumnType(FLOAT, stored)
    if stored.startswith("ENUM"):
        return ColumnType(STRING, stored)
    kind = _SCALARS.get(stored)
    return ColumnType(kind, stored, naive=kind is TIMESTAMP and stored not in _ZONED)
