"""Ports: numbers that the kernel does not hand out to clients, so that one which is free now is not somebody's a moment later by chance.

Source: ip(7), "ip_local_port_range".
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

_FIRST, _LAST = 10_000, 60_999
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def server_ports() -> list[int]:
    """The ports to try for a server, in order, beginning anywhere; whether one is free only a bind can tell."""
    low, high = _of_clients()
    found = [port for port in range(_FIRST, _LAST + 1) if not low <= port <= high]
    if len(found) < 1000:  # the kernel was told to use nearly all of them for clients
        found = list(range(_FIRST, _LAST + 1))
    begin = random.randrange(len(found))
    return found[begin:] + found[:begin]


def _of_clients() -> tuple[int, int]:
    try:
        low, high = _RANGE.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32_768, 60_999
