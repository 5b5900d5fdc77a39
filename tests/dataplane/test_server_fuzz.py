"""Noise: random bytes, mutated requests and random documents. The server answers 4xx (or what it can), never 500, and stays up.

Bounded by counts; the seeds of the random ones are fixed. The server's own document is the judge of its answers.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks as openapi_checks

import fondaco as fd
from data_server import DataServer
from fondaco.dataplane import wire
from fondaco.dataplane.openapi import document
from fondaco.dataplane.routes import ROUTES
from fondaco.store.writes import batch_of
from waiting import wait_for

REQUESTS = [
    b"GET /v1/stores/s/rows/5 HTTP/1.1\r\nHost: x\r\nAccept: application/avro\r\n\r\n",
    b'POST /v1/stores/s/rows HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"keys": [1, 2]}',
    b"POST /v1/stores/s/columns?fields=v HTTP/1.1\r\nContent-Type: application/vnd.fondaco.keys\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"d\r\n" + wire.pack_key_list([b"\x02"]) + b"\r\n0\r\n\r\n",
    b"HEAD /v1/stores/s HTTP/1.0\r\nConnection: keep-alive\r\nFondaco-Version: 1\r\nFondaco-Deadline-Ms: 100\r\n\r\n",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataServer]:
    directory = tmp_path_factory.mktemp("platform") / "p"
    value = pa.schema([("v", pa.int64()), ("emb", pa.list_(pa.float32(), 4)), ("text", pa.string())])
    with fd.open(directory) as platform:
        for name, key in (("s", "long"), ("texts", "string")):
            store = platform.create_store(name, key=key, value=value, partitions=2)
            keys: Any = list(range(100)) if key == "long" else [f"k{i}" for i in range(100)]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(400, np.float32)), 4)
            store.push(pa.table({"key": keys, "v": range(100), "emb": vectors, "text": ["x"] * 100}), progress=False)
    (directory / "fondaco.toml").write_text("[server]\nheader_s = 0.5\nidle_s = 2.0\nrequest_bytes_max = 100_000\n")
    with DataServer(directory) as server:
        yield server
        wait_for(lambda: server.ask("GET", "/v1/stats").json()["connections"]["open"] <= 1, "every connection is closed")
        stats = server.ask("GET", "/v1/stats").json()
        assert stats["body_bytes"] == 0
        assert all(kind["server_errors"] == 0 for store in stats["stores"].values() for kind in store.values())
        assert server.stop() == 0


def exchange(server: DataServer, data: bytes) -> bytes:
    """Send, say that nothing follows, and take what comes."""
    with server.raw() as raw:
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := raw.recv(1 << 16):
                answer += piece
        except (ConnectionError, OSError):
            return b""
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests_are_answered_or_refused(server: DataServer, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        data = bytearray(rng.choice(REQUESTS) + (rng.choice(REQUESTS) if rng.random() < 0.3 else b""))
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            kind, at = rng.random(), rng.randrange(len(data))
            if kind < 0.5:
                data[at] = rng.randrange(256)
            elif kind < 0.7:
                del data[at : at + rng.randrange(1, 12)]
            elif kind < 0.9:
                data[at:at] = rng.randbytes(rng.randrange(1, 12))
            else:
                data[at:at] = data[: rng.randrange(len(data))]
            data = data or bytearray(b"\0")
        assert all(status < 500 for status in statuses(exchange(server, bytes(data)))), bytes(data)


@given(st.binary(min_size=1, max_size=400))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(server: DataServer, data: bytes) -> None:
    assert all(400 <= status < 500 for status in statuses(exchange(server, data)))


BODIES = {
    "rows": (wire.KEYS_BODY, wire.pack_key_list([b"\x02", b"\x04", b"\x80\x01"])),
    "columns": (wire.KEYS_BODY, wire.pack_key_list([b"\x02"])),
    "writes": (wire.WRITES_BODY, wire.pack_writes(batch_of([b"\x02"], [b"\x01\x01\0\0\x01\0\0\0" + bytes(16) + b"\x02" + bytes(17)], [5]))),
}


@pytest.mark.parametrize("store", ["s", "texts"])
@pytest.mark.parametrize("route", BODIES)
def test_mutated_bodies_are_answered_or_refused(server: DataServer, route: str, store: str) -> None:
    media, good = BODIES[route]
    rng = random.Random(f"{route} {store}")
    with server.connection() as connection:
        for _ in range(200):
            data = bytearray(good)
            for _ in range(rng.choice((1, 2, 6))):
                at = rng.randrange(len(data) + 1)
                if rng.random() < 0.6 and at < len(data):
                    data[at] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
                elif rng.random() < 0.5:
                    del data[at : at + rng.randrange(1, 9)]
                else:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
            connection.request("POST", f"/v1/stores/{store}/{route}", bytes(data), {"Content-Type": media, "Accept": "*/*"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 400, 413), bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["keys", "fields", "op", "key", "row", "v", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["rows", "columns", "compute", "writes"]), st.dictionaries(
    st.sampled_from(["keys", "fields", "operation", "field", "vector", "top_k", "writes", "writer", "durability"]), JSON, max_size=5,
))  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_documents_are_answered_or_refused(server: DataServer, route: str, document: dict[str, Any]) -> None:
    assert server.ask("POST", f"/v1/stores/s/{route}", document).status < 500


def no_fault_of_the_server(context: Any, response: Any, case: Any) -> None:
    """504 is the answer to a position that is never reached; anything else from 500 on is a fault."""
    assert response.status_code < 500 or response.status_code == 504, response.text


def test_the_server_does_what_its_own_document_says(server: DataServer) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    judges = [
        no_fault_of_the_server,
        openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance,
        openapi_checks.response_headers_conformance,
        openapi_checks.response_schema_conformance,
        openapi_checks.unsupported_method,
    ]
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def hold(case: Any) -> None:
            if "store" in (case.path_parameters or {}):
                case.path_parameters["store"] = "s"  # another one is a 404 every time
            if wire.MIN_POSITION in (case.headers or {}):
                case.headers[wire.DEADLINE_MS] = "20"
            case.call_and_validate(checks=judges)

        hold()
    documented = {(method, path) for path, item in document()["paths"].items() for method in item if method != "parameters"}
    routed = {(method.decode().lower(), tuple(path)) for path, methods in ROUTES for method in methods}
    assert len(documented) == len(routed) == len(seen) + 1, seen  # it leaves out where it got the document from
