"""Waiting for what happens in another thread or process, and ports for what is to listen there."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from fondaco.core.ports import server_ports

PATIENCE_S = 60.0  # a bound for what hangs, not a claim about speed: machines of CI are slow, and busy with other tests


def wait_for(is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait until something is so; returns how many seconds that took."""
    begun, pause = time.monotonic(), 0.001
    while not is_so():
        assert time.monotonic() - begun < patience_s, f"still waiting after {patience_s:g} s: {what}"
        time.sleep(pause)
        pause = min(0.02, pause * 1.2)
    return time.monotonic() - begun


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that no client of another test gets in the next moment."""
    for port in server_ports():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
