"""TrainJobs in front of an API server: a proxy that keeps TrainJobs itself, as the published models allow them, and passes the rest on.

Why not a CustomResourceDefinition: these tests also run on a user's cluster, which is not theirs to extend, and a server is to fail when
it is told to. Whoever writes a TrainJob is told what Kubeflow's schema would say.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob  # seconds on a busy machine, and a request has five
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

from waiting import wait_for

PATH = re.compile(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/([^/]+)/trainjobs/([^/?]+)")


class TrainJobs:
    """The TrainJobs there are, as their controller sees them.

    Attributes:
        refusing: the HTTP status that every request gets for a while; 0: none. methods: of HTTP, that were used.
    """

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self.refusing = 0
        self.methods: set[str] = set()
        self.url = ""

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            return copy.deepcopy(list(self._jobs.values()))

    def first(self) -> dict[str, Any]:
        """The first TrainJob that comes."""
        wait_for(self.all, "a TrainJob")
        return self.all()[0]

    def set(self, job: dict[str, Any], kind: str, reason: str, message: str) -> None:
        """Give it a condition."""
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        with self._lock:
            self._jobs[job["metadata"]["namespace"], job["metadata"]["name"]]["status"] = {"conditions": [condition]}

    def delete(self, job: dict[str, Any]) -> None:
        with self._lock:
            del self._jobs[job["metadata"]["namespace"], job["metadata"]["name"]]

    def answer(self, method: str, namespace: str, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """What the API server would say."""
        with self._lock:
            self.methods.add(method)
            there = self._jobs.get((namespace, name))
            if self.refusing:
                return self.refusing, {"message": "the server is currently unable to handle the request"}
            if method == "PATCH":
                wrong = _fault(json.loads(body))
                if wrong:
                    return 422, {"message": f'TrainJob "{name}" is invalid: {wrong}'}
                made = {"uid": str(uuid.uuid4()), "namespace": namespace}
                metadata = made | json.loads(body)["metadata"] | ({"uid": there["metadata"]["uid"]} if there else {})
                self._jobs[namespace, name] = json.loads(body) | {"metadata": metadata}
                return 200 if there else 201, self._jobs[namespace, name]
            if there is None:
                return 404, {"message": f'trainjobs.trainer.kubeflow.org "{name}" not found'}
            if method == "DELETE":
                asked = json.loads(body).get("preconditions", {}).get("uid") if body else None
                if asked not in (None, there["metadata"]["uid"]):
                    return 409, {"message": "Precondition failed"}
                del self._jobs[namespace, name]
            return 200, there


def _fault(manifest: dict[str, Any]) -> str:
    """What the published models say against a manifest."""
    try:
        read = TrainerV1alpha1TrainJob.from_dict(manifest)
    except ValueError as exc:
        return str(exc)
    return "" if read is not None and read.to_dict() == manifest else "unknown fields"


@contextlib.contextmanager
def train_jobs(kubeconfig: Path, context: str) -> Iterator[TrainJobs]:
    """A proxy of an API server that has TrainJobs, at `url`; it is logged in as the context is."""
    config = KubeConfig.from_file(kubeconfig).get(context)
    assert config is not None
    jobs = TrainJobs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            match = PATH.match(self.path)
            if match:
                status, document = jobs.answer(self.command, match[1], match[2], body)
                self._send(status, "application/json", json.dumps(document).encode())
                return
            passed = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "accept")}
            answer = client.request(self.command, self.path, content=body or None, headers=passed)
            self._send(answer.status_code, answer.headers.get("content-type", "application/json"), answer.content)

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST = do_DELETE = do_PUT = _serve  # noqa: N815

    with Client(config, ConnectionParams(timeout=httpx2.Timeout(30), trust_env=False)) as client:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        jobs.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield jobs
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
