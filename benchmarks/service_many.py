"""What do many data services cost: many callers at once, and a thousand services that run?

A hundred `ensure` of ten specs at the same moment, from four processes with 25 threads each: ten services must come of it, and no error;
LinkedIn's Flyte plugin is asked the same in its one process. Then a thousand services on a real Kubernetes API server (its nodes report
pods ready by script): requests and processor time of one look at all of them and of one round of the reaper, and what a round comes to in
a minute at the reaper's usual pace. The plugin has no such call: its requests are computed, one for each service in a look and a look every
10 s, and the report says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fondaco as fd
from benchmarks._cluster import CLUSTER, IMAGE, configure, kubernetes
from benchmarks._harness import Report, Settings, main
from benchmarks._machine import ROOT
from benchmarks._peers import PluginWorker, have_plugin

NAME = "service_many"
QUESTION = "What do many data services cost?"
CALLERS, SPECS, PROCESSES = 100, 10, 4
SERVICES = 1_000
READY_S = 300.0
_STORM = """
import sys
from concurrent.futures import ThreadPoolExecutor
import fondaco as fd
from benchmarks.service_many import storm_spec
directory, process, processes, callers, specs = sys.argv[1], *map(int, sys.argv[2:])
with fd.open(directory) as platform:
    platform.services
    print("ready", flush=True)
    sys.stdin.readline()
    def ensure(caller):
        try:
            platform.services.ensure(storm_spec(caller % specs), holder=f"caller-{caller}", wait=False, lease="10m")
            return "ok"
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"
    mine = range(process, callers, processes)
    with ThreadPoolExecutor(len(mine)) as pool:
        print("\\x00".join(pool.map(ensure, mine)).replace("\\n", " "), flush=True)
    sys.stdin.readline()
"""


def storm_spec(number: int) -> fd.ServiceSpec:
    """One of the specs that all callers ask for."""
    return fd.ServiceSpec("storm", image=IMAGE, command=["serve"], ports=40_000, env={"NUMBER": str(number)}, placement=CLUSTER, ttl="10m")


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    count = settings.choose_rows(full=SERVICES, quick=20)
    report.sizes = {"callers": CALLERS, "specs": SPECS, "services": count}
    with kubernetes(report, settings.workdir / "control-plane") as kubeconfig:
        if kubeconfig is None:
            return
        for part in (_storm, _crowd):
            directory = settings.workdir / "service-many"
            shutil.rmtree(directory, ignore_errors=True)
            configure(directory, kubeconfig)
            with fd.open(directory) as platform:
                part(report, platform, kubeconfig, count)
            shutil.rmtree(directory)


def _storm(report: Report, platform: fd.Platform, kubeconfig: Path, _: int) -> None:
    command = [sys.executable, "-c", _STORM, str(platform.directory)]
    started = [
        subprocess.Popen(
            [*command, *map(str, (process, PROCESSES, CALLERS, SPECS))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for process in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [line for process in started if process.stdout is not None for line in process.stdout.readline().rstrip("\n").split("\x00")]
    seconds = time.perf_counter() - began
    services = platform.services.list()
    holders = sum(len(service.holders) for service in services)
    for process in started:
        process.communicate("\n")
    errors = Counter(line for line in said if line != "ok")
    report.paths["100 ensures of 10 specs"] = {
        "seconds": seconds,
        "services": len(services),
        "errors": sum(errors.values()),
        "leases": holders,
    }
    for error, times in errors.most_common(3):
        report.note(f"{times} x {error}")
    mine = f"{len(services)} services, {sum(errors.values())} errors, {holders} leases, {seconds:.1f} s"
    theirs = ""
    if have_plugin(report):
        with PluginWorker() as worker:
            answer = worker.ask("storm", kubeconfig=str(kubeconfig), callers=CALLERS, names=SPECS)
        theirs = (
            f"{answer['services']} services, {answer['errors']} errors, {answer['misled']} told another name, {answer['seconds']:.1f} s"
        )
        report.paths["the plugin"] = {name: float(answer[name]) for name in ("seconds", "services", "errors", "misled")}
    report.found(f"{CALLERS} callers of {SPECS} specs at once", mine, theirs)
    for service in services:
        platform.services.delete(service.service, force=True)


def _crowd(report: Report, platform: fd.Platform, _: Path, count: int) -> None:
    services = platform.services
    specs = [
        fd.ServiceSpec("crowd", image=IMAGE, command=["serve"], ports=40_000, env={"NUMBER": str(number)}, placement=CLUSTER)
        for number in range(count)
    ]
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda spec: services.ensure(spec, holder=f"job-{spec.env['NUMBER']}", wait=False, lease=None), specs))
    report.paths[f"{count} ensures"] = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    deadline = time.perf_counter() + READY_S
    while (ready := sum(status.phase == "ready" for status in services.list())) < count and time.perf_counter() < deadline:
        time.sleep(2)
    report.note(f"{ready} of {count} services ready {time.perf_counter() - began:.0f} s after the first ensure")
    provisioner: Any = services.provisioner(CLUSTER)
    for what, call in (("list", services.list), ("reap", services.reap)):
        call()
        before, began, cpu = sum(provisioner.request_counts.values()), time.perf_counter(), time.process_time()
        call()
        asked = sum(provisioner.request_counts.values()) - before
        report.paths[f"{what} of {count}"] = {
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - cpu,
            "requests": asked,
        }
    reap = report.paths[f"reap of {count}"]
    rounds = 60 / platform.config.services.reap_s
    for what in ("list", "reap"):
        path = report.paths[f"{what} of {count}"]
        report.found(
            f"{what} of {count} services",
            f"{path['requests']:.0f} requests, {path['seconds']:.2f} s, {path['cpu_s']:.2f} s CPU",
            f"computed, not measured: {count} requests, one a service" if what == "list" else "no reaper",
        )
    report.found(
        f"the reaper's minute with {count} services",
        f"{reap['requests'] * rounds:.0f} requests, {reap['cpu_s'] * rounds / 60:.1%} of a core ({rounds:g} of the measured rounds)",
        f"computed, not measured: {count * 6} requests, polling each every 10 s",
    )
    for lease in leases:
        lease.release()
    for spec in specs:
        services.delete(spec.service, force=True)


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
