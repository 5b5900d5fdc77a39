"""The process of a graph server: how it is called, whom it lets in, what it says of itself, and that no question ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pickle
import random
import shutil
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import fondaco as fd
from fondaco.catalog import tokens
from fondaco.core.errors import (
    AuthenticationError,
    FondacoError,
    GraphNotFoundError,
    InputError,
    LimitError,
    NoCurrentVersionError,
    PartitionNotHeldError,
    PermissionDeniedError,
    ProtocolError,
    UnavailableError,
)
from fondaco.graph import queries as q
from fondaco.graph import serve
from fondaco.graph import shards as s
from fondaco.graph.buffers import BufferPool
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.connection import Address
from fondaco.graph.service.endpoints import connect
from fondaco.graph.service.failover import ask
from fondaco.graph.service.frames import Kind
from fondaco.graph.service.handshake import Hello
from fondaco.graph.service.metrics import GraphMetrics
from fondaco.graph.service.peer import Asked, Peer
from fondaco.graph.service.presence import announce, presence_directory, servers_present
from fondaco.graph.service.ring import Budget
from fondaco.testing.graph import same
from graph.graph_servers import GraphCluster, GraphServerProcess, until

pytestmark = pytest.mark.xdist_group("graph-serve")  # one set of servers

NODES = 200


def build(directory: Path, name: str = "g") -> fd.Platform:
    draws = np.random.default_rng(3)
    platform = fd.open(directory)
    nodes = pa.table({"id": np.arange(NODES), "x": pa.FixedSizeListArray.from_arrays(pa.array(draws.random(NODES * 4, np.float32)), 4)})
    edges = pa.table(
        {
            "src": draws.integers(0, NODES, 2000),
            "dst": draws.integers(0, NODES, 2000),
            "weight": draws.random(2000, np.float32),
            "time": draws.integers(0, 100, 2000),
        }
    )
    platform.build_graph(name, nodes={"n": nodes}, edges={("n", "to", "n"): edges}, partitions=4, directions="both", progress=False)
    return platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fd.Platform]:
    with build(tmp_path_factory.mktemp("serve") / "platform") as platform:
        yield platform


@pytest.fixture(scope="module")
def cluster(platform: fd.Platform) -> Iterator[GraphCluster]:
    with GraphCluster(platform.directory, "g", shards=2) as cluster:
        yield cluster


def refused(graph: fd.graph.Graph) -> bool:
    try:
        graph.sample([5], [4])
    except AuthenticationError as error:
        return "revoked" in str(error)
    return False


def peer(address: str, **hello: Any) -> Peer:
    return Peer(Address.parse(address), lambda: Hello(pid=1, **hello), Budget(), BufferPool())


# -- how it is called -------------------------------------------------------------------------------------------------------------------


def test_a_server_that_cannot_be_called_so_says_why_and_ends_with_2(
    platform: fd.Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for directory, arguments, message in (
        (tmp_path, ["g"], "is not a Fondaco directory"),
        (platform.directory, ["gg", "--port", "0"], "did you mean 'g'?"),
        (platform.directory, ["g", "--shard", "4/4"], "'4/4' is no shard"),
        (platform.directory, ["g", "--port", "0", "--version", "9"], "graph 'g' has no version 9; available: 1"),
        (platform.directory, ["g", "--port", "0", "--peers", "nowhere"], "'nowhere' is no address of a graph server"),
        (platform.directory, ["g", "--port", "0", "--host", "0.0.0.0"], "can be reached from other machines"),
        (platform.directory, ["g", "--port", "0", "--shard", "0/5000"], "up to 4096 partitions"),
        (platform.directory, ["g", "--port", "0", "--unix", "sock"], "'sock' is no Unix socket"),
        (platform.directory, ["g", "--port", "0", "--unix", str(precious)], "choose another with --unix"),
        (platform.directory, ["g", "--port", "0", "--ready-file", str(tmp_path / "no" / "ready")], "there is no directory"),
    ):
        assert serve.main([str(directory), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert precious.read_text() == "kept"


def test_the_command_line_serves_a_graph_and_tidies_up_at_its_end(platform: fd.Platform, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    before = len(servers_present(platform.directory, "g"))
    command = [sys.executable, "-m", "fondaco.cli", "graph", "serve", "g", "--dir", str(platform.directory), "--port", "0"]
    program = "import sys; sys.argv[0] = 'fondaco'; from fondaco.cli import main; main()"
    command = [sys.executable, "-c", program, *command[3:], "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: ready.exists() or process.poll() is not None, "it is ready", 60.0)
        address = ready.read_text().strip()
        assert len(servers_present(platform.directory, "g")) == before + 1
        with connect(address) as graph:
            assert graph.sample([1, 2], [3]).nodes[:2].tolist() == [1, 2]
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"graph g shard 0/1 on {address}" in said
    assert len(servers_present(platform.directory, "g")) == before


def test_a_graph_whose_version_comes_later_is_served_from_then_on(tmp_path: Path) -> None:
    with build(tmp_path / "platform") as platform:
        versions = platform.graph_versions("g")
        cell = platform.directory / "graphs" / "g" / "CURRENT"
        cell.write_bytes(bytes(8))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = GraphServerProcess(platform.directory, "g", port=port)
        try:
            until(lambda: peer(f"127.0.0.1:{port}").ping(1.0), "it listens", 60.0)
            with pytest.raises(NoCurrentVersionError):
                connect(f"127.0.0.1:{port}", timeout_s=20)
            cell.write_bytes((1).to_bytes(8, "little"))
            server.wait_until_ready()
            with connect(server.address) as graph:
                assert graph.version == 1 == versions.current
            assert server.get("/ready") == (200, "ready\n")
        finally:
            assert server.stop() == 0


def test_servers_find_each_other_by_their_addresses_alone(platform: fd.Platform, tmp_path: Path) -> None:
    """Two machines with a copy of the files each: no common run directory."""
    copies = []
    for shard in range(2):
        copies.append(tmp_path / f"machine-{shard}")
        shutil.copytree(platform.directory, copies[-1], ignore=shutil.ignore_patterns("run"))
    first = GraphServerProcess(copies[0], "g", 0, 2).wait_until_ready()
    second = GraphServerProcess(copies[1], "g", 1, 2, "--peers", first.address).wait_until_ready()
    try:
        with connect(second.address) as graph, platform.graph("g") as embedded:
            until(lambda: len(graph.servers) == 2, "the second knows the first")  # type: ignore[attr-defined]
            for seed in range(3):
                asked: dict[str, Any] = {"fan_outs": [4, 3], "features": ["x"], "seed": seed}
                assert same(graph.sample([5, 6, 7], **asked), embedded.sample([5, 6, 7], **asked))
            with connect(first.address) as other:  # it was asked by the second, and so knows it
                assert same(other.sample([5, 6, 7], **asked), embedded.sample([5, 6, 7], **asked))
    finally:
        assert (first.stop(), second.stop()) == (0, 0)


# -- whom it lets in --------------------------------------------------------------------------------------------------------------------


def test_where_tokens_are_needed_only_their_holders_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "platform"
    with build(directory) as platform:
        (directory / "fondaco.toml").write_text("[server]\nrequire_token = true\n")
        with platform.catalog.write() as connection:
            _, reader = tokens.create(connection, "trainer", {"g": "read"}, None, now_us=0)
            _, stranger = tokens.create(connection, "stranger", {"other": "admin"}, None, now_us=0)
        with GraphCluster(directory, "g", shards=2) as cluster, platform.graph("g") as embedded:
            with pytest.raises(AuthenticationError, match="no token"):
                connect(cluster.endpoints)
            with pytest.raises(AuthenticationError, match="not known"):
                connect(cluster.endpoints, token="guessed")
            with pytest.raises(PermissionDeniedError, match=r"'stranger' may not do this: it needs the role 'read' on graph 'g'"):
                connect(cluster.endpoints, token=stranger)
            monkeypatch.setenv("FONDACO_GRAPH_TOKEN", reader)
            with connect(cluster.endpoints) as graph:
                assert same(graph.sample([5], [4, 3], features=["x"]), embedded.sample([5], [4, 3], features=["x"]))
                with platform.catalog.write() as connection:
                    tokens.revoke(connection, "trainer", now_us=1)
                until(lambda: refused(graph), "a token that was revoked is good for nothing, also for who is connected")
            for present in servers_present(directory, "g"):
                assert reader not in repr(present)
            for path in presence_directory(directory, "g").glob("*.json"):
                assert path.stat().st_mode & 0o077 == 0, "the secret of a server is its owner's alone"


def test_with_a_certificate_everything_between_machines_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path)
    with build(tmp_path / "platform") as platform:
        (platform.directory / "fondaco.toml").write_text(f'[server]\ncertificate = "{certificate}"\nprivate_key = "{key}"\n')
        context = ssl.create_default_context(cafile=str(certificate))
        with GraphCluster(platform.directory, "g", shards=2, arguments=["--unix", "none"]) as cluster, platform.graph("g") as embedded:
            with connect(cluster.endpoints, tls=context) as graph:
                asked: dict[str, Any] = {"fan_outs": [5, 5], "features": ["x"]}
                assert same(graph.sample(np.arange(NODES), **asked), embedded.sample(np.arange(NODES), **asked))
            with pytest.raises((UnavailableError, ProtocolError)):
                connect(cluster.endpoints, timeout_s=3)
            with pytest.raises(UnavailableError, match="certificate"):
                connect(cluster.endpoints, tls=ssl.create_default_context(), timeout_s=3)
            with pytest.raises(InputError, match=r"nothing\.pem cannot be used"):
                connect(cluster.endpoints, tls=tmp_path / "nothing.pem")
            monkeypatch.setenv("FONDACO_GRAPH_CA", str(certificate))
            with connect(cluster.endpoints) as graph, pickle.loads(pickle.dumps(graph)) as again:
                assert same(again.sample(np.arange(NODES), **asked), embedded.sample(np.arange(NODES), **asked))
            drip_into_tls(cluster.servers[0], context)
            assert cluster.servers[0].alive


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "graph servers")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return certificate, key


def drip_into_tls(server: GraphServerProcess, context: ssl.SSLContext) -> None:
    """Garbage after a handshake, and instead of one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(bytes(200))
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(bytes(200))
        with contextlib.suppress(OSError):
            while tls.recv(1 << 16):
                pass


def test_another_graphs_name_is_refused_with_the_one_that_is_served(cluster: GraphCluster) -> None:
    with pytest.raises(GraphNotFoundError, match=r"no graph 'h' in this server; there is: g|did you mean 'g'"):
        connect(cluster.endpoints, graph="h")


def test_parts_of_a_query_are_for_servers_and_for_rows_that_they_hold(cluster: GraphCluster) -> None:
    asked = Asked(Kind.SHARD, s.encode_shard_query(s.NodeFeature(node_type="n", name="x")), {"rows": np.arange(NODES, dtype=np.int32)}, 1)
    client, server = peer(cluster.servers[0].address), peer(cluster.servers[0].address, role="peer")
    with contextlib.closing(client), contextlib.closing(server):
        with pytest.raises(InputError, match="parts of a query are for the servers"):
            ask([client], asked, Deadline(10), "it")
        with pytest.raises(PartitionNotHeldError, match="partition 3 of version 1"):
            ask([server], asked, Deadline(10), "it")


def test_a_request_over_the_limit_is_refused_where_it_is_made(cluster: GraphCluster) -> None:
    with connect(cluster.endpoints) as graph, pytest.raises(LimitError, match="Ask with fewer ids"):
        graph.features(np.zeros(9_000_000, np.int64), ["x"])


# -- what it says of itself -------------------------------------------------------------------------------------------------------------


def test_a_server_counts_what_it_does(cluster: GraphCluster) -> None:
    first = cluster.servers[0]
    with connect(first.address) as graph:
        before = {name: sum(server.metric(name) for server in cluster.servers) for name in COUNTED}
        graph.sample(np.arange(100), [5, 5], features=["x"])
        with pytest.raises(FondacoError):
            graph.sample([10**6], [2])

        def grown_since() -> dict[str, float]:
            return {name: sum(server.metric(name) for server in cluster.servers) - before[name] for name in COUNTED}

        def is_all_counted() -> bool:  # what is counted is counted when the answer is on its way
            grown = grown_since()
            return grown["fondaco_graph_requests_total"] >= 5 and (
                grown["fondaco_graph_request_seconds_count"] == grown["fondaco_graph_requests_total"]
            )

        until(is_all_counted, "two samples, and parts of both, are counted")  # the greeting is none
        grown = grown_since()
    assert grown["fondaco_graph_errors_total"] == 1
    assert grown["fondaco_graph_rows_gathered_total"] >= 100
    assert grown["fondaco_graph_sent_bytes_total"] > 0
    said = [server.get("/metrics")[1] for server in cluster.servers]
    for shard, text in enumerate(said):
        for line in ("version{} 1.0", "ready{} 1.0", "in_flight{} 0.0", "known_servers{} 2.0"):
            assert "fondaco_graph_" + line.replace("{}", f'{{graph="g",shard="{shard}/2"}}') in text
        assert "process_open_fds" in text
    assert any('fondaco_graph_requests_total{call="Sample",graph="g",shard=' in text for text in said)
    assert any('fondaco_graph_errors_total{call="Sample",error="NodeIdError",graph="g",shard=' in text for text in said)
    assert all('call="shard.Hop"' in text or 'call="Sample"' in text for text in said)
    assert first.get("/health") == (200, "alive\n")
    assert first.get("/ready") == (200, "ready\n")
    assert first.get("/else")[0] == 404


COUNTED = (
    "fondaco_graph_requests_total",
    "fondaco_graph_errors_total",
    "fondaco_graph_request_seconds_count",
    "fondaco_graph_rows_gathered_total",
    "fondaco_graph_sent_bytes_total",
)


def test_calls_count_under_names_that_there_are_whatever_a_request_says() -> None:
    metrics = GraphMetrics("g", 0, 1)
    for kind, call in ((Kind.QUERY, "made up"), (Kind.SHARD, "Sample"), (Kind.QUERY, "Sample"), (Kind.SHARD, "Hop")):
        metrics.begun()
        metrics.ended(kind, call, 0.1, 1, 1, 0, None)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("fondaco_graph_requests_total")]
    counted = {line.partition('call="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert counted == {"unknown": 2.0, "Sample": 1.0, "shard.Hop": 1.0}


def test_files_of_servers_that_are_no_more_count_for_nothing(platform: fd.Platform, cluster: GraphCluster) -> None:
    live = {present.server.address for present in servers_present(platform.directory, "g")}
    assert live == set(cluster.endpoints)
    folder = presence_directory(platform.directory, "g")
    (folder / "9-1.json").write_text("{torn")
    path = announce(platform.directory, "g", servers_present(platform.directory, "g")[0].server, "id", "secret")
    present = json.loads(path.read_bytes())
    stale = folder / "0-999999.json"
    for change in ({"pid": 2**22 + 1}, {"started": present["started"] + 1}):
        stale.write_bytes(json.dumps({**present, **change}).encode())
        assert {found.server_id for found in servers_present(platform.directory, "g")} >= {"id"}
        assert not stale.exists(), "it was of a server that was killed"
    stale.write_bytes(json.dumps({**present, "machine": "another", "pid": 1, "server_id": "far"}).encode())
    assert "far" in {found.server_id for found in servers_present(platform.directory, "g")}
    os.utime(stale, (0, 0))
    assert "far" not in {found.server_id for found in servers_present(platform.directory, "g")}
    for left in (path, stale, folder / "9-1.json"):
        left.unlink()


# -- no question ends it ----------------------------------------------------------------------------------------------------------------


DTYPES = {
    **dict.fromkeys(("dense", "frontier", "to", "members", "step", "phase", "node", "previous", "origin", "attempt"), "int32"),
    "mass": "float64",
    "seeds.data": "uint8",
    "ids.data": "uint8",
}


def random_arrays(source: random.Random, names: list[str], kind: Any) -> dict[str, Any]:
    """Arrays of the types and lengths that a query brings, mostly; some of them, mostly all."""
    found = {}
    length, wild = source.choice([0, 1, 3, 5]), source.random() < 0.2
    for name in names if source.random() < 0.5 else source.sample(names, source.randrange(len(names) + 1)):
        dtype = np.dtype(DTYPES.get(name, "int32" if (name, kind) == ("rows", s.NodeFeature) else "int64"))
        shape: tuple[int, ...] = (length,)
        if wild and source.random() < 0.3:
            dtype = np.dtype(source.choice(["int64", "int32", "uint8", "float32", "bool", "float64", "uint64", "int8"]))
            shape = tuple(source.choice([0, 1, 3, 5]) for _ in range(source.choice([1, 1, 0, 2])))
        low, high = source.choice([(0, 3), (0, 3), (0, 99), (0, 99), (-3, 3), (90, 400), (-(2**62), 2**62)])
        values = [source.randint(low, high) for _ in range(int(np.prod(shape, dtype=int)))]
        with np.errstate(all="ignore"):
            found[name] = np.array(values, np.int64).astype(dtype).reshape(shape)
    return found


def random_struct(source: random.Random, kind: Any) -> bytes:
    """A query of a kind with values that fit, or nearly."""
    fields: dict[str, Any] = {"type": kind.__struct_config__.tag}
    for field in msgspec.structs.fields(kind):
        if field.required or source.random() < 0.6:
            fields[field.name] = random_value(source, str(field.type), field.name)
    return msgspec.msgpack.encode(fields)


def random_value(source: random.Random, kind: str, name: str) -> Any:
    if name == "direction":
        return source.choice(["out", "in"])
    if name == "strategy":
        return source.choice(["uniform", "weighted", "top_k", "last", "all", "labor"])
    if name == "distribution":
        return source.choice(["uniform", "degree"])
    if name == "fan_outs":
        return [source.choice([2, -1, 0, -5, 10**9, {"n/to/n": 2}]) for _ in range(source.randrange(4))]
    if name in ("features", "edge_features"):
        return source.choice([[], [], [["n", "x"]], [["n/to/n", "x"]], [["n", "none"]]])
    if name in ("edge_types", "names"):
        return ["x"] if name == "names" else source.choice([["n/to/n"], ["n/to/n"], ["x"], ["n/to/n", "n/to/n"], []])
    if name == "steps":
        return source.choice([[["n/to/n"]], [[]], [], [["n/to/n"], ["n/to/n", "n/to/n"]]])
    if name in ("node_type", "edge_type", "name"):
        usual = {"node_type": "n", "edge_type": "n/to/n", "name": "x"}[name]
        return usual if source.random() < 0.9 else source.choice(["n", "n/to/n", "x"])
    if "bool" in kind:
        return source.random() < (0.8 if name == "pad" else 0.5)
    if "float" in kind:
        return source.choice([0.0, 0.15, 0.01, 1.0, -1.0, float("nan"), 1e300])
    return source.choice([0, 1, 2, 3, 7, -1, -2, 100])


QUERIES = [kind for kind in vars(q).values() if isinstance(kind, type) and issubclass(kind, q.Query) and kind is not q.Query]
PARTS = [kind for kind in vars(s).values() if isinstance(kind, type) and issubclass(kind, s.ShardQuery) and kind is not s.ShardQuery]
TEXT_IDS = ["seeds.offsets", "seeds.data"]
QUERY_NAMES = {q.FindEdges: ["src", "dst"], q.EdgeFeatures: ["edge_ids"], q.Negatives: ["src", "dst"]}
WALKERS = ["walker", "step", "phase", "node", "previous", "origin", "attempt", "clock", "as_of"]
PART_NAMES = {
    s.Resolve: ["ids"],
    s.NodeIds: ["dense"],
    s.Find: ["frontier", "to"],
    s.EdgesAt: ["edge_ids"],
    s.NodeFeature: ["rows"],
    s.EdgeFeature: ["rows"],
    s.Induced: ["frontier", "members", "as_of"],
    s.WalkOn: WALKERS,
    s.Pick: ["partition", "mass"],
    s.InDegrees: ["partitions"],
    s.Masses: ["partitions"],
    s.SmallestKeys: ["partitions"],
}


def random_question(source: random.Random, kind: Any) -> tuple[bytes, dict[str, Any]]:
    """A query of a kind with arrays that it brings, or nearly."""
    is_whole = issubclass(kind, q.Query)
    names = QUERY_NAMES.get(kind, ["seeds", "as_of"]) if is_whole else PART_NAMES.get(kind, ["frontier", "as_of"])
    if source.random() < 0.1:
        names = [*names, *TEXT_IDS, "edge_ids", "seeds"]
    return random_struct(source, kind), random_arrays(source, [*dict.fromkeys(names)], kind)


@pytest.mark.parametrize(("kind", "count"), [(Kind.QUERY, 400), (Kind.SHARD, 500)])
def test_no_question_however_wrong_ends_a_server(cluster: GraphCluster, kind: Kind, count: int) -> None:
    source = random.Random(20261122 + kind)
    structs = QUERIES if kind == Kind.QUERY else PARTS
    asker = peer(cluster.servers[0].address, role="client" if kind == Kind.QUERY else "peer")
    outcomes: Counter[str] = Counter()
    with contextlib.closing(asker):
        for number in range(count):
            chosen = structs[number % len(structs)]
            meta, arrays = random_question(source, chosen)
            try:
                ask([asker], Asked(kind, meta, arrays), Deadline(20), "it")
                outcomes[chosen.__name__] += 1
            except FondacoError as error:
                outcomes[type(error).__name__] += 1
            assert all(server.alive for server in cluster.servers), (chosen, meta, arrays)
    assert not {"FondacoError", "ProtocolError", "UnavailableError", "DeadlineExceededError"} & set(outcomes), outcomes
    assert len({name for name in outcomes if not name.endswith("Error")}) > 8, outcomes
