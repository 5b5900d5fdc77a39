"""The client against servers that misbehave, and kubeconfigs as people have them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fondaco.adapters.kubernetes import KubernetesProvisioner, login_program
from fondaco.adapters.kubernetes import client as client_module
from fondaco.adapters.kubernetes.client import PODS, STATEFUL_SETS, Client, ConflictError, RefusedError
from fondaco.adapters.kubernetes.credentials import ContextNotFoundError, log_in
from fondaco.adapters.kubernetes.pods import Pod
from fondaco.core.errors import InputError, PermissionDeniedError, UnavailableError
from kubernetes_cluster import Cluster
from scripted_server import CloseNow, Got, ScriptedServer, answer
from waiting import wait_for

Serve = Callable[[Callable[[Got], Any]], tuple[Client, ScriptedServer]]


def kubeconfig(directory: Path, server: str, user: dict[str, Any] | None = None, **more: Any) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "texas", "context": {"cluster": "c", "user": "u", "namespace": "teams"}}],
        "current-context": "texas",
    } | more
    path = directory / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


def status(code: int, message: str, **details: Any) -> bytes:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code, "details": details}
    return answer(code, json.dumps(body).encode(), Content_Type="application/json")


def items(*names: str, go_on: str = "") -> bytes:
    found = [{"metadata": {"name": name}} for name in names]
    return answer(200, json.dumps({"items": found, "metadata": {"continue": go_on}}).encode(), Content_Type="application/json")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    opened: list[Any] = []

    def start(handler: Callable[[Got], Any]) -> tuple[Client, ScriptedServer]:
        server = ScriptedServer(handler).__enter__()
        config = log_in("texas", context=None, kubeconfig=kubeconfig(tmp_path, f"http://127.0.0.1:{server.port}"))
        made = Client("texas", config, namespace="teams")
        opened.extend((server, made))
        return made, server

    yield start
    for one in reversed(opened):
        one.close() if isinstance(one, Client) else one.__exit__(None, None, None)


# -- servers that misbehave -------------------------------------------------------------------------------------------------------------


def test_a_connection_that_the_server_had_closed_is_opened_again(serve: Serve) -> None:
    def handler(got: Got) -> bytes:
        if got.number == 1:
            raise CloseNow
        return answer(200, b"{}")

    client, server = serve(handler)
    assert client.within().get(PODS, "a") == {}
    assert client.within().get(PODS, "a") == {}
    assert len(server.requests) == 3
    assert client.counts["get", "pods"] == 3


def test_a_server_that_asks_for_patience_is_asked_once_more(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PUT_OFF_S", 0.01)
    client, server = serve(lambda got: status(429, "too many") if got.number == 0 else answer(200, b"{}"))
    server.handler = lambda got: answer(429, b"{}", Retry_After="1") if got.number == 0 else answer(200, b"{}")
    assert client.within().get(PODS, "a") == {}
    server.handler = lambda got: answer(503, b"{}", Retry_After="1")
    with pytest.raises(UnavailableError, match="503"):
        client.within().get(PODS, "a")
    assert len(server.requests) == 4


def test_a_silent_server_is_given_up_within_the_time_of_the_call(serve: Serve) -> None:
    import asyncio

    async def never() -> bytes:
        await asyncio.sleep(60)
        return b""

    client, _ = serve(lambda got: never())
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="the API server of cluster 'texas'"):
        client.within(0.3).get(PODS, "a")
    assert time.monotonic() - begun < 5


def test_a_server_that_trickles_is_given_up_within_the_time_of_the_call(tmp_path: Path) -> None:
    """Each piece comes in time, and the answer never does."""
    over = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n{")
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle)
        thread.start()
        config = log_in("texas", context=None, kubeconfig=kubeconfig(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}"))
        client, begun = Client("texas", config, namespace="teams"), time.monotonic()
        with pytest.raises(UnavailableError, match="its answer had not come to an end in time"):
            client.within(1).get(PODS, "a")
        assert time.monotonic() - begun < 20
        over.set()
        thread.join()
        client.close()


def test_no_request_is_sent_when_the_time_is_over(serve: Serve) -> None:
    client, server = serve(lambda got: answer(200, b"{}"))
    with pytest.raises(UnavailableError, match="no time was left to get pods"):
        client.within(0).get(PODS, "a")
    assert server.requests == []


def test_a_list_whose_next_page_is_forgotten_is_read_from_the_start(serve: Serve) -> None:
    pages = [items("a", go_on="x"), status(410, "the continue token has expired"), items("b", go_on="y"), items("c")]
    client, server = serve(lambda got: pages[got.number])
    assert [pod.metadata.name for pod in client.within().list_all(PODS, Pod, labels="a=b")] == ["b", "c"]
    assert "continue=x" in server.requests[1].target
    assert "continue" not in server.requests[2].target
    assert "labelSelector=a%3Db" in server.requests[3].target


def test_lists_without_items_are_empty(serve: Serve) -> None:
    client, _ = serve(lambda got: answer(200, b'{"items": null, "metadata": {}}'))
    assert client.within().list_all(PODS, Pod) == []


@pytest.mark.parametrize(
    ("code", "message", "error", "said"),
    [
        (401, "Unauthorized", PermissionDeniedError, "a login that the server takes"),
        (403, 'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "teams"', PermissionDeniedError,
         r"'u' may not do this: it needs the role 'list pods' on namespace 'teams' of cluster 'texas'"),
        (403, 'statefulsets.apps is forbidden: User "u" cannot patch resource "statefulsets" in API group "apps"', PermissionDeniedError,
         "patch statefulsets.apps"),
        (403, "exceeded quota: few", RefusedError, "refuses to patch statefulsets.apps: exceeded quota: few"),
        (409, "changed", ConflictError, "changed"),
        (500, "failed to create typed patch object: .spec: field not declared in schema", RefusedError, "field not declared"),
        (500, "etcdserver: leader changed", UnavailableError, "500: etcdserver: leader changed"),
        (502, "bad gateway", UnavailableError, "502"),
    ],
)  # fmt: skip
def test_refusals_become_errors_that_can_be_acted_on(serve: Serve, code: int, message: str, error: type[Exception], said: str) -> None:
    client, _ = serve(lambda got: status(code, message))
    with pytest.raises(error, match=said):
        client.within().apply(STATEFUL_SETS, {"metadata": {"name": "x"}})


def test_every_field_that_is_refused_is_named(serve: Serve) -> None:
    causes = [{"field": "spec.replicas", "message": "must be more"}, {"field": "spec.selector", "message": "Required value"}]
    client, _ = serve(lambda got: status(422, "is invalid", causes=causes))
    with pytest.raises(RefusedError, match=r"spec.replicas: must be more; spec.selector: Required value") as caught:
        client.within().apply(STATEFUL_SETS, {"metadata": {"name": "x"}})
    assert caught.value.fields == ("spec.replicas", "spec.selector")


def test_what_is_no_api_server_is_unavailable(serve: Serve) -> None:
    client, _ = serve(lambda got: answer(500, b"<html>who are you?</html>"))
    with pytest.raises(UnavailableError, match="who are you"):
        client.within().get(PODS, "a")


def test_the_version_of_budgets_is_asked_once(serve: Serve) -> None:
    client, server = serve(lambda got: answer(200, b'{"versions": [{"version": "v1beta1"}, {"version": "v1"}]}'))
    assert client.within().budgets().version == "v1"
    assert client.within().budgets().version == "v1"
    assert len(server.requests) == 1


# -- kubeconfigs ------------------------------------------------------------------------------------------------------------------------


def test_a_wrong_context_suggests_the_near_one(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(ContextNotFoundError, match=r"no context 'texsa' in .*kubeconfig \(cluster 'tx'\); did you mean 'texas'\?"):
        log_in("tx", context="texsa", kubeconfig=path)


@pytest.mark.parametrize("text", ["not: [yaml", "[]", "a: 1", '{"clusters": [], "contexts": [], "users": []}'])
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"cluster 'tx': {path} is no kubeconfig that can be used: ."):
        log_in("tx", context=None, kubeconfig=path)


def test_a_missing_kubeconfig_says_where_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no kubeconfig at .*gone; name one in \[services.clusters.tx\] kubeconfig"):
        log_in("tx", context=None, kubeconfig=tmp_path / "gone")


def test_of_several_kubeconfigs_the_first_that_is_there_is_used(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    config = log_in("tx", context=None, kubeconfig=None, environ={"KUBECONFIG": f"{tmp_path}/gone:{path}"})
    assert (config.context_name, config.namespace) == ("texas", "teams")


def test_the_namespace_is_the_contexts_unless_another_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    for given, expected in ((None, "teams"), ("other", "other")):
        provisioner = KubernetesProvisioner("tx", kubeconfig=path, namespace=given)
        assert provisioner.namespace == expected
        provisioner.close()


def test_wrong_settings_of_a_cluster_are_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"services.clusters.tx.volumes: .*mountPath"):
        KubernetesProvisioner("tx", kubeconfig=path, volumes=[{"path": "/x", "mountPath": "/y"}])
    with pytest.raises(InputError, match=r"cluster 'tx': platform.owner: 'a b'"):
        KubernetesProvisioner("tx", kubeconfig=path, platform="a b")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_program_that_fetches_tokens_logs_in(cluster: Cluster, tmp_path: Path, version: str) -> None:
    """As the clouds' kubeconfigs have it, at both versions of the protocol."""
    cluster.require_ours("a token that is known")
    script = tmp_path / "token"
    told = 'case "$KUBERNETES_EXEC_INFO" in *client.authentication.k8s.io/v1\\"*) ;; *) exit 1;; esac\n' if version == "v1" else ""
    script.write_text(f'#!/bin/sh\n{told}echo \'{{"status": {{"token": "main-token"}}}}\'\n')
    script.chmod(0o755)
    document = json.loads(cluster.kubeconfig.read_text())
    document["users"] = [
        {"name": "main", "user": {"exec": {"apiVersion": f"client.authentication.k8s.io/{version}", "command": str(script)}}}
    ]
    path = tmp_path / "with-program"
    path.write_text(json.dumps(document))
    provisioner = KubernetesProvisioner("tx", kubeconfig=path, context="main", namespace=cluster.namespace)
    assert provisioner.observe_all() == {}
    provisioner.close()


PRINT = """echo '{"status": {"token": "'$TOKEN'"}}'"""


@pytest.fixture
def with_program(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """A client that is logged in by a program: a script of the shell, in the folder of the kubeconfig."""
    opened: list[Client] = []

    def make(script: str, *, port: int = 1, **more: Any) -> Client:
        (tmp_path / "login").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "login").chmod(0o755)
        program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", **more}
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{port}", {"exec": program})
        opened.append(Client("texas", log_in("texas", context=None, kubeconfig=path), namespace="teams"))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo log in first>&2; exit 3", r"login program '.*/login' of cluster 'texas'.* ended with exit code 3: log in first"),
        ("exit 1", "exit code 1: .said nothing"),
        ("echo Welcome", "what it printed is no ExecCredential"),
        ("""echo '{"status": {"clientCertificateData": "x", "clientKeyData": "y"}}'""", "certificates are not supported"),
        ("""echo '{"status": {"token": "é"}}'""", "no status.token that can be sent"),
    ],
)
def test_a_program_that_fetches_no_token_is_quoted(with_program: Callable[..., Client], script: str, said: str) -> None:
    with pytest.raises(UnavailableError, match=said):
        with_program(script).within().get(PODS, "a")


def test_a_program_that_hangs_is_given_up_within_the_time_of_the_call(with_program: Callable[..., Client]) -> None:
    client = with_program("sleep 600")
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"login program .* has not ended after"):
            client.within(0.2).get(PODS, "a")
    assert time.monotonic() - begun < 20


def test_a_slow_program_goes_on_for_the_next_call(with_program: Callable[..., Client], tmp_path: Path) -> None:
    with ScriptedServer(lambda got: answer(200, b"{}")) as server:
        client = with_program(
            f"echo >> {tmp_path}/begun; while ! [ -e {tmp_path}/go ]; do sleep 0.05; done; TOKEN=slow; {PRINT}", port=server.port
        )
        with pytest.raises(UnavailableError, match="has not ended"):
            client.within(0.2).get(PODS, "a")
        (tmp_path / "go").touch()
        assert client.within(60).get(PODS, "a") == {}
        assert server.requests[0].headers["authorization"] == "Bearer slow"
    assert (tmp_path / "begun").read_text() == "\n", "it was run once"


def test_a_program_that_takes_too_long_is_ended_with_its_children(
    with_program: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_program, "PROGRAM_S", 1.0)
    client = with_program(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(UnavailableError, match="had not ended after 1 s, and was ended"):
        client.within(60).get(PODS, "a")
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text(), "its child is gone")


def test_closing_ends_a_program_that_runs(with_program: Callable[..., Client]) -> None:
    client = with_program("sleep 600")
    with pytest.raises(UnavailableError, match="has not ended"):
        client.within(0.1).get(PODS, "a")
    begun = time.monotonic()
    client.close()
    assert time.monotonic() - begun < 60
    assert not [thread for thread in threading.enumerate() if thread.name == "fondaco-login" and thread.is_alive()]


def test_a_token_that_is_refused_is_fetched_anew_once(with_program: Callable[..., Client], tmp_path: Path) -> None:
    count = f"TOKEN=token$(wc -l < {tmp_path}/begun); echo >> {tmp_path}/begun; {PRINT}"
    (tmp_path / "begun").touch()
    good = {"Bearer token0"}
    with ScriptedServer(lambda got: answer(200 if got.headers["authorization"] in good else 401, b"{}")) as server:
        client = with_program(count, port=server.port)
        assert client.within(60).get(PODS, "a") == client.within(60).get(PODS, "a") == {}
        good = {"Bearer token1"}
        assert client.within(60).get(PODS, "a") == {}
        good = set()
        with pytest.raises(PermissionDeniedError, match="401"):
            client.within(60).get(PODS, "a")
        sent = [got.headers["authorization"].removeprefix("Bearer token") for got in server.requests]
    assert sent == ["0", "0", "0", "1", "1", "2"]


def test_many_threads_share_one_run_of_the_program(with_program: Callable[..., Client], tmp_path: Path) -> None:
    with ScriptedServer(lambda got: answer(200, b"{}")) as server, ThreadPoolExecutor(8) as pool:
        client = with_program(f"echo >> {tmp_path}/begun; sleep 0.5; TOKEN=x; {PRINT}", port=server.port)
        assert list(pool.map(lambda _: client.within(60).get(PODS, "a"), range(8))) == [{}] * 8
    assert (tmp_path / "begun").read_text() == "\n"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/nowhere/aws"}}
    provisioner = KubernetesProvisioner("tx", kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1", user))
    with pytest.raises(UnavailableError, match=r"login program '/nowhere/aws' of cluster 'tx'.* cannot be started"):
        provisioner.observe_all()
    provisioner.close()
