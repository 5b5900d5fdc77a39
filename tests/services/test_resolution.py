"""Resolution: versions become numbers when a service is ensured, and jobs are told which."""

from __future__ import annotations

from pathlib import Path

import pytest

import fondaco as fd
from fondaco.catalog import Catalog, VersionState, graphs
from fondaco.core.errors import GraphNotFoundError, NoCurrentVersionError, StoreNotFoundError, VersionNotFoundError
from fondaco.services.manager import Services
from fondaco.services.owner import owner_of
from fondaco.services.resolution import environment, resolve
from services.specs import feeder


@pytest.fixture
def graph(catalog: Catalog) -> str:
    """A graph with the READY versions 1 and 2, none of them current yet."""
    with catalog.write() as connection:
        row = graphs.create(connection, "routes", keep=2, now_us=1)
        for number in (1, 2):
            connection.execute(
                graphs._V.insert().values(graph_id=row.id, number=number, state=VersionState.READY, build_id="b", pid=1, created_us=1)
            )
    return "routes"


def promote(catalog: Catalog, version: int) -> None:
    with catalog.write() as connection:
        row = graphs.get(connection, "routes")
        graphs.GENERATIONS.promote(connection, row.id, version, now_us=1)


def resolved(catalog: Catalog, spec: fd.ServiceSpec) -> fd.ServiceSpec:
    with catalog.read() as connection:
        return resolve(connection, spec)


def test_the_version_that_is_current_is_part_of_the_meaning(catalog: Catalog, graph: str, services: Services) -> None:
    promote(catalog, 1)
    with services.ensure(fd.ServiceSpec.graph(graph), "a") as one:
        assert one.env["FONDACO_GRAPH_VERSION"] == "1"
        assert one.env["FONDACO_GRAPH_ENDPOINTS"] == ",".join(one.endpoints)
        promote(catalog, 2)
        with services.ensure(fd.ServiceSpec.graph(graph), "a") as two, services.ensure(fd.ServiceSpec.graph(graph, version=1), "b") as old:
            assert two.env["FONDACO_GRAPH_VERSION"] == "2"
            assert (two.service != one.service, old.service) == (True, one.service)
            assert services.status(two.service).env["FONDACO_GRAPH_VERSION"] == "2"


def test_a_resolved_spec_stays_as_it_is(catalog: Catalog, graph: str) -> None:
    promote(catalog, 1)
    spec = resolved(catalog, fd.ServiceSpec.graph(graph))
    assert spec.command[-2:] == ("--version", "1")
    assert resolved(catalog, spec) == spec
    assert spec.service != fd.ServiceSpec.graph(graph).service


def test_one_that_follows_is_not_pinned(catalog: Catalog, graph: str, services: Services) -> None:
    with pytest.raises(NoCurrentVersionError):
        resolved(catalog, fd.ServiceSpec.graph(graph, follow=True))
    promote(catalog, 1)
    with services.ensure(fd.ServiceSpec.graph(graph, follow=True), "a") as lease:
        promote(catalog, 2)
        assert resolved(catalog, fd.ServiceSpec.graph(graph, follow=True)).service == lease.service
        assert "FONDACO_GRAPH_VERSION" not in lease.env


def test_what_is_not_there_cannot_be_served(catalog: Catalog, graph: str) -> None:
    with pytest.raises(NoCurrentVersionError, match="graph 'routes' has no current version"):
        resolved(catalog, fd.ServiceSpec.graph(graph))
    with pytest.raises(VersionNotFoundError, match="no version 9; available: 1, 2"):
        resolved(catalog, fd.ServiceSpec.graph(graph, version=9))
    with pytest.raises(GraphNotFoundError, match="did you mean 'routes'"):
        resolved(catalog, fd.ServiceSpec.graph("rutes"))
    with pytest.raises(StoreNotFoundError):
        resolved(catalog, fd.ServiceSpec.store("members"))


def test_a_command_of_ones_own_is_left_alone(catalog: Catalog, graph: str) -> None:
    spec = resolved(catalog, fd.ServiceSpec.graph(graph, version=1, command=["mine", "{port}"]))
    assert spec.command == ("mine", "{port}")


def test_addresses_of_ipv6_are_taken_apart_at_the_last_colon() -> None:
    spec = feeder(exports={"H": "{host}", "P": "{port}"})
    env = environment(spec, "feeder", {"main": ("[::1]:80", "[::2]:81")})
    assert (env["H"], env["P"], env["FONDACO_SERVICE_ENDPOINTS"]) == ("[::1]", "80", "[::1]:80,[::2]:81")
    assert environment(spec, "feeder", {})["P"] == ""


def test_a_platforms_services_have_an_owner_that_outlives_the_catalog(tmp_path: Path) -> None:
    from fondaco.core.config import CatalogConfig, Config, ServicesConfig

    assert owner_of(tmp_path, Config()) == owner_of(tmp_path, Config())
    shared = Config(catalog=CatalogConfig(url="postgresql://user:secret@db/fondaco"))
    same = Config(catalog=CatalogConfig(url="postgresql://other:words@db:5432/fondaco"))
    assert owner_of(tmp_path, shared) == owner_of(tmp_path / "elsewhere", same) != owner_of(tmp_path, Config())
    assert owner_of(tmp_path, Config(services=ServicesConfig(owner="production"))) == "production"
    with pytest.raises(fd.errors.InputError, match="owner: 'no label'"):
        owner_of(tmp_path, Config(services=ServicesConfig(owner="no label")))
