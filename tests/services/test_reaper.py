"""The reaper: what time ends, what was begun, what nobody knows, what somebody changed; safe at any moment, cheap when nothing is to do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from fondaco.catalog import Catalog, ServiceState
from fondaco.catalog import services as rows
from fondaco.core.clock import ManualClock
from fondaco.core.errors import InputError, UnavailableError
from fondaco.services.manager import Services
from fondaco.services.provisioner import Desired, Phase
from fondaco.services.reaper import MAKING_US, ReapReport
from services.fake_provisioner import FakePlace
from services.specs import OpenServices, feeder

MINUTE_US = 60_000_000


def test_a_service_goes_when_its_ttl_is_over_and_not_before(services: Services, clock: ManualClock, place: FakePlace) -> None:
    services.ensure(feeder(ttl="10m"), "a").release()
    clock.advance(us=10 * MINUTE_US - 1)
    assert not services.reap()
    clock.advance(us=1)
    assert services.reap() == ReapReport(removed=(feeder().service,))
    assert (place.services, services.list()) == ({}, [])
    assert not services.reap()


def test_a_service_whose_last_lease_ran_out_goes_a_ttl_later(services: Services, clock: ManualClock, place: FakePlace) -> None:
    services.ensure(feeder(ttl="10m"), "killed", lease="60s").leave()
    clock.advance(us=MINUTE_US)
    assert services.reap().expired == (f"{feeder().service}: killed",)
    clock.advance(us=10 * MINUTE_US - 1)
    services.reap()
    assert len(place.services) == 1
    clock.advance(us=1)
    services.reap()
    assert place.services == {}


def test_a_service_that_is_used_again_within_its_ttl_stays(services: Services, clock: ManualClock, place: FakePlace) -> None:
    services.ensure(feeder(ttl="10m"), "a").release()
    clock.advance(us=9 * MINUTE_US)
    lease = services.ensure(feeder(ttl="10m"), "b", lease=None)
    clock.advance(us=60 * MINUTE_US)
    services.reap()
    assert lease.service in place.services
    lease.release()
    services.reap()
    assert lease.service in place.services


def test_a_removal_that_takes_its_time_is_gone_on_with(services: Services, clock: ManualClock, place: FakePlace) -> None:
    services.ensure(feeder(ttl="0s"), "a").release()
    place.removal_calls = 3
    assert services.reap().waiting == (feeder().service,)
    assert services.status(feeder().service).phase is Phase.REMOVING
    assert services.reap().waiting == (feeder().service,)
    assert services.reap().removed == (feeder().service,)


def test_a_service_that_was_entered_and_never_made_is_made(
    services: Services, catalog: Catalog, clock: ManualClock, place: FakePlace
) -> None:
    with catalog.write() as connection:  # as a process does that is killed before it applies
        row = rows.create(
            connection, feeder().service, identity=feeder().identity, spec=feeder().to_dict(), cluster="local", replicas=1,
            ttl_us=MINUTE_US, now_us=clock.now_us(),
        )  # fmt: skip
        rows.take_lease(connection, row.id, "a", expires_us=None, now_us=clock.now_us())
    assert not services.reap(), "whoever entered it is making it"
    clock.advance(us=MAKING_US)
    assert services.reap().repaired == (row.name,)
    assert place.services[row.name].desired.incarnation == row.id


def test_what_was_applied_half_is_applied_again(services: Services, clock: ManualClock, place: FakePlace) -> None:
    with services.ensure(feeder(replicas=2), "a") as lease:
        place.services[lease.service].drift = "only 1 of 2 objects is there"
        assert services.reap().repaired == (lease.service,)
        assert lease.status().drift == ()
        del place.services[lease.service]
        clock.advance(us=MAKING_US)
        assert services.reap().repaired == (lease.service,)


def test_who_holds_is_written_down_where_it_runs(services: Services, place: FakePlace) -> None:
    lease = services.ensure(feeder(), "a", lease=None)
    other = services.ensure(feeder(), "b", lease=None)
    assert services.reap().noted == (lease.service,)
    assert place.services[lease.service].desired.annotations["holders"] == "a,b"
    assert place.services[lease.service].generation == [0]
    assert not services.reap()
    other.release()
    services.reap()
    assert place.services[lease.service].desired.annotations["holders"] == "a"


def test_what_a_slow_process_makes_after_the_removal_is_removed(services: Services, open_services: OpenServices, place: FakePlace) -> None:
    other = open_services()

    def everybody_leaves() -> None:
        del place.before["apply"]
        other.delete(feeder().service, force=True)

    place.before["apply"] = everybody_leaves
    with services.ensure(feeder(), "a") as lease:  # notices, and makes a new one
        assert place.services[lease.service].desired.incarnation == lease.incarnation
        first = lease.incarnation
    services.delete(lease.service)
    place.provisioner().apply(Desired(feeder().service, first, feeder(), 1))  # a process that does not notice
    assert services.reap() == ReapReport(removed=(lease.service,))
    assert place.services == {}


def test_what_runs_without_a_row_is_adopted_and_removed_after_its_ttl(services: Services, clock: ManualClock, place: FakePlace) -> None:
    place.provisioner().apply(Desired(feeder().service, 77, feeder(ttl="10m"), 2))
    assert services.adopt() == ReapReport(adopted=(feeder().service,))
    status = services.status(feeder().service)
    assert (status.incarnation, status.replicas, status.phase, status.note) == (77, 2, Phase.READY, "found running, without a row")
    with services.ensure(feeder(ttl="10m"), "a") as lease:
        assert lease.incarnation == 77
    clock.advance(us=MINUTE_US)
    assert services.reap().expired == (f"{lease.service}: (adopted)",)
    clock.advance(us=10 * MINUTE_US)
    assert services.reap().removed == (lease.service,)
    assert place.services == {}


def test_what_is_on_its_way_out_without_a_row_is_not_adopted(services: Services, place: FakePlace) -> None:
    place.removal_calls = 3
    place.provisioner().apply(Desired(feeder().service, 77, feeder(), 1))
    place.provisioner().remove(feeder().service, 77)
    with services.ensure(feeder(), "a", timeout="30s") as lease:
        assert lease.incarnation != 77
        assert lease.status().phase is Phase.READY


def test_what_runs_without_a_row_beside_a_live_one_of_its_name_is_removed(services: Services, places: dict[str, FakePlace]) -> None:
    lease = services.ensure(feeder(), "a", lease=None)
    places["texas"].provisioner().apply(Desired(lease.service, 77, feeder(), 1))
    assert services.reap().removed == (lease.service,)
    assert places["texas"].services == {}
    assert lease.status().phase is Phase.READY
    lease.release()


def test_an_old_service_in_the_way_of_a_new_one_is_removed_first(services: Services, catalog: Catalog, place: FakePlace) -> None:
    services.ensure(feeder(), "a").release()
    first = place.services[feeder().service].desired.incarnation
    with catalog.write() as connection:  # its row says that it is gone, and it is not
        rows.begin_removal(connection, first, now_us=1, reason="")
        rows.end_removal(connection, [first], now_us=1)
    with services.ensure(feeder(), "a") as lease:
        assert lease.incarnation != first
        assert place.services[lease.service].desired.incarnation == lease.incarnation


def test_one_that_cannot_be_helped_keeps_nobody_else_from_help(services: Services, places: dict[str, FakePlace]) -> None:
    for index, cluster in enumerate(("local", "local", "texas", "virginia")):
        services.ensure(feeder(env={"N": str(index)}, ttl="0s", placement=cluster), "a").release()
    places["texas"].away = "no route"
    places["local"].fail_next["remove"] = [InputError("not today")]
    report = services.reap()
    assert len(report.removed) == 2
    assert len(report.waiting) == 1
    assert sorted(error.partition(":")[0] for error in report.errors)[0] == "cluster texas"
    assert any("not today" in error for error in report.errors)
    places["texas"].away = ""
    assert len(services.reap().removed) == 2
    assert services.list() == []


def test_any_number_of_reapers_may_look_at_once(open_services: OpenServices, clock: ManualClock, place: FakePlace) -> None:
    managers = [open_services() for _ in range(4)]
    for index in range(20):
        managers[0].ensure(feeder(env={"N": str(index)}, ttl="0s" if index % 2 else "1h"), "a").release()
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda manager: manager.reap(), managers))
    assert not any(report.errors for report in reports)
    assert len(place.services) == 10
    assert len(managers[0].list()) == 10


def test_looking_at_many_services_costs_no_more_than_looking_at_few(services: Services, catalog: Catalog, place: FakePlace) -> None:
    statements: list[str] = []
    sa.event.listen(catalog._engine, "before_cursor_execute", lambda *details: statements.append(details[2]))

    def cost() -> tuple[int, int]:
        statements.clear()
        place.calls.clear()
        assert not services.reap()
        return len(statements), len(place.calls)

    services.ensure(feeder(), "a", lease=None)
    few = cost()
    for index in range(60):
        services.ensure(feeder(env={"N": str(index)}), "a", lease=None)
    assert cost() == few
    assert few[0] <= 8
    assert few[1] == 1


def test_the_loop_goes_on_after_an_error(services: Services, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, said = threading.Event(), []
    answers: list[object] = [UnavailableError("catalog", "away"), ReapReport(), ReapReport()]

    def look(context: object) -> ReapReport:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if not answers:
            stop.set()
        assert isinstance(answer, ReapReport)
        return answer

    monkeypatch.setattr("fondaco.services.reaper.reap", look)
    services.reap_loop(stop, 0.0, on_report=said.append)
    assert len(said) == 2


def test_a_cluster_that_left_the_configuration_is_named(services: Services, catalog: Catalog, clock: ManualClock) -> None:
    with catalog.write() as connection:
        rows.create(
            connection, "old", identity="0", spec=feeder().to_dict(), cluster="oregon", replicas=1, ttl_us=0, now_us=clock.now_us(),
            idle_since_us=clock.now_us(), state=ServiceState.LIVE,
        )  # fmt: skip
    assert "oregon" in services.status("old").reason
    assert services.reap().waiting == ("old",)
