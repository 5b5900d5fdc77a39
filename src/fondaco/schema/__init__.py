"""Schema: Avro schemas, their evolution, and the codec of rows and columns made from them.

Start with `Codec`. `vector(dim, dtype)` declares an embedding. Importing this package brings in neither numba nor pyarrow: those come with
the first batch of columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fondaco.schema.canonical import fingerprint, full_form, parsing_canonical_form
from fondaco.schema.codec import Codec
from fondaco.schema.declared import as_type
from fondaco.schema.evolution import check_compatible, check_evolution, superset
from fondaco.schema.logical import Interval
from fondaco.schema.parse import parse
from fondaco.schema.resolution import resolve
from fondaco.schema.row import Row
from fondaco.schema.types import Type
from fondaco.schema.vectors import QuantizedVector, vector

if TYPE_CHECKING:
    from fondaco.schema.arrow import from_arrow, to_arrow
    from fondaco.schema.columns import Columns
    from fondaco.schema.container import AvroFile, read_avro_file

__all__ = [
    "AvroFile",
    "Codec",
    "Columns",
    "Interval",
    "QuantizedVector",
    "Row",
    "Type",
    "as_type",
    "check_compatible",
    "check_evolution",
    "fingerprint",
    "from_arrow",
    "full_form",
    "parse",
    "parsing_canonical_form",
    "read_avro_file",
    "resolve",
    "superset",
    "to_arrow",
    "vector",
]

_LAZY = {
    "AvroFile": "fondaco.schema.container",
    "Columns": "fondaco.schema.columns",
    "from_arrow": "fondaco.schema.arrow",
    "read_avro_file": "fondaco.schema.container",
    "to_arrow": "fondaco.schema.arrow",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
