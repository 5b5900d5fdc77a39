"""Node: one serving node of a cluster as a program: `python -m fondaco.cluster.node --platform DIR --dir DIR --name NAME [...]`.

It is the agent (`agent`), in the main process, which keeps two others running: the data plane over the node's own directory, and the tailer
of its overlays where the log is on this machine. So that no read waits behind the agent's work, the three share files and nothing else.
`--platform` is a platform's directory, or one with its fondaco.toml (`[catalog] url`) and its FONDACO marker on a machine of its own.

It prints its address once it is routed to. SIGTERM and SIGINT: the lease ends first, then readers have time to go elsewhere, then the
processes end: a rolling restart fails no read. A crash of any of the three is repaired by the agent; a crash of the agent ends the others,
and whoever started it starts it again: everything needed lies in the catalog and the directory.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fondaco.catalog import Catalog
from fondaco.cluster.agent import AgentSettings, NodeAgent, NodeIdentity
from fondaco.cluster.blob import BlobFolder, directory_blob
from fondaco.cluster.children import Child, HttpProbe
from fondaco.cluster.directory import NodeDirectory
from fondaco.cluster.peers import FileServer
from fondaco.cluster.writes import IndexedWrites
from fondaco.core.config import load_config
from fondaco.core.errors import InputError, NotAPlatformError
from fondaco.core.ids import check_name
from fondaco.core.program import run_program
from fondaco.dataplane.binding import check_port_free, check_tls, is_loopback, url_of
from fondaco.store.log_handle import LOG_DIRECTORY

LEAVE_S: Final = 3.0  # from the end of the lease to the end of the server: until the others say so, and readers have asked them
STOP_S: Final = 15.0
_MARKER: Final = "FONDACO"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How a node is called.

    Attributes:
        platform: the directory whose catalog and configuration count. directory: the node's own.
        blob: where version files are; None: the platform's directory. advertise: the URL that others reach it by; None: host and port.
        files_host: where it gives version files to other nodes; None: on `host` if only this machine can reach that, else nowhere.
    """

    platform: Path
    directory: Path
    name: str
    zone: str = "default"
    cluster: str = "main"
    host: str = "127.0.0.1"
    port: int = 0
    blob: str | None = None
    advertise: str | None = None
    files_host: str | None = None
    settings: AgentSettings = field(default_factory=AgentSettings)


def run_node(options: NodeOptions, on_ready: Callable[[str], None], stop: threading.Event) -> None:
    """Run a node until `stop`; from the main thread.

    Args:
        on_ready: called with the node's address when it serves and is registered.
    Raises:
        NotAPlatformError, InputError: it cannot be called so. LockedError: the directory is another agent's.
        AlreadyExistsError: another live node has this name or address. Otherwise as `Catalog.open`.
    """
    for noun, name in (("node", options.name), ("zone", options.zone), ("cluster", options.cluster)):
        check_name(noun, name)
    platform, directory = options.platform.absolute(), NodeDirectory(options.directory.absolute())
    if not (platform / _MARKER).exists():
        raise NotAPlatformError(str(platform), f"it has no {_MARKER} file")
    if (directory.path / _MARKER).exists():
        raise InputError(f"{directory.path} is a platform; a node needs a directory of its own")
    config = load_config(platform)
    with contextlib.ExitStack() as stack:
        catalog = Catalog.open(platform, url=config.catalog.url, must_exist=True)
        stack.callback(catalog.close)
        directory.create(platform / LOG_DIRECTORY if config.log.kind == "embedded" else None)
        stack.enter_context(directory.lock)
        port = check_port_free(options.host, options.port, "--port")
        address = options.advertise or url_of(options.host, port, tls=check_tls(config.server) is not None)
        local = url_of(
            "127.0.0.1" if options.host in ("", "0.0.0.0", "::") else options.host, port, tls=check_tls(config.server) is not None
        )
        files_host = options.files_host or (options.host if is_loopback(options.host) else None)
        files = stack.enter_context(FileServer(directory.stores, host=files_host)) if files_host is not None else None
        probe, has_log = HttpProbe(local, timeout_s=max(0.2, options.settings.lease_s / 3)), config.log.kind == "embedded"
        writes = IndexedWrites(directory)

        def is_serving() -> bool:
            return probe() and (not has_log or writes.has_all())

        agent = NodeAgent(
            NodeIdentity(options.name, address, options.zone, options.cluster),
            directory,
            catalog,
            BlobFolder(options.blob) if options.blob is not None else directory_blob(platform),
            files=files,
            is_serving=is_serving,
            has_writes=lambda store: not has_log or writes.has(store),
            settings=options.settings,
        )
        children = _children(options, platform, directory, port, address, probe, has_log=has_log)
        _Node(agent, children).run(lambda: on_ready(address), is_serving, stop)


def _children(
    options: NodeOptions, platform: Path, directory: NodeDirectory, port: int, address: str, probe: HttpProbe, *, has_log: bool
) -> list[Child]:
    arguments = [str(directory.path), "--node", options.name, "--platform", str(platform), "--host", options.host, "--port", str(port)]
    children = [Child("serving", "fondaco.dataplane.serve", *arguments, "--advertise", address, probe=probe)]
    if has_log:
        children.append(Child("tailing", "fondaco.cluster.tailing", str(directory.path)))
    return children


class _Node:
    """Agent and children, run by one thread."""

    def __init__(self, agent: NodeAgent, children: Sequence[Child]) -> None:
        self._agent, self._children = agent, children

    def run(self, on_ready: Callable[[], None], is_serving: Callable[[], bool], stop: threading.Event) -> None:
        announced = False

        def tick() -> None:
            nonlocal announced
            for child in self._children:
                child.tick()
            if not announced and is_serving():
                self._agent.renew_lease()
                announced = True
                on_ready()

        try:
            self._agent.register()
            self._agent.reconcile()  # the routing table is there before somebody can ask for it
            self._agent.run(stop, tick)
        finally:
            self._agent.close()
            if announced:
                threading.Event().wait(LEAVE_S)
            for child in self._children:
                child.stop(STOP_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fondaco.cluster.node", description="One serving node of a cluster.")
    parser.add_argument("--platform", type=Path, required=True, help="the platform whose catalog and configuration count")
    parser.add_argument("--dir", type=Path, required=True, dest="directory", help="the node's own directory")
    parser.add_argument("--name", required=True)
    parser.add_argument("--zone", default="default")
    parser.add_argument("--cluster", default="main")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--blob", metavar="URL", help="where version files are, for fsspec; default: the platform's directory")
    parser.add_argument("--advertise", metavar="URL", help="how readers reach this node, if not by host and port")
    parser.add_argument("--files-host", metavar="HOST", help="where it gives version files to other nodes, on a network that is trusted")
    parser.add_argument("--lease", type=float, default=AgentSettings().lease_s, metavar="SECONDS", help="after which a dead node is out")
    parser.add_argument("--drain", type=float, default=AgentSettings().drain_s, metavar="SECONDS", help="time for readers to leave")
    given = vars(parser.parse_args(arguments))
    settings = AgentSettings(lease_s=given.pop("lease"), drain_s=given.pop("drain"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = NodeOptions(**given, settings=settings)
    return run_program(lambda: run_node(options, lambda address: print(f"node {options.name} on {address}", flush=True), stop))


if __name__ == "__main__":
    sys.exit(main())
