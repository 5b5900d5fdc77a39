"""Reaper: what makes the services that run those that shall run: level-based, safe to run anywhere, any number of times at once.

One look: leases that have run out are ended, services that nobody has held for their ttl are removed, removals that were begun are gone on
with, what runs without a row is adopted (or removed, if its row says it is gone), and live services that were never made, lost, or changed
by somebody else are applied again. It asks each cluster once (`observe_all`) and the catalog a handful of times, however many services
there are; only what is to be done costs more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from fondaco.core.errors import FondacoError
from fondaco.services.context import ServicesContext, apply_live, desired_of, differs, settle_stranger
from fondaco.services.local.files import SERVICES_DIRECTORY
from fondaco.services.local.sweep import note_look
from fondaco.services.provisioner import Observed, Phase

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fondaco.catalog import LeaseRow, ServiceRow

MAKING_US: Final = 10_000_000  # for whoever entered a row to make the service, before the reaper does
_AT_ONCE: Final = 8  # provisioners are waited for, not computed with
_LOGGER = logging.getLogger("fondaco.services")


class ReapReport(msgspec.Struct, frozen=True):
    """What one look of the reaper did.

    Attributes:
        expired: "service: holder" of leases that have run out. removed: services of which nothing is left now. waiting: those whose removal
            goes on. adopted: found running without a row. repaired: applied again. noted: whose holders were written down where it runs.
            errors: what could not be done, in words; it is tried again the next time.
    """

    expired: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything happened that somebody may want to know."""
        return any((self.expired, self.removed, self.waiting, self.adopted, self.repaired, self.errors))


@dataclass
class _Look:
    """The report, while it is written; any thread."""

    expired: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def report(self) -> ReapReport:
        return ReapReport(**{name: tuple(sorted(said)) for name, said in vars(self).items()})


def reap(context: ServicesContext, *, repair: bool = True) -> ReapReport:
    """One look.

    Args:
        repair: False: apply nothing.
    Raises:
        UnavailableError, StorageError: of the catalog. Whatever a cluster answers is in the report.
    """
    look = _Look()
    _let_time_pass(context, look)
    seen = _observe_all(context, look)
    rows, leases = _read(context)  # after the clusters were asked: what they showed had a row by then, if it ever had one
    strangers = _strangers(rows, seen)
    _settle(context, look, strangers)
    if strangers:
        rows, leases = _read(context)
    _remove(context, look, [row for row in rows if row.state == "REMOVING" and row.cluster in seen])
    _unreachable(look, rows, seen)
    now_us = context.now_us()
    work = []
    for row in rows if repair else ():
        done = _to_be_applied(look, row, leases.get(row.id, []), seen, now_us)
        if done is not None:
            work.append((row.name, _applying(context, row, done)))
    _at_once(look, work)
    note_look(context.catalog.directory / SERVICES_DIRECTORY)
    return look.report()


def adopt(context: ServicesContext) -> ReapReport:
    """Only enter again what runs without a row, and remove what runs although its row says that it is gone."""
    look = _Look()
    seen = _observe_all(context, look)
    rows, _ = _read(context)
    _settle(context, look, _strangers(rows, seen))
    return look.report()


def reap_loop(context: ServicesContext, stop: threading.Event, every_s: float, on_report: Callable[[ReapReport], None] | None) -> None:
    """Look again and again until told to stop; an error of one look is logged, and the next one comes."""
    while not stop.is_set():
        try:
            report = reap(context)
        except FondacoError as exc:
            _LOGGER.warning("the reaper could not look after the services: %s", exc)
        else:
            if on_report is not None:
                on_report(report)
        stop.wait(every_s)


# -- steps ------------------------------------------------------------------------------------------------------------------------------


def _let_time_pass(context: ServicesContext, look: _Look) -> None:
    from fondaco.catalog import services

    now_us = context.now_us()
    if not context.read(lambda connection: services.is_something_over(connection, now_us)):
        return

    def pass_time(connection: Connection) -> list[str]:
        over = services.expire(connection, now_us)
        rows = services.known(connection, [lease.service_id for lease in over])
        services.begin_removal_of_due(connection, now_us)
        return [f"{rows[lease.service_id].name}: {lease.holder}" for lease in over]

    look.expired.extend(context.write(pass_time))


def _observe_all(context: ServicesContext, look: _Look) -> dict[str, Mapping[str, Observed]]:
    seen: dict[str, Mapping[str, Observed]] = {}
    for cluster, found in context.places.observe_all(context.places.names()).items():
        if isinstance(found, FondacoError):
            look.errors.append(f"cluster {cluster}: {found}")
        else:
            seen[cluster] = found
    return seen


def _read(context: ServicesContext) -> tuple[list[ServiceRow], dict[int, list[LeaseRow]]]:
    from fondaco.catalog import services

    return context.read(lambda connection: (services.all_of(connection), services.all_leases(connection)))


def _strangers(rows: Iterable[ServiceRow], seen: Mapping[str, Mapping[str, Observed]]) -> list[tuple[str, Observed]]:
    known = {row.id for row in rows}
    strange = [
        (cluster, observed)
        for cluster, services in seen.items()
        for observed in services.values()
        if observed.phase is not Phase.ABSENT and observed.incarnation not in known
    ]
    # the newest first: of two with one name, an older one was on its way out already, on a cluster that did not answer
    return sorted(strange, key=lambda found: -found[1].incarnation)


def _settle(context: ServicesContext, look: _Look, strangers: Iterable[tuple[str, Observed]]) -> None:
    for cluster, observed in strangers:
        try:
            outcome = settle_stranger(context, cluster, observed)
        except FondacoError as exc:
            look.errors.append(f"service {observed.service}: {exc}")
        else:
            if outcome == "adopted":
                look.adopted.append(observed.service)


def _remove(context: ServicesContext, look: _Look, rows: list[ServiceRow]) -> None:
    from fondaco.catalog import services

    gone: list[ServiceRow] = []

    def removing(row: ServiceRow) -> Callable[[], None]:
        def remove() -> None:
            (gone if context.places.provisioner(row.cluster).remove(row.name, row.id) else waiting).append(row)

        return remove

    waiting: list[ServiceRow] = []
    _at_once(look, [(row.name, removing(row)) for row in rows])
    if gone:
        context.write(lambda connection: services.end_removal(connection, [row.id for row in gone], now_us=context.now_us()))
    look.removed.extend(row.name for row in gone)
    look.waiting.extend(row.name for row in waiting)


def _unreachable(look: _Look, rows: Iterable[ServiceRow], seen: Mapping[str, Mapping[str, Observed]]) -> None:
    look.waiting.extend(row.name for row in rows if row.state == "REMOVING" and row.cluster not in seen)


def _to_be_applied(
    look: _Look, row: ServiceRow, leases: list[LeaseRow], seen: Mapping[str, Mapping[str, Observed]], now_us: int
) -> list[str] | None:
    """Where to note that a service was applied; None if it is what it shall be, or its cluster is away. One that nobody uses and that has
    vanished is left so: `ensure` makes it again."""
    if row.state != "LIVE" or row.cluster not in seen:
        return None
    observed = seen[row.cluster].get(row.name)
    if observed is None or observed.phase is Phase.ABSENT:
        is_missed = any(lease.holds(now_us) for lease in leases) and now_us - row.created_us >= MAKING_US
        return look.repaired if is_missed else None
    desired = desired_of(row, leases, now_us)
    if differs(row, observed, desired):
        return look.repaired
    told = observed.desired
    return look.noted if told is not None and dict(told.annotations) != dict(desired.annotations) else None


def _applying(context: ServicesContext, row: ServiceRow, done: list[str]) -> Callable[[], None]:
    def apply() -> None:
        if apply_live(context, row):
            done.append(row.name)

    return apply


def _at_once(look: _Look, work: list[tuple[str, Callable[[], None]]]) -> None:
    """Do all of it, a few at a time; what fails is in the report, and keeps nothing else from being done."""

    def do(name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except FondacoError as exc:
            look.errors.append(f"service {name}: {exc}")

    if len(work) < 2:
        for name, step in work:
            do(name, step)
        return
    with ThreadPoolExecutor(_AT_ONCE, "fondaco-reaper") as pool:
        list(pool.map(lambda item: do(*item), work))
