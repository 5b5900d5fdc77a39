"""Handshake: what client and server tell each other first on a connection (`Kind.HELLO`), as msgpack.

A server says what it holds and which other servers it knows, so a client that was given one address finds them all. Fields may be added;
what is not known is passed over. Plain values; any thread.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fondaco.core.errors import ProtocolError
from fondaco.graph.queries import GraphInfo


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One server of a graph: where it listens, and that it holds shard `shard` of `shards`."""

    address: str
    shard: int
    shards: int
    unix: str | None = None


class Hello(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Of the client. `version`: held as long as this connection is. `role`: "client", or "peer" for a server that asks for its own
    clients; it says in `server` where it can be asked itself."""

    pid: int
    graph: str | None = None
    version: int | None = None
    token: str | None = None
    role: str = "client"
    server: ServerInfo | None = None


class Welcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Of the server. `info` is of the version that was asked for, or of the current one; `server_id` is made anew at each start."""

    info: GraphInfo
    server: ServerInfo
    server_id: str
    servers: list[ServerInfo] = []
    shared_memory: bool = False
    request_bytes_max: int = 0


_HELLO: Final = msgspec.msgpack.Decoder(Hello)
_WELCOME: Final = msgspec.msgpack.Decoder(Welcome)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: Hello | Welcome) -> bytes:
    """The bytes of a message."""
    return _ENCODER.encode(message)


def decode_hello(data: bytes | memoryview, peer: str) -> Hello:
    """
    Raises:
        ProtocolError: it is none.
    """
    try:
        return _HELLO.decode(data)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(peer, f"a greeting that cannot be read: {exc}") from None


def decode_welcome(data: bytes | memoryview, peer: str) -> Welcome:
    """
    Raises:
        ProtocolError: it is none.
    """
    try:
        return _WELCOME.decode(data)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(peer, f"a greeting that cannot be read: {exc}") from None
