"""Serve: the data plane as a process: `python -m fondaco.dataplane.serve DIR [--host HOST] [--port PORT] [--node NAME --platform DIR]`.

One event loop in the main thread does nothing but requests. Worker threads open stores and versions, look at the catalog once a second, and
append writes. It prints its address when it is ready: every store open, kernels loaded. SIGTERM and SIGINT: no new connection is taken,
what is being answered is answered, for up to `DRAIN_S`, and then it ends with 0. A mistake in how it was called ends with 2.

What it says of itself to processes that may read the platform's directory is `run/served-<port>.json`: its address, and a secret that is
good for its statistics, made anew at each start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import logging
import os
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from fondaco.catalog import Catalog, StoreRow, tokens
from fondaco.catalog.rows import EVERY, TokenRow
from fondaco.core.clock import Clock, SystemClock
from fondaco.core.config import Config, LogConfig, load_config
from fondaco.core.errors import FondacoError, InputError, NotAPlatformError
from fondaco.core.files import write_atomically
from fondaco.core.program import run_program
from fondaco.dataplane.about import About, Info
from fondaco.dataplane.admission import Admission
from fondaco.dataplane.auth import Access
from fondaco.dataplane.binding import check_binding, check_tls, url_of
from fondaco.dataplane.http import HttpServer, tls_context
from fondaco.dataplane.limits import DRAIN_S, Limits
from fondaco.dataplane.openapi import document
from fondaco.dataplane.quotas import Quotas
from fondaco.dataplane.reads import Reads
from fondaco.dataplane.routes import DataPlane
from fondaco.dataplane.served import ServedStore, StoreSet, open_store
from fondaco.dataplane.source import Seen, Source
from fondaco.dataplane.stats import RecentPercentile
from fondaco.dataplane.writes_route import Writes
from fondaco.dataplane.writing import Appender
from fondaco.log import EmbeddedLog, Log
from fondaco.store.context import StoreContext
from fondaco.store.governor import ServingCell
from fondaco.store.log_handle import LOG_DIRECTORY, LogHandle
from fondaco.store.realtime import log_target
from fondaco.store.writer import check_durability

LOOK_S: Final = 1.0
SWEEP_S: Final = 0.5
BACKLOG: Final = 1024
_MARKER_FILE: Final = "FONDACO"
_LOCAL: Final = "local"  # the caller that has the secret of the run file
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a server is called.

    Attributes:
        directory: a platform's; with `node` that node's own directory, and `platform` is the one with catalog and configuration.
        host, port: None: as configured; port 0: any free one. advertise: the URL that others reach it by; None: made of the two.
    """

    directory: Path
    host: str | None = None
    port: int | None = None
    node: str | None = None
    platform: Path | None = None
    advertise: str | None = None


class Server:
    """One data-plane server; `run` it on a loop of its own."""

    def __init__(self, options: Options, *, clock: Clock | None = None) -> None:
        """
        Raises:
            NotAPlatformError, InputError: it cannot be called so, or may not listen there. Otherwise as `Catalog.open`.
        """
        self._options = options
        self._platform = (options.platform or options.directory).absolute()
        self._directory = options.directory.absolute()
        if not (self._platform / _MARKER_FILE).exists():
            remedy = "Name one that Fondaco made (`fondaco.open(path)`, `fondaco store create`)."
            raise NotAPlatformError(str(self._platform), f"it has no {_MARKER_FILE} file", remedy)
        self._config: Config = load_config(self._platform)
        self._clock = clock or SystemClock()
        config = self._config.server
        self._host = config.host if options.host is None else options.host
        self._port = config.port if options.port is None else options.port
        self._catalog = Catalog.open(
            self._platform, url=self._config.catalog.url, read_only=not os.access(self._platform, os.W_OK), must_exist=True
        )
        try:
            self._required = check_binding(self._host, config, has_tokens=self._has_tokens())
            files = check_tls(config)
            self._tls: ssl.SSLContext | None = tls_context(*map(str, files)) if files is not None else None
        except BaseException:
            self._catalog.close()
            raise
        self._source = Source(self._catalog, self._directory, is_node=options.node is not None)
        self._stores = StoreSet()
        self._access = Access(required=self._required)
        self._quotas = Quotas()
        self._secret = secrets.token_urlsafe(32)
        self._log = LogHandle(self._directory / LOG_DIRECTORY, _LogOpener(self._config.log, self._clock))
        self._stop: asyncio.Event | None = None

    def _has_tokens(self) -> bool:
        now_us = self._clock.now_us()
        with self._catalog.read() as connection:
            return any(token.refusal(now_us) is None for token in tokens.all_of(connection))

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until `stop`.

        Args:
            on_ready: called with the address once requests are answered at their usual speed.
        Raises:
            InputError: the port is taken.
        """
        self._stop = asyncio.Event()
        with contextlib.ExitStack() as stack:
            stack.callback(self._catalog.close)
            stack.callback(self._log.close)
            stack.callback(self._stores.close)
            openers = stack.enter_context(ThreadPoolExecutor(2, "fondaco opener"))
            appenders = stack.enter_context(ThreadPoolExecutor(4, "fondaco appender"))
            await self._serve(openers, appenders, on_ready, stack)

    def stop(self) -> None:
        """Begin to end; from the loop's thread."""
        if self._stop is not None:
            self._stop.set()

    async def _serve(self, openers: Executor, appenders: Executor, on_ready: Callable[[str], None], stack: contextlib.ExitStack) -> None:
        assert self._stop is not None
        limits, info = Limits.of(self._config.server), self._info()
        admission = Admission(self._stores, self._access, self._quotas, limits)
        reads = Reads(admission, openers, lambda: info.server.date if info.server is not None else b"")
        writes = Writes(admission, self._clock, info.durability, lambda store: self._appender(store, appenders))
        plane = DataPlane(admission, reads, writes, About(admission, reads, info, self._clock))
        async with asyncio.TaskGroup() as tasks:
            http = info.server = HttpServer(plane, limits, tasks)
            listener = await self._listen(http)
            port = listener.sockets[0].getsockname()[1]
            info.address = self._options.advertise or url_of(self._host, port, tls=self._tls is not None)
            background = [tasks.create_task(self._keep_sweeping(http))]
            cell: ServingCell | None = None
            try:
                await self._take(await asyncio.get_running_loop().run_in_executor(openers, self._source.look), info, openers)
                cell = self._say_where(port, info.address, stack)
                background.append(tasks.create_task(self._keep_looking(info, openers, cell)))
                _settle_collector()
                info.ready = True
                on_ready(info.address)
                await self._stop.wait()
            finally:
                info.ready = False
                listener.close()
                http.close_idle()
                await _wait_for_silence(http)
                await writes.drained()
                http.abort()
                for task in background:
                    task.cancel()
                if cell is not None:
                    cell.close()

    def _info(self) -> Info:
        durability = check_durability(self._config.log.durability)
        return Info("", self._options.node or "data", self._clock.now_us(), msgspec.json.encode(document()), durability)

    async def _listen(self, http: HttpServer) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        with_tls: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls, "ssl_handshake_timeout": self._config.server.header_s}
        try:
            return await loop.create_server(http.connection, self._host, self._port, backlog=BACKLOG, **with_tls)
        except OSError as exc:
            raise InputError(
                f"{self._host}:{self._port} cannot be listened on ({exc.strerror or exc}); choose another with --port, or stop who is there"
            ) from None

    def _say_where(self, port: int, address: str, stack: contextlib.ExitStack) -> ServingCell | None:
        """Tell the other processes of this platform; in a directory that cannot be written, nobody is told."""
        if not os.access(self._directory, os.W_OK):
            return None
        path = self._directory / "run" / f"served-{port}.json"
        path.parent.mkdir(exist_ok=True)
        document = {"pid": os.getpid(), "address": address, "node": self._options.node, "secret": self._secret}
        with contextlib.suppress(OSError):
            write_atomically(path, msgspec.json.encode(document), mode=0o600)
            stack.callback(path.unlink, missing_ok=True)
        return ServingCell(self._directory, f"{self._options.node or 'data'}-{port}")

    # -- in the background --------------------------------------------------------------------------------------------------------------

    async def _keep_sweeping(self, http: HttpServer) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            http.sweep()

    async def _keep_looking(self, info: Info, openers: Executor, cell: ServingCell | None) -> None:
        loop, recent = asyncio.get_running_loop(), RecentPercentile()
        while True:
            await asyncio.sleep(LOOK_S)
            p99_us, count = recent.take_us(store.stats.get_latencies for store in self._stores)
            if cell is not None:
                cell.publish(read_p99_us=int(p99_us or 0), reads=count)
            try:
                await self._take(await loop.run_in_executor(openers, self._source.look), info, openers)
                for store in self._stores:
                    if store.current is None:
                        with contextlib.suppress(FondacoError):
                            await store.adopted(openers)
            except FondacoError as exc:
                _LOGGER.warning("looking at what changed failed, and is tried again: %s", exc)

    async def _take(self, seen: Seen, info: Info, openers: Executor) -> None:
        self._quotas.replace(seen.quotas)
        local = TokenRow(_LOCAL, _sha256(self._secret), {EVERY: "admin"}, 0, None, None)
        self._access.replace([*seen.tokens, local])
        if seen.routing is not None:
            table = seen.routing
            info.routing = lambda: table
        await self._stores.replace(seen.stores, seen.held, self._open, openers)
        self._stores.epoch = seen.epoch

    def _open(self, row: StoreRow) -> ServedStore:
        return open_store(row, self._directory / "stores" / row.name, self._clock)

    def _appender(self, store: ServedStore, workers: Executor) -> Appender:
        context = StoreContext(
            self._catalog, store.row, store.settings, store.layout, self._config.store, self._clock, self._log, self._config.log,
            self._config.governor,
        )  # fmt: skip
        return Appender(lambda: log_target(context), workers)


class _LogOpener:
    """Opens the log that the configuration names; adapters are above this package, so theirs is found by name."""

    def __init__(self, config: LogConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock

    def __call__(self, directory: Path) -> Log:
        if self._config.kind == "embedded":
            return EmbeddedLog(directory, clock=self._clock)
        if self._config.kind == "kafka":
            log: Log = importlib.import_module("fondaco.adapters.kafka").open_kafka_log(directory, self._config, self._clock)
            return log
        raise InputError(f'[log] kind is "embedded" or "kafka", not {self._config.kind!r}')


def _sha256(secret: str) -> str:
    return tokens.hash_secret(secret)


def _settle_collector() -> None:
    """What the start has made lives for ever; walking it in each full collection would stop the loop for tens of milliseconds."""
    gc.collect()
    gc.freeze()


async def _wait_for_silence(http: HttpServer) -> None:
    """Return when every connection is closed, or after `DRAIN_S`."""
    deadline = time.monotonic() + DRAIN_S
    while http.connections and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


def serve(options: Options, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; from the main thread.

    Raises:
        as `Server`.
    """
    server = Server(options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await server.run(on_ready)

    try:
        uvloop.run(main())
    except BaseExceptionGroup as group:
        raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fondaco.dataplane.serve", description="The data plane of one platform directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", help="address to listen on; default: as configured, 127.0.0.1")
    parser.add_argument("--port", type=int, help="0: any free one; default: as configured, 7071")
    parser.add_argument("--node", metavar="NAME", help="serve the directory of this node of a cluster")
    parser.add_argument("--platform", type=Path, metavar="DIR", help="with --node: the platform whose catalog and configuration count")
    parser.add_argument("--advertise", metavar="URL", help="how others reach this server, if not by host and port")
    given = parser.parse_args(arguments)
    options = Options(given.directory, given.host, given.port, given.node, given.platform, given.advertise)
    return run_program(lambda: serve(options, lambda address: print(f"data plane on {address}", flush=True)))


if __name__ == "__main__":
    sys.exit(main())
