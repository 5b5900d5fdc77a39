"""Served: our data plane as a process of its own, processors shared out, and a load client that is the same for every protocol.

The server (ours or Redis) runs on one core and the client on another, so that neither steals from the other and a figure is of the
server plus one client. `saturate` keeps N connections busy with prepared requests on uvloop and only counts answers: what it costs to
make and read them in Python is left out for all alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Figures, figures_of, quiet_collector

_START_S = 60.0
_SPIN_NS = 120_000
_TICKS = os.sysconf("SC_CLK_TCK")


def server_core() -> int:
    """The core of the servers: the last of those we may use."""
    return max(os.sched_getaffinity(0))


@contextlib.contextmanager
def client_core() -> Iterator[None]:
    """Run this process on another core than the servers while the block lasts, if there is another."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {max(before)} or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class FondacoServer:
    """`fondaco.dataplane.serve` on a platform directory, on 127.0.0.1 and a free port, stopped by its process id at the end."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory, self._arguments = directory, arguments

    def __enter__(self) -> FondacoServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        command = [sys.executable, "-m", "fondaco.dataplane.serve", str(self._directory), "--port", str(self.port), *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        os.sched_setaffinity(self.process.pid, {server_core()})
        self._wait_until_ready()
        return self

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            time.sleep(0.05)
        self._stop()
        raise RuntimeError(f"the data plane did not start on port {self.port} (status {self.process.poll()})")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_: object) -> None:
        self._stop()


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used, user and system; resolution 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def open_loop(call: Callable[[Any], object], items: Sequence[Any], *, rate: float) -> Figures:
    """Call `call(item)` at `rate` a second whatever the answers take. A latency counts from the moment its request was due, so one slow
    answer delays those behind it and they say so."""
    count = len(items)
    elapsed = np.zeros(count, dtype=np.int64)
    clock, step = time.perf_counter_ns, int(1e9 / rate)
    with quiet_collector():
        begin = clock() + 1_000_000
        for index in range(count):
            due = begin + index * step
            wait_until(due)
            call(items[index])
            elapsed[index] = clock() - due
    return figures_of(elapsed)


def wait_until(due_ns: int) -> None:
    """Return at `due_ns` of `time.perf_counter_ns`: asleep for most of the time, so that whoever shares this core can run, and spinning at
    the end, so that the wake-up is not measured."""
    left = due_ns - time.perf_counter_ns()
    if left > 2 * _SPIN_NS:
        time.sleep((left - _SPIN_NS) / 1e9)
    while time.perf_counter_ns() < due_ns:
        pass


# -- saturation -----------------------------------------------------------------------------------------------------------------------


def saturate(port: int, requests: Sequence[bytes], *, kind: str, connections: int, seconds: float, pid: int) -> Figures:
    """Keep `connections` busy, one request in flight on each, for some seconds, from a process of its own.

    Args:
        kind: "http" or "resp", how the end of an answer is found.
        pid: of the server, for its processor time.
    Returns:
        per_s, p50_us, p99_us, server_cpu_us (a request).
    """
    before = cpu_seconds(pid)
    request = json.dumps({"port": port, "kind": kind, "connections": connections, "seconds": seconds})
    command = [sys.executable, "-m", "benchmarks._served", request]
    cores = os.sched_getaffinity(0)
    done = subprocess.run(
        command,
        input=b"".join(len(data).to_bytes(4, "little") + data for data in requests),
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores - {max(cores)} or cores),
    )
    figures: Figures = json.loads(done.stdout)
    figures["server_cpu_us"] = (cpu_seconds(pid) - before) * 1e6 / figures.pop("count")
    return figures


class _Client(asyncio.Protocol):
    """One connection: the next request when the answer is complete."""

    def __init__(self, requests: list[bytes], kind: str, offset: int, times: list[int]) -> None:
        self._requests, self._next, self._times = requests, offset, times
        self._complete = _http_complete if kind == "http" else _resp_complete
        self._buffer = b""
        self._begun = 0
        self._transport: Any = None
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._next = (self._next + 1) % len(self._requests)
        self._begun = time.perf_counter_ns()
        self._transport.write(self._requests[self._next])

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._complete(self._buffer):
            self._buffer = b""
            self._times.append(time.perf_counter_ns() - self._begun)
            if self.running:
                self._send()


def _http_complete(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    assert data.startswith(b"HTTP/1.1 200"), data[:200]
    at = data.lower().find(b"content-length: ", 0, end + 2)
    length = int(data[at + 16 : data.find(b"\r", at)])
    return len(data) >= end + 4 + length


def _resp_complete(data: bytes) -> bool:
    end = data.find(b"\r\n")
    if end < 0:
        return False
    assert data.startswith(b"$"), data[:200]
    return len(data) >= end + 2 + int(data[1:end]) + 2


async def _load(port: int, kind: str, connections: int, seconds: float, requests: list[bytes]) -> Figures:
    loop, times = asyncio.get_running_loop(), []  # type: ignore[var-annotated]
    clients = []
    for number in range(connections):
        _, client = await loop.create_connection(
            lambda number=number: _Client(requests, kind, number * len(requests) // connections, times), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.sleep(0.2)
    first, begun = len(times), time.perf_counter()
    await asyncio.sleep(seconds)
    took, counted = time.perf_counter() - begun, times[first:]
    p50, p99 = np.percentile(np.array(counted), [50, 99]) / 1e3
    for client in clients:
        client.running = False
    await asyncio.sleep(0.1)
    return {"per_s": len(counted) / took, "p50_us": float(p50), "p99_us": float(p99), "count": len(times)}


def _main() -> None:
    import uvloop

    asked = json.loads(sys.argv[1])
    data, requests, at = sys.stdin.buffer.read(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        requests.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    print(json.dumps(uvloop.run(_load(requests=requests, **asked))))


if __name__ == "__main__":
    _main()
