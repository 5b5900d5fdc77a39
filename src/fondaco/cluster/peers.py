"""Peers: nodes that give version files to each other over HTTP, so that the blob folder is read once and not by every node.

`FileServer` answers `GET /v1/files/<store>/<version>/<file>` with `Range: bytes=<n>-`, for files that this node has whole and verified, to
whoever shows its secret (`Authorization: Bearer`), which other nodes read in the catalog. `Peer` is a `Source` that asks it. A server of
its own, in the agent's process, so that no read of a row ever waits behind a file. Bounded: `CONNECTIONS_MAX` files at a time.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from fondaco.core.errors import CorruptFileError, UnavailableError
from fondaco.store.layout import StoreLayout
from fondaco.store.manifest import MANIFEST_FILE, read_manifest
from fondaco.store.partial import held_partitions

CHUNK_BYTES: Final = 1 << 20
CONNECTIONS_MAX: Final = 8
TIMEOUT_S: Final = 10.0

_PATH: Final = re.compile(r"/v1/files/([^/]+)/(\d{1,10})/([A-Za-z0-9._-]+)")
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-")


class Peer:
    """Another node, as a source of files."""

    def __init__(self, name: str, address: str, secret: str) -> None:
        """
        Args:
            address: its `files_address`.
        """
        self.name, self._address, self._secret = name, address, secret

    def __str__(self) -> str:
        return f"node {self.name!r} at {self._address}"

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of one file from `start` on, in pieces.

        Raises:
            FileNotFoundError: it does not have the file. UnavailableError: it does not answer, or broke off.
        """
        parts = urlsplit(self._address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)
        try:
            headers = {"Authorization": f"Bearer {self._secret}", "Range": f"bytes={start}-"}
            connection.request("GET", f"/v1/files/{quote(store, safe='')}/{version}/{quote(name, safe='')}", headers=headers)
            answer = connection.getresponse()
            if answer.status == 404:
                raise FileNotFoundError(name)
            if answer.status != 206:
                raise UnavailableError(str(self), f"it answered {answer.status} {answer.reason}")
            while piece := answer.read(CHUNK_BYTES):
                yield piece
            if answer.length:
                raise UnavailableError(str(self), f"it broke off {answer.length} bytes before the end")
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException) as exc:
            raise UnavailableError(str(self), f"{type(exc).__name__}: {exc}") from exc
        finally:
            connection.close()


class FileServer:
    """Gives this node's version files to other nodes. Serves from `start` until `close`."""

    def __init__(self, stores: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """
        Args:
            stores: the folder of the node's stores. port: 0: any that is free.
        """
        self.secret = secrets.token_urlsafe(32)
        self._server = _Server((host, port), _Handler)
        self._server.stores, self._server.secret = stores, self.secret
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `nodes.files_address` has it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Serve, in threads of its own."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="fondaco-files", kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; transfers under way break off, and are resumed elsewhere."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.break_off()
        self._server.server_close()

    def __enter__(self) -> FileServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    stores: Path
    secret: str

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):  # who is refused asks another, or later
            self.shutdown_request(request)
            return
        self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._room.release()

    def break_off(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away in the middle is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S
    server_version, sys_version = "fondaco", ""

    def do_GET(self) -> None:
        if not hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {self.server.secret}"):
            self.send_error(401)
            return
        wanted, span = _PATH.fullmatch(self.path), _RANGE.fullmatch(self.headers.get("Range", "bytes=0-"))
        path = _find(self.server.stores, unquote(wanted[1]), int(wanted[2]), wanted[3]) if wanted is not None else None
        if path is None or span is None:
            self.send_error(404 if path is None else 416)
            return
        with open(path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, int(span[1])
            if start > size:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Length", str(size - start))
            self.send_header("Content-Range", f"bytes {start}-{max(size - 1, start)}/{size}")
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file, start)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr for each request."""


def _find(stores: Path, store: str, version: int, name: str) -> Path | None:
    """The path of a file that this node has whole and verified; None: it has not, or it is no file of a version."""
    if "/" in store or store in ("", ".", ".."):
        return None
    directory = StoreLayout(stores / store).version(version)
    try:
        manifest, held = read_manifest(directory), held_partitions(directory)
    except (OSError, CorruptFileError):
        return None
    if name == MANIFEST_FILE:
        return directory / name
    there = {entry.name for partition, entry in enumerate(manifest.files) if held is None or partition in held}
    return directory / name if name in there else None
