"""SQLite and PostgreSQL keep the catalog's promises alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fondaco.catalog import Catalog, quotas, runs, stores
from fondaco.core.errors import InputError, LockedError, PermissionDeniedError, ReadOnlyError, UnavailableError
from fondaco.testing.catalog import CatalogContract, OpenCatalog, create_store
from postgres_server import PostgresServer, running_server


def _opener(directory: Path, url: str | None) -> Iterator[OpenCatalog]:
    opened: list[Catalog] = []

    def open_catalog(**arguments: Any) -> Catalog:
        catalog = Catalog.open(directory, url=url, **arguments)
        opened.append(catalog)
        return catalog

    yield open_catalog
    for catalog in opened:
        catalog.close()


def _write_around(catalog: Catalog, what_happens: Callable[[], object]) -> None:
    """A transaction in whose middle something happens."""
    with catalog.write() as connection:
        quotas.set_quota(connection, "*", "*", 1, None)
        what_happens()
        quotas.set_quota(connection, "*", "*", 2, None)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as running:
        yield running


class TestSqlite(CatalogContract):
    @pytest.fixture
    def open_catalog(self, tmp_path: Path) -> Iterator[OpenCatalog]:
        yield from _opener(tmp_path, None)


class TestPostgres(CatalogContract):
    @pytest.fixture
    def open_catalog(self, tmp_path: Path, server: PostgresServer) -> Iterator[OpenCatalog]:
        yield from _opener(tmp_path, server.new_database())

    def test_a_writer_that_stops_in_the_middle_loses_the_lock(
        self, catalog: Catalog, open_catalog: OpenCatalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fondaco.catalog._postgres.IDLE_IN_TRANSACTION_S", 0.1)
        with pytest.raises(UnavailableError, match="idle-in-transaction"):
            _write_around(catalog, lambda: create_store(open_catalog()))  # it waits until the server has ended the transaction around it
        with catalog.read() as reading:
            assert quotas.all_of(reading) == []
            assert stores.find(reading, "members") is not None

    def test_platforms_in_schemas_of_one_database_do_not_wait_for_each_other(self, tmp_path: Path, server: PostgresServer) -> None:
        url = server.new_database()
        opened = []
        for schema in ("one", "two"):
            server.execute(f"CREATE SCHEMA {schema}", url)
            opened.append(Catalog.open(tmp_path, url=f"{url}?options=-csearch_path%3D{schema}"))
        create_store(opened[0])
        with opened[0].write():
            create_store(opened[1])
        for catalog in opened:
            catalog.close()


class TestPostgresFailures:
    """What cannot be had from a server, and how it is said: typed, with the database's name and without the password."""

    @pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://h", "no url:secret@", "sqlite:///x", ""])
    def test_what_is_no_url_of_postgresql_is_refused_without_repeating_it(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(InputError, match="write \\[catalog\\] url as postgresql://user@host:5432/database") as caught:
            Catalog.open(tmp_path, url=url)
        assert "secret" not in str(caught.value)

    def test_a_server_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match=r"^postgresql://127\.0\.0\.1:1/d does not answer: .*[Cc]onnection refused") as caught:
            Catalog.open(tmp_path, url="postgresql://owner:secret@127.0.0.1:1/d")
        assert "secret" not in str(caught.value)
        assert "owner" not in str(caught.value)

    def test_a_wrong_password_an_unknown_user_and_a_barred_one_are_not_permitted(self, tmp_path: Path) -> None:
        with running_server() as server:
            server.execute("CREATE ROLE bob LOGIN PASSWORD 'right'")
            server.execute("CREATE ROLE barred LOGIN")
            server.require_passwords()
            for user, password in (("bob", "secret"), ("nobody", "secret"), ("barred", "secret"), ("bob", None)):
                with pytest.raises(PermissionDeniedError, match="it needs the role 'connect' on postgresql://127") as caught:
                    Catalog.open(tmp_path, url=server.url("postgres", user=user, password=password))
                assert "secret" not in str(caught.value)

    def test_a_user_without_rights_on_the_tables_is_not_permitted(self, tmp_path: Path, server: PostgresServer) -> None:
        url = server.new_database()
        Catalog.open(tmp_path, url=url).close()
        server.execute("CREATE ROLE reader LOGIN")
        server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", url)
        catalog = Catalog.open(tmp_path, url=url.replace("owner@", "reader@"))
        with catalog.read() as connection:
            assert stores.all_live(connection) == []
        with pytest.raises(PermissionDeniedError, match="permission denied for table"):
            create_store(catalog)
        catalog.close()

    def test_a_database_without_an_encoding_holds_text_all_the_same(self, tmp_path: Path, server: PostgresServer) -> None:
        """initdb in a bare container makes such ones; drivers give bytes for text there, unless they are told."""
        url = server.new_database("TEMPLATE template0 ENCODING SQL_ASCII")
        with contextlib.closing(Catalog.open(tmp_path, url=url)) as catalog:
            with catalog.write() as connection:
                runs.begin(
                    connection, "run-1", name="Küste", command=["true"], directory="/", holder="h", pid=1, host="h", now_us=1
                )  # fmt: skip
            with catalog.read() as connection:
                assert runs.get(connection, "run-1").name == "Küste"

    def test_an_unknown_database_is_the_users_mistake(self, tmp_path: Path, server: PostgresServer) -> None:
        with pytest.raises(InputError, match='database "nowhere" does not exist; make the database'):
            Catalog.open(tmp_path, url=server.url("nowhere"))

    def test_a_standby_reads_and_refuses_to_write(self, tmp_path: Path) -> None:
        with running_server() as server:
            url = server.new_database()
            Catalog.open(tmp_path, url=url).close()
            server.stop()
            server.become_standby()
            server.start()
            catalog = Catalog.open(tmp_path, url=url)
            assert catalog.change_counter() > 0
            with pytest.raises(ReadOnlyError):
                create_store(catalog)
            catalog.close()

    def test_a_server_that_crashes_is_unavailable_and_used_again_when_it_is_back(self, tmp_path: Path) -> None:
        with running_server() as server:
            catalog = Catalog.open(tmp_path, url=server.new_database())
            create_store(catalog)
            with pytest.raises(UnavailableError):
                _write_around(catalog, lambda: server.stop(signal.SIGQUIT))
            with pytest.raises(UnavailableError), catalog.read():
                pytest.fail("nobody answers")
            server.start()
            with catalog.read() as connection:
                assert [row.name for row in stores.all_live(connection)] == ["members"]
                assert quotas.all_of(connection) == []
            catalog.close()

    def test_more_threads_than_connections_wait_for_each_other(self, tmp_path: Path, server: PostgresServer) -> None:
        from concurrent.futures import ThreadPoolExecutor

        catalog = Catalog.open(tmp_path, url=server.new_database())
        before = catalog.change_counter()
        with ThreadPoolExecutor(30) as pool:
            for done in [pool.submit(create_store, catalog, f"s{number}") for number in range(30)]:
                done.result()
        assert catalog.change_counter() == before + 30
        catalog.close()

    def test_its_text_does_not_hold_the_password(self, tmp_path: Path, server: PostgresServer) -> None:
        url = server.new_database().replace("owner@", "owner:secret@")
        catalog = Catalog.open(tmp_path, url=url)
        assert "secret" not in repr(catalog) + catalog.place
        with catalog.write(), pytest.raises(LockedError) as caught:
            raise LockedError(catalog.place)
        assert "secret" not in str(caught.value)
        catalog.close()
