"""`platform.services` over scripted clusters: ensured, shared, looked at, changed, removed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fondaco as fd
from fondaco.core.clock import ManualClock
from fondaco.core.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    InputError,
    ServiceFailedError,
    ServiceNotFoundError,
    StateError,
    UnavailableError,
)
from fondaco.services.manager import Services
from fondaco.services.provisioner import Phase
from fondaco.services.status import ServiceStatus
from services.fake_provisioner import FakePlace
from services.specs import OpenServices, feeder
from waiting import wait_for

# -- ensure -------------------------------------------------------------------------------------------------------------------------------


def test_a_service_runs_while_it_is_held_and_its_endpoints_are_handed_over(services: Services, place: FakePlace) -> None:
    with services.ensure(feeder(replicas=2), "run-17") as lease:
        assert len(lease.endpoints) == 2
        assert lease.env["FONDACO_SERVICE_ENDPOINTS"] == ",".join(lease.endpoints)
        assert lease.env["FONDACO_SERVICE_NAME"] == lease.service == feeder(replicas=2).service
        assert [holder.holder for holder in services.status(lease.service).holders] == ["run-17"]
    assert services.status(lease.service).holders == ()
    assert lease.service in place.services


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"env": {"A=B": "x"}}, "env.A=B: a variable's name is"),
        ({"env": {"A": "a\0b"}}, "env.A: .* NUL byte"),
        ({"env": {"A": ["x"]}}, "env.A: expected `str`, got `array`"),
        ({"env": ["A"]}, "env: expected a mapping"),
        ({"env": {"A": "{endpoints!r:>40}"}}, "env.A: .* stands as it is"),
        ({"env": {"A": "{nope}"}}, r"env.A: '{nope}' names {nope}"),
        ({"env": {"A": "{endpoints.nope}"}}, "env.A: .* has the ports: main"),
        ({"lease": 5}, "lease: expected a duration"),
        ({"lease": "99999999999h"}, "lease: '99999999999h' is longer than ten years"),
        ({"lease": "1ms"}, "lease: '1ms' is too short"),
        ({"timeout": 5}, "timeout: expected a duration"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a duration"),
        ({"holder": "a\nb"}, "holder: "),
    ],
)
def test_what_a_caller_gives_is_checked_before_anything_is_made(
    services: Services, place: FakePlace, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        services.ensure(feeder(), **given)
    assert services.list() == []
    assert place.count("apply") == 0


def test_a_caller_whose_time_is_up_gets_what_another_has_made_meanwhile(open_services: OpenServices, place: FakePlace) -> None:
    late, other = open_services(), open_services()

    def overtaken() -> None:
        place.before.clear()
        other.ensure(feeder(), "other", wait=False)
        time.sleep(0.2)

    place.before["check"] = overtaken
    assert late.ensure(feeder(), "late", wait=False, timeout="0.1s").service == feeder().service
    assert {holder.holder for holder in other.status(feeder().service).holders} == {"other", "late"}


def test_specs_that_mean_the_same_share_one_service(services: Services, place: FakePlace) -> None:
    with services.ensure(feeder(exports={"A": "{endpoints}"}), "a") as one, services.ensure(feeder(labels={"x": "y"}), "b") as other:
        assert one.service == other.service
        assert one.endpoints == other.endpoints
        assert (one.env["A"], "A" in other.env) == (one.endpoints[0], False)
    assert place.count("apply") == 1
    with services.ensure(feeder(env={"SEED": "2"}), "c") as third:
        assert third.service != one.service


def test_a_spec_may_be_a_mapping_or_a_file(services: Services, tmp_path: Path) -> None:
    (tmp_path / "feeder.toml").write_text('[service]\nname = "feeder"\ncommand = ["serve", "{port}"]\nports = ["main"]\n')
    with (
        services.ensure(tmp_path / "feeder.toml") as one,
        services.ensure({"name": "feeder", "command": ["serve", "{port}"], "ports": "main"}) as two,
    ):
        assert one.service == two.service == feeder().service
        assert one.holder == two.holder
        assert "@" in one.holder
    with pytest.raises(InputError, match=r"TOML file, not 7"):
        services.ensure(7)  # type: ignore[arg-type]


def test_more_variables_are_filled_in_like_exports(services: Services) -> None:
    with services.ensure(
        feeder(ports=["main", "metrics"]), "a", env={"GE_ENDPOINTS": "{endpoints}", "SCRAPE": "{endpoints.metrics}"}
    ) as lease:
        assert lease.env["GE_ENDPOINTS"] == lease.endpoints[0]
        assert lease.env["SCRAPE"] != lease.env["GE_ENDPOINTS"]


def test_unknown_words_in_variables_are_found_before_anything_is_made(services: Services, place: FakePlace) -> None:
    for text, message in (("{endpints}", r"env.X.*\{endpints\}"), ("{endpoints.metrics}", r"env.X.*metrics.*ports: main")):
        with pytest.raises(InputError, match=message):
            services.ensure(feeder(), "a", env={"X": text})
    assert place.services == {}


def test_ensuring_again_under_the_same_name_renews_one_lease(services: Services) -> None:
    one = services.ensure(feeder(), "flyte:p/d/e/n")
    other = services.ensure(feeder(), "flyte:p/d/e/n")
    assert len(services.status(one.service).holders) == 1
    one.release()
    other.release()


def test_without_waiting_it_comes_back_at_once_and_finds_its_endpoints_later(services: Services, place: FakePlace) -> None:
    place.script("feeder", "slow")
    lease = services.ensure(feeder(), "a", wait=False)
    assert services.status(lease.service).phase is Phase.STARTING
    place.script("feeder", "ready")
    assert len(lease.endpoints) == 1
    lease.release()


def test_progress_is_shown_while_it_starts(services: Services, place: FakePlace) -> None:
    place.script("feeder", "slow")
    said: list[ServiceStatus] = []

    def progress(status: ServiceStatus) -> None:
        said.append(status)
        place.script("feeder", "ready" if len(said) > 2 else "slow")

    with services.ensure(feeder(), "a", progress=progress):
        assert [status.phase for status in said] == [Phase.STARTING] * 3 + [Phase.READY]
        assert said[0].reason == "0/1 ready; instance 0: it loads"


def test_one_that_is_not_ready_in_time_says_how_far_it_was_and_stays_for_its_ttl(services: Services, place: FakePlace) -> None:
    place.script("feeder", "never ready")
    with pytest.raises(DeadlineExceededError, match=r"feeder-.*0\.05 s.*0/1 ready; instance 0: it is asked"):
        services.ensure(feeder(), "a", timeout="50ms")
    status = services.status(feeder().service)
    assert (status.holders, status.phase) == ((), Phase.STARTING)
    assert status.removal_us is not None


def test_one_that_fails_says_why_with_the_end_of_its_log_and_gives_the_lease_back(services: Services, place: FakePlace) -> None:
    place.script("feeder", "crashing")
    with pytest.raises(ServiceFailedError, match=r"exit code 3(.|\n)*boom") as caught:
        services.ensure(feeder(), "a")
    assert caught.value.log_tail == ("0: Traceback: boom",)
    status = services.status(feeder().service)
    assert (status.phase, status.holders, status.log_tail) == (Phase.FAILED, (), caught.value.log_tail)


def test_a_holder_that_cannot_keep_it_for_good_holds_it_as_before(services: Services, place: FakePlace, clock: ManualClock) -> None:
    """Else a lease without an end stays of which nobody was told."""
    services.ensure(feeder(), "a").leave()
    place.away = "no route"
    with pytest.raises(UnavailableError, match="no route"):
        services.ensure(feeder(), "a", wait=False, lease=None)
    place.away = ""
    (holder,) = services.status(feeder().service).holders
    assert holder.expires_us == clock.now_us() + 60_000_000
    services.ensure(feeder(), "a", wait=False, lease=None).leave()
    assert services.status(feeder().service).holders[0].expires_us is None
    place.away = "no route"
    with pytest.raises(UnavailableError, match="no route"):
        services.ensure(feeder(), "a", wait=False, lease=None)
    place.away = ""
    assert services.status(feeder().service).holders[0].expires_us is None, "as it was told the last time"


def test_one_that_has_failed_is_tried_again(services: Services, place: FakePlace) -> None:
    place.script("feeder", "crashing")
    with pytest.raises(ServiceFailedError):
        services.ensure(feeder(), "a")
    place.before["apply"] = lambda: place.script("feeder", "ready")
    with services.ensure(feeder(), "a") as lease:
        assert lease.endpoints
    assert place.count("apply") == 2


def test_one_whose_objects_have_vanished_is_made_again(services: Services, place: FakePlace) -> None:
    services.ensure(feeder(), "a").release()
    place.services.clear()
    with services.ensure(feeder(), "b", wait=False) as lease:
        assert lease.service in place.services
    place.services.clear()
    with services.ensure(feeder(), "b") as lease:
        assert lease.service in place.services


def test_what_drifts_is_repaired_by_whoever_ensures_it(services: Services, place: FakePlace) -> None:
    services.ensure(feeder(), "a").release()
    place.services[feeder().service].drift = "spec.replicas is 9"
    assert services.status(feeder().service).drift == ("spec.replicas is 9",)
    with services.ensure(feeder(), "a") as lease:
        assert lease.status().drift == ()


def test_a_refused_one_leaves_nothing(services: Services, place: FakePlace) -> None:
    for method in ("check", "apply"):
        place.fail_next[method] = [InputError("resources.limits.cpu: too much")]
        with pytest.raises(InputError, match="too much"):
            services.ensure(feeder(), "a")
        assert (place.services, services.list()) == ({}, [])
    place.fail_after["apply"] = [InputError("it was refused half-way")]
    with pytest.raises(InputError, match="half-way"):
        services.ensure(feeder(), "a")
    assert (place.services, services.list()) == ({}, [])
    services.ensure(feeder(), "a").release()


def test_what_a_refused_one_leaves_on_a_cluster_that_went_away_is_removed_later(services: Services, place: FakePlace) -> None:
    place.fail_after["apply"] = [UnavailableError("cluster local", "reset")]
    place.fail_next["remove"] = [UnavailableError("cluster local", "reset")]
    with pytest.raises(UnavailableError, match="reset"):
        services.ensure(feeder(), "a")
    assert len(place.services) == 1
    assert services.reap().removed == (feeder().service,)
    assert place.services == {}


def test_a_lease_of_another_that_came_meanwhile_keeps_what_we_could_not_make(
    services: Services, open_services: OpenServices, place: FakePlace
) -> None:
    other = open_services()

    def somebody_comes() -> None:
        del place.before["apply"]
        other.ensure(feeder(), "b", wait=False, lease=None)

    place.before["apply"] = somebody_comes
    place.fail_after["apply"] = [None, UnavailableError("cluster local", "reset")]
    with services.ensure(feeder(), "a") as lease:
        assert {holder.holder for holder in lease.status().holders} == {"a", "b"}


def test_an_exact_name_with_another_meaning_is_a_conflict_that_says_what_differs(services: Services) -> None:
    with services.ensure(feeder(exact_name=True), "a") as lease:
        assert lease.service == "feeder"
        with pytest.raises(AlreadyExistsError, match=r"service 'feeder'.*its command is .*, not \['other'\]"):
            services.ensure(feeder(exact_name=True, command=["other"]), "b")


def test_the_longest_ttl_of_those_who_asked_counts(services: Services) -> None:
    services.ensure(feeder(ttl="1m"), "a").release()
    services.ensure(feeder(ttl="1h"), "b").release()
    services.ensure(feeder(ttl="10m"), "c").release()
    assert services.status(feeder().service).ttl_us == 3_600_000_000


def test_bad_holders_and_leases_are_refused(services: Services) -> None:
    for holder in ("", "a\nb", "x" * 600, 7):
        with pytest.raises(InputError, match="holder"):
            services.ensure(feeder(), holder)  # type: ignore[arg-type]
    for lease in ("1ms", "soon"):
        with pytest.raises(InputError):
            services.ensure(feeder(), "a", lease=lease)


def test_a_hundred_that_ensure_ten_specs_at_once_get_ten_services(open_services: OpenServices, place: FakePlace) -> None:
    managers = [open_services() for _ in range(4)]

    def ensure(index: int) -> str:
        lease = managers[index % 4].ensure(feeder(env={"N": str(index % 10)}), f"run-{index}", lease=None)
        assert lease.endpoints
        return lease.service

    with ThreadPoolExecutor(20) as pool:
        names = list(pool.map(ensure, range(100)))
    assert len(set(names)) == len(place.services) == 10
    assert sorted(len(status.holders) for status in managers[0].list()) == [10] * 10
    assert {status.phase for status in managers[0].list()} == {Phase.READY}


# -- hold, release, look ------------------------------------------------------------------------------------------------------------------


def test_another_process_can_hold_on_under_the_same_name(services: Services, open_services: OpenServices, clock: ManualClock) -> None:
    services.ensure(feeder(), "flyte", wait=False).leave()
    held = open_services().hold(feeder().service, "flyte", lease="6h")
    assert held.expires_us == clock.now_us() + 6 * 3_600_000_000
    assert open_services().hold(feeder().service, "flyte", lease="60s").expires_us == held.expires_us, "a lease was made shorter"
    assert open_services().hold(feeder().service, "flyte", lease=None).expires_us is None
    assert open_services().hold(feeder().service, "flyte").expires_us is None
    assert services.release(feeder().service, "flyte")
    assert not services.release(feeder().service, "flyte")
    with pytest.raises(ServiceNotFoundError, match="did you mean"):
        services.hold(feeder().service + "0", "flyte")
    assert not services.release("nobody", "flyte")


def test_a_status_says_when_an_idle_service_will_go(services: Services, clock: ManualClock) -> None:
    lease = services.ensure(feeder(ttl="10m"), "a")
    assert lease.status().removal_us is None
    lease.release()
    clock.advance(us=60_000_000)
    status = services.status(lease.service)
    assert status.removal_us == clock.now_us() + 540_000_000
    assert (status.name, status.cluster, status.replicas, status.source) == ("feeder", "local", 1, None)


def test_a_cluster_that_is_away_is_no_error_of_a_status(services: Services, place: FakePlace) -> None:
    services.ensure(feeder(), "a").release()
    place.away = "no route to host"
    for status in (services.status(feeder().service), *services.list()):
        assert status.phase is Phase.UNKNOWN
        assert "no route to host" in status.reason
    with pytest.raises(UnavailableError, match="no route"):
        services.ensure(feeder(env={"N": "1"}), "a")


def test_a_thousand_services_are_listed_with_one_look(services: Services, place: FakePlace) -> None:
    for index in range(30):
        services.ensure(feeder(env={"N": str(index)}), "a", wait=False, lease=None)
    place.calls.clear()
    assert len(services.list()) == 30
    assert place.calls == [("observe_all", "")]


def test_logs_and_variables_can_be_asked_for_by_name(services: Services) -> None:
    services.ensure(feeder(replicas=2, exports={"WHO": "{name}"}), "a").release()
    name = feeder(replicas=2).service
    assert list(services.logs(name, 1)) == ["hello"]
    assert list(services.logs(name)) == ["0: hello", "1: hello"]
    with pytest.raises(InputError, match="instances 0 to 1, no 2"):
        services.logs(name, 2)
    assert services.env(name)["WHO"] == name == services.status(name).env["WHO"]
    assert services.env(name, feeder(replicas=2), {"GE": "{endpoints}"})["GE"] == ",".join(services.status(name).endpoints)
    for ask in (services.status, services.logs, services.env):
        with pytest.raises(ServiceNotFoundError, match="no service 'nobody'"):
            ask("nobody")


# -- scale, update, delete ----------------------------------------------------------------------------------------------------------------


def test_a_service_is_scaled_under_those_who_use_it(services: Services) -> None:
    with services.ensure(feeder(), "a") as lease:
        services.scale(lease.service, 3)
        status = lease.status()
        assert (status.ready, status.replicas, len(lease.endpoints)) == (3, 3, 3)
        with services.ensure(feeder(), "b") as other:  # the same meaning, also while it is larger
            assert len(other.endpoints) == 3
        for replicas in (0, -1, 5000, True, "3"):
            with pytest.raises(InputError, match="replicas"):
                services.scale(lease.service, replicas)  # type: ignore[arg-type]
    with pytest.raises(ServiceNotFoundError):
        services.scale("nobody", 2)


def test_shards_are_scaled_together(services: Services) -> None:
    with services.ensure(feeder(replicas=2, shards=2), "a") as lease, pytest.raises(InputError, match="multiple of the shards"):
        services.scale(lease.service, 3)


def test_a_scale_that_a_cluster_misses_is_done_later(services: Services, place: FakePlace) -> None:
    with services.ensure(feeder(), "a") as lease:
        place.away = "down"
        with pytest.raises(UnavailableError):
            services.scale(lease.service, 2)
        place.away = ""
        assert services.reap().repaired == (lease.service,)
        assert lease.status().ready == 2


def test_an_update_rolls_out_what_may_change(services: Services, place: FakePlace) -> None:
    with services.ensure(feeder(), "a") as lease:
        services.update(lease.service, feeder(env={"SEED": "2"}, ttl="1h"))
        assert place.services[lease.service].desired.spec.env == {"SEED": "2"}
        assert place.services[lease.service].generation == [1]
        assert lease.status().note == "updated: env, ttl_us"
        with services.ensure(feeder(), "b") as other:  # found by its first meaning
            assert other.service == lease.service
        with pytest.raises(InputError, match=r"command: service .* cannot change"):
            services.update(lease.service, feeder(command=["other"]))
        with pytest.raises(InputError, match="named 'feeder', not 'reader'"):
            services.update(lease.service, feeder("reader"))


def test_a_service_with_an_exact_name_may_change_its_meaning(services: Services, place: FakePlace) -> None:
    changed = feeder(exact_name=True, command=["other"])
    with services.ensure(feeder(exact_name=True), "a"):
        services.update("feeder", changed)
        with services.ensure(changed, "b"):
            assert place.services["feeder"].desired.spec.command == ("other",)
        with pytest.raises(InputError, match="placement"):
            services.update("feeder", changed.replace(placement="texas"))


def test_a_service_that_others_hold_is_deleted_by_force_only(services: Services, place: FakePlace) -> None:
    services.ensure(feeder(), "run-17", lease=None)
    name = feeder().service
    with pytest.raises(StateError, match=r"held by run-17; stop them"):
        services.delete(name)
    assert services.status(name).phase is Phase.READY
    assert services.delete(name, holder="run-17")
    assert place.services == {}
    services.ensure(feeder(), "run-18", lease=None)
    assert services.delete(name, force=True)
    assert (place.services, services.list()) == ({}, [])
    with pytest.raises(ServiceNotFoundError):
        services.delete(name)


def test_a_slow_removal_is_waited_for_or_left_to_the_reaper(services: Services, place: FakePlace) -> None:
    services.ensure(feeder(), "a").release()
    place.removal_calls = 3
    assert services.delete(feeder().service)
    services.ensure(feeder(), "a").release()
    place.removal_calls = 1_000
    assert not services.delete(feeder().service, timeout="50ms")
    assert services.status(feeder().service).phase is Phase.REMOVING
    assert services.reap().waiting == (feeder().service,)
    with pytest.raises(DeadlineExceededError, match="still on its way out"):
        services.ensure(feeder(), "a", timeout="100ms")
    place.removal_calls = 1
    with services.ensure(feeder(), "a") as lease:
        assert lease.status().phase is Phase.READY


def test_the_manager_closes_what_it_opened_and_gives_its_leases_back(services: Services, open_services: OpenServices) -> None:
    other = open_services()
    other.ensure(feeder(), "renewed")
    other.ensure(feeder(), "kept", lease=None)
    other.close()
    assert [holder.holder for holder in services.status(feeder().service).holders] == ["kept"]


def test_the_platform_has_its_services(tmp_path: Path) -> None:
    with fd.open(tmp_path / "data") as platform:
        assert platform.services is platform.services
        assert platform.services.list() == []
        assert platform.services.clusters() == ["local"]


def test_waiting_ends_at_once_when_the_service_is_deleted_under_it_and_made_anew(
    services: Services, open_services: OpenServices, place: FakePlace
) -> None:
    place.script("feeder", "slow")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(services.ensure, feeder(), "a")
        wait_for(lambda: place.services, "it is made")
        first = place.services[feeder().service].desired.incarnation
        assert open_services().delete(feeder().service, force=True)
        place.script("feeder", "ready")
        with waiting.result(60) as lease:
            assert lease.incarnation != first
            assert lease.status().incarnation == lease.incarnation
