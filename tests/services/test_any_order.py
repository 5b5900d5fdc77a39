"""Whatever happens, in whatever order: processes that ensure, hold, release and reap, that die between any two steps or are overtaken by
others there; time that passes; objects that vanish; a catalog that is lost. No service is removed under a holder, none outlives its ttl
once it is looked after, nothing of an old incarnation stays.

A process is a manager whose every step (a transaction, a call of a provisioner) can be its last, or be the moment at which another process
does something whole. No threads: each example is replayed exactly.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fondaco.catalog import Catalog, ServiceRow, ServiceState
from fondaco.catalog import services as rows
from fondaco.core.clock import ManualClock
from fondaco.core.errors import DeadlineExceededError, ServiceNotFoundError, StateError, UnavailableError
from fondaco.services import ensuring
from fondaco.services.context import ServicesContext
from fondaco.services.manager import Services
from fondaco.services.provisioner import Phase
from services.conftest import CONFIG, START_US
from services.fake_provisioner import FakePlace, FakeProvisioner
from services.specs import feeder

EXAMPLES = int(os.environ.get("ANY_ORDER_EXAMPLES", "40"))
LEASE_US = 60_000_000
TTLS = ("0s", "1m", "10m")
SPECS = {f"s{number}": feeder(f"s{number}", ttl=TTLS[number], placement={"labels": {"gpu": "yes"}}) for number in range(3)}
HOLDERS = [f"run-{number}" for number in range(4)]


class Killed(BaseException):
    """A process ends here, as kill -9 ends it."""


@dataclass
class Process:
    """What befalls a process: at its `at`-th half-step (before a step and after it count one each) it is killed, or others act."""

    at: int | None = None
    others: Callable[[], None] | None = None
    is_dead: bool = False

    def half_step(self) -> None:
        if self.is_dead:
            raise Killed
        if self.at is None:
            return
        self.at -= 1
        if self.at > 0:
            return
        self.at = None
        if self.others is None:
            self.is_dead = True
            raise Killed
        self.others()


class SteppingContext(ServicesContext):
    process: Process

    def read(self, question: Any) -> Any:
        self.process.half_step()
        return super().read(question)

    def write(self, change: Any) -> Any:
        self.process.half_step()
        answer = super().write(change)
        self.process.half_step()
        return answer


class SteppingProvisioner(FakeProvisioner):
    def __init__(self, place: FakePlace, process: Process) -> None:
        super().__init__(place)
        self.process = process

    def _begin(self, method: str, service: str) -> None:
        self.process.half_step()
        super()._begin(method, service)

    def _end(self, method: str) -> None:
        super()._end(method)
        self.process.half_step()


@dataclass
class Held:
    """A lease that its holder was told it has."""

    service: str
    incarnation: int
    expires_us: int | None


class AnyOrder(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="fondaco-any-order-"))
        shutil.copytree(self.template, self.directory, dirs_exist_ok=True)
        self.catalog = Catalog.open(self.directory)
        sa.event.listen(self.catalog._engine, "checkout", lambda connection, *_: connection.execute("PRAGMA synchronous = OFF"))
        self.clock = ManualClock(START_US)
        self.places = {name: FakePlace(name) for name in ("local", "texas", "virginia")}
        self.held: dict[tuple[str, str], Held] = {}
        self.broken: set[str] = set()  # services whose objects somebody took away, until they are looked after

    def teardown(self) -> None:
        try:
            self.comes_to_an_end()
        finally:
            self.catalog.close()
            shutil.rmtree(self.directory)

    def services(self, process: Process | None = None) -> Services:
        """The manager of a new process."""
        process = process or Process()
        openers = {name: functools.partial(SteppingProvisioner, place, process) for name, place in self.places.items()}
        opened = Services(self.catalog, CONFIG, self.clock, openers)
        context = SteppingContext(*(getattr(opened._context, name) for name in ("catalog", "config", "clock", "places")))
        object.__setattr__(context, "process", process)
        opened._context = context
        return opened

    # -- what can happen --------------------------------------------------------------------------------------------------------------

    def ensure(self, holder: str, key: str, *, is_kept: bool, process: Process | None = None) -> None:
        services = self.services(process)
        try:
            lease = services.ensure(
                SPECS[key], holder, wait=False, lease=None if is_kept else "60s", timeout="0s"
            )  # fmt: skip
        except (DeadlineExceededError, UnavailableError):
            return  # something is on its way out, or nothing answers: the caller comes again
        except Killed:
            self.held.pop((holder, key), None)  # whether it holds anything, nobody knows
            return
        lease.leave()
        with self.catalog.read() as connection:
            mine = [found for found in rows.leases(connection, lease.incarnation) if found.holder == holder]
        self.held.pop((holder, key), None)
        if mine:  # else it ran out in the moment in which it was handed over; its thread would find that out
            self.held[holder, key] = Held(lease.service, lease.incarnation, mine[0].expires_us)
        self.broken.discard(lease.service)

    @rule(holder=st.sampled_from(HOLDERS), key=st.sampled_from(sorted(SPECS)), is_kept=st.booleans())
    def somebody_ensures(self, holder: str, key: str, is_kept: bool) -> None:
        self.ensure(holder, key, is_kept=is_kept)

    @rule(holder=st.sampled_from(HOLDERS), key=st.sampled_from(sorted(SPECS)), at=st.integers(1, 24))
    def somebody_is_killed_ensuring(self, holder: str, key: str, at: int) -> None:
        self.ensure(f"killed-{holder}", key, is_kept=False, process=Process(at))

    @rule(
        holder=st.sampled_from(HOLDERS), key=st.sampled_from(sorted(SPECS)), at=st.integers(1, 24),
        others=st.lists(st.tuples(st.sampled_from(["reap", "ensure", "release", "delete", "wait"]), st.sampled_from(HOLDERS)), max_size=4),
    )  # fmt: skip
    def somebody_is_overtaken_ensuring(self, holder: str, key: str, at: int, others: list[tuple[str, str]]) -> None:
        slow = f"slow-{holder}"
        self.ensure(slow, key, is_kept=False, process=Process(at, lambda: self.do(others, key)))

    @rule(
        at=st.integers(1, 30), key=st.sampled_from(sorted(SPECS)),
        others=st.lists(st.tuples(st.sampled_from(["reap", "ensure", "release"]), st.sampled_from(HOLDERS)), max_size=3),
    )  # fmt: skip
    def a_reaper_is_overtaken(self, at: int, others: list[tuple[str, str]], key: str) -> None:
        self.services(Process(at, lambda: self.do(others, key))).reap()

    def do(self, others: list[tuple[str, str]], key: str) -> None:
        for what, holder in others:
            if what == "reap":
                self.services().reap()
            elif what == "ensure":
                self.ensure(holder, key, is_kept=False)
            elif what == "release":
                self.release(holder, key)
            elif what == "delete":
                self.delete(key)
            else:
                self.time_passes(30_000_000)

    @rule(at=st.integers(1, 30))
    def a_reaper_is_killed(self, at: int) -> None:
        with contextlib.suppress(Killed):
            self.services(Process(at)).reap()

    @rule(holder=st.sampled_from(HOLDERS), key=st.sampled_from(sorted(SPECS)))
    def release(self, holder: str, key: str) -> None:
        self.held.pop((holder, key), None)
        self.services().release(SPECS[key].service, holder)

    @rule(holder=st.sampled_from(HOLDERS), key=st.sampled_from(sorted(SPECS)))
    def renew(self, holder: str, key: str) -> None:
        held = self.held.get((holder, key))
        if held is None:
            return
        try:
            self.services()._renew(held.service, held.incarnation, holder, LEASE_US)
        except ServiceNotFoundError:
            assert held.expires_us is not None, "a lease without an end was lost"
            assert held.expires_us <= self.clock.now_us(), "a lease was lost before its end"
            del self.held[holder, key]
        else:
            held.expires_us = None if held.expires_us is None else self.clock.now_us() + LEASE_US

    @rule(key=st.sampled_from(sorted(SPECS)))
    def delete(self, key: str) -> None:
        with contextlib.suppress(StateError, ServiceNotFoundError, UnavailableError):
            self.services().delete(SPECS[key].service, timeout="0s")

    @rule(us=st.sampled_from([1, 9_000_000, 30_000_000, 61_000_000, 601_000_000]))
    def time_passes(self, us: int) -> None:
        self.clock.advance(us=us)

    @rule(key=st.sampled_from(sorted(SPECS)))
    def its_objects_vanish(self, key: str) -> None:
        for place in self.places.values():
            if place.services.pop(SPECS[key].service, None) is not None:
                self.broken.add(SPECS[key].service)

    @rule(calls=st.sampled_from([1, 2]))
    def removals_take_longer_or_shorter(self, calls: int) -> None:
        for place in self.places.values():
            place.removal_calls = calls

    @rule(name=st.sampled_from(["texas", "virginia"]), is_away=st.booleans())
    def a_cluster_goes_or_comes(self, name: str, is_away: bool) -> None:
        self.places[name].away = "no route" if is_away else ""

    @rule(somebody_first=st.booleans(), key=st.sampled_from(sorted(SPECS)))
    def the_catalog_is_lost(self, somebody_first: bool, key: str) -> None:
        for place in self.places.values():
            place.away = ""
        now_us = self.clock.now_us()
        unknown = set(self.broken)  # what had vanished when the catalog was lost, nobody knows of any more
        noted = self.kept_as_noted()
        with self.catalog.write() as connection:
            connection.exec_driver_sql("DELETE FROM service_leases")
            connection.exec_driver_sql("DELETE FROM services")
        if somebody_first:
            self.ensure("run-0", key, is_kept=False)
        self.services().reap()
        with self.catalog.read() as connection:
            live = {row.id for row in rows.all_of(connection) if row.state is ServiceState.LIVE}
        self.held = {mine: held for mine, held in noted.items() if held.incarnation in live} | self.held
        for (holder, key), held in list(self.held.items()):  # as their threads do, within a lease
            if held.service in unknown or (held.expires_us is not None and held.expires_us <= now_us):
                del self.held[holder, key]
            else:
                self.services()._renew(held.service, held.incarnation, holder, None if held.expires_us is None else LEASE_US)

    @rule(key=st.sampled_from(sorted(SPECS)), are_released=st.booleans(), parts=st.sets(st.sampled_from([0.25, 0.6, 0.99])))
    def all_leave_one_and_it_stays_for_its_ttl(self, key: str, are_released: bool, parts: set[float]) -> None:
        """Everybody gives it back, or whoever would have to does not and the leases run out."""
        if SPECS[key].service not in self.live():
            self.ensure("run-0", key, is_kept=False)
        row = self.live().get(SPECS[key].service)
        if row is None:
            return  # it could not be made now
        with self.catalog.read() as connection:
            leases = rows.leases(connection, row.id)
        for lease in leases:
            self.held.pop((lease.holder, key), None)
            if are_released or lease.expires_us is None:
                self.services().release(row.name, lease.holder)
        assert not leases or self.live()[row.name].idle_since_us in (None, self.clock.now_us())
        if not are_released:  # nobody's lasts longer
            self.clock.advance(us=LEASE_US)
        self.time_takes([row.name], parts)

    def time_takes(self, names: Collection[str], parts: Collection[float] = ()) -> None:
        """Of services that nobody holds any more: each is there to the last microsecond of its ttl, however often it is looked after
        meanwhile (at these parts of its ttl), and not after the first look that comes later."""
        now_us, before = self.clock.now_us(), self.live()
        running = self.running()
        due = {row.id: (row.idle_since_us or now_us) + SPECS[row.spec["name"]].ttl_us for name in names for row in [before[name]]}
        moments = {now_us} | {at_us - early_us for at_us in due.values() for early_us in (1, 0)}
        moments |= {int(now_us + part * (at_us - now_us)) for at_us in due.values() for part in parts}
        for moment_us in sorted(moment_us for moment_us in moments if moment_us >= now_us):
            self.clock.advance(us=moment_us - self.clock.now_us())
            self.services().reap()
            live = {row.id for row in self.live().values()}
            for name in names:
                row, left_us = before[name], due[before[name].id] - moment_us
                if left_us > 0:
                    assert row.id in live, f"{name} was removed {left_us} us before its ttl was over"
                    assert row.id in self.running() or row.id not in running, f"{name} is in the catalog, and its objects are gone"
                else:
                    assert row.id not in live, f"{name} outlives its ttl by {-left_us} us"
                    assert row.id not in self.running() or self.places[row.cluster].away, f"{name} is not in the catalog, and runs"

    def live(self) -> dict[str, ServiceRow]:
        """The rows of live services, by name."""
        with self.catalog.read() as connection:
            return {row.name: row for row in rows.all_of(connection) if row.state is ServiceState.LIVE}

    def running(self) -> set[int]:
        """The incarnations that run, and are not on their way out."""
        return {service.desired.incarnation for place in self.places.values() for service in place.services.values() if not service.leaving}

    def kept_as_noted(self) -> dict[tuple[str, str], Held]:
        """The leases without end that are noted where services run. Of one that was released since, only the catalog knew: it is there
        again when that is lost, until it is released again; better than to remove a service under its holder."""
        return {
            (holder, key): Held(name, service.desired.incarnation, None)
            for place in self.places.values()
            for name, service in place.services.items()
            for key in [service.desired.spec.name]
            for holder in json.loads(service.desired.annotations["kept"] or "{}")
            if not service.leaving
        }

    @rule()
    def the_reaper_looks(self) -> None:
        report = self.services().reap()
        now_us = self.clock.now_us()
        with self.catalog.read() as connection:
            there = {row.id: row for row in rows.all_of(connection)}
            leases = rows.all_leases(connection)
        for place in self.places.values():
            if place.away:
                continue
            for name, service in place.services.items():
                row = there.get(service.desired.incarnation)
                assert row is not None, f"{name} runs and nobody knows of it: {report}"
                assert row.state is ServiceState.LIVE or name in report.waiting, f"{name} is to be gone: {report}"
                if row.state is ServiceState.LIVE:
                    held = any(lease.holds(now_us) for lease in leases.get(row.id, []))
                    in_time = row.idle_since_us is not None and now_us < row.idle_since_us + row.ttl_us
                    assert held or in_time, f"{name} has outlived its ttl: {row}"

    # -- what always holds ------------------------------------------------------------------------------------------------------------

    @invariant()
    def who_holds_a_service_has_it(self) -> None:
        now_us = self.clock.now_us()
        self.broken -= {name for place in self.places.values() for name, service in place.services.items() if not service.leaving}
        for (holder, _), held in self.held.items():
            if held.service in self.broken or (held.expires_us is not None and held.expires_us <= now_us):
                continue
            there = [place.services[held.service] for place in self.places.values() if held.service in place.services]
            mine = [service for service in there if service.desired.incarnation == held.incarnation]
            assert mine, f"{held} was removed under {holder}; there is {there}"
            assert not mine[0].leaving, f"{held} is being removed under {holder}"

    def comes_to_an_end(self) -> None:
        """When everything answers again and time passes, what is left is what somebody holds for ever."""
        for place in self.places.values():
            place.away, place.removal_calls = "", 1
        self.clock.advance(us=LEASE_US)  # now nobody holds any but for ever
        before = {row.id: row.idle_since_us for row in self.live().values()}
        self.services().reap()
        idle = [row for row in self.live().values() if row.idle_since_us is not None]
        assert all(row.idle_since_us == (before[row.id] or self.clock.now_us()) for row in idle)
        self.time_takes([row.name for row in idle])
        for us in (1, 61_000_000, 61_000_000, 601_000_000, 601_000_000, 1):
            self.clock.advance(us=us)
            self.services().reap()
        forever = {held.service: held.incarnation for held in self.held.values() if held.expires_us is None}
        left = {
            name: service.desired.incarnation for place in self.places.values() for name, service in place.services.items()
        }  # fmt: skip
        assert left == forever
        with self.catalog.read() as connection:
            assert {row.name: row.id for row in rows.all_of(connection)} == forever
        for service in forever:
            assert self.services().status(service).phase is Phase.READY


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    Catalog.open(directory).close()
    return directory


def test_whatever_happens_services_are_there_for_their_holders_and_nothing_is_left(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensuring, "ANOTHER_S", 0.0)
    AnyOrder.template = template
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        AnyOrder,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
    )
