"""Graph servers that are killed, stopped, started again: answers stay equal bit for bit, and nobody waits a second for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import DeadlineExceededError, NodeIdError, UnavailableError, VersionNotFoundError
from fondaco.graph.graph import Graph
from fondaco.graph.service.endpoints import connect
from fondaco.graph.service.presence import presence_directory, servers_present
from fondaco.testing.graph import same
from graph.graph_servers import GraphCluster, GraphServerProcess, until

pytestmark = pytest.mark.xdist_group("graph-failover")  # one set of servers

NODES, EDGES, WIDTH = 3000, 30_000, 32
KILLED = 5
IDS = np.arange(NODES) * 3 - 1000


def build(platform: fd.Platform, mark: float = 0.0) -> None:
    """A version whose features say which it is: `mark` in the first place."""
    draws = np.random.default_rng(7)
    x = draws.standard_normal((NODES, WIDTH)).astype(np.float32)
    x[:, 0] = mark
    nodes = pa.table({"id": IDS, "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)})
    src, dst = draws.integers(0, NODES, EDGES), draws.integers(0, NODES, EDGES)
    edges = pa.table({"src": IDS[src], "dst": IDS[dst], "weight": draws.random(EDGES).astype(np.float32)})
    platform.build_graph("g", nodes={"n": nodes}, edges={("n", "to", "n"): edges}, partitions=4, progress=False)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fd.Platform]:
    with fd.open(tmp_path_factory.mktemp("served") / "platform") as platform:
        build(platform, 1.0)
        yield platform


@pytest.fixture(scope="module")
def embedded(platform: fd.Platform) -> Iterator[Graph]:
    with platform.graph("g", version=1) as graph:
        yield graph


@pytest.fixture(scope="module")
def cluster(platform: fd.Platform) -> Iterator[GraphCluster]:
    """Two shards of two replicas; a test that ends one starts it again."""
    with GraphCluster(platform.directory, "g", shards=2, replicas=2) as cluster:
        yield cluster


def sample(graph: Graph, seed: int, **options: Any) -> Any:
    seeds = np.random.default_rng(seed).choice(IDS, 256)
    return graph.sample(seeds, [6, 4], features=["x"], seed=seed, **options)


class Load:
    """A client that samples on and on, in a thread, and remembers how long each answer took and whether all were right."""

    def __init__(self, graph: Graph, embedded: Graph) -> None:
        self._graph = graph
        self._right = [sample(embedded, seed) for seed in range(8)]
        self.seconds: list[float] = []
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                seed = len(self.seconds) % len(self._right)
                begun = time.monotonic()
                answer = sample(self._graph, seed)
                self.seconds.append(time.monotonic() - begun)
                assert same(answer, self._right[seed])
        except BaseException as exc:
            self.failure = exc

    def wait_for(self, answers: int) -> None:
        """Until so many more came."""
        wanted = len(self.seconds) + answers
        until(lambda: len(self.seconds) >= wanted or self.failure is not None, "answers go on coming")
        if self.failure is not None:
            raise self.failure

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None and exc[0] is None:
            raise self.failure


# -- replicas that go away --------------------------------------------------------------------------------------------------------------


SLOWEST_S = 4.0  # it is under a second where processors are free: 0.02 s after a kill, 0.47 s after a pause


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_a_replica_that_goes_away_in_mid_load_changes_nothing_and_costs_a_moment(cluster: GraphCluster, embedded: Graph, way: str) -> None:
    try:
        with connect(cluster.endpoints) as graph, Load(graph, embedded) as load:
            load.wait_for(20)
            usual = max(load.seconds)
            for index in (0, 1):  # one replica of each shard: the entry, and one that the entry asks
                before = len(load.seconds)
                getattr(cluster.servers[index], way)()
                load.wait_for(20)
                print(f"\n{way}: the slowest call took {max(load.seconds[before:]):.3f} s")
                assert max(load.seconds[before:]) < SLOWEST_S + usual
    finally:  # the others' servers, too
        for index in (0, 1):
            if way == "kill":
                cluster.start_again(index)
            else:
                cluster.servers[index].go_on()
    with connect(cluster.endpoints) as graph, Load(graph, embedded) as load:
        load.wait_for(10)


def test_a_killed_server_is_found_again_at_another_address(cluster: GraphCluster, embedded: Graph) -> None:
    right = sample(embedded, 3)
    with connect(cluster.endpoints) as graph:
        assert same(sample(graph, 3), right)
        for index in (0, 2):  # both replicas of shard 0
            cluster.servers[index].kill()
        old = {cluster.servers[index].address for index in (0, 2)}
        for index in (0, 2):
            cluster.servers[index] = GraphServerProcess(cluster.directory, "g", 0, 2)
        for index in (0, 2):
            cluster.servers[index].wait_until_ready()
        assert same(sample(graph, 3), right)
        until(lambda: not {server.address for server in graph.servers} & old, "the killed ones are forgotten")
    assert len(servers_present(cluster.directory, "g")) == 4
    assert len(list(presence_directory(cluster.directory, "g").glob("*.json"))) == 4


def test_a_shard_that_nobody_holds_is_an_error_that_says_which_partitions(cluster: GraphCluster, embedded: Graph) -> None:
    for index in (1, 3):
        cluster.servers[index].kill()
    try:
        with connect(cluster.endpoints, timeout_s=20) as graph:
            begun = time.monotonic()
            with pytest.raises(UnavailableError, match=r"partitions 2, 3 of graph 'g' \(shard 1/2\)"):
                sample(graph, 1)
            assert time.monotonic() - begun < 5.0
            for index in (1, 3):
                cluster.start_again(index)
            assert same(sample(graph, 1), sample(embedded, 1))
    finally:
        for index in (1, 3):
            if not cluster.servers[index].alive:
                cluster.start_again(index)


def test_the_only_server_that_hangs_is_a_deadline_error_at_the_deadline_and_good_again_afterwards(
    platform: fd.Platform, embedded: Graph
) -> None:
    with GraphCluster(platform.directory, "g") as cluster, connect(cluster.endpoints) as graph:
        right = sample(embedded, 5)
        assert same(sample(graph, 5), right)
        server = cluster.servers[0]
        server.pause()
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"Sample: not done within 0\.8 s"):
            sample(graph, 5, timeout_s=0.8)
        assert 0.8 <= time.monotonic() - begun < 2.0
        server.go_on()
        assert same(sample(graph, 5), right)
        server.kill()
        with pytest.raises(UnavailableError, match=f"graph 'g' does not answer: {server.address}"):
            sample(graph, 5)
        cluster.start_again(0)
        assert same(sample(graph, 5), right)


# -- clients ----------------------------------------------------------------------------------------------------------------------------


def test_a_forked_child_asks_over_connections_of_its_own(cluster: GraphCluster, embedded: Graph) -> None:
    right = [sample(embedded, seed) for seed in range(4)]
    with connect(cluster.endpoints) as graph:
        kept = [sample(graph, seed) for seed in range(3)]
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            good = all(same(sample(graph, seed), right[seed]) for seed in (3, 2, 1))
            os.write(writable, b"good" if good and all(map(same, kept, right)) else b"bad")
            os._exit(0)
        for _ in range(5):
            assert all(same(sample(graph, seed), right[seed]) for seed in range(4))
        assert os.read(readable, 4) == b"good"
        os.waitpid(child, 0)
        os.close(readable)
        os.close(writable)
        assert all(map(same, kept, right))


def test_a_graph_goes_to_a_spawned_process_by_pickle_and_brings_in_no_numba(cluster: GraphCluster, embedded: Graph) -> None:
    program = (
        "import sys, pickle, json\n"
        "graph = pickle.load(sys.stdin.buffer)\n"
        "answer = graph.sample([-1000, -997], [3], seed=4)\n"
        "heavy = [m for m in ('numba', 'sqlalchemy', 'duckdb', 'torch', 'pyarrow') if m in sys.modules]\n"
        "print(json.dumps([answer.nodes.tolist(), heavy]))\n"
        "graph.close()\n"
    )
    import pickle

    with connect(cluster.endpoints) as graph:
        pickled = pickle.dumps(graph)
    done = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, timeout=60, check=True)
    nodes, heavy = json.loads(done.stdout)
    assert nodes == embedded.sample([-1000, -997], [3], seed=4).nodes.tolist()
    assert heavy == []


def test_a_client_that_is_killed_leaves_no_memory_descriptors_or_threads_behind(cluster: GraphCluster) -> None:
    program = (
        "import sys, numpy as np, fondaco as fd\n"
        "graph = fd.graph.connect(sys.argv[1:])\n"
        "kept = []\n"
        "while True:\n"
        "    kept = [*kept[-3:], graph.sample(np.arange(500) * 3 - 1000, [10, 5], features=['x'], seed=len(kept))]\n"
        "    print(len(kept), flush=True)\n"
    )
    server = cluster.servers[0]

    def state() -> tuple[float, int, int, int]:
        return server.metric("fondaco_graph_connections"), server.descriptors(), server.threads(), server.shared_mappings()

    def run_and_kill() -> None:
        client = subprocess.Popen([sys.executable, "-c", program, server.address], stdout=subprocess.PIPE, env={**os.environ, "RANK": "0"})
        assert client.stdout is not None
        for _ in range(6):
            assert client.stdout.readline()
        client.send_signal(signal.SIGKILL)
        client.communicate(timeout=20)

    run_and_kill()  # the servers get to know each other
    assert server.metric("fondaco_graph_shared_memory_bytes_total") > 0
    at_first, memory_at_first = state(), server.resident_bytes()
    for _ in range(KILLED):
        run_and_kill()

    def is_as_at_first() -> bool:
        return all(now < then + KILLED for now, then in zip(state(), at_first, strict=True))

    until(is_as_at_first, "not one connection, descriptor, thread or mapping a client is left")
    assert server.resident_bytes() - memory_at_first < 16 << 20


def test_threads_share_a_graph(cluster: GraphCluster, embedded: Graph) -> None:
    right = [sample(embedded, seed) for seed in range(6)]
    failures: list[BaseException] = []
    with connect(cluster.endpoints) as graph:

        def ask(first: int) -> None:
            try:
                for turn in range(6):
                    seed = (first + turn) % 6
                    assert same(sample(graph, seed), right[seed])
                with pytest.raises(NodeIdError, match="7"):
                    graph.sample([7], [1])
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


# -- versions ---------------------------------------------------------------------------------------------------------------------------


def test_versions_change_under_load_and_every_answer_is_whole_and_of_one(tmp_path: Path) -> None:
    with fd.open(tmp_path / "platform") as platform:
        build(platform, 1.0)
        with GraphCluster(platform.directory, "g", shards=2) as cluster, connect(cluster.endpoints) as graph:
            seen: list[int] = []
            failures: list[BaseException] = []
            stop = threading.Event()

            def ask() -> None:
                try:
                    while not stop.is_set():
                        answer = sample(graph, len(seen))
                        marks = set(answer.features["x"][:, 0].tolist())
                        assert marks == {float(answer.version)}
                        seen.append(answer.version)
                except BaseException as exc:
                    failures.append(exc)

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            with connect(cluster.endpoints, version=1) as pinned:
                first = sample(pinned, 1)
                for version in (2, 3, 4):
                    build(platform, float(version))
                    until(lambda version=version: failures or version in seen, f"answers are of v{version}")
                    assert not failures
                stop.set()
                for thread in threads:
                    thread.join()
                assert not failures
                assert graph.version == 4
                assert not (platform.directory / "graphs" / "g" / "versions" / "1").exists()
                assert pinned.version == 1
                assert same(sample(pinned, 1), first)
            with pytest.raises(VersionNotFoundError, match=r"graph 'g' has no version 99; available: .*4"):
                connect(cluster.endpoints, version=99)
            until(lambda: all(server.metric("fondaco_graph_version") == 4 for server in cluster.servers), "all servers have followed")
            platform.graph_versions("g").rollback()
            until(lambda: graph.version == 3, "the servers follow back")
            assert set(sample(graph, 1).features["x"][:, 0].tolist()) == {3.0}
