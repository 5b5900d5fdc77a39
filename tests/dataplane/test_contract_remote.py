"""Thin and fast readers pass the contract of readers, against a real server process; the asyncio ones too, driven from a test's thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fondaco.core.errors import FondacoError, StateError
from fondaco.dataplane.fast import AsyncFastReader, FastReader
from fondaco.dataplane.thin import AsyncThinReader, ThinReader
from fondaco.platform import Platform
from fondaco.store.store import Store
from fondaco.testing.reader import OpenReader, StoreReaderWritesContract
from live_data_plane import DataPlaneProcess, TailingProcess

LISTED_S = 15.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "platform"
    Platform.open(path).close()
    return path


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataPlaneProcess]:
    with TailingProcess(directory), DataPlaneProcess(directory) as server:
        yield server


class RemoteContract(StoreReaderWritesContract):
    """One server for all tests: it looks for new stores once a second."""

    follows_within_s = 5.0
    reader_class: ClassVar[Callable[..., Any]]

    @pytest.fixture
    def platform(self, directory: Path) -> Iterator[Platform]:
        with Platform.open(directory) as platform:
            yield platform
            for name in platform.stores():
                platform.delete_store(name)

    @pytest.fixture
    def open_reader(self, platform: Platform, server: DataPlaneProcess) -> Iterator[OpenReader]:
        with contextlib.ExitStack() as stack:

            def open_reader(store: Store, **arguments: Any) -> Any:
                with contextlib.suppress(FondacoError):
                    wait_until_served(server.url, store, store._context.id)
                reader = self.reader_class(server.url, store.name, **arguments)
                stack.callback(reader.close)
                return reader

            yield open_reader


def wait_until_served(url: str, store: Store, number: int) -> None:
    """The server has seen this store, and forgotten others of its name."""
    store.describe()  # raises, if it is deleted
    deadline = time.monotonic() + LISTED_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FondacoError), ThinReader(url, store.name) as reader:
            if reader.describe()["id"] == number:
                return
        time.sleep(0.02)
    raise AssertionError(f"{store.name} is not served")


class BlockingContract(RemoteContract):
    def test_a_reader_of_a_version_needs_no_closing(self, store: Store, open_reader: OpenReader) -> None:
        reader: Any = open_reader(store)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                assert reader.at(store.current).get(1) is not None
            gc.collect()
        assert reader._connections._holders == 1


class TestThinReader(BlockingContract):
    reader_class = ThinReader


class TestFastReader(BlockingContract):
    reader_class = FastReader


class Driven:
    """An asyncio reader on a loop in a thread, with blocking calls."""

    kind: ClassVar[Callable[..., Any]]

    def __init__(self, url: str, store: str, _reader: Any = None, **arguments: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._arguments = (url, store, arguments)
        self._closed = False
        try:
            self._reader = self._do(self._open(url, store, arguments))
        except BaseException:
            self._end()
            raise

    async def _open(self, url: str, store: str, arguments: dict[str, Any]) -> Any:
        return await self.kind(url, store, **arguments).__aenter__()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._closed:
            work.close()
            raise StateError(f"the reader of store {self._arguments[1]!r} is closed; open another")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._do(getattr(self._reader, name)(*args, **kwargs))

    @property
    def version(self) -> int:
        return self._do(self._reader.version)  # type: ignore[no-any-return]

    @property
    def position(self) -> Any:
        return self._do(self._reader.position)

    def at(self, version: int) -> Any:
        async def check() -> None:
            other = await self._reader.at(version)
            await other.close()

        self._do(check())
        url, store, arguments = self._arguments
        return type(self)(url, store, **{**arguments, "version": version})

    def close(self) -> None:
        if not self._closed:
            self._do(self._reader.close())
            self._closed = True
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        url, store, arguments = self._arguments
        return _driven, (type(self), url, store, arguments)


def _driven(kind: type[Driven], url: str, store: str, arguments: dict[str, Any]) -> Driven:
    return kind(url, store, **arguments)


class DrivenThin(Driven):
    kind = AsyncThinReader


class DrivenFast(Driven):
    kind = AsyncFastReader


@pytest.mark.slow  # a second for each store that the server has to see
class TestAsyncThinReader(RemoteContract):
    reader_class = DrivenThin


@pytest.mark.slow
class TestAsyncFastReader(RemoteContract):
    reader_class = DrivenFast
