"""Leases: renewed by a thread, lost truthfully, given back once, inert in a forked child."""

from __future__ import annotations

import os
import pickle
import threading

import pytest

from fondaco.catalog import Catalog
from fondaco.catalog import services as rows
from fondaco.core.clock import ManualClock
from fondaco.core.errors import ServiceNotFoundError, StateError, UnavailableError
from fondaco.services.manager import Services
from services.fake_provisioner import FakePlace
from services.specs import OpenServices, feeder
from waiting import wait_for


def expires_us(services: Services, service: str) -> int | None:
    (holder,) = services.status(service).holders
    return holder.expires_us


def test_a_lease_is_renewed_for_as_long_as_it_is_held(services: Services, clock: ManualClock) -> None:
    with services.ensure(feeder(), "a", lease="300ms") as lease:
        for _ in range(3):
            clock.advance(us=200_000)
            wanted = clock.now_us() + 300_000
            wait_for(lambda: expires_us(services, lease.service) == wanted, "it is renewed")  # noqa: B023
            assert services.reap().expired == ()
        assert lease.lost is None


def test_a_lease_without_an_end_has_no_thread(services: Services) -> None:
    before = threading.active_count()
    lease = services.ensure(feeder(), "a", lease=None)
    assert (threading.active_count(), lease.is_renewed) == (before, False)
    assert expires_us(services, lease.service) is None
    lease.release()


def test_a_lease_is_given_back_once(services: Services) -> None:
    lease = services.ensure(feeder(), "a")
    other = services.ensure(feeder(), "a")
    lease.release()
    other.renew()  # the holder is the same: it takes the lease again
    lease.release()
    assert [holder.holder for holder in services.status(other.service).holders] == ["a"]
    other.release()
    assert services.status(other.service).holders == ()
    with pytest.raises(StateError, match="was released"):
        lease.renew()
    assert "released" in repr(lease)


def test_a_lease_that_ran_out_is_taken_again_within_the_ttl(services: Services, clock: ManualClock) -> None:
    lease = services.ensure(feeder(ttl="10m"), "a", lease="1h")
    clock.advance(us=3_600_000_000)  # a clock that was set forward, or a catalog that was away
    assert services.reap().expired == (f"{lease.service}: a",)
    assert services.status(lease.service).removal_us == clock.now_us() + 600_000_000
    lease.renew()
    assert services.status(lease.service).removal_us is None
    assert lease.lost is None
    lease.release()


def test_a_lease_of_a_removed_service_is_lost_and_says_so(services: Services, open_services: OpenServices) -> None:
    lease = services.ensure(feeder(), "a", lease="150ms")
    open_services().delete(lease.service, force=True)
    wait_for(lambda: lease.lost, "it is lost")
    assert lease.lost == f"service {lease.service!r} was removed"
    with pytest.raises(ServiceNotFoundError):
        lease.renew()
    assert "lost" in repr(lease)
    lease.release()


def test_a_lease_on_a_service_that_was_made_anew_is_lost_all_the_same(services: Services, open_services: OpenServices) -> None:
    lease = services.ensure(feeder(), "a", lease="150ms")
    other = open_services()
    other.delete(lease.service, force=True)
    with other.ensure(feeder(), "b") as new:
        assert new.incarnation != lease.incarnation
        wait_for(lambda: lease.lost, "it is lost")
        lease.release()
        assert [holder.holder for holder in new.status().holders] == ["b"]


def test_a_catalog_that_is_away_is_lived_through(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = services.ensure(feeder(), "a", lease="200ms")
    errors: list[BaseException] = [UnavailableError("catalog", "gone"), RuntimeError("a mistake of ours")]
    tried = threading.Semaphore(0)
    real = Services._renew

    def away(*arguments: object) -> None:
        tried.release()
        raise errors[0]

    monkeypatch.setattr(Services, "_renew", away)
    assert tried.acquire(timeout=60)
    wait_for(lambda: lease.lost, "it says that it was not renewed")
    assert "not renewed for" in str(lease.lost)
    errors.pop(0)
    assert tried.acquire(timeout=60)
    monkeypatch.setattr(Services, "_renew", real)
    wait_for(lambda: lease.lost is None, "it holds again")
    lease.release()


def test_leaving_a_block_by_an_error_gives_the_lease_back_and_keeps_the_error(services: Services, catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), services.ensure(feeder(), "a"):
        _ = 1 / 0
    assert services.status(feeder().service).holders == ()
    lease = services.ensure(feeder(), "b")
    catalog.close()  # so the lease cannot be released
    with pytest.raises(ZeroDivisionError), lease:
        _ = 1 / 0


def test_a_lease_cannot_be_pickled_and_says_what_to_do(services: Services) -> None:
    with services.ensure(feeder(), "a") as lease, pytest.raises(TypeError, match=r"hand over lease\.env"):
        pickle.dumps(lease)


def test_a_forked_child_cannot_release_or_renew_its_parents_lease(services: Services) -> None:
    lease = services.ensure(feeder(), "a")
    endpoints = lease.endpoints
    child = os.fork()
    if not child:
        lease.release()
        lease.renew()
        os._exit(0 if lease.env["FONDACO_SERVICE_ENDPOINTS"] == ",".join(endpoints) and not lease.is_renewed else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [holder.holder for holder in services.status(lease.service).holders] == ["a"]
    lease.release()


def test_a_lost_catalog_costs_nobody_his_service(services: Services, catalog: Catalog, clock: ManualClock, place: FakePlace) -> None:
    lease = services.ensure(feeder(ttl="0s"), "a", lease="1h")
    kept = services.ensure(feeder(env={"N": "1"}, ttl="0s"), "b", lease=None)
    clock.advance(us=60_000_000)
    services.reap()  # writes down who holds
    with catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM service_leases")
        connection.exec_driver_sql("DELETE FROM services")
    with pytest.raises(UnavailableError, match="may have been lost"):
        lease.renew()
    assert lease.lost is None
    report = services.reap()
    assert set(report.adopted) == {lease.service, kept.service}
    lease.renew()
    clock.advance(us=7_200_000_000)
    lease.renew()
    clock.advance(us=1)
    services.reap()
    assert set(place.services) == {lease.service, kept.service}
    with catalog.read() as connection:
        assert {row.id for row in rows.all_of(connection)} == {lease.incarnation, kept.incarnation}
    lease.release()
    services.release(kept.service, "b")
    services.release(kept.service, "(adopted)")
    services.reap()
    assert set(place.services) == set()


def test_a_lost_catalog_is_noticed_by_the_first_who_ensures(services: Services, catalog: Catalog, place: FakePlace) -> None:
    lease = services.ensure(feeder(), "a", lease="1h")
    with catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM service_leases")
        connection.exec_driver_sql("DELETE FROM services")
    with services.ensure(feeder(), "b") as other:
        assert other.incarnation == lease.incarnation
    lease.renew()
    lease.release()
    assert place.count("apply") == 1
