"""Client: how one request becomes an answer: attempts, another peer, a hedge, an error of ours. And how several run beside each other.

`Caller.ask` is an operation (`pool`): a generator without I/O that the blocking and the asyncio transport run alike. It ends with an answer
whose status is 2xx (or 404 of a row that does not exist), or raises the error that the server told, rebuilt (`wire.error_from`), or
UnavailableError, ProtocolError or DeadlineExceededError for what happened on the way. Deadlines are absolute; the server is told what is
left of them each time it is asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    ProtocolError,
    QuotaExceededError,
    UnavailableError,
)
from fondaco.dataplane import wire
from fondaco.dataplane.hedging import Budget, LatencyWindow, choose
from fondaco.dataplane.pool import Exchange, Operation, Peer, Transport, Wait
from fondaco.dataplane.protocol import Answer, Request
from fondaco.dataplane.retry import RetryPolicy, is_passing

TIMEOUT_S: Final = 5.0
TIMEOUT_S_MAX: Final = 3600.0
IN_FLIGHT: Final = 4  # pieces of one call under way at a time
HUNG_S: Final = 0.25  # a peer that has not answered after so long, and ten times what is usual, hangs: it is avoided for a while
GATEWAY_HUNG_S: Final = 1.0  # the same where nothing is known of what is usual
_NO_CONNECTION_PAUSE_S: Final = 0.002
_MISSING: Final = (b'{"found":false', b'{"found": false')

T = TypeVar("T")


def deadline_of(timeout_s: float) -> float:
    """The moment (`time.monotonic`) when a call that begins now is given up.

    Raises:
        InputError: no number of seconds above zero.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s > 0.0:
        raise InputError(f"timeout_s is a number of seconds above 0, not {timeout_s!r}")
    return time.monotonic() + min(float(timeout_s), TIMEOUT_S_MAX)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exchange ended: an answer, or an error; `answered`: the peer said it."""

    answer: Answer | None = None
    error: FondacoError | None = None
    answered: bool = False


@dataclass(slots=True)
class Caller:
    """Asks peers for answers. One per client; any thread that the transport allows.

    Attributes:
        hedges: pays for second requests. retries: pays for repeated ones; some are saved up at the start, so that a client that seldom
            asks can repeat itself at once.
    """

    transport: Transport
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    hedges: Budget = field(default_factory=Budget)
    retries: Budget = field(default_factory=lambda: Budget(saved=10.0))
    rng: random.Random = field(default_factory=random.Random)
    on_failure: Callable[[Peer], None] = lambda peer: None  # a peer did not answer

    def ask(
        self,
        what: str,
        request: Request,
        peers: Sequence[Peer],
        deadline: float,
        *,
        window: LatencyWindow | None = None,
        alone: bool = True,
        started: Exchange | None = None,
    ) -> Operation[Answer]:
        """An answer from one of `peers`.

        Args:
            what: for messages, as "get from store 'members'".
            window: latencies of such requests; with it, a second peer is asked when the first takes long.
            alone: nothing else of this call is under way, so it may wait for a free connection.
            started: the first exchange, if it is under way already, and paid for (`earn`).
        Raises:
            DeadlineExceededError, UnavailableError, ProtocolError; and what the server says.
        """
        began = time.monotonic()
        failed: set[Peer] = set()
        running: list[Exchange] = []
        attempts = 0
        if started is None:
            self.earn()
        try:
            while True:
                attempts += 1
                if started is not None and attempts == 1:
                    running.append(started)
                else:
                    running.append((yield from self._start_one(what, peers, failed, request, began, deadline, alone)))
                outcome = yield from self._first(what, request, peers, running, began, deadline, window, failed)
                if outcome.answer is not None:
                    return outcome.answer
                error = outcome.error
                assert error is not None
                # A peer that cannot be reached has no load to be spared; one that answers "not now" has.
                if not (request.repeatable and self.policy.again(error, attempts)) or (outcome.answered and not self.retries.spend()):
                    raise error
                untried = any(peer not in failed and peer.avoided_until <= time.monotonic() for peer in peers)
                pause = 0.0 if untried else self.policy.pause_s(attempts, self.rng)
                if time.monotonic() + pause >= deadline:
                    raise error
                if pause:
                    yield Wait((), time.monotonic() + pause)
        finally:
            for exchange in running:
                if not exchange.done:
                    self.transport.abandon(exchange)

    def earn(self) -> None:
        """A first request is sent: it pays a tenth of an extra one."""
        self.hedges.earn()
        self.retries.earn()

    def _start_one(
        self, what: str, peers: Sequence[Peer], failed: set[Peer], request: Request, began: float, deadline: float, alone: bool
    ) -> Operation[Exchange]:
        peer = choose(peers, failed, time.monotonic(), self.rng)
        if peer is None:
            failed.clear()
            peer = choose(peers, (), time.monotonic(), self.rng)
        if peer is None:
            raise UnavailableError("every node", f"none has what {what} needs ready now")
        return (yield from self._start(what, peer, request, began, deadline, alone))

    def _start(self, what: str, peer: Peer, request: Request, began: float, deadline: float, alone: bool) -> Operation[Exchange]:
        while True:
            exchange = self.transport.start(peer, request, deadline, wait=alone)
            if exchange is not None:
                return exchange
            now = time.monotonic()
            if now >= deadline:
                raise _late(what, began, deadline, f"all connections to {peer.url} were in use")
            yield Wait((), min(deadline, now + _NO_CONNECTION_PAUSE_S))

    def _first(
        self, what: str, request: Request, peers: Sequence[Peer], running: list[Exchange], began: float, deadline: float,
        window: LatencyWindow | None, failed: set[Peer],
    ) -> Operation[Outcome]:  # fmt: skip
        """The first good answer of what is running, hedged; or the error once nothing is running any more.

        Raises:
            DeadlineExceededError; and errors that another attempt would meet again.
        """
        first, last = running[0], Outcome()
        hung_at = first.started + (max(HUNG_S, 10 * window.delay_s) if window is not None else min(GATEWAY_HUNG_S, (deadline - began) / 3))
        hedge_at = first.started + window.delay_s if window is not None else hung_at
        if len(peers) < 2:
            hedge_at = hung_at = deadline
        while running:
            yield Wait(running, min(deadline, hedge_at))
            for exchange in [exchange for exchange in running if exchange.done]:
                running.remove(exchange)
                last = judge(exchange)
                if last.error is None:
                    exchange.peer.answered()
                    self._settle(running, exchange, window)
                    return last
                if not is_passing(last.error):
                    raise last.error
                failed.add(exchange.peer)
                exchange.peer.failed(time.monotonic())
                self.on_failure(exchange.peer)
            now = time.monotonic()
            if running and now >= deadline:
                for exchange in running:
                    exchange.peer.failed(now)
                    self.on_failure(exchange.peer)
                raise _late(what, began, deadline, f"{running[0].peer.url} had not answered")
            if running and now >= hedge_at:
                budget, hedge_at = (self.hedges, hung_at) if now < hung_at else (self.retries, deadline)
                if budget is self.retries:  # not slow but hung: others should not wait for it either
                    for exchange in running:
                        exchange.peer.failed(now)
                        self.on_failure(exchange.peer)
                other = choose(peers, {*failed, *(exchange.peer for exchange in running)}, now, self.rng)
                if other is not None and other.avoided_until <= now and budget.spend():
                    second = self.transport.start(other, request, deadline, wait=False)
                    if second is not None:
                        running.append(second)
        return last

    def _settle(self, losers: list[Exchange], winner: Exchange, window: LatencyWindow | None) -> None:
        """Note latencies, and let go of those that were slower."""
        if window is not None:
            window.add(winner.seconds)
            for loser in losers:
                window.add(loser.seconds)  # at least so long: leaving it out would make slow peers look fast
        for loser in losers:
            self.transport.abandon(loser)
        losers.clear()


def judge(exchange: Exchange) -> Outcome:
    """What the end of an exchange means."""
    answer = exchange.answer
    if answer is None:
        return Outcome(error=exchange.error or UnavailableError(exchange.peer.url, "no answer"))
    status = answer.status
    if 200 <= status < 300 or (status == 404 and bytes(answer.body[:15]).startswith(_MISSING)):
        return Outcome(answer)
    error = wire.error_from(status, answer.body, exchange.peer.url)
    if status == 429 and not isinstance(error, QuotaExceededError):  # of a proxy between us
        after = answer.header(wire.RETRY_AFTER) or ""
        seconds = float(after) if after.isascii() and after.isdigit() else 1.0
        error = QuotaExceededError("this client", exchange.peer.url, "requests", seconds)
    return Outcome(error=error, answered=True)


def _late(what: str, began: float, deadline: float, state: str) -> DeadlineExceededError:
    return DeadlineExceededError(what, round(deadline - began, 3), state)


def together(operations: Iterable[Operation[T]], at_most: int = IN_FLIGHT) -> Operation[list[T]]:
    """Run operations beside each other, at most so many at a time, and give their results in order; the first error ends all."""
    waiting = enumerate(operations)
    running: dict[int, tuple[Operation[T], Wait]] = {}
    results: dict[int, T] = {}

    def advance(number: int, operation: Operation[T]) -> None:
        try:
            running[number] = operation, next(operation)
        except StopIteration as exc:
            running.pop(number, None)
            results[number] = exc.value

    try:
        while True:
            while len(running) < at_most and (following := next(waiting, None)) is not None:
                advance(*following)
            if not running:
                return [results[number] for number in range(len(results))]
            waits = [wait for _, wait in running.values()]
            yield Wait([exchange for wait in waits for exchange in wait.exchanges], min(wait.until for wait in waits))
            now = time.monotonic()
            for number, (operation, wait) in list(running.items()):
                if wait.until <= now or any(exchange.done for exchange in wait.exchanges):
                    advance(number, operation)
    finally:
        for operation, _ in running.values():
            operation.close()


def whole_number(answer: Answer, name: str, peer: str) -> int:
    """A header that every answer of ours has.

    Raises:
        ProtocolError: it is missing, or no number.
    """
    number = answer.number(name, peer)
    if number is None:
        raise ProtocolError(peer, f"the answer has no header {name}")
    return number
