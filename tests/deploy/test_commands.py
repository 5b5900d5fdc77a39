"""The commands of the manifests, run as they stand (with other ports and folders), work together: settings, token, platform, connector,
reaper, node; what they provision comes up in the cluster that the settings name."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

import postgres_server
from deploy_manifests import IMAGE, containers_of, give_volumes, objects_of, path_of
from fondaco.core.ids import check_name
from waiting import free_port, wait_for

FONDACO = [sys.executable, "-W", "error", "-c", "from fondaco.cli import main; main()"]
PORTS = ("7070", "7071", "7072", "8000", "9090")
START_S = 120.0
TOML = """
name = "web"
command = ["httpd", "-f", "-p", "{port}"]
image = "example.org/web:1"
ports = ["http"]
replicas = 2
"""


class Deployment:
    """The processes that the manifests name, on this machine."""

    def __init__(self, cluster, directory, kubeconfig, database_port):
        self.directory, self.namespace = directory, cluster.namespace
        self.platform = directory / "platform"
        self.ports = {port: str(free_port()) for port in PORTS}
        self.documents = {one["metadata"]["name"]: one for name in ("base", "nodes") for one in objects_of(name) if containers_of(one)}
        settings = next(one for one in objects_of("base") if one["kind"] == "ConfigMap")["data"]["fondaco.toml"]
        self._write_settings(settings, database_port)
        self.environment = os.environ | {
            "KUBECONFIG": str(kubeconfig), "PGPASSWORD": "its password", "POD": "fondaco-node-0", "NAMESPACE": cluster.namespace,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "FONDACO_DIR": str(self.platform), "IMAGE": IMAGE,
        }  # fmt: skip
        self.running = {}

    def _write_settings(self, settings, database_port):
        for name in ("platform", "etc", "node"):
            (self.directory / name).mkdir()
        assert 'url = "postgresql://fondaco@postgres:5432/fondaco"' in settings
        settings = settings.replace("postgres:5432", f"127.0.0.1:{database_port}")
        (self.directory / "etc" / "fondaco.toml").write_text(settings)

    def _adapted(self, argument):
        """An argument, or a line of a script, on this machine instead of in a pod."""
        argument = re.sub(r"\$\((\w+)\)", lambda match: self.environment[match[1]], argument)  # as Kubernetes fills it in
        argument = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: self.ports[match[1]], argument)
        folders = {"/var/lib/fondaco-node": "node", "/var/lib/fondaco": "platform", "/etc/fondaco": "etc", "/tmp": "."}
        return re.sub("|".join(folders), lambda match: str(self.directory / folders[match[0]]), argument)

    def _command(self, container):
        command = [self._adapted(argument) for argument in container["command"]]
        return [*FONDACO, *command[1:]] if command[0] == "fondaco" else command

    def first(self, name):
        """Run what runs before the containers of a workload."""
        for container in self.documents[name]["spec"]["template"]["spec"]["initContainers"]:
            done = subprocess.run(self._command(container), env=self.environment, capture_output=True, text=True, timeout=START_S)
            assert done.returncode == 0, f"{container['name']}: {done.stderr}"

    def start(self, name):
        (container,) = self.documents[name]["spec"]["template"]["spec"]["containers"]
        with open(self.directory / f"{name}.log", "wb") as log:
            self.running[name] = subprocess.Popen(self._command(container), env=self.environment, stdout=log, stderr=log)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def url(self, port, path):
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def probe(self, name, which):
        """Ask what the kubelet would ask; whether it is content."""
        assert self.running[name].poll() is None, self.log(name)
        (container,) = self.documents[name]["spec"]["template"]["spec"]["containers"]
        probe, numbers = container[which], {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        try:
            if "httpGet" in probe:
                url = self.url(numbers[probe["httpGet"]["port"]], probe["httpGet"]["path"])
                return 200 <= httpx.get(url, trust_env=False, timeout=probe.get("timeoutSeconds", 1) * 10).status_code < 400
            with socket.create_connection(("127.0.0.1", int(self.ports[numbers[probe["tcpSocket"]["port"]]]))):
                return True
        except (OSError, httpx.HTTPError):
            return False

    def run(self, *arguments):
        done = subprocess.run([*FONDACO, *arguments], env=self.environment, capture_output=True, text=True, timeout=START_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, name):
        """End it as the kubelet does; returns exit code and seconds."""
        begun, process = time.monotonic(), self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(START_S), time.monotonic() - begun

    def close(self):
        for process in self.running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


@pytest.fixture
def database():
    """The database that the settings name, with a password."""
    with postgres_server.running_server() as server:
        server.execute("CREATE ROLE fondaco LOGIN PASSWORD 'its password'")
        server.execute("CREATE DATABASE fondaco OWNER fondaco")
        server.require_passwords()
        yield server


@pytest.fixture
def deployment(cluster, tmp_path, database):
    cluster.require_ours("nodes that follow a script")
    give_volumes(cluster, ["fondaco"])
    for document in objects_of("base", namespace=cluster.namespace):
        if document["kind"] in ("ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim"):
            cluster.api.apply(path_of(document), document)
    deployment = Deployment(cluster, tmp_path, cluster.kubeconfig_of(cluster.token("fondaco"), tmp_path), database.port)
    yield deployment
    deployment.close()


def test_the_commands_of_the_manifests_make_a_platform_that_provisions(cluster, deployment):
    check_name("node", deployment.environment["POD"])
    workloads = ["fondaco", "fondaco-connector", "fondaco-reaper", "fondaco-node"]
    assert sorted(deployment.documents) == sorted(workloads)
    deployment.first("fondaco")
    files = [deployment.platform / "operator.token", deployment.platform / "graph.token"]
    token, of_graphs = (file.read_text() for file in files)
    deployment.first("fondaco")
    assert [file.read_text() for file in files] == [token, of_graphs], "a second start made other tokens"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    for name in workloads:
        deployment.first(name)
        deployment.start(name)
    for name in ("fondaco", "fondaco-connector", "fondaco-node"):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            wait_for(lambda name=name, probe=probe: deployment.probe(name, probe), f"{probe} of {name}", START_S)

    # Others reach these addresses: without the token nothing is told, with it everything.
    stores = deployment.url("7070", "/v1/stores")
    assert httpx.get(stores, trust_env=False, timeout=30).status_code == 401
    assert httpx.get(stores, trust_env=False, timeout=30, headers={"Authorization": f"Bearer {token.strip()}"}).status_code == 200
    reading = {"Authorization": f"Bearer {of_graphs.strip()}"}
    assert httpx.get(stores, trust_env=False, timeout=30, headers=reading).status_code == 200
    assert httpx.post(stores, json={"name": "x"}, trust_env=False, timeout=30, headers=reading).status_code == 403

    (deployment.directory / "web.toml").write_text(TOML)
    made = deployment.run("service", "ensure", str(deployment.directory / "web.toml"), "--ttl", "1s", "--holder", "me", "--json")
    assert [endpoint.partition(".")[2].partition(":")[0] for endpoint in made["endpoints"]] == [
        f"{made['service']}.{cluster.namespace}.svc"
    ] * 2
    schema = deployment.directory / "members.avsc"
    schema.write_text('{"type": "record", "name": "member", "fields": [{"name": "clicks", "type": "long"}]}')
    deployment.run("store", "create", "members", "--value", str(schema), "--json")
    served = deployment.run("service", "ensure", "--store", "members", "--holder", "me", "--json")
    pod = cluster.api.get(cluster.path("statefulsets", served["service"], "apps/v1"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert {"name": "fondaco-catalog", "key": "password"} in [
        one["valueFrom"]["secretKeyRef"] for one in container["env"] if "secretKeyRef" in one.get("valueFrom", {})
    ]
    assert "fondaco" in [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one]

    (node,) = deployment.run("cluster", "nodes", "--json")["nodes"]
    assert node["address"] == f"http://fondaco-node-0.fondaco-nodes.{cluster.namespace}.svc:{deployment.ports['7072']}"

    deployment.run("service", "release", made["service"], "--holder", "me", "--json")
    path = cluster.path("statefulsets", made["service"], "apps/v1")
    wait_for(lambda: cluster.api.find(path) is None, "the service to be removed after its time")

    for name in reversed(workloads):
        grace_s = deployment.documents[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        code, seconds = deployment.stop(name)
        assert code == 0, f"{name} ended with {code}: {deployment.log(name)[-2000:]}"
        assert seconds < grace_s, f"{name} took {seconds:.0f} s to end"
