"""Fake node: what a kubelet tells the API server, told without running anything; each pod behaves as its annotation says.

    fake-node.fondaco.dev/behaviour: "ready:0.2"      the default: becomes ready after so many seconds
                                     "never"          runs, and its readiness probe never succeeds
                                     "unready:1"      ready, and after so many seconds not any more (its probe fails)
                                     "crash:3"        ends with exit code 3 as often as it is started: CrashLoopBackOff
                                     "recover:3"      crashes that often, then becomes ready
                                     "oom"            is killed for want of memory as often as it is started
                                     "pull-error"     its image is not there: ErrImagePull, ImagePullBackOff
                                     "config-error"   a secret that it names is not there: CreateContainerConfigError
                                     "creating"       for ever ContainerCreating
                                     "succeed:0.5", "fail:2"   a job's pod: ends with 0 after so many seconds, or with this exit code
                                     "never;5=crash:1"         the first for all, another for the pod with this number at its name's end
    fake-node.fondaco.dev/linger: "3"     how long the pod takes to end when it is deleted [default: 0]; "stuck": for ever
    fake-node.fondaco.dev/log: text       what it has said (`{pod}` is its name) [default: "{pod} has begun"]

An annotation that is changed on a living pod counts from then on. A node follows its own: behaviour "unready" makes it NotReady. Back-off
between crashes is half a second, not the true 10 to 300. Events are recorded as a kubelet does. Logs are asked of the node by the API
server over TLS; this one answers on a port of its own.

    python -m tests.kubernetes.fake_node KUBECONFIG [NODES]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

PREFIX = "fake-node.fondaco.dev/"
BACK_OFF_S = 0.5
HEARTBEAT_S = 5.0
CAPACITY = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "5000", "nvidia.com/gpu": "8"}
_ADDRESSES = itertools.count(1)

Json = dict[str, Any]


class Nodes:
    """All nodes of one control plane, and the pods on them; one event loop."""

    def __init__(self, kubeconfig: Path, count: int) -> None:
        config = KubeConfig.from_file(kubeconfig).get("main")
        assert config is not None
        limits = ConnectionParams(timeout=httpx2.Timeout(30, read=60, pool=300), trust_env=False)
        self._client = AsyncClient(config, limits)
        self._names = [f"node-{number}" for number in range(count)]
        self._certificates = kubeconfig.parent / "certs"
        self._log_port = 0
        self._pods: dict[str, Pod] = {}

    async def run(self) -> None:
        """Until cancelled."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(
            self._certificates / "apiserver.crt", self._certificates / "apiserver.key"
        )  # any will do: it is not checked
        server = await asyncio.start_server(self._answer_log, "127.0.0.1", 0, ssl=context)
        self._log_port = server.sockets[0].getsockname()[1]
        async with server, asyncio.TaskGroup() as tasks:
            for name in self._names:
                tasks.create_task(self._keep_node(name))
            tasks.create_task(self._follow_pods(tasks))

    async def ask(self, method: str, path: str, body: Any = None, *, kind: str = "json") -> Json | None:
        """One request, repeated while the server does not answer; None where the object is gone or has changed meanwhile."""
        while True:
            try:
                answer = await self._client.request(method, path, json=body, headers={"Content-Type": f"application/{kind}"})
            except httpx2.HTTPError:
                await asyncio.sleep(0.2)
                continue
            if answer.status_code in (404, 409, 422):  # 422: a status that cannot follow the one that it has, since another came between
                return None
            if answer.status_code in (429, 500, 503, 504):
                await asyncio.sleep(0.2)
                continue
            answer.raise_for_status()
            document: Json = answer.json()
            return document

    async def list_and_watch(self, path: str) -> AsyncIterator[tuple[str, Json]]:
        """What is there and then each change, as (type, object), for ever; after a break everything comes again as "LISTED"."""
        while True:
            with contextlib.suppress(httpx2.HTTPError, json.JSONDecodeError):
                listed = (await self._client.get(path)).json()
                if "items" in listed:
                    yield "BEGIN", listed
                    for item in listed["items"]:
                        yield "LISTED", item
                    version = listed["metadata"]["resourceVersion"]
                    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "50"}
                    async with self._client.stream("GET", path, params=query) as stream:
                        async for line in stream.aiter_lines():
                            event = json.loads(line)
                            if event["type"] == "ERROR":
                                break
                            yield event["type"], event["object"]
            await asyncio.sleep(0.05)

    # -- nodes --------------------------------------------------------------------------------------------------------------------------

    async def _keep_node(self, name: str) -> None:
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": f"zone-{name[-1]}"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": self._node_status(name, True)}
        while True:
            seen = await self.ask("GET", f"/api/v1/nodes/{name}")
            if seen is None:
                seen = await self.ask("POST", "/api/v1/nodes", node) or {"metadata": {}}
            is_ready = seen["metadata"].get("annotations", {}).get(PREFIX + "behaviour") != "unready"
            status = {"status": self._node_status(name, is_ready)}
            await self.ask("PATCH", f"/api/v1/nodes/{name}/status", status, kind="strategic-merge-patch+json")
            if is_ready and seen.get("spec", {}).get("taints"):  # the controller would do it too, seconds later
                await self.ask("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, kind="merge-patch+json")
                continue
            await asyncio.sleep(HEARTBEAT_S)

    def _node_status(self, name: str, is_ready: bool) -> Json:
        ready = ("True", "KubeletReady", "") if is_ready else ("False", "KubeletNotReady", "the script says so")
        condition = {"type": "Ready", "status": ready[0], "reason": ready[1], "message": ready[2], "lastHeartbeatTime": _now()}
        return {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": [condition],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._log_port}},
            "nodeInfo": dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"), "")
            | {"kubeletVersion": "v1.20.2", "kubeProxyVersion": "v1.20.2", "operatingSystem": "linux", "architecture": "amd64"},
        }

    # -- pods ---------------------------------------------------------------------------------------------------------------------------

    async def _follow_pods(self, tasks: asyncio.TaskGroup) -> None:
        async for what, document in self.list_and_watch("/api/v1/pods"):
            if what == "BEGIN":  # those that went while we did not look
                there = {item["metadata"]["uid"] for item in document["items"]}
                for uid in self._pods.keys() - there:
                    self._pods.pop(uid).stop()
                continue
            metadata = document["metadata"]
            if what == "DELETED":
                if metadata["uid"] in self._pods:
                    self._pods.pop(metadata["uid"]).stop()
            elif document["spec"].get("nodeName") in self._names:
                if metadata["uid"] not in self._pods:
                    self._pods[metadata["uid"]] = Pod(self, tasks)
                self._pods[metadata["uid"]].follow(document)

    async def _answer_log(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            path, _, query = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode().partition("?")
            asked = dict(item.partition("=")[::2] for item in query.split("&"))
            said = self._log_of(*path.removeprefix("/containerLogs/").split("/")[:2], previous=asked.get("previous") == "true")
            lines = said.splitlines(keepends=True)
            body = "".join(lines[-int(asked["tailLines"]) :] if "tailLines" in asked else lines).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    def _log_of(self, namespace: str, name: str, *, previous: bool) -> str:
        for pod in self._pods.values():
            if (pod.namespace, pod.name) == (namespace, name):
                said = pod.annotation("log", "{pod} has begun").replace("{pod}", name)
                return said + "\n" + ("its last words\n" if previous else "")
        return ""


class Pod:
    """One pod's life: a task that is started anew when its behaviour changes."""

    def __init__(self, nodes: Nodes, tasks: asyncio.TaskGroup) -> None:
        self._nodes, self._tasks = nodes, tasks
        self._task: asyncio.Task[None] | None = None
        self._lives_by = ""
        self._restarts = 0
        self._since: dict[tuple[str, str], str] = {}  # when a condition took its status
        self._seen: Json = {}
        number = next(_ADDRESSES)
        self._address = f"10.{100 + number // 65536 % 100}.{number // 256 % 256}.{number % 256}"

    def follow(self, document: Json) -> None:
        """Take notice of how the server has it now."""
        self._seen = document
        is_ending = "deletionTimestamp" in document["metadata"]
        behaviour = "ends" if is_ending else self._behaviour()
        if behaviour != self._lives_by:
            self._lives_by = behaviour
            self.stop()
            self._task = self._tasks.create_task(self._end() if is_ending else self._live(*behaviour.partition(":")[::2]))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def namespace(self) -> str:
        return str(self._seen["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self._seen["metadata"]["name"])

    def annotation(self, name: str, default: str) -> str:
        return str(self._seen["metadata"].get("annotations", {}).get(PREFIX + name, default))

    def _behaviour(self) -> str:
        number = self.name.rpartition("-")[2]
        first, *others = self.annotation("behaviour", "ready:0.2").split(";")
        return dict(other.split("=", 1) for other in others).get(number, first)

    # -- lives --------------------------------------------------------------------------------------------------------------------------

    async def _live(self, kind: str, argument: str) -> None:
        match kind:
            case "ready":
                await self._become_ready(float(argument or 0))
            case "never":
                await self._tell("Running", _running())
                await self._record("Unhealthy", "Readiness probe failed: connection refused")
            case "unready":
                await self._become_ready(0)
                await asyncio.sleep(float(argument or 0))
                await self._tell("Running", _running())
                await self._record("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
            case "crash" | "oom":
                code, why = (137, "OOMKilled") if kind == "oom" else (int(argument or 1), "Error")
                while True:
                    await self._crash(code, why)
            case "recover":
                for _ in range(int(argument or 1)):
                    await self._crash(1, "Error")
                await self._become_ready(0.1)
            case "pull-error":
                said = f'failed to pull image "{self._image()}": not found'
                await self._tell("Pending", _waiting("ErrImagePull", f"rpc error: code = NotFound desc = {said}"))
                await self._record("Failed", f"Failed to pull image: {said}")
                await asyncio.sleep(BACK_OFF_S)
                await self._tell("Pending", _waiting("ImagePullBackOff", f'Back-off pulling image "{self._image()}"'))
                await self._record("BackOff", f'Back-off pulling image "{self._image()}"')
            case "config-error":
                await self._tell("Pending", _waiting("CreateContainerConfigError", 'secret "absent" not found'))
                await self._record("Failed", 'Error: secret "absent" not found')
            case "creating":
                await self._tell("Pending", _waiting("ContainerCreating", ""))
            case "succeed" | "fail":
                await self._tell("Running", _running(), is_ready=True)
                await asyncio.sleep(float(argument or 0.2) if kind == "succeed" else 0.2)
                code = 0 if kind == "succeed" else int(argument or 1)
                ended = _ended(code, "Completed" if code == 0 else "Error")
                await self._tell("Succeeded" if code == 0 else "Failed", ended)
            case _:
                await self._record("Failed", f"{PREFIX}behaviour: {kind!r} is none of those in tests/kubernetes/fake_node.py")

    async def _become_ready(self, after_s: float) -> None:
        if after_s > 0.5:  # as a kubelet does when there is time: first it runs, then it is ready
            await self._tell("Running", _running())
        await asyncio.sleep(after_s)
        await self._tell("Running", _running(), is_ready=True)

    async def _crash(self, code: int, why: str) -> None:
        await self._tell("Running", _running())
        await asyncio.sleep(0.1)
        self._restarts += 1
        message = f"back-off 10s restarting failed container={self._containers()[0]['name']} pod={self.name}_{self.namespace}"
        await self._tell("Running", _waiting("CrashLoopBackOff", message), last=_ended(code, why))
        await self._record("BackOff", "Back-off restarting failed container")
        await asyncio.sleep(BACK_OFF_S)

    async def _end(self) -> None:
        linger = self.annotation("linger", "0")
        if linger == "stuck":
            return
        await asyncio.sleep(float(linger))
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._seen["metadata"]["uid"]}}
        await self._nodes.ask("DELETE", self._path(), body)

    # -- telling ------------------------------------------------------------------------------------------------------------------------

    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def _containers(self) -> list[Json]:
        found: list[Json] = self._seen["spec"]["containers"]
        return found

    def _image(self) -> str:
        return str(self._containers()[0]["image"])

    async def _tell(self, phase: str, state: Json, *, is_ready: bool = False, last: Json | None = None) -> None:
        is_running = "running" in state
        statuses = [
            {
                "name": one["name"], "image": one["image"], "imageID": "", "ready": is_ready, "started": is_running,
                "restartCount": self._restarts, "state": state, "lastState": last or {},
            }
            for one in self._containers()
        ]  # fmt: skip
        done = {"terminated": _ended(0, "Completed")["terminated"]}
        first = [
            {"name": one["name"], "image": one["image"], "imageID": "", "ready": True, "restartCount": 0, "state": done, "lastState": {}}
            for one in self._seen["spec"].get("initContainers", ())
        ]
        ready = {"status": "True"} if is_ready else {"status": "False", "reason": "ContainersNotReady", "message": "not ready"}
        conditions = [{"type": kind, "lastTransitionTime": _now(), **ready} for kind in ("Ready", "ContainersReady")]
        conditions += [{"type": kind, "lastTransitionTime": _now(), "status": "True"} for kind in ("Initialized", "PodScheduled")]
        for condition in conditions:
            condition.setdefault("reason", "")  # a merge would keep the reason of a state that is over
            condition.setdefault("message", "")
            since = self._since.setdefault((condition["type"], condition["status"]), condition["lastTransitionTime"])
            self._since.pop((condition["type"], "False" if condition["status"] == "True" else "True"), None)
            condition["lastTransitionTime"] = since  # as a kubelet: of the last change, not of the last report
        status = {
            "phase": phase, "conditions": conditions, "containerStatuses": statuses, "initContainerStatuses": first, "hostIP": "127.0.0.1",
            "startTime": _now(),
        }  # fmt: skip
        if is_running or self._restarts:
            status |= {"podIP": self._address, "podIPs": [{"ip": self._address}]}
        for one in statuses:  # states exclude each other, and a merge would keep the former one
            one["state"] = {"running": None, "waiting": None, "terminated": None} | state
        body = {"metadata": {"uid": self._seen["metadata"]["uid"]}, "status": status}
        await self._nodes.ask("PATCH", self._path() + "/status", body, kind="strategic-merge-patch+json")

    async def _record(self, reason: str, message: str) -> None:
        metadata = self._seen["metadata"]
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{self.name}.", "namespace": self.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": self.name, "namespace": self.namespace, "uid": metadata["uid"]},
            "reason": reason, "message": message, "type": "Warning", "count": 1, "firstTimestamp": _now(), "lastTimestamp": _now(),
            "source": {"component": "kubelet", "host": self._seen["spec"]["nodeName"]},
        }  # fmt: skip
        with contextlib.suppress(httpx2.HTTPStatusError):  # refused in a namespace that goes
            await self._nodes.ask("POST", f"/api/v1/namespaces/{self.namespace}/events", event)


def _running() -> Json:
    return {"running": {"startedAt": _now()}}


def _waiting(reason: str, message: str) -> Json:
    return {"waiting": {"reason": reason, "message": message}}


def _ended(code: int, reason: str) -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": _now(), "finishedAt": _now()}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    asyncio.run(Nodes(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3).run())
