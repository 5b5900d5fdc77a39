"""The thin client: its quick way answers what the general way answers, whatever the server does; it needs no numba and no SQLAlchemy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import DeadlineExceededError, InputError, ProtocolError, QuotaExceededError, UnavailableError
from fondaco.dataplane import wire
from fondaco.dataplane.thin import ThinReader
from fondaco.platform import Platform
from fondaco.schema import Codec
from live_data_plane import DataPlaneProcess
from scripted_server import CloseNow, Got, ScriptedServer, answer

SCHEMA = {"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}, {"name": "pad", "type": "string", "default": ""}]}
CODEC = Codec(SCHEMA)
THREE_ROWS = b"".join(wire.pack_rows(np.zeros(3, np.int32), np.zeros(4, np.int64), b""))


def description(**more: Any) -> bytes:
    document = {"name": "members", "key_schema": "long", "value_schemas": {"1": SCHEMA}, "version": 1, **more}
    return answer(body=msgspec.json.encode(document), Fondaco_Version="1")


def row_answer(key: int, pad: str = "", **headers: str) -> bytes:
    body = CODEC.encode({"n": key * 2, "pad": pad})
    return answer(body=body, **{"Fondaco_Version": "1", "Fondaco_Schema": "1", **headers})


def serving(handler: Callable[[Got, int], Any]) -> Callable[[Got], Any]:
    """A handler of row gets by key; the description is answered for it."""

    def handle(got: Got) -> Any:
        if "/rows/" not in got.target:
            return description()
        return handler(got, int(got.target.rpartition("/")[2]))

    return handle


def test_the_quick_way_reads_rows_in_one_piece_and_in_many() -> None:
    async def in_pieces(key: int) -> bytes:
        await asyncio.sleep(0)
        return row_answer(key, "x" * 600_000)

    with ScriptedServer(serving(lambda got, key: in_pieces(key) if key % 5 == 0 else row_answer(key))) as server:
        with ThinReader(server.url, "members") as reader:
            for key in range(30):
                row = reader.get(key)
                assert row is not None
                assert (row["n"], len(row["pad"])) == (key * 2, 600_000 if key % 5 == 0 else 0)
        assert server.connections == 1


def test_the_quick_way_tells_missing_rows_from_errors() -> None:
    missing = answer(404, b'{"found":false}', Fondaco_Version="1")
    page = answer(404, b"<html>nope</html>")
    assert len(missing) > len(page)

    def handler(got: Got, key: int) -> bytes:
        if key % 3 == 1:
            return missing
        if key == 29:
            return page
        if key == 26:
            return answer(429, wire.error_body(QuotaExceededError("me", "members", "1 row/s", 2.0)), Retry_After="2")
        return row_answer(key)

    with ScriptedServer(serving(handler)) as server, ThinReader(server.url, "members") as reader:
        for key in range(26):
            assert (reader.get(key) is None) == (key % 3 == 1)
        with pytest.raises(QuotaExceededError):
            reader.get(26)
        with pytest.raises(ProtocolError, match="status 404"):
            reader.get(29)
        assert reader.get(27) is not None


def test_the_quick_way_survives_connections_that_break_at_any_moment() -> None:
    def handler(got: Got, key: int) -> bytes:
        whole = row_answer(key)
        if got.number % 4 == 2:
            raise CloseNow(whole[: (got.number * 7) % 30] if got.number % 8 == 2 else b"")
        return whole

    with ScriptedServer(serving(handler)) as server, ThinReader(server.url, "members") as reader:
        right = 0
        for key in range(120):
            try:
                row = reader.get(key)
            except ProtocolError:  # it broke off within an answer, twice
                continue
            assert row is not None
            assert row["n"] == key * 2
            right += 1
        assert right > 80


def test_the_quick_way_keeps_the_deadline() -> None:
    async def slow(key: int) -> bytes:
        await asyncio.sleep(60)
        return row_answer(key)

    with (
        ScriptedServer(serving(lambda got, key: slow(key) if key == 7 else row_answer(key))) as server,
        ThinReader(server.url, "members", timeout_s=0.3) as reader,
    ):
        for key in range(5):
            reader.get(key)
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"not done within 0.3 s"):
            reader.get(7)
        assert time.monotonic() - began < 20
        row = reader.get(8)
        assert row is not None
        assert row["n"] == 16


def test_a_schema_that_is_new_is_looked_up() -> None:
    newer = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "more", "type": "int", "default": 5}]}  # type: ignore[misc]
    state = {"schemas": {"1": SCHEMA}}

    def handler(got: Got) -> bytes:
        if "/rows/" not in got.target:
            return description(value_schemas=state["schemas"])
        if "2" in state["schemas"]:
            return answer(body=Codec(newer).encode({"n": 1, "pad": "", "more": 9}), Fondaco_Version="2", Fondaco_Schema="2")
        return row_answer(1)

    with ScriptedServer(handler) as server, ThinReader(server.url, "members") as reader:
        assert dict(reader.get(1) or {}) == {"n": 2, "pad": ""}
        state["schemas"] = {"1": SCHEMA, "2": newer}
        assert dict(reader.get(1) or {}) == {"n": 1, "pad": "", "more": 9}
        assert dict(reader.get(1) or {}) == {"n": 1, "pad": "", "more": 9}


@pytest.mark.parametrize("body", [b"{}", b"[]", b"\xff", b'{"name": "m", "key_schema": "long", "value_schemas": {}}'])
def test_what_describes_no_store_is_a_protocol_error(body: bytes) -> None:
    with ScriptedServer(lambda got: answer(body=body)) as server, pytest.raises(ProtocolError, match="description of a store"):
        ThinReader(server.url, "members")


@pytest.mark.parametrize(
    "body",
    [b"", b"\0" * 15, b"\0" * 64, b"\xff" * 64, THREE_ROWS, THREE_ROWS * 2],
    ids=["empty", "cut", "zeros", "ones", "other count", "twice"],
)  # fmt: skip
def test_a_batch_that_is_none_is_a_protocol_error(body: bytes) -> None:
    headers = {"Fondaco_Version": "1"}

    def handler(got: Got) -> bytes:
        return answer(body=body, **headers) if got.method == "POST" else description()

    with ScriptedServer(handler) as server, ThinReader(server.url, "members") as reader:
        with pytest.raises(ProtocolError):
            reader.get_many([1, 2])
        with pytest.raises(ProtocolError):
            reader.get_columns([1, 2])
        with pytest.raises(ProtocolError):
            reader.compute([1, 2], "dot", "n", [1.0])


def test_an_error_in_the_middle_of_a_batch_is_raised() -> None:
    first = b"".join(wire.pack_rows(np.zeros(1, np.int32), np.zeros(2, np.int64), b"", last=False))
    body = first + b"".join(wire.pack_error(UnavailableError("this server", "it has no memory left")))

    def handler(got: Got) -> bytes:
        return answer(body=body, Fondaco_Version="1") if got.method == "POST" else description()

    with (
        ScriptedServer(handler) as server,
        ThinReader(server.url, "members") as reader,
        pytest.raises(UnavailableError, match="no memory left"),
    ):
        reader.get_many([1, 2])


def test_a_gateway_that_hangs_is_left_for_another() -> None:
    async def hang() -> bytes:
        await asyncio.sleep(60)
        return b""

    hung = False
    with (
        ScriptedServer(lambda got: hang() if hung else serving(lambda _, key: row_answer(key))(got)) as one,
        ScriptedServer(serving(lambda got, key: row_answer(key))) as other,
        ThinReader([one.url, other.url], "members", timeout_s=6.0) as reader,
    ):
        for key in range(40):
            assert reader.get(key) is not None
        assert one.requests
        assert len(other.requests) > 1
        hung = True
        began = time.monotonic()
        for key in range(40):
            row = reader.get(key)
            assert row is not None
            assert row["n"] == key * 2
        assert time.monotonic() - began < 10


def test_a_child_process_does_not_read_its_parent_s_answers() -> None:
    with ScriptedServer(serving(lambda got, key: row_answer(key))) as server, ThinReader(server.url, "members") as reader:
        reader.get(1)
        pid = os.fork()
        if pid == 0:
            row = reader.get(2)
            os._exit(0 if row is not None and row["n"] == 4 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        row = reader.get(3)
        assert row is not None
        assert row["n"] == 6
        assert server.connections == 2


# -- a real server ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("thin") / "platform"
    with Platform.open(path) as platform:
        fields = [pa.field("n", pa.int64(), False), pa.field("emb", pa.list_(pa.field("item", pa.float32(), False), 4), False)]
        store = platform.create_store("members", key="long", value=pa.schema(fields))
        rows = [{"key": n, "n": n, "emb": [float(n)] * 4} for n in range(100)]
        store.push(rows, progress=False)
    return path


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataPlaneProcess]:
    with DataPlaneProcess(directory) as server:
        yield server


def test_neither_numba_nor_sqlalchemy_is_imported(server: DataPlaneProcess) -> None:
    code = """
import asyncio, sys
from fondaco.dataplane.fast import AsyncFastReader, FastReader
from fondaco.dataplane.thin import AsyncThinReader, ThinReader

async def main(kind):
    async with kind(sys.argv[1], "members") as reader:
        assert (await reader.get(5))["n"] == 5
        assert (await reader.get_columns([5, 500], ["emb"]))["emb"].shape == (2, 4)

for kind in (ThinReader, FastReader):
    with kind(sys.argv[1], "members") as reader:
        assert reader.get(5)["emb"].tolist() == [5.0] * 4
        assert [row and row["n"] for row in reader.get_many([1, 500])] == [1, None]
        assert reader.get_columns([1, 500])["n"].tolist() == [1, None]
        assert reader.compute([3], "dot", "emb", [1, 1, 1, 1]).tolist() == [12.0]
for kind in (AsyncThinReader, AsyncFastReader):
    asyncio.run(main(kind))
wrong = sorted({"numba", "sqlalchemy", "duckdb", "llvmlite", "alembic"} & set(sys.modules))
assert not wrong, wrong
"""
    subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=60)


def test_a_batch_beyond_the_server_s_limit_comes_in_pieces(server: DataPlaneProcess) -> None:
    with ThinReader(server.url, "members") as reader:
        keys = np.arange(-60_000, 60_000)
        assert reader.get_columns(keys, ["n"])["n"].compressed().tolist() == list(range(100))
        assert reader.compute(keys, "dot", "emb", [1, 0, 0, 0]).compressed().tolist() == [float(n) for n in range(100)]


def test_a_hung_server_ends_with_the_deadline(server: DataPlaneProcess) -> None:
    with ThinReader(server.url, "members", timeout_s=0.5) as reader:
        reader.get(1)
        server.freeze()
        try:
            for read in (lambda: reader.get(1), lambda: reader.get_many([1]), lambda: reader.get(1)):
                began = time.monotonic()
                with pytest.raises(DeadlineExceededError):
                    read()
                assert time.monotonic() - began < 20
        finally:
            server.thaw()
        assert reader.get(1, timeout_s=30) is not None


def test_a_reader_says_where_it_reads(server: DataPlaneProcess) -> None:
    with ThinReader(server.url, "members") as reader:
        assert repr(reader) == f"ThinReader('members', {server.url})"
        with reader.at(1) as pinned:
            assert repr(pinned) == f"ThinReader('members', {server.url}, v1)"
    with pytest.raises(InputError, match="a store is named by a text"):
        ThinReader(server.url, 5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the address of a server"):
        ThinReader([], "members")
