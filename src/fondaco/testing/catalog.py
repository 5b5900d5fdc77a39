"""What every catalog promises, as a suite: SQLite and PostgreSQL pass it alike.

Subclass `CatalogContract` and give the fixture `open_catalog`: a function that opens the same catalog, new for each test, once more with
each call, with the keyword arguments of `Catalog.open` (and closes them all after the test). Real databases, real processes.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection as Pipe

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from fondaco.catalog import Catalog, StoreRow, VersionState, graphs, pushes, quotas, stores, tables, tokens, versions
from fondaco.catalog.catalog import HEAD_REVISION
from fondaco.core.errors import (
    CorruptFileError,
    FormatVersionError,
    GraphNotFoundError,
    LockedError,
    ReadOnlyError,
    StateError,
    StorageError,
    VersionNotFoundError,
)

OpenCatalog = Callable[..., Catalog]

_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE_S = 60


def create_store(catalog: Catalog, name: str = "members") -> StoreRow:
    """A store without versions."""
    with catalog.write() as connection:
        return stores.create(connection, name, key_schema='"long"', value_schema="{}", settings={"keep": 2}, now_us=1)


def push_and_promote(catalog: Catalog, store_id: int) -> tuple[int, int]:
    """Allocate a version and make it current in one step; returns (version, the one that was current before)."""
    with catalog.write() as connection:
        number = versions.allocate(connection, store_id, push_id="p", schema_number=1, partitions=1, as_of_us=0, now_us=0)
        pushes.insert(connection, store_id, push_id="p", version=number, pid=1, partitions=1, built_from=None, now_us=0)
        return number, versions.promote(connection, store_id, number, now_us=0)


class CatalogContract:
    """The suite."""

    @pytest.fixture
    def open_catalog(self) -> OpenCatalog:
        """To be given by the subclass."""
        raise NotImplementedError

    @pytest.fixture
    def catalog(self, open_catalog: OpenCatalog) -> Catalog:
        """The catalog under test, opened."""
        return open_catalog()

    # -- beginning --------------------------------------------------------------------------------------------------------------------

    def test_a_new_catalog_is_at_the_newest_revision(self, catalog: Catalog) -> None:
        with catalog.read() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == HEAD_REVISION
            assert stores.all_live(connection) == []

    def test_migrations_make_exactly_the_tables_the_code_declares(self, catalog: Catalog) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with catalog.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
            assert compare_metadata(context, tables.metadata) == []

    def test_processes_that_create_it_at_once_all_succeed(self, open_catalog: OpenCatalog) -> None:
        with ThreadPoolExecutor(4) as pool:
            opened = [future.result() for future in [pool.submit(open_catalog) for _ in range(4)]]
        create_store(opened[0])
        for catalog in opened:
            with catalog.read() as connection:
                assert stores.find(connection, "members") is not None

    def test_one_of_a_newer_fondaco_is_refused(self, catalog: Catalog, open_catalog: OpenCatalog) -> None:
        with catalog.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
        with pytest.raises(FormatVersionError, match="format 99"):
            open_catalog()

    def test_one_whose_tables_are_gone_is_a_loss_where_it_must_exist(self, open_catalog: OpenCatalog) -> None:
        with pytest.raises(CorruptFileError, match="only it knows what the stores hold"):
            open_catalog(must_exist=True)

    def test_one_that_is_not_there_cannot_be_opened_read_only(self, open_catalog: OpenCatalog) -> None:
        with pytest.raises(StorageError):
            open_catalog(read_only=True)

    # -- transactions -----------------------------------------------------------------------------------------------------------------

    def test_a_failed_transaction_leaves_nothing(self, catalog: Catalog) -> None:
        statement = sa.insert(tables.stores).values(name="x", key_schema="", settings="{}", created_us=1)
        with pytest.raises(ZeroDivisionError), catalog.write() as connection:
            _ = connection.execute(statement).rowcount / 0
        with catalog.read() as connection:
            assert stores.all_live(connection) == []

    def test_a_reader_sees_one_state_while_a_writer_commits(self, catalog: Catalog) -> None:
        with catalog.read() as reading:
            assert stores.all_live(reading) == []
            create_store(catalog)
            assert stores.all_live(reading) == []
        with catalog.read() as reading:
            assert [row.name for row in stores.all_live(reading)] == ["members"]

    def test_a_second_writer_waits_for_the_first_and_sees_what_it_did(self, catalog: Catalog, open_catalog: OpenCatalog) -> None:
        store, other = create_store(catalog), open_catalog()
        started = threading.Event()

        def second() -> tuple[int, int]:
            started.set()
            return push_and_promote(other, store.id)

        with ThreadPoolExecutor(1) as pool:
            with catalog.write() as connection:
                future = pool.submit(second)
                assert started.wait(_PATIENCE_S)
                versions.allocate(connection, store.id, push_id="p", schema_number=1, partitions=1, as_of_us=0, now_us=0)
                versions.promote(connection, store.id, 1, now_us=0)
                assert not future.done()
            assert future.result(_PATIENCE_S) == (2, 1)

    def test_a_writer_that_waits_too_long_is_told_that_the_catalog_is_locked(
        self, catalog: Catalog, open_catalog: OpenCatalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fondaco.catalog._sqlite.BUSY_TIMEOUT_S", 0.05)
        monkeypatch.setattr("fondaco.catalog._postgres.BUSY_TIMEOUT_S", 0.05)
        other = open_catalog()
        with catalog.write(), pytest.raises(LockedError), other.write():
            pytest.fail("two writers at once")
        create_store(other)  # and it goes on afterwards

    def test_a_reader_does_not_wait_for_a_writer(self, catalog: Catalog, open_catalog: OpenCatalog) -> None:
        other = open_catalog()
        with catalog.write() as connection:
            stores.create(connection, "members", key_schema="", value_schema="{}", settings={}, now_us=1)
            with other.read() as reading:
                assert stores.all_live(reading) == []

    def test_a_writer_killed_in_the_middle_leaves_nothing_and_lets_the_next_one_in(self, catalog: Catalog) -> None:
        store = create_store(catalog)
        ours, theirs = _SPAWN.Pipe()
        writer = _SPAWN.Process(target=_write_and_hang, args=(catalog, store.id, theirs))
        writer.start()
        assert ours.poll(_PATIENCE_S)
        ours.recv()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(_PATIENCE_S)
        writer.close()
        for pipe in (ours, theirs):
            pipe.close()
        assert push_and_promote(catalog, store.id) == (1, 0)

    # -- versions ---------------------------------------------------------------------------------------------------------------------

    def test_swaps_of_concurrent_processes_happen_one_after_the_other(self, catalog: Catalog) -> None:
        store = create_store(catalog)
        ours, theirs = _SPAWN.Pipe()
        workers = [_SPAWN.Process(target=_promote_often, args=(catalog, store.id, 25, theirs)) for _ in range(3)]
        for worker in workers:
            worker.start()
        steps = []
        for _ in workers:
            assert ours.poll(_PATIENCE_S)
            steps += ours.recv()
        for worker in workers:
            worker.join(_PATIENCE_S)
            assert worker.exitcode == 0
            worker.close()
        for pipe in (ours, theirs):
            pipe.close()
        assert sorted(steps) == [(number, number - 1) for number in range(1, 76)]
        with catalog.read() as connection:
            assert versions.current(connection, store.id) == 75
            states = [row.state for row in versions.all_of(connection, store.id)]
        assert states == [VersionState.BACKUP] * 74 + [VersionState.CURRENT]

    def test_a_version_number_is_never_given_again(self, catalog: Catalog) -> None:
        first = create_store(catalog)
        assert push_and_promote(catalog, first.id) == (1, 0)
        with pytest.raises(ZeroDivisionError), catalog.write() as connection:
            versions.allocate(connection, first.id, push_id="p", schema_number=1, partitions=1, as_of_us=0, now_us=1 // 0)
        assert push_and_promote(catalog, first.id) == (2, 1)
        with catalog.write() as connection:
            stores.delete(connection, first.id, now_us=9)
        second = create_store(catalog)
        assert second.id != first.id
        assert push_and_promote(catalog, second.id) == (3, 0)

    def test_two_live_stores_cannot_share_a_name(self, catalog: Catalog) -> None:
        create_store(catalog)
        with pytest.raises(IntegrityError):
            create_store(catalog)
        with catalog.read() as connection:
            assert len(stores.all_live(connection)) == 1

    def test_graphs_have_versions_by_the_rules_of_stores(self, catalog: Catalog) -> None:
        with catalog.write() as connection:
            graph = graphs.create(connection, "routes", keep=2, now_us=1)
            numbers = [graphs.GENERATIONS.allocate(connection, graph.id, build_id="b", pid=1, created_us=1) for _ in range(3)]
            assert numbers == [1, 2, 3]
            assert (graphs.names(connection), [row.name for row in graphs.all_live(connection)]) == ([], ["routes"])
            for number in numbers[:2]:
                graphs.GENERATIONS.promote(connection, graph.id, number, now_us=5)
        with catalog.read() as connection:
            assert graphs.get(connection, "routes").current == 2
            assert [row.number for row in graphs.at_work(connection, graph.id)] == [3]
            states = [(row.number, row.state) for row in graphs.GENERATIONS.retained(connection, graph.id)]
            assert states == [(1, VersionState.BACKUP), (2, VersionState.CURRENT)]
            with pytest.raises(VersionNotFoundError, match="graph 'routes' has no version 3; available: 1, 2"):
                graphs.GENERATIONS.get_retained(connection, graph.id, "routes", 3)
            with pytest.raises(GraphNotFoundError, match="no graph 'route'; did you mean 'routes'"):
                graphs.get(connection, "route")

    def test_a_version_number_of_a_deleted_graph_is_never_given_again(self, catalog: Catalog) -> None:
        with catalog.write() as connection:
            first = graphs.create(connection, "routes", keep=2, now_us=1)
            graphs.GENERATIONS.allocate(connection, first.id, build_id="b", pid=1, created_us=1)
            graphs.GENERATIONS.promote(connection, first.id, 1, now_us=5)
            graphs.delete(connection, first.id, now_us=6)
        with catalog.write() as connection:
            assert graphs.names(connection) == []
            with pytest.raises(GraphNotFoundError):
                graphs.check_live(connection, first)
            second = graphs.create(connection, "routes", keep=3, now_us=7)
            assert graphs.GENERATIONS.allocate(connection, second.id, build_id="b", pid=1, created_us=1) == 2
            assert [row.state for row in graphs.GENERATIONS.all_of(connection, first.id)] == [VersionState.RETIRED]
        with pytest.raises(IntegrityError), catalog.write() as connection:
            graphs.create(connection, "routes", keep=2, now_us=1)

    def test_a_push_of_a_version_that_does_not_exist_cannot_be_entered(self, catalog: Catalog) -> None:
        store = create_store(catalog)
        with pytest.raises(IntegrityError), catalog.write() as connection:
            pushes.insert(connection, store.id, push_id="p", version=9, pid=1, partitions=1, built_from=None, now_us=0)

    def test_flags_and_large_numbers_come_back_as_they_went(self, catalog: Catalog) -> None:
        store = create_store(catalog)
        number, _ = push_and_promote(catalog, store.id)
        with catalog.write() as connection:
            pushes.update(connection, store.id, number, kill_requested=True, bytes=1 << 50, steps={"write": 0.1})
            row = pushes.all_of(connection, store.id)[0]
        assert (row.kill_requested, row.bytes, row.steps, row.state) == (True, 1 << 50, {"write": 0.1}, VersionState.CURRENT)

    def test_one_good_token_has_a_name_and_many_revoked_ones_may(self, catalog: Catalog) -> None:
        with catalog.write() as connection:
            for moment in range(3):
                _, secret = tokens.create(connection, "trainer", {"*": "read"}, None, moment)
                tokens.revoke(connection, "trainer", now_us=moment)
            assert tokens.find_by_secret(connection, secret) is not None
        two = [{"name": "trainer", "secret_hash": hash_, "roles": "{}", "created_us": 1} for hash_ in ("a", "b")]
        with pytest.raises(IntegrityError), catalog.write() as connection:
            connection.execute(tables.tokens.insert(), two)

    # -- the counter ------------------------------------------------------------------------------------------------------------------

    def test_the_counter_grows_with_every_change_and_is_one_for_all(self, catalog: Catalog, open_catalog: OpenCatalog) -> None:
        other, before = open_catalog(), catalog.change_counter()
        with catalog.write() as connection:
            stores.all_live(connection)
        with catalog.write(quiet=True) as connection:
            quotas.set_quota(connection, "*", "*", 1, None)
        assert other.change_counter() == before
        with catalog.write() as connection:
            quotas.set_quota(connection, "*", "*", 2, None)
        assert other.change_counter() == before + 1

    # -- handles ----------------------------------------------------------------------------------------------------------------------

    def test_one_that_is_read_only_reads_what_a_living_writer_commits_and_refuses_to_write(
        self, catalog: Catalog, open_catalog: OpenCatalog
    ) -> None:
        reading = open_catalog(read_only=True)
        create_store(catalog)
        with reading.read() as connection:
            assert stores.get(connection, "members").settings == {"keep": 2}
        with pytest.raises(ReadOnlyError), reading.write():
            pytest.fail("it may not be written")

    def test_it_can_be_pickled_and_is_opened_again_where_it_arrives(self, catalog: Catalog) -> None:
        create_store(catalog)
        arrived = pickle.loads(pickle.dumps(catalog))
        with arrived.read() as connection:
            assert stores.find(connection, "members") is not None
        arrived.close()

    def test_one_that_is_closed_says_so(self, catalog: Catalog) -> None:
        catalog.close()
        catalog.close()
        with pytest.raises(StateError, match="is closed; open it again"), catalog.read():
            pytest.fail("it is closed")
        with pytest.raises(StateError, match="is closed; open it again"):
            pickle.dumps(catalog)


def _write_and_hang(catalog: Catalog, store_id: int, pipe: Pipe) -> None:
    with catalog.write() as connection:
        versions.allocate(connection, store_id, push_id="p", schema_number=1, partitions=1, as_of_us=0, now_us=0)
        pipe.send("in the middle")
        threading.Event().wait()


def _promote_often(catalog: Catalog, store_id: int, times: int, pipe: Pipe) -> None:
    pipe.send([push_and_promote(catalog, store_id) for _ in range(times)])
    catalog.close()
