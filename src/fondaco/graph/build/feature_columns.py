"""Feature columns: Arrow columns as the features of a graph, dense, sparse or bytes.

    numbers, truth values                     dense, shape ()
    fixed-size lists of them, lists in lists  dense, of that shape; so are tensors
    lists of numbers                          dense; the first one says how long all of them are
    several columns of numbers                dense, one vector of them
    lists of structs (index, value), maps     sparse; the dimension is the largest index + 1 unless the column says it
    texts, bytes                              bytes

A null is a feature that the node or edge does not have: zeros, or nothing, and `present` = 0. A null inside a list is refused.

Parts: dense: values [rows, *shape]; sparse: indices and values, ragged; bytes: data, ragged; all: present uint8 [rows].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, GraphBuildError, InputError
from fondaco.graph.build.arrow_columns import Problems, as_array, first_null, numbers_of, ragged_bytes
from fondaco.graph.build.columns import Array, Column, Ragged
from fondaco.graph.schema import Feature, FeatureKind

DIMENSION = b"fondaco.dimension"  # metadata of a field: the dimension of a sparse column
PARTS: dict[str, tuple[str, ...]] = {"dense": ("values",), "sparse": ("indices", "values"), "bytes": ("data",)}


class FeatureReader:
    """Reads one feature out of the batches of a table."""

    def __init__(self, label: str, name: str, schema: pa.Schema, columns: list[str]) -> None:
        """
        Raises:
            GraphBuildError: columns of types that make no feature. ColumnNotFoundError.
        """
        self.name = name
        self._label, self._columns = label, columns
        if not columns:
            raise InputError(f"feature {name!r} of {label} is made of no column")
        if schema.names:
            for column in columns:
                if column not in schema.names:
                    raise ColumnNotFoundError(column, schema.names, label)
        fields = [schema.field(column) for column in columns if schema.names]
        self._metadata = (fields[0].metadata or {}) if fields else {}
        self.declared = int(self._metadata[DIMENSION]) if DIMENSION in self._metadata else None
        self._index_max = -1
        self._length: int | None = None  # of variable-size lists
        self.kind: FeatureKind = "dense"
        self._dtype = ""
        self._shape: tuple[int, ...] = ()
        self._is_list = False
        if len(columns) > 1:
            kinds = [self._number(field.type, field.name) for field in fields]
            self._dtype = np.result_type(*kinds).name if kinds else "float32"
            self._shape = (len(columns),)
        else:
            self._classify(fields[0].type if fields else pa.float32())

    @property
    def feature(self) -> Feature:
        """What the schema says of it; of lists and of sparse columns, as far as they were read."""
        if self.kind == "bytes":
            return Feature(self.name, "bytes")
        if self.kind == "sparse":
            return Feature(self.name, "sparse", self._dtype, (self.declared or max(self._index_max + 1, 1),))
        return Feature(self.name, "dense", self._dtype, (self._length or 1,) if self._is_list else self._shape)

    def expect(self, feature: Feature) -> None:
        """Read as a feature that is known already: numbers are converted, dimensions have to be the same.

        Raises:
            GraphBuildError: another kind or shape.
        """
        mine = self.feature
        same_shape = feature.kind != "dense" or self._is_list or mine.shape == feature.shape
        if mine.kind != feature.kind or not same_shape or (self._is_list and len(feature.shape) != 1):
            raise GraphBuildError(
                self._label, None, self._columns[0],
                f"feature {self.name!r} of the graph is {_described(feature)}, and the column is {_described(mine)}",
            )  # fmt: skip
        if feature.kind in ("dense", "sparse"):
            if not np.can_cast(mine.numpy_dtype, feature.numpy_dtype, "same_kind"):
                self._refuse_conversion(feature, mine)
            self._dtype = feature.dtype
        if self._is_list:
            self._length = feature.shape[0]
        if feature.kind == "sparse":
            self.declared = None
            self._index_max = max(self._index_max, feature.shape[0] - 1)

    def read(self, batch: pa.RecordBatch, problems: Problems) -> dict[str, Column]:
        """The parts of one batch's rows."""
        arrays = [as_array(batch.column(batch.schema.get_field_index(column))) for column in self._columns]
        if len(arrays) > 1:
            return self._read_several(arrays, problems)
        array = arrays[0].storage if isinstance(arrays[0], pa.ExtensionArray) else arrays[0]
        present = np.ones(len(array), np.uint8)
        if array.null_count:
            present = array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
        if self.kind == "bytes":
            return {"data": ragged_bytes(array), "present": present}
        if self.kind == "sparse":
            return {**self._read_sparse(array, present, problems), "present": present}
        return {"values": self._read_dense(array, present, problems), "present": present}

    def _refuse_conversion(self, feature: Feature, mine: Feature) -> None:
        reason = f"feature {self.name!r} of the graph is {_described(feature)}, and the column is {_described(mine)}; cast it"
        raise GraphBuildError(self._label, None, self._columns[0], reason)

    # -- what it is -------------------------------------------------------------------------------------------------------------------

    def _classify(self, kind: Any) -> None:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        shape: tuple[int, ...] = ()
        if isinstance(kind, pa.FixedShapeTensorType):
            shape, kind = tuple(kind.shape), kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        is_ = pa.types
        if any(test(kind) for test in (is_.is_string, is_.is_large_string, is_.is_binary, is_.is_large_binary)) or kind in (
            pa.string_view(),
            pa.binary_view(),
        ):
            self.kind = "bytes"
            return
        if is_.is_map(kind):
            self._classify_sparse(kind.key_type, kind.item_type)
            return
        if is_.is_list(kind) or is_.is_large_list(kind):
            if is_.is_struct(kind.value_type):
                if kind.value_type.num_fields != 2:
                    self._refuse(kind)
                self._classify_sparse(kind.value_type[0].type, kind.value_type[1].type)
                return
            self._is_list = True
            kind = kind.value_type
        while is_.is_fixed_size_list(kind):
            if self._is_list:
                self._refuse(kind)
            shape, kind = (*shape, kind.list_size), kind.value_type
        self._dtype, self._shape = self._number(kind, self._columns[0]), shape

    def _classify_sparse(self, index: Any, value: Any) -> None:
        if not pa.types.is_integer(index):
            self._refuse(index)
        self.kind, self._dtype = "sparse", self._number(value, self._columns[0])

    def _number(self, kind: Any, column: str) -> str:
        if pa.types.is_null(kind):
            return "float32"
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            self._refuse(kind, column)
        return str(np.dtype(kind.to_pandas_dtype()).name)

    def _refuse(self, kind: Any, column: str | None = None) -> None:
        raise GraphBuildError(
            self._label,
            None,
            column or self._columns[0],
            f"a feature cannot be {kind}; it is numbers, vectors, lists of (index, value), texts or bytes: cast it, or leave it out",
        )

    # -- reading ----------------------------------------------------------------------------------------------------------------------

    def _read_several(self, arrays: list[pa.Array], problems: Problems) -> dict[str, Column]:
        values = np.empty((len(arrays[0]), len(arrays)), self._dtype)
        valid = np.ones(len(arrays[0]), bool)
        for number, array in enumerate(arrays):
            values[:, number] = numbers_of(array) if not pa.types.is_null(array.type) else 0
            if array.null_count:
                valid &= array.is_valid().to_numpy(zero_copy_only=False)
        values[~valid] = 0
        return {"values": values, "present": valid.astype(np.uint8)}

    def _read_dense(self, array: pa.Array, present: Array, problems: Problems) -> Array:
        count, dtype = len(array), np.dtype(self._dtype)
        if pa.types.is_null(array.type):
            return np.zeros((count, *self.feature.shape), dtype)
        if self._is_list:
            array = self._as_fixed(array, problems)
        shape = self.feature.shape
        width = int(np.prod(shape, dtype=np.int64))
        start = 0
        while pa.types.is_fixed_size_list(array.type):
            start = (start + array.offset) * array.type.list_size
            array = array.values
        array = array.slice(start, count * width)
        given = numbers_of(array)
        values = given.astype(dtype, copy=False)
        if given.dtype != dtype and dtype.kind in "iu":  # an update takes wider integers, if they fit
            wrong = np.flatnonzero((values != given).reshape(count, width).any(axis=1) & (present == 1)) if count else np.empty(0, np.int64)
            if len(wrong):
                problems.note(int(wrong[0]), self._columns[0], f"a number does not fit the feature's {dtype.name}")
        if array.null_count:
            inner = array.is_valid().to_numpy(zero_copy_only=False).reshape(count, width).all(axis=1) | (present == 0)
            if not inner.all() and shape:
                problems.note(int(np.argmin(inner)), self._columns[0], "a number of the vector is null; a vector is whole or null itself")
        values = values.reshape(count, *shape)
        if not present.all():
            values = values.copy()
            values[present == 0] = 0
        return values

    def _as_fixed(self, array: pa.Array, problems: Problems) -> pa.Array:
        """Lists as fixed-size lists; those of another length than the first are noted, and cut or filled."""
        lengths = array.value_lengths()
        known = lengths.drop_null()
        if self._length is None and len(known):
            if known[0].as_py() == 0:
                problems.note(int(np.argmax(lengths.is_valid().to_numpy(zero_copy_only=False))), self._columns[0], "the vector is empty")
                self._length = 1
            else:
                self._length = known[0].as_py()
        length = self._length or 1
        sizes = numbers_of(lengths).copy() if len(lengths) else np.empty(0, np.int32)
        if lengths.null_count:
            sizes[~lengths.is_valid().to_numpy(zero_copy_only=False)] = length
        wrong = np.flatnonzero(sizes != length)
        if len(wrong):
            row = int(wrong[0])
            problems.note(row, self._columns[0], f"the vector has {sizes[row]} numbers, and those before it {length}")
        if len(wrong) or array.null_count:
            filled = [value if value is not None and len(value) == length else None for value in array.to_pylist()]
            return pa.array(filled, pa.list_(array.type.value_type, length))
        return pa.FixedSizeListArray.from_arrays(array.flatten(), length)

    def _read_sparse(self, array: pa.Array, present: Array, problems: Problems) -> dict[str, Column]:
        if pa.types.is_null(array.type):
            empty = np.zeros(len(array) + 1, np.int64)
            return {"indices": Ragged(empty, np.empty(0, np.int64)), "values": Ragged(empty, np.empty(0, self._dtype))}
        offsets = np.frombuffer(
            array.buffers()[1], np.int64 if pa.types.is_large_list(array.type) else np.int32, len(array) + 1,
            array.offset * (8 if pa.types.is_large_list(array.type) else 4),
        ).astype(np.int64)  # fmt: skip
        if pa.types.is_map(array.type):
            keys, items = array.keys, array.items
        else:
            entries = array.values
            keys, items = entries.field(0), entries.field(1)
        lengths = np.diff(offsets)
        if not present.all() and lengths[present == 0].any():  # a null list may stand over entries
            rows = np.repeat(present, lengths).astype(bool)
            keys, items = keys[offsets[0] : offsets[-1]].filter(pa.array(rows)), items[offsets[0] : offsets[-1]].filter(pa.array(rows))
            offsets = np.concatenate([[0], np.cumsum(np.where(present, lengths, 0))]).astype(np.int64)
        else:
            keys, items = keys.slice(offsets[0], offsets[-1] - offsets[0]), items.slice(offsets[0], offsets[-1] - offsets[0])
            offsets = offsets - offsets[0]

        def row_of(entry: int) -> int:
            return int(np.searchsorted(offsets, entry, "right")) - 1

        for part in (keys, items):
            if part.null_count:
                problems.note(row_of(first_null(part)), self._columns[0], "an index or a value is null")
        indices = numbers_of(keys).astype(np.int64)
        wrong = np.flatnonzero((indices < 0) | (indices >= (self.declared or np.iinfo(np.int64).max)))
        if len(wrong):
            told = f"from 0 to {self.declared - 1}" if self.declared else "0 or more"
            problems.note(row_of(int(wrong[0])), self._columns[0], f"the index {indices[wrong[0]]} of a sparse vector is not {told}")
        self._index_max = max(self._index_max, int(indices.max(initial=-1)))
        return {"indices": Ragged(offsets, indices), "values": Ragged(offsets, numbers_of(items).astype(self._dtype))}


def _described(feature: Feature) -> str:
    if feature.kind == "dense":
        return f"dense {feature.dtype}{list(feature.shape)}"
    return feature.kind
