"""The catalog in SQLite: opened, migrated, shared between processes, refused when it should be. The rest: test_contract."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from fondaco.catalog import CATALOG_FILE, Catalog, pushes, stores, tables
from fondaco.catalog.catalog import HEAD_REVISION
from fondaco.core.errors import CorruptFileError, FormatVersionError, ReadOnlyError, StorageError


def _create(catalog: Catalog, name: str = "members") -> None:
    with catalog.write() as connection:
        stores.create(connection, name, key_schema='"long"', value_schema='{"type":"record"}', settings={"keep": 2}, now_us=1)


def test_a_new_catalog_is_at_the_newest_revision_and_uses_a_write_ahead_log(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with sqlite3.connect(tmp_path / CATALOG_FILE) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD_REVISION,)]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_the_newest_migration_is_the_one_this_code_expects() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(tables.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD_REVISION]


def test_an_up_to_date_catalog_opens_without_importing_alembic(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    program = """if True:
        import pathlib, sys
        from fondaco.catalog import Catalog
        Catalog.open(pathlib.Path(sys.argv[1])).close()
        print("alembic" in sys.modules)"""
    answer = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_catalog_of_a_newer_fondaco_is_refused_and_left_alone(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with sqlite3.connect(tmp_path / CATALOG_FILE) as database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    database.close()
    before = (tmp_path / CATALOG_FILE).read_bytes()
    with pytest.raises(FormatVersionError, match=rf"format 99; this Fondaco reads up to {int(HEAD_REVISION)}"):
        Catalog.open(tmp_path)
    assert (tmp_path / CATALOG_FILE).read_bytes() == before


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / CATALOG_FILE).write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptFileError, match="catalog"):
        Catalog.open(tmp_path)


def test_a_catalog_of_an_older_fondaco_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(tables.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    engine = sa.create_engine(f"sqlite:///{tmp_path / CATALOG_FILE}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        with EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs("0001", revision)):
            script.run_env()
        connection.exec_driver_sql("INSERT INTO stores (name, key_schema, settings, created_us) VALUES ('members', '', '{}', 1)")
        connection.exec_driver_sql(
            "INSERT INTO versions (store_id, number, state, push_id, schema_number, partitions, as_of_us, created_us)"
            " VALUES (1, 1, 'CURRENT', 'p', 1, 4, 5, 6)"
        )
        connection.exec_driver_sql(
            "INSERT INTO pushes (store_id, push_id, version, state, pid, started_us, partitions) VALUES (1, 'p', 1, 'CURRENT', 9, 6, 4)"
        )
    engine.dispose()
    catalog = Catalog.open(tmp_path)
    with catalog.read() as connection:
        assert [(row.push_id, row.kind, row.version, row.kill_requested) for row in pushes.all_of(connection, 1)] == [
            ("p", "batch", 1, False)
        ]
        indexes = {index["name"] for index in sa.inspect(connection).get_indexes("pushes")}
    assert indexes == {"pushes_push_id"}
    catalog.close()


def test_processes_that_create_the_same_catalog_at_once_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_open_and_close, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_threads_that_create_the_same_catalog_at_once_all_succeed(tmp_path: Path) -> None:
    for trial in range(10):
        directory = tmp_path / str(trial)
        directory.mkdir()
        with ThreadPoolExecutor(4) as pool:
            for opened in [pool.submit(_open_and_close, directory) for _ in range(4)]:
                opened.result()


def _open_and_close(directory: Path) -> None:
    Catalog.open(directory).close()


def test_a_read_only_catalog_reads_and_refuses_to_write(tmp_path: Path) -> None:
    writer = Catalog.open(tmp_path)
    _create(writer)
    writer.close()
    catalog = Catalog.open(tmp_path, read_only=True)
    with catalog.read() as connection:
        assert stores.get(connection, "members").settings == {"keep": 2}
    with pytest.raises(ReadOnlyError), catalog.write():
        pass
    catalog.close()


def test_a_missing_catalog_cannot_be_opened_read_only(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        Catalog.open(tmp_path, read_only=True)
    assert os.listdir(tmp_path) == []
