"""Services, their leases and runs as rows, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from fondaco.catalog import Catalog, RunState, ServiceRow, ServiceState, runs, services
from fondaco.core.errors import RunNotFoundError, ServiceNotFoundError
from postgres_server import PostgresServer, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def catalog(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    server = request.getfixturevalue("server") if request.param == "postgres" else None
    opened = Catalog.open(tmp_path, url=None if server is None else server.new_database())
    yield opened
    opened.close()


def enter(catalog: Catalog, name: str = "routes", *, now_us: int = 5_000_000, ttl_us: int = 100) -> ServiceRow:
    with catalog.write() as connection:
        return services.create(
            connection, name, identity="ab", spec={"name": name}, cluster="local", replicas=2, ttl_us=ttl_us, now_us=now_us
        )


def test_an_incarnation_is_never_given_twice_also_not_by_a_catalog_begun_anew(catalog: Catalog) -> None:
    first, second = enter(catalog), enter(catalog, "other")
    assert (first.id, second.id) == (5_000, 5_001)
    with catalog.write() as connection:
        services.begin_removal(connection, first.id, now_us=1, reason="")
        services.end_removal(connection, [first.id], now_us=1)
    assert enter(catalog, now_us=1).id == 5_002
    with catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM services")
    assert enter(catalog, now_us=9_000_000).id == 9_000


def test_one_service_of_a_name_is_live_and_others_may_be_on_their_way_out(catalog: Catalog) -> None:
    first = enter(catalog)
    with pytest.raises(IntegrityError):
        enter(catalog)
    with catalog.write() as connection:
        services.begin_removal(connection, first.id, now_us=1, reason="deleted")
    second = enter(catalog)
    with catalog.write() as connection:
        assert services.get(connection, "routes").id == second.id
        assert [row.id for row in services.removing(connection, "routes")] == [first.id]
        assert [row.id for row in services.all_of(connection)] == [first.id, second.id]
        services.end_removal(connection, [first.id, second.id], now_us=2)  # one that is live is not touched
        assert [row.id for row in services.all_of(connection)] == [second.id]
        assert set(services.known(connection, range(5_000, 7_000))) == {first.id, second.id}
        with pytest.raises(ServiceNotFoundError, match="did you mean 'routes'"):
            services.get(connection, "rutes")


def test_a_lease_is_prolonged_and_never_shortened(catalog: Catalog) -> None:
    row = enter(catalog)

    def expires(take_us: int | None) -> int | None:
        with catalog.write() as connection:
            services.take_lease(connection, row.id, "a", expires_us=take_us, now_us=1)
            return services.leases(connection, row.id)[0].expires_us

    assert [expires(us) for us in (100, 50, 200, None, 300)] == [100, 100, 200, None, None]


def test_a_service_is_idle_from_the_end_of_its_last_lease(catalog: Catalog) -> None:
    row = enter(catalog)
    with catalog.write() as connection:
        services.take_lease(connection, row.id, "a", expires_us=10, now_us=1)
        services.take_lease(connection, row.id, "b", expires_us=None, now_us=1)
        assert not services.is_something_over(connection, 9)
        assert services.is_something_over(connection, 10)
        assert [lease.holder for lease in services.expire(connection, 10)] == ["a"]
        assert services.get(connection, "routes").idle_since_us is None
        assert services.release(connection, row.id, "b", now_us=20)
        assert not services.release(connection, row.id, "b", now_us=30)
        assert services.get(connection, "routes").idle_since_us == 20
        assert services.begin_removal_of_due(connection, 119) == []
        assert services.take_lease(connection, row.id, "c", expires_us=None, now_us=60)
        assert services.get(connection, "routes").idle_since_us is None
        services.release(connection, row.id, "c", now_us=60)
        assert [due.id for due in services.begin_removal_of_due(connection, 160)] == [row.id]
        assert not services.renew(connection, row.id, "a", 1_000)
        gone = services.get_incarnation(connection, row.id)
        assert gone is not None
        assert gone.state is ServiceState.REMOVING


def test_a_run_is_entered_heard_of_and_finished(catalog: Catalog) -> None:
    with catalog.write() as connection:
        run = runs.begin(
            connection, runs.new_id(), name="late", command=["python", "train.py"], directory="/d", holder="run-1", pid=7, host="h",
            now_us=10, graphs={"routes": 3}, environment={"python": "3.11"}, variables={"TOKEN": ""},
        )  # fmt: skip
        assert (run.state, run.command, run.graphs, run.services) == (RunState.PREPARING, ("python", "train.py"), {"routes": 3}, ())
        runs.update(connection, run.id, state=RunState.RUNNING, services=["graph-routes-1"])
        assert runs.heartbeat(connection, run.id, now_us=20)
        assert runs.lost(connection, heard_before_us=20, now_us=30) == []
        assert [lost.state for lost in runs.lost(connection, heard_before_us=21, now_us=30)] == [RunState.LOST]
        assert runs.heartbeat(connection, run.id, now_us=40)
        assert (runs.get(connection, run.id).state, runs.get(connection, run.id).ended_us) == (RunState.RUNNING, None)
        runs.finish(connection, run.id, RunState.FAILED, now_us=50, exit_code=3)
        assert not runs.heartbeat(connection, run.id, now_us=60)
        ended = runs.get(connection, run.id)
        assert (ended.state, ended.exit_code, ended.ended_us, ended.services) == (RunState.FAILED, 3, 50, ("graph-routes-1",))
        assert runs.all_of(connection, limit=1) == [ended]
        with pytest.raises(RunNotFoundError, match="did you mean"):
            runs.get(connection, run.id[:-1])


def test_a_run_is_found_by_its_name_too_the_newest_of_it(catalog: Catalog) -> None:
    def enter(run_id: str, name: str, now_us: int) -> None:
        runs.begin(connection, run_id, name=name, command=["true"], directory="/", holder=run_id, pid=7, host="h", now_us=now_us)

    with catalog.write() as connection:
        enter("run-1", "nightly", 10)
        enter("run-2", "nightly", 20)
        enter("run-3", "run-1", 30)
        assert runs.get(connection, "nightly").id == "run-2"
        assert runs.get(connection, "run-1").id == "run-1", "an id comes before a name"
        with pytest.raises(RunNotFoundError, match="did you mean 'nightly'"):
            runs.get(connection, "nightl")
