"""Presence: where the servers of a graph say that they run: `run/graphs/<graph>/<shard>-<pid>.json` in the platform's directory.

A server writes its file when it is ready and removes it at its end. The file of one that was killed stays; it counts for nothing, because
the process that it names does not live (a process is known by its number and the moment of its start). On a directory that several machines
share, a file of another machine counts as long as its server touches it. The secret in it is good for asking that server: whoever may read
the directory may read the graph anyway. Any thread, any process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from fondaco.core.files import write_atomically
from fondaco.core.runfile import run_directory
from fondaco.graph.service.handshake import ServerInfo

TOUCH_S: Final = 5.0
STALE_S: Final = 30.0  # of a server on another machine


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `started`: clock ticks since the machine's start; `machine`: which machine and which space of process numbers."""

    graph: str
    server: ServerInfo
    server_id: str
    secret: str
    pid: int
    started: int
    machine: str


_DECODER: Final = msgspec.json.Decoder(Present)


def presence_directory(platform: Path, graph: str) -> Path:
    """The folder of a graph's servers."""
    return run_directory(platform) / "graphs" / graph


def announce(platform: Path, graph: str, server: ServerInfo, server_id: str, secret: str) -> Path:
    """Say that this process serves; the file, to be touched and removed.

    Raises:
        ReadOnlyError, DiskFullError.
    """
    pid = os.getpid()
    present = Present(
        graph=graph, server=server, server_id=server_id, secret=secret, pid=pid, started=_started(pid) or 0, machine=machine()
    )
    path = presence_directory(platform, graph) / f"{server.shard}-{pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(present), mode=0o600)
    return path


def servers_present(platform: Path, graph: str) -> list[Present]:
    """The servers of a graph that live, by shard."""
    found = []
    for path in presence_directory(platform, graph).glob("*.json"):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            present = _DECODER.decode(path.read_bytes())
            if _lives(present, path):
                found.append(present)
    return sorted(found, key=lambda present: (present.server.shard, present.pid, present.server_id))


def _lives(present: Present, path: Path) -> bool:
    if present.machine != machine():
        return time.time() - path.stat().st_mtime < STALE_S
    if _started(present.pid) == present.started:
        return True
    path.unlink(missing_ok=True)  # of a server that was killed
    return False


@functools.cache
def machine() -> str:
    """What tells machines, and containers with process numbers of their own, apart."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie answers nobody
