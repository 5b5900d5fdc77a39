"""Value schemas: what users have at hand declares one."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from fondaco.core.errors import SchemaError
from fondaco.store.values import value_schema_json

COLUMNS = [pa.field("x", pa.int64()), pa.field("emb", pa.list_(pa.float32(), 4), nullable=False)]


def test_a_struct_a_table_and_a_batch_declare_the_value_that_their_schema_does() -> None:
    schema = pa.schema(COLUMNS)
    expected = value_schema_json(schema)
    assert [member["name"] for member in json.loads(expected)["fields"]] == ["x", "emb"]
    table = pa.table({"x": [1], "emb": pa.array([[1, 2, 3, 4]], pa.list_(pa.float32(), 4))}, schema=schema)
    for value in (pa.struct(COLUMNS), table, table.to_batches()[0]):
        assert value_schema_json(value) == expected


@pytest.mark.parametrize("value", ["long", pa.int64(), pa.schema([]), pa.struct([]), 5, None])
def test_what_is_no_record_with_fields_is_refused(value: object) -> None:
    with pytest.raises(SchemaError):
        value_schema_json(value)
