"""Versions of graphs from build to retirement: swaps under readers, kills at every moment, full disks, and what recovery leaves."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.catalog import VersionState, graphs
from fondaco.core.errors import (
    AlreadyExistsError,
    BuildInProgressError,
    CorruptFileError,
    DiskFullError,
    FieldNotFoundError,
    GraphNotFoundError,
    InputError,
    NoCurrentVersionError,
    StateError,
    StoreNotFoundError,
    VersionNotFoundError,
)
from fondaco.core.files import FileLock
from fondaco.core.verified import read_stamps, stamp_of
from fondaco.graph import pacing
from fondaco.graph.building import run_build
from fondaco.graph.layout import nodes_file
from fondaco.graph.opened import OpenGraph
from fondaco.graph.report import BuildReport
from fondaco.graph.sections import SectionWriter
from fondaco.graph.source import VersionSource
from fondaco.graph.versions import GraphVersions
from fondaco.store.layout import read_cell
from graph.hand_built import SCHEMA, write_version

CHILD = Path(__file__).with_name("build_child.py")


def build(
    platform: fd.Platform, name: str = "g", *, seed: int = 1, swap: bool = True, keep: int | None = None, **sizes: Any
) -> BuildReport:
    """A version whose content tells its seed: `built_from` says it."""
    return platform._graphs.build(
        name, keep, lambda context: run_build(context, lambda directory: _built(directory, seed, **sizes), swap=swap)
    )


def _built(directory: Path, seed: int, **sizes: Any) -> Any:
    return write_version(directory, seed=seed, **sizes).built


def _seed_of(opened: OpenGraph) -> int:
    return int(opened.manifest.built_from["seed"])


def _check_whole(platform: fd.Platform, seed: int, name: str = "g") -> None:
    """The current version is that of one seed, and every byte right; nothing lies about that the catalog does not know."""
    versions = platform.graph_versions(name)
    layout = platform._graphs.get(name).layout
    assert os.listdir(layout.building) == []
    assert layout.version_numbers() == [version.version for version in versions.versions()]
    assert read_cell(layout.current_cell) == versions.current
    assert all(version.state in ("READY", "CURRENT", "BACKUP", "RETIRED", "FAILED") for version in versions.versions(all=True))
    opened = VersionSource(layout.directory).get()
    opened.verify()
    assert _seed_of(opened) == seed


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "data") as opened:
        yield opened


# -- building and swapping --------------------------------------------------------------------------------------------------------------


def test_the_first_build_makes_the_graph_and_reports_exact_counts(platform: fd.Platform) -> None:
    assert platform.graphs() == []
    report = build(platform, persons=40, pages=25, likes=200)
    assert platform.graphs() == ["g"]
    assert (report.graph, report.version, report.current, report.partitions) == ("g", 1, True, 2)
    assert report.nodes == {"person": 40, "page": 25}
    assert report.edges == {"person/likes/page": 200, "person/knows/person": 100}  # stored in two directions, and counted once
    assert report.bytes == sum(path.stat().st_size for path in platform.graph_versions("g").directory.rglob("*.fgs"))
    assert "built g v1: 65 nodes, 300 edges, 2 partitions" in str(report)
    [info] = platform.graph_versions("g").versions()
    assert (info.version, info.state, info.nodes, info.edges, info.error) == (1, VersionState.CURRENT, 65, 300, None)
    _check_whole(platform, 1)


def test_versions_are_swapped_rolled_back_kept_and_retired_as_those_of_stores(platform: fd.Platform) -> None:
    for seed in (1, 2, 3):
        build(platform, seed=seed)
    versions = platform.graph_versions("g")
    assert [(v.version, str(v.state)) for v in versions.versions()] == [(2, "BACKUP"), (3, "CURRENT")]  # keep=2
    assert versions.rollback() == 2
    _check_whole(platform, 2)
    assert [v.rolled_back for v in versions.versions()] == [False, True]
    with pytest.raises(StateError, match="graph 'g' has no backup to roll back to"):
        versions.rollback()
    versions.swap(3)
    assert build(platform, seed=4, swap=False).current is False
    assert versions.current == 3
    assert [str(v.state) for v in versions.versions()] == ["BACKUP", "CURRENT", "READY"]
    with pytest.raises(StateError, match="version 3 of graph 'g' is current and cannot be retired"):
        versions.retire(3)
    versions.retire(2)
    with pytest.raises(VersionNotFoundError, match="graph 'g' has no version 2; available: 3, 4"):
        versions.swap(2)
    versions.swap(4)
    _check_whole(platform, 4)
    assert [str(v.state) for v in versions.versions(all=True)] == ["RETIRED", "RETIRED", "BACKUP", "CURRENT"]


def test_keep_is_remembered_and_changed_by_a_later_build(platform: fd.Platform) -> None:
    for seed in (1, 2, 3):
        build(platform, seed=seed, keep=3)
    assert [v.version for v in platform.graph_versions("g").versions()] == [1, 2, 3]
    build(platform, seed=4)
    assert [v.version for v in platform.graph_versions("g").versions()] == [2, 3, 4]
    build(platform, seed=5, keep=1)
    assert [v.version for v in platform.graph_versions("g").versions()] == [5]
    with pytest.raises(InputError, match="keep is how many versions are kept, from 1 to 1000, not 0"):
        build(platform, keep=0)


def test_a_graph_that_is_not_there_is_named_with_the_nearest(platform: fd.Platform) -> None:
    build(platform, "routes")
    for call in (platform.graph, platform.graph_versions, platform.delete_graph):
        with pytest.raises(GraphNotFoundError, match="no graph 'rutes'; did you mean 'routes'"):
            call("rutes")
    with pytest.raises(InputError, match="'a/b' cannot name a graph"):
        build(platform, "a/b")
    with pytest.raises(InputError, match="named by a text, not by 7"):
        platform.graph(7)  # type: ignore[arg-type]


def test_a_failed_first_build_leaves_no_graph_and_a_failed_later_one_the_current_version(platform: fd.Platform) -> None:
    def broken(directory: Path) -> Any:
        write_version(directory)
        raise RuntimeError("the table ended early")

    def try_it() -> None:
        with pytest.raises(RuntimeError, match="the table ended early"):
            platform._graphs.build("g", None, lambda context: run_build(context, broken))

    try_it()
    assert platform.graphs() == []
    assert os.listdir(platform.directory / "graphs") == []
    assert build(platform, seed=2).version == 2  # numbers are not given again
    try_it()
    _check_whole(platform, 2)
    failed = platform.graph_versions("g").versions(all=True)[-1]
    assert (failed.version, failed.state, failed.error) == (3, VersionState.FAILED, "RuntimeError: the table ended early")


def test_a_build_whose_files_contradict_each_other_is_refused_before_anybody_sees_it(platform: fd.Platform) -> None:
    build(platform)

    def wrong(directory: Path) -> Any:
        built = write_version(directory, seed=2).built
        (directory / nodes_file(0, 0)).unlink()
        with SectionWriter(directory / nodes_file(0, 0)) as writer:
            writer.add("hashes", np.arange(3, dtype=np.uint64))
            entry = writer.close()
        return replace(built, files=tuple(entry if file.name == entry.name else file for file in built.files))

    with pytest.raises(CorruptFileError, match=rf"{nodes_file(0, 0)}: section 'hashes'"):
        platform._graphs.build("g", None, lambda context: run_build(context, wrong))
    _check_whole(platform, 1)


def test_of_two_builds_at_once_the_second_is_told_and_the_first_goes_on(platform: fd.Platform) -> None:
    build(platform)

    def fill(directory: Path) -> Any:
        with pytest.raises(BuildInProgressError, match=rf"graph 'g' is being built by process {os.getpid()}"):
            build(platform, seed=3)
        with pytest.raises(BuildInProgressError):
            platform.delete_graph("g")
        with fd.open(platform.directory) as other:  # takes nothing of it for debris
            assert other.graph_versions("g").current == 1
        return _built(directory, 2)

    platform._graphs.build("g", None, lambda context: run_build(context, fill))
    _check_whole(platform, 2)


def test_a_graph_that_is_being_built_for_the_first_time_is_not_listed_yet(platform: fd.Platform) -> None:
    def fill(directory: Path) -> Any:
        assert platform.graphs() == []
        with pytest.raises(GraphNotFoundError):
            platform.graph_versions("g")
        return _built(directory, 1)

    platform._graphs.build("g", None, lambda context: run_build(context, fill))
    assert platform.graphs() == ["g"]


def test_a_deleted_graph_is_gone_and_its_numbers_are_not_given_again(platform: fd.Platform) -> None:
    build(platform)
    source = VersionSource(platform.graph_versions("g").directory)
    held = source.get()
    platform.delete_graph("g")
    assert platform.graphs() == []
    assert os.listdir(platform.directory / "graphs") == []
    with pytest.raises(NoCurrentVersionError, match="graph 'g' has no current version yet; build one"):
        source.get()
    held.verify()  # what was got stays good
    assert build(platform, seed=5).version == 2
    assert _seed_of(source.get()) == 5  # another graph, under the same name


def test_versions_that_the_catalog_does_not_know_are_left_alone(platform: fd.Platform) -> None:
    directory = platform.directory / "graphs" / "g" / "versions" / "7"
    directory.mkdir(parents=True)
    with pytest.raises(AlreadyExistsError, match="holds versions that the catalog does not know"):
        build(platform)
    with fd.open(platform.directory):
        pass
    assert directory.exists()


def test_a_platform_with_graphs_and_without_its_catalog_is_not_begun_anew(platform: fd.Platform) -> None:
    build(platform)
    platform.close()
    for path in platform.directory.glob("catalog.sqlite*"):
        path.unlink()
    with pytest.raises(CorruptFileError, match="catalog"):
        fd.open(platform.directory)


# -- sources ----------------------------------------------------------------------------------------------------------------------------


def test_a_source_follows_swaps_and_calls_in_flight_keep_their_version(platform: fd.Platform) -> None:
    build(platform, seed=1, keep=5)
    source = VersionSource(platform.graph_versions("g").directory)
    first = source.get()
    assert source.get() is first
    build(platform, seed=2)
    assert (_seed_of(source.get()), _seed_of(first)) == (2, 1)
    platform.graph_versions("g").rollback()
    assert _seed_of(source.get()) == 1
    first.verify()
    source.close()
    with pytest.raises(StateError, match="graph 'g' was closed here"):
        source.get()


def test_a_pinned_source_stays_and_one_that_was_retired_is_not_found(platform: fd.Platform) -> None:
    build(platform, seed=1)
    directory = platform.graph_versions("g").directory
    pinned = VersionSource(directory, version=1)
    for seed in (2, 3):
        build(platform, seed=seed)
    assert _seed_of(pinned.get()) == 1  # its files are gone, its maps are not
    with pytest.raises(VersionNotFoundError, match="graph 'g' has no version 1; available: 2, 3"):
        VersionSource(directory, version=1)
    with pytest.raises(GraphNotFoundError):
        VersionSource(directory.with_name("h"))


def test_a_source_opens_again_where_its_pickle_arrives(platform: fd.Platform) -> None:
    build(platform, seed=1)
    build(platform, seed=2)
    directory = platform.graph_versions("g").directory
    again = pickle.loads(pickle.dumps(VersionSource(directory, version=1, shard=(0, 2))))
    assert (_seed_of(again.get()), again.get().held) == (1, {0})
    assert _seed_of(pickle.loads(pickle.dumps(VersionSource(directory))).get()) == 2


def test_a_current_version_that_is_damaged_leaves_readers_on_the_one_before(platform: fd.Platform, caplog: Any) -> None:
    build(platform, seed=1)
    directory = platform.graph_versions("g").directory
    source = VersionSource(directory)
    report = build(platform, seed=2, swap=False)
    path = directory / "versions" / str(report.version) / nodes_file(0, 1)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    platform.graph_versions("g").swap(2)
    assert _seed_of(source.get()) == 1
    assert _seed_of(source.get()) == 1
    assert isinstance(source.adoption_error, CorruptFileError)
    assert len(caplog.records) == 1
    assert "v2 cannot be opened, calls go on with v1" in caplog.text
    with pytest.raises(CorruptFileError, match=nodes_file(0, 1)):
        VersionSource(directory)
    assert platform.graph_versions("g").rollback() == 1
    assert _seed_of(source.get()) == 1
    assert source.adoption_error is None


def test_threads_see_only_whole_versions_while_others_are_built_and_swapped(platform: fd.Platform) -> None:
    build(platform, seed=1, keep=2)
    source = VersionSource(platform.graph_versions("g").directory)
    stop, seen, failures = threading.Event(), set(), []

    def read() -> None:
        try:
            while not stop.is_set():
                opened = source.get()
                ids = np.concatenate([opened.sections(nodes_file(0, p))["ids"] for p in range(opened.partitions)])
                assert len(ids) == opened.node_tables[0].count == 30 + _seed_of(opened)
                seen.add(_seed_of(opened))
                time.sleep(0.001)  # so that the builds, in this process, get on
        except Exception as exc:
            failures.append(exc)

    build(platform, seed=2, persons=32)
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(3, 9):
        build(platform, seed=seed, persons=30 + seed)
        if seed % 3 == 0:
            platform.graph_versions("g").rollback()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) > 2
    assert _maps_of(platform.directory) <= len(list(source.get().manifest.files)) + 1  # of the version in use, and the cell


def _maps_of(directory: Path) -> int:
    with open("/proc/self/maps", encoding="utf-8") as file:
        return sum(f"{directory}/graphs/" in line for line in file)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_follows_on_its_own_even_if_the_parent_was_opening(platform: fd.Platform) -> None:
    build(platform, seed=1)
    source = VersionSource(platform.graph_versions("g").directory)
    with source._lock:  # as another thread would that opens a version
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        build(platform, seed=2)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if _seed_of(source.get()) == 2 else 1)
    assert os.waitpid(pid, 0)[1] == 0


# -- faults -----------------------------------------------------------------------------------------------------------------------------


class _Children:
    """The process of `build_child.py`."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(CHILD.parent.parent)}
        self.process = subprocess.Popen([sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @contextlib.contextmanager
    def child(self, directory: Path, moment: str, seed: int = 2) -> Iterator[None]:
        """While the block runs, a process that builds is at that moment ("none": it is at work); then it is killed."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(directory), moment, seed]) + "\n")
        self.process.stdin.flush()
        pid = int(self.hear())
        try:
            if moment != "none":
                assert self.hear() == moment
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while self.hear() != "ended":
                pass


@pytest.fixture(scope="module")
def children() -> Iterator[_Children]:
    started = _Children()
    yield started
    started.process.kill()
    started.process.communicate()


BEFORE_COMMIT = ["before any file", "between files", "before the manifest", "before the rename", "inside the commit"]
AFTER_COMMIT = ["before the cell", "before old files go"]


@pytest.mark.parametrize("moment", BEFORE_COMMIT + AFTER_COMMIT)
def test_a_builder_killed_at_any_moment_leaves_whole_versions_only(children: _Children, tmp_path: Path, moment: str) -> None:
    with fd.open(tmp_path) as platform:
        build(platform, seed=1, keep=1)
    with children.child(tmp_path, moment), fd.open(tmp_path) as platform:  # it is alive: nothing of it is taken for debris
        assert _seed_of(VersionSource(tmp_path / "graphs" / "g").get()) == (2 if moment == "before old files go" else 1)
    with fd.open(tmp_path) as platform:
        _check_whole(platform, 1 if moment in BEFORE_COMMIT else 2)
        states = [str(version.state) for version in platform.graph_versions("g").versions(all=True)]
        assert states == (["CURRENT", "FAILED"] if moment in BEFORE_COMMIT else ["RETIRED", "CURRENT"])
        build(platform, seed=3)
        _check_whole(platform, 3)


@pytest.mark.parametrize("moment", ["between files", "inside the commit"])
def test_a_builder_killed_while_it_builds_the_first_version_leaves_no_graph(children: _Children, tmp_path: Path, moment: str) -> None:
    with children.child(tmp_path, moment), fd.open(tmp_path) as platform:
        assert platform.graphs() == []
    with fd.open(tmp_path) as platform:
        assert platform.graphs() == []
        assert os.listdir(tmp_path / "graphs") == []
        build(platform, seed=1)
        _check_whole(platform, 1)


@pytest.mark.parametrize("moment", ["delete: inside the commit", "delete: before the cell", "delete: before the files go"])
def test_a_deletion_cut_short_happened_or_did_not(children: _Children, tmp_path: Path, moment: str) -> None:
    with fd.open(tmp_path) as platform:
        build(platform, seed=1)
    with children.child(tmp_path, moment):
        pass
    with fd.open(tmp_path) as platform:
        if moment == "delete: inside the commit":
            _check_whole(platform, 1)
        else:
            assert platform.graphs() == []
            assert os.listdir(tmp_path / "graphs") == []


@pytest.mark.slow
def test_a_builder_killed_at_random_leaves_whole_versions_only(children: _Children, tmp_path: Path) -> None:
    chance = random.Random(20261201)
    with fd.open(tmp_path) as platform:
        build(platform, seed=1)
    current, span = 1, 0.3
    for trial in range(15):
        with children.child(tmp_path, "none", seed=100 + trial):
            time.sleep(chance.uniform(0, span))  # not to wait for something: this is the moment of the fault
        with fd.open(tmp_path) as platform:
            done = platform.graph_versions("g").manifest().built_from["seed"] == 100 + trial
            current, span = (100 + trial, span * 0.9) if done else (current, span * 1.1)
            _check_whole(platform, current)


def test_after_a_builder_died_another_build_goes_on_at_once_in_a_platform_that_is_open(children: _Children, tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        build(platform, seed=1)
        with children.child(tmp_path, "between files"):
            pass
        assert build(platform, seed=3).version == 3
        _check_whole(platform, 3)
        assert platform.graph_versions("g").versions(all=True)[1].error == "ProcessDied: " + str(_died(platform))


def _died(platform: fd.Platform) -> str:
    with platform.catalog.read() as connection:
        version = graphs.GENERATIONS.find(connection, platform._graphs.get("g").id, 2)
    assert version is not None
    return f"process {version.pid} ended before the build did"


def test_a_cell_that_was_lost_or_cut_is_made_again(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        build(platform, seed=1)
    cell = tmp_path / "graphs" / "g" / "CURRENT"
    for damage in (cell.unlink, lambda: cell.write_bytes(b"\1")):
        damage()
        with fd.open(tmp_path) as platform:
            _check_whole(platform, 1)


def test_a_full_disk_fails_the_build_and_keeps_the_current_version(tmp_path: Path) -> None:
    with _small_disk(tmp_path) as disk, fd.open(disk) as platform:
        build(platform, seed=1)
        for big in (_streamed, _reserved):
            with pytest.raises(DiskFullError, match="no space left"):
                platform._graphs.build("g", None, lambda context, big=big: run_build(context, big))  # type: ignore[misc]
            _check_whole(platform, 1)
            assert (platform.graph_versions("g").versions(all=True)[-1].error or "").startswith("DiskFullError")
        build(platform, seed=2)
        _check_whole(platform, 2)


def _streamed(directory: Path) -> Any:
    with SectionWriter(directory / nodes_file(0, 0)) as writer:
        writer.begin("hashes", np.uint64)
        for _ in range(40):
            writer.append(np.ones(1 << 17, np.uint64))


def _reserved(directory: Path) -> Any:
    with SectionWriter(directory / nodes_file(0, 0)) as writer:
        writer.reserve("hashes", np.uint64, 5 << 20)[:] = 1  # touching what the disk has not would be a signal


@contextlib.contextmanager
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_lock_held_by_a_recovery_is_waited_for(platform: fd.Platform) -> None:
    build(platform, seed=1)
    lock = FileLock(platform._graphs.get("g").layout.build_lock)
    lock.acquire()
    timer = threading.Timer(0.2, lock.release)
    timer.start()
    build(platform, seed=2)
    timer.join()
    _check_whole(platform, 2)


def test_the_schema_that_was_built_is_the_one_that_is_read(platform: fd.Platform) -> None:
    build(platform)
    assert platform.graph_versions("g").manifest().schema == SCHEMA
    described = platform.graph_versions("g").describe()
    assert (described["current"], described["keep"], described["versions"]) == (1, 2, [1])
    with pytest.raises(VersionNotFoundError, match="no version 9; available: 1"):
        platform.graph_versions("g").manifest(9)


# -- the handle of a platform -------------------------------------------------------------------------------------------------------------


def _nodes(count: int, first: int = 0) -> pa.Table:
    ids = np.arange(first, first + count)
    return pa.table({"id": ids, "x": ids.astype(np.float32)})


def _edges(count: int, nodes: int, seed: int = 1) -> pa.Table:
    chance = np.random.default_rng(seed)
    return pa.table({"src": chance.integers(nodes, size=count), "dst": chance.integers(nodes, size=count)})


KEY = ("a", "r", "a")


def test_a_handle_follows_what_is_current_and_a_pinned_one_stays(platform: fd.Platform) -> None:
    for count in (10, 20):
        platform.build_graph("g", nodes={"a": _nodes(count)}, edges={KEY: _edges(50, count)}, progress=False)
    with platform.graph("g") as graph, platform.graph("g", version=1) as pinned:
        assert (graph.version, graph.node_count("a"), pinned.node_count("a")) == (2, 20, 10)
        assert graph.rollback() == 1
        assert (graph.current, graph.version, graph.node_count("a")) == (1, 1, 10)
        assert graph.sample([1, 2], [3]).version == 1
        graph.swap(2)
        assert graph.sample([1, 2], [3]).version == 2
        assert pinned.version == 1
    with pytest.raises(StateError, match="graph 'g' was closed here"):
        graph.sample([1], [1])
    with pytest.raises(VersionNotFoundError, match="graph 'g' has no version 7; available: 1, 2"):
        platform.graph("g", version=7)


def test_an_update_builds_on_the_current_version_and_shares_its_files(platform: fd.Platform) -> None:
    platform.build_graph("g", nodes={"a": _nodes(100)}, edges={KEY: _edges(300, 100)}, partitions=4, progress=False)
    with platform.graph("g") as graph:
        before = graph.neighbor_counts([7])[0]
        report = graph.update(add_edges={KEY: pa.table({"src": [7], "dst": [8]})}, progress=False)
        assert (report.version, report.edges["a/r/a"], graph.version) == (2, 301, 2)
        assert graph.neighbor_counts([7])[0] == before + 1
        inodes = [{path.stat().st_ino for path in (graph.directory / "versions" / str(n)).glob("*.fgs")} for n in (1, 2)]
        assert len(inodes[0] & inodes[1]) > 4
        for number in (1, 2):  # nobody reads the shared files again because of their new links
            directory = graph.directory / "versions" / str(number)
            assert all(stamp_of(path.stat()) == read_stamps(directory)[path.name] for path in directory.glob("*.fgs"))
        graph.update(add_nodes={"a": _nodes(3, first=100)}, progress=False)
        assert graph.node_count("a") == 103
        assert [version.version for version in graph.versions()] == [2, 3]
        directory = graph.directory / "versions" / "3"
        assert all(stamp_of(path.stat()) == read_stamps(directory)[path.name] for path in directory.glob("*.fgs"))
        platform.graph_versions("g").rollback()
        assert graph.node_count("a") == 100


def test_an_update_that_was_overtaken_is_refused(platform: fd.Platform) -> None:
    with pytest.raises(GraphNotFoundError):
        platform.graph("g")
    build(platform, seed=1, swap=False)
    versions = platform.graph_versions("g")
    with pytest.raises(NoCurrentVersionError, match="graph 'g' has no current version yet"):
        versions.update(add_edges={})
    versions.swap(1)
    lock = FileLock(platform._graphs.get("g").layout.build_lock)
    lock.acquire()
    build_behind_the_lock = threading.Timer(0.3, lock.release)
    with pytest.MonkeyPatch.context() as patch:
        numbers = iter([1, 9])
        patch.setattr(GraphVersions, "current", property(lambda _: next(numbers, 9)))
        build_behind_the_lock.start()
        with pytest.raises(StateError, match="v9 of graph 'g' became current while an update of v1 began"):
            versions.update(add_edges={})
    build_behind_the_lock.join()


def test_a_pickled_handle_answers_where_it_arrives_and_opens_the_catalog_only_when_asked_about_versions(platform: fd.Platform) -> None:
    platform.build_graph("g", nodes={"a": _nodes(10)}, edges={KEY: _edges(50, 10)}, progress=False)
    with platform.graph("g") as graph, pickle.loads(pickle.dumps(graph)) as again:
        assert again.sample([1, 2], [3]).nodes.tolist() == graph.sample([1, 2], [3]).nodes.tolist()
        assert again._home._opened is None
        assert again.current == 1
        assert [version.version for version in again.versions()] == [1]


def test_a_feature_bound_to_a_store_has_the_type_of_its_field_and_its_newest_values(platform: fd.Platform) -> None:
    fields = [
        pa.field("v", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("n", pa.int32()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("list", pa.list_(pa.int64()), nullable=False),
    ]
    store = platform.create_store("emb", value=pa.schema(fields))
    row = {"v": [1.0, 2.0, 3.0, 4.0], "n": 5, "text": "five", "list": [1]}
    store.push(pa.Table.from_pylist([{"key": 1, **row}], schema=pa.schema([pa.field("key", pa.int64()), *fields])))

    def bound(field: str, store_name: str = "emb") -> Any:
        return fd.graph.Nodes(_nodes(3), features={"f": fd.graph.StoreFeature(store_name, field)})

    for field, dtype, shape in (("v", "float32", (4,)), ("n", "int32", ()), ("text", "", ())):
        platform.build_graph("g", nodes={"a": bound(field)}, edges={KEY: _edges(5, 3)}, progress=False)
        feature = platform.graph_versions("g").manifest().schema.node("a").feature("f")
        assert (feature.kind, feature.dtype, feature.shape) == ("store", dtype, shape)
    with pytest.raises(InputError, match="field 'list' of store 'emb' cannot be a feature"):
        platform.build_graph("g", nodes={"a": bound("list")}, edges={KEY: _edges(5, 3)}, progress=False)
    with pytest.raises(FieldNotFoundError, match="no field 'vv' in store 'emb'"):
        platform.build_graph("g", nodes={"a": bound("vv")}, edges={KEY: _edges(5, 3)}, progress=False)
    with pytest.raises(StoreNotFoundError, match="did you mean 'emb'"):
        platform.build_graph("g", nodes={"a": bound("v", "emd")}, edges={KEY: _edges(5, 3)}, progress=False)
    platform.build_graph("g", nodes={"a": bound("v")}, edges={KEY: _edges(5, 3)}, progress=False)
    with platform.graph("g") as graph, store.writer("job") as writer:
        assert graph.features([1], ["f"])["f"].tolist() == [[1, 2, 3, 4]]
        writer.put(1, row | {"v": [9.0, 9.0, 9.0, 9.0]})
        writer.flush()
        deadline = time.monotonic() + 30
        while graph.features([1], ["f"])["f"].tolist() != [[9, 9, 9, 9]]:
            assert time.monotonic() < deadline, "the write did not become readable"


def test_a_long_build_says_how_far_it_is_and_a_quiet_one_nothing(
    platform: fd.Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pacing, "LINE_INTERVAL_S", 0.0)
    platform.build_graph("g", nodes={"a": _nodes(10)}, edges={KEY: _edges(50, 10)}, progress=False)
    assert capsys.readouterr().err == ""
    platform.build_graph("g", nodes={"a": _nodes(10)}, edges={KEY: _edges(50, 10)})
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all(re.fullmatch(r"build g: [\d,]+ \w.*", line) for line in said)


def test_names_of_graphs_load_neither_numba_nor_torch() -> None:
    code = (
        "import sys, fondaco as fd; fd.graph.GraphSchema; fd.graph.Nodes; fd.graph.BuildReport; fd.graph.StoreFeature\n"
        "print([name for name in ('numba', 'torch', 'sqlalchemy', 'duckdb', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_versions_can_be_listed_and_swapped_without_numba(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        for seed in (1, 2):
            build(platform, seed=seed)
    code = (
        f"import sys, fondaco as fd; p = fd.open({str(tmp_path)!r}); v = p.graph_versions('g'); v.rollback(); v.describe(); p.close()\n"
        "print(v.name, 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "g False"


@pytest.mark.parametrize("name", fd.graph.__all__)
def test_every_public_name_is_there(name: str) -> None:
    if name in ("torch", "pyg"):
        pytest.importorskip({"torch": "torch", "pyg": "torch_geometric"}[name])
    assert getattr(fd.graph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Graf'"):
        _ = fd.graph.Graf
