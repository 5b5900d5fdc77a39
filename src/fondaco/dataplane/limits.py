"""Limits: how much of everything one server takes, and how long it waits. Over a limit is an error with the number, never a cut answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fondaco.core.config import ServerConfig

HEAD_BYTES_MAX: Final = 64 << 10  # request line and headers; most have 300 bytes, a vector in a query 1.4 KB per 128 numbers
REQUEST_ID_MAX: Final = 128
PIPELINE_MAX: Final = 256  # requests of one connection that wait for their turn; then nothing more is read from it
TURN_REQUESTS: Final = 32  # answered for one connection before the others get a turn
WRITE_HIGH: Final = 256 << 10  # bytes waiting to be sent on one connection above which nothing more is computed for it
PIECE_KEYS: Final = 1000  # keys of one kernel call; the loop gets its turn in between, so no single get waits longer than that
BODY_BYTES_PER_S: Final = 64 << 10  # a body that comes slower than this is not waited for, after the first `header_s`
LINGER_S: Final = 2.0  # a connection refused in the middle of a request is read so long, for the client to see the answer before a reset
WAIT_S: Final = 5.0  # for a position to be reached, by requests without a deadline
WAIT_S_MAX: Final = 60.0  # whatever the deadline says
DRAIN_S: Final = 10.0  # requests in flight at SIGTERM may take so long; the supervisor kills after 15
WRITE_BATCH_MAX: Final = 100_000  # writes of one request


@dataclass(frozen=True, slots=True)
class Limits:
    """Those that `fondaco.toml` sets; see `core.config.ServerConfig`."""

    request_bytes_max: int
    batch_keys_max: int
    connections_max: int
    idle_s: float
    header_s: float

    @classmethod
    def of(cls, config: ServerConfig) -> Limits:
        """The limits of a configuration."""
        return cls(config.request_bytes_max, config.batch_keys_max, config.connections_max, config.idle_s, config.header_s)

    @property
    def bodies_bytes_max(self) -> int:
        """Bodies of all requests in flight together."""
        return max(4 * self.request_bytes_max, 256 << 20)
