"""Control plane: a real Kubernetes of the tests' own on 127.0.0.1: etcd, API server, controller manager, scheduler, nodes by script.

    tests/kubernetes/build_control_plane.sh                       builds the programs, once
    python -m tests.kubernetes.control_plane [--kind KIND] [DIRECTORY]    runs one until Ctrl-C, for a look by hand or a benchmark

Everything lies in one directory and listens on free ports of 127.0.0.1; no root is needed. Roles are enforced (RBAC), certificates are
checked. The kubeconfig has the contexts `main` (may do everything), `nobody` (is known, may do nothing), `unreachable` (nothing listens).

One control plane serves a whole test run, however many processes it has. `borrowed` starts it where it does not run yet: a keeper process
of its own session, which owns the servers (they die with it). Each borrower holds a shared lock on `users.lock`; when the keeper gets that
lock exclusively, nobody is left, and it stops the servers and ends. A killed test run gives its locks back too, so nothing stays behind.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from tests.kubernetes.api import Api

Kind = Literal["server", "controllers", "full"]
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_S = 120.0
ROOT = Path(__file__).parents[2]
BUILD = Path(__file__).with_name("build_control_plane.sh")


class ControlPlaneError(Exception):
    """It could not be started; says why, with the ends of the logs."""


# -- the programs -----------------------------------------------------------------------------------------------------------------------


def home() -> Path:
    """Where the programs are, as build_control_plane.sh says it."""
    said = subprocess.run([BUILD, "--home"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return Path(said.removesuffix("\n"))


def missing() -> list[str]:
    """The programs that are not there."""
    programs = home() / "bin"
    return [name for name in PROGRAMS if not os.access(programs / name, os.X_OK)]


def was_built() -> bool:
    """Whether the build has succeeded here before: then a control plane that does not start is a failure, not a reason to skip."""
    return (home() / "built").exists()


# -- borrowing --------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def borrowed(directory: Path, kind: Kind = "full") -> Iterator[Path]:
    """The kubeconfig of the control plane in a directory, which is started if it does not run, and stopped when the last borrower left.

    Args:
        kind: "server": an API server alone, which keeps what it is told and does nothing; "controllers": it, controllers and scheduler, for
            nodes that are somebody else's; "full": all that, and nodes by script.
    Raises:
        ControlPlaneError: it does not become ready within 120 seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / "users.lock", fcntl.LOCK_SH):
        with _locked(directory / "start.lock", fcntl.LOCK_EX):
            if not (_is_held(directory / "keeper.lock") and (directory / "ready").exists()):
                _start_keeper(directory, kind)
        yield directory / "kubeconfig"


def _start_keeper(directory: Path, kind: Kind) -> None:
    command = [sys.executable, "-m", "tests.kubernetes.control_plane", "--keep", "--kind", kind, str(directory)]
    (directory / "ready").unlink(missing_ok=True)  # of a keeper that was killed
    with open(directory / "keeper.log", "wb") as log:
        keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + START_S + 10
    while not (directory / "ready").exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            keeper.kill()
            keeper.wait()
            said = _end_of(directory / "keeper.log", 20_000)
            raise ControlPlaneError(f"the control plane of {home()} did not start in {directory}:\n{said}")
        time.sleep(0.05)
    keeper.returncode = 0  # it goes on without us, and ends with the last borrower: nobody waits for it, and nobody is to warn of that


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[BinaryIO]:
    with open(path, "ab") as file:
        fcntl.flock(file, how)
        yield file  # closing gives it back


def _is_held(path: Path) -> bool:
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# -- keeping ----------------------------------------------------------------------------------------------------------------------------


def keep(directory: Path, kind: Kind) -> None:
    """Run the servers until nobody borrows them; the body of the keeper process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with _locked(directory / "keeper.lock", fcntl.LOCK_EX), open(directory / "users.lock", "ab") as users:
        (directory / "ready").unlink(missing_ok=True)
        servers = Servers(directory)
        try:
            servers.start(kind)
            (directory / "ready").touch()
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                servers.check()
                time.sleep(0.2)
        finally:
            (directory / "ready").unlink(missing_ok=True)
            servers.stop()


class Servers:
    """The processes of one control plane; one thread, which must live as long as they (the kernel ends them with it)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def start(self, kind: Kind) -> None:
        """Start all, and wait until they can be used.

        Raises:
            ControlPlaneError: one of them ended, or they were not ready in time.
        """
        deadline = time.monotonic() + START_S
        for attempt in range(4):  # a port that was free when it was chosen may be taken when it is listened on
            ports = _free_ports(3)
            try:
                self._start_servers(*ports, deadline)
                break
            except ControlPlaneError as exc:
                self.stop()
                if "address already in use" not in str(exc) or attempt == 3:
                    raise
        if kind == "server":
            return
        self._start_controllers()
        with Api(self.kubeconfig, "main") as api:
            if kind == "full":
                self._run("nodes", program=[sys.executable, "-m", "tests.kubernetes.fake_node", str(self.kubeconfig)], directory=ROOT)
                self._wait("its nodes to be ready", lambda: _has_nodes(api), deadline)
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("the account `default`", lambda: api.find(account) is not None, deadline)

    def _start_servers(self, client_port: int, peer_port: int, port: int, deadline: float) -> None:
        directory = self.directory
        shutil.rmtree(directory / "etcd", ignore_errors=True)
        _make_secrets(directory)
        client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        self._run(
            "etcd", "--data-dir=etcd", "--unsafe-no-fsync", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        )  # fmt: skip
        self._run(
            "kube-apiserver", f"--etcd-servers={client}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={port}", "--insecure-port=0", "--cert-dir=certs", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=accounts.key",
            "--service-account-key-file=accounts.pub", "--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP", "--endpoint-reconciler-type=none", "--profiling=false",
        )  # fmt: skip
        certificate = directory / "certs" / "apiserver.crt"  # made by the server, signed by itself
        self._wait("the API server's certificate", lambda: certificate.exists() and certificate.stat().st_size, deadline)
        _write_kubeconfig(directory, port)
        self._wait("the API server to be ready", lambda: _is_ready(self.kubeconfig), deadline)

    def _start_controllers(self) -> None:
        # Their default of 20 requests a second would be what a test of 100 services measures.
        common = (
            "--kubeconfig=kubeconfig",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        )
        self._run(
            "kube-controller-manager", *common, "--service-account-private-key-file=accounts.key", "--root-ca-file=certs/apiserver.crt",
            "--concurrent-statefulset-syncs=10", "--concurrent-namespace-syncs=5", "--cert-dir=certs",
            "--node-monitor-grace-period=600s",  # after 40 s, a node that a busy machine kept from reporting would lose its pods
        )  # fmt: skip
        self._run("kube-scheduler", *common, "--cert-dir=certs")

    def check(self) -> None:
        """Raise ControlPlaneError if one of them has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ControlPlaneError(f"{name} ended with {process.returncode}: {_end_of(self._logs[name])}")

    def stop(self) -> None:
        """Stop all, by their own processes; what they kept is gone, what they said stays."""
        for process in reversed(self._running.values()):
            process.kill()  # nothing is worth keeping, and the scheduler would take seconds to say goodbye
        for process in self._running.values():
            process.wait()
        self._running.clear()
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    def _run(self, name: str, *arguments: str, program: list[str] | None = None, directory: Path | None = None) -> None:
        self._logs[name] = self.directory / f"{name}.log"
        keeper = os.getpid()
        with open(self._logs[name], "wb") as log:
            self._running[name] = subprocess.Popen(
                [*(program or [str(home() / "bin" / name)]), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory or self.directory,
                preexec_fn=lambda: _die_with(keeper),  # the keeper has one thread
            )

    def _wait(self, what: str, is_so: Callable[[], object], deadline: float) -> None:
        while not is_so():
            self.check()
            if time.monotonic() > deadline:
                ends = "\n".join(f"{name}: {_end_of(path)}" for name, path in self._logs.items())
                raise ControlPlaneError(f"waited {START_S:g} s for {what}\n{ends}")
            time.sleep(0.05)


def _is_ready(kubeconfig: Path) -> bool:
    from httpx2 import HTTPError

    try:
        with Api(kubeconfig, "main", timeout_s=5) as api:
            return bool(api.get("/readyz") == "ok")
    except (HTTPError, AssertionError):
        return False


def _has_nodes(api: Api) -> bool:
    nodes = api.items("/api/v1/nodes")
    return bool(nodes) and all(_is_usable(node) for node in nodes)


def _is_usable(node: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def _make_secrets(directory: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    (directory / "tokens.csv").write_text("main-token,main,main,system:masters\nnobody-token,nobody,nobody\n")
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (directory / "accounts.key").write_bytes(private)
    (directory / "accounts.pub").write_bytes(public)


def _write_kubeconfig(directory: Path, port: int) -> None:
    certificate = base64.b64encode((directory / "certs" / "apiserver.crt").read_bytes()).decode()
    clusters = {"main": port, "unreachable": 1}  # port 1 is nobody's, and not among those that are given to others
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": f"https://127.0.0.1:{number}", "certificate-authority-data": certificate}}
            for name, number in clusters.items()
        ],
        "users": [{"name": name, "user": {"token": f"{name}-token"}} for name in ("main", "nobody")],
        "contexts": [
            {"name": name, "context": {"cluster": cluster, "user": user, "namespace": "default"}}
            for name, cluster, user in (("main", "main", "main"), ("nobody", "main", "nobody"), ("unreachable", "unreachable", "main"))
        ],
        "current-context": "main",
    }
    new = directory / "kubeconfig.new"
    new.write_text(json.dumps(document, indent=1))  # JSON is YAML
    new.replace(directory / "kubeconfig")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _end_of(path: Path, characters: int = 2000) -> str:
    return path.read_text(errors="replace")[-characters:] if path.exists() else "(said nothing)"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes.control_plane", description="Runs a control plane until Ctrl-C.")
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--kind", choices=["server", "controllers", "full"], default="full")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)  # be the keeper
    given = parser.parse_args(arguments)
    directory = (given.directory or Path(tempfile.mkdtemp(prefix="fondaco-control-plane-"))).resolve()
    kind = cast("Kind", given.kind)
    if given.keep:
        try:
            keep(directory, kind)
        except ControlPlaneError as exc:
            sys.exit(str(exc))
        return
    with borrowed(directory, kind) as kubeconfig:
        print(f"export KUBECONFIG={kubeconfig}\nCtrl-C stops it", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
