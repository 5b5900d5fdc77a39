"""Data services over the network: ensured, held, looked at and removed through a real control API, which also reaps and measures them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

import fondaco as fd
from control_server import ControlServer, error_of
from fondaco.control.routes_services import is_ready_made
from fondaco.services.spec import ServiceSpec
from leftover_services import end_services
from waiting import wait_for

WEB: dict[str, Any] = {
    "name": "web",
    "command": ["{python}", "-u", "-m", "http.server", "{port}", "--bind", "{host}"],
    "ports": ["http"],
    "readiness": {"tcp": True, "every_s": 0.1},
    "exports": {"WEB_URL": "http://{host}:{port}"},
}
ROUTES = {"graph": "routes"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    directory = tmp_path / "platform"
    with fd.open(directory) as platform:
        edges = {("airport", "to", "airport"): pa.table({"src": ["JFK"], "dst": ["ORD"]})}
        platform.build_graph("routes", nodes={"airport": pa.table({"id": ["JFK", "ORD"]})}, edges=edges, progress=False)
    (directory / "fondaco.toml").write_text("[services]\nreap_s = 0.1\n")
    try:
        with ControlServer(directory) as running:
            yield running
            assert "Traceback" not in running.log
    finally:
        end_services(tmp_path)


def token(server: ControlServer, **roles: str) -> str:
    made = server.http.post("/v1/tokens", json={"name": f"t-{time.monotonic_ns()}", "roles": roles or {"*": "admin"}})
    secret: str = made.json()["secret"]
    return secret


def test_a_graph_is_served_to_whom_ensures_it_over_http_and_shared_with_those_in_the_directory(server: ControlServer) -> None:
    seen: list[str] = []
    with fd.connect(server.url) as remote:
        with remote.services.ensure(ServiceSpec.graph("routes"), holder="far", progress=lambda status: seen.append(status.phase)) as lease:
            assert seen[-1] == "ready"
            assert lease.env["FONDACO_GRAPH_ENDPOINTS"] == ",".join(lease.endpoints)
            assert lease.env["FONDACO_GRAPH_VERSION"] == "1"
            with fd.graph.connect(lease.endpoints) as graph:
                assert graph.node_count() == 2
            with fd.open(server.directory) as platform, platform.services.ensure(ServiceSpec.graph("routes"), holder="near") as near:
                assert (near.service, near.endpoints, near.env) == (lease.service, lease.endpoints, lease.env)
                (status,) = remote.services.list()
                assert sorted(row.holder for row in status.holders) == ["far", "near"]
                assert status == platform.services.status(lease.service)
        assert remote.services.status(lease.service).holders == ()
        assert remote.services.status(lease.service).removal_us is not None


def test_a_lease_is_renewed_over_http_and_outlives_the_control_api(server: ControlServer) -> None:
    with fd.connect(server.url, token(server)) as remote, remote.services.ensure(WEB, holder="far", lease="6s") as lease:
        first = remote.services.status(lease.service).holders[0].expires_us

        def ends() -> int:
            with fd.open(server.directory) as platform:
                (holder,) = platform.services.status(lease.service).holders
                assert holder.expires_us is not None
                return holder.expires_us

        assert first is not None
        wait_for(lambda: ends() > first, "it is not renewed")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(60)
        with ControlServer(server.directory, port=server.port):
            again = ends()
            wait_for(lambda: ends() > again, "it is not renewed by the new server")
            wait_for(lambda: lease.lost is None, "it is lost")
            assert remote.services.status(lease.service).ready == 1


def test_a_lease_whose_service_was_taken_away_says_so(server: ControlServer) -> None:
    with fd.connect(server.url, token(server)) as remote:
        lease = remote.services.ensure(WEB, holder="far", lease="1s")
        with pytest.raises(fd.errors.StateError, match="is held by far"):
            remote.services.delete(lease.service)
        assert remote.services.delete(lease.service, force=True)
        wait_for(lambda: lease.lost, "it does not notice")
        with pytest.raises(fd.errors.ServiceNotFoundError):
            lease.renew()
        again = remote.services.ensure(WEB, holder="far")  # the same name, another service
        assert (again.service, again.incarnation > lease.incarnation) == (lease.service, True)
        with pytest.raises(fd.errors.ServiceNotFoundError):
            lease.renew()
        assert [row.holder for row in remote.services.status(again.service).holders] == []  # a stranger's renewal leaves nothing
        again.renew()
        assert [row.holder for row in remote.services.status(again.service).holders] == ["far"]
        again.release()


def test_closing_the_connection_releases_what_it_holds(server: ControlServer) -> None:
    remote = fd.connect(server.url)
    lease = remote.services.ensure(ROUTES, holder="far", wait=False)
    remote.close()
    (status,) = server.http.get("/v1/services").json()["services"]
    assert (status["service"], status["holders"]) == (lease.service, [])


def test_services_are_scaled_changed_read_and_removed_over_http(server: ControlServer) -> None:
    with fd.connect(server.url, token(server)) as remote:
        services = remote.services
        service = services.ensure(WEB, holder="far").service
        services.scale(service, 2)
        wait_for(lambda: services.status(service).ready == 2, "it is not scaled")
        assert len(services.status(service).endpoints) == 2
        services.update(service, WEB | {"replicas": 2, "env": {"GREETING": "hello"}})
        wait_for(lambda: (now := services.status(service)).phase == "ready" and now.note.startswith("updated"), "it is not changed")
        assert any("Serving HTTP" in line for line in services.logs(service, 0, 10))
        assert services.status(service, log_lines=1).log_tail
        assert services.hold(service, "ben", lease=None).expires_us is None
        assert (services.release(service, "ben"), services.release(service, "ben")) == (True, False)
        assert services.delete(service, holder="far")
        with pytest.raises(fd.errors.ServiceNotFoundError):
            services.status(service)


def test_why_a_service_fails_crosses_the_network_and_its_lease_is_given_back(server: ControlServer) -> None:
    broken = ServiceSpec("broken", command=["{python}", "-c", "raise SystemExit('no model at /models/4')"], ttl="1h")
    with fd.connect(server.url, token(server)) as remote:
        with pytest.raises(fd.errors.ServiceFailedError, match="no model at /models/4"):
            remote.services.ensure(broken, holder="far", timeout="90s")
        assert remote.services.status(broken.service).holders == ()
        slow = ServiceSpec("slow", command=["sleep", "600"], ports=1, readiness={"tcp": True})
        with pytest.raises(fd.errors.DeadlineExceededError, match="0/1"):
            remote.services.ensure(slow, holder="far", timeout="0.2s")
        assert remote.services.status(slow.service).holders == ()
        with pytest.raises(fd.errors.GraphNotFoundError, match="did you mean 'routes'"):
            remote.services.ensure({"graph": "rotes"})
        with pytest.raises(fd.errors.InputError, match=r"env\.X"):
            remote.services.ensure(ROUTES, env={"X": "{nothing}"})


def test_programs_of_their_own_are_taken_from_nobody_without_an_admin_token(server: ControlServer) -> None:
    with fd.connect(server.url) as remote, pytest.raises(fd.errors.AuthenticationError, match="runs a program"):
        remote.services.ensure(WEB)
    assert server.http.get("/v1/services").json() == {"services": []}
    reader = {"Authorization": f"Bearer {token(server, **{'*': 'read'})}"}
    answer = server.http.post("/v1/services", json={"spec": WEB, "holder": "a"}, headers=reader)
    assert error_of(answer, 403)["error"] == "PermissionDeniedError"
    service = server.http.post("/v1/services", json={"spec": ROUTES, "holder": "a"}).json()["service"]
    assert server.http.get(f"/v1/services/{service}", headers=reader).status_code == 200
    error_of(server.http.put(f"/v1/services/{service}", json={"spec": WEB | {"name": "graph-routes"}}), 401)
    error_of(server.http.post(f"/v1/services/{service}/scale", json={"replicas": 2}, headers=reader), 403)
    error_of(server.http.post(f"/v1/services/{service}/scale", json={"replicas": 4096}), 401)
    error_of(server.http.post("/v1/services", json={"spec": ROUTES | {"replicas": 4096}, "holder": "a"}), 401)
    error_of(server.http.delete(f"/v1/services/{service}", headers=reader), 403)
    # what a page in a browser can send without asking first is no JSON
    text = server.http.post("/v1/services", content='{"spec": {"graph": "routes"}, "holder": "a"}', headers={"Content-Type": "text/plain"})
    error_of(text, 415)


@pytest.mark.parametrize(
    "more",
    [
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"secrets": {"A": "file:/etc/shadow"}},
        {"command": ["sh"]},
        {"image": "registry.example.com/other"},
        {"volumes": [{"path": "/etc", "host": "/etc"}]},
        {"readiness": {"command": ["sh", "-c", "id"]}},
        {"pod": {"template": {"spec": {"hostPID": True}}}},
        {"ports": {"graph": 22, "metrics": 23}},
    ],
)
def test_a_ready_made_service_with_settings_that_run_something_counts_as_a_program(more: dict[str, Any]) -> None:
    assert not is_ready_made(ServiceSpec.graph("routes", **more))
    assert not is_ready_made(ServiceSpec(**(ServiceSpec.store("members").to_dict() | more)))


def test_a_ready_made_service_may_choose_what_runs_nothing() -> None:
    more: dict[str, Any] = {"ttl": "1h", "exports": {"A": "{endpoints}"}, "labels": {"team": "a"}, "placement": "texas"}
    assert is_ready_made(ServiceSpec.graph("routes", version=3, shards=2, replicas=2, resources={"limits": {"memory": "2Gi"}}, **more))
    assert is_ready_made(ServiceSpec.graph("routes", follow=True, name="mine", exact_name=True))
    assert is_ready_made(ServiceSpec.from_dict(ServiceSpec.store("members", replicas=3, **more).to_dict()))
    assert not is_ready_made(ServiceSpec("a", command="b"))


def test_the_control_api_reaps_and_says_so(server: ControlServer) -> None:
    def metrics() -> dict[str, float]:
        lines = [line for line in server.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    held = server.http.post("/v1/services", json={"spec": ROUTES | {"ttl": "0s"}, "holder": "a"}).json()["service"]
    wait_for(lambda: server.http.get(f"/v1/services/{held}").json()["phase"] == "ready", "it does not come up")
    found = metrics()
    labels = f'{{cluster="local",service="{held}"}}'
    assert found['fondaco_services{cluster="local",phase="ready"}'] == 1
    assert found['fondaco_services{cluster="local",phase="failed"}'] == 0
    assert (found[f"fondaco_service_instances{labels}"], found[f"fondaco_service_ready_instances{labels}"]) == (1, 1)
    assert (found[f"fondaco_service_leases{labels}"], f"fondaco_service_removal_time_seconds{labels}" in found) == (1, False)
    assert found['fondaco_scrape_errors{part="services"}'] == 0
    server.http.post(f"/v1/services/{held}/release", json={"holder": "a"})
    wait_for(lambda: server.http.get("/v1/services").json()["services"] == [], "it is not reaped")
    wait_for(lambda: metrics()["fondaco_reaper_removed_services_total"] == 1, "the removal is not counted")
    found = metrics()
    assert found["fondaco_reaper_looks_total"] > 1
    assert abs(found["fondaco_reaper_last_look_time_seconds"] - time.time()) < 60
    assert not any(held in name for name in found)


def test_the_thin_client_of_services_loads_no_engine(server: ControlServer) -> None:
    script = (
        "import sys, fondaco as fd\n"
        f"with fd.connect({server.url!r}) as remote, remote.services.ensure({{'graph': 'routes'}}, holder='thin') as lease:\n"
        "    print(lease.env['FONDACO_GRAPH_ENDPOINTS'])\n"
        "found = {'numba', 'sqlalchemy', 'duckdb', 'lightkube', 'grpc'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"127\.0\.0\.1:\d+\n", done.stdout)


def test_a_control_api_that_is_stopped_leaves_services_running(server: ControlServer) -> None:
    answer: httpx.Response = server.http.post("/v1/services", json={"spec": ROUTES, "holder": "a"})
    service = answer.json()["service"]
    wait_for(lambda: server.http.get(f"/v1/services/{service}").json()["phase"] == "ready", "it does not come up")
    assert server.stop() == 0
    with fd.open(server.directory) as platform:
        status = platform.services.status(service)
        assert (status.phase, [row.holder for row in status.holders]) == ("ready", ["a"])
