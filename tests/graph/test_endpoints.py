"""How a program names a graph: addresses, a directory, or its environment; and what it is told when that leads nowhere."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import GraphNotFoundError, InputError, NotAPlatformError, UnavailableError, VersionNotFoundError
from fondaco.graph.service.endpoints import ENDPOINTS, NAME, TOKEN_FILE, VERSION, connect, token_of_environment
from fondaco.graph.service.remote import RemoteGraph
from graph.canned_service import CannedServer

EDGES = {("n", "to", "n"): pa.table({"src": [1, 2], "dst": [2, 3]})}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endpoints") / "platform"
    with fd.open(path) as platform:
        for _ in range(2):
            platform.build_graph("one", edges=EDGES, progress=False)
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (ENDPOINTS, NAME, VERSION, "FONDACO_GRAPH_TOKEN", TOKEN_FILE, "RANK"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as server:
        yield server


def test_without_any_name_it_says_how_to_give_one() -> None:
    with pytest.raises(InputError, match="FONDACO_GRAPH_ENDPOINTS=host:port"):
        connect()
    with pytest.raises(InputError, match="which graph"):
        connect([])
    with pytest.raises(InputError, match="'host:port:' is no address of a graph server"):
        connect("host:port:")


def test_a_directory_is_read_in_this_process(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(directory) as graph, connect(str(directory), graph="one", version=1) as old:
        assert (graph.version, old.version) == (2, 1)
        assert graph.sample([1], [2]).nodes.tolist() == [1, 2]
        with pickle.loads(pickle.dumps(graph)) as copy:
            assert copy.version == 2
    monkeypatch.setenv(ENDPOINTS, str(directory))
    monkeypatch.setenv(VERSION, "1")
    with connect() as graph:
        assert graph.version == 1
    monkeypatch.setenv(VERSION, "first")
    with pytest.raises(InputError, match="FONDACO_GRAPH_VERSION='first' is no version"):
        connect()


def test_what_is_not_in_a_directory_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphNotFoundError, match=r"no graph 'on'.*did you mean 'one'"):
        connect(directory, graph="on")
    with pytest.raises(VersionNotFoundError, match="graph 'one' has no version 9"):
        connect(directory, version=9)
    with pytest.raises(NotAPlatformError):
        connect(tmp_path / "nothing")
    with pytest.raises(NotAPlatformError):
        connect("nowhere")
    with fd.open(tmp_path / "two") as platform:
        with pytest.raises(GraphNotFoundError):
            connect(platform.directory)
        for name in ("a", "b"):
            platform.build_graph(name, edges=EDGES, progress=False)
        with pytest.raises(InputError, match="holds the graphs a, b; say which with graph= or FONDACO_GRAPH_NAME"):
            connect(platform.directory)


def test_addresses_come_from_the_environment_or_in_any_form(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(server.address)
    monkeypatch.setenv(ENDPOINTS, f" {address} , 127.0.0.1:9")
    monkeypatch.setenv(NAME, "canned")
    with connect() as graph:
        assert (graph.version, graph.node_count("node")) == (7, 3)
    for endpoints in (address, [address], f"tcp://{address}", server.service.unix):
        with connect(endpoints) as graph:
            assert graph.version == 7
    with connect(address, version=5):
        assert server.service.seen_versions[-1] == 5
    monkeypatch.setenv(NAME, "another")
    with pytest.raises(GraphNotFoundError, match="no graph 'another'"):
        connect(address)


@pytest.mark.parametrize(
    ("endpoints", "options", "says"),
    [
        (7080, {}, "7080 is no address of a graph server; write it as text"),
        ([("127.0.0.1", 7080)], {}, r"\('127.0.0.1', 7080\) is no address"),
        ("http://127.0.0.1:7080", {}, "'http://127.0.0.1:7080' is no address of a graph server"),
        ("127.0.0.1:7080", {"version": 0}, "a whole number from 1 on"),
        ("127.0.0.1:7080", {"version": "3"}, "a whole number from 1 on"),
        ("127.0.0.1:7080", {"graph": 5}, "graph is a name"),
        ("127.0.0.1:7080", {"tls": True}, "tls is a file of certificates"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(endpoints: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(fd.errors.InputError, match=says):
        connect(endpoints, **options)


def test_ranks_of_one_job_begin_at_different_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"127.0.0.1:{port}" for port in (1001, 1002, 1003)]
    first = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        with RemoteGraph(addresses) as graph:
            first.append(str(graph._candidates()[0].address))
    assert first == [*addresses, addresses[0]]


def test_nobody_there_is_an_error_that_names_whom_was_asked() -> None:
    with pytest.raises(UnavailableError, match=r"the graph does not answer: 127\.0\.0\.1:9: connection refused"):
        connect("127.0.0.1:9")


def test_a_graph_that_was_closed_says_so(server: CannedServer) -> None:
    graph = connect(str(server.address))
    graph.close()
    graph.close()
    with pytest.raises(fd.errors.StateError, match="was closed; connect again"):
        graph.contains([1])


def test_connecting_brings_in_nothing_heavy(server: CannedServer) -> None:
    program = (
        "import sys, fondaco as fd\n"
        "graph = fd.graph.connect()\n"
        "heavy = ('numba', 'sqlalchemy', 'duckdb', 'torch', 'pyarrow', 'prometheus_client')\n"
        "print(graph.version, [module for module in heavy if module in sys.modules])\n"
        "graph.close()\n"
    )
    environment = {**os.environ, ENDPOINTS: str(server.address)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "7 []\n"


def test_a_token_stands_in_the_environment_or_in_a_file_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_of_environment() is None
    path = tmp_path / "token"
    monkeypatch.setenv(TOKEN_FILE, str(path))
    with pytest.raises(InputError, match=r"FONDACO_GRAPH_TOKEN_FILE=.*token: No such file"):
        token_of_environment()
    path.write_text("\n")
    with pytest.raises(InputError, match="it is empty"):
        connect("127.0.0.1:1")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="it holds no token"):
        token_of_environment()
    path.write_text("fdc_secret\n")
    assert token_of_environment() == "fdc_secret"
    monkeypatch.setenv("FONDACO_GRAPH_TOKEN", "nearer")
    assert token_of_environment() == "nearer"
