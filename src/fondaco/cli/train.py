"""`fondaco train ... -- COMMAND`: run a job with the data services that it needs; it knows nothing of them but its environment.

The job has our standard input and output, as they are. All that we say goes to stderr; with `--json` the run's result is one more line on
stdout, after the job's own. We end as the job did: with its exit code, or 128 + n where signal n ended it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

import click

import fondaco
from fondaco.cli._common import directory_option
from fondaco.core.errors import InputError
from fondaco.core.units import format_duration

if TYPE_CHECKING:
    from fondaco.adapters.kubeflow.runner import TrainJobs
    from fondaco.models.launcher import RunResult
    from fondaco.models.request import Request
    from fondaco.models.runner import Runner
    from fondaco.platform import Platform
    from fondaco.services.status import ServiceStatus


@click.command("train", context_settings={"allow_interspersed_args": False})
@click.option("--graph", "graphs", multiple=True, metavar="GRAPH[@VERSION]", help="serve this graph (its current version); repeatable")
@click.option("--shards", type=click.IntRange(1, 4096), default=1, show_default=True, help="servers that hold each graph together")
@click.option("--replicas", type=click.IntRange(1, 4096), default=1, show_default=True, help="of each shard")
@click.option("--features", multiple=True, metavar="SET", help="a published feature set; repeatable")
@click.option("--service", "services", multiple=True, metavar="SPEC.toml", help="any other data service; repeatable")
@click.option("--cluster", metavar="NAME", help="where the services run [default: as specs or fondaco.toml say]")
@click.option("--env", "asked", multiple=True, metavar="NAME=TEXT", help="set a variable, as SERVERS={graph.endpoints}; repeatable")
@click.option("--deepgnn", is_flag=True, help="also set GE_ENDPOINTS, DEEPGNN_SERVERS and GE_COUNT")
@click.option("--nproc", metavar="N", help="run it under torchrun, N processes here; also gpu, cpu, auto")
@click.option("--name", help="what people call this run [default: its id]")
@click.option("--timeout", default="10m", show_default=True, help="for the services to become ready")
@click.option(
    "--lease", metavar="TIME", help="how long services are kept should this process be killed [default: as configured, 60s; kubeflow: 1h]"
)
@click.option(
    "--on", "where", type=click.Choice(["here", "kubeflow"]), default="here", show_default=True, help="this machine, or a TrainJob"
)
@click.option("--image", help="kubeflow: of the nodes [default: the runtime's]")
@click.option("--runtime", default="torch-distributed", show_default=True, help="kubeflow: the ClusterTrainingRuntime")
@click.option("--nodes", type=click.IntRange(1), help="kubeflow: how many [default: the runtime's]")
@click.option("--resource", "resources", multiple=True, metavar="NAME=AMOUNT", help="kubeflow: of each node, as nvidia.com/gpu=1")
@click.option("--print-manifest", is_flag=True, help="kubeflow: print the TrainJob, and start nothing")
@click.option("--json", "as_json", is_flag=True, help="after the job's own output, print the result as one line of JSON")
@directory_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    command: tuple[str, ...],
    graphs: tuple[str, ...],
    shards: int,
    replicas: int,
    features: tuple[str, ...],
    services: tuple[str, ...],
    cluster: str | None,
    asked: tuple[str, ...],
    deepgnn: bool,
    nproc: str | None,
    name: str | None,
    timeout: str,
    lease: str | None,
    where: str,
    image: str | None,
    runtime: str,
    nodes: int | None,
    resources: tuple[str, ...],
    print_manifest: bool,
    as_json: bool,
    directory: str,
) -> None:
    """Run COMMAND with the data services it asks for; write it after `--`.

    \b
    fondaco train --graph social -- python train.py --epochs 5
    fondaco train --graph social@3 --shards 2 --nproc 4 -- python train.py
    fondaco train --graph social --env 'SERVERS={graph.endpoints}' -- ./train.sh

    Services are shared with all who ask for the same, and kept while the job runs. It finds FONDACO_GRAPH_ENDPOINTS and the other
    variables of docs/training-jobs.md. `fondaco run list` shows what ran.
    """
    from fondaco.models.job import CommandError
    from fondaco.models.launcher import launch
    from fondaco.models.request import Request

    env = dict(_pair("--env", text, "SERVERS={graph.endpoints}") for text in asked)
    request = Request(graphs, features, services, shards, replicas, cluster, env, deepgnn, name)
    if where == "here" and (image or nodes or resources or print_manifest):
        raise InputError("--image, --nodes, --resource and --print-manifest are for TrainJobs: say --on kubeflow")
    progress = Progress()
    try:
        with fondaco.open(directory, create=False) as platform:
            runner: Runner
            if where == "here":
                from fondaco.models.here import Here

                runner = Here(nproc=nproc)
            else:
                amounts = dict(_pair("--resource", text, "nvidia.com/gpu=1") for text in resources)
                options = {"image": image, "runtime": runtime, "nodes": nodes, "nproc": nproc, "resources": amounts}
                request, jobs = _on_kubeflow(platform, request, progress, options)
                if print_manifest:
                    _print_manifest(platform, command, request, jobs)
                    return
                runner = jobs
            result = launch(
                platform, command, request, runner=runner, timeout=timeout, lease=lease, say=progress.say, progress=progress.show
            )
    except CommandError as exc:
        progress.clear()
        click.echo(f"fondaco: {exc}", err=True)
        sys.exit(exc.exit_code)
    finally:
        progress.clear()
    tell(result, as_json=as_json)
    sys.exit(result.exit_code)


def _on_kubeflow(platform: Platform, request: Request, progress: Progress, options: dict[str, Any]) -> tuple[Request, TrainJobs]:
    """The request with its services in the cluster of the TrainJob, and who has it run there."""
    from fondaco.adapters.kubeflow.runner import TrainJobs, kubernetes_cluster

    cluster, config = kubernetes_cluster(platform.config.services, request.cluster)
    return dataclasses.replace(request, cluster=cluster), TrainJobs(cluster, config, say=progress.say, **options)


def _print_manifest(platform: Platform, command: tuple[str, ...], request: Request, jobs: TrainJobs) -> None:
    """The TrainJob as it would be, with the endpoints that its services would have; and who must hold them."""
    import shlex

    import msgspec

    from fondaco.models.preview import previewed

    line = jobs.prepare(command)
    facts, given = previewed(platform, request, jobs.platform_directory, jobs.endpoints)
    click.echo(msgspec.json.format(msgspec.json.encode(jobs.manifest(line, given, facts)), indent=2).decode())
    for served in facts.served:
        click.echo(f"fondaco: nothing was started; it needs service {shlex.quote(served.service)} on cluster {jobs.cluster}", err=True)


def tell(result: RunResult, *, as_json: bool) -> None:
    """Say how a run ended."""
    import msgspec

    how = result.state.lower() + (f" with exit code {result.exit_code}" if result.exit_code else "")
    on = "".join(f", {graph} v{version}" for graph, version in result.graphs.items())
    click.echo(f"{result.run_id}: {how} after {_seconds(result.seconds)} ({_seconds(result.prepared_s)} to prepare{on})", err=True)
    if as_json:
        sys.stdout.flush()
        click.echo(msgspec.json.encode(result).decode())


class Progress:
    """What is waited for, on stderr: one line that changes on a terminal; a line for each change elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._last: dict[str, str] = {}
        self._shown = False

    def show(self, status: ServiceStatus) -> None:
        """Say how a service comes on."""
        count = f"{status.ready}/{status.total} ready"
        told = f"{status.service}: {status.phase.value}, {status.reason if status.reason.startswith(count) else count}"
        if status.reason and not status.reason.startswith(count):
            told += f"; {status.reason}"
        if not self._last and status.phase.value == "ready":
            return  # it was there already
        if self._terminal:
            width = _columns() - 1
            line = f"{told} ({_seconds(time.monotonic() - self._begun)})"
            sys.stderr.write("\r\x1b[K" + line[:width])
            sys.stderr.flush()
            self._shown = True
        elif self._last.get(status.service) != told:
            click.echo(f"fondaco: {told}", err=True)
        self._last[status.service] = told

    def say(self, line: str) -> None:
        """Say something that stays."""
        self.clear()
        click.echo(f"fondaco: {line}", err=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option} wants NAME=TEXT, as {example}, not {text!r}")
    return name, value


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else format_duration(round(seconds) * 1_000_000)
