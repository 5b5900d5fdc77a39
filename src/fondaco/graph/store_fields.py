"""Store fields: what a field of a store is as a feature of nodes: the dtype and shape of its values.

Vectors, numbers, texts and bytes can be features; an int8 vector carries a scale, and is read as float32. `store_features` reads them.
Pure function of an Avro schema.
"""

from __future__ import annotations

from typing import Final

from fondaco.core.errors import FieldNotFoundError, InputError
from fondaco.schema.parse import parse
from fondaco.schema.types import Fixed, Primitive, Record, Timestamp, Union, Vector

_NUMBERS: Final = {"boolean": "bool", "int": "int32", "long": "int64", "float": "float32", "double": "float64"}


def feature_of_field(store: str, value_schema: object, field: str) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of a field's values; dtype "" of texts and bytes.

    Args:
        value_schema: the store's, as Avro JSON.
    Raises:
        FieldNotFoundError: there is no such field. InputError: its values cannot be a feature.
    """
    record = parse(value_schema)
    assert isinstance(record, Record), "a store's values are records"
    kind = next((entry.type for entry in record.fields if entry.name == field), None)
    if kind is None:
        raise FieldNotFoundError(field, [entry.name for entry in record.fields], f"store {store!r}")
    if isinstance(kind, Union):
        branches = [branch for branch in kind.branches if not (isinstance(branch, Primitive) and branch.kind == "null")]
        kind = branches[0] if len(branches) == 1 else kind
    if isinstance(kind, Fixed) and isinstance(kind.logical, Vector):
        return ("float32" if kind.logical.dtype == "int8" else kind.logical.dtype), (kind.logical.dim,)
    if isinstance(kind, Primitive) and kind.kind in _NUMBERS and (kind.logical is None or isinstance(kind.logical, Timestamp)):
        return _NUMBERS[kind.kind], ()
    if isinstance(kind, Primitive) and kind.kind in ("string", "bytes") and kind.logical is None:
        return "", ()
    raise InputError(f"field {field!r} of store {store!r} cannot be a feature: it is no vector, number, string or bytes")
