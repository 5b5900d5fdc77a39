"""Graph servers as processes of their own, for tests: shards and replicas on free ports, stopped and killed by their pids."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

START_S = 120.0


class GraphServerProcess:
    """One server."""

    def __init__(self, directory: Path, graph: str, shard: int = 0, shards: int = 1, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "fondaco.graph.serve", str(directory), graph, "--shard", f"{shard}/{shards}", "--port", str(port)]
        self.shard, self.shards = shard, shards
        self.process = subprocess.Popen(
            [*command, "--metrics-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.metrics_url = ""

    def wait_until_ready(self) -> GraphServerProcess:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if ready else ""
        if " on " not in line:
            self.process.kill()
            raise RuntimeError(f"the graph server did not start: {line!r} {self.process.communicate(timeout=20)}")
        self.address, _, rest = line.partition(" on ")[2].strip().partition(", metrics on ")
        self.metrics_url = rest.removesuffix("/metrics")
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its HTTP side."""
        try:
            with urllib.request.urlopen(self.metrics_url + path, timeout=20) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def shared_mappings(self) -> int:
        """Slots of clients' shared memory that it has mapped."""
        return Path(f"/proc/{self.pid}/maps").read_text(encoding="utf-8", errors="replace").count("memfd:fondaco-graph")

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def pause(self) -> None:
        """Stop it where it stands, all its threads."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        until(lambda: all(_state(task) in "Tt" for task in tasks.iterdir()), "every thread stands still")

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a machine that loses its power."""
        if self.alive:
            self.process.kill()
        self.process.communicate(timeout=30)

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        if self.alive:
            self.process.terminate()
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.returncode


def _state(task: Path) -> str:
    return (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]


class GraphCluster:
    """`shards` x `replicas` servers of one graph. A context manager."""

    def __init__(self, directory: Path, graph: str, *, shards: int = 1, replicas: int = 1, arguments: Sequence[str] = ()) -> None:
        self.directory, self.graph = directory, graph
        self.servers = [GraphServerProcess(directory, graph, shard, shards, *arguments) for _ in range(replicas) for shard in range(shards)]
        try:
            for server in self.servers:
                server.wait_until_ready()
            for server in self.servers:
                self._wait_until_acquainted(server)
        except BaseException:
            self.stop()
            raise

    def _wait_until_acquainted(self, server: GraphServerProcess) -> None:
        until(lambda: server.metric("fondaco_graph_known_servers") == len(self.servers), "all servers know each other")

    @property
    def endpoints(self) -> list[str]:
        return [server.address for server in self.servers if server.alive]

    def start_again(self, index: int) -> GraphServerProcess:
        """A new process in place of one that ended, at the same address."""
        old = self.servers[index]
        new = GraphServerProcess(self.directory, self.graph, old.shard, old.shards, port=old.port)
        self.servers[index] = new
        return new.wait_until_ready()

    def stop(self) -> None:
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                server.go_on()
            if server.alive:
                server.process.terminate()
        for server in self.servers:
            server.stop()

    def __enter__(self) -> GraphCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
