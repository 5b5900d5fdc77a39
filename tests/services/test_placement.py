"""Placement: which cluster a new service goes to, by name or by label, and where it goes when one cannot have it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fondaco.core.config import ServicesConfig, load_config
from fondaco.core.errors import InputError, NotFoundError, StateError, UnavailableError
from fondaco.services.manager import Services
from fondaco.services.places import Places, configured
from fondaco.services.provisioner import Phase
from fondaco.services.settings import Placement
from services.fake_provisioner import FakePlace
from services.specs import feeder

GPU = {"labels": {"gpu": "yes"}}


def test_a_service_goes_where_its_spec_says(services: Services, places: dict[str, FakePlace]) -> None:
    for placement, cluster in ((None, "local"), ("virginia", "virginia"), ({"labels": {"region": "east"}}, "virginia"), (GPU, "texas")):
        with services.ensure(feeder(placement=placement), "a") as lease:
            assert lease.status().cluster == cluster
            assert lease.service in places[cluster].services


def test_a_cluster_that_is_not_there_is_named(services: Services) -> None:
    with pytest.raises(NotFoundError, match="no cluster 'texs'; did you mean 'texas'"):
        services.ensure(feeder(placement="texs"), "a")
    with pytest.raises(InputError, match=r"no cluster has .*north.*there are: texas: .*south"):
        services.ensure(feeder(placement={"labels": {"region": "north"}}), "a")
    with pytest.raises(NotFoundError, match=r"'oregon' in fondaco.toml \(\[services\] default\)"):
        Places(ServicesConfig(default="oregon"), {"local": FakePlace().provisioner}).candidates(Placement())


@pytest.mark.parametrize("method", ["observe", "check", "apply"])
def test_a_new_service_goes_to_the_next_cluster_if_the_first_is_away(services: Services, places: dict[str, FakePlace], method: str) -> None:
    places["texas"].fail_next[method] = [UnavailableError("texas", "no route")]
    with services.ensure(feeder(placement=GPU), "a") as lease:
        assert lease.status().cluster == "virginia"
    assert (places["texas"].services, len(places["virginia"].services)) == ({}, 1)


def test_what_was_begun_on_a_cluster_that_went_away_is_removed_when_it_is_back(services: Services, places: dict[str, FakePlace]) -> None:
    texas = places["texas"]

    def goes_away() -> None:
        texas.away = "no route"

    texas.fail_after["apply"] = [UnavailableError("texas", "reset")]
    texas.before["remove"] = goes_away
    with services.ensure(feeder(placement=GPU), "a") as lease:
        assert lease.status().cluster == "virginia"
        assert len(texas.services) == 1
        assert lease.service in services.reap().waiting
        texas.away = ""
        del texas.before["remove"]
        assert services.reap().removed == (lease.service,)
        assert texas.services == {}
        assert lease.status().phase is Phase.READY


def test_a_cluster_where_it_cannot_work_is_passed_over(services: Services, places: dict[str, FakePlace]) -> None:
    for method, error in (("check", InputError("no such claim")), ("apply", InputError("quota")), ("apply", StateError("in the way"))):
        places["texas"].fail_next[method] = [error, error]
        with services.ensure(feeder(placement=GPU, env={"N": str(error)}), "a") as lease:
            assert lease.status().cluster == "virginia"
        assert places["texas"].services == {}
        places["texas"].fail_next.clear()


def test_a_service_that_is_there_is_found_wherever_it_runs(services: Services, places: dict[str, FakePlace]) -> None:
    places["texas"].away = "no route"
    services.ensure(feeder(placement=GPU), "a").release()
    places["texas"].away = ""
    with services.ensure(feeder(placement=GPU), "b") as lease:
        assert lease.status().cluster == "virginia"
    assert places["texas"].services == {}


def test_when_no_cluster_can_have_it_each_says_why(services: Services, places: dict[str, FakePlace]) -> None:
    places["texas"].away = "no route"
    places["virginia"].fail_next["check"] = [InputError("no such claim")]
    with pytest.raises(UnavailableError, match=r"texas: .*no route.*virginia: no such claim"):
        services.ensure(feeder(placement=GPU), "a")
    places["texas"].away = ""
    for name in ("texas", "virginia"):
        places[name].fail_next["check"] = [InputError("no such claim")]
    with pytest.raises(InputError, match=r"none of its clusters: texas: no such claim; virginia: no such claim"):
        services.ensure(feeder(placement=GPU), "a")
    assert services.list() == []


def test_a_provisioner_is_opened_when_it_is_first_needed(services: Services, places: dict[str, FakePlace]) -> None:
    opened: list[str] = []

    def opener(name: str) -> object:
        opened.append(name)
        return places[name].provisioner()

    there = Places(ServicesConfig(), {name: lambda name=name: opener(name) for name in places})  # type: ignore[misc,return-value]
    assert there.provisioner("texas") is there.provisioner("texas")
    assert opened == ["texas"]
    with pytest.raises(NotFoundError, match="no cluster 'oregon'"):
        there.provisioner("oregon")
    there.close()


def test_clusters_are_asked_at_the_same_time(services: Services, places: dict[str, FakePlace]) -> None:
    """One that hangs delays nobody's look at another."""
    for cluster in places:
        services.ensure(feeder(cluster, placement=cluster), "a")
    together = threading.Barrier(len(places), timeout=60)

    def meet() -> None:
        together.wait()

    for place in places.values():
        place.before["observe_all"] = meet
    assert {status.cluster for status in services.list()} == set(places)
    assert services.reap().errors == ()


def test_clusters_come_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "fondaco.toml").write_text(
        """
        [services]
        default = "texas"
        reap_s = 2.5
        lease = "30s"
        [services.clusters.texas]
        kind = "kubernetes"
        context = "tx"
        namespace = "ml"
        labels = { region = "south" }
        volumes = [{ path = "/var/lib/fondaco", claim = "fondaco" }]
        """
    )
    config = load_config(tmp_path).services
    assert list(configured(config)) == ["local", "texas"]
    assert (config.default, config.lease, configured(config)["texas"].namespace) == ("texas", "30s", "ml")
    (tmp_path / "fondaco.toml").write_text('[services.clusters.texas]\nkind = "nomad"\n')
    with pytest.raises(InputError, match=r"fondaco\.toml.*nomad"):
        load_config(tmp_path)
