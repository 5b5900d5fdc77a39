"""What clients do to a server on purpose and by mistake: it answers with a typed error or closes, stays up, and leaks nothing."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from data_server import DataServer, ask, receive, receive_answers
from fondaco.dataplane import wire
from waiting import wait_for

ROWS = 20_000
CONFIG = """
[server]
request_bytes_max = 200_000
batch_keys_max = 50_000
connections_max = 1100
idle_s = 1.5
header_s = 1.0
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataServer]:
    directory = tmp_path_factory.mktemp("platform") / "p"
    with fd.open(directory) as platform:
        store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64()), ("text", pa.string())]), partitions=2)
        store.push(pa.table({"key": np.arange(ROWS), "v": np.arange(ROWS), "text": ["x" * 400] * ROWS}), progress=False)
    (directory / "fondaco.toml").write_text(CONFIG)
    with DataServer(directory) as server:
        yield server
        assert server.alive


@pytest.fixture(autouse=True)
def _stays_well(server: DataServer) -> Iterator[None]:
    yield
    assert server.ask("GET", "/v1/stores/s/rows/1").json()["v"] == 1
    wait_for(lambda: server.ask("GET", "/v1/stats").json()["connections"]["open"] <= 1, "every connection is closed")
    assert server.ask("GET", "/v1/stats").json()["body_bytes"] == 0


def get(key: int = 1, *headers: str, version: str = "1.1") -> bytes:
    return (
        f"GET /v1/stores/s/rows/{key} HTTP/{version}\r\n".encode() + "".join(f"{h}\r\n" for h in ("Host: x", *headers)).encode() + b"\r\n"
    )


def batch(keys: int, *headers: str) -> bytes:
    body = wire.pack_key_list([bytes([2 * (i % 50)]) for i in range(keys)])
    lines = (f"Content-Type: {wire.KEYS_BODY}", f"Accept: {wire.ROWS_BODY}", f"Content-Length: {len(body)}", "Host: x", *headers)
    return b"POST /v1/stores/s/rows HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# -- requests that are none -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\nHELLO\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/stores HTTP/9.9\r\n\r\n",
        b"GET /v1/stores HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v1/stores HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET /v1/stores HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /v1/stores HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /v1/stores/s/rows HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"A" * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_request_gets_a_4xx_and_the_end(server: DataServer, request_: bytes) -> None:
    with server.raw() as raw:
        raw.sendall(request_)
        answer = receive(raw)
    assert status_of(answer) // 100 == 4, answer
    assert b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /v1/stores HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /v1/stores HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"b" * 50) for i in range(2000)) + b"\r\n", 431),
        (b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 200001\r\n\r\n", 413),
        (b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 99999999999999\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Type: text/html\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 415),
        (b"POST /v1/stores/t/rows HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 404),
        (b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 5\r\nExpect: a cheque\r\n\r\n", 417),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 404),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 404),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_what_is_too_large_or_not_for_us_is_refused_before_it_is_read(server: DataServer, request_: bytes, status: int) -> None:
    with server.raw() as raw:
        raw.sendall(request_)
        raw.shutdown(socket.SHUT_WR)
        answer = receive(raw)
    assert status_of(answer) == status, answer[:300]


def test_a_refusal_arrives_although_the_client_goes_on_sending(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(50):
            raw.sendall(bytes(20_000))
        assert status_of(receive(raw)) == 413


def test_a_chunked_body_beyond_the_limit_is_refused(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(b"POST /v1/stores/s/rows HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            raw.sendall(b"2710\r\n" + bytes(10_000) + b"\r\n")
        assert status_of(receive(raw)) == 413


# -- HTTP as it may be spoken -------------------------------------------------------------------------------------------------------------


def test_requests_may_be_pipelined_and_are_answered_in_order(server: DataServer) -> None:
    keys = [(i * 7) % 300 for i in range(1000)]
    with server.raw() as raw:
        sent = threading.Thread(target=raw.sendall, args=(b"".join(get(key) for key in keys),))
        sent.start()
        answers = receive_answers(raw, len(keys))
        sent.join()
    assert [answer.json()["v"] for answer in answers] == keys


def test_large_and_small_requests_may_be_mixed_in_a_pipeline(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(
            get(1) + batch(100) + get(2, "Fondaco-Min-Position: 0:5", "Fondaco-Deadline-Ms: 30") + get(3) + get(4, "Connection: close")
        )
        answers = receive_answers(raw, 5)
        assert raw.recv(1) == b""
    assert [answer.status for answer in answers] == [200, 200, 504, 200, 200]
    assert answers[3].json()["v"] == 3


def test_a_request_may_come_byte_by_byte(server: DataServer) -> None:
    with server.raw() as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in batch(2, "Expect: 100-continue"):
            raw.sendall(bytes([byte]))
        answer = raw.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        rest = answer.partition(b"\r\n\r\n")[2] or raw.recv(1 << 16)
        assert status_of(rest) == 200


def test_a_chunked_request_is_whole(server: DataServer) -> None:
    body = b'{"keys": [1, 2]}'
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body) + b"0\r\nTrailer: x\r\n\r\n"
    with server.raw() as raw:
        raw.sendall(
            b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + get(5)
        )
        first, second = receive_answers(raw, 2)
    assert [row["v"] for row in first.json()["rows"]] == [1, 2]
    assert second.json()["v"] == 5


@pytest.mark.parametrize("line", ["Authorization: Bearer fdc_x", "Fondaco-Version: 99", "Content-Type: text/html"])
def test_a_trailer_says_nothing(server: DataServer, line: str) -> None:
    body = json.dumps({"keys": [7]}).encode()
    with server.raw() as raw:
        raw.sendall(
            b"POST /v1/stores/s/rows HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body), body, line.encode())
        )
        answer = receive(raw)
    assert status_of(answer) == 200, answer


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"5;"], ids=["trailer", "chunk extension"])
def test_a_trailer_or_chunk_extension_without_end_is_refused_before_it_fills_the_memory(server: DataServer, start: bytes) -> None:
    with server.raw() as raw:
        raw.sendall(b"POST /v1/stores/s/rows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + start)
        for _ in range(20):
            raw.sendall(b"a" * 50_000)
        answer = receive(raw)
    assert status_of(answer) == 431, answer


@pytest.mark.parametrize(
    ("line", "status"), [("Fondaco-Version: 1", 400), ("Authorization: Bearer fdc_x", 401), ("Accept: application/json", 200)]
)
def test_a_header_sent_twice_is_not_one_of_the_two(server: DataServer, line: str, status: int) -> None:
    with server.raw() as raw:
        raw.sendall(get(1, line, line, "Connection: close"))
        answer = receive(raw)
    assert status_of(answer) == status, answer


def test_a_half_closed_connection_gets_its_answers(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(get(1) + batch(3000) + get(2))
        raw.shutdown(socket.SHUT_WR)
        answer = receive(raw)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b"}")


def test_a_request_that_ends_in_the_middle_is_dropped(server: DataServer) -> None:
    for part in (get(1)[:20], batch(100)[:-7]):
        with server.raw() as raw:
            raw.sendall(part)
            raw.shutdown(socket.SHUT_WR)
            assert receive(raw) == b""


def test_http_1_0_is_spoken_too(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(get(3, version="1.0"))
        answer = receive(raw)
    assert status_of(answer) == 200
    assert b"connection: close" in answer
    with server.raw() as raw:
        raw.sendall(get(3, "Connection: keep-alive", version="1.0") * 2)
        assert [answer.status for answer in receive_answers(raw, 2)] == [200, 200]
    with server.raw() as raw:
        raw.sendall(batch(3000).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = receive(raw)
    assert b"chunked" not in answer.partition(b"\r\n\r\n")[0]
    splitter = wire.BlockSplitter()
    assert sum(block.count for block in splitter.feed(answer.partition(b"\r\n\r\n")[2])) == 3000
    assert splitter.complete


def test_an_upgrade_is_ignored(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(get(3, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__") + get(4))
        assert [answer.json()["v"] for answer in receive_answers(raw, 2)] == [3, 4]


# -- slow and gone ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"GET /v1/stores HT", b"POST /v1/stores/s/rows HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"])
def test_a_request_that_does_not_become_complete_is_refused_in_time(server: DataServer, start: bytes) -> None:
    begun = time.monotonic()
    with server.raw() as raw:
        raw.sendall(start)
        assert status_of(receive(raw)) == 408
    assert 0.8 < time.monotonic() - begun < 10


def test_a_slow_loris_is_refused_in_time(server: DataServer) -> None:
    with server.raw() as raw:
        raw.settimeout(0.1)
        raw.sendall(b"GET /v1/stores HTTP/1.1\r\n")
        begun, answer = time.monotonic(), b""
        while not answer and time.monotonic() - begun < 10:
            try:
                raw.sendall(b"X-a: b\r\n")
                answer = raw.recv(1 << 16)
            except TimeoutError:
                continue
    assert status_of(answer) == 408


def test_an_idle_connection_is_closed(server: DataServer) -> None:
    with server.raw() as raw:
        raw.sendall(get(1))
        receive_answers(raw, 1)
        assert receive(raw) == b""


def test_a_reader_that_takes_nothing_is_cut_off_and_others_do_not_notice(server: DataServer) -> None:
    with server.raw() as slow, server.connection() as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=_send_until_cut, args=(slow, batch(39_000)))
        thread.start()
        begun, worst = time.monotonic(), 0.0
        while thread.is_alive() and time.monotonic() - begun < 30:
            started = time.monotonic()
            assert ask(quick, "GET", "/v1/stores/s/rows/1").status == 200
            worst = max(worst, time.monotonic() - started)
            time.sleep(0.005)
        thread.join(1)
        assert not thread.is_alive()
        assert worst < 1.0


def _send_until_cut(raw: socket.socket, request: bytes) -> None:
    try:
        for _ in range(10_000):
            raw.sendall(request)
    except (ConnectionError, TimeoutError):
        pass


def test_a_slow_reader_makes_the_server_hold_little(server: DataServer) -> None:
    before = _resident(server)
    with server.raw() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        raw.sendall(batch(39_000))  # the answer has 16 MB
        raw.sendall(get(1))
        time.sleep(0.5)  # not for a condition: the server would compute on in this time if nothing held it back
        assert _resident(server) - before < 12 << 20
        answers, piece = b"", b"-"
        while b'"v":1' not in answers[-1000:]:
            piece = raw.recv(1 << 16)
            assert piece, answers
            answers = answers[-1000:] + piece


def _resident(server: DataServer) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def test_a_client_that_goes_away_in_the_middle_of_an_answer_costs_nothing_more(server: DataServer) -> None:
    for _ in range(20):
        with server.raw() as raw:
            raw.sendall(batch(39_000))
            assert raw.recv(100)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    with server.raw() as raw:
        raw.sendall(get(1, "Fondaco-Min-Position: 0:99999"))


def test_a_thousand_connections_are_served(server: DataServer) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(1000)]
    try:
        for number, raw in enumerate(sockets):
            raw.sendall(get(number))
        for number, raw in enumerate(sockets):
            (answer,) = receive_answers(raw, 1)
            assert answer.json()["v"] == number
    finally:
        for raw in sockets:
            raw.close()


def test_a_connection_beyond_the_limit_is_told_so(server: DataServer) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(1150)]
    try:
        sockets[-1].settimeout(20)
        answer = receive(sockets[-1])
        assert status_of(answer) == 503
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "UnavailableError"
    finally:
        for raw in sockets:
            raw.close()


def test_a_stop_lets_requests_in_flight_end_and_exits_with_0(tmp_path: Path) -> None:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64())]), partitions=2)
        store.push(pa.table({"key": [1], "v": [1]}), progress=False)
    with DataServer(tmp_path / "p") as server, server.raw() as idle, server.raw() as busy:
        idle.sendall(get(1))
        receive_answers(idle, 1)
        busy.sendall(get(1, "Fondaco-Min-Position: 0:0", "Fondaco-Deadline-Ms: 700"))
        wait_for(lambda: server.ask("GET", "/v1/stats").json()["requests"] >= 2, "the request has come")
        server.process.terminate()
        assert receive(idle) == b""
        (answer,) = receive_answers(busy, 1)
        assert answer.status == 504
        busy.close()
        idle.close()
        server.process.communicate(timeout=20)
        assert server.process.returncode == 0
        assert list((tmp_path / "p" / "run").iterdir()) == []


def test_a_server_that_cannot_start_says_why_and_exits_with_2(tmp_path: Path, server: DataServer) -> None:
    import subprocess
    import sys

    def start(*arguments: str) -> str:
        command = [sys.executable, "-m", "fondaco.dataplane.serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "not a Fondaco directory" in start(str(tmp_path))
    assert "cannot be listened on" in start(str(server.directory), "--port", str(server.port))
    assert "neither a token nor TLS" in start(str(server.directory), "--host", "0.0.0.0", "--port", "0")
