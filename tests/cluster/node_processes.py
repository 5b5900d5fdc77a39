"""A cluster of real processes for tests: a platform, nodes on ports of their own, and readers that check every answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

import fondaco as fd
from fondaco.catalog import nodes, placements, replicas, stores
from fondaco.core.errors import FondacoError
from fondaco.dataplane.fast import FastReader
from fondaco.dataplane.routing import RoutingTable, decode_routing
from waiting import PATIENCE_S

KEYS = 2000
PARTITIONS = 4


class NodeProcess:
    """One node: its agent's process, with the serving process and the tailer as children."""

    def __init__(self, cluster: ClusterProcesses, name: str, *, port: int = 0, cluster_name: str = "main") -> None:
        self.name, self.directory = name, cluster.directory / name
        self._log_path = cluster.directory / f"{name}.log"
        command = [sys.executable, "-m", "fondaco.cluster.node", "--platform", str(cluster.platform.directory)]
        command += ["--dir", str(self.directory), "--name", name, "--port", str(port), "--cluster", cluster_name]
        command += ["--lease", "2", "--drain", "2.5"]
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = ""

    def wait_ready(self) -> None:
        """Wait until it serves and is registered."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(f"node {self.name} on http://"), f"{line!r}: {self._log_path.read_text()[-3000:]}"
        self.address = line.split()[-1]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    @property
    def serving_pid(self) -> int:
        """The process that answers reads."""
        return int(json.loads((self.directory / "run" / f"served-{self.port}.json").read_bytes())["pid"])

    def kill(self) -> None:
        """kill -9 of the agent, with which its children end."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class ClusterProcesses:
    """A platform with store "s" and its nodes."""

    def __init__(self, directory: Path, *, config: str = "") -> None:
        self.directory = directory
        (directory / "platform").mkdir()
        if config:
            (directory / "platform" / "fondaco.toml").write_text(config)
        self.platform = fd.open(directory / "platform")
        schema = pa.schema([("v", pa.int64()), ("version", pa.int64()), ("vector", pa.list_(pa.float32(), 8))])
        self.store = self.platform.create_store("s", value=schema, partitions=PARTITIONS, keep=3)
        self.nodes: dict[str, NodeProcess] = {}

    def push(self) -> int:
        """Push the next version: every row says of which version it is, and a number made of both."""
        number = max((version.version for version in self.store.versions()), default=0) + 1
        vectors = np.repeat(np.arange(KEYS, dtype=np.float32), 8)
        columns = {"key": np.arange(KEYS), "v": np.arange(KEYS) * 31 + number, "version": np.full(KEYS, number)}
        table = pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8)})
        assert self.store.push(table).version == number
        return number

    def place(self, replicas: int, cluster: str = "main") -> None:
        with self.platform.catalog.write() as connection:
            store_id = stores.get(connection, "s").id
            placements.assign(connection, store_id, cluster, replicas, False, now_us=self.platform.clock.now_us())

    def start(self, *names: str, cluster: str = "main") -> None:
        started = [NodeProcess(self, name, port=self._port(name), cluster_name=cluster) for name in names]
        for node in started:
            self.nodes[node.name] = node
        for node in started:
            node.wait_ready()

    def _port(self, name: str) -> int:
        return self.nodes[name].port if name in self.nodes else 0

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    def table(self, name: str) -> RoutingTable:
        """The routing table that a node gives to readers."""
        with urllib.request.urlopen(f"{self.nodes[name].address}/v1/routing", timeout=PATIENCE_S) as answer:
            return decode_routing(answer.read(), name)

    def routed(self, name: str) -> int | None:
        route = self.table(name).stores.get("s")
        return None if route is None else route.version

    def is_settled(self, version: int, replica_count: int, *, by: str) -> bool:
        """Whether the version is routed, by a node's table, and each partition to so many nodes."""
        route = self.table(by).stores.get("s")
        return route is not None and route.version == version and all(len(addresses) == replica_count for addresses in route.replicas)

    def value_on(self, name: str, key: int) -> int | None:
        """What one node says that "v" is; None: it does not hold the key's partition."""
        try:
            with urllib.request.urlopen(f"{self.nodes[name].address}/v1/stores/s/rows/{key}", timeout=PATIENCE_S) as answer:
                return int(json.loads(answer.read())["v"])
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code != 503:
                    raise
            return None

    def ready_replicas(self, name: str, version: int) -> int:
        with self.platform.catalog.read() as connection:
            return sum(row.state == "ready" and row.version == version for row in replicas.all_of(connection, node=name))

    def drain(self, name: str, draining: bool) -> None:
        with self.platform.catalog.write() as connection:
            nodes.drain(connection, name, draining)

    def close(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(node.serving_pid, signal.SIGCONT)
                node.stop()
            else:
                node._reap()
        self.platform.close()


@dataclass(slots=True)
class Load:
    """What readers saw: times of good answers, errors, and answers that were wrong."""

    latencies_s: list[float] = field(default_factory=list)
    errors: list[FondacoError] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    @property
    def error_rate(self) -> float:
        return len(self.errors) / max(1, len(self.errors) + len(self.latencies_s))

    def percentile_ms(self, share: float) -> float:
        return 1000 * float(np.quantile(np.array(self.latencies_s), share))

    def __str__(self) -> str:
        asked = len(self.latencies_s) + len(self.errors)
        kinds = {type(error).__name__ for error in self.errors}
        if not self.latencies_s:
            return f"{asked} requests: not one was answered ({kinds})"
        times = f"p50 {self.percentile_ms(0.5):.2f} ms, p99 {self.percentile_ms(0.99):.2f} ms, max {self.percentile_ms(1):.0f} ms"
        return f"{asked} requests: {len(self.errors)} errors ({self.error_rate:.3%}{' ' + ', '.join(kinds) if kinds else ''}), {times}"


@contextlib.contextmanager
def reading(addresses: list[str], *, threads: int = 2, rate: float = 100.0) -> Iterator[Load]:
    """Read single rows and batches at a steady rate for as long as the block, and check each answer against its key and version."""
    load, stop = Load(), threading.Event()

    def check(key: int, row: object, seen: list[int]) -> None:
        if row is None or row["v"] != key * 31 + row["version"] or row["vector"][0] != key:  # type: ignore[index]
            load.wrong.append(f"key {key}: {row!r}")
        else:
            seen.append(int(row["version"]))  # type: ignore[index]

    def read(number: int) -> None:
        generator = np.random.default_rng(number)
        with FastReader(addresses, "s", timeout_s=5.0) as reader:
            while not stop.wait(generator.exponential(threads / rate)):
                keys = generator.integers(0, KEYS, 20 if generator.random() < 0.2 else 1).tolist()
                begun, seen = time.monotonic(), []  # type: ignore[var-annotated]
                try:
                    rows = [reader.get(keys[0])] if len(keys) == 1 else reader.get_many(keys)
                except FondacoError as exc:
                    load.errors.append(exc)
                    continue
                load.latencies_s.append(time.monotonic() - begun)
                for key, row in zip(keys, rows, strict=True):
                    check(key, row, seen)
                if len(set(seen)) > 1:
                    load.wrong.append(f"one answer of versions {set(seen)}")
                load.versions += seen[:1]

    readers = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    try:
        yield load
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
