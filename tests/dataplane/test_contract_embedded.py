"""The embedded reader passes the contract of readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fondaco.store.store import Store
from fondaco.testing.reader import OpenReader, StoreReaderWritesContract


class TestEmbeddedReader(StoreReaderWritesContract):
    @pytest.fixture
    def open_reader(self) -> Iterator[OpenReader]:
        with contextlib.ExitStack() as stack:

            def open_reader(store: Store, **arguments: Any) -> Any:
                reader = store.reader(**arguments)
                stack.callback(reader.close)
                return reader

            yield open_reader
