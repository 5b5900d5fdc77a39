"""Endpoints: from what a program knows (addresses, a directory, its environment) to a graph that it can ask.

    FONDACO_GRAPH_ENDPOINTS   "host:port,host:port": servers, or `unix:/path`; any of them is an entry. Or a platform's directory
    FONDACO_GRAPH_NAME        which graph, where servers or a directory hold several, or to be sure
    FONDACO_GRAPH_VERSION     stay on this version
    FONDACO_GRAPH_TOKEN       who asks, where servers want to know; or FONDACO_GRAPH_TOKEN_FILE: the file in which that stands

A data service sets them for the jobs that it feeds, so that a script says `fd.graph.connect()` and runs anywhere.
"""

from __future__ import annotations

import importlib
import operator
import os
import pickle
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import GraphNotFoundError, InputError
from fondaco.graph.graph import Graph
from fondaco.graph.service.remote import TIMEOUT_S, RemoteGraph

if TYPE_CHECKING:
    from fondaco.graph.handle import GraphHandle

ENDPOINTS: Final = "FONDACO_GRAPH_ENDPOINTS"
NAME: Final = "FONDACO_GRAPH_NAME"
VERSION: Final = "FONDACO_GRAPH_VERSION"
TOKEN: Final = "FONDACO_GRAPH_TOKEN"
TOKEN_FILE: Final = "FONDACO_GRAPH_TOKEN_FILE"
CERTIFICATE: Final = "FONDACO_GRAPH_CA"


def connect(
    endpoints: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    graph: str | None = None,
    version: int | None = None,
    timeout_s: float | None = TIMEOUT_S,
    shared_memory: bool = True,
    unix: bool = True,
    token: str | None = None,
    tls: ssl.SSLContext | str | os.PathLike[str] | None = None,
) -> Graph:
    """A graph to ask: behind servers, or in a platform's directory.

    Args:
        endpoints: "host:port" of one server, several of them in one text with commas or in a list; any server of the graph will do, it
            names the others. Or the directory of a platform, which is then read in this process. None: as `FONDACO_GRAPH_ENDPOINTS` says.
        graph: its name; None: as `FONDACO_GRAPH_NAME` says, else the only one there is.
        version: stay on it; None: as `FONDACO_GRAPH_VERSION` says, else the current one, whatever that is at each call.
        timeout_s: of calls that do not say; None: they wait as long as it takes.
        shared_memory: take answers of a server on this machine through shared memory. unix: go to it over its Unix socket.
        token: default: as `FONDACO_GRAPH_TOKEN` or the file named by `FONDACO_GRAPH_TOKEN_FILE` says.
        tls: how to check a server: a file of certificates (PEM) to trust, or a context of yours, with which the graph cannot be pickled;
            None: the file that `FONDACO_GRAPH_CA` names, else no TLS.
    Raises:
        InputError: no address, or one that is none. UnavailableError, DeadlineExceededError: no server answers. GraphNotFoundError,
        VersionNotFoundError, AuthenticationError, PermissionDeniedError.
    """
    given = os.environ.get(ENDPOINTS) if endpoints is None else endpoints
    if given is None or (isinstance(given, (str, Sequence)) and not given):
        raise InputError(
            f'which graph? Say fondaco.graph.connect("host:port"), give a platform\'s directory, or set {ENDPOINTS}=host:port,... '
            "(`fondaco graph serve NAME` prints its address)"
        )
    graph = os.environ.get(NAME) or None if graph is None else graph
    version = _version_of_environment() if version is None else _checked(version)
    if isinstance(given, os.PathLike) or (isinstance(given, str) and _is_directory(given)):
        return _open(Path(given), graph, version)
    tls = os.environ.get(CERTIFICATE) or None if tls is None else tls
    _check(graph, tls)
    addresses = _addresses(given)
    remote = RemoteGraph(
        addresses,
        graph=graph,
        version=version,
        timeout_s=timeout_s,
        shared_memory=shared_memory,
        unix=unix,
        token=token_of_environment() if token is None else token,
        tls=tls,
    )
    try:
        _ = remote.info  # so that what is wrong shows here
    except BaseException:
        remote.close()
        raise
    return remote


def token_of_environment() -> str | None:
    """The token that this process was given for graph servers, if any.

    Raises:
        InputError: the file that shall hold it cannot be read, or is empty.
    """
    path = os.environ.get(TOKEN_FILE)
    if os.environ.get(TOKEN) or not path:
        return os.environ.get(TOKEN) or None
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{TOKEN_FILE}={path}: {exc.strerror if isinstance(exc, OSError) else 'it holds no token'}") from exc
    if not token:
        raise InputError(f"{TOKEN_FILE}={path}: it is empty")
    return token


def _version_of_environment() -> int | None:
    text = os.environ.get(VERSION)
    if not text:
        return None
    if not text.isdecimal() or not int(text):
        raise InputError(f"{VERSION}={text!r} is no version; it is a whole number, as 3")
    return int(text)


def _checked(version: int) -> int:
    try:
        number = 0 if isinstance(version, bool) else operator.index(version)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"version is a whole number from 1 on, or None: the current one; not {version!r}")
    return number


def _check(graph: object, tls: object) -> None:
    if graph is not None and not isinstance(graph, str):
        raise InputError(f"graph is a name, not {graph!r}")
    if tls is not None and not isinstance(tls, (ssl.SSLContext, str, os.PathLike)):
        raise InputError(
            f"tls is a file of certificates, or an ssl.SSLContext as ssl.create_default_context(cafile=...) makes one, not {tls!r}"
        )


def _addresses(given: object) -> list[str]:
    if isinstance(given, str):
        return [part for part in given.split(",") if part.strip()]
    addresses: list[Any] = list(given) if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)) else [given]
    for address in addresses:
        if not isinstance(address, str):
            raise InputError(f'{address!r} is no address of a graph server; write it as text, host:port, as "127.0.0.1:7080"')
    return addresses


def _is_directory(text: str) -> bool:
    """Whether it means a path; a path that is not there is told from an address by its slashes, or its lack of a port."""
    if text.startswith("unix:") or "://" in text:
        return False
    return Path(text).is_dir() or os.sep in text or ":" not in text


def _open(directory: Path, graph: str | None, version: int | None) -> GraphHandle:
    from fondaco.graph.layout import GRAPHS_DIRECTORY

    # Found by name: the platform stands above the graphs.
    platform: Any = importlib.import_module("fondaco.platform")
    with platform.Platform.open(directory, create=False) as opened:
        names = opened.graphs()
        if graph is None and len(names) != 1:
            raise (
                GraphNotFoundError("", names, str(directory))
                if not names
                else InputError(f"{directory / GRAPHS_DIRECTORY} holds the graphs {', '.join(names)}; say which with graph= or {NAME}")
            )
        handle: GraphHandle = opened.graph(names[0] if graph is None else graph, version=version)
        with handle:
            by_itself: GraphHandle = pickle.loads(pickle.dumps(handle))  # a handle that arrives anywhere needs no open platform
            return by_itself
