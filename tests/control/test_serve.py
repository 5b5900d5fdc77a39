"""The control API as a process: every route, and what it answers to what is wrong."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

import fondaco as fd
from control_server import ARROW, VALUE, ControlServer, arrow_stream, error_of, rows
from fondaco.core import errors
from fondaco.dataplane import wire
from fondaco.dataplane.routing import decode_routing
from waiting import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    directory = tmp_path_factory.mktemp("serve") / "platform"
    fd.open(directory).close()
    with ControlServer(directory, "--data", "http://127.0.0.1:7071") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def pushed(server: ControlServer) -> ControlServer:
    """Store `members` with two versions."""
    server.create_store("members", partitions=2)
    for version in (1, 2):
        report = server.push("members", rows(100 * version), push_id=f"p{version}").json()
        assert (report["version"], report["records"], report["state"]) == (version, 100 * version, "CURRENT")
    return server


def test_endpoints_say_where_rows_are_and_which_fondaco_this_is(server: ControlServer) -> None:
    answer = server.http.get("/v1/endpoints").json()
    assert answer == {"data": ["http://127.0.0.1:7071"], "control": server.url, "version": fd.__version__}


def test_a_store_is_created_once_found_when_created_alike_and_described(server: ControlServer) -> None:
    wanted = {"name": "jobs", "key": "string", "value": VALUE, "partitions": 3, "rewind": "2h"}
    assert server.http.post("/v1/stores", json=wanted).status_code == 201
    again = server.http.post("/v1/stores", json=wanted)
    assert again.status_code == 200
    described = server.http.get("/v1/stores/jobs").json()
    assert described == again.json()
    assert (described["name"], described["partitions"], described["rewind"], described["current"]) == ("jobs", 3, "2h", None)
    assert described in server.http.get("/v1/stores").json()["stores"]
    other = error_of(server.http.post("/v1/stores", json={**wanted, "partitions": 4}), 409)
    assert other["error"] == "AlreadyExistsError"
    assert "its partitions is 3, not 4" in other["message"]


def test_a_push_over_http_is_read_by_an_embedded_reader_and_repeatable(pushed: ControlServer) -> None:
    again = pushed.push("members", rows(5), push_id="p2").json()
    assert (again["version"], again["records"]) == (2, 200)
    with fd.open(pushed.directory, create=False) as platform, platform.store("members").reader() as reader:
        row = reader.get(150)
        assert row is not None
        assert dict(row) == {"clicks": 1050, "name": "n150"}
    latest = pushed.http.get("/v1/stores/members/pushes").json()["pushes"][-1]
    assert (latest["push_id"], latest["state"], latest["records"]) == ("p2", "CURRENT", 200)
    assert latest["built_from"]["source"] == "upload"


def test_versions_swap_rollback_and_retire_follow_the_store(pushed: ControlServer) -> None:
    listed = pushed.http.get("/v1/stores/members/versions").json()["versions"]
    assert [(version["version"], version["state"]) for version in listed][-2:] == [(1, "BACKUP"), (2, "CURRENT")]
    assert pushed.http.post("/v1/stores/members/rollback").json() == {"current": 1}
    assert pushed.http.post("/v1/stores/members/swap", json={"version": 2}).json() == {"current": 2}
    missing = error_of(pushed.http.post("/v1/stores/members/swap", json={"version": 9}), 404)
    assert missing["args"] == ["members", 9, [1, 2]]
    assert isinstance(
        wire.error_from(404, pushed.http.post("/v1/stores/members/swap", json={"version": 9}).content), errors.VersionNotFoundError
    )
    held = error_of(pushed.http.post("/v1/stores/members/retire", json={"version": 2}), 409)
    assert held["error"] == "StateError"


def test_a_deferred_swap_waits_and_a_repush_and_an_empty_push_make_versions(server: ControlServer) -> None:
    server.create_store("deferred")
    assert server.push("deferred", rows(10)).json()["version"] == 1
    waiting = server.push("deferred", rows(20), swap="false").json()
    assert (waiting["state"], waiting["current"]) == ("READY", 1)
    assert server.http.post("/v1/stores/deferred/repush", json={"partitions": 2}).json()["partitions"] == 2
    empty = server.http.post("/v1/stores/deferred/pushes", params={"kind": "empty"}).json()
    assert (empty["records"], empty["state"]) == (0, "CURRENT")
    assert server.http.post("/v1/stores/deferred/retire", json={"version": 3}).json() == {"retired": 3}
    every = server.http.get("/v1/stores/deferred/versions", params={"all": "true"}).json()["versions"]
    assert [version["version"] for version in every] == [1, 2, 3, 4]


def test_schemas_are_listed_and_added_and_refused_with_the_field(server: ControlServer) -> None:
    server.create_store("evolving")
    more = {**VALUE, "fields": [*VALUE["fields"], {"name": "city", "type": "string", "default": ""}]}  # type: ignore[misc]
    assert server.http.post("/v1/stores/evolving/schemas", json={"value": more}).json() == {"number": 2}
    listed = server.http.get("/v1/stores/evolving/schemas").json()["schemas"]
    assert [schema["number"] for schema in listed] == [1, 2]
    assert [field["name"] for field in listed[1]["schema"]["fields"]] == ["clicks", "name", "city"]
    bad = {**VALUE, "fields": [{"name": "clicks", "type": "string"}, {"name": "name", "type": "string"}]}
    refused = error_of(server.http.post("/v1/stores/evolving/schemas", json={"value": bad}), 400)
    assert refused["error"].startswith("Schema")
    assert "clicks" in refused["message"]


def test_a_deleted_store_is_gone(server: ControlServer) -> None:
    server.create_store("brief")
    assert server.http.delete("/v1/stores/brief").json() == {"deleted": "brief"}
    gone = error_of(server.http.get("/v1/stores/brief"), 404)
    assert gone["error"] == "StoreNotFoundError"


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "message"),
    [
        ("GET", "/v1/storez", {}, 404, "did you mean '/v1/stores'?"),
        ("PATCH", "/v1/stores", {}, 405, "it takes GET, POST"),
        ("GET", "/v1/stores/membrs", {}, 404, "did you mean 'members'?"),
        ("POST", "/v1/stores", {"content": b"{"}, 400, "body of POST /v1/stores"),
        ("POST", "/v1/stores", {"json": {"name": "x"}}, 400, "missing required field `value`"),
        ("POST", "/v1/stores", {"json": {"name": "x", "value": VALUE, "partitons": 3}}, 400, "unknown field `partitons`"),
        ("POST", "/v1/stores", {"json": {"name": "x", "value": VALUE, "partitions": "3"}}, 400, "$.partitions"),
        ("POST", "/v1/stores", {"json": {"name": "a/b", "value": VALUE}}, 400, "'a/b' cannot name a store"),
        ("POST", "/v1/stores", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "send application/json"),
        ("POST", "/v1/stores", {"content": b" " * (5 << 20)}, 413, "bytes of the request's body"),
        ("GET", "/v1/stores/members/versions?al=1", {}, 400, "unknown field `al`"),
        ("GET", "/v1/stores/members/versions?all=maybe", {}, 400, "$.all"),
        ("POST", "/v1/stores/members/pushes", {"content": b"x", "headers": {"Content-Type": "text/csv"}}, 415, "vnd.apache.arrow.stream"),
        ("POST", "/v1/stores/members/pushes", {"headers": ARROW}, 400, "the request has no body"),
        ("POST", "/v1/stores/members/pushes", {"content": b"no arrow", "headers": ARROW}, 400, "Arrow"),
        ("POST", "/v1/stores/nowhere/pushes", {"content": b"x" * (1 << 20), "headers": ARROW}, 404, "no store 'nowhere'"),
        ("POST", "/v1/stores/members/pushes?as_of=yesterday", {"headers": ARROW}, 400, "as_of: 'yesterday' is no moment"),
        ("POST", "/v1/stores/members/pushes?kind=incremental&swap=false", {"headers": ARROW}, 400, "nothing to swap"),
        ("POST", "/v1/stores/members/pushes?durability=disk", {"headers": ARROW}, 400, "durability is for kind=incremental"),
        ("POST", "/v1/stores/members/pushes/nosuch/kill", {}, 404, "no push 'nosuch'"),
        ("POST", "/v1/nodes/nosuch/drain", {"json": {"draining": True}}, 404, "no node 'nosuch'"),
        ("PUT", "/v1/placements/members", {"json": {"cluster": "c", "replicas": 0}}, 400, "1 to 64 replicas"),
        ("PUT", "/v1/quotas", {"json": {"reads_per_s": -1}}, 400, "a quota is a positive number"),
        ("DELETE", "/v1/tokens/nosuch", {}, 404, "no token 'nosuch'"),
    ],
)
def test_what_is_wrong_is_answered_with_the_value_and_the_remedy(
    pushed: ControlServer, method: str, path: str, send: dict[str, Any], status: int, message: str
) -> None:
    headers = {"Content-Type": "application/json", **send.get("headers", {})}
    body = error_of(pushed.http.request(method, path, **{**send, "headers": headers}), status)
    assert message in body["message"]
    # on a connection of its own: a body that was not read whole ends the one that it came on
    assert httpx.get(f"{pushed.url}/healthz", trust_env=False).status_code == 200


def test_rows_that_do_not_fit_fail_the_push_and_leave_the_current_version(pushed: ControlServer) -> None:
    before = pushed.http.get("/v1/stores/members").json()["current"]
    clashing = pa.concat_tables([rows(3), rows(1).set_column(1, "clicks", [[999]])])
    refused = pushed.push("members", clashing, push_id="clash")
    body = error_of(refused, 400)
    assert body["error"] == "DuplicateKeyError"
    assert isinstance(wire.error_from(400, refused.content), errors.DuplicateKeyError)
    assert error_of(pushed.push("members", rows(3).drop_columns(["name"])), 404)["error"] == "ColumnNotFoundError"
    assert pushed.http.get("/v1/stores/members").json()["current"] == before
    assert list((pushed.directory / "run" / "spool").iterdir()) == []


def test_placements_quotas_and_tokens_are_kept_in_the_catalog(pushed: ControlServer) -> None:
    placed = pushed.http.put("/v1/placements/members", json={"cluster": "main", "replicas": 2, "zone_spread": True}).json()
    assert (placed["store"], placed["cluster"], placed["replicas"], placed["zone_spread"]) == ("members", "main", 2, True)
    assert [row["store"] for row in pushed.http.get("/v1/placements").json()["placements"]] == ["members"]
    assert pushed.http.delete("/v1/placements/members").json() == {"store": "members", "was_placed": True}
    assert pushed.http.put("/v1/quotas", json={"store": "members", "reads_per_s": 5}).json()["quotas"] == [
        {"store": "members", "caller": "*", "reads_per_s": 5.0, "writes_per_s": None}
    ]
    assert pushed.http.put("/v1/quotas", json={"store": "members"}).json() == {"quotas": []}
    assert pushed.http.get("/v1/nodes").json() == {"nodes": []}
    assert pushed.http.get("/v1/replicas").json() == {"replicas": []}
    made = pushed.http.post("/v1/tokens", json={"name": "reader", "roles": {"members": "read"}, "expires": "30d"})
    assert made.status_code == 201
    assert made.json()["secret"].startswith("fdc_")
    assert "secret" not in pushed.http.get("/v1/tokens").text
    assert pushed.http.delete("/v1/tokens/reader").json() == {"revoked": "reader"}


def test_a_connection_that_breaks_during_an_upload_begins_no_push(pushed: ControlServer) -> None:
    before = len(pushed.http.get("/v1/stores/members/pushes").json()["pushes"])
    with socket.create_connection(("127.0.0.1", pushed.port), timeout=10) as connection:
        head = "POST /v1/stores/members/pushes HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.apache.arrow.stream\r\n"
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + arrow_stream(rows(10)))
        wait_for(lambda: any((pushed.directory / "run" / "spool").iterdir()), "nothing is spooled")
    wait_for(lambda: not any((pushed.directory / "run" / "spool").iterdir()), "the spool is not cleared")
    assert len(pushed.http.get("/v1/stores/members/pushes").json()["pushes"]) == before


def test_a_larger_upload_than_allowed_is_refused_before_and_while_it_comes(tmp_path: Path) -> None:
    fd.open(tmp_path / "platform").close()
    (tmp_path / "platform" / "fondaco.toml").write_text("[server]\npush_bytes_max = 2000\n")
    with ControlServer(tmp_path / "platform") as server:
        server.create_store("members")
        body = arrow_stream(rows(1000))
        announced = error_of(server.http.post("/v1/stores/members/pushes", content=body, headers=ARROW), 413)
        assert announced["args"][:3] == ["bytes of a push over the network", len(body), 2000]
        chunked = server.http.post("/v1/stores/members/pushes", content=iter([body]), headers=ARROW)
        assert error_of(chunked, 413)["error"] == "LimitError"
        assert server.push("members", rows(10)).status_code == 200


@contextlib.contextmanager
def _stopped_push(server: ControlServer, push_id: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A push of many rows, sent by a process of its own, and the process that builds, which stands still inside the block."""
    script = (
        "import sys, httpx; sys.path.insert(0, sys.argv[3])\n"
        "from control_server import ARROW, arrow_stream, rows\n"
        "body, query = arrow_stream(rows(2_000_000)), {'push_id': sys.argv[2]}\n"
        "answer = httpx.post(sys.argv[1], params=query, content=body, headers=ARROW, timeout=120)\n"
        "print(answer.status_code, answer.text)"
    )
    command = [sys.executable, "-c", script, f"{server.url}/v1/stores/members/pushes", push_id, str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            wait_for(lambda: any(_is_building(push, push_id) for push in _pushes(server)), "it does not begin")
            builder = next(push["pid"] for push in _pushes(server) if push["push_id"] == push_id)
            os.kill(builder, signal.SIGSTOP)
            try:
                yield sender, builder
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(builder, signal.SIGCONT)
        except BaseException:
            sender.kill()
            raise


def _is_building(push: dict[str, Any], push_id: str) -> bool:
    return bool(push["push_id"] == push_id and push["state"] == "BUILDING")


def _pushes(server: ControlServer) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = server.http.get("/v1/stores/members/pushes").json()["pushes"]
    return listed


def test_a_push_at_work_can_be_killed_and_does_not_stop_others_from_asking(pushed: ControlServer) -> None:
    with _stopped_push(pushed, "to-kill") as (sender, builder):
        busy = error_of(pushed.push("members", rows(3)), 409)
        assert (busy["error"], busy["retryable"]) == ("PushInProgressError", True)
        assert pushed.http.post("/v1/stores/members/pushes/to-kill/kill").json() == {"killed": "to-kill"}
        os.kill(builder, signal.SIGCONT)
        said, _ = sender.communicate(timeout=60)
    assert b"PushKilledError" in said
    assert next(push["state"] for push in _pushes(pushed) if push["push_id"] == "to-kill") == "KILLED"


def test_it_ends_with_0_while_it_is_asked(tmp_path: Path) -> None:
    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as asking:
            while not ended.is_set():
                with contextlib.suppress(httpx.HTTPError):
                    asking.get("/v1/stores")

    directory, ended = tmp_path / "platform", threading.Event()
    fd.open(directory).close()
    with ControlServer(directory) as server:
        callers = [threading.Thread(target=ask, args=(server.url,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            time.sleep(0.3)
            assert server.stop() == 0
        finally:
            ended.set()
            for caller in callers:
                caller.join(60)


def test_sigterm_takes_a_push_at_work_back_and_ends_with_0(tmp_path: Path) -> None:
    fd.open(tmp_path / "platform").close()
    with ControlServer(tmp_path / "platform") as server:
        server.create_store("members")
        with _stopped_push(server, "cut-short") as (sender, builder):
            server.process.send_signal(signal.SIGTERM)
            os.kill(builder, signal.SIGCONT)
            assert server.process.wait(60) == 0
            said, _ = sender.communicate(timeout=60)
        assert b"503" in said
        assert b"took the push back" in said
    with fd.open(tmp_path / "platform", create=False) as platform:
        assert [str(push.state) for push in platform.store("members").pushes()] == ["KILLED"]
        assert platform.store("members").current is None


def test_a_killed_control_api_takes_its_push_along_and_the_next_one_clears_up(tmp_path: Path) -> None:
    fd.open(tmp_path / "platform").close()
    with ControlServer(tmp_path / "platform") as server:
        server.create_store("members")
        with _stopped_push(server, "orphan") as (sender, builder):
            server.process.kill()
            wait_for(lambda: not Path(f"/proc/{builder}").exists(), "the push goes on without its parent")
            sender.communicate(timeout=60)
    with ControlServer(tmp_path / "platform") as server:
        assert _pushes(server)[-1]["state"] == "FAILED"
        assert list((tmp_path / "platform" / "run" / "spool").iterdir()) == []
        assert server.push("members", rows(10)).json()["state"] == "CURRENT"


def test_a_taken_port_is_one_message_and_exit_code_2(server: ControlServer) -> None:
    command = [sys.executable, "-m", "fondaco.control.serve", str(server.directory), "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{server.port} cannot be listened on (Address already in use); choose another with --control-port" in done.stderr


def test_requests_at_the_same_time_are_answered(pushed: ControlServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> int:
        return httpx.get(f"{pushed.url}/v1/stores", timeout=60).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(40))) == {200}


def test_stores_of_no_cluster_are_routed_to_the_data_plane_beside(pushed: ControlServer) -> None:
    table = decode_routing(pushed.http.get("/v1/routing").content, "the control API")
    with fd.open(pushed.directory, create=False) as platform:
        current = platform.store("members").current
    route = table.store("members")
    assert (route.version, route.partitions) == (current, 2)
    assert route.replicas == (("http://127.0.0.1:7071",),) * 2
    assert pushed.http.put("/v1/placements/members", json={"cluster": "elsewhere"}).status_code == 200
    assert "members" not in decode_routing(pushed.http.get("/v1/routing").content, "the control API").stores
    assert pushed.http.delete("/v1/placements/members").status_code == 200


def test_an_incremental_push_is_read_at_once_and_folded_into_the_next_version(server: ControlServer) -> None:
    server.create_store("live", partitions=2)
    assert server.push("live", rows(10)).json()["version"] == 1
    changed = pa.table({"key": [3, 50], "clicks": [1, 2], "name": ["x", "y"]})
    report = server.push("live", changed, kind="incremental", push_id="i1", durability="disk")
    assert report.status_code == 200, report.text
    assert server.push("live", changed, kind="incremental", push_id="i1").status_code == 200
    with fd.open(server.directory, create=False) as platform, platform.store("live").reader() as reader:
        row = reader.get(50, min_position=report.json().get("positions"))
        assert row is not None
        assert dict(row) == {"clicks": 2, "name": "y"}
        folded = server.http.post("/v1/stores/live/repush", json={"fold": True}).json()
        assert (folded["version"], folded["records"]) == (2, 11)
        row = reader.get(3)
        assert row is not None
        assert dict(row) == {"clicks": 1, "name": "x"}
    kinds = [(push["push_id"], push["kind"]) for push in server.http.get("/v1/stores/live/pushes").json()["pushes"]]
    assert ("i1", "incremental") in kinds


def _begin_upload(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = "POST /v1/stores/members/pushes HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.apache.arrow.stream\r\n"
    connection.sendall(f"{head}Content-Length: 1000000\r\n\r\nbegun".encode())
    return connection


def test_a_fifth_upload_at_the_same_time_is_told_to_come_again(pushed: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(contextlib.closing(_begin_upload(pushed.port)))
        wait_for(lambda: len(list((pushed.directory / "run" / "spool").iterdir())) == 4, "they do not begin")
        refused = error_of(pushed.push("members", rows(3)), 503)
        assert (refused["error"], refused["retryable"]) == ("UnavailableError", True)
        assert "4 pushes are at work already" in refused["message"]
    wait_for(lambda: not any((pushed.directory / "run" / "spool").iterdir()), "their places are not free again")
    wait_for(lambda: pushed.push("members", rows(3)).status_code == 200, "a push is refused still")


def test_an_upload_that_stands_still_gives_its_place_back(tmp_path: Path) -> None:
    fd.open(tmp_path / "platform").close()
    (tmp_path / "platform" / "fondaco.toml").write_text("[server]\nidle_s = 0.5\n")
    with ControlServer(tmp_path / "platform") as server:
        server.create_store("members")
        with contextlib.closing(_begin_upload(server.port)) as connection:
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"DeadlineExceededError" in answer
        assert list((tmp_path / "platform" / "run" / "spool").iterdir()) == []
        assert server.push("members", rows(3)).status_code == 200
