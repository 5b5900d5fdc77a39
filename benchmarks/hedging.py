"""What does hedging buy when one of two replicas is slow, or hangs?

20,000 members (`_members.py`), all in memory, served by two data-plane servers on the same directory. A proxy of this benchmark stands
before both: it passes requests on, answers the routing table itself, so that it names the two as replicas, and holds back at the second
one what it is told to. The asyncio fast client gets rows at 400 a second, each get a task of its own (open loop: a latency counts from when
the get was due, and a slow one delays no other), with hedging as it comes, and without: with a budget of no extra requests.

* calm: the second replica is as good as the first: what hedging costs.
* stalling: it holds one request in twenty back for 20 ms, so one get in forty.
* hanging: it answers nothing at all for two of the seconds that are measured, and then everything. A peer that has been silent for a
  quarter of a second is left alone for a while, hedged or not.

The extra requests are counted by the client, and by the proxy, which sees what arrives.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks._harness import Figures, Report, Settings, alternate, figures_of, main, median_of, quiet_collector, times_lower
from benchmarks._machine import ROOT
from benchmarks._members import draw_ids, fondaco_platform, member_ids, touch_file
from benchmarks._served import FondacoServer, client_core
from fondaco.core.errors import FondacoError
from fondaco.dataplane.fast import AsyncFastReader
from fondaco.dataplane.hedging import Budget
from fondaco.dataplane.routing import RoutingTable, StoreRoute

NAME = "hedging"
QUESTION = "What does hedging buy when one of two replicas is slow, or hangs?"
RATE = 400
STALL_S, STALL_SHARE = 0.020, 0.05
HANG_S = 2.0
EXTRA_MAX = 0.10
SITUATIONS = ("calm", "stalling", "hanging")


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=20_000, quick=2_000), settings.choose_rounds(full=5, quick=1)
    seconds = 1.0 if settings.quick else 5.0
    gets = int(RATE * seconds)
    report.sizes = {"rows": rows, "rounds": rounds, "gets_per_round": gets, "rate": RATE}
    ids = member_ids(rows)
    with ExitStack() as stack:
        directory = fondaco_platform(settings.workdir, rows=rows, seed=settings.seed)
        touch_file(directory)
        servers = [stack.enter_context(FondacoServer(directory)) for _ in range(2)]
        proxy = stack.enter_context(_proxy([server.port for server in servers]))

        def path(situation: str, *, hedged: bool) -> Callable[[int], Figures]:
            def run(index: int) -> Figures:
                keys = draw_ids(ids, gets, settings.seed, index)
                with asyncio.Runner(loop_factory=_precise_loop) as runner:
                    return runner.run(_gets(proxy, situation, keys, hedged=hedged, hang_s=min(HANG_S, seconds / 3)))

            return run

        paths = {_name(situation, hedged): path(situation, hedged=hedged) for situation in SITUATIONS for hedged in (True, False)}
        with client_core():
            results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    for situation in SITUATIONS:
        _judge(report, situation, results[_name(situation, True)], results[_name(situation, False)])


def _name(situation: str, hedged: bool) -> str:
    return f"{situation}, {'hedged' if hedged else 'not hedged'}"


def _judge(report: Report, situation: str, hedged: Sequence[Figures], plain: Sequence[Figures]) -> None:
    for figure, label in (("p99_us", "p99"), ("p999_us", "p99.9")):
        report.found(f"{situation}: {label}", _said(hedged), f"not hedged: {_said(plain)}", times_lower(hedged, plain, figure))
    extra = median_of(hedged, "extra_share")
    figure = f"{100 * extra:.1f} % by the client; {median_of(hedged, 'arrived_per_get'):.3f} requests a get arrived"
    report.found_limit(f"{situation}: extra requests", figure, value=100 * extra, at_most=100 * EXTRA_MAX, unit="%")


def _said(figures: Sequence[Figures]) -> str:
    p50, p99, p999 = (median_of(figures, f"{name}_us") / 1e3 for name in ("p50", "p99", "p999"))
    errors = sum(round_["errors"] for round_ in figures)
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms, {errors:.0f} errors"


# -- the client ---------------------------------------------------------------------------------------------------------------------------


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact: those of epoll, which asyncio would take, round up to the millisecond, and gets would begin late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _gets(proxy: _Proxy, situation: str, keys: Sequence[int], *, hedged: bool, hang_s: float) -> Figures:
    """One round: warm-up, then gets at `RATE`; the second replica hangs, if it is to, from the third part on."""
    proxy.tell("calm")
    async with AsyncFastReader(proxy.url, "members") as reader:
        if not hedged:
            reader._caller.hedges = Budget(share=0.0)
        await _at_rate(reader, keys[:200], {})  # connections, and latencies to know when to hedge
        if situation == "stalling":
            proxy.tell("stall")
        sent, extra, arrived = reader._caller.hedges.sent, reader._caller.hedges.extra, proxy.arrived()
        orders = {len(keys) // 3: lambda: proxy.tell(f"hang {hang_s}")} if situation == "hanging" else {}
        with quiet_collector():
            elapsed, errors = await _at_rate(reader, keys, orders)
        budget = reader._caller.hedges
        figures = figures_of(elapsed)
        figures["max_us"] = float(elapsed.max()) / 1e3
        figures["errors"] = float(errors)
        figures["extra_share"] = (budget.extra - extra) / (budget.sent - sent)
        figures["arrived_per_get"] = (proxy.arrived() - arrived) / len(keys)
    proxy.tell("calm")
    return figures


async def _at_rate(reader: AsyncFastReader, keys: Sequence[int], orders: dict[int, Callable[[], object]]) -> tuple[np.ndarray, int]:
    """Get each key when it is due, whatever became of those before; (nanoseconds since each was due, errors)."""
    elapsed, errors = np.zeros(len(keys), np.int64), 0
    clock = time.perf_counter_ns
    begin, step = clock() + 1_000_000, int(1e9 / RATE)

    async def get(number: int, due: int) -> None:
        nonlocal errors
        try:
            row = await reader.get(keys[number])
            assert row is not None
        except FondacoError:
            errors += 1
        elapsed[number] = clock() - due

    async with asyncio.TaskGroup() as tasks:
        for number in range(len(keys)):
            due = begin + number * step
            await asyncio.sleep(max(0.0, (due - clock()) / 1e9))
            if number in orders:
                orders[number]()
            tasks.create_task(get(number, due))
    return elapsed, errors


# -- the proxy ----------------------------------------------------------------------------------------------------------------------------


class _Proxy:
    """The proxy process: two addresses, one for each server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url: str = self._line()["url"]

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def tell(self, what: str) -> Any:
        """Give an order, and return the answer once it is obeyed."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._line()

    def arrived(self) -> int:
        """How many gets have come to it so far."""
        return int(self.tell("count")["arrived"])


@contextmanager
def _proxy(ports: Sequence[int]) -> Iterator[_Proxy]:
    command = [sys.executable, "-m", "benchmarks.hedging", "--proxy", *map(str, ports)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Proxy(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)


class _Mood:
    """What becomes of requests for the second server."""

    def __init__(self) -> None:
        self.stalls = False
        self.hangs_until = 0.0
        self.arrived = 0
        self.table = b""
        self._random = random.Random(1)

    def delay_s(self, now: float) -> float:
        if now < self.hangs_until:
            return self.hangs_until - now
        return STALL_S if self.stalls and self._random.random() < STALL_SHARE else 0.0

    def obey(self, order: str) -> None:
        what, _, argument = order.partition(" ")
        if what in ("calm", "stall"):
            self.stalls, self.hangs_until = what == "stall", 0.0
        elif what == "hang":
            self.hangs_until = time.monotonic() + float(argument)


class _Front(asyncio.Protocol):
    """A client's connection: each request goes to the server over one of its own, after its delay."""

    def __init__(self, mood: _Mood, port: int, *, slow: bool) -> None:
        self._mood, self._port, self._slow = mood, port, slow
        self._waiting: list[bytes] = []
        self.transport: Any = None
        self._back: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self._back, _ = await asyncio.get_running_loop().create_connection(lambda: _Back(self), "127.0.0.1", self._port)
        for data in self._waiting:
            self._forward(data)

    def data_received(self, data: bytes) -> None:
        """A request: clients send each in one piece, and the next after the answer."""
        if data.startswith(b"GET /v1/routing"):
            self.transport.write(self._mood.table)
            return
        if b"/rows/" in data[:100]:
            self._mood.arrived += 1
        delay_s = self._mood.delay_s(time.monotonic()) if self._slow else 0.0
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._forward, data)
        elif self._back is None:
            self._waiting.append(data)
        else:
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        if self._back is None:
            self._waiting.append(data)
        elif not self._back.is_closing():
            self._back.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connecting.cancel()
        if self._back is not None:
            self._back.close()


class _Back(asyncio.Protocol):
    """The proxy's connection to a server."""

    def __init__(self, front: _Front) -> None:
        self._front = front

    def data_received(self, data: bytes) -> None:
        self._front.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.transport.close()


async def _serve_proxy(ports: Sequence[int]) -> None:
    """In a process of its own: until our input ends."""
    loop, mood = asyncio.get_running_loop(), _Mood()
    fronts = [
        await loop.create_server(lambda port=port, slow=slow: _Front(mood, port, slow=slow), "127.0.0.1", 0)
        for port, slow in zip(ports, (False, True), strict=True)
    ]
    urls = tuple(f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}" for front in fronts)
    route = StoreRoute(id=1, version=1, partitions=1, replicas=(urls,))
    body = RoutingTable(epoch=1, as_of_us=1, stores={"members": route}).encode()
    mood.table = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    print(json.dumps({"url": urls[0]}), flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := (await orders.readline()).decode().strip():
        mood.obey(order)
        print(json.dumps({"arrived": mood.arrived}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--proxy"]:
        import uvloop

        uvloop.run(_serve_proxy([int(port) for port in sys.argv[2:]]))
    else:
        main(NAME, QUESTION, measure)
