"""`fondaco service ...`: ensure, look at, hold, change and remove data services.

`ensure` prints lines that a shell can take in, `eval "$(fondaco service ensure --graph routes)"`, and leaves a lease: for `--hold`, or with
`--keep` until it is released. Whoever wants a service for exactly as long as a command runs says `fondaco train --graph routes -- command`.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table
from fondaco.cli.train import Progress
from fondaco.core.clock import from_us
from fondaco.core.errors import InputError
from fondaco.core.units import format_duration, parse_duration_us

if TYPE_CHECKING:
    from fondaco.platform import Platform
    from fondaco.services.reaper import ReapReport
    from fondaco.services.spec import ServiceSpec
    from fondaco.services.status import ServiceStatus

HOLD: Final = "10m"
_FOLLOW_S: Final = 0.5
_FOLLOW_LINES: Final = 1000


@click.group("service", cls=SuggestingGroup)
def command() -> None:
    """Ensure, list, scale and remove data services: sets of processes that feed jobs."""


def _holder_option(function: Any) -> Any:
    return click.option("--holder", help="who holds the service [default: USER@HOST]")(function)


# -- ensure -------------------------------------------------------------------------------------------------------------------------------


@command.command("ensure")
@click.argument("spec", required=False, type=click.Path(dir_okay=False, path_type=Path), metavar="[SPEC.toml]")
@click.option("--graph", help="instead of a file: the service that answers queries about this graph")
@click.option("--store", help="instead of a file: the service that answers reads of this store")
@click.option("--version", type=click.IntRange(1), help="of the graph [default: the current one]")
@click.option("--shards", type=click.IntRange(1, 4096), help="servers that hold the graph together [default: 1]")
@click.option("--replicas", type=click.IntRange(1, 4096), help="instances; of a graph: of each shard [default: 1, or as in the file]")
@click.option("--cluster", help="where it is to run [default: as the spec says, or as configured]")
@click.option("--ttl", help="how long it stays after its last lease [default: 10m, or as in the file]")
@_holder_option
@click.option("--hold", help=f"how long the lease is that this leaves [default: {HOLD}]")
@click.option("--keep", is_flag=True, help="leave a lease without end: until `fondaco service release`")
@click.option("--no-wait", is_flag=True, help="do not wait until it is ready")
@click.option("--timeout", default="10m", show_default=True, help="wait so long at most")
@directory_option
@json_option
def ensure(
    spec: Path | None,
    graph: str | None,
    store: str | None,
    version: int | None,
    shards: int | None,
    replicas: int | None,
    cluster: str | None,
    ttl: str | None,
    holder: str | None,
    hold: str | None,
    keep: bool,
    no_wait: bool,
    timeout: str,
    directory: str,
    as_json: bool,
) -> None:
    """Have a service run, reuse it if it does, and print what jobs need in their environment as `export` lines.

    The lease that this leaves ends by itself after --hold; the service stays for its ttl after the last lease.
    """
    wanted = _spec_of(spec, graph, store, version, shards, replicas, cluster, ttl)
    if keep and hold is not None:
        raise InputError("--keep leaves a lease without end, and --hold one that ends: leave out one of them")
    hold = HOLD if hold is None else hold
    parse_duration_us(hold)
    who = holder or default_holder()
    begun, progress = time.monotonic(), Progress()
    try:
        with fondaco.open(directory, create=False) as platform:
            services, begun_us = platform.services, platform.clock.now_us()
            lease = services.ensure(wanted, who, wait=not no_wait, timeout=timeout, lease=hold, progress=progress.show)
            lease.leave()
            services.hold(lease.service, who, lease=None if keep else hold)  # from now
            status, endpoints, environment = services.status(lease.service), lease.endpoints, lease.env
    finally:
        progress.clear()
    if as_json:
        print_json({"service": status.service, "holder": who, "endpoints": endpoints, "env": environment, "status": status})
        return
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    until = "until it is released" if keep else f"for {hold}"
    how = "it ran already" if status.created_us < begun_us else f"after {time.monotonic() - begun:.1f} s"
    click.echo(f"{_where(status)}: {_standing(status)}; {how}", err=True)
    click.echo(f"held by {who} {until}; to let it go: fondaco service release {status.service}{_holder_words(holder)}", err=True)


def _spec_of(
    path: Path | None,
    graph: str | None,
    store: str | None,
    version: int | None,
    shards: int | None,
    replicas: int | None,
    cluster: str | None,
    ttl: str | None,
) -> ServiceSpec:
    """The spec that the options of `ensure` state.

    Raises:
        InputError: none or several are meant, or as `ServiceSpec`.
    """
    from fondaco.services.spec import ServiceSpec

    given = [what for what, value in (("SPEC.toml", path), ("--graph", graph), ("--store", store)) if value is not None]
    if len(given) != 1:
        raise InputError(f"name one of SPEC.toml, --graph and --store; given: {' and '.join(given) or 'none'}")
    more: dict[str, Any] = {name: value for name, value in (("placement", cluster), ("ttl", ttl)) if value is not None}
    if graph is not None:
        return ServiceSpec.graph(graph, version=version, shards=shards or 1, replicas=replicas or 1, **more)
    for option, value in (("--version", version), ("--shards", shards)):
        if value is not None:
            raise InputError(
                f"{option} goes with --graph; {given[0]} has none" if store else f"{option} goes with --graph; write it in {path}"
            )
    if store is not None:
        return ServiceSpec.store(store, replicas=replicas or 1, **more)
    assert path is not None
    spec = ServiceSpec.from_toml(path)
    more |= {} if replicas is None else {"replicas": replicas}
    return spec.replace(**more) if more else spec


# -- looking ------------------------------------------------------------------------------------------------------------------------------


@command.command("list")
@directory_option
@json_option
def list_services(directory: str, as_json: bool) -> None:
    """List the services: where, how they stand, who holds them, and when they go."""
    with fondaco.open(directory, create=False) as platform:
        listed, now_us = platform.services.list(), platform.clock.now_us()
    if as_json:
        print_json({"services": listed})
        return
    rows = [(s.service, s.cluster, s.phase, f"{s.ready}/{s.total}", len(s.holders), _going(s, now_us), s.reason) for s in listed]
    print_table(("service", "cluster", "phase", "ready", "holders", "goes", "reason"), rows)


@command.command("status")
@click.argument("name")
@click.option("--lines", type=click.IntRange(0, 1000), help="newest lines of the log to show [default: 20 if it fails, else none]")
@directory_option
@json_option
def status(name: str, lines: int | None, directory: str, as_json: bool) -> None:
    """Show service NAME: how it stands and why, its instances, endpoints and holders, and when it goes.

    NAME may leave out the digits at the end where only one service is meant.
    """
    with fondaco.open(directory, create=False) as platform:
        found = platform.services.status(full_name(platform, name), log_lines=lines)
        now_us = platform.clock.now_us()
    if as_json:
        print_json(found)
        return
    click.echo(f"{_where(found)}: {_standing(found)}")
    click.echo(f"made {_moment(found.created_us)}" + (f", {found.note}" if found.note else ""))
    click.echo(
        f"identity {found.identity[:16]}; stays {format_duration(found.ttl_us)} after its last lease; {_going(found, now_us) or 'is held'}"
    )
    for port, addresses in found.ports.items():
        click.echo(f"{port}: {','.join(addresses)}")
    if found.holders:
        print_table(
            ("holder", "since", "until"), [(row.holder, _moment(row.acquired_us), _end(row.expires_us, now_us)) for row in found.holders]
        )
    if found.instances:
        rows = [(f"{i.index}", i.phase, i.address, f"{i.restarts}", i.where, i.reason) for i in found.instances]
        print_table(("instance", "phase", "address", "restarts", "where", "reason"), rows)
    for line in found.drift:
        click.echo(f"differs: {line}")
    for line in found.log_tail:
        click.echo(f"  {line}")


@command.command("logs")
@click.argument("name")
@click.option("--index", type=click.IntRange(0), help="of one instance [default: all, each line with its instance's number]")
@click.option("--lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="newest lines of each instance")
@click.option("--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@directory_option
@json_option
def logs(name: str, index: int | None, lines: int, follow: bool, directory: str, as_json: bool) -> None:
    """Print what the instances of service NAME have said."""
    if follow and as_json:
        raise InputError("--json is one document; leave out --follow or --json")
    with fondaco.open(directory, create=False) as platform:
        services, service = platform.services, full_name(platform, name)
        if follow:
            _follow(lambda count: services.logs(service, index=index, lines=count), lines, numbered=index is None)
            return
        said = services.logs(service, index=index, lines=lines)
    if as_json:
        print_json({"service": service, "lines": said})
        return
    for line in said:
        click.echo(line)


def _follow(read: Callable[[int], Sequence[str]], lines: int, *, numbered: bool) -> None:
    """Print lines as they come: each look is compared with the one before, as a log gives its newest lines only."""
    seen: list[str] | None = None
    while True:
        now = list(read(lines if seen is None else max(lines, _FOLLOW_LINES)))
        for line in now if seen is None else new_lines(seen, now, numbered=numbered):
            click.echo(line)
        sys.stdout.flush()
        seen = now
        time.sleep(_FOLLOW_S)


def new_lines(before: Sequence[str], now: Sequence[str], *, numbered: bool) -> list[str]:
    """The lines of `now` that came since `before`: of each instance's newest lines, what follows the longest stretch that both have.

    Args:
        numbered: the lines begin with the number of their instance.
    """
    came: list[str] = []
    earlier = _by_instance(before, numbered=numbered)
    for instance, lines in _by_instance(now, numbered=numbered).items():
        old = earlier.get(instance, [])
        starts = (index for index, line in enumerate(old) if line == lines[0] or index == 0)
        shared = max((_shared(old[start:], lines) for start in starts), default=0)
        came += lines[shared:]
    return came


def _shared(old: list[str], lines: list[str]) -> int:
    """How many lines the end of one look is the beginning of the other; 0 if it is not."""
    return len(old) if lines[: len(old)] == old else 0


def _by_instance(lines: Sequence[str], *, numbered: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.partition(" ")[0] if numbered else "", []).append(line)
    return found


# -- changing -----------------------------------------------------------------------------------------------------------------------------


@command.command("scale")
@click.argument("name")
@click.argument("replicas", type=click.IntRange(1, 4096))
@directory_option
@json_option
def scale(name: str, replicas: int, directory: str, as_json: bool) -> None:
    """Have REPLICAS instances of service NAME. It does not wait until they are ready."""
    with fondaco.open(directory, create=False) as platform:
        service = full_name(platform, name)
        platform.services.scale(service, replicas)
        _tell(platform, service, f"shall have {replicas} instances", as_json)


@command.command("update")
@click.argument("name")
@click.argument("spec", type=click.Path(dir_okay=False, path_type=Path), metavar="SPEC.toml")
@directory_option
@json_option
def update(name: str, spec: Path, directory: str, as_json: bool) -> None:
    """Change service NAME to what SPEC.toml says, instance by instance; its holders keep it."""
    from fondaco.services.spec import ServiceSpec

    wanted = ServiceSpec.from_toml(spec)
    with fondaco.open(directory, create=False) as platform:
        service = full_name(platform, name)
        platform.services.update(service, wanted)
        _tell(platform, service, f"is being changed to {spec}", as_json)


@command.command("release")
@click.argument("name")
@_holder_option
@directory_option
@json_option
def release(name: str, holder: str | None, directory: str, as_json: bool) -> None:
    """End the lease that a holder has on service NAME. After the last one it stays for its ttl."""
    who = holder or default_holder()
    with fondaco.open(directory, create=False) as platform:
        service, services = full_name(platform, name), platform.services
        held = services.release(service, who)
        _tell(platform, service, f"released by {who}" if held else f"{who} did not hold it", as_json)


@command.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="also under those who hold it")
@directory_option
@json_option
def delete(name: str, force: bool, directory: str, as_json: bool) -> None:
    """Remove service NAME now, if nobody holds it."""
    with fondaco.open(directory, create=False) as platform:
        service = full_name(platform, name)
        gone = platform.services.delete(service, force=force)
    if as_json:
        print_json({"service": service, "gone": gone})
        return
    click.echo(f"{service}: deleted" if gone else f"{service}: on its way out; the reaper finishes what is left")


def _tell(platform: Platform, service: str, what: str, as_json: bool) -> None:
    now_us, found = platform.clock.now_us(), platform.services.status(service)
    if as_json:
        print_json(found)
        return
    going = _going(found, now_us)
    click.echo(f"{service}: {what}; {_standing(found)}" + (f"; {going}" if going else ""))


# -- keeping order ------------------------------------------------------------------------------------------------------------------------


@command.command("reap")
@click.option("--once", is_flag=True, help="look once, and end")
@click.option("--every", help="between two looks [default: as configured, 5s]")
@directory_option
@json_option
def reap(once: bool, every: str | None, directory: str, as_json: bool) -> None:
    """Remove services whose time is over, end leases that have run out, adopt what has no entry; until Ctrl-C.

    `fondaco up` does this too; any number of them may run.
    """
    pause_s = None if every is None else parse_duration_us(every) / 1e6
    if pause_s == 0:
        raise InputError("--every: a pause is longer than nothing")

    def tell(report: ReapReport) -> None:
        if as_json:
            print_json(report)
        elif told := _done(report) or ("nothing to do" if once else ""):
            click.echo(told)
        sys.stdout.flush()

    with fondaco.open(directory, create=False) as platform:
        if not once:
            stop = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())  # a container's first process would not notice it otherwise
            platform.services.reap_loop(stop, pause_s, on_report=tell)
            return
        report = platform.services.reap()
    tell(report)
    if report.errors:
        sys.exit(1)


@command.command("connector")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="for both protocols; 0: any free one")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="for Prometheus")
@click.option("--no-metrics", is_flag=True, help="no port for Prometheus")
@click.option("--tls-certificate", type=click.Path(dir_okay=False, path_type=Path), help="PEM file; with --tls-key: TLS")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="PEM file")
@click.option("--tls-client-ca", type=click.Path(dir_okay=False, path_type=Path), help="callers must show a certificate that this signed")
@click.option("--threads", type=click.IntRange(1, 1024), default=32, show_default=True, help="calls that wait for a cluster at once")
@click.option("--drain", default="15s", show_default=True, help="after SIGTERM, how long calls at work may take")
@click.option("--no-reap", is_flag=True, help="leave ending leases and removing services to another process")
@directory_option
def connector(
    host: str,
    port: int,
    metrics_port: int,
    no_metrics: bool,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    threads: int,
    drain: str,
    no_reap: bool,
    directory: str,
) -> None:
    """Serve the data service tasks of Flyte 1 and Flyte 2 from one port, until Ctrl-C."""
    from fondaco.adapters.connector import ConnectorOptions, run_connector

    options = ConnectorOptions(
        host=host,
        port=port,
        metrics_port=None if no_metrics else metrics_port,
        certificate=tls_certificate,
        private_key=tls_key,
        client_ca=tls_client_ca,
        threads=threads,
        drain_s=parse_duration_us(drain) / 1e6,
        reap=not no_reap,
    )
    with fondaco.open(directory) as platform:
        run_connector(platform.services, options)


def _done(report: ReapReport) -> str:
    """`removed a, b; 2 leases have run out`"""
    told = [f"{verb} {', '.join(names)}" for verb, names in (("removed", report.removed), ("adopted", report.adopted),
            ("repaired", report.repaired), ("still removing", report.waiting)) if names]  # fmt: skip
    told += [f"lease over: {lease}" for lease in report.expired] + [f"error: {error}" for error in report.errors]
    return "; ".join(told)


# -- words --------------------------------------------------------------------------------------------------------------------------------


def default_holder() -> str:
    """Who holds what the command line ensures: the same for every command of a user on a machine."""
    from fondaco.services.arguments import default_user

    return default_user()


def _holder_words(holder: str | None) -> str:
    return "" if holder is None else f" --holder {shlex.quote(holder)}"


def full_name(platform: Platform, name: str) -> str:
    """The service called `name`; or the only one that is called so but for the digits at the end.

    Raises:
        InputError: several are.
    """
    names = [status.service for status in platform.services.list()]
    if name in names:
        return name
    found = [other for other in names if other.rpartition("-")[0] == name]
    if len(found) > 1:
        raise InputError(f"{name!r} is the name of several services: {', '.join(found)}; say which")
    return found[0] if found else name  # the services say that there is none, and which is near


def _where(status: ServiceStatus) -> str:
    return f"{status.service} on {status.cluster}"


def _standing(status: ServiceStatus) -> str:
    """`ready, 2/2`, `starting, 3/8: instance 5: ...`"""
    counts = f"{status.ready}/{status.total}"
    reason = status.reason.removeprefix(f"{counts} ready; ").removeprefix(f"{counts} ready")
    return f"{status.phase}, {counts}" + (f": {reason}" if reason else "")


def _going(status: ServiceStatus, now_us: int) -> str:
    """When it goes: "goes in 4m", or "" while it is held."""
    if status.removal_us is None:  # its ttl begins when a reaper sees that the last lease has run out
        return "" if status.holders else f"goes {format_duration(status.ttl_us)} after the next look"
    left_us = status.removal_us - now_us
    return f"goes in {_rough(left_us)}" if left_us > 0 else "goes now"


def _end(expires_us: int | None, now_us: int) -> str:
    return "it is released" if expires_us is None else f"{_moment(expires_us)} (in {_rough(max(0, expires_us - now_us))})"


def _rough(us: int) -> str:
    """A duration in whole seconds, minutes from a quarter of an hour on."""
    seconds = round(us / 1e6)
    return format_duration((seconds if seconds < 900 else seconds // 60 * 60) * 1_000_000)


def _moment(us: int) -> str:
    return from_us(us).isoformat(" ", "seconds")
