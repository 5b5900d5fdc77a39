"""How soon is a data service ready?

From `ensure` to the lease, with the service ready: a small HTTP program and a graph service as processes of this machine, against the same
programs started by hand and asked every 2 ms (what cannot be avoided); eight pods on a real Kubernetes API server whose nodes report a pod
ready 0.2 s after it was bound, against LinkedIn's Flyte plugin as its connector runs it, asked every 50 ms. And a second `ensure`, which
finds the service there.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa

import fondaco as fd
from benchmarks._cluster import CLUSTER, IMAGE, configure, kubernetes
from benchmarks._harness import Figures, Report, Settings, alternate, main, median_of, times_lower
from benchmarks._peers import PluginWorker, have_plugin

NAME = "service_start"
QUESTION = "How soon is a data service ready?"
LIMIT_S = 120.0
PODS = 8
_NUMBERS = itertools.count()


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rounds = settings.choose_rounds(full=5, quick=1)
    report.sizes = {"rounds": rounds, "pods": PODS}
    directory = settings.workdir / "service-start"
    shutil.rmtree(directory, ignore_errors=True)
    with kubernetes(report, settings.workdir / "control-plane") as kubeconfig:
        if kubeconfig is not None:
            configure(directory, kubeconfig)
        with fd.open(directory) as platform:
            _build_graph(platform)
            _on_this_machine(report, platform, rounds)
            if kubeconfig is not None:
                _on_kubernetes(report, platform, kubeconfig, rounds)
    shutil.rmtree(directory)


def _build_graph(platform: fd.Platform) -> None:
    rng = np.random.default_rng(0)
    edges = pa.table({"src": rng.integers(0, 10_000, 100_000), "dst": rng.integers(0, 10_000, 100_000)})
    platform.build_graph("small", nodes={}, edges={("node", "to", "node"): edges}, progress=False)


def _on_this_machine(report: Report, platform: fd.Platform, rounds: int) -> None:
    web = fd.ServiceSpec(
        "web", command=["{python}", "-m", "http.server", "{port}", "--bind", "{host}"], ports="http", readiness={"http": "/"}
    )
    results = alternate(
        {
            "HTTP program, ensure": lambda _: _ensured(platform, web),
            "HTTP program, by hand": lambda _: _by_hand([sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], "/"),
            "graph service, ensure": lambda _: _ensured(platform, fd.ServiceSpec.graph("small")),
            "graph service, by hand": lambda _: _by_hand(
                [sys.executable, "-m", "fondaco.graph.serve", str(platform.directory), "small", "--port", "0", "--metrics-port", "{port}"],
                "/ready",
            ),
        },
        rounds=rounds,
    )
    report.add_paths(results)
    for what in ("HTTP program", "graph service"):
        ours, bare = results[f"{what}, ensure"], results[f"{what}, by hand"]
        more = median_of(ours, "seconds") - median_of(bare, "seconds")
        report.found(f"{what}: ensure to ready", _in_s(ours), f"{_in_s(bare)} by hand", times_lower(ours, bare, "seconds"))
        report.note(f"{what}: {more * 1000:.0f} ms more than by hand; ensured again {median_of(ours, 'again_s') * 1000:.1f} ms")


def _on_kubernetes(report: Report, platform: fd.Platform, kubeconfig: Path, rounds: int) -> None:
    spec = fd.ServiceSpec("pods", image=IMAGE, command=["serve"], ports=40_000, replicas=PODS, placement=CLUSTER)
    paths = {"Kubernetes, ensure": lambda _: _ensured(platform, spec)}
    if not have_plugin(report):
        report.add_paths(alternate(paths, rounds=rounds))
        return
    with PluginWorker() as worker:
        seen: set[str] = set()

        def theirs(_: int) -> Figures:
            name = f"plugin-{next(_NUMBERS)}"
            answer = worker.ask("ensure", kubeconfig=str(kubeconfig), name=name, replicas=PODS, poll_s=0.05, limit_s=LIMIT_S)
            worker.ask("remove", kubeconfig=str(kubeconfig), name=name)
            seen.update(answer["phases"])
            return {"seconds": answer["seconds"]}

        results = alternate({**paths, "Kubernetes, the plugin": theirs}, rounds=rounds)
    report.add_paths(results)
    ours, plugin = results["Kubernetes, ensure"], results["Kubernetes, the plugin"]
    report.found(f"{PODS} pods on Kubernetes: ensure to ready", _in_s(ours), _in_s(plugin), times_lower(ours, plugin, "seconds"))
    report.note(f"ensured again on Kubernetes: {median_of(ours, 'again_s') * 1000:.0f} ms")
    report.note(f"phases that the plugin's task showed while its pods became ready: {', '.join(sorted(seen))}")


def _ensured(platform: fd.Platform, spec: fd.ServiceSpec) -> Figures:
    """A service that was never there; ensured twice, and removed."""
    new = spec.replace(env={"ROUND": str(next(_NUMBERS))}, ttl="0s")
    began = time.perf_counter()
    with platform.services.ensure(new, holder="first") as lease:
        ready = time.perf_counter()
        with platform.services.ensure(new, holder="second"):
            again = time.perf_counter()
        service = lease.service
    platform.services.delete(service)
    return {"seconds": ready - began, "again_s": again - ready}


def _by_hand(command: list[str], path: str) -> Figures:
    port = _free_port()
    began = time.perf_counter()
    with subprocess.Popen(
        [word.replace("{port}", str(port)) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _answers(f"http://127.0.0.1:{port}{path}"):
                if process.poll() is not None or time.perf_counter() - began > LIMIT_S:
                    raise RuntimeError(f"{' '.join(command)} did not start (status {process.poll()})")
                time.sleep(0.002)
            return {"seconds": time.perf_counter() - began}
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _in_s(figures: list[Figures]) -> str:
    return f"{median_of(figures, 'seconds'):.2f} s"


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
