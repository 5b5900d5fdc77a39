"""`fondaco cluster ...`: nodes, and which stores they hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table
from fondaco.core.errors import DeadlineExceededError, InputError, StateError
from fondaco.core.units import format_bytes

if TYPE_CHECKING:
    from fondaco.cluster.routing import Router
    from fondaco.cluster.status import StoreStatus
    from fondaco.platform import Platform

_POLL_S = 0.2


@click.group("cluster", cls=SuggestingGroup)
def command() -> None:
    """Nodes that serve, and where each store is: assign, move, drain, status."""


def _wait_option(function: Any) -> Any:
    return click.option("--wait", type=click.FloatRange(0), metavar="SECONDS", help="wait until it is done, so long at most")(function)


# -- looking ----------------------------------------------------------------------------------------------------------------------------


@command.command("nodes")
@directory_option
@json_option
def nodes(directory: str, as_json: bool) -> None:
    """List the nodes and what they hold."""
    from fondaco.cluster.status import node_statuses

    with fondaco.open(directory, create=False) as platform:
        listed = node_statuses(_router(platform))
    if as_json:
        print_json({"nodes": [asdict(node) for node in listed]})
        return
    rows = [
        (node.name, node.address, node.cluster, node.zone, node.state, node.ready, node.fetching, format_bytes(node.bytes))
        for node in listed
    ]
    print_table(("name", "address", "cluster", "zone", "state", "ready", "fetching", "bytes"), rows)


@command.command("status")
@click.argument("store", required=False)
@directory_option
@json_option
def status(store: str | None, directory: str, as_json: bool) -> None:
    """Show how the placed stores stand, or one of them: what is current, what is routed, how much of it is there."""
    with fondaco.open(directory, create=False) as platform:
        listed = _statuses(platform) if store is None else [_status(platform, store)]
    if as_json:
        print_json({"stores": [asdict(one) for one in listed]})
        return
    rows = [
        (
            one.name,
            one.cluster,
            one.replicas,
            f"v{one.current}",
            "none" if one.routed is None else f"v{one.routed}",
            f"{one.complete}/{one.partitions}",
            f"{one.settled}/{one.partitions}",
            one.problem,
        )
        for one in listed
    ]
    print_table(("store", "cluster", "replicas", "current", "routed", "readable", "settled", "problem"), rows)


# -- stores -----------------------------------------------------------------------------------------------------------------------------


@command.command("assign")
@click.argument("store")
@click.option("--cluster", default="main", show_default=True)
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="copies of each partition")
@click.option("--zone-spread", is_flag=True, help="copies of a partition lie in different zones")
@click.option("--node", "only", multiple=True, metavar="NAME", help="only on this node; may be given several times")
@_wait_option
@directory_option
@json_option
def assign(
    store: str, cluster: str, replicas: int, zone_spread: bool, only: tuple[str, ...], wait: float | None, directory: str, as_json: bool
) -> None:
    """Place STORE on the nodes of a cluster; placed differently, it moves while it is read."""
    with fondaco.open(directory, create=False) as platform:
        _place(platform, store, cluster, replicas, zone_spread, only)
        _finish(platform, store, wait, as_json, f"{store}: {replicas} replicas in cluster {cluster!r}")


@command.command("move")
@click.argument("store")
@click.argument("cluster")
@click.option("--node", "only", multiple=True, metavar="NAME", help="only on this node; may be given several times")
@_wait_option
@directory_option
@json_option
def move(store: str, cluster: str, only: tuple[str, ...], wait: float | None, directory: str, as_json: bool) -> None:
    """Move STORE to another CLUSTER, with as many replicas; it is read all the time."""
    from fondaco.catalog import placements

    with fondaco.open(directory, create=False) as platform:
        with platform.catalog.read() as connection:
            before = placements.find(connection, platform.store(store)._context.id)
        if before is None:
            raise StateError(f"store {store!r} is in no cluster yet; place it: fondaco cluster assign {store} --cluster {cluster}")
        _place(platform, store, cluster, before.replicas, before.zone_spread, only)
        _finish(platform, store, wait, as_json, f"{store}: moves from cluster {before.cluster!r} to {cluster!r}")


@command.command("unassign")
@click.argument("store")
@directory_option
def unassign(store: str, directory: str) -> None:
    """Take STORE off every node; its versions stay in the platform."""
    from fondaco.catalog import placements

    with fondaco.open(directory, create=False) as platform:
        store_id = platform.store(store)._context.id
        with platform.catalog.write() as connection:
            was_placed = placements.remove(connection, store_id)
    click.echo(f"{store}: leaves every node" if was_placed else f"{store}: was on no node")


@command.command("upload")
@click.argument("store")
@click.argument("blob")
@click.option("--version", type=int, help="[default: the current one]")
@directory_option
def upload(store: str, blob: str, version: int | None, directory: str) -> None:
    """Copy a version of STORE into another BLOB folder (an fsspec URL), for nodes that cannot reach the platform's directory."""
    from fondaco.cluster.blob import BlobFolder
    from fondaco.core.errors import NoCurrentVersionError, VersionNotFoundError

    with fondaco.open(directory, create=False) as platform:
        opened = platform.store(store)
        number = opened.current if version is None else version
        if not number:
            raise NoCurrentVersionError(store)
        layout = opened._context.layout
        if number not in layout.version_numbers():
            raise VersionNotFoundError(store, number, layout.version_numbers())
        begun = time.monotonic()
        copied = BlobFolder(blob).upload(layout, store, number)
    click.echo(f"{store}: v{number} is in {blob}; {format_bytes(copied)} copied in {time.monotonic() - begun:.1f} s")


# -- nodes ------------------------------------------------------------------------------------------------------------------------------


@command.command("drain")
@click.argument("node")
@click.option("--undo", is_flag=True, help="let it take part again")
@_wait_option
@directory_option
def drain(node: str, undo: bool, wait: float | None, directory: str) -> None:
    """Let NODE give away what it holds, while it is read; then it can be stopped."""
    from fondaco.catalog import nodes as catalog_nodes
    from fondaco.cluster.status import node_statuses

    with fondaco.open(directory, create=False) as platform:
        with platform.catalog.write() as connection:
            catalog_nodes.drain(connection, node, not undo)
        if undo:
            click.echo(f"node {node!r} takes part again")
            return

        def is_empty() -> bool:
            return all(one.ready + one.fetching == 0 for one in node_statuses(_router(platform)) if one.name == node)

        if wait is None:
            click.echo(f"node {node!r} gives away what it holds; next: fondaco cluster nodes")
            return
        _await(is_empty, wait, f"draining node {node!r}", "it still holds replicas, which no other node has yet")
        click.echo(f"node {node!r} is drained and can be stopped")


@command.command("remove")
@click.argument("node")
@directory_option
def remove(node: str, directory: str) -> None:
    """Forget NODE, which was stopped and does not come back."""
    from fondaco.catalog import nodes as catalog_nodes

    with fondaco.open(directory, create=False) as platform, platform.catalog.write() as connection:
        catalog_nodes.remove(connection, node, now_us=platform.clock.now_us())
    click.echo(f"node {node!r} is forgotten")


@command.command("node", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def node(arguments: tuple[str, ...]) -> None:
    """Run a serving node here: fondaco cluster node --platform DIR --dir DIR --name NAME [...]."""
    from fondaco.cluster.node import main

    code = main(arguments)
    if code:
        raise SystemExit(code)


# -- parts ------------------------------------------------------------------------------------------------------------------------------


def _router(platform: Platform) -> Router:
    from fondaco.cluster.routing import Router
    from fondaco.cluster.state import read_state

    return Router(read_state(platform.catalog), platform.clock.now_us())


def _statuses(platform: Platform) -> list[StoreStatus]:
    from fondaco.cluster.status import store_statuses

    return store_statuses(_router(platform))


def _status(platform: Platform, store: str) -> StoreStatus:
    platform.store(store)
    for one in _statuses(platform):
        if one.name == store:
            return one
    raise InputError(f"store {store!r} is in no cluster; place it: fondaco cluster assign {store}")


def _place(platform: Platform, store: str, cluster: str, replicas: int, zone_spread: bool, only: tuple[str, ...]) -> None:
    from fondaco.catalog import nodes as catalog_nodes
    from fondaco.catalog import placements

    store_id = platform.store(store)._context.id
    with platform.catalog.write() as connection:
        for name in only:
            row = catalog_nodes.get(connection, name)
            if row.cluster != cluster:
                raise InputError(f"node {name!r} is in cluster {row.cluster!r}, not {cluster!r}")
        placements.assign(connection, store_id, cluster, replicas, zone_spread, nodes=only, now_us=platform.clock.now_us())


def _finish(platform: Platform, store: str, wait: float | None, as_json: bool, done: str) -> None:
    def is_settled() -> bool:
        one = _status(platform, store)
        return one.settled == one.partitions and one.routed == one.current

    if wait is not None:
        _await(is_settled, wait, f"placing store {store!r}", _status(platform, store).problem or "see fondaco cluster status")
    one = _status(platform, store)
    if as_json:
        print_json(asdict(one))
        return
    click.echo(f"{done}; {one.settled} of {one.partitions} partitions of v{one.current} are where they should be")
    if one.problem:
        click.echo(one.problem, err=True)


def _await(condition: Callable[[], bool], seconds: float, what: str, state: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DeadlineExceededError(what, seconds, state)
        time.sleep(_POLL_S)
