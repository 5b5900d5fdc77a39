"""Fail-over: one question, asked of one server after the other until one answers.

Servers are alternatives: any of them may enter a query, any replica of a shard may answer its part, and all answer the same, so asking
again is always right. Who failed a moment ago is asked last. A server that gives no sign of life is left after about half a second
(`peer.TICK_S` + `peer.PING_S`), one that cannot be reached at once. The last one left is waited for until the deadline, as there is nobody
else. `Asking` separates sending from waiting, so that questions to several shards are under way at once. One thread each.
"""

from __future__ import annotations

from collections.abc import Sequence

from fondaco.core.errors import FondacoError, UnavailableError
from fondaco.graph.deadlines import Deadline
from fondaco.graph.service.peer import Asked, Exchange, LostError, Peer, QuietError, Reply


class Asking:
    """A question on its way. `begin`, then `finish` or `cancel`."""

    def __init__(self, peers: Sequence[Peer], asked: Asked, deadline: Deadline, what: str) -> None:
        """
        Args:
            peers: in the order of preference. what: who they are together, for the message if none answers.
        """
        self._left = sorted(peers, key=lambda peer: peer.is_suspect)
        self._asked, self._deadline, self._what = asked, deadline, what
        self._quiet: list[Peer] = []
        self._failures: list[tuple[Peer, FondacoError]] = []
        self._peer: Peer | None = None
        self._exchange: Exchange | None = None

    def begin(self) -> Asking:
        """Send it to the first that takes it.

        Raises:
            UnavailableError: nobody did. DeadlineExceededError, and what a server refuses with.
        """
        while self._exchange is None:
            peer, patient = self._next()
            try:
                self._exchange, self._peer = peer.begin(self._asked, self._deadline, patient=patient), peer
            except UnavailableError as error:
                self._failed(peer, error)
        return self

    def finish(self) -> Reply:
        """The answer.

        Raises:
            as `begin`.
        """
        while True:
            self.begin()
            assert self._exchange is not None
            assert self._peer is not None
            exchange, self._exchange = self._exchange, None
            try:
                return exchange.finish()
            except UnavailableError as error:
                self._failed(self._peer, error)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def _next(self) -> tuple[Peer, bool]:
        if self._left:
            peer = self._left.pop(0)
            return peer, not self._left and not self._quiet
        if self._quiet:
            return self._quiet.pop(0), True
        raise self._unavailable()

    def _failed(self, peer: Peer, error: UnavailableError) -> None:
        if isinstance(error, (QuietError, LostError)):
            peer.suspect()
        if isinstance(error, QuietError):
            self._quiet.append(peer)
        self._failures.append((peer, error))

    def _unavailable(self) -> FondacoError:
        if not self._failures:
            return UnavailableError(self._what, "no server is known")
        told = [error for _, error in self._failures if not isinstance(error, (QuietError, LostError))]
        if told:
            return told[-1]  # a server's own words say more than that others are gone
        reasons = {str(peer.address): error for peer, error in self._failures if isinstance(error, UnavailableError)}
        shown = "; ".join(f"{address}: {error.reason}" for address, error in list(reasons.items())[:8])
        return UnavailableError(self._what, shown + ("; ..." if len(reasons) > 8 else ""))


def ask(peers: Sequence[Peer], asked: Asked, deadline: Deadline, what: str) -> Reply:
    """Ask until one answers.

    Raises:
        as `Asking.begin`.
    """
    return Asking(peers, asked, deadline, what).begin().finish()
