"""Admission: who asks, for which store, and whether it may be answered now: caller, role, quota and deadline of one request.

On the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final, TypeVar

from fondaco.catalog.rows import Role
from fondaco.core.errors import DeadlineExceededError, NotFoundError
from fondaco.dataplane import asked
from fondaco.dataplane.auth import Access, Caller
from fondaco.dataplane.http import Request
from fondaco.dataplane.limits import Limits
from fondaco.dataplane.quotas import Quotas, Use
from fondaco.dataplane.served import ServedStore, StoreSet
from fondaco.dataplane.stats import GET

T = TypeVar("T")
_FOREVER: Final = float("inf")


class Reply:
    """One request on its way through: who asks, of which store, and since when."""

    __slots__ = ("caller", "kind", "request", "started", "store")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.caller: Caller | None = None
        self.store: ServedStore | None = None
        self.kind = GET
        self.started = time.perf_counter_ns()

    def count(self, keys: int, missing: int, answer_bytes: int) -> None:
        """Count it as answered."""
        assert self.store is not None
        self.store.stats.answered(self.kind, keys, missing, answer_bytes, time.perf_counter_ns() - self.started)


class Admission:
    """The stores, the tokens and the quotas that requests are measured by."""

    def __init__(self, stores: StoreSet, access: Access, quotas: Quotas, limits: Limits) -> None:
        self.stores, self.access, self.quotas, self.limits = stores, access, quotas, limits

    def caller(self, reply: Reply) -> Caller:
        """Who asks.

        Raises:
            AuthenticationError.
        """
        reply.caller = self.access.caller(reply.request.headers.get(b"authorization"))
        return reply.caller

    def admit(self, reply: Reply, role: Role, request: Request) -> ServedStore:
        """The store that a request names, if the caller has the role on it; whoever has not is not told whether there is such a store.

        Raises:
            AuthenticationError, PermissionDeniedError, StoreNotFoundError. UnavailableError: the server is starting.
        """
        caller = self.caller(reply)
        name = asked.text_of(request.target.partition(b"?")[0].split(b"/")[3])
        caller.check(role, name)
        try:
            reply.store = self.stores.get(name)
        except NotFoundError as exc:
            visible = [other for other in exc.available if caller.may("read", str(other))]
            raise type(exc)(name, visible) from None
        return reply.store

    def take(self, reply: Reply, use: Use, units: int) -> None:
        """Take units of the caller's quota.

        Raises:
            QuotaExceededError.
        """
        if self.quotas.any:
            assert reply.store is not None
            assert reply.caller is not None
            self.quotas.take(reply.store.name, reply.caller.name, use, units, time.monotonic())


# -- deadlines --------------------------------------------------------------------------------------------------------------------------


async def within(reply: Reply, work: Awaitable[T], what: str) -> T:
    """What `work` gives, if it does before the request's deadline.

    Raises:
        DeadlineExceededError: it does not; `what` says what was waited for.
    """
    left = reply.request.deadline - asyncio.get_running_loop().time()
    try:
        return await asyncio.wait_for(work, None if left == _FOREVER else max(left, 0.0))
    except TimeoutError:
        raise _too_late(reply, what) from None


def check_deadline(reply: Reply, state: str) -> None:
    """Raises DeadlineExceededError if nobody waits for the answer any more."""
    if reply.request.deadline != _FOREVER and asyncio.get_running_loop().time() > reply.request.deadline:
        raise _too_late(reply, state)


def _too_late(reply: Reply, state: str) -> DeadlineExceededError:
    return DeadlineExceededError("the request", round(reply.request.deadline - reply.request.arrived, 3), state)
