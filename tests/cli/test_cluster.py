"""`fondaco cluster ...`, with agents of real nodes behind it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.catalog import Catalog
from fondaco.cluster.agent import AgentSettings, NodeAgent, NodeIdentity
from fondaco.cluster.blob import directory_blob
from fondaco.cluster.directory import NodeDirectory

RUN = [sys.executable, "-c", "from fondaco.cli import main; main()"]


def fondaco(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, "cluster", *words, "--dir", "data"], capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    with fd.open(tmp_path / "data") as opened:
        store = opened.create_store("members", value=pa.schema([("v", pa.int64())]), partitions=2)
        store.push(pa.table({"key": range(10), "v": range(10)}))
    return tmp_path


@contextlib.contextmanager
def _agent(where: Path, name: str, cluster: str = "main") -> Iterator[None]:
    directory, stop = NodeDirectory(where / name), threading.Event()
    directory.create(None)
    with contextlib.closing(Catalog.open(where / "data")) as catalog:
        agent = NodeAgent(
            NodeIdentity(name, f"http://127.0.0.1:{len(name)}", cluster=cluster),
            directory,
            catalog,
            directory_blob(where / "data"),
            settings=AgentSettings(interval_s=0.05, drain_s=0.2, settle_s=0.0),
        )
        agent.register()
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            agent.close()


def test_a_store_is_placed_moved_and_taken_off_and_a_node_drained_and_forgotten(platform: Path) -> None:
    with _agent(platform, "n1"):
        placed = fondaco("assign", "members", "--wait", "30", cwd=platform)
        assert placed.returncode == 0, placed.stderr
        assert placed.stdout == "members: 1 replicas in cluster 'main'; 2 of 2 partitions of v1 are where they should be\n"
        assert "members  main     1         v1       v1      2/2       2/2" in fondaco("status", cwd=platform).stdout
        (node,) = json.loads(fondaco("nodes", "--json", cwd=platform).stdout)["nodes"]
        assert (node["name"], node["state"], node["ready"]) == ("n1", "live", 2)
        with _agent(platform, "node-2", cluster="other"):
            moved = fondaco("move", "members", "other", "--wait", "30", "--json", cwd=platform)
            status = json.loads(moved.stdout)
            assert (status["cluster"], status["settled"], status["routed"]) == ("other", 2, 1)
            back = fondaco("assign", "members", "--cluster", "main", "--node", "n1", "--wait", "30", cwd=platform)
            assert back.returncode == 0, back.stderr
        drained = fondaco("drain", "n1", "--wait", "0.5", cwd=platform)
        assert drained.returncode == 2
        assert "it still holds replicas" in drained.stderr
        assert "no node named n1 that could hold it" in fondaco("status", "members", cwd=platform).stdout
        assert "takes part again" in fondaco("drain", "n1", "--undo", cwd=platform).stdout
        assert fondaco("unassign", "members", cwd=platform).stdout == "members: leaves every node\n"
        done = fondaco("drain", "n1", "--wait", "30", cwd=platform)
        assert done.stdout == "node 'n1' is drained and can be stopped\n", done.stderr
        live = fondaco("remove", "n1", cwd=platform)
        assert live.returncode == 2
        assert "is live" in live.stderr
    assert fondaco("remove", "n1", cwd=platform).stdout == "node 'n1' is forgotten\n"


def test_a_version_is_uploaded_to_another_folder(platform: Path) -> None:
    blob = (platform / "blob").as_uri()
    assert f"v1 is in {blob}" in fondaco("upload", "members", blob, cwd=platform).stdout
    assert sorted(path.name for path in (platform / "blob/stores/members/versions/1").iterdir()) == [
        "manifest.json",
        "part-00000.base",
        "part-00001.base",
    ]
    assert "has no version 9" in fondaco("upload", "members", blob, "--version", "9", cwd=platform).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("assign", "member"), "did you mean 'members'?"),
        (("assign", "members", "--cluster", "1x"), "cannot name a cluster"),
        (("assign", "members", "--node", "n9"), "no node 'n9'"),
        (("move", "members", "other"), "is in no cluster yet"),
        (("status", "members"), "is in no cluster; place it"),
        (("drain", "n9"), "no node 'n9'"),
        (("upload", "members", "gopher://x"), "cannot be used"),
        (("stats",), "Did you mean 'status'?"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(platform: Path, words: tuple[str, ...], message: str) -> None:
    done = fondaco(*words, cwd=platform)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_keeps_a_store_from_being_read_is_said(platform: Path) -> None:
    placed = fondaco("assign", "members", "--replicas", "2", cwd=platform)
    assert placed.returncode == 0
    assert "cluster 'main' has no node that could hold it" in placed.stderr
    with _agent(platform, "n1"):
        waited = fondaco("assign", "members", "--replicas", "2", "--wait", "30", cwd=platform)
        assert waited.returncode == 0
        assert "has 1 nodes for 2 replicas" in waited.stderr
