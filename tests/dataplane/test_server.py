"""A server process answers every route as it says, and refuses with a typed error what it cannot do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from data_server import DataServer, ask
from fondaco.dataplane import wire
from fondaco.schema import Codec
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writes import batch_of
from waiting import wait_for

ROWS = 5_000
DIM = 8
ARRAY = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "data", "type": "bytes"},
        {"name": "ratio", "type": "double"},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "maybe", "type": ["null", "long"], "default": None},
        {"name": "inner", "type": {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "float"}]}},
    ],
}
EVERYTHING = {
    "flag": True, "data": "AAH/", "ratio": "NaN", "day": "2026-11-21", "at": "2026-11-21T08:00:00.000001Z", "price": "12.50",
    "tags": ["a", "ü"], "counts": {"n": 9007199254740993}, "maybe": None, "inner": {"x": 0.5},
}  # fmt: skip


def members(rows: int = ROWS) -> pa.Table:
    numbers = np.arange(rows)
    vectors = np.random.default_rng(7).random((rows, DIM)).astype(np.float32)
    return pa.table(
        {
            "key": numbers,
            "clicks": numbers * 3,
            "name": [f"member {i}" for i in numbers],
            "score": pa.array([None if i % 10 == 0 else i / 2 for i in numbers], pa.float64()),
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        }
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("platform")
    table = members()
    with fd.open(directory) as platform:
        store = platform.create_store("members", key="long", value=pa.schema(list(table.schema)[1:]), partitions=3)
        store.push(table, progress=False)
        texts = platform.create_store("texts", key="string", value=pa.schema([("v", pa.int64())]), partitions=2)
        texts.push(pa.table({"key": ["a", "b/c", "ü ?", "42", ".."], "v": [1, 2, 3, 4, 5]}), progress=False)
        blobs = platform.create_store("blobs", key="bytes", value=pa.schema([("v", pa.int64())]), partitions=2)
        blobs.push(pa.table({"key": [b"\x00\xff", b""], "v": [1, 2]}), progress=False)
        pairs = platform.create_store("pairs", key=pa.schema([("a", pa.int32()), ("b", pa.string())]), value=pa.schema([("v", pa.int64())]))
        pairs.push(pa.table({"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"], "v": [1, 2]}), progress=False)
        platform.create_store("empty", key="long", value=pa.schema([("v", pa.int64())]))
        platform.create_store("everything", key="int", value=ARRAY, partitions=2)
        platform.create_store("written", key="long", value=pa.schema([("v", pa.int64())]), partitions=4)
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataServer]:
    with DataServer(directory) as server:
        yield server


def packed(keys: list[int]) -> bytes:
    encode = Codec('{"type": "record", "name": "K", "fields": [{"name": "k", "type": "long"}]}').encode
    return wire.pack_key_list([encode({"k": key}) for key in keys])


def blocks(body: bytes) -> list[wire.Block]:
    splitter = wire.BlockSplitter()
    found = list(splitter.feed(body))
    assert splitter.complete
    return found


# -- what there is --------------------------------------------------------------------------------------------------------------------


def test_a_ready_server_says_so(server: DataServer) -> None:
    assert server.ask("GET", "/healthz").json() == {"healthy": True}
    assert server.ask("GET", "/readyz").json() == {"ready": True, "stores": 7}


def test_stores_are_listed_with_their_versions(server: DataServer) -> None:
    listed = {store["name"]: store["version"] for store in server.ask("GET", "/v1/stores").json()["stores"]}
    assert listed["members"] == 1
    assert set(listed) == {"members", "texts", "blobs", "pairs", "empty", "everything", "written"}


def test_a_store_is_described(server: DataServer) -> None:
    reply = server.ask("GET", "/v1/stores/members")
    described = reply.json()
    assert described["key_schema"]["type"] == "long"
    assert [field["name"] for field in described["value_schemas"]["1"]["fields"]] == ["clicks", "name", "score", "emb"]
    assert (described["version"], described["partitions"], described["records"]) == (1, 3, ROWS)
    assert described["limits"]["batch_keys_max"] == 100_000
    assert reply.headers["fondaco-version"] == "1"


def test_a_store_without_versions_is_described_and_not_read(server: DataServer) -> None:
    assert server.ask("GET", "/v1/stores/empty").json()["version"] is None
    reply = server.ask("GET", "/v1/stores/empty/rows/1")
    assert (reply.status, reply.error) == (409, "NoCurrentVersionError")


def test_the_routing_table_names_this_server_for_every_partition(server: DataServer) -> None:
    table = server.ask("GET", "/v1/routing").json()
    assert table["stores"]["members"]["replicas"] == [[server.url]] * 3


# -- one row --------------------------------------------------------------------------------------------------------------------------


def test_a_row_comes_as_json(server: DataServer) -> None:
    row = server.ask("GET", "/v1/stores/members/rows/7").json()
    assert (row["clicks"], row["name"], row["score"], len(row["emb"])) == (21, "member 7", 3.5, DIM)


def test_a_row_comes_as_avro_in_the_schema_that_the_header_names(server: DataServer, directory: Path) -> None:
    schema = server.ask("GET", "/v1/stores/members").json()["value_schemas"]["1"]
    for extra in ({}, {"Fondaco-Request-Id": "r-1"}):  # the short way and the long way
        reply = server.ask("GET", "/v1/stores/members/rows/7", headers={"Accept": wire.AVRO, **extra})
        assert (reply.status, reply.headers["fondaco-schema"], reply.headers["fondaco-version"]) == (200, "1", "1")
        assert reply.headers.get("fondaco-request-id") == extra.get("Fondaco-Request-Id")
        assert Codec(schema).decode(reply.body)["name"] == "member 7"


@pytest.mark.parametrize("accept", [wire.JSON, wire.AVRO])
def test_a_missing_row_is_404_and_no_error(server: DataServer, accept: str) -> None:
    for key in ("-1", "99999999", str(-(1 << 63))):
        reply = server.ask("GET", f"/v1/stores/members/rows/{key}", headers={"Accept": accept})
        assert (reply.status, reply.json()) == (404, {"found": False})


@pytest.mark.parametrize(("key", "value"), [("a", 1), ("b%2Fc", 2), ("%C3%BC%20%3F", 3), ("42", 4)])
def test_text_keys_are_percent_encoded(server: DataServer, key: str, value: int) -> None:
    assert server.ask("GET", f"/v1/stores/texts/rows/{key}").json() == {"v": value}


def test_any_text_key_has_a_path(server: DataServer) -> None:
    assert server.ask("GET", wire.row_path("texts", "..")).json() == {"v": 5}
    assert server.ask("GET", wire.row_path("texts", "")).status == 404


def test_keys_that_fit_no_path_go_in_the_query(server: DataServer) -> None:
    assert server.ask("GET", "/v1/stores/pairs/rows?key=%7B%22a%22%3A1%2C%22b%22%3A%22x%22%7D").json() == {"v": 1}
    assert server.ask("GET", "/v1/stores/pairs/rows?key=%5B2%2C%22y%22%5D").json() == {"v": 2}
    assert server.ask("GET", "/v1/stores/blobs/rows?key=%22AP8%3D%22").json() == {"v": 1}
    assert server.ask("GET", wire.row_path_of_bytes("blobs", b"\x04\x00\xff")).json() == {"v": 1}
    assert server.ask("GET", wire.row_path_of_bytes("members", b"\x0e"), headers={"Accept": wire.AVRO}).status == 200


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/v1/stores/members/rows/abc", "KeyTypeError"),
        ("/v1/stores/members/rows/1.5", "KeyTypeError"),
        ("/v1/stores/members/rows/9223372036854775808", "KeyTypeError"),
        ("/v1/stores/members/rows/", "KeyTypeError"),
        ("/v1/stores/members/rows/-", "KeyTypeError"),
        ("/v1/stores/members/rows/1_0", "KeyTypeError"),
        ("/v1/stores/texts/rows/%FF", "KeyTypeError"),
        ("/v1/stores/pairs/rows/1", "KeyTypeError"),
        ("/v1/stores/members/rows?key=%22x%22", "KeyTypeError"),
        ("/v1/stores/members/rows?key=%7B", "InputError"),
        ("/v1/stores/members/rows?key=NaN", "InputError"),
        ("/v1/stores/members/rows?avro=%21", "InputError"),
        ("/v1/stores/members/rows?avro=gIA", "KeyTypeError"),
        ("/v1/stores/members/rows?avro=hAA", "KeyTypeError"),
        ("/v1/stores/blobs/rows?avro=AgAA", "KeyTypeError"),
        ("/v1/stores/members/rows", "InputError"),
        ("/v1/stores/members/rows?key=1&avro=Ag", "InputError"),
        ("/v1/stores/members/rows?key=1&key=2", "InputError"),
        ("/v1/stores/members/rows?keys=1", "InputError"),
        ("/v1/stores/members/rows/1?x=1", "InputError"),
        ("/v1/stores/%FF/rows/1", "InputError"),
    ],
)
def test_what_is_no_key_is_refused(server: DataServer, target: str, error: str) -> None:
    reply = server.ask("GET", target, headers={"Accept": wire.AVRO})
    assert (reply.status, reply.error) == (400, error), reply


# -- many rows ------------------------------------------------------------------------------------------------------------------------


def test_many_rows_come_as_json(server: DataServer) -> None:
    rows = server.ask("POST", "/v1/stores/members/rows", {"keys": [3, -5, 3]}).json()["rows"]
    assert [row and row["clicks"] for row in rows] == [9, None, 9]
    rows = server.ask("POST", "/v1/stores/members/rows", {"keys": [3, -5], "fields": ["name"]}).json()["rows"]
    assert rows == [{"name": "member 3"}, None]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 4_321])
def test_many_rows_come_as_avro_blocks(server: DataServer, count: int) -> None:
    keys = [(i * 37) % (ROWS + 500) for i in range(count)]
    reply = server.ask("POST", "/v1/stores/members/rows", packed(keys), {"Content-Type": wire.KEYS_BODY, "Accept": wire.ROWS_BODY})
    assert reply.status == 200
    codec = Codec(server.ask("GET", "/v1/stores/members").json()["value_schemas"]["1"])
    got = []
    for block in blocks(reply.body):
        rows = wire.unpack_rows(block)
        for i, number in enumerate(rows.schemas):
            got.append(codec.decode(rows.data[rows.offsets[i] : rows.offsets[i + 1]].tobytes())["clicks"] if number else None)
    assert got == [key * 3 if key < ROWS else None for key in keys]


@pytest.mark.parametrize("count", [0, 5, 2_500])
@pytest.mark.parametrize("as_json", [True, False])
def test_columns_come_as_arrow(server: DataServer, count: int, as_json: bool) -> None:
    keys = [i * 3 for i in range(count)]
    headers = {"Accept": wire.ARROW, "Content-Type": wire.JSON if as_json else wire.KEYS_BODY}
    target = wire.store_path("members", wire.COLUMNS, fields=None if as_json else ["emb", "score"])
    body = {"keys": keys, "fields": ["emb", "score"]} if as_json else packed(keys)
    reply = server.ask("POST", target, body, headers)
    table = pa.ipc.open_stream(io.BytesIO(reply.body)).read_all()
    assert table.column_names == [wire.FOUND_COLUMN, "emb", "score"]
    expected = members().slice(0, ROWS)
    found = [key < ROWS for key in keys]
    assert table[wire.FOUND_COLUMN].to_pylist() == found
    assert table["score"].to_pylist() == [expected["score"][key].as_py() if key < ROWS else None for key in keys]
    assert table["emb"].to_pylist() == [expected["emb"][key].as_py() if key < ROWS else None for key in keys]


@pytest.mark.parametrize("count", [0, 3, 2_500])
def test_columns_of_numbers_come_raw(server: DataServer, count: int) -> None:
    keys = [i * 3 for i in range(count)]
    headers = {"Accept": wire.COLUMNS_BODY, "Content-Type": wire.KEYS_BODY}
    reply = server.ask("POST", wire.store_path("members", wire.COLUMNS, fields=["emb", "clicks", "score"]), packed(keys), headers)
    got = [wire.unpack_columns(block) for block in blocks(reply.body)]
    found = np.concatenate([block.found for block in got])
    assert found.tolist() == [key < ROWS for key in keys]
    table = members()
    for number, name in enumerate(("emb", "clicks", "score")):
        for at, key in enumerate(keys[:50]):
            block, row = divmod(at, 1000)
            column = got[block].columns[number]
            expected = table[name][key].as_py() if key < ROWS else None
            if column.valid is not None and not column.valid[row]:
                assert expected is None
            else:
                assert column.values[row].tolist() == expected


def test_columns_come_as_json(server: DataServer) -> None:
    reply = server.ask("POST", "/v1/stores/members/columns", {"keys": [10, 11, -1], "fields": ["score", "name"]})
    assert reply.json() == {
        "found": [True, True, False], "columns": {"score": [None, 5.5, None], "name": ["member 10", "member 11", None]},
    }  # fmt: skip


def test_text_does_not_come_raw(server: DataServer) -> None:
    reply = server.ask("POST", "/v1/stores/members/columns", {"keys": [1], "fields": ["name"]}, {"Accept": wire.COLUMNS_BODY})
    assert (reply.status, reply.error) == (400, "InputError")


@pytest.mark.parametrize("operation", ["dot", "cosine", "euclidean", "hadamard"])
@pytest.mark.parametrize("count", [3, 2_100])
def test_similarities_equal_those_of_an_embedded_reader(server: DataServer, directory: Path, operation: str, count: int) -> None:
    keys = [i * 5 for i in range(count)]
    vector = np.linspace(-1, 1, DIM)
    with fd.open(directory) as platform, platform.store("members").reader() as reader:
        expected = reader.compute(keys, operation, "emb", vector)
    target = wire.compute_path("members", operation, "emb", vector)
    reply = server.ask("POST", target, packed(keys), {"Content-Type": wire.KEYS_BODY, "Accept": wire.SCORES_BODY})
    got = [wire.unpack_scores(block) for block in blocks(reply.body)]
    assert np.array_equal(np.concatenate([block.values for block in got]), np.ma.getdata(expected))
    mask = np.ma.getmaskarray(expected)
    assert np.array_equal(~np.concatenate([block.valid for block in got]), mask if mask.ndim == 1 else mask.all(axis=1))
    if count == 3:
        body = {"keys": keys, "operation": operation, "field": "emb", "vector": vector.tolist()}
        assert server.ask("POST", "/v1/stores/members/compute", body).json()["scores"] == expected.tolist()


@pytest.mark.parametrize("operation", ["dot", "euclidean"])
def test_the_best_of_a_large_batch_come_with_their_positions(server: DataServer, directory: Path, operation: str) -> None:
    keys = list(range(0, ROWS + 10, 2))
    vector = np.linspace(0, 1, DIM)
    with fd.open(directory) as platform, platform.store("members").reader() as reader:
        scores = reader.compute(keys, operation, "emb", vector).filled(np.inf if operation == "euclidean" else -np.inf)
    best = np.argsort(scores if operation == "euclidean" else -scores, kind="stable")[:7]
    body = {"keys": keys, "operation": operation, "field": "emb", "vector": vector.tolist(), "top_k": 7}
    assert server.ask("POST", "/v1/stores/members/compute", body).json() == {"positions": best.tolist(), "scores": scores[best].tolist()}
    target = wire.compute_path("members", operation, "emb", vector, top_k=7)
    reply = server.ask("POST", target, packed(keys), {"Content-Type": wire.KEYS_BODY, "Accept": wire.SCORES_BODY})
    (block,) = blocks(reply.body)
    got = wire.unpack_scores(block)
    assert isinstance(got, wire.TopK)
    assert got.positions.tolist() == best.tolist()


@pytest.mark.parametrize(
    ("target", "body", "status", "error"),
    [
        ("members/rows", {"keys": "1"}, 400, "InputError"),
        ("members/rows", {"key": [1]}, 400, "InputError"),
        ("members/rows", {"keys": [1], "more": 1}, 400, "InputError"),
        ("members/rows", {"keys": [1, "x"]}, 400, "KeyTypeError"),
        ("members/rows", {"keys": [True]}, 400, "KeyTypeError"),
        ("members/rows", {"keys": [1], "fields": ["naem"]}, 404, "FieldNotFoundError"),
        ("members/columns", {"keys": [1], "fields": ["naem"]}, 404, "FieldNotFoundError"),
        ("members/columns", {"keys": [1], "fields": ["name", "name"]}, 400, "InputError"),
        ("members/compute", {"keys": [1], "operation": "dots", "field": "emb", "vector": [1.0] * DIM}, 400, "InputError"),
        ("members/compute", {"keys": [1], "operation": "dot", "field": "name", "vector": [1.0]}, 400, "InputError"),
        ("members/compute", {"keys": [1], "operation": "dot", "field": "nope", "vector": [1.0]}, 404, "FieldNotFoundError"),
        ("members/compute", {"keys": [1], "operation": "dot", "field": "emb", "vector": [1.0]}, 400, "InputError"),
        ("members/compute", {"keys": [1], "operation": "dot", "field": "emb", "vector": [1.0] * DIM, "top_k": 0}, 400, "InputError"),
        ("members/compute", {"keys": [1], "operation": "hadamard", "field": "emb", "vector": [1.0] * DIM, "top_k": 1}, 400, "InputError"),
        ("members/rows", {"keys": list(range(100_001))}, 413, "LimitError"),
        ("membres/rows", {"keys": [1]}, 404, "StoreNotFoundError"),
        ("members/row", {"keys": [1]}, 404, "InputError"),
        ("members", {"keys": [1]}, 405, "InputError"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_batch_that_cannot_be_answered_is_refused(server: DataServer, target: str, body: object, status: int, error: str) -> None:
    reply = server.ask("POST", f"/v1/stores/{target}", body)
    assert (reply.status, reply.error) == (status, error), reply


def test_packed_keys_that_are_none_are_refused_with_their_position(server: DataServer) -> None:
    headers = {"Content-Type": wire.KEYS_BODY}
    reply = server.ask("POST", "/v1/stores/members/rows", wire.pack_key_list([b"\x02", b"\x80\x00", b"\x04"]), headers)
    assert (reply.status, reply.error) == (400, "KeyTypeError")
    assert "position 1" in reply.json()["message"]
    reply = server.ask("POST", "/v1/stores/members/rows", packed([1, 2])[:-1], headers)
    assert (reply.status, reply.error) == (400, "InputError")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Accept": "text/html"}, 406),
        ({"Accept": "application/*;q=0"}, 406),
        ({"Fondaco-Version": "x"}, 400),
        ({"Fondaco-Version": "99"}, 404),
        ({"Fondaco-Version": "0"}, 404),
        ({"Fondaco-Version": "9" * 30}, 400),
        ({"Fondaco-Deadline-Ms": "-1"}, 400),
        ({"Fondaco-Min-Position": "1812"}, 400),
        ({"Fondaco-Request-Id": "x" * 129}, 400),
        ({"Authorization": "Basic abc"}, 401),
        ({"Authorization": "Bearer nobody"}, 401),
    ],
    ids=str,
)
def test_headers_that_cannot_be_are_refused(server: DataServer, headers: dict[str, str], status: int) -> None:
    reply = server.ask("POST", "/v1/stores/members/rows", b'{"keys": [1]}', {"Content-Type": wire.JSON, **headers})
    assert reply.status == status, reply
    assert reply.json()["message"]
    if status == 401:
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", wire.JSON),
        ("application/*", wire.JSON),
        (wire.ROWS_BODY, wire.ROWS_BODY),
        (f"{wire.JSON};q=0.1, {wire.ROWS_BODY}", wire.ROWS_BODY),
        (f"*/*;q=0.1, {wire.ROWS_BODY};q=0.5", wire.ROWS_BODY),
        (f"text/html, {wire.JSON}; charset=utf-8", wire.JSON),
    ],
)
def test_the_answer_has_the_best_accepted_type(server: DataServer, accept: str, media: str) -> None:
    reply = server.ask("POST", "/v1/stores/members/rows", {"keys": [1]}, {"Accept": accept})
    assert reply.headers["content-type"] == media


def test_unknown_routes_and_methods_are_told_what_there_is(server: DataServer) -> None:
    assert "did you mean" in server.ask("GET", "/v1/store").json()["message"]
    reply = server.ask("DELETE", "/v1/stores/members/rows/1")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert "did you mean 'members'" in server.ask("GET", "/v1/stores/membrs").json()["message"]


def test_head_says_what_get_would(server: DataServer) -> None:
    with server.connection() as connection:
        whole = ask(connection, "GET", "/v1/stores/members/rows/7")
        reply = ask(connection, "HEAD", "/v1/stores/members/rows/7")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["content-length"] == str(len(whole.body))
        assert ask(connection, "GET", "/healthz").status == 200  # the connection is still in step


def test_a_deadline_that_is_over_is_an_error(server: DataServer) -> None:
    headers = {"Fondaco-Deadline-Ms": "0", "Accept": wire.ROWS_BODY, "Content-Type": wire.KEYS_BODY}
    reply = server.ask("POST", "/v1/stores/members/rows", packed(list(range(1000)) * 90), headers)
    assert (reply.status, reply.error) == (504, "DeadlineExceededError")


# -- writes -----------------------------------------------------------------------------------------------------------------------------


def test_writes_are_read_back_at_their_position(server: DataServer, directory: Path) -> None:
    with fd.open(directory) as platform, platform.store("written").reader():  # follows the log, as the tailer's process does
        body = {"writes": [{"op": "put", "key": key, "row": {"v": key * 2}} for key in range(50)]}
        placed = server.ask("POST", "/v1/stores/written/writes", body).json()
        assert len(placed["offsets"]) == len(placed["partitions"]) == 50
        position = placed["positions"]
        for key in (0, 49):
            reply = server.ask("GET", f"/v1/stores/written/rows/{key}", headers={"Fondaco-Min-Position": position})
            assert (reply.status, reply.json()) == (200, {"v": key * 2})
            assert reply.headers["fondaco-version"] == "0"
            assert "fondaco-position" in reply.headers
        placed = server.ask("POST", "/v1/stores/written/writes", {"writes": [{"op": "delete", "key": 7}], "durability": "disk"}).json()
        assert server.ask("GET", "/v1/stores/written/rows/7", headers={"Fondaco-Min-Position": placed["positions"]}).status == 404
        assert server.ask("GET", "/v1/stores/written/rows/8").json() == {"v": 16}


def test_a_position_that_is_not_reached_is_an_error_by_the_deadline(server: DataServer) -> None:
    headers = {"Fondaco-Min-Position": "0:100000", "Fondaco-Deadline-Ms": "50"}
    reply = server.ask("GET", "/v1/stores/members/rows/1", headers=headers)
    assert (reply.status, reply.error) == (504, "DeadlineExceededError")
    assert reply.json()["retryable"] is True


def test_every_type_goes_in_and_out_as_json(server: DataServer, directory: Path) -> None:
    with fd.open(directory) as platform, platform.store("everything").reader() as reader:
        placed = server.ask("POST", "/v1/stores/everything/writes", {"writes": [{"op": "put", "key": -3, "row": EVERYTHING}]}).json()
        headers = {"Fondaco-Min-Position": placed["positions"]}
        assert server.ask("GET", "/v1/stores/everything/rows/-3", headers=headers).json() == EVERYTHING
        patch = {"op": "patch", "key": -3, "fields": {"day": "2027-01-02", "inner": {"x": 1.5}}, "add": {"tags": ["b"], "counts": {"m": 1}}}
        placed = server.ask("POST", "/v1/stores/everything/writes", {"writes": [patch]}).json()
        headers = {"Fondaco-Min-Position": placed["positions"]}
        expected = {
            **EVERYTHING, "day": "2027-01-02", "inner": {"x": 1.5}, "tags": ["a", "ü", "b"], "counts": {"n": 9007199254740993, "m": 1},
        }  # fmt: skip
        assert server.ask("GET", "/v1/stores/everything/rows/-3", headers=headers).json() == expected
        assert reader.get(-3)["tags"] == ["a", "ü", "b"]
        avro = server.ask("GET", "/v1/stores/everything/rows/-3", headers={**headers, "Accept": wire.AVRO})
        assert Codec(ARRAY).decode(avro.body)["counts"] == {"n": 9007199254740993, "m": 1}


def test_packed_writes_are_the_log_s_own_records(server: DataServer, directory: Path) -> None:
    with fd.open(directory) as platform, platform.store("written").reader() as reader:
        store = platform.store("written")
        encoder = WriteEncoder("written", store.key, [row.schema for row in store._value_schemas()][-1], 1, "packed")
        encoded = [encoder.put(key, {"v": -key}) for key in range(1000, 1100)]
        body = wire.pack_writes(batch_of(*map(list, zip(*encoded, strict=True))), "os")
        placed = server.ask("POST", "/v1/stores/written/writes", body, {"Content-Type": wire.WRITES_BODY}).json()
        assert reader.get(1042, min_position=placed["positions"])["v"] == -1042


@pytest.mark.parametrize(
    "write",
    [
        {"op": "put", "key": 1},
        {"op": "put", "key": "x", "row": {"v": 1}},
        {"op": "put", "key": 1, "row": {"v": "x"}},
        {"op": "put", "key": 1, "row": {"w": 1}},
        {"op": "put", "key": 1, "row": {"v": 1}, "timestamp_ms": -1},
        {"op": "put", "key": 1, "row": {"v": 1}, "timestamp_ms": 1 << 60},
        {"op": "patch", "key": 1},
        {"op": "patch", "key": 1, "fields": {"w": 1}},
        {"op": "patch", "key": 1, "add": {"v": [1]}},
        {"op": "patch", "key": 1, "row": {"v": 1}},
        {"op": "delete", "key": 1, "row": {"v": 1}},
        {"op": "upsert", "key": 1, "row": {"v": 1}},
        {"op": "put", "row": {"v": 1}},
    ],
    ids=str,
)
def test_a_write_that_cannot_be_is_refused_with_its_place_and_nothing_is_written(server: DataServer, write: dict[str, object]) -> None:
    good = {"op": "put", "key": 999_999, "row": {"v": 1}}
    reply = server.ask("POST", "/v1/stores/written/writes", {"writes": [good, write]})
    assert reply.status in (400, 404), reply
    assert "writes[1]" in reply.json()["message"] or "writes" in reply.json()["message"]


def envelope(**changes: int) -> bytes:
    fields = {"format": 1, "op": 1, "flags": 0, "schema": 1, **changes}
    packed = bytes([fields["format"], fields["op"]]) + fields["flags"].to_bytes(2, "little") + fields["schema"].to_bytes(4, "little")
    return packed + bytes(16)


@pytest.mark.parametrize(
    ("key", "value", "timestamp"),
    [
        (b"\x80", envelope() + b"\x02", 5),
        (b"\x02", b"", 5),
        (b"\x02", envelope(format=2) + b"\x02", 5),
        (b"\x02", envelope(op=4), 5),
        (b"\x02", envelope(op=9), 5),
        (b"\x02", envelope(op=2) + b"x", 5),
        (b"\x02", envelope(flags=1) + b"\x02", 5),
        (b"\x02", envelope(schema=7) + b"\x02", 5),
        (b"\x02", envelope() + b"\x80", 5),
        (b"\x02", envelope() + b"\x02\x02", 5),
        (b"\x02", envelope(op=3), 5),
        (b"\x02", envelope(op=3) + b"\xff" * 40, 5),
        (b"\x02", envelope() + b"\x02", -5),
        (b"\x02", envelope() + b"\x02", 1 << 60),
    ],
)
def test_packed_writes_that_nobody_could_read_are_refused(server: DataServer, key: bytes, value: bytes, timestamp: int) -> None:
    good = (b"\x02", envelope(schema=1) + b"\x02", 5)
    body = wire.pack_writes(batch_of(*map(list, zip(good, (key, value, timestamp), strict=True))))
    reply = server.ask("POST", "/v1/stores/written/writes", body, {"Content-Type": wire.WRITES_BODY})
    assert (reply.status // 100, reply.status) == (4, 400), reply


# -- versions -----------------------------------------------------------------------------------------------------------------------------


def test_stores_that_have_one_schema_under_two_numbers_each_say_their_own(tmp_path: Path) -> None:
    short = {"type": "record", "name": "Row", "fields": [{"name": "v", "type": "long"}]}
    wide = {**short, "fields": [*short["fields"], {"name": "w", "type": "long", "default": 0}]}
    with fd.open(tmp_path / "p") as platform:
        one, two = platform.create_store("one", value=wide), platform.create_store("two", value=short)
        assert two.add_schema(wide) == 2
        for store in (one, two):
            store.push(pa.table({"key": [1], "v": [2], "w": [3]}), progress=False)
        with DataServer(tmp_path / "p") as server, server.connection() as connection:
            for name, number in (("one", "1"), ("two", "2"), ("one", "1")):
                reply = ask(connection, "GET", f"/v1/stores/{name}/rows/1", headers={"Accept": wire.AVRO})
                assert reply.headers["fondaco-schema"] == number, name
                assert Codec(wide).decode(reply.body) == {"v": 2, "w": 3}


def test_a_swap_is_seen_by_the_next_request_and_a_pin_holds(tmp_path: Path) -> None:
    value = pa.schema([("v", pa.int64())])
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=value, partitions=2, rewind="0s")
        store.push(pa.table({"key": np.arange(3000), "v": np.full(3000, 1)}), progress=False)
        with DataServer(tmp_path / "p") as server, server.connection() as connection:
            avro = {"Accept": wire.AVRO}
            for version in (2, 3):
                assert ask(connection, "GET", "/v1/stores/s/rows/5", headers=avro).headers["fondaco-version"] == str(version - 1)
                store.push(pa.table({"key": np.arange(3000), "v": np.full(3000, version)}), progress=False)
                reply = ask(connection, "GET", "/v1/stores/s/rows/5", headers=avro)
                assert reply.headers["fondaco-version"] == str(version)
                assert ask(connection, "GET", "/v1/stores/s/rows/5").json() == {"v": version}
                old = ask(connection, "GET", "/v1/stores/s/rows/5", headers={"Fondaco-Version": str(version - 1)})
                assert (old.json(), old.headers["fondaco-version"]) == ({"v": version - 1}, str(version - 1))
            gone = ask(connection, "GET", "/v1/stores/s/rows/5", headers={"Fondaco-Version": "1"})
            assert (gone.status, gone.error) == (404, "VersionNotFoundError")
            store.rollback()
            assert ask(connection, "GET", "/v1/stores/s/rows/5").json() == {"v": 2}
            assert server.stop() == 0


def test_stores_come_and_go_while_the_server_runs(tmp_path: Path) -> None:

    value = pa.schema([("v", pa.int64())])
    with fd.open(tmp_path / "p") as platform, DataServer(tmp_path / "p") as server:
        assert server.ask("GET", "/v1/stores").json() == {"stores": []}
        store = platform.create_store("s", key="long", value=value, partitions=2)
        store.push(pa.table({"key": [1], "v": [1]}), progress=False)
        wait_for(lambda: server.ask("GET", "/v1/stores/s/rows/1").status == 200, "the new store is served")
        platform.delete_store("s")
        wait_for(lambda: server.ask("GET", "/v1/stores/s/rows/1").status == 404, "the deleted store is not")
        store = platform.create_store("s", key="string", value=value, partitions=2)
        store.push(pa.table({"key": ["x"], "v": [2]}), progress=False)
        wait_for(lambda: server.ask("GET", "/v1/stores/s/rows/x").status == 200, "the store of the same name is")
