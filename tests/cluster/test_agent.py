"""Agents of several nodes over one platform, a pass at a time: what they bring, report, route, give away and remove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.catalog import Catalog, ReplicaState, nodes, placements, replicas, stores
from fondaco.cluster.agent import AgentSettings, NodeAgent, NodeIdentity
from fondaco.cluster.blob import BlobFolder, directory_blob
from fondaco.cluster.directory import NodeDirectory
from fondaco.cluster.peers import FileServer
from fondaco.core.clock import ManualClock
from fondaco.core.errors import AlreadyExistsError, PartitionNotHeldError, StoreNotFoundError, UnavailableError
from fondaco.dataplane.routing import RoutingTable, decode_routing
from fondaco.store.layout import StoreLayout, partition_name
from fondaco.store.reader import EmbeddedReader

PARTITIONS = 4
DRAIN_S = 5.0


class Cluster:
    """A platform with store "s", and agents that are moved by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock(1_700_000_000_000_000)
        self.platform = fd.open(directory / "platform")
        self.store = self.platform.create_store("s", value=pa.schema([("v", pa.int64())]), partitions=PARTITIONS, keep=2)
        self.agents: dict[str, NodeAgent] = {}
        self.files: dict[str, FileServer] = {}
        self.catalogs: list[Catalog] = []

    @property
    def catalog(self) -> Catalog:
        return self.platform.catalog

    def push(self, factor: int = 1, rows: int = 100) -> None:
        self.store.push(pa.table({"key": range(rows), "v": [number * factor for number in range(rows)]}))

    def place(self, replicas: int = 2, cluster: str = "main", **more: object) -> None:
        with self.catalog.write() as connection:
            store_id = stores.get(connection, "s").id
            placements.assign(connection, store_id, cluster, replicas, False, now_us=self.clock.now_us(), **more)  # type: ignore[arg-type]

    def start(
        self, name: str, cluster: str = "main", blob: BlobFolder | None = None, has_writes: Callable[[str], bool] = lambda store: True
    ) -> NodeAgent:
        directory = NodeDirectory(self.directory / name)
        directory.create(None)
        catalog = Catalog.open(self.platform.directory)
        self.catalogs.append(catalog)
        files = self.files[name] = FileServer(directory.stores)
        files.start()
        agent = NodeAgent(
            NodeIdentity(name, f"http://{name}:1", cluster=cluster),
            directory,
            catalog,
            blob or directory_blob(self.platform.directory),
            files=files,
            has_writes=has_writes,
            settings=AgentSettings(lease_s=3600, drain_s=DRAIN_S, settle_s=0.0),
            clock=self.clock,
        )
        agent.register()
        self.agents[name] = agent
        return agent

    def stop(self, name: str) -> None:
        self.agents.pop(name).close()
        self.files.pop(name).close()

    def pass_once(self) -> None:
        for agent in self.agents.values():
            agent.reconcile()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while True:
            self.pass_once()
            if condition():
                return
            assert time.monotonic() < deadline, "the cluster did not get there"
            time.sleep(0.01)

    def table(self, name: str = "n1") -> RoutingTable:
        return decode_routing((self.directory / name / "routing.json").read_bytes(), name)

    def routed(self, name: str = "n1") -> int | None:
        route = self.table(name).stores.get("s")
        return None if route is None else route.version

    def states(self, name: str) -> dict[tuple[int, int], ReplicaState]:
        with self.catalog.read() as connection:
            return {(row.version, row.partition): row.state for row in replicas.all_of(connection, node=name) if row.version}

    def files_of(self, name: str, version: int) -> list[str]:
        directory = self.layout(name).version(version)
        return sorted(path.name for path in directory.glob("part-*")) if directory.exists() else []

    def layout(self, name: str) -> StoreLayout:
        return StoreLayout(self.directory / name / "stores" / "s")

    def close(self) -> None:
        for name in list(self.agents):
            self.stop(name)
        for catalog in self.catalogs:
            catalog.close()
        self.platform.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    opened = Cluster(tmp_path)
    yield opened
    opened.close()


def test_nodes_fetch_what_they_are_assigned_and_route_it_when_all_of_it_is_there(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.pass_once()
    assert cluster.routed() is None
    cluster.until(lambda: cluster.routed() == 1 == cluster.routed("n2"))
    held = {name: cluster.files_of(name, 1) for name in ("n1", "n2")}
    assert sorted(held["n1"] + held["n2"]) == [partition_name(number) for number in range(PARTITIONS)]
    assert cluster.table().stores == cluster.table("n2").stores
    for partition, addresses in enumerate(cluster.table().stores["s"].replicas):
        assert len(addresses) == 1
        assert partition_name(partition) in held[addresses[0].removeprefix("http://").removesuffix(":1")]


def test_a_node_answers_for_its_partitions_and_refuses_the_others(cluster: Cluster) -> None:
    cluster.push(factor=3)
    cluster.place(replicas=1)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.until(lambda: cluster.routed() == 1 == cluster.routed("n2"))
    answers: dict[int, int] = {}
    for name in ("n1", "n2"):
        with EmbeddedReader.open(cluster.layout(name).directory, "s") as reader:
            for key in range(100):
                try:
                    row = reader.get(key)
                except PartitionNotHeldError:
                    continue
                assert row is not None
                assert key not in answers
                answers[key] = row["v"]
    assert answers == {key: key * 3 for key in range(100)}


def test_a_store_cannot_be_read_on_a_node_before_anything_of_it_is_routed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.push()
    cluster.place(replicas=1)
    cluster.start("n1", blob=BlobFolder((tmp_path / "nothing").as_uri()))
    cluster.pass_once()
    cluster.pass_once()
    assert cluster.layout("n1").versions.exists()
    with pytest.raises(StoreNotFoundError):
        EmbeddedReader.open(cluster.layout("n1").directory, "s")


def test_a_new_version_is_adopted_only_when_complete_and_the_old_one_read_until_then(cluster: Cluster, tmp_path: Path) -> None:
    cluster.push(factor=1)
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    lacking = cluster.platform.directory / "stores" / "s" / "versions"
    cluster.push(factor=2)
    os.rename(lacking / "2" / partition_name(3), tmp_path / "kept")  # the blob folder lacks one file of four
    with EmbeddedReader.open(cluster.layout("n1").directory, "s") as reader:
        cluster.until(lambda: len(cluster.files_of("n1", 2)) == 3)
        cluster.pass_once()
        assert cluster.routed() == 1
        assert [reader.get(key)["v"] for key in range(100)] == list(range(100))  # type: ignore[index]
        os.rename(tmp_path / "kept", lacking / "2" / partition_name(3))
        cluster.until(lambda: cluster.routed() == 2)
        assert [reader.get(key)["v"] for key in range(100)] == [2 * key for key in range(100)]  # type: ignore[index]


def test_a_store_is_not_routed_to_a_node_that_has_not_indexed_what_was_written(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    indexed = set[str]()
    cluster.start("n2", has_writes=indexed.__contains__)
    cluster.until(lambda: len(cluster.files_of("n2", 1)) > 0)
    for _ in range(3):
        cluster.pass_once()
        assert set(cluster.table().stores["s"].addresses) == {"http://n1:1"}
    indexed.add("s")
    cluster.until(lambda: "http://n2:1" in cluster.table().stores["s"].addresses)


def test_a_fetch_that_fails_says_why_in_the_catalog_and_succeeds_later(cluster: Cluster, tmp_path: Path) -> None:
    cluster.push()
    cluster.place(replicas=1)
    versions = cluster.platform.directory / "stores" / "s" / "versions"
    os.rename(versions / "1", tmp_path / "kept")
    cluster.start("n1")

    def said() -> bool:
        with cluster.catalog.read() as connection:
            return any("it is not there" in (row.error or "") for row in replicas.all_of(connection, node="n1"))

    cluster.until(said)
    assert set(cluster.states("n1").values()) == {ReplicaState.FETCHING}
    os.rename(tmp_path / "kept", versions / "1")
    cluster.until(lambda: cluster.routed() == 1)


def test_a_node_that_comes_back_with_its_files_fetches_nothing(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    before = {name: (cluster.layout("n1").version(1) / name).stat() for name in cluster.files_of("n1", 1)}
    cluster.stop("n1")
    with cluster.catalog.write() as connection:
        nodes.remove(connection, "n1", now_us=cluster.clock.now_us())  # even what it held is forgotten
    nowhere = BlobFolder((cluster.directory / "nowhere").as_uri())
    cluster.start("n1", blob=nowhere)
    cluster.until(lambda: set(cluster.states("n1").values()) == {ReplicaState.READY} and len(cluster.states("n1")) == PARTITIONS)
    after = {name: (cluster.layout("n1").version(1) / name).stat() for name in cluster.files_of("n1", 1)}
    assert after.keys() == before.keys()
    for name, found in after.items():
        assert (found.st_ino, found.st_mtime_ns) == (before[name].st_ino, before[name].st_mtime_ns)


def test_a_half_file_is_resumed_after_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    cluster.push(rows=20_000)
    cluster.place(replicas=1)
    blob, layout = BlobFolder((tmp_path / "blob").as_uri()), cluster.layout("n1")
    blob.upload(cluster.store._context.layout, "s", 1)
    source = tmp_path / "blob" / "stores" / "s" / "versions" / "1" / partition_name(2)
    whole = source.read_bytes()
    half = len(whole) // 2
    source.write_bytes(bytes(half) + whole[half:])  # who begins at the start gets nothing that verifies
    with cluster.catalog.read() as connection:
        row = stores.get(connection, "s")
        directory = NodeDirectory(cluster.directory / "n1")
        directory.create(None)
        directory.prepare_store(row, stores.value_schemas(connection, row.id))
    part = layout.building / "1" / f"{partition_name(2)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:half])
    cluster.start("n1", blob=blob)
    cluster.until(lambda: cluster.routed() == 1)
    assert (layout.version(1) / partition_name(2)).read_bytes() == whole
    assert not part.exists()


def test_a_file_that_was_lost_is_fetched_again_from_a_peer(cluster: Cluster, tmp_path: Path) -> None:
    cluster.push()
    cluster.place(replicas=2)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.until(lambda: cluster.routed() == 1 and len(cluster.states("n1")) == len(cluster.states("n2")) == PARTITIONS)
    os.rename(cluster.platform.directory / "stores" / "s" / "versions" / "1", tmp_path / "gone")  # the blob folder has nothing
    lost = cluster.layout("n1").version(1) / partition_name(2)
    whole = lost.read_bytes()
    lost.unlink()
    cluster.pass_once()
    assert (1, 2) not in cluster.states("n1")
    assert cluster.table("n2").stores["s"].replicas[2] == ("http://n2:1",)
    cluster.until(lambda: cluster.states("n1").get((1, 2)) is ReplicaState.READY)
    assert lost.read_bytes() == whole


def test_a_node_that_drains_gives_away_what_it_has_before_it_lets_go(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1, nodes=["n1", "n2"])
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    assert len(cluster.files_of("n1", 1)) == PARTITIONS
    with cluster.catalog.write() as connection:
        nodes.drain(connection, "n1", True)
    cluster.pass_once()
    assert len(cluster.files_of("n1", 1)) == PARTITIONS  # nobody else is there
    assert set(cluster.table().stores["s"].addresses) == {"http://n1:1"}
    cluster.start("n2")
    cluster.until(lambda: set(cluster.table().stores["s"].addresses) == {"http://n2:1"} and len(cluster.files_of("n2", 1)) == PARTITIONS)
    cluster.until(lambda: set(cluster.states("n1").values()) == {ReplicaState.DRAINING})
    assert len(cluster.files_of("n1", 1)) == PARTITIONS  # readers with an old table still find it
    cluster.clock.advance(us=round(DRAIN_S * 1e6))
    cluster.until(lambda: not cluster.layout("n1").directory.exists())
    assert cluster.states("n1") == {}


def test_a_store_moves_to_another_cluster_without_a_moment_in_which_nobody_has_it(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1, cluster="main")
    cluster.start("n1")
    cluster.start("n2", cluster="other")
    cluster.until(lambda: cluster.routed() == 1)
    cluster.place(replicas=1, cluster="other")
    seen = set()

    def moved() -> bool:
        replicas_now = cluster.table().stores["s"].replicas
        assert all(replicas_now)
        seen.update(address for partition in replicas_now for address in partition)
        cluster.clock.advance(us=100_000)
        return not cluster.layout("n1").directory.exists()

    cluster.until(moved)
    assert seen == {"http://n1:1", "http://n2:1"}
    assert set(cluster.table().stores["s"].addresses) == {"http://n2:1"}


def test_when_partitions_move_between_nodes_both_can_read_what_they_hold(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    cluster.start("n2")

    def settled() -> bool:
        cluster.clock.advance(us=500_000)
        return len(cluster.files_of("n1", 1)) + len(cluster.files_of("n2", 1)) == PARTITIONS and cluster.files_of("n2", 1) != []

    cluster.until(settled)
    answered = 0
    for name in ("n1", "n2"):
        with EmbeddedReader.open(cluster.layout(name).directory, "s") as reader:
            for key in range(100):
                try:
                    assert reader.get(key)["v"] == key  # type: ignore[index]
                    answered += 1
                except PartitionNotHeldError:
                    pass
    assert answered == 100


def test_old_versions_leave_the_nodes_and_a_rollback_is_there_at_once(cluster: Cluster) -> None:
    cluster.place(replicas=1)
    cluster.start("n1")
    for factor in (1, 2, 3):
        cluster.push(factor)
    both = {(number, partition): ReplicaState.READY for number in (2, 3) for partition in range(PARTITIONS)}
    cluster.until(lambda: cluster.routed() == 3 and both.items() <= cluster.states("n1").items())
    cluster.store.rollback()
    cluster.pass_once()
    assert cluster.routed() == 2
    cluster.push(4)
    cluster.until(lambda: cluster.routed() == 4)
    cluster.clock.advance(us=round(DRAIN_S * 1e6))
    cluster.until(lambda: cluster.layout("n1").version_numbers() == sorted(cluster.store._context.layout.version_numbers()))


def test_a_store_that_is_taken_off_or_deleted_leaves_the_nodes(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    with cluster.catalog.write() as connection:
        placements.remove(connection, stores.get(connection, "s").id)
    cluster.pass_once()
    assert cluster.routed() is None
    assert cluster.states("n1") == dict.fromkeys(((1, number) for number in range(PARTITIONS)), ReplicaState.DRAINING)
    cluster.clock.advance(us=round(DRAIN_S * 1e6))
    cluster.until(lambda: not cluster.layout("n1").directory.exists())
    cluster.place(replicas=1)
    cluster.until(lambda: cluster.routed() == 1)
    cluster.platform.delete_store("s")
    cluster.pass_once()
    cluster.clock.advance(us=round(DRAIN_S * 1e6))
    cluster.until(lambda: not cluster.layout("n1").directory.exists())
    assert cluster.table().stores == {}


def test_a_store_of_the_same_name_made_anew_is_not_mistaken_for_the_old_one(cluster: Cluster) -> None:
    cluster.push(factor=1)
    cluster.place(replicas=1)
    cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)
    cluster.platform.delete_store("s")
    cluster.store = cluster.platform.create_store("s", value=pa.schema([("v", pa.int64())]), partitions=PARTITIONS)
    cluster.push(factor=7)
    cluster.place(replicas=1)
    cluster.until(lambda: cluster.routed() == 2)
    with EmbeddedReader.open(cluster.layout("n1").directory, "s") as reader:
        assert reader.get(5)["v"] == 35  # type: ignore[index]


def test_a_store_that_was_only_written_to_is_routed_as_version_zero(cluster: Cluster) -> None:
    cluster.place(replicas=2)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.until(lambda: cluster.routed() == 0 and len(cluster.table().stores["s"].replicas[0]) == 2)
    cluster.push()
    cluster.until(lambda: cluster.routed() == 1)


def test_a_pass_over_what_is_as_it_should_be_changes_nothing(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=2)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.until(lambda: cluster.routed() == 1 and len(cluster.states("n1")) == len(cluster.states("n2")) == PARTITIONS)
    cluster.pass_once()
    before = cluster.catalog.change_counter()
    written = (cluster.directory / "n1" / "routing.json").stat().st_mtime_ns
    for _ in range(3):
        cluster.pass_once()
    assert cluster.catalog.change_counter() == before
    assert (cluster.directory / "n1" / "routing.json").stat().st_mtime_ns == written


def test_a_node_whose_server_does_not_answer_loses_its_lease_and_leaves_routing(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=2)
    agents = [cluster.start(name) for name in ("n1", "n2")]
    cluster.until(lambda: cluster.routed() == 1 and len(cluster.states("n1")) == len(cluster.states("n2")) == PARTITIONS)
    cluster.clock.advance(us=3_599_000_000)
    agents[1]._is_serving = lambda: False
    assert agents[0].renew_lease()
    assert not agents[1].renew_lease()
    cluster.clock.advance(us=2_000_000)
    cluster.pass_once()
    assert set(cluster.table().stores["s"].addresses) == {"http://n1:1"}
    assert len(cluster.files_of("n2", 1)) == PARTITIONS  # for a minute nothing moves because of it
    agents[1]._is_serving = lambda: True
    assert agents[1].renew_lease()
    cluster.pass_once()
    assert set(cluster.table().stores["s"].addresses) == {"http://n1:1", "http://n2:1"}


def test_a_node_that_was_removed_registers_again_and_a_name_in_use_is_refused(cluster: Cluster) -> None:
    agent = cluster.start("n1")
    with cluster.catalog.write() as connection:
        nodes.renew(connection, "n1", "http://n1:1", 0)
        nodes.remove(connection, "n1", now_us=cluster.clock.now_us())
    assert agent.renew_lease()
    with cluster.catalog.read() as connection:
        assert nodes.get(connection, "n1").address == "http://n1:1"
    second = NodeAgent(
        NodeIdentity("n1", "http://elsewhere:1"),
        NodeDirectory(cluster.directory / "x"),
        cluster.catalog,
        directory_blob(cluster.directory),
        clock=cluster.clock,
    )
    with pytest.raises(AlreadyExistsError, match="serves at http://n1:1"):
        second.renew_lease()


def test_while_the_catalog_cannot_be_reached_a_node_keeps_what_it_has(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.push()
    cluster.place(replicas=1)
    agent = cluster.start("n1")
    cluster.until(lambda: cluster.routed() == 1)

    def unavailable(*arguments: object) -> None:
        raise UnavailableError("the catalog", "connection refused")

    monkeypatch.setattr("fondaco.cluster.agent.read_state", unavailable)
    with pytest.raises(UnavailableError):
        agent.reconcile()
    assert cluster.routed() == 1
    assert len(cluster.files_of("n1", 1)) == PARTITIONS


def test_after_the_catalog_was_away_leases_that_nobody_could_renew_are_believed_for_a_while(cluster: Cluster) -> None:
    cluster.push()
    cluster.place(replicas=2)
    for name in ("n1", "n2"):
        cluster.start(name)
    cluster.until(lambda: cluster.routed() == 1 and len(cluster.states("n1")) == len(cluster.states("n2")) == PARTITIONS)
    cluster.clock.advance(us=3_601_000_000)
    agent = cluster.agents["n1"]
    agent._reached_at -= 3_601  # it had no answer for so long
    agent.reconcile()
    assert set(cluster.table().stores["s"].addresses) == {"http://n1:1", "http://n2:1"}
    agent._grace = (time.monotonic(), agent._grace[1])  # one lease later
    assert agent.renew_lease()
    agent.reconcile()
    assert set(cluster.table().stores["s"].addresses) == {"http://n1:1"}


def test_ending_an_agent_ends_its_lease(cluster: Cluster) -> None:
    cluster.start("n1")
    cluster.stop("n1")
    with cluster.catalog.read() as connection:
        assert nodes.all_live(connection, cluster.clock.now_us()) == []
