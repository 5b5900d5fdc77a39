"""Nodes as real processes under load: killed, hung, drained, moved, restarted. No answer is wrong; what readers feel is printed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.node_processes import PARTITIONS, ClusterProcesses, reading
from fondaco.core.errors import NotAPlatformError
from fondaco.dataplane.fast import FastReader
from fondaco.store.layout import StoreLayout
from postgres_server import running_server
from waiting import wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """Three nodes, two replicas of each partition; each test leaves it whole."""
    running = ClusterProcesses(tmp_path_factory.mktemp("cluster"))
    try:
        running.push()
        running.place(replicas=2)
        running.start("n1", "n2", "n3")
        yield running
    finally:
        running.close()


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    if "cluster" in request.fixturenames:
        running: ClusterProcesses = request.getfixturevalue("cluster")
        current = running.store.current
        for name in ("n1", "n2", "n3"):
            wait_for(lambda name=name: running.is_settled(current, 2, by=name), f"{name} routes everything twice")  # type: ignore[misc]


def test_every_row_is_read_from_wherever_it_is(cluster: ClusterProcesses) -> None:
    held = {name: cluster.ready_replicas(name, cluster.store.current) for name in cluster.nodes}
    assert sum(held.values()) == 2 * PARTITIONS
    assert all(count < PARTITIONS + 1 for count in held.values())
    with FastReader(cluster.addresses[:1], "s") as reader:
        rows = reader.get_many(list(range(2000)))
        assert [row["v"] for row in rows if row is not None] == [key * 31 + cluster.store.current for key in range(2000)]
        columns = reader.get_columns(list(range(2000)), ["v"])
        assert columns.found.all()
        assert reader.get(2000) is None


def test_a_node_killed_under_load_costs_no_wrong_answer_and_comes_back_without_fetching(cluster: ClusterProcesses) -> None:
    version = StoreLayout(cluster.nodes["n2"].directory / "stores" / "s").version(cluster.store.current)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in version.glob("part-*")}
    with reading(cluster.addresses) as load:
        time.sleep(1.0)
        cluster.nodes["n2"].kill()
        out_s = wait_for(lambda: cluster.nodes["n2"].address not in cluster.table("n1").stores["s"].addresses, "n2 is out of routing")
        time.sleep(1.0)
        cluster.start("n2")
        back_s = wait_for(lambda: cluster.is_settled(cluster.store.current, 2, by="n1"), "n2 is back in routing")
        time.sleep(0.5)
    print(f"\nkilled: out of routing after {out_s:.2f} s, back {back_s:.2f} s after it was ready; {load}")
    assert load.wrong == []
    assert load.error_rate <= 0.01
    assert load.percentile_ms(0.99) < 1500
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in version.glob("part-*")} == before


def test_a_node_that_hangs_under_load_leaves_routing_is_restarted_and_costs_no_wrong_answer(cluster: ClusterProcesses) -> None:
    hung = cluster.nodes["n3"].serving_pid
    with reading(cluster.addresses) as load:
        time.sleep(1.0)
        os.kill(hung, signal.SIGSTOP)
        out_s = wait_for(lambda: cluster.nodes["n3"].address not in cluster.table("n1").stores["s"].addresses, "n3 is out of routing")
        wait_for(lambda: _serving_pid(cluster, "n3") not in (None, hung), "its agent has started another serving process")
        back_s = wait_for(lambda: cluster.is_settled(cluster.store.current, 2, by="n1"), "n3 is back in routing")
    print(f"\nhung: out of routing after {out_s:.2f} s, back {back_s:.2f} s after its restart; {load}")
    assert load.wrong == []
    assert load.error_rate <= 0.01
    assert load.percentile_ms(0.99) < 2500


def _serving_pid(cluster: ClusterProcesses, name: str) -> int | None:
    try:
        return cluster.nodes[name].serving_pid
    except (OSError, ValueError):
        return None


def test_versions_are_swapped_and_rolled_back_under_load_without_an_error_or_a_mixture(cluster: ClusterProcesses) -> None:
    first = cluster.store.current
    with reading(cluster.addresses) as load:
        numbers = [cluster.push() for _ in range(2)]
        wait_for(lambda: all(cluster.routed(name) == numbers[-1] for name in cluster.nodes), "the last version is routed")
        time.sleep(1.5)
        assert cluster.store.rollback() == numbers[0]
        wait_for(lambda: all(cluster.routed(name) == numbers[0] for name in cluster.nodes), "the rollback is routed")
        time.sleep(1.5)
        cluster.store.swap(numbers[1])
    print(f"\nswapped: versions {first} to {numbers[-1]}; {load}")
    assert load.wrong == []
    assert load.errors == []
    assert set(load.versions) <= {first, *numbers}
    assert numbers[0] in load.versions[-50:]


def test_a_node_is_drained_and_taken_back_under_load_without_an_error(cluster: ClusterProcesses) -> None:
    with reading(cluster.addresses) as load:
        cluster.drain("n1", True)
        stores = cluster.nodes["n1"].directory / "stores"
        took_s = wait_for(lambda: not (stores / "s").exists(), "n1 has given everything away")
        assert cluster.nodes["n1"].address not in cluster.table("n2").stores["s"].addresses
        cluster.drain("n1", False)
        back_s = wait_for(lambda: cluster.nodes["n1"].address in cluster.table("n2").stores["s"].addresses, "n1 takes part again")
        wait_for(lambda: cluster.is_settled(cluster.store.current, 2, by="n1"), "n1 routes everything twice")
    print(f"\ndrained in {took_s:.2f} s, back in {back_s:.2f} s; {load}")
    assert load.wrong == []
    assert load.errors == []


def test_a_rolling_restart_under_load_fails_no_read(cluster: ClusterProcesses) -> None:
    with reading(cluster.addresses) as load:
        assert cluster.nodes["n2"].stop() == 0
        cluster.start("n2")
        wait_for(lambda: cluster.is_settled(cluster.store.current, 2, by="n1"), "n2 is back in routing")
    print(f"\nrestarted; {load}")
    assert load.wrong == []
    assert load.errors == []


def test_a_write_is_readable_on_every_node(cluster: ClusterProcesses) -> None:
    with cluster.store.writer("test") as writer:
        positions = {key: writer.put(key, {"v": -key, "version": 0, "vector": [1.0] * 8}) for key in range(5000, 5040)}
        writer.flush()
    with FastReader(cluster.addresses, "s", timeout_s=10.0) as reader:
        for key, position in positions.items():
            for _ in range(4):  # whichever replica is asked
                row = reader.get(key, min_position=position)
                assert row is not None
                assert row["v"] == -key
    with cluster.store.writer("test") as writer:
        for key in positions:
            writer.delete(key)


def test_a_node_that_was_away_is_asked_only_when_it_has_what_was_written_meanwhile(cluster: ClusterProcesses) -> None:
    assert cluster.nodes["n2"].stop() == 0
    keys = range(5000, 5040)
    with cluster.store.writer("test") as writer:
        for key in keys:
            writer.put(key, {"v": -key, "version": 0, "vector": [1.0] * 8})
    cluster.start("n2")
    held = {key: value for key in keys if (value := cluster.value_on("n2", key)) is not None}
    assert held
    assert held == {key: -key for key in held}
    with cluster.store.writer("test") as writer:
        for key in keys:
            writer.delete(key)


def test_a_store_moves_to_another_cluster_under_load_without_an_error(cluster: ClusterProcesses) -> None:
    cluster.start("n4", cluster="other")
    try:
        with reading(cluster.addresses) as load:
            cluster.place(replicas=1, cluster="other")
            there_s = wait_for(lambda: cluster.table("n4").stores["s"].addresses == (cluster.nodes["n4"].address,), "n4 has everything")
            directories = [cluster.nodes[name].directory / "stores" / "s" for name in ("n1", "n2", "n3")]
            wait_for(lambda: not any(directory.exists() for directory in directories), "the others have nothing")
            time.sleep(0.5)
            cluster.place(replicas=2, cluster="main")
            wait_for(lambda: cluster.is_settled(cluster.store.current, 2, by="n1"), "it is back")
            time.sleep(1.5)
        print(f"\nmoved in {there_s:.2f} s; {load}")
        assert load.wrong == []
        assert load.errors == []
    finally:
        assert cluster.nodes.pop("n4").stop() == 0


def test_nodes_share_a_catalog_in_postgresql(tmp_path: Path) -> None:
    with running_server() as server:
        cluster = ClusterProcesses(tmp_path, config=f'[catalog]\nurl = "{server.new_database()}"\n')
        try:
            number = cluster.push()
            cluster.place(replicas=1)
            cluster.start("n1", "n2")
            wait_for(lambda: all(cluster.is_settled(number, 1, by=name) for name in cluster.nodes), "the version is routed")
            assert not (cluster.platform.directory / "catalog.sqlite").exists()
            with reading(cluster.addresses) as load:
                server.stop(signal.SIGQUIT)
                time.sleep(4.0)  # longer than a lease: without a catalog nodes go on with what they know
                server.start()
                following = cluster.push()
                wait_for(lambda: cluster.is_settled(following, 1, by="n2"), "the next version is routed")
            print(f"\nwithout a catalog for 4 s; {load}")
            assert load.wrong == []
            assert load.errors == []
        finally:
            cluster.close()


def test_a_node_in_a_directory_that_cannot_be_one_is_refused_with_one_message(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "fondaco.cluster.node", "--platform", str(tmp_path), "--dir", str(tmp_path / "n"), "--name", "n1"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert str(NotAPlatformError(str(tmp_path), "it has no FONDACO file")) in answer.stderr
    assert "Traceback" not in answer.stderr
