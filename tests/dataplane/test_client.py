"""Clients over a server that misbehaves: retries where they are safe, never after 429; deadlines; typed errors; stale connections.

Every test runs for the blocking and for the asyncio transport: one protocol, two ways to wait.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    PermissionDeniedError,
    ProtocolError,
    QuotaExceededError,
    StateError,
    UnavailableError,
    VersionNotFoundError,
)
from fondaco.dataplane import wire
from fondaco.dataplane.client import Caller, deadline_of, together
from fondaco.dataplane.hedging import LatencyWindow
from fondaco.dataplane.pool import Operation, Peer
from fondaco.dataplane.pool_async import AsyncTransport
from fondaco.dataplane.pool_blocking import BlockingTransport
from fondaco.dataplane.protocol import Answer, Request
from fondaco.dataplane.retry import RetryPolicy
from scripted_server import CloseNow, Got, ScriptedServer, answer

T = TypeVar("T")
GET = Request("GET", "/x")


class Client:
    """A caller on one of the transports."""

    def __init__(self, kind: str, connections_max: int = 8) -> None:
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.transport: Any = AsyncTransport(connections_max) if kind == "async" else BlockingTransport(connections_max)
        self.caller = Caller(self.transport, RetryPolicy(attempts=4, base_s=0.001, cap_s=0.01))

    def run(self, operation: Operation[T]) -> T:
        if self.loop is None:
            return self.transport.run(operation)  # type: ignore[no-any-return]
        return self.loop.run_until_complete(self.transport.run(operation))  # type: ignore[no-any-return]

    def ask(self, peers: Sequence[Peer], request: Request = GET, timeout_s: float = 5.0, **how: Any) -> Answer:
        return self.run(self.caller.ask("a test", request, peers, deadline_of(timeout_s), **how))

    def close(self) -> None:
        if self.loop is None:
            self.transport.close()
        else:
            self.loop.run_until_complete(self.transport.close())
            self.loop.close()


@pytest.fixture(params=["blocking", "async"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(request.param)
    yield client
    client.close()


def failing(times: int, failure: Callable[[], bytes], then: bytes | None = None) -> Callable[[Got], bytes]:
    """A handler that fails so many times, and answers afterwards."""
    return lambda got: failure() if got.number < times else answer(body=b"at last") if then is None else then


def unavailable() -> bytes:
    return answer(503, wire.error_body(UnavailableError("the node", "it starts")))


def dead_url() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# -- answers ------------------------------------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_the_deadline_told(client: Client) -> None:
    with ScriptedServer(lambda got: answer(body=got.headers["fondaco-deadline-ms"].encode())) as server:
        told = int(client.ask([Peer(server.url)], timeout_s=3.0).body)
        assert 2500 <= told <= 3000


def test_one_connection_serves_one_call_after_the_other(client: Client) -> None:
    with ScriptedServer(lambda got: answer(body=b"x")) as server:
        peer = Peer(server.url)
        for _ in range(5):
            client.ask([peer])
        assert (server.connections, len(server.requests), peer.pending) == (1, 5, 0)


def test_large_bodies_go_both_ways(client: Client) -> None:
    body = bytes(range(256)) * 20_000
    with ScriptedServer(lambda got: answer(body=got.body[::-1])) as server:
        assert bytes(client.ask([Peer(server.url)], Request("POST", "/x", (), body)).body) == body[::-1]


def test_a_chunked_answer_is_whole(client: Client) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 1000 + b"0\r\n\r\n"
    with ScriptedServer(lambda got: chunked) as server:
        peer = Peer(server.url)
        assert bytes(client.ask([peer]).body) == b"hello" * 1000
        client.ask([peer])
        assert server.connections == 1


# -- retries ------------------------------------------------------------------------------------------------------------------------------


def test_a_node_that_cannot_now_is_asked_again(client: Client) -> None:
    with ScriptedServer(failing(2, unavailable)) as server:
        assert bytes(client.ask([Peer(server.url)]).body) == b"at last"
        assert len(server.requests) == 3


def test_a_broken_connection_is_a_retry(client: Client) -> None:
    def broken() -> bytes:
        raise CloseNow

    with ScriptedServer(failing(2, broken)) as server:
        assert bytes(client.ask([Peer(server.url)]).body) == b"at last"


def test_attempts_end(client: Client) -> None:
    with ScriptedServer(lambda got: unavailable()) as server:
        with pytest.raises(UnavailableError, match="it starts"):
            client.ask([Peer(server.url)])
        assert len(server.requests) == 4


def test_retries_of_answers_are_a_tenth_of_the_load_in_the_long_run(client: Client) -> None:
    with ScriptedServer(lambda got: unavailable()) as server:
        peer = Peer(server.url)
        for _ in range(200):
            with pytest.raises(UnavailableError):
                client.ask([peer])
        assert 200 <= len(server.requests) <= 200 + 20 + 10


@pytest.mark.parametrize(
    "error",
    [
        QuotaExceededError("a", "members", "5 rows/s", 3.0),
        InputError("no"),
        PermissionDeniedError("a", "read", "members"),
        VersionNotFoundError("members", 9, [1, 2]),
        DeadlineExceededError("read", 1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_be_answered_again_is_not_asked_again(client: Client, error: FondacoError) -> None:
    headers = {"Retry_After": "3"} if isinstance(error, QuotaExceededError) else {}
    with ScriptedServer(lambda got: answer(wire.status_of(error), wire.error_body(error), **headers)) as server:
        with pytest.raises(type(error)) as raised:
            client.ask([Peer(server.url), Peer(server.url)])
        assert str(raised.value) == str(error)
        assert raised.value.args == error.args
        assert len(server.requests) == 1


def test_a_proxy_s_429_is_a_quota_error_with_its_time(client: Client) -> None:
    with ScriptedServer(lambda got: answer(429, b"slow down", Retry_After="7")) as server:
        with pytest.raises(QuotaExceededError) as raised:
            client.ask([Peer(server.url)])
        assert (raised.value.retry_after_s, len(server.requests)) == (7.0, 1)


def test_another_node_answers_for_one_that_is_gone(client: Client) -> None:
    with ScriptedServer(lambda got: answer(body=b"here")) as server:
        gone, alive = Peer(dead_url()), Peer(server.url)
        for _ in range(20):
            assert bytes(client.ask([gone, alive]).body) == b"here"
        assert gone.avoided_until > time.monotonic()


def test_nobody_there_is_an_unavailable_error_that_names_the_address(client: Client) -> None:
    url = dead_url()
    with pytest.raises(UnavailableError, match=rf"{url} does not answer: .*[Rr]efused"):
        client.ask([Peer(url)])
    with pytest.raises(UnavailableError, match=r"no\.such\.host\.invalid:7071"):
        client.ask([Peer("http://no.such.host.invalid")], timeout_s=20)


def test_garbage_is_a_protocol_error_and_not_asked_again(client: Client) -> None:
    with ScriptedServer(lambda got: b"220 smtp.example ESMTP\r\n\r\n") as server:
        with pytest.raises(ProtocolError, match="Is it a Fondaco server"):
            client.ask([Peer(server.url)])
        assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_a_protocol_error(client: Client) -> None:
    def half() -> bytes:
        raise CloseNow(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with ScriptedServer(lambda got: half()) as server, pytest.raises(ProtocolError, match="within an answer"):
        client.ask([Peer(server.url)])


def test_an_error_page_of_something_else_is_a_protocol_error(client: Client) -> None:
    with ScriptedServer(lambda got: answer(404, b"<html>nginx</html>")) as server, pytest.raises(ProtocolError, match="status 404"):
        client.ask([Peer(server.url)])


# -- stale connections --------------------------------------------------------------------------------------------------------------------


def test_a_connection_that_was_closed_while_idle_is_replaced_unnoticed(client: Client) -> None:
    def handler(got: Got) -> bytes:
        if got.connection == 0 and got.number == 1:
            raise CloseNow  # the request came on a connection that we were closing
        return answer(body=b"ok")

    client.caller.policy = RetryPolicy(attempts=1)
    with ScriptedServer(handler) as server:
        peer = Peer(server.url)
        assert bytes(client.ask([peer]).body) == b"ok"
        assert bytes(client.ask([peer]).body) == b"ok"
        assert (server.connections, peer.avoided_until) == (2, 0.0)


def test_a_server_that_closes_after_each_answer_is_served_by_new_connections(client: Client) -> None:
    with ScriptedServer(lambda got: answer(body=b"ok", Connection="close")) as server:
        peer = Peer(server.url)
        for _ in range(3):
            client.ask([peer])
        assert server.connections == 3


# -- deadlines ----------------------------------------------------------------------------------------------------------------------------


def test_a_hung_server_ends_with_the_deadline(client: Client) -> None:
    async def hang() -> bytes:
        await asyncio.sleep(60)
        return b""

    with ScriptedServer(lambda got: hang()) as server:
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"a test: not done within 0.2 s; http://127.0.0.1:\d+ had not answered"):
            client.ask([Peer(server.url)], timeout_s=0.2)
        assert 0.15 < time.monotonic() - began < 20


def test_the_deadline_is_of_the_call_and_not_of_an_attempt(client: Client) -> None:
    async def slow_no() -> bytes:
        await asyncio.sleep(1.2)
        return unavailable()

    with ScriptedServer(lambda got: slow_no()) as server:
        began = time.monotonic()
        with pytest.raises((DeadlineExceededError, UnavailableError)):
            client.ask([Peer(server.url)], timeout_s=2.0)
        assert time.monotonic() - began < 20
        assert len(server.requests) == 2


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), "5", None, True])
def test_a_timeout_that_is_none_is_refused(timeout_s: Any) -> None:
    with pytest.raises(InputError, match="timeout_s is a number of seconds above 0"):
        deadline_of(timeout_s)


# -- hedges -------------------------------------------------------------------------------------------------------------------------------


def seasoned(delay_s: float) -> LatencyWindow:
    """A window that says to hedge after so long."""
    window = LatencyWindow()
    for _ in range(32):
        window.add(delay_s)
    return window


def test_a_slow_answer_is_hedged_and_the_first_wins(client: Client) -> None:
    async def slow() -> bytes:
        await asyncio.sleep(60)
        return answer(body=b"slow")

    with ScriptedServer(lambda got: slow()) as one, ScriptedServer(lambda got: answer(body=b"fast")) as other:
        peers = [Peer(one.url), Peer(other.url)]
        client.caller.hedges = type(client.caller.hedges)(saved=10.0)
        peers[1].pending = 1  # so that the slow one is chosen first
        began = time.monotonic()
        assert bytes(client.ask(peers, window=seasoned(0.02)).body) == b"fast"
        assert time.monotonic() - began < 20
        assert (len(one.requests), client.caller.hedges.extra, peers[0].pending) == (1, 1, 0)


def test_without_budget_nothing_is_hedged(client: Client) -> None:
    async def slow() -> bytes:
        await asyncio.sleep(0.1)
        return answer(body=b"slow")

    with ScriptedServer(lambda got: slow()) as one, ScriptedServer(lambda got: slow()) as other:
        peers = [Peer(one.url), Peer(other.url)]
        for _ in range(5):
            client.ask(peers, window=seasoned(0.005))
        assert len(one.requests) + len(other.requests) == 5


def test_the_first_answer_wins_even_when_it_refuses(client: Client) -> None:
    async def slow() -> bytes:
        await asyncio.sleep(5)
        return answer(body=b"slow")

    error = QuotaExceededError("a", "members", "5 rows/s", 3.0)
    with ScriptedServer(lambda got: slow()) as one, ScriptedServer(lambda got: answer(429, wire.error_body(error))) as other:
        peers = [Peer(one.url), Peer(other.url)]
        client.caller.hedges = type(client.caller.hedges)(saved=10.0)
        peers[1].pending = 1
        with pytest.raises(QuotaExceededError):
            client.ask(peers, window=seasoned(0.02))


# -- several at a time --------------------------------------------------------------------------------------------------------------------


def test_pieces_run_beside_each_other_and_no_more_than_allowed(client: Client) -> None:
    busy, most = 0, 0

    async def slow() -> bytes:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.05)
        busy -= 1
        return answer(body=b"x")

    def piece(peer: Peer, number: int) -> Operation[int]:
        yield from client.caller.ask("piece", GET, [peer], deadline_of(5), alone=False)
        return number

    with ScriptedServer(lambda got: slow()) as server:
        peer = Peer(server.url)
        assert client.run(together([piece(peer, n) for n in range(10)], at_most=3)) == list(range(10))
        assert most == 3


def test_the_first_error_of_a_piece_ends_them_all(client: Client) -> None:
    async def slow() -> bytes:
        await asyncio.sleep(30)
        return b""

    def handler(got: Got) -> Any:
        return slow() if got.target == "/slow" else answer(400, wire.error_body(InputError("no")))

    with ScriptedServer(handler) as server:
        peer = Peer(server.url)
        pieces = [client.caller.ask("piece", Request("GET", path), [peer], deadline_of(20), alone=False) for path in ("/slow", "/x")]
        began = time.monotonic()
        with pytest.raises(InputError, match="no"):
            client.run(together(pieces))
        assert (time.monotonic() - began < 5, peer.pending) == (True, 0)


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_connections_are_bounded_and_callers_wait_for_each_other(kind: str) -> None:
    async def slow() -> bytes:
        await asyncio.sleep(0.01)
        return answer(body=b"x")

    client = Client(kind, connections_max=2)
    with ScriptedServer(lambda got: slow()) as server:
        peer = Peer(server.url)
        if kind == "blocking":
            threads = [threading.Thread(target=lambda: [client.ask([peer]) for _ in range(5)]) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            assert client.loop is not None

            async def all_at_once() -> None:
                await asyncio.gather(*(client.transport.run(client.caller.ask("x", GET, [peer], deadline_of(5))) for _ in range(40)))

            client.loop.run_until_complete(all_at_once())
        assert (len(server.requests), server.connections, peer.pending) == (40, 2, 0)
    client.close()


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def hang() -> bytes:
        await asyncio.sleep(60)
        return b""

    async def main(server: ScriptedServer) -> None:
        transport = AsyncTransport()
        caller, peer = Caller(transport), Peer(server.url)
        task = asyncio.create_task(transport.run(caller.ask("x", GET, [peer], deadline_of(30))))
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert peer.pending == 0
        await transport.close()

    with ScriptedServer(lambda got: hang()) as server:
        asyncio.run(main(server))


def test_a_closed_client_refuses(client: Client) -> None:
    with ScriptedServer(lambda got: answer(body=b"x")) as server:
        peer = Peer(server.url)
        client.ask([peer])
        if client.loop is None:
            client.transport.close()
        else:
            client.loop.run_until_complete(client.transport.close())
        with pytest.raises(StateError, match="the client is closed"):
            client.ask([peer])


@pytest.mark.parametrize("url", ["127.0.0.1:7071", "ftp://x", "http://", "http://x/y", "http://x:abc", "http://u@x", "", None, 7])
def test_what_is_no_address_is_refused(url: Any) -> None:
    with pytest.raises(InputError, match="a server is named by its address"):
        Peer(url)


def test_an_address_without_a_port_is_the_data_plane_s() -> None:
    assert Peer("http://example").url == "http://example:7071"
    assert Peer("http://[::1]:80/").url == "http://[::1]:80"
