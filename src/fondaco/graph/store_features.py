"""Store-bound features: values of a store's field for nodes, by their ids.

A graph that binds a feature to a store copies nothing: an answer holds what the store says when it is asked, real-time writes included, so
the graph is as fresh as its features. One reader a store is opened at first use and kept. Any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, StateError
from fondaco.graph.answers import id_array
from fondaco.graph.deadlines import Deadline
from fondaco.graph.queries import Ids, StringIds

if TYPE_CHECKING:
    from fondaco.store.store_reader import StoreReader


class StoreFeatures:
    """Readers of the stores that a graph's features are bound to."""

    def __init__(self, open_reader: Callable[[str], StoreReader]) -> None:
        """`open_reader(store name)`: a reader, which this closes."""
        self._open_reader = open_reader
        self._lock = threading.Lock()
        self._readers: dict[str, StoreReader] = {}
        self._closed = False

    def columns(self, store: str, field: str, ids: Ids, deadline: Deadline) -> tuple[Any, npt.NDArray[np.bool_]]:
        """Values of `field` for these keys, [n, *shape], zeros where there is none, or (offsets, data) of bytes; and bool [n]: there is.

        Raises:
            StoreNotFoundError, FieldNotFoundError. InputError: a field that is no number, vector, string or bytes.
        """
        deadline.check()
        columns = self._reader(store).get_columns(id_array(ids).tolist() if isinstance(ids, StringIds) else ids, [field])
        return _plain(columns[field], np.asarray(columns.found), store, field)

    def close(self) -> None:
        """Close the readers. Twice is once."""
        with self._lock:
            readers, self._readers, self._closed = list(self._readers.values()), {}, True
        for reader in readers:
            reader.close()

    def _reader(self, store: str) -> StoreReader:
        with self._lock:
            if self._closed:
                raise StateError(f"the graph that read the store {store!r} was closed; open it again")
            reader = self._readers.get(store)
            if reader is None:
                reader = self._readers[store] = self._open_reader(store)
        return reader


def _plain(column: npt.NDArray[Any], valid: npt.NDArray[np.bool_], store: str, field: str) -> tuple[Any, npt.NDArray[np.bool_]]:
    """A store's column as a feature: zeros (or empty bytes) and False where it is masked or None."""
    values = column
    if isinstance(column, np.ma.MaskedArray):
        gone = np.ma.getmaskarray(column).reshape(len(column), -1).any(axis=1)
        valid = valid & ~gone
        values = np.array(np.ma.getdata(column))
        values[gone] = None if values.dtype.kind == "O" else np.zeros((), values.dtype)
    if values.dtype.kind in "mM":
        values = values.view(np.int64)  # the number of units since 1970 that the store keeps
    if values.dtype.kind != "O":
        return values, valid
    encoded = [_encoded(value, store, field) for value in values.tolist()]
    valid = valid & np.array([value is not None for value in encoded], np.bool_)
    ends = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value or b"") for value in encoded], out=ends[1:])
    return (ends, np.frombuffer(b"".join(value or b"" for value in encoded), np.uint8)), valid


def _encoded(value: object, store: str, field: str) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise InputError(
        f"field {field!r} of store {store!r} holds {type(value).__name__} values; a feature is a number, a vector, a string or bytes"
    )
