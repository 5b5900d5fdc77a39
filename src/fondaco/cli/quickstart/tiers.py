"""The servers of the quickstart, and the three ways to read one store: embedded, fast and thin, side by side on the same keys."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import fondaco
from fondaco.core.errors import StateError

if TYPE_CHECKING:
    from fondaco.platform import Platform

TIERS: Final = ("embedded", "fast", "thin")
STOP_S: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class TierFigures:
    """Single gets through one tier, one after the other, in microseconds; processor time a get of this process and of the server."""

    tier: str
    get_us_p50: float
    get_us_p99: float
    client_cpu_us: float
    server_cpu_us: float


@dataclass(frozen=True, slots=True)
class Servers:
    """What `fondaco up` started: addresses of the data plane and the control API, and the process that answers reads."""

    data: str
    control: str
    serving_pid: int


@contextlib.contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    """`fondaco up` as a child process on free ports while the block runs.

    Raises:
        StateError: it did not come up.
    """
    command = [sys.executable, "-c", "from fondaco.cli import main; main()", "up", "--dir", str(directory)]
    command += ["--port", "0", "--control-port", "0", "--json"]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait(timeout=STOP_S)
                said.seek(0)
                raise StateError(f"`fondaco up` did not start: {said.read().strip() or process.returncode}")
            told = json.loads(line)
            pids = {each["name"]: each["pid"] for each in told["processes"]}
            yield Servers(told["data"], told["control"], pids["data"])
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_S)
            process.kill()


def compare_tiers(platform: Platform, running: Servers, store: str, keys: Sequence[Any], fields: Sequence[str]) -> list[TierFigures]:
    """Read the same keys through each tier, touching the same fields; the answers are checked to be equal first."""
    remote = fondaco.connect(running.control)
    with contextlib.ExitStack() as stack:
        readers: dict[str, Any] = {"embedded": stack.enter_context(platform.store(store).reader())}
        for tier in TIERS[1:]:
            readers[tier] = stack.enter_context(remote.store(store).reader(tier=tier))
        for key in keys[:100]:
            rows = [readers[tier].get(key) for tier in TIERS]
            assert all((row is None) == (rows[0] is None) for row in rows)
            assert all(row is None or dict(row) == dict(rows[0]) for row in rows), f"the tiers disagree about {key!r}"
        return [_time(tier, readers[tier], keys, fields, running.serving_pid) for tier in TIERS]


def _time(tier: str, reader: Any, keys: Sequence[Any], fields: Sequence[str], server_pid: int) -> TierFigures:
    taken = np.empty(len(keys))
    clock, get = time.perf_counter_ns, reader.get
    served, own = _cpu_seconds(server_pid), time.process_time()
    for position, key in enumerate(keys):
        begun = clock()
        row = get(key)
        if row is not None:
            for name in fields:
                row[name]
        taken[position] = clock() - begun
    each = 1e6 / len(keys)
    p50, p99 = np.percentile(taken, [50, 99]) / 1e3
    own_us, served_us = (time.process_time() - own) * each, (_cpu_seconds(server_pid) - served) * each
    return TierFigures(tier, float(p50), float(p99), own_us, 0.0 if tier == "embedded" else served_us)


def _cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
