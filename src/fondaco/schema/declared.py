"""Declared: every way to write down a schema, as the type that it declares.

Thread rule: pure functions.
"""

from __future__ import annotations

from fondaco.schema.parse import parse
from fondaco.schema.types import Type


def as_type(schema: object) -> Type:
    """The type of an Avro schema (dict, list, JSON text), a `pyarrow.Schema` or a `Type` (which is returned as it is).

    Raises:
        SchemaError: none of these, or not valid.
    """
    if is_arrow(schema):
        from fondaco.schema.arrow import from_arrow

        return from_arrow(schema)
    return parse(schema)


def is_arrow(schema: object) -> bool:
    """Whether `schema` is one of pyarrow's. Asked without importing it: who has such a schema has imported it."""
    return type(schema).__module__.split(".")[0] == "pyarrow"
