"""The platform directory: made, opened, refused; stores created, found and deleted in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import (
    AlreadyExistsError,
    CorruptFileError,
    FormatVersionError,
    InputError,
    NotAPlatformError,
    SchemaError,
    StoreNotFoundError,
)

VALUE = pa.schema([pa.field("x", pa.int64())])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "data") as opened:
        yield opened


# -- the directory ------------------------------------------------------------------------------------------------------------------


def test_a_new_and_an_empty_directory_become_platforms(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "new" / "deep", tmp_path / "empty"):
        with fd.open(path) as platform:
            assert platform.stores() == []
        assert (path / "FONDACO").read_text() == '{"format":1}\n'


def test_settings_may_be_written_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "fondaco.toml").write_text("[store]\npartitions = 3\n")
    with fd.open(tmp_path) as platform:
        assert platform.create_store("s", value=VALUE).describe()["partitions"] == 3


def test_a_misspelt_setting_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "fondaco.toml").write_text("[store]\npartition = 3\n")
    with pytest.raises(InputError, match="partition"):
        fd.open(tmp_path)
    assert os.listdir(tmp_path) == ["fondaco.toml"]


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(NotAPlatformError, match=r"holds 'thesis.tex'"):
        fd.open(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(NotAPlatformError, match="it is a file"):
        fd.open(tmp_path / "thesis.tex")


def test_a_directory_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    fd.open(tmp_path).close()
    (tmp_path / "FONDACO").write_text('{"format": 2, "more": []}')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(FormatVersionError, match="format 2; this Fondaco reads up to 1"):
        fd.open(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("content", ["an inn", '{"format": 0}', '{"format": -1}', '{"format": "1"}'])
def test_a_marker_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "FONDACO").write_text(content)
    with pytest.raises(NotAPlatformError, match="not ours"):
        fd.open(tmp_path)
    assert os.listdir(tmp_path) == ["FONDACO"]


@pytest.mark.parametrize("state", ["does not exist", "is empty"])
def test_a_platform_is_not_made_where_that_was_not_asked_for(tmp_path: Path, state: str) -> None:
    path = tmp_path / "data"
    if state == "is empty":
        path.mkdir()
    with pytest.raises(NotAPlatformError, match=f"it {state}. Name one that Fondaco made"):
        fd.open(path, create=False)
    assert list(tmp_path.rglob("*")) == ([path] if state == "is empty" else [])
    fd.open(path).close()
    with fd.open(path, create=False) as platform:
        assert platform.stores() == []


@pytest.mark.parametrize(
    "path", ["/proc/x", "{file}/below", "{directory}/" + "n" * 300, "{directory}/a\0b"], ids=["proc", "file", "long", "nul"]
)
def test_a_path_that_no_directory_can_have_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotAPlatformError, match="it cannot be made"):
        fd.open(path.format(file=tmp_path / "file", directory=tmp_path))


def test_a_path_that_is_none_is_refused() -> None:
    for wrong in (5, None):
        with pytest.raises(InputError, match="named by its path, not by"):
            fd.open(wrong)  # type: ignore[arg-type]


def test_threads_that_make_the_same_platform_at_once_all_succeed(tmp_path: Path) -> None:
    for trial in range(5):
        start = threading.Barrier(6)

        def make(path: Path, start: threading.Barrier = start) -> None:
            start.wait(30)
            _make(path)

        with ThreadPoolExecutor(6) as pool:
            for made in [pool.submit(make, tmp_path / str(trial)) for _ in range(6)]:
                made.result()


def test_processes_that_make_the_same_platform_at_once_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_make, args=(tmp_path / "data",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def _make(path: Path) -> None:
    with fd.open(path) as platform:
        platform.create_store("s", value=VALUE)


def test_importing_the_package_is_quick_and_brings_in_no_engine() -> None:
    program = """if True:
        import sys, time
        began = time.perf_counter()
        import fondaco
        print(time.perf_counter() - began)
        print([name for name in ("numba", "sqlalchemy", "duckdb", "pyarrow", "numpy") if name in sys.modules])
        print(fondaco.Platform.__name__, fondaco.errors.FondacoError.__name__, "numba" in sys.modules)"""
    seconds = []
    for _ in range(5):  # the best of some, because other tests run beside this one
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
        seconds.append(float(answer[0]))
        assert answer[1:] == ["[]", "Platform FondacoError False"]
    assert min(seconds) < 0.3


def test_every_public_name_is_there() -> None:
    for name in fd.__all__:
        assert getattr(fd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        fd.opne  # noqa: B018


# -- a catalog that does not fit the stores -----------------------------------------------------------------------------------------


def _push(directory: Path, name: str = "s", x: int = 1) -> None:
    with fd.open(directory) as platform:
        platform.create_store(name, value=VALUE, partitions=1, keep=3).push({"key": [1], "x": [x]})


def _x(directory: Path, name: str = "s") -> object:
    with fd.open(directory) as platform, platform.store(name).reader() as reader:
        return reader.get(1)["x"]


def _all_files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("loss", ["missing", "empty", "without tables", "without half of its tables"])
def test_stores_whose_catalog_is_lost_are_left_alone_until_it_is_back(tmp_path: Path, loss: str) -> None:
    _push(tmp_path)
    catalog = tmp_path / "catalog.sqlite"
    kept = catalog.read_bytes()
    catalog.unlink()
    if loss == "empty":
        catalog.touch()
    elif loss != "missing":
        with contextlib.closing(sqlite3.connect(catalog)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            if loss == "without half of its tables":
                database.execute("CREATE TABLE alembic_version (version_num TEXT)")
                database.execute("INSERT INTO alembic_version VALUES ('0001')")
                database.commit()
    before = _all_files(tmp_path)
    for _ in range(2):
        with pytest.raises(CorruptFileError, match=r"section 'catalog' is damaged.*restore it from a backup") as caught:
            fd.open(tmp_path)
        assert caught.value.section == "catalog"
    assert _all_files(tmp_path) == before
    catalog.write_bytes(kept)
    assert _x(tmp_path) == 1


def test_a_platform_that_died_before_it_had_a_catalog_is_finished(tmp_path: Path) -> None:
    fd.open(tmp_path).close()
    (tmp_path / "catalog.sqlite").unlink()
    _push(tmp_path)
    assert _x(tmp_path) == 1


def test_an_older_catalog_leaves_newer_stores_and_versions_alone_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _push(tmp_path)
    older = (tmp_path / "catalog.sqlite").read_bytes()
    for x in (2, 3):
        _push(tmp_path, x=x)
    _push(tmp_path, "later")
    newer = (tmp_path / "catalog.sqlite").read_bytes()
    files = _all_files(tmp_path / "stores")
    (tmp_path / "catalog.sqlite").write_bytes(older)
    assert _x(tmp_path) == 1
    assert {path for path, content in _all_files(tmp_path / "stores").items() if files.get(path) != content} == {
        tmp_path / "stores/s/CURRENT"
    }
    assert "version 3 of store 's' is left alone" in caplog.text
    assert "stores/later is left alone" in caplog.text
    with fd.open(tmp_path) as platform:
        with pytest.raises(AlreadyExistsError, match="holds versions that the catalog does not know"):
            platform.create_store("later", value=VALUE)
        assert platform.store("s").push({"key": [1], "x": [9]}).version == 4
    assert _x(tmp_path) == 9
    (tmp_path / "catalog.sqlite").write_bytes(newer)
    assert (_x(tmp_path), _x(tmp_path, "later")) == (3, 1)


# -- stores -------------------------------------------------------------------------------------------------------------------------


def test_stores_are_listed_by_name_and_found_again(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        for name in ("b", "a"):
            platform.create_store(name, value=VALUE)
    with fd.open(tmp_path) as platform:
        assert platform.stores() == ["a", "b"]
        assert platform.store("a").name == "a"


def test_a_store_is_returned_for_any_schema_it_has_had(platform: fd.Platform) -> None:
    store = platform.create_store("s", value=VALUE)
    wider = pa.schema([*VALUE, pa.field("y", pa.string())])
    store.add_schema(wider)
    for value in (VALUE, wider):
        assert platform.create_store("s", value=value).describe()["schema_number"] == 2


def test_the_rewind_of_a_store_has_a_unit(platform: fd.Platform) -> None:
    assert platform.create_store("s", value=VALUE, rewind=timedelta(hours=36)).describe()["rewind"] == "1d12h"
    assert platform.create_store("s", value=VALUE, rewind="36h").name == "s"


def test_a_store_is_named_by_a_text(platform: fd.Platform) -> None:
    for wrong in (5, None):
        with pytest.raises(InputError, match="a store is named by a text"):
            platform.store(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a store is named by a text"):
            platform.delete_store(wrong)  # type: ignore[arg-type]


def test_an_unknown_store_is_answered_with_the_nearest_name(platform: fd.Platform) -> None:
    with pytest.raises(StoreNotFoundError, match="there is none yet"):
        platform.store("members")
    platform.create_store("members", value=VALUE)
    with pytest.raises(StoreNotFoundError, match="did you mean 'members'"):
        platform.store("membres")


def test_creating_a_store_alike_again_returns_it(platform: fd.Platform) -> None:
    first = platform.create_store("s", key="string", value=VALUE, partitions=3)
    first.push({"key": ["a"], "x": [1]})
    again = platform.create_store("s", key="string", value=VALUE)
    assert again.current == 1
    assert again.describe()["partitions"] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": "string"}, "its key is .*long.*, not .*string"),
        ({"partitions": 9}, "its partitions is 3, not 9"),
        ({"compression": "zstd"}, "its compression is 'auto', not 'zstd'"),
        ({"rewind": "1h"}, "its rewind is '1d', not '1h'"),
        ({"value": pa.schema([pa.field("y", pa.int64())])}, "its value schema.*add_schema"),
    ],
)
def test_creating_a_store_of_the_same_name_that_differs_names_the_difference(
    platform: fd.Platform, changed: dict[str, object], message: str
) -> None:
    given: dict[str, object] = {"key": "long", "value": VALUE, "partitions": 3, "rewind": "24h"}
    platform.create_store("s", **given)  # type: ignore[arg-type]
    with pytest.raises(AlreadyExistsError, match=message):
        platform.create_store("s", **{**given, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("definition", "error", "message"),
    [
        ({"name": "../up"}, InputError, "cannot name a store"),
        ({"name": "s", "partitions": 0}, InputError, "partitions must be a whole number from 1"),
        ({"name": "s", "keep": 0}, InputError, "keep counts the current version too"),
        ({"name": "s", "compression": "gzip"}, InputError, "one of auto, none, zstd, not 'gzip'"),
        ({"name": "s", "compression": ""}, InputError, "one of auto, none, zstd, not ''"),
        ({"name": "s", "rewind": "a day"}, InputError, "not a duration"),
        ({"name": "s", "rewind": ""}, InputError, "not a duration"),
        ({"name": "s", "rewind": 24}, InputError, 'a duration with its unit, as "24h", or a timedelta, not 24'),
        ({"name": "members.rt"}, InputError, "real-time topics"),
        ({"name": 5}, InputError, "5 cannot name a store"),
        ({"name": None}, InputError, "None cannot name a store"),
        ({"name": "s", "value": "long"}, SchemaError, "a record"),
        ({"name": "s", "value": None}, InputError, "needs value="),
        ({"name": "s", "key": {"type": "double?"}}, SchemaError, "double"),
    ],
)
def test_a_definition_that_cannot_work_is_refused_and_nothing_is_made(
    platform: fd.Platform, definition: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        platform.create_store(**{"value": VALUE, **definition})  # type: ignore[arg-type]
    assert platform.stores() == []
    assert os.listdir(platform.directory / "stores") == []


def test_a_deleted_store_is_gone_and_its_numbers_are_not_given_again(platform: fd.Platform) -> None:
    store = platform.create_store("s", value=VALUE)
    store.push({"key": [1], "x": [1]})
    platform.delete_store("s")
    assert platform.stores() == []
    assert os.listdir(platform.directory / "stores") == []
    with pytest.raises(StoreNotFoundError):
        platform.delete_store("s")
    assert platform.create_store("s", value=VALUE).push({"key": [1], "x": [1]}).version == 2


def test_two_platforms_on_one_directory_see_each_others_changes(tmp_path: Path) -> None:
    with fd.open(tmp_path) as one, fd.open(tmp_path) as other:
        one.create_store("s", value=VALUE).push({"key": [1], "x": [5]})
        with other.store("s").reader() as reader:
            assert reader.get(1)["x"] == 5
            one.store("s").push({"key": [1], "x": [6]})
            assert reader.get(1)["x"] == 6
