"""Ensuring: from a spec to a service that runs and is held, whatever is there already and whoever does the same at the same time.

    claim     in one transaction: the live service of this name gets our lease. If there is none: what is left of an old one is cleared
              away, what runs without a row is adopted, `check` asks whether it can work; then row and lease are entered in one transaction.
    make      `apply`, where nothing of it is there, it has failed, or it differs from what it shall be.
    wait      until every instance is ready; the lease is renewed meanwhile.

Each step can be the last one of a process: the row of a service that was not made yet is enough for the next one, or for the reaper, to
make it or to remove it. When the row turns out not to be live any more, it begins again with `claim`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from fondaco.core.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FondacoError,
    InputError,
    ServiceFailedError,
    StateError,
    UnavailableError,
)
from fondaco.services.context import (
    ServicesContext,
    apply_live,
    desired_of,
    differs,
    finish_removal,
    logged,
    settle_stranger,
    spec_of,
)
from fondaco.services.provisioner import Desired, Observed, Phase
from fondaco.services.spec import ServiceSpec
from fondaco.services.status import ServiceStatus, status_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fondaco.catalog import ServiceRow

ANOTHER_S: Final = 2.0  # for whoever entered the row to make it, before somebody who merely found it does
MENDING_S: Final = 5.0  # for a failed service that was applied again to show that it lives
SILENT_S: Final = 30.0  # for a cluster that does not answer while we wait
CLEARING_S: Final = 8.0  # for an old service of this name to go, where the caller does not wait
_PAUSES_S: Final = (0.02, 0.5)  # between two looks: first and longest; a service of a process is ready in a tenth of a second
_LOG_LINES: Final = 20
_OTHERS: Final = "others come and go under its name"
_LOGGER = logging.getLogger("fondaco.services")
Progress = Callable[[ServiceStatus], None]


class _SupersededError(Exception):
    """The row that was worked for is not live any more."""


class Ensuring:
    """One call of `Services.ensure`."""

    def __init__(
        self,
        context: ServicesContext,
        spec: ServiceSpec,
        holder: str,
        *,
        lease_us: int | None,
        wait: bool,
        timeout_s: float,
        progress: Progress | None,
    ) -> None:
        """
        Args:
            spec: resolved.
        """
        self._context, self._spec, self._holder = context, spec, holder
        self._name = spec.service
        self._lease_us, self._wait, self._progress = lease_us, wait, progress
        self._timeout_s = timeout_s if wait else min(timeout_s, CLEARING_S)
        self._begun = time.monotonic()
        self._obstacle = _OTHERS
        self._fresh = False  # whether the lease is one that this call took
        self._unended = False  # whether this call took the end off a lease that its holder had
        self._refusals: dict[str, FondacoError] = {}  # of clusters that were tried

    def run(self) -> tuple[ServiceRow, Observed | None]:
        """The service, held; and how it was seen last.

        Raises:
            as `Services.ensure`.
        """
        while True:
            row, is_ours = self._claim()
            claimed_us = self._context.now_us()
            try:
                seen = self._make(row, is_ours)
                self._hold_on(row, claimed_us)
                return row, seen
            except _SupersededError:
                self._fresh = self._unended = False
                self._check_time("its row was removed, again and again")
            except _RefusedError as refused:
                self._refusals[row.cluster] = refused.reason
            except BaseException:
                self._give_back(row)
                raise

    # -- claim ------------------------------------------------------------------------------------------------------------------------

    def _claim(self) -> tuple[ServiceRow, bool]:
        """The live row with our lease on it, and whether this call has made it."""
        others = False  # whether somebody was there before us, who is gone again
        while True:
            row = self._context.write(self._hold_live)
            if row is not None:
                return row, False
            if others:  # not sooner: where the catalog is slow, time may be up when another caller has just made what we want
                self._check_time(self._obstacle)
            row = self._enter()
            if row is not None:
                return row, True
            others = True

    def _hold_live(self, connection: Connection) -> ServiceRow | None:
        from fondaco.catalog import services

        row = services.find(connection, self._name)
        if row is None:
            return None
        if row.identity != self._spec.identity:
            raise AlreadyExistsError("service", self._name, _difference(spec_of(row), self._spec))
        self._fresh = self._take(connection, row) or self._fresh
        if row.ttl_us < self._spec.ttl_us:
            services.update(connection, row.id, ttl_us=self._spec.ttl_us)
        return row

    def _take(self, connection: Connection, row: ServiceRow) -> bool:
        from fondaco.catalog import services

        now_us = self._context.now_us()
        expires = None if self._lease_us is None else now_us + self._lease_us
        if expires is None and not self._unended:
            ended = (lease.holder for lease in services.leases(connection, row.id) if lease.expires_us is not None)
            self._unended = self._holder in ended
        return services.take_lease(connection, row.id, self._holder, expires_us=expires, now_us=now_us)

    def _enter(self) -> ServiceRow | None:
        """A new row on the first cluster that can; None if there is another one by now."""
        for cluster in self._context.places.candidates(self._spec.placement):
            if cluster in self._refusals:
                continue
            try:
                provisioner = self._context.places.provisioner(cluster)
                if not self._clear(cluster):
                    return None
                seen = provisioner.observe(self._name)
                if settle_stranger(self._context, cluster, seen) is not None:
                    return None
                provisioner.check(Desired(self._name, 0, self._spec, self._spec.replicas))
            except (UnavailableError, InputError) as exc:
                self._refusals[cluster] = exc
                _LOGGER.info("service %r cannot run on %s: %s", self._name, cluster, exc)
                continue
            return self._context.write(lambda connection, cluster=cluster: self._insert(connection, cluster))  # type: ignore[misc]
        raise self._refusal()

    def _insert(self, connection: Connection, cluster: str) -> ServiceRow | None:
        from fondaco.catalog import services

        if services.find(connection, self._name) is not None:
            return None
        if any(row.cluster == cluster for row in services.removing(connection, self._name)):
            return None
        spec = self._spec
        row = services.create(
            connection, self._name, identity=spec.identity, spec=spec.to_dict(), cluster=cluster, replicas=spec.replicas,
            ttl_us=spec.ttl_us, now_us=self._context.now_us(),
        )  # fmt: skip
        self._fresh = self._take(connection, row)
        return row

    def _clear(self, cluster: str) -> bool:
        """Wait until what is on its way out under this name is gone; False if it is not yet."""
        from fondaco.catalog import services

        old = [row for row in self._context.read(lambda c: services.removing(c, self._name)) if row.cluster == cluster]
        self._obstacle = "an older service of this name is still on its way out" if old else _OTHERS
        gone = False not in {finish_removal(self._context, row) for row in old}  # each of them, also after one that is not gone yet
        if not gone:
            self._check_time(self._obstacle)
            self._pause(_PAUSES_S[1] / 2)
        return gone

    def _refusal(self) -> FondacoError:
        """What to raise when no cluster takes it: the one refusal, or all of them; retryable if a cluster may come back."""
        refusals = self._refusals
        if len(refusals) == 1:
            return next(iter(refusals.values()))
        said = "; ".join(f"{cluster}: {exc}" for cluster, exc in refusals.items())
        if any(isinstance(exc, UnavailableError) for exc in refusals.values()):
            return UnavailableError(f"for service {self._name!r}, none of the clusters {', '.join(refusals)}", said)
        return InputError(f"service {self._name!r} can run on none of its clusters: {said}")

    # -- make -------------------------------------------------------------------------------------------------------------------------

    def _make(self, row: ServiceRow, is_ours: bool) -> Observed | None:
        """Apply it where that is needed, and wait for it if the caller does."""
        if is_ours:
            self._apply_new(row)
            return self._until_ready(row, is_new=True) if self._wait else None
        if self._wait:
            return self._until_ready(row, is_new=False)
        seen = self._observe(row)
        if self._needs_apply(row, seen):
            self._apply(row)
            return None
        return seen

    def _apply_new(self, row: ServiceRow) -> None:
        try:
            self._apply(row)
        except (UnavailableError, InputError, StateError) as exc:
            said = str(exc)
            if self._context.write(lambda connection: self._abandon(connection, row, said)):
                with logged(f"what was made of service {row.name!r} on {row.cluster} is removed later"):
                    finish_removal(self._context, row)
            raise _RefusedError(exc) from exc

    def _apply(self, row: ServiceRow) -> None:
        """Apply it; objects of a service that is gone, found in its way, are removed first."""
        was_clear = False
        while True:
            try:
                if apply_live(self._context, row):
                    return
                raise _SupersededError
            except StateError:
                seen = self._context.places.provisioner(row.cluster).observe(row.name)
                is_clear = seen.phase is Phase.ABSENT
                if seen.incarnation == row.id or (is_clear and was_clear) or not (is_clear or self._remove_stranger(row, seen)):
                    raise
                was_clear = is_clear
                self._check_time("an older service of this name is still on its way out")

    def _remove_stranger(self, row: ServiceRow, seen: Observed) -> bool:
        """Go on with the removal of what stands in the way; False if it is nothing that may be removed."""
        from fondaco.catalog import services

        if seen.desired is None:
            return False
        settle_stranger(self._context, row.cluster, seen)  # ours is live under this name, so it is entered as one to be removed
        other = self._context.read(lambda connection: services.get_incarnation(connection, seen.incarnation))
        if other is None or other.removed_us is not None:
            return True
        if not finish_removal(self._context, other):
            self._pause(_PAUSES_S[1] / 2)
        return True

    def _abandon(self, connection: Connection, row: ServiceRow, reason: str) -> bool:
        """Give back our lease on a service that cannot be made, and have it removed unless somebody else has taken one."""
        from fondaco.catalog import services

        now_us = self._context.now_us()
        if self._fresh:
            services.release(connection, row.id, self._holder, now_us=now_us)
            self._fresh = False
        if services.leases(connection, row.id):
            return False
        services.begin_removal(connection, row.id, now_us=now_us, reason=f"it could not be made: {reason}")
        return True

    def _needs_apply(self, row: ServiceRow, seen: Observed) -> bool:
        return seen.phase is Phase.FAILED or differs(row, seen, desired_of(row, (), self._context.now_us()))

    # -- wait -------------------------------------------------------------------------------------------------------------------------

    def _until_ready(self, row: ServiceRow, *, is_new: bool) -> Observed:
        begun = heard = renewed = time.monotonic()
        applied = begun if is_new else None
        pause, last = _PAUSES_S[0], None
        while True:
            now = time.monotonic()
            try:
                seen, heard = self._observe(row), now
            except UnavailableError as exc:
                if now - heard > SILENT_S:
                    raise
                seen = Observed(row.name, row.id, Phase.UNKNOWN, 0, row.replicas, str(exc))
            if seen.phase is not last:
                row, last = self._live(row), seen.phase
            self._report(row, seen)
            if self._is_ready(row, seen, was_applied=applied is not None):
                return seen
            if seen.phase is Phase.FAILED and applied is not None and (is_new or now - applied > MENDING_S):
                raise ServiceFailedError(row.name, seen.reason or "it says no reason", self._log_tail(row))
            if self._shall_apply(row, seen, now, begun, applied):
                self._apply(row)
                applied, row = time.monotonic(), self._live(row)
            self._check_time(seen.reason or f"{seen.ready}/{seen.total or row.replicas} ready")
            if self._lease_us is not None and (now - renewed) * 3e6 > self._lease_us:
                self._take_again(row)
                renewed = now
            self._pause(pause)
            pause = min(pause * 1.3, _PAUSES_S[1])

    def _is_ready(self, row: ServiceRow, seen: Observed, *, was_applied: bool) -> bool:
        """Whether every instance of what it shall be is ready; what drifts although we have just applied it need not stop a job."""
        desired = desired_of(row, (), 0)
        if was_applied:
            seen = msgspec.structs.replace(seen, drift=())
        return seen.phase is Phase.READY and not differs(row, seen, desired)

    def _shall_apply(self, row: ServiceRow, seen: Observed, now: float, begun: float, applied: float | None) -> bool:
        if seen.phase is Phase.UNKNOWN:
            return False
        patience = MENDING_S if applied is not None else ANOTHER_S if seen.phase is Phase.ABSENT else 0.0
        return now - (begun if applied is None else applied) >= patience and self._needs_apply(row, seen)

    def _live(self, row: ServiceRow) -> ServiceRow:
        """The row as it is now."""
        from fondaco.catalog import ServiceState, services

        now = self._context.read(lambda connection: services.get_incarnation(connection, row.id))
        if now is None or now.state is not ServiceState.LIVE:
            raise _SupersededError
        return now

    def _hold_on(self, row: ServiceRow, since_us: int) -> None:
        """Renew the lease if making the service took long, by the clock that leases are measured by."""
        if self._lease_us is not None and (self._context.now_us() - since_us) * 3 > self._lease_us:
            self._take_again(row)

    def _take_again(self, row: ServiceRow) -> None:
        """Renew the lease, or take it anew if it has run out; in one transaction with the look whether the service is live."""
        from fondaco.catalog import ServiceState, services

        def take(connection: Connection) -> bool:
            now = services.get_incarnation(connection, row.id)
            if now is None or now.state is not ServiceState.LIVE:
                raise _SupersededError
            return self._take(connection, now)

        self._fresh = self._context.write(take) or self._fresh

    def _observe(self, row: ServiceRow) -> Observed:
        return self._context.places.provisioner(row.cluster).observe(row.name)

    def _report(self, row: ServiceRow, seen: Observed) -> None:
        if self._progress is not None:
            self._progress(
                status_of(row, (), seen if seen.phase is not Phase.UNKNOWN else None, self._context.now_us(), unknown=seen.reason)
            )

    def _log_tail(self, row: ServiceRow) -> tuple[str, ...]:
        with contextlib.suppress(FondacoError):
            return tuple(self._context.places.provisioner(row.cluster).logs(row.name, lines=_LOG_LINES))
        return ()

    # -- time -------------------------------------------------------------------------------------------------------------------------

    def _check_time(self, state: str) -> None:
        if time.monotonic() - self._begun >= self._timeout_s:
            raise DeadlineExceededError(f"ensure service {self._name!r}", round(self._timeout_s, 3), state)

    def _pause(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self._begun + self._timeout_s - time.monotonic())))

    def _give_back(self, row: ServiceRow) -> None:
        """Drop the lease that this call took, and let one end again that had an end; the service stays for its ttl."""
        from fondaco.catalog import services

        now_us = self._context.now_us()
        with logged(f"lease of service {row.name!r} by {self._holder!r} stays as it is"):
            if self._fresh:
                self._context.write(lambda c: services.release(c, row.id, self._holder, now_us=now_us))
            elif self._unended:
                self._context.write(lambda c: services.renew(c, row.id, self._holder, now_us + self._context.lease_us, exactly=True))
        self._fresh = self._unended = False


class _RefusedError(Exception):
    """A cluster has refused a new service; the next one may take it."""

    def __init__(self, reason: FondacoError) -> None:
        super().__init__(reason)
        self.reason = reason


def _difference(there: ServiceSpec, asked: ServiceSpec) -> str:
    """In what two specs under one name differ, in words."""
    one, other = there.meaning(), asked.meaning()
    different = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    if not different:
        return "it was updated since; ask for it as it is now, or leave out exact_name"
    key = different[0]
    more = f" (and its {', '.join(different[1:])})" if different[1:] else ""
    one, other = there.to_dict(), asked.to_dict()  # as they were written
    return f"its {key} is {one.get(key)!r}, not {other.get(key)!r}{more}; update it, or leave out exact_name"
