"""A program for services of the tests, and words to start it with. It answers HTTP at its port: `/` with its environment, `/ready` with
200, or with 503 while the file in GATE is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fondaco.services.local import tree
from fondaco.services.local.files import Place, locked
from fondaco.services.local.provisioner import LocalProvisioner
from fondaco.services.provisioner import Desired, Observed, Phase
from fondaco.services.spec import ServiceSpec
from waiting import wait_for

SERVER = """
import http.server, json, os, signal, subprocess, sys
env = os.environ
if "NOTES" in env:
    with open(env["NOTES"], "a") as file:
        file.write(env["FONDACO_SERVICE_INDEX"] + " " + str(os.getpid()) + "\\n")
print("hello from", env["FONDACO_SERVICE_INDEX"], flush=True)
if "DEAF" in env:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), os._exit(0)))
if "DAEMON" in env and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(env["DAEMON"], "w") as file:
            file.write(str(os.getpid()))
        given = dict() if "BARE" in env else env
        os.execvpe("sleep", ["sleep", "1000"], given)
    os._exit(0)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = "GATE" not in env or os.path.exists(env["GATE"])
        body = json.dumps(dict(env=dict(env), argv=sys.argv, cwd=os.getcwd(), pid=os.getpid())).encode()
        if self.path == "/ready" and not ready:
            body = b"3/8 partitions loaded\\n"
        self.send_response(200 if ready or self.path != "/ready" else 503)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
READY = {"http": "/ready", "every_s": 0.1}
INCARNATION = 7


def server(name: str = "web", **more: Any) -> ServiceSpec:
    """A service of that program."""
    given: dict[str, Any] = {
        "command": ["{python}", "-S", "-c", SERVER, "{port}"],
        "ports": ["http"],
        "readiness": READY,
        "exact_name": True,
    }
    return ServiceSpec(name, **(given | more))


def shell(script: str, name: str = "web", **more: Any) -> ServiceSpec:
    """A service of a shell script."""
    return ServiceSpec(name, command=["/bin/sh", "-c", script], **({"exact_name": True} | more))


def desired(spec: ServiceSpec, *, incarnation: int = INCARNATION, **annotations: str) -> Desired:
    return Desired(spec.service, incarnation, spec, spec.replicas, annotations)


def until(local: LocalProvisioner, service: str, phase: Phase) -> Observed:
    """Wait until a service is in a phase."""
    seen: list[Observed] = []

    def is_so() -> bool:
        seen[:] = [local.observe(service)]
        return seen[0].phase is phase

    try:
        wait_for(is_so, f"{service} is not {phase}")
    except AssertionError:
        raise AssertionError(f"{seen}; {local.logs(service)}") from None
    return seen[0]


def start(local: LocalProvisioner, spec: ServiceSpec, **more: Any) -> Observed:
    """Apply a service and wait until it is ready."""
    local.apply(desired(spec, **more))
    return until(local, spec.service, Phase.READY)


def apply_elsewhere(local: LocalProvisioner, spec: ServiceSpec, machine: str) -> None:
    """Apply a service with a keeper that takes this machine for another one: `machine` is Python, run in it before it begins."""
    place = Place(local.services, spec.service)
    with locked(local.services):
        local.write(place, desired(spec))
    program = f"import sys\nfrom fondaco.services.local import keeper, limits\n{machine}\nsys.exit(keeper.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, str(local.services.parent), spec.service]
    env = os.environ | {tree.KEEPER: str(place.path)}
    shell_ends_at_once = ["/bin/sh", "-c", '"$@" </dev/null >>keeper.log 2>&1 &', "sh"]  # as where the provisioner begins one
    subprocess.run([*shell_ends_at_once, *argv], cwd=place.path, env=env, start_new_session=True, check=True)


def ask(address: str) -> dict[str, Any]:
    """What an instance says of itself."""
    with urllib.request.urlopen(f"http://{address}/", timeout=30) as answer:
        return dict(json.loads(answer.read()))


def pids(directory: Path, service: str) -> dict[int, int]:
    """The process of each instance, by its number."""
    document: Mapping[str, Any] = json.loads((directory / "services" / service / "state.json").read_text())["manifest"]
    return {one["index"]: one["pid"] for one in document["instances"]}


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    seen = tree.see(pid)
    return seen is None or seen.state in "ZX"
