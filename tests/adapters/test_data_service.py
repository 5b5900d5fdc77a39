"""The calls of a data service task over scripted clusters: what a backend gets, whatever the cluster does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fondaco.adapters.data_service import (
    DataServiceConfig,
    DataServiceMeta,
    TaskPhase,
    answering_time,
    create,
    delete,
    execution_holder,
    get,
    holder_of,
    lifecycle,
)
from fondaco.adapters.data_service.bounded import CALLS_MAX, within
from fondaco.catalog import Catalog
from fondaco.core.clock import SystemClock
from fondaco.core.config import ServicesConfig
from fondaco.core.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FormatVersionError,
    InputError,
    ServiceNotFoundError,
    UnavailableError,
)
from fondaco.services.manager import Services
from services.fake_provisioner import FakePlace
from waiting import wait_for

HOLDER = "flyte:graphs/development/f17/n0"
SOON = 0.3  # seconds to answer in, for tests in which a cluster hangs


def config(**more: Any) -> DataServiceConfig:
    return DataServiceConfig(**({"Command": ["serve", "{port}"], "Replicas": 2} | more))


@pytest.fixture
def place() -> FakePlace:
    return FakePlace()


@pytest.fixture
def open_services(tmp_path: Path, place: FakePlace) -> Iterator[Callable[[], Services]]:
    """Each call opens what another connector process would have."""
    catalog = Catalog.open(tmp_path)
    opened: list[Services] = []

    def open_one() -> Services:
        opened.append(Services(catalog, ServicesConfig(), SystemClock(), {"local": place.provisioner}))
        return opened[-1]

    yield open_one
    for services in opened:
        services.close()
    catalog.close()


@pytest.fixture
def services(open_services: Callable[[], Services]) -> Services:
    return open_services()


def old(meta: DataServiceMeta, *, seconds: float) -> DataServiceMeta:
    """The meta of a task that was created so long ago."""
    return msgspec.structs.replace(meta, created_us=meta.created_us - int(seconds * 1e6))


def holders(services: Services, service: str) -> list[str]:
    return [found.holder for found in services.status(service).holders]


def test_a_task_succeeds_with_all_that_it_declares_when_every_instance_is_ready(services: Services, place: FakePlace) -> None:
    meta = create(services, config(Name="routes", Exports={"GE_ENDPOINTS": "{endpoints}"}), holder=HOLDER)
    state = get(services, meta)
    assert state.phase is TaskPhase.SUCCEEDED
    assert state.message == "2/2 ready"
    assert state.outputs is not None
    assert state.outputs.name == "routes"
    assert len(state.outputs.endpoints) == 2
    assert state.outputs.env["GE_ENDPOINTS"] == state.outputs.env["FONDACO_SERVICE_ENDPOINTS"] == ",".join(state.outputs.endpoints)


def test_a_task_gets_what_it_declares_and_nothing_else(services: Services) -> None:
    for declared, delivered in ((None, ["name", "endpoints", "env"]), (("name",), ["name"]), ((), [])):
        meta = DataServiceMeta.decode(create(services, config(), holder=HOLDER, outputs=declared).encode())
        outputs = get(services, meta).outputs
        assert outputs is not None
        assert list(outputs.to_dict(meta.outputs)) == delivered


def test_phases_follow_the_service(services: Services, place: FakePlace) -> None:
    place.script("routes", "slow")
    meta = create(services, config(Name="routes"), holder=HOLDER)
    state = get(services, meta)
    assert (state.phase, state.message) == (TaskPhase.INITIALIZING, "0/2 ready; instance 0: it loads")
    place.script("routes", "ready")
    place.services["routes"].running = 1
    assert get(services, meta).phase is TaskPhase.RUNNING
    assert get(services, meta).message == "1/2 ready"
    place.services["routes"].running = 2
    assert get(services, meta).phase is TaskPhase.SUCCEEDED


def test_another_process_goes_on_with_nothing_but_the_bytes(open_services: Callable[[], Services]) -> None:
    meta = create(open_services(), config(), holder=HOLDER)
    data = meta.encode()
    assert DataServiceMeta.decode(data) == meta
    other = open_services()
    assert get(other, DataServiceMeta.decode(data)).phase is TaskPhase.SUCCEEDED
    delete(other, DataServiceMeta.decode(data))
    assert holders(other, meta.service) == []


def test_the_bytes_carry_no_setting_of_the_service(services: Services) -> None:
    made = create(services, config(Env={"TOKEN": "hush-hush"}, Spec={"secrets": {"KEY": "env:SECRET_KEY"}}), holder=HOLDER)
    assert b"hush" not in made.encode()
    assert b"SECRET" not in made.encode()
    assert b"serve" not in made.encode().replace(b'"service"', b"")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"version": 1}', b"\xff\xfe", b'{"version": "x"}', b'{"raw": "flytekit"}'])
def test_bytes_that_are_not_ours_are_refused_with_words(data: bytes) -> None:
    with pytest.raises(InputError, match="not the resource meta"):
        DataServiceMeta.decode(data)


def test_bytes_of_a_newer_connector_are_told_from_damaged_ones(services: Services) -> None:
    with pytest.raises(FormatVersionError, match="reads up to 1"):
        DataServiceMeta.decode(b'{"version": 2, "anything": []}')
    made = create(services, config(), holder=HOLDER)
    later = msgspec.json.encode(msgspec.json.decode(made.encode()) | {"added": True})
    assert DataServiceMeta.decode(later) == made


def test_create_again_is_one_service_and_one_lease(services: Services, place: FakePlace) -> None:
    made = [create(services, config(), holder=HOLDER) for _ in range(3)]
    assert {meta.service for meta in made} == {made[0].service}
    assert list(place.services) == [made[0].service]
    assert holders(services, made[0].service) == [HOLDER]


def test_a_create_that_was_refused_leaves_nothing_and_a_corrected_one_works(services: Services, place: FakePlace) -> None:
    place.fail_next["apply"] = [InputError("resources.requests.cpu: the place says no")]
    with pytest.raises(InputError, match="says no"):
        create(services, config(Name="routes"), holder=HOLDER)
    assert place.services == {}
    assert services.list() == []
    meta = create(services, config(Name="routes", Replicas=3), holder=HOLDER)
    assert get(services, meta).phase is TaskPhase.SUCCEEDED


def test_a_failed_service_says_why_and_a_corrected_task_changes_it(services: Services, place: FakePlace) -> None:
    place.script("routes", "crashing")
    meta = create(services, config(Name="routes"), holder=HOLDER)
    assert get(services, meta).phase is TaskPhase.INITIALIZING, "it may show yet that it lives"
    state = get(services, old(meta, seconds=20))
    assert state.phase is TaskPhase.RETRYABLE_FAILED
    assert "0/2 ready; instance 0: exit code 3" in state.message
    assert "Traceback: boom" in state.message
    assert holders(services, "routes") == [], "nobody calls after a failure"
    place.scripts.clear()
    again = create(services, config(Name="routes", Command=["serve", "--right", "{port}"]), holder=HOLDER)
    assert get(services, again).phase is TaskPhase.SUCCEEDED
    assert place.services["routes"].desired.spec.command == ("serve", "--right", "{port}")


def test_a_name_that_others_use_is_not_taken_from_them(services: Services) -> None:
    create(services, config(Name="routes"), holder="flyte:graphs/development/other/n0")
    with pytest.raises(AlreadyExistsError, match="held by flyte:graphs/development/other/n0"):
        create(services, config(Name="routes", Command=["else", "{port}"]), holder=HOLDER)
    assert holders(services, "routes") == ["flyte:graphs/development/other/n0"]


def test_abort_gives_back_the_own_lease_only_and_may_be_said_twice(services: Services, place: FakePlace) -> None:
    first = create(services, config(), holder=HOLDER)
    reused = create(services, DataServiceConfig(ExistingReleaseName=first.service), holder="flyte:graphs/development/f18/n0")
    assert get(services, reused).phase is TaskPhase.SUCCEEDED
    delete(services, reused)
    delete(services, reused)
    assert holders(services, first.service) == [HOLDER]
    assert list(place.services) == [first.service]


def test_reuse_of_a_service_that_does_not_exist_is_refused(services: Services) -> None:
    create(services, config(Name="routes"), holder=HOLDER)
    with pytest.raises(ServiceNotFoundError, match="did you mean 'routes'"):
        create(services, DataServiceConfig(ExistingReleaseName="route"), holder=HOLDER)


def test_settings_beside_the_name_of_an_existing_service_must_mean_the_same(services: Services) -> None:
    meta = create(services, config(Name="routes"), holder=HOLDER)
    same = create(services, config(ExistingReleaseName="routes"), holder="another")
    assert same.service == meta.service
    with pytest.raises(AlreadyExistsError, match="other settings than those beside ExistingReleaseName"):
        create(services, config(ExistingReleaseName="routes", Replicas=5), holder="a-third")
    assert holders(services, "routes") == [HOLDER, "another"]


def test_a_task_whose_service_is_gone_may_be_tried_again(services: Services, place: FakePlace) -> None:
    meta = create(services, config(), holder=HOLDER)
    services.delete(meta.service, force=True)
    state = get(services, old(meta, seconds=120))
    assert state.phase is TaskPhase.RETRYABLE_FAILED
    assert "is gone: deleted by force; another attempt makes it again" in state.message
    assert get(services, create(services, config(), holder=HOLDER)).phase is TaskPhase.SUCCEEDED


def test_a_service_on_its_way_out_is_no_success(services: Services, place: FakePlace) -> None:
    meta = create(services, config(), holder=HOLDER)
    place.removal_calls = 1000
    services.delete(meta.service, force=True, timeout="0s")
    assert get(services, old(meta, seconds=120)).phase is TaskPhase.RETRYABLE_FAILED


def test_a_cluster_that_does_not_answer_is_an_answer_for_an_hour(services: Services, place: FakePlace) -> None:
    meta = create(services, config(), holder=HOLDER)
    place.away = "the API server is down"
    state = get(services, meta)
    assert state.phase is TaskPhase.RUNNING
    assert "the API server is down" in state.message
    assert get(services, old(meta, seconds=3700)).phase is TaskPhase.RETRYABLE_FAILED
    place.away = ""
    assert get(services, meta).phase is TaskPhase.SUCCEEDED


def test_exports_that_the_service_has_no_port_for_fail_the_task_with_words(services: Services) -> None:
    create(services, config(Name="routes"), holder=HOLDER)
    reuse = DataServiceConfig(ExistingReleaseName="routes", Exports={"METRICS": "{endpoints.metrics}"})
    state = get(services, create(services, reuse, holder="another"))
    assert state.phase is TaskPhase.FAILED
    assert "METRICS" in state.message
    with pytest.raises(InputError, match=r"Exports.A: '\{nope\}' names"):
        DataServiceConfig(ExistingReleaseName="routes", Exports={"A": "{nope}"})


def test_a_catalog_that_does_not_answer_is_an_answer_too(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = create(services, config(), holder=HOLDER)

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("the catalog", "connection refused")

    monkeypatch.setattr(services, "renew", away)
    assert get(services, meta).phase is TaskPhase.RUNNING
    assert "connection refused" in get(services, meta).message


def test_create_on_a_cluster_that_is_away_fails_so_that_it_is_repeated(services: Services, place: FakePlace) -> None:
    place.away = "the API server is down"
    with pytest.raises(UnavailableError, match="the API server is down"):
        create(services, config(), holder=HOLDER)
    place.away = ""
    assert get(services, create(services, config(), holder=HOLDER)).phase is TaskPhase.SUCCEEDED


def test_create_answers_while_the_cluster_hangs_and_what_it_began_is_found(services: Services, place: FakePlace) -> None:
    goes_on = threading.Event()
    place.before["apply"] = lambda: goes_on.wait(60) and None
    begun = time.monotonic()
    meta = create(services, config(), holder=HOLDER, answer_s=SOON)
    assert time.monotonic() - begun < 8
    assert get(services, meta).phase is TaskPhase.INITIALIZING
    goes_on.set()
    wait_for(lambda: get(services, meta).phase is TaskPhase.SUCCEEDED, "the create that was not waited for")
    assert holders(services, meta.service) == [HOLDER]


def test_get_before_a_hanging_create_has_entered_the_service_says_that_it_is_being_made(services: Services, place: FakePlace) -> None:
    goes_on = threading.Event()
    place.before["check"] = lambda: goes_on.wait(60) and None
    meta = create(services, config(), holder=HOLDER, answer_s=SOON)
    assert get(services, meta).phase is TaskPhase.INITIALIZING
    assert "is being made" in get(services, meta).message
    assert get(services, old(meta, seconds=120)).phase is TaskPhase.RETRYABLE_FAILED
    goes_on.set()
    wait_for(lambda: get(services, meta).phase is TaskPhase.SUCCEEDED, "the create that was not waited for")


@pytest.mark.parametrize("where", ["check", "apply"])
def test_why_a_service_could_not_be_made_is_told_also_after_create_has_answered_by_any_process(
    open_services: Callable[[], Services], place: FakePlace, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(lifecycle, "MENDING_S", 0.0)
    services, goes_on = open_services(), threading.Event()
    place.before[where] = lambda: goes_on.wait(60) and None
    place.fail_next[where] = [UnavailableError("cluster local", "quota exceeded: 4 of 4 cpu")]
    meta = create(services, config(), holder=HOLDER, answer_s=SOON)
    assert get(services, meta).phase is TaskPhase.INITIALIZING
    goes_on.set()
    other = open_services()
    wait_for(lambda: get(other, meta).phase is TaskPhase.RETRYABLE_FAILED, "the refusal")
    assert "it could not be made" in get(other, meta).message
    assert "quota exceeded: 4 of 4 cpu" in get(other, meta).message
    assert services.list() == []
    assert get(other, create(other, config(), holder=HOLDER)).phase is TaskPhase.SUCCEEDED


def test_a_name_that_turns_out_to_be_taken_after_create_has_answered_is_said(
    services: Services, place: FakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(services, config(Name="routes"), holder="flyte:graphs/development/other/n0")
    goes_on, found = threading.Event(), services.ensure
    monkeypatch.setattr(services, "ensure", lambda *given, **more: goes_on.wait(60) and found(*given, **more))
    meta = create(services, config(Name="routes", Command=["else", "{port}"]), holder=HOLDER, answer_s=SOON)
    goes_on.set()
    wait_for(lambda: "held by flyte:graphs/development/other/n0" in get(services, meta).message, "the reason")
    assert get(services, meta).phase is TaskPhase.RETRYABLE_FAILED


def test_get_answers_while_the_cluster_hangs(services: Services, place: FakePlace) -> None:
    meta = create(services, config(), holder=HOLDER)
    goes_on = threading.Event()
    place.before["observe"] = lambda: goes_on.wait(60) and None
    begun = time.monotonic()
    state = get(services, meta, answer_s=SOON)
    assert time.monotonic() - begun < 8
    assert state.phase is TaskPhase.RUNNING
    goes_on.set()
    wait_for(lambda: get(services, meta).phase is TaskPhase.SUCCEEDED, "a cluster that answers again")


def test_hanging_calls_do_not_pile_up() -> None:
    goes_on = threading.Event()
    for _ in range(CALLS_MAX):
        with pytest.raises(DeadlineExceededError):
            within(0.001, "a test", lambda: goes_on.wait(60))
    with pytest.raises(UnavailableError, match="one too many"):
        within(0.001, "a test", lambda: True)
    goes_on.set()

    def answers() -> bool:
        try:
            return within(10.0, "a test", lambda: True)
        except UnavailableError:
            return False

    wait_for(answers, "threads that end")


def test_every_get_renews_the_lease_and_success_prolongs_it_to_hold(services: Services, place: FakePlace) -> None:
    def seconds_left(service: str) -> float:
        expires = services.status(service).holders[0].expires_us
        assert expires is not None
        return expires / 1e6 - time.time()

    place.script("routes", "slow")
    meta = create(services, config(Name="routes", Hold="2h"), holder=HOLDER, lease="10s")
    assert seconds_left("routes") < 60
    get(services, meta)
    assert 200 < seconds_left("routes") < 400
    place.script("routes", "ready")
    get(services, meta)
    assert 7000 < seconds_left("routes") < 7300


def test_hold_counts_from_success_also_where_it_is_shorter_than_a_lease(services: Services) -> None:
    meta = create(services, config(Hold="2s"), holder=HOLDER)
    assert get(services, meta).phase is TaskPhase.SUCCEEDED
    assert services.status(meta.service).holders[0].expires_us < (time.time() + 2.1) * 1e6  # type: ignore[operator]
    wait_for(lambda: not holders(services, meta.service), "the lease to run out")
    services.reap()  # after its end: until then it can be renewed
    state = get(services, meta)  # the answer was lost, and the backend asks again
    assert (state.phase, holders(services, meta.service)) == (TaskPhase.RUNNING, [HOLDER])
    assert get(services, meta).phase is TaskPhase.SUCCEEDED
    with pytest.raises(InputError, match="Hold: '0s' is over before the next task begins"):
        config(Hold="0s")


def test_a_poll_that_comes_after_the_abort_does_not_take_the_lease_again(services: Services) -> None:
    meta = create(services, config(Hold="6h"), holder=HOLDER)
    delete(services, meta)
    state = get(services, meta)
    assert state.phase is TaskPhase.RETRYABLE_FAILED
    assert "was given back" in state.message
    assert holders(services, meta.service) == []


def test_a_poll_that_is_under_way_during_the_abort_does_not_prolong_to_hold(services: Services, place: FakePlace) -> None:
    meta = create(services, config(Hold="6h"), holder=HOLDER)
    place.before["observe"] = lambda: delete(services, meta)
    get(services, meta)
    assert holders(services, meta.service) == []


def test_a_lease_that_ran_out_because_nobody_asked_is_taken_again(services: Services) -> None:
    meta = old(create(services, config(Hold="6h"), holder=HOLDER), seconds=400)
    services.release(meta.service, HOLDER)
    assert get(services, meta).phase is TaskPhase.RUNNING
    assert holders(services, meta.service) == [HOLDER]
    assert get(services, meta).phase is TaskPhase.SUCCEEDED


def test_policy_keep_holds_until_it_is_given_back(services: Services) -> None:
    meta = create(services, config(Policy="keep"), holder=HOLDER)
    get(services, meta)
    assert services.status(meta.service).holders[0].expires_us is None
    delete(services, meta)
    assert holders(services, meta.service) == []
    assert get(services, meta).phase is TaskPhase.RETRYABLE_FAILED


def test_links_lead_to_the_logs_of_instances(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = create(services, config(Name="routes"), holder=HOLDER)
    status = services.status("routes")
    instances = tuple(
        msgspec.structs.replace(found, log=log) for found, log in zip(status.instances, ("https://logs/1", "/var/log/1.log"), strict=True)
    )
    monkeypatch.setattr(services, "status", lambda *_, **__: msgspec.structs.replace(status, instances=instances))
    assert get(services, meta).log_links == (("routes-0", "https://logs/1"), ("routes-1", "file:///var/log/1.log"))


def test_many_tasks_at_once_get_the_service_that_they_asked_for(open_services: Callable[[], Services], place: FakePlace) -> None:
    services = open_services()
    made: dict[int, DataServiceMeta] = {}

    def ask(number: int) -> None:
        made[number] = create(services, config(Name=f"c{number % 6}"), holder=f"h{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: meta.service for number, meta in made.items()} == {number: f"c{number % 6}" for number in range(18)}
    assert sorted(place.services) == [f"c{number}" for number in range(6)]


def execution(name: str = "f17", node: str = "n0", attempt: int = 0) -> Any:
    where = SimpleNamespace(project="graphs", domain="development", name=name)
    return SimpleNamespace(
        task_execution_id=SimpleNamespace(
            node_execution_id=SimpleNamespace(node_id=node, execution_id=where), retry_attempt=attempt
        )
    )  # fmt: skip


def test_attempts_of_a_node_share_a_holder_and_others_have_their_own() -> None:
    assert holder_of(execution(), "s3://a/0") == holder_of(execution(attempt=1), "s3://a/1") == HOLDER
    assert holder_of(execution(node="n1"), "s3://a/0") != HOLDER
    assert holder_of(execution(name="f18"), "s3://a/0") != HOLDER
    assert HOLDER.startswith(execution_holder("graphs", "development", "f17"))
    assert not HOLDER.startswith(execution_holder("graphs", "development", "f1"))


def test_without_metadata_the_output_prefix_tells_tasks_apart() -> None:
    for empty in (None, execution(name="")):
        assert holder_of(empty, "s3://a/0") == holder_of(empty, "s3://a/0") != holder_of(empty, "s3://a/1")


def test_the_bounds_leave_room_under_a_backends_deadline() -> None:
    assert [answering_time(left) for left in (None, 10.0, 3600.0)] == [8.0, 8.0, 8.0]
    assert answering_time(3.0) <= 2.5
    assert answering_time(0.0) == 0.0
