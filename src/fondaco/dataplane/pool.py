"""Pool: what the blocking and the asyncio connections of a client have in common: peers, exchanges, and operations that wait for them.

An *operation* is a generator that does no I/O: it starts exchanges on a transport, yields a `Wait` for some of them, and goes on when one
is done or the time is over. A transport (`pool_blocking`, `pool_async`) runs it. So retries, hedges and scattered batches are written once.

Connections of a peer are bounded. An operation that has nothing under way may wait for a free one; one that has asks with `wait=False`, so
that operations can never wait for each other in a circle.

A connection that was idle may have been closed by the peer just when it was used. If such an exchange ends before a byte came back, it is
sent once more on a new connection, which no caller notices; everything sent here may be sent twice (`retry`).
"""

from __future__ import annotations

import math
import os
import socket
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from fondaco.core.errors import FondacoError, InputError, ProtocolError, UnavailableError
from fondaco.dataplane.hedging import PeerLoad
from fondaco.dataplane.protocol import Answer, AnswerReader, Heads, Request, fixed_lines
from fondaco.dataplane.wire import DEFAULT_PORT

CONNECTIONS_MAX: Final = 64  # of one client to one peer
DEADLINE_SPARE_MS: Final = 3_600_000  # the longest that a server is told

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when one of `exchanges` is done, or at `until` (of `time.monotonic`)."""

    exchanges: Sequence[Exchange]
    until: float


Operation: TypeAlias = "Generator[Wait, None, T]"


class Peer(PeerLoad):
    """One server: where it is, what every request to it says, and how it does."""

    __slots__ = ("fixed", "host", "port", "tls", "url")

    def __init__(self, url: str, token: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
            url: "http://host:port" or "https://host:port"; without a port, that of the data plane.
            tls: how to check the server of an https address; None: by the certificates of the system.
        Raises:
            InputError: not such an address; or a token that no header can carry.
        """
        super().__init__()
        scheme, self.host, self.port = _address(url)
        literal = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{scheme}://{literal}:{self.port}"
        self.tls = (tls or ssl.create_default_context()) if scheme == "https" else None
        self.fixed = fixed_lines(f"{literal}:{self.port}", token)

    def __repr__(self) -> str:
        return f"Peer({self.url!r})"


def _address(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise InputError(f"a server is named by its address, as 'http://127.0.0.1:{DEFAULT_PORT}', not by {url!r}")
    return parts.scheme, parts.hostname, DEFAULT_PORT if port is None else port


class Exchange:
    """One request to one peer, and its answer or error once it is `done`. `give_up` is set by the transport that carries it."""

    __slots__ = (
        "answer",
        "connection",
        "deadline",
        "done",
        "error",
        "finished",
        "key_count",
        "on_done",
        "peer",
        "request",
        "started",
        "tried",
    )

    def __init__(self, peer: Peer, request: Request, deadline: float) -> None:
        self.peer, self.request, self.deadline = peer, request, deadline
        self.answer: Answer | None = None
        self.error: FondacoError | None = None
        self.done = False
        self.tried = 0  # connections that it was sent on
        self.started = time.monotonic()
        self.finished = 0.0
        self.connection: Any = None
        self.on_done: Callable[[], None] | None = None
        peer.pending += 1

    def wire_bytes(self) -> bytes:
        """The request as it is sent now."""
        left = self.deadline - time.monotonic()
        return self.request.render(self.peer.fixed, max(1, min(DEADLINE_SPARE_MS, math.ceil(left * 1000))))

    def reader(self, heads: Heads) -> AnswerReader:
        """A reader for its answer."""
        return AnswerReader(heads, self.peer.url)

    def finish(self, answer: Answer | None, error: FondacoError | None) -> None:
        """It is over; what comes second changes nothing."""
        if self.done:
            return
        self.done, self.answer, self.error = True, answer, error
        self.finished = time.monotonic()
        self.connection = None
        self.peer.pending -= 1
        if self.on_done is not None:
            self.on_done()

    @property
    def seconds(self) -> float:
        """How long it took, or has taken until now."""
        return (self.finished if self.done else time.monotonic()) - self.started


class Transport(Protocol):
    """Carries exchanges. Its methods are called by operations, from the thread or the loop that runs them; none blocks but `start` with
    `wait` on a blocking transport."""

    def start(self, peer: Peer, request: Request, deadline: float, *, wait: bool = True) -> Exchange | None:
        """Send a request; None without `wait` when all connections are in use."""
        ...

    def abandon(self, exchange: Exchange) -> None:
        """Let go of an exchange whose answer is not wanted any more: its connection is closed, or is used again once the answer came."""
        ...


def closed_early(exchange: Exchange, reader: AnswerReader | None, reason: str) -> FondacoError:
    """What it means that a connection ended."""
    if reader is not None and reader.started:
        return ProtocolError(exchange.peer.url, f"the connection ended within an answer ({reason})")
    return UnavailableError(exchange.peer.url, reason)


def reason_of(exc: OSError) -> str:
    """An operating system's error as a reason."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({exc.verify_message})"
    if exc.errno is not None and exc.errno > 0 and not isinstance(exc, (ssl.SSLError, socket.gaierror)):
        return os.strerror(exc.errno)  # asyncio puts a sentence of its own into `strerror`
    return exc.strerror or str(exc) or type(exc).__name__
