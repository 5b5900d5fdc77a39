"""Serve: a graph server as a process: `python -m fondaco.graph.serve DIR NAME [--shard I/N] [--host HOST] [--port PORT] ...`.

It answers queries about graph NAME of the platform in DIR: parts of them from the partitions of its shard, whole ones with the help of the
other shards' servers, which it finds in the platform's run directory or by `--peers`. It begins to listen at once and says that it is ready
once a version is open and warm; then it stands in the run directory, until its end. SIGTERM and SIGINT: no new connection is taken, what is
being answered is answered, and it ends with 0. A mistake in how it was called ends with 2.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import secrets
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fondaco.catalog import Catalog, tokens
from fondaco.catalog.rows import EVERY, TokenRow
from fondaco.core.clock import SystemClock
from fondaco.core.config import Config, load_config
from fondaco.core.errors import FondacoError, InputError, NotAPlatformError
from fondaco.core.files import write_atomically
from fondaco.core.ids import check_name
from fondaco.dataplane.auth import Access
from fondaco.dataplane.binding import check_binding, check_tls
from fondaco.graph.service.answering import GraphService
from fondaco.graph.service.connection import Address
from fondaco.graph.service.endpoints import token_of_environment
from fondaco.graph.service.handshake import ServerInfo
from fondaco.graph.service.metrics import CONTENT_TYPE, GraphMetrics
from fondaco.graph.service.peer_map import PeerMap
from fondaco.graph.service.presence import TOUCH_S, announce
from fondaco.graph.service.server import GraphServer, ServerLimits
from fondaco.graph.service.versions import ServedVersions, layout_of
from fondaco.graph.service.warming import warm
from fondaco.graph.store_features import StoreFeatures

if TYPE_CHECKING:
    from fondaco.store.store_reader import StoreReader

PORT: Final = 7080
AUTO: Final = "auto"  # a Unix socket without a file
NONE: Final = "none"
LOOK_S: Final = 0.05
TOKENS_S: Final = 1.0
SHARDS_MAX: Final = 4096  # as partitions of a graph
_MARKER_FILE: Final = "FONDACO"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a server is called.

    Attributes:
        directory, graph: a platform's, and one of its graphs. shard: (i, n).
        port: 0: any free one. unix: a path, `@name`, "auto" or "none". metrics_port: None: no HTTP; 0: any free one.
        peers: addresses of servers that do not stand in the run directory. version: serve this one; None: follow the current one.
        advertise: how others reach it, "host:port"; None: by host and port. ready_file: gets the address once it is ready.
        shared_memory: offer it to clients on this machine.
    """

    directory: Path
    graph: str
    shard: tuple[int, int] = (0, 1)
    host: str = "127.0.0.1"
    port: int = PORT
    unix: str = AUTO
    metrics_port: int | None = None
    peers: tuple[str, ...] = ()
    version: int | None = None
    advertise: str | None = None
    ready_file: Path | None = None
    shared_memory: bool = True
    limits: ServerLimits = field(default_factory=ServerLimits)


class GraphServing:
    """One graph server, all parts of it. `run` it in the main thread."""

    def __init__(self, options: Options) -> None:
        """
        Raises:
            NotAPlatformError, GraphNotFoundError, VersionNotFoundError, InputError: it cannot be called so, or may not listen there.
            CorruptFileError: the version cannot be read.
        """
        self.options = options
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        try:
            self._open(options)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, options: Options) -> None:
        directory = self._directory = options.directory.absolute()
        if not (directory / _MARKER_FILE).exists():
            remedy = "Name one that Fondaco made (`fondaco.open(path)`, `fondaco graph build`)."
            raise NotAPlatformError(str(directory), f"it has no {_MARKER_FILE} file", remedy)
        check_name("graph", options.graph)
        if options.ready_file is not None and not options.ready_file.absolute().parent.is_dir():
            raise InputError(f"--ready-file {options.ready_file}: there is no directory {options.ready_file.parent}")
        config: Config = load_config(directory)
        named = [Address.parse(text) for text in options.peers]
        self._catalog = Catalog.open(directory, url=config.catalog.url, read_only=not os.access(directory, os.W_OK), must_exist=True)
        self._stack.callback(self._catalog.close)
        required = check_binding(options.host, config.server, has_tokens=self._has_tokens())
        self._secret, server_id = secrets.token_urlsafe(32), secrets.token_hex(16)
        self._access = Access(required=required)
        self._read_tokens()
        self.metrics = GraphMetrics(options.graph, *options.shard)
        unix = None if options.unix == NONE else f"@fondaco-graph-{server_id}" if options.unix == AUTO else options.unix
        stores = StoreFeatures(_StoreOpener(directory, self._stack))
        self._stack.callback(stores.close)
        service = self._service = GraphService(
            options.graph, self._access, self.metrics, stores, server_id, shared_memory=options.shared_memory, limits=options.limits
        )
        certificate = check_tls(config.server)
        self._server = GraphServer(
            service,
            self.metrics,
            host=options.host,
            port=options.port,
            unix=unix,
            tls=_server_tls(certificate),
            limits=options.limits,
        )
        self._stack.callback(self._server.stop)
        address = Address.parse(options.advertise) if options.advertise else Address(options.host or "127.0.0.1", self._server.port)
        self.info = ServerInfo(
            address=str(address), shard=options.shard[0], shards=options.shard[1], unix=None if unix is None else f"unix:{unix}"
        )
        self._server_id = server_id
        self._peers = PeerMap(
            options.graph,
            self.info,
            server_id,
            platform=directory,
            named=[other for other in named if str(other) != self.info.address],
            token=token_of_environment(),
            tls=_peer_tls(certificate),
            shared_memory=options.shared_memory,
        )
        self._http: ThreadingHTTPServer | None = None
        if options.metrics_port is not None:
            self._http = _listen_http(options.host, options.metrics_port, self)
            self._stack.callback(self._http.server_close)

    @property
    def is_ready(self) -> bool:
        """Whether queries are answered at their usual speed."""
        return self._service.is_ready and not self._stop.is_set()

    @property
    def metrics_port(self) -> int | None:
        """Where HTTP is answered."""
        return None if self._http is None else int(self._http.server_address[1])

    def scrape(self) -> bytes:
        """The metrics, as they are now."""
        version, open_versions = self._service.standing()
        self.metrics.stands(version=version, open_versions=open_versions, ready=self.is_ready, servers=len(self._peers.servers()))
        return self.metrics.text()

    def stop(self) -> None:
        """Begin to end; from any thread, or a signal handler."""
        self._stop.set()

    def run(self, on_ready: Callable[[GraphServing], None]) -> None:
        """Serve until `stop`.

        Args:
            on_ready: called once.
        Raises:
            as the constructor, for what shows only when the version is opened.
        """
        options = self.options
        with self._stack as stack:
            if self._http is not None:
                threading.Thread(target=self._http.serve_forever, name="graph metrics", daemon=True).start()
                stack.callback(self._http.shutdown)
            layout = layout_of(self._directory, options.graph)
            versions = ServedVersions(layout, options.graph, shard=options.shard, pinned=options.version, warm=warm)
            stack.callback(versions.close)
            stack.callback(self._peers.close)
            self._service.begin(versions, self._peers)
            self._peers.refresh()
            self._peers.start()
            self._server.start()
            stack.callback(self._server.stop)  # before the peers, whom what is being answered still needs
            gc.collect()
            gc.freeze()  # what the start has made lives for ever; walking it again would stop every answer
            self._keep_going(versions, on_ready, stack)

    def _keep_going(self, versions: ServedVersions, on_ready: Callable[[GraphServing], None], stack: contextlib.ExitStack) -> None:
        presence: Path | None = None
        announced = False
        next_touch = next_tokens = time.monotonic()
        while True:
            now = time.monotonic()
            if not announced and self.is_ready:
                presence, announced = self._announce(stack), True
                if self.options.ready_file is not None:
                    write_atomically(self.options.ready_file, f"{self.info.address}\n".encode())
                on_ready(self)
            if now >= next_tokens:
                next_tokens = now + TOKENS_S
                self._read_tokens()
            if presence is not None and now >= next_touch:
                next_touch = now + TOUCH_S
                presence = self._touch(presence, stack)
            if self._stop.wait(TOKENS_S if announced else LOOK_S):
                return

    def _announce(self, stack: contextlib.ExitStack) -> Path | None:
        """Stand in the run directory; the file there, or None where nothing can be written."""
        if not os.access(self._directory, os.W_OK):
            _LOGGER.warning("%s cannot be written: other servers find this one only by --peers %s", self._directory, self.info.address)
            return None
        path = announce(self._directory, self.options.graph, self.info, self._server_id, self._secret)
        stack.callback(path.unlink, missing_ok=True)
        return path

    def _touch(self, presence: Path, stack: contextlib.ExitStack) -> Path | None:
        try:
            os.utime(presence)
        except FileNotFoundError:  # somebody tidied up the run directory
            return self._announce(stack)
        except OSError:
            pass
        return presence

    def _has_tokens(self) -> bool:
        now_us = SystemClock().now_us()
        with self._catalog.read() as connection:
            return any(token.refusal(now_us) is None for token in tokens.all_of(connection))

    def _read_tokens(self) -> None:
        try:
            with self._catalog.read() as connection:
                known = list(tokens.all_of(connection))
        except FondacoError as exc:
            _LOGGER.warning("the tokens could not be read, and are read again: %s", exc)
            return
        own = TokenRow("graph server", tokens.hash_secret(self._secret), {EVERY: "admin"}, 0, None, None)
        self._access.replace([*known, own])


class _StoreOpener:
    """Opens stores that features are bound to, through the platform, which stands above the graphs and so is found by name."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._platform: Any = None

    def __call__(self, name: str) -> StoreReader:
        if self._platform is None:
            self._platform = importlib.import_module("fondaco.platform").Platform.open(self._directory, create=False)
            self._stack.callback(self._platform.close)
        reader: StoreReader = self._platform.store(name).reader()
        return reader


def _server_tls(certificate: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(*map(str, certificate))
    except (OSError, ssl.SSLError) as exc:
        raise InputError(f"[server] certificate and private_key in {certificate[0]} and {certificate[1]} cannot be used: {exc}") from exc
    return context


def _peer_tls(certificate: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    """How servers check each other: by the certificate that they share, whatever name it carries."""
    if certificate is None:
        return None
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.check_hostname = False
    return context


def _listen_http(host: str, port: int, serving: GraphServing) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, serving.scrape(), CONTENT_TYPE)
            elif path == "/health":
                self._answer(200, b"alive\n")
            elif path == "/ready":
                self._answer(*(200, b"ready\n") if serving.is_ready else (503, b"no version is open and warm yet\n"))
            else:
                self._answer(404, b"there is: /metrics, /health, /ready\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            _LOGGER.debug(format, *args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            _LOGGER.debug("a scrape by %s broke off", client_address, exc_info=True)

    try:
        return Server((host, port), Handler)
    except OSError as exc:
        raise InputError(f"{host}:{port} cannot be listened on ({exc.strerror or exc}); choose another with --metrics-port") from None


def serve(options: Options, on_ready: Callable[[GraphServing], None]) -> None:
    """Serve until SIGTERM or SIGINT; from the main thread.

    Raises:
        as `GraphServing`.
    """
    serving = GraphServing(options)
    before = {number: signal.signal(number, lambda *_: serving.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        serving.run(on_ready)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_shard(text: str) -> tuple[int, int]:
    """`1/4` as (1, 4).

    Raises:
        InputError: it is none.
    """
    shard, slash, count = text.partition("/")
    if not (slash and shard.isdecimal() and count.isdecimal() and 0 <= int(shard) < int(count)):
        raise InputError(f"{text!r} is no shard; write i/n: shards of 4 are 0/4, 1/4, 2/4 and 3/4")
    if int(count) > SHARDS_MAX:
        raise InputError(f"{text!r}: a graph has up to {SHARDS_MAX} partitions, and so as many shards at most")
    return int(shard), int(count)


def ready_line(serving: GraphServing) -> str:
    """What a server says once it is ready."""
    options = serving.options
    metrics = "" if serving.metrics_port is None else f", metrics on http://{options.host}:{serving.metrics_port}/metrics"
    return f"graph {options.graph} shard {options.shard[0]}/{options.shard[1]} on {serving.info.address}{metrics}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fondaco.graph.serve", description="One server of a graph.")
    parser.add_argument("directory", type=Path, help="the platform's")
    parser.add_argument("graph")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="which share of the partitions; default 0/1, all of them")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any free one; default {PORT}")
    parser.add_argument("--unix", default=AUTO, help="path of a Unix socket, @NAME, auto (default) or none")
    parser.add_argument("--metrics-port", type=int, help="answer /metrics, /health and /ready over HTTP; 0: on any free port")
    parser.add_argument("--peers", default="", help="host:port,...: servers that do not stand in the run directory")
    parser.add_argument("--version", type=int, help="serve this version; default: the current one, whatever it is")
    parser.add_argument("--advertise", metavar="HOST:PORT", help="how others reach this server")
    parser.add_argument("--ready-file", type=Path, help="gets the address once the server is ready")
    parser.add_argument("--no-shared-memory", action="store_true")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        options = Options(
            given.directory,
            given.graph,
            parse_shard(given.shard),
            given.host,
            given.port,
            given.unix,
            given.metrics_port,
            tuple(part for part in given.peers.split(",") if part),
            given.version,
            given.advertise,
            given.ready_file,
            not given.no_shared_memory,
        )
        serve(options, lambda serving: print(ready_line(serving), flush=True))
    except FondacoError as exc:
        print(f"fondaco: {exc}", file=sys.stderr)
        return 2 if exc.blame == "user" else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
