"""The side of LinkedIn's flytekit plugin for data services, run by its own interpreter (`.venv-flyteplugin`): one JSON request a line on
stdin, one JSON answer a line on stdout.

flytekitplugins-k8sdataservice 1.16.31 as its connector runs it, with what keeps it from working at all set right: Port and Replicas are
whole numbers (a Flyte task delivers none or 40000.0), the client is pointed at a kubeconfig (it knows only in-cluster configuration), and
a model of that client of 2022 is relaxed (it refuses answers of the server). Imports nothing of this repository.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

os.environ["FLYTE_SDK_LOGGING_LEVEL"] = "60"
logging.disable(logging.CRITICAL)
from flytekit import logger  # noqa: E402
from flytekitplugins.k8sdataservice.connector import DataServiceConnector  # noqa: E402

from kubernetes import client, config  # noqa: E402

logger.setLevel(logging.CRITICAL)
# Servers before 1.22 do not have this field, and this client of 2022 takes its absence for an error, after the object has been made.
client.V1StatefulSetStatus.available_replicas = property(
    lambda status: status._available_replicas, lambda status, value: setattr(status, "_available_replicas", value)
)
NAMESPACE = "flyte"
_PHASES = {1: "QUEUED", 2: "RUNNING", 3: "SUCCEEDED", 5: "FAILED"}
_connectors: dict[str, DataServiceConnector] = {}


def _connector(kubeconfig: str) -> DataServiceConnector:
    if kubeconfig not in _connectors:
        settings = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=settings)
        client.Configuration.set_default(settings)
        api = client.ApiClient(settings)
        made = DataServiceConnector()
        made.k8s_manager.apps_v1_api, made.k8s_manager.core_v1_api = client.AppsV1Api(api), client.CoreV1Api(api)
        with contextlib.suppress(client.rest.ApiException):
            made.k8s_manager.core_v1_api.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
        _connectors[kubeconfig] = made
    return _connectors[kubeconfig]


def ensure(*, kubeconfig: str, name: str, replicas: int, poll_s: float, limit_s: float) -> dict[str, Any]:
    """Create a service and ask until its task has succeeded. `phases`: those that the task showed on its way."""
    connector = _connector(kubeconfig)
    custom = {"Name": name, "Image": "example/none", "Command": ["serve"], "Cluster": None, "Port": 40000, "Replicas": replicas}
    custom |= {"Limits": None, "Requests": None, "ExistingReleaseName": None}
    began = time.perf_counter()
    meta = connector.create(SimpleNamespace(custom=custom), "")
    phases: list[str] = []
    while time.perf_counter() - began < limit_s:
        phase = _PHASES.get(connector.get(meta).phase, "UNDEFINED")
        phases += [phase] if phases[-1:] != [phase] else []
        if phase == "SUCCEEDED":
            return {"seconds": time.perf_counter() - began, "phases": phases}
        time.sleep(poll_s)
    raise TimeoutError(f"not ready after {limit_s} s: {phases}")


def remove(*, kubeconfig: str, name: str) -> dict[str, Any]:
    """Take a service away."""
    manager = _connector(kubeconfig).k8s_manager
    manager.namespace = NAMESPACE
    manager.delete_stateful_set(name)
    manager.delete_service(name)
    return {}


def storm(*, kubeconfig: str, callers: int, names: int) -> dict[str, Any]:
    """Many creates at once, as the connector's server calls it: in threads of one process, on its one object."""
    connector = _connector(kubeconfig)
    base = {"Image": "example/none", "Command": ["serve"], "Cluster": None, "Port": 40000, "Replicas": 1}

    def create(caller: int) -> str:
        name = f"storm-{caller % names}"
        try:
            meta = connector.create(SimpleNamespace(custom=base | {"Name": name}), "")
        except Exception as exc:
            return type(exc).__name__
        return "ok" if meta.name == name else "misled"

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        said = list(pool.map(create, range(callers)))
    seconds = time.perf_counter() - began
    made = connector.k8s_manager.apps_v1_api.list_namespaced_stateful_set(NAMESPACE).items
    services = [one.metadata.name for one in made if one.metadata.name.startswith("storm-")]
    for number in range(names):
        remove(kubeconfig=kubeconfig, name=f"storm-{number}")
    bad = [one for one in said if one not in ("ok", "misled")]
    return {"seconds": seconds, "services": len(services), "errors": len(bad), "misled": said.count("misled")}


def main() -> None:
    """Answer until stdin ends."""
    requests = {"ensure": ensure, "remove": remove, "storm": storm}
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = requests[arguments.pop("request")](**arguments)
        except Exception:
            answer = {"error": traceback.format_exc(limit=3)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
