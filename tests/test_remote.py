"""A platform over the network does what the one in a directory does, with the same names and the same errors."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from control_server import VALUE, ControlServer, rows
from fondaco.core.errors import (
    AlreadyExistsError,
    AuthenticationError,
    DuplicateKeyError,
    InputError,
    ProtocolError,
    PushNotFoundError,
    RowError,
    SchemaError,
    StateError,
    StoreNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from fondaco.platform import Platform
from fondaco.remote import RemotePlatform
from fondaco.store.report import IncrementalReport, PushReport, VersionInfo
from live_data_plane import DataPlaneProcess, TailingProcess
from scripted_server import CloseNow, ScriptedServer, answer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "platform"
    Platform.open(path).close()
    return path


@pytest.fixture(scope="module")
def node(directory: Path) -> Iterator[DataPlaneProcess]:
    with TailingProcess(directory), DataPlaneProcess(directory) as server:
        yield server


@pytest.fixture(scope="module")
def control(directory: Path, node: DataPlaneProcess) -> Iterator[ControlServer]:
    with ControlServer(directory, "--data", node.url) as server:
        yield server


@pytest.fixture
def platform(control: ControlServer) -> Iterator[RemotePlatform]:
    with RemotePlatform(control.url) as platform:
        yield platform
        for name in platform.stores():
            platform.delete_store(name)


def test_a_store_lives_its_life_over_the_network(platform: RemotePlatform, directory: Path) -> None:
    store = platform.create_store("members", key="long", value=VALUE, partitions=2, rewind="2h", keep=3)
    assert (platform.stores(), store.current, store.versions()) == (["members"], None, [])
    report = store.push(rows(1000), push_id="first", as_of=datetime(2026, 11, 21, tzinfo=UTC))
    assert isinstance(report, PushReport)
    assert (report.records, report.swapped, report.partitions, report.as_of) == (1000, True, 2, datetime(2026, 11, 21, tzinfo=UTC))
    assert store.push(rows(5), push_id="first") == report
    second = store.push(rows(10), swap=False)
    assert (store.current, second.swapped) == (report.version, False)
    assert store.swap(second.version) == second.version == store.current
    assert store.rollback() == report.version
    listed = store.versions()
    assert all(isinstance(version, VersionInfo) for version in listed)
    assert [version.version for version in listed] == [report.version, second.version]
    with Platform.open(directory) as embedded:
        assert listed == embedded.store("members").versions()
        assert list(store.pushes()) == list(embedded.store("members").pushes())
    assert next(iter(store.pushes())).push_id == "first"
    assert store.pushes().to_arrow().num_rows == 2
    store.retire(second.version)
    assert [version.version for version in store.versions()] == [report.version]
    assert store.describe()["partitions"] == 2
    assert store.key.kind == "long"
    assert store.value_schema["fields"] == VALUE["fields"]
    assert store.add_schema({**VALUE, "fields": [*VALUE["fields"], {"name": "more", "type": "int", "default": 0}]}) == 2
    assert store.repush(partitions=1).partitions == 1
    assert store.push_empty().records == 0


@pytest.mark.parametrize("tier", ["fast", "thin"])
def test_rows_are_read_and_written_through_either_tier(platform: RemotePlatform, tier: Any) -> None:
    store = platform.create_store(f"rows-{tier}", key="long", value=VALUE)
    store.push(rows(100))
    with served(platform, store.name, tier) as reader, store.writer("job") as writer:
        assert dict(reader.get(5)) == {"clicks": 35, "name": "n5"}
        position = writer.put(5, {"clicks": 1, "name": "new"})
        assert dict(reader.get(5, min_position=position)) == {"clicks": 1, "name": "new"}
        report = store.push_incremental({"key": [6], "clicks": [2]}, push_id="some")
        assert isinstance(report, IncrementalReport)
        assert dict(reader.get(6, min_position=report.positions)) == {"clicks": 2, "name": "n6"}


def served(platform: RemotePlatform, store: str, tier: Any) -> Any:
    """A reader of a store that the data plane has seen; it looks once a second."""
    until = time.monotonic() + 20
    while True:
        try:
            return platform.store(store).reader(tier)
        except StoreNotFoundError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_what_a_push_takes_travels(platform: RemotePlatform, tmp_path: Path) -> None:
    store = platform.create_store("pushed", key="long", value=VALUE, keep=9)
    path = tmp_path / "rows.csv"
    path.write_text("key,clicks,name\n1,2,x\n3,4,y\n")
    inputs: list[Any] = [
        rows(3),
        rows(3).to_batches(),
        {"key": [1, 2], "clicks": [1, 2], "name": ["a", "b"]},
        [{"key": 1, "clicks": 2, "name": "x"}, {"key": 2, "clicks": 3, "name": "y"}],
        ({"key": n, "clicks": n, "name": "z"} for n in range(2500)),
        rows(3).to_pandas(),
        str(path),
    ]
    assert [store.push(data).records for data in inputs] == [3, 3, 2, 2, 2500, 3, 2]


def test_errors_are_those_of_the_embedded_platform(platform: RemotePlatform) -> None:
    store = platform.create_store("strict", key="long", value=VALUE)
    with pytest.raises(AlreadyExistsError, match="differs"):
        platform.create_store("strict", key="string", value=VALUE)
    with pytest.raises(StoreNotFoundError, match="did you mean 'strict'"):
        platform.store("strikt")
    with pytest.raises(InputError, match="a store is named by a text"):
        platform.store(7)  # type: ignore[arg-type]
    with pytest.raises(SchemaError):
        platform.create_store("other", value={"type": "nonsense"})
    with pytest.raises(DuplicateKeyError, match="rows 0 and 1"):
        store.push({"key": [1, 1], "clicks": [1, 2], "name": ["a", "b"]})
    with pytest.raises(RowError):
        store.push(pa.table({"key": [1], "clicks": pa.array([None], pa.int64()), "name": ["x"]}))
    with pytest.raises(InputError, match="no rows"):
        store.push([])
    with pytest.raises(InputError, match="as_of"):
        store.push(rows(1), as_of="yesterday")
    with pytest.raises(VersionNotFoundError):
        store.swap(99)
    with pytest.raises(StateError):
        store.rollback()
    with pytest.raises(PushNotFoundError):
        store.kill("never")
    with pytest.raises(InputError, match='"fast" or "thin", not \'embedded\''):
        store.reader("embedded")  # type: ignore[arg-type]
    platform.delete_store("strict")
    with pytest.raises(StoreNotFoundError):
        platform.store("strict")


def test_a_node_is_read_and_written_and_says_so_of_all_else(platform: RemotePlatform, node: DataPlaneProcess) -> None:
    platform.create_store("at-node", key="long", value=VALUE).push(rows(10))
    served(platform, "at-node", "thin").close()
    with RemotePlatform(node.url) as direct:
        assert direct.stores() == ["at-node"]
        store = direct.store("at-node")
        assert store.current == platform.store("at-node").current
        assert (store.key.kind, store.value_schema["fields"]) == ("long", VALUE["fields"])
        with store.reader() as reader:
            assert dict(reader.get(1) or {}) == {"clicks": 7, "name": "n1"}
        with store.writer() as writer:
            writer.put(1, {"clicks": 1, "name": "x"})
        for steer in (store.rollback, store.versions, lambda: store.push(rows(1)), lambda: direct.create_store("x", value=VALUE)):
            with pytest.raises(InputError, match=r"is a data-plane node: it reads and writes rows\. Connect to the control API"):
                steer()


def test_a_platform_is_connected_to_where_it_is_pickled_to(platform: RemotePlatform) -> None:
    with pickle.loads(pickle.dumps(platform)) as copy:
        assert copy.url == platform.url
        assert copy.stores() == platform.stores()


def test_what_is_no_fondaco_is_not_connected_to() -> None:
    with ScriptedServer(lambda got: answer(200, b"<html>")) as other, pytest.raises(ProtocolError):
        RemotePlatform(other.url)
    with pytest.raises(UnavailableError):
        RemotePlatform("http://127.0.0.1:9")
    with pytest.raises(InputError, match="a server is named by its address"):
        RemotePlatform("somewhere")


def test_a_token_that_is_not_good_is_told_at_once(control: ControlServer) -> None:
    with pytest.raises(AuthenticationError):
        RemotePlatform(control.url, token="fdc_wrong")


def test_steering_is_not_repeated_when_its_answer_is_lost() -> None:
    def handler(got: Any) -> bytes:
        if got.method == "POST":
            raise CloseNow
        return answer(body=b'{"data": [], "version": "x"}')

    with ScriptedServer(handler) as server, RemotePlatform(server.url) as platform:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                platform.control("POST", "/v1/stores/members/rollback", again=False)
        assert sum(got.method == "POST" for got in server.requests) == 2
        with pytest.raises(UnavailableError, match="knows no data-plane node"):
            _ = platform.endpoints
