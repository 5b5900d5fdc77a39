"""The sockets of a graph server: answers over TCP, Unix and shared memory; who sends garbage, too much or too slowly is cut off."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    GraphNotFoundError,
    InputError,
    LimitError,
    NodeIdError,
    ProtocolError,
    UnavailableError,
)
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.connection import Address, Connection, dial
from fondaco.graph.service.failover import Asking
from fondaco.graph.service.frames import ANSWER_LIMITS, Header, Kind, Limits, frame, pack_header
from fondaco.graph.service.handshake import Hello, encode
from fondaco.graph.service.peer import Asked
from fondaco.graph.service.server import GraphServer, ServerLimits
from graph.canned_service import CannedServer, double, peer_of
from graph.graph_servers import until

BIG = np.arange(120_000, dtype=np.float64)  # 0.9 MB: worth a slot


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as server:
        yield server


def raise_timeout() -> None:
    raise TimeoutError("no answer")


def raw(server: CannedServer, *, unix: bool = False, greet: bool = True) -> Connection:
    address = Address.parse(server.service.unix or "") if unix else server.address
    connection = Connection(dial(address, 5.0), "server", tick_s=20.0)
    if greet:
        connection.send(frame(Kind.HELLO, 0, encode(Hello(pid=1))), raise_timeout)
        header, _ = connection.receive_header(ANSWER_LIMITS, raise_timeout)
        assert header.kind == Kind.ANSWER
        connection.receive_head(header, raise_timeout)
    return connection


def told(connection: Connection) -> FondacoError | None:
    """The error that a connection ends with; None: it ends without a word."""
    from fondaco.dataplane.faults import error_of

    try:
        header, _ = connection.receive_header(ANSWER_LIMITS, raise_timeout)
        assert header.kind == Kind.ERROR
        error = error_of(connection.receive_head(header, raise_timeout)[0])
        with pytest.raises((EOFError, ConnectionError)):
            connection.receive_header(ANSWER_LIMITS, raise_timeout)
        return error
    except (EOFError, ConnectionError):
        return None


# -- answers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unix", "shared_memory"), [(False, False), (True, False), (True, True)])
def test_an_answer_is_the_same_by_every_way(server: CannedServer, unix: bool, shared_memory: bool) -> None:
    with peer_of(server.address, unix=unix, shared_memory=shared_memory) as peer:
        for numbers in (BIG, np.arange(5), np.zeros((0, 3), np.float32), BIG.reshape(-1, 4)):
            for _ in range(3):
                reply = double(peer, numbers, version=9)
                assert reply.graph_version == 9
                assert bytes(reply.meta) == b"meta"
                assert (reply.arrays["doubled"] == numbers * 2).all()
                assert reply.arrays["doubled"].shape == numbers.shape
                assert (reply.arrays["elsewhere"] == numbers[:16]).all()
                assert reply.arrays["none"].shape == (0, *numbers.shape[1:])
    assert (server.observer.shared > 0) == shared_memory


def test_sinks_take_the_bytes_of_their_arrays_by_every_way(server: CannedServer) -> None:
    for unix, shared in ((False, False), (True, True)):
        with peer_of(server.address, unix=unix, shared_memory=shared) as peer:
            for _ in range(3):
                sink, other = np.zeros_like(BIG), np.zeros(3)
                reply = double(peer, BIG, sinks={"doubled": sink, "elsewhere": other})
                assert reply.arrays["doubled"] is sink
                assert (sink == BIG * 2).all()
                assert (reply.arrays["elsewhere"] == BIG[:16]).all()  # a sink of another shape is passed over
                assert not other.any()


def test_answers_that_are_kept_stay_as_they_are_when_shared_memory_runs_out(server: CannedServer) -> None:
    with peer_of(server.address, budget=4 << 20) as peer:
        kept = [(seed, double(peer, BIG + seed).arrays) for seed in range(12)]
        until(lambda: server.observer.answered == 12, "all of them are counted")
        shared = server.observer.shared
        assert shared > 0
        for seed, arrays in kept:
            assert (arrays["doubled"] == (BIG + seed) * 2).all()
        double(peer, BIG)
        until(lambda: server.observer.answered == 13, "it is counted")
        assert server.observer.shared == shared, "there is no slot left, so the answer came through the socket"
        kept.clear()
        del arrays
        gc.collect()
        double(peer, BIG)
        until(lambda: server.observer.shared > shared, "it came through shared memory again")


def test_arrays_of_an_answer_outlive_their_connection(server: CannedServer) -> None:
    with peer_of(server.address) as peer:
        for _ in range(2):
            found = double(peer, BIG).arrays["doubled"]
    server.server.stop()
    assert (found == BIG * 2).all()


def test_many_threads_ask_one_peer_at_once(server: CannedServer) -> None:
    failures: list[BaseException] = []
    with peer_of(server.address) as peer:

        def ask(seed: int) -> None:
            try:
                for turn in range(10):
                    numbers = BIG[: 1000 * (seed + 1)] + turn
                    assert (double(peer, numbers).arrays["doubled"] == numbers * 2).all()
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_errors_of_the_service_arrive_as_they_are_and_leave_the_connection_good(server: CannedServer) -> None:
    with peer_of(server.address) as peer:
        server.service.fail = NodeIdError("page", (7, 8), 2)
        with pytest.raises(NodeIdError, match="2 ids are not among the nodes of type 'page': 7, 8"):
            double(peer, BIG)
        server.service.fail = ZeroDivisionError("a mistake of ours")
        with pytest.raises(FondacoError, match="a mistake of ours"):
            double(peer, BIG)
        server.service.fail = None
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()
        assert server.observer.open <= 2
    with peer_of(server.address, graph="other") as peer, pytest.raises(GraphNotFoundError, match=r"no graph 'other'.*canned"):
        double(peer, BIG)


def test_a_request_larger_than_the_server_takes_is_refused_before_it_is_sent(server: CannedServer) -> None:
    with peer_of(server.address) as peer:
        with pytest.raises(LimitError, match="Ask with fewer ids"):
            double(peer, np.zeros(200_000))
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()
    assert server.observer.requests == 1


# -- deadlines and signs of life ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_busy_is_waited_for_and_still_gives_a_sign_of_life(server: CannedServer) -> None:
    go_on = threading.Event()
    server.service.wait = lambda: assert_set(go_on)
    with peer_of(server.address) as peer:
        asking = Asking([peer], Asked(Kind.QUERY, b"", {"x": BIG}), Deadline(20.0), "it").begin()
        assert peer.ping(5.0)
        go_on.set()
        assert (asking.finish().arrays["doubled"] == BIG * 2).all()


def assert_set(event: threading.Event) -> None:
    assert event.wait(20.0)


def test_a_deadline_ends_the_wait_for_a_server_that_does_not_answer(server: CannedServer) -> None:
    release = threading.Event()
    server.service.wait = lambda: assert_set(release)
    with peer_of(server.address) as peer:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"0\.5 s"):
            double(peer, BIG, seconds=0.5)
        assert time.monotonic() - begun < 3.0
        release.set()
        server.service.wait = lambda: None
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all(), "what came late is not taken for this answer"


def test_more_queries_than_are_answered_at_once_wait_for_their_turn_or_their_deadline() -> None:
    release = threading.Event()
    with CannedServer(limits=ServerLimits(queries=1)) as server, peer_of(server.address) as peer:
        server.service.wait = lambda: assert_set(release)
        first = Asking([peer], Asked(Kind.QUERY, b"", {"x": BIG}), Deadline(20.0), "it").begin()
        until(lambda: server.observer.requests == 1, "the first is there")
        with pytest.raises(DeadlineExceededError):
            double(peer, BIG, seconds=0.4)
        release.set()
        assert (first.finish().arrays["doubled"] == BIG * 2).all()


def test_a_listener_that_never_answers_is_a_deadline_error_and_with_another_server_no_matter(server: CannedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hung = Address("127.0.0.1", mute.getsockname()[1])
        with peer_of(hung) as peer, pytest.raises(DeadlineExceededError):
            double(peer, BIG, seconds=0.7)
        with peer_of(hung) as first, peer_of(server.address) as second:
            begun = time.monotonic()
            reply = Asking([first, second], Asked(Kind.QUERY, b"", {"x": BIG}), Deadline(20.0), "it").finish()
            assert time.monotonic() - begun < 5.0
            assert (reply.arrays["doubled"] == BIG * 2).all()
            assert first.is_suspect
            begun = time.monotonic()
            Asking([first, second], Asked(Kind.QUERY, b"", {"x": BIG}), Deadline(20.0), "it").finish()
            assert time.monotonic() - begun < 0.25, "who failed is asked last"


def test_nobody_at_any_address_is_an_error_that_names_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address("127.0.0.1", free.getsockname()[1])
    with peer_of(address) as peer, pytest.raises(UnavailableError, match=rf"canned graph.*{address}.*refused"):
        double(peer, BIG)


# -- who does not behave ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
def test_garbage_ends_its_own_connection_and_no_other(server: CannedServer, unix: bool) -> None:
    with peer_of(server.address, unix=unix) as peer:
        double(peer, BIG)
        connection = raw(server, unix=unix, greet=False)
        connection.send([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(64)], raise_timeout)
        assert isinstance(told(connection), ProtocolError)
        connection.close()
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()
    assert server.observer.reasons == ["garbage"]


def test_a_frame_that_announces_too_much_is_answered_with_the_limit(server: CannedServer) -> None:
    connection = raw(server)
    connection.send([pack_header(Header(Kind.QUERY, 1, payload_bytes=1 << 40))], raise_timeout)
    error = told(connection)
    assert isinstance(error, LimitError)
    assert error.limit == Limits().payload_bytes
    connection.close()


def test_a_frame_before_a_greeting_or_of_an_answer_is_refused(server: CannedServer) -> None:
    for pieces in (frame(Kind.QUERY, 1, b"", {"x": BIG}), frame(Kind.ANSWER, 1), frame(Kind.ATTACH, 0, slot=1, room=4096)):
        connection = raw(server, greet=False)
        connection.send(pieces, raise_timeout)
        assert isinstance(told(connection), ProtocolError)
        connection.close()


def test_a_client_that_drips_its_frame_is_dropped() -> None:
    with CannedServer(limits=ServerLimits(frame_s=0.3)) as server:
        connection = raw(server)
        header = pack_header(Header(Kind.PING, 1))
        begun = time.monotonic()
        connection.set_tick(0.05)
        with pytest.raises(EOFError):
            drip(connection, header)
        assert time.monotonic() - begun < 5.0
        connection.close()
        until(lambda: server.observer.open == 0, "the connection is gone")
        assert server.observer.reasons == ["slow"]


def drip(connection: Connection, data: bytes) -> None:
    """Send a byte each twentieth of a second, until the other side ends it."""
    for at in range(len(data)):
        try:
            connection.send([data[at : at + 1]], raise_timeout)
            connection.receive_header(ANSWER_LIMITS, raise_timeout)
        except TimeoutError:
            continue
        except ConnectionError:
            raise EOFError from None


def test_a_client_that_says_nothing_is_dropped_before_its_greeting_and_kept_after_it() -> None:
    with CannedServer(limits=ServerLimits(frame_s=0.3)) as server:
        kept, mute = raw(server), raw(server, greet=False)
        assert told(mute) is None
        kept.send(frame(Kind.PING, 4), raise_timeout)
        assert kept.receive_header(ANSWER_LIMITS, raise_timeout)[0].request == 4
        kept.close()
        mute.close()


def test_a_client_that_does_not_read_its_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fondaco.graph.service.server.BYTES_PER_S_MIN", 1 << 26)
    with CannedServer(limits=ServerLimits(frame_s=0.3)) as server:
        connection = raw(server)
        connection.send(frame(Kind.QUERY, 1, b"", {"x": np.zeros(6_000_000)}), raise_timeout)
        until(lambda: "slow" in server.observer.reasons, "the server gave up")
        until(lambda: server.observer.open == 0, "the connection is gone")
        connection.close()


def test_a_client_that_vanishes_in_the_middle_costs_only_its_connection(server: CannedServer) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for unix in (False, True):
        for cut in (1, 63, 64, 70, 5000):
            connection = raw(server, unix=unix)
            connection.send([b"".join(frame(Kind.QUERY, 1, b"meta", {"x": BIG}))[:cut]], raise_timeout)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        connection = raw(server, unix=unix)
        connection.send(frame(Kind.QUERY, 1, b"meta", {"x": BIG}), raise_timeout)
        connection.close()  # before its answer
    until(lambda: server.observer.open == 0, "all connections are gone")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with peer_of(server.address) as peer:
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()


def test_descriptors_that_nobody_asked_for_are_closed(server: CannedServer) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    readable, writable = os.pipe()
    for kind, slot, room in ((Kind.PING, 0, 0), (Kind.ATTACH, 1, 4096), (Kind.ATTACH, 0, 4096)):
        connection = raw(server, unix=True)
        rights = array.array("i", [readable, writable, readable, writable])
        piece = b"".join(frame(kind, 1, slot=slot, room=room))
        connection.sock.sendmsg([piece], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        if kind == Kind.PING:
            assert connection.receive_header(ANSWER_LIMITS, raise_timeout)[0].kind == Kind.ANSWER
        else:
            assert isinstance(told(connection), ProtocolError)
        connection.close()
    os.close(readable)
    os.close(writable)
    until(lambda: server.observer.open == 0, "all connections are gone")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_connections_beyond_the_bound_are_turned_away_and_it_still_counts_as_alive() -> None:
    with CannedServer(limits=ServerLimits(connections=2)) as server:
        held = [raw(server), raw(server)]
        with peer_of(server.address) as peer:
            with pytest.raises(UnavailableError, match="takes no more"):
                double(peer, BIG)
            assert peer.ping(5.0)
            for connection in held:
                connection.close()
            until(lambda: server.observer.open == 0, "there is room")
            assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()


@pytest.mark.parametrize("unix", [False, True])
def test_random_bytes_and_damaged_frames_never_end_the_server(server: CannedServer, unix: bool) -> None:
    source = random.Random(20261122)
    good = b"".join(frame(Kind.QUERY, 1, b"meta", {"x": np.arange(40), "y": np.zeros((3, 2), np.float32)}))
    for _ in range(60):
        data = bytearray(good)
        kind = source.randrange(4)
        if kind == 0:
            data = bytearray(source.randbytes(source.randrange(1, 300)))
        elif kind == 1:  # damage behind the header, which its checksum does not cover
            for _ in range(source.randrange(1, 6)):
                data[source.randrange(64, len(data))] ^= source.randrange(1, 256)
        elif kind == 2:
            data = data[: source.randrange(1, len(data))]
        else:
            table = source.randbytes(source.randrange(0, 64))
            data = bytearray(pack_header(Header(Kind.QUERY, 1, 0, 3, len(table), source.randrange(4), 64)) + b"abc" + table + bytes(64))
        connection = raw(server, unix=unix)
        with contextlib.suppress(OSError):
            connection.send([bytes(data)], raise_timeout)
            connection.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError, EOFError):
            while True:
                header, _ = connection.receive_header(ANSWER_LIMITS, raise_timeout)
                connection.receive_head(header, raise_timeout)
                connection._receive_all([memoryview(bytearray(header.payload_bytes))], raise_timeout)
        connection.close()
    with peer_of(server.address) as peer:
        assert (double(peer, BIG).arrays["doubled"] == BIG * 2).all()


def test_stopping_lets_what_is_being_answered_be_answered_and_takes_no_more() -> None:
    release = threading.Event()
    with CannedServer() as server, peer_of(server.address) as peer:
        server.service.wait = lambda: assert_set(release)
        asking = Asking([peer], Asked(Kind.QUERY, b"", {"x": BIG}), Deadline(20.0), "it").begin()
        until(lambda: server.observer.requests == 1, "it is being answered")
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        until(lambda: not peer.ping(0.5), "nobody listens any more")
        release.set()
        assert (asking.finish().arrays["doubled"] == BIG * 2).all()
        stopping.join()
        with pytest.raises(UnavailableError):
            double(peer, BIG)


def test_an_address_that_is_taken_is_named_with_the_way_out(server: CannedServer) -> None:
    with pytest.raises(InputError, match=f"127.0.0.1:{server.server.port} cannot be listened on.*--port"):
        GraphServer(server.service, server.observer, port=server.server.port)
    for text in ("", "localhost", "host:", "host:0", "host:99999", ":80", "unix:"):
        with pytest.raises(InputError, match="no address of a graph server"):
            Address.parse(text)
    assert str(Address.parse("[::1]:80")) == "[::1]:80"
    assert Address.parse("tcp://host:80") == Address("host", 80)
