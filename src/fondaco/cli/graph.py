"""`fondaco graph ...`: build, look at, ask, serve and steer graphs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table
from fondaco.core.errors import InputError
from fondaco.core.units import format_bytes

if TYPE_CHECKING:
    from fondaco.graph.answers import HeteroSubgraph, Subgraph
    from fondaco.graph.schema import EdgeType, GraphSchema, NodeType


@click.group("graph", cls=SuggestingGroup)
def command() -> None:
    """Build, list, serve and steer graphs: versions, swap, rollback, samples."""


@command.command("build")
@click.argument("name")
@click.option(
    "--nodes",
    "nodes",
    multiple=True,
    metavar="TYPE=PATH",
    help="a node table: Parquet or CSV, a file or a folder; repeatable, also for one type",
)
@click.option(
    "--edges", "edges", multiple=True, required=True, metavar="SRC/RELATION/DST=PATH", help="an edge table; repeatable, also for one type"
)
@click.option("--partitions", type=click.IntRange(1, 4096), default=1, show_default=True, help="how finely it can be shared out to servers")
@click.option(
    "--directions", type=click.Choice(["out", "in", "both"]), default="out", show_default=True, help="which neighbours are stored"
)
@click.option("--undirected", is_flag=True, help="add each edge's mirror")
@click.option("--memory", default="1GiB", show_default=True, help="for buffers and sorting; the rest goes through temporary files")
@click.option("--keep", type=click.IntRange(1, 100), help="versions to keep, the current one included [default: 2]")
@click.option("--no-swap", is_flag=True, help="leave the version before current; swap to the new one later")
@directory_option
@json_option
def build(
    name: str,
    nodes: tuple[str, ...],
    edges: tuple[str, ...],
    partitions: int,
    directions: Literal["out", "in", "both"],
    undirected: bool,
    memory: str,
    keep: int | None,
    no_swap: bool,
    directory: str,
    as_json: bool,
) -> None:
    """Build a version of graph NAME from tables.

    A node table has a column `id` (or its first column), an edge table `src` and `dst` (or its first two); `weight` and `time` mean
    themselves, every other column is a feature. A node type without a table has the ends of its edges as nodes.
    """
    node_tables = _by_type(_named_path(text, "--nodes", "TYPE=PATH") for text in nodes)
    edge_tables = _by_type(_named_path(text, "--edges", "SRC/RELATION/DST=PATH") for text in edges)
    with fondaco.open(directory) as platform:
        report = platform.build_graph(
            name,
            nodes=node_tables,
            edges={_edge_key(key): table for key, table in edge_tables.items()},
            partitions=partitions,
            directions=directions,
            undirected=undirected,
            memory=memory,
            swap=not no_swap,
            keep=keep,
        )
    if as_json:
        print_json(report)
        return
    click.echo(str(report))


def _named_path(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"{option} wants {form}, not {text!r}")
    return name, path


def _by_type(named: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Paths by type; several of one type are one table."""
    found: dict[str, list[str]] = {}
    for name, path in named:
        found.setdefault(name, []).append(path)
    return {name: paths[0] if len(paths) == 1 else paths for name, paths in found.items()}


def _edge_key(text: str) -> tuple[str, str, str]:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise InputError(f"an edge type is SRC/RELATION/DST, as in person/knows/person, not {text!r}")
    return parts[0], parts[1], parts[2]


@command.command("list")
@directory_option
@json_option
def list_graphs(directory: str, as_json: bool) -> None:
    """List the graphs with their current versions."""
    with fondaco.open(directory, create=False) as platform:
        described = [platform.graph_versions(name).describe() for name in platform.graphs()]
    if as_json:
        print_json(described)
        return
    rows = [
        (graph["name"], graph["current"], sum(graph["nodes"].values()), sum(graph["edges"].values()), format_bytes(graph["bytes"]))
        for graph in described
    ]
    print_table(("name", "current", "nodes", "edges", "bytes"), rows)


@command.command("show")
@click.argument("name")
@directory_option
@json_option
def show(name: str, directory: str, as_json: bool) -> None:
    """Show graph NAME: its types, features and counts."""
    with fondaco.open(directory, create=False) as platform:
        graph = platform.graph_versions(name)
        described, schema = graph.describe(), graph.manifest().schema
    if as_json:
        print_json(described)
        return
    divided = f"{described['partitions']} partition{'s' if described['partitions'] != 1 else ''}"
    click.echo(f"{name}: v{described['current']}, {divided}, {format_bytes(described['bytes'])}")
    rows: list[tuple[object, ...]] = [
        ("node", node.name, described["nodes"][node.name], f"{node.id} ids", _features(node)) for node in schema.nodes
    ]
    rows += [("edge", edge.name, described["edges"][edge.name], " and ".join(edge.directions), _features(edge)) for edge in schema.edges]
    print_table(("", "type", "count", "", "features"), rows)


def _features(kind: NodeType | EdgeType) -> str:
    """`x float32 [128], name bytes; weighted, timed`."""
    told = []
    for feature in kind.features:
        shape = f" {list(feature.shape)}" if feature.shape else ""
        source = f" of store {feature.store}" if feature.store else ""
        told.append(f"{feature.name} {feature.dtype or feature.kind}{shape}{source}")
    marks = [mark for mark in ("weighted", "timed") if getattr(kind, mark)]
    return "; ".join(part for part in (", ".join(told), ", ".join(marks)) if part)


@command.command("versions")
@click.argument("name")
@directory_option
@json_option
def versions(name: str, directory: str, as_json: bool) -> None:
    """List the versions of graph NAME, newest last."""
    with fondaco.open(directory, create=False) as platform:
        listed = platform.graph_versions(name).versions()
    if as_json:
        print_json(listed)
        return
    rows = [(v.version, v.state, v.nodes, v.edges, format_bytes(v.bytes), v.created.isoformat(" ", "seconds")) for v in listed]
    print_table(("version", "state", "nodes", "edges", "bytes", "created"), rows)


@command.command("swap")
@click.argument("name")
@click.argument("version", type=int)
@directory_option
def swap(name: str, version: int, directory: str) -> None:
    """Make VERSION of graph NAME the current one."""
    with fondaco.open(directory, create=False) as platform:
        graph = platform.graph_versions(name)
        before = graph.current
        graph.swap(version)
    click.echo(f"{name}: current is v{version}" + (f", was v{before}" if before else ""))


@command.command("rollback")
@click.argument("name")
@directory_option
def rollback(name: str, directory: str) -> None:
    """Return graph NAME to the version before."""
    with fondaco.open(directory, create=False) as platform:
        graph = platform.graph_versions(name)
        before = graph.current
        after = graph.rollback()
    click.echo(f"{name}: current is v{after}, was v{before}")


@command.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="do not ask")
@directory_option
def delete(name: str, yes: bool, directory: str) -> None:
    """Delete graph NAME with all its versions."""
    with fondaco.open(directory, create=False) as platform:
        graph = platform.graph_versions(name)
        if not yes:
            click.confirm(f"delete graph {name} with {len(graph.versions())} versions?", abort=True, err=True)
        platform.delete_graph(name)
    click.echo(f"{name}: deleted")


@command.command("serve")
@click.argument("name")
@click.option("--shard", default="0/1", show_default=True, metavar="I/N", help="which share of the partitions")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=7080, show_default=True, help="0: any free one")
@click.option("--unix", default="auto", show_default=True, metavar="PATH|@NAME|auto|none", help="Unix socket for clients on this machine")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="answer /metrics, /health and /ready over HTTP; 0: on any free port")
@click.option("--peers", default="", metavar="HOST:PORT,...", help="servers that do not stand in the platform's run directory")
@click.option("--version", type=click.IntRange(1), help="serve this version [default: the current one, whatever it is]")
@click.option("--advertise", metavar="HOST:PORT", help="how others reach this server")
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="gets the address once the server is ready")
@click.option("--no-shared-memory", is_flag=True, help="answer clients on this machine through the socket, too")
@directory_option
def serve(
    name: str,
    shard: str,
    host: str,
    port: int,
    unix: str,
    metrics_port: int | None,
    peers: str,
    version: int | None,
    advertise: str | None,
    ready_file: Path | None,
    no_shared_memory: bool,
    directory: str,
) -> None:
    """Serve graph NAME, or one shard of it, until Ctrl-C. Trainers reach it by FONDACO_GRAPH_ENDPOINTS=HOST:PORT."""
    import logging

    from fondaco.graph.serve import Options, parse_shard, ready_line, serve

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    named = tuple(part for part in peers.split(",") if part.strip())
    options = Options(
        Path(directory), name, parse_shard(shard), host, port, unix, metrics_port, named, version, advertise, ready_file,
        not no_shared_memory,
    )  # fmt: skip
    serve(options, lambda serving: click.echo(ready_line(serving)))


@command.command("sample")
@click.argument("name")
@click.argument("seeds", nargs=-1, required=True)
@click.option("--fan-outs", default="15,10", show_default=True, help="neighbours a node, hop by hop; -1 is all")
@click.option("--node-type", help="of the seeds, where the graph has several")
@click.option("--seed", type=int, default=0, show_default=True, help="of the draws")
@directory_option
@json_option
def sample(name: str, seeds: tuple[str, ...], fan_outs: str, node_type: str | None, seed: int, directory: str, as_json: bool) -> None:
    """Sample the neighbourhood of SEEDS in graph NAME and print its edges."""
    try:
        hops = [int(part) for part in fan_outs.split(",")]
    except ValueError:
        raise InputError(f"--fan-outs wants numbers as 15,10, not {fan_outs!r}") from None
    with fondaco.open(directory, create=False) as platform, platform.graph(name) as graph:
        kind = graph.schema.node(node_type) if node_type else graph.schema.nodes[0]
        if node_type is None and len(graph.schema.nodes) > 1:
            raise InputError(f"say the seeds' type with --node-type: {', '.join(node.name for node in graph.schema.nodes)}")
        ids = [_whole(text) for text in seeds] if kind.id == "long" else list(seeds)
        found = graph.sample(ids, hops, node_type=kind.name, seed=seed)
        edges = list(_edges_of(graph.schema, found))
    if as_json:
        print_json([{"edge_type": kind, "src": src, "dst": dst} for kind, src, dst in edges])
        return
    print_table(("edge type", "src", "dst"), [(kind, str(src), str(dst)) for kind, src, dst in edges])


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the nodes of this graph have whole numbers as ids, not {text!r}") from None


def _edges_of(schema: GraphSchema, found: Subgraph | HeteroSubgraph) -> Iterator[tuple[str, object, object]]:
    """(edge type, source, target) of every edge of a subgraph."""
    from fondaco.graph.answers import Subgraph

    for edge in schema.edges:
        if isinstance(found, Subgraph):
            index, src, dst = found.edge_index, found.nodes, found.nodes
        elif edge.key in found.edge_index:
            index, src, dst = found.edge_index[edge.key], found.nodes[edge.src], found.nodes[edge.dst]
        else:
            continue
        for first, second in index.T.tolist():
            yield edge.name, src[first], dst[second]
