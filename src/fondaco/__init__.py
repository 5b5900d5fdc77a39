"""Fondaco: an AI/ML data platform in one package.

`fondaco.open(path)` opens a platform directory, `fondaco.connect(url)` one that is served elsewhere; everything else hangs on it. Names
are loaded when they are first used, so that importing the package takes milliseconds and brings in neither numba nor DuckDB nor SQLAlchemy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fondaco.core.version import VERSION

if TYPE_CHECKING:
    import ssl

    from fondaco import features, graph, schema
    from fondaco.core import errors
    from fondaco.platform import Platform
    from fondaco.remote import RemotePlatform, RemoteStore
    from fondaco.services.spec import ServiceSpec
    from fondaco.store import PushReport, Store

__version__ = VERSION

__all__ = [
    "Platform",
    "PushReport",
    "RemotePlatform",
    "RemoteStore",
    "ServiceSpec",
    "Store",
    "__version__",
    "connect",
    "errors",
    "features",
    "graph",
    "open",
    "schema",
]

_HOMES = {
    "Platform": ("fondaco.platform", "Platform"),
    "PushReport": ("fondaco.store.report", "PushReport"),
    "RemotePlatform": ("fondaco.remote", "RemotePlatform"),
    "RemoteStore": ("fondaco.remote", "RemoteStore"),
    "ServiceSpec": ("fondaco.services.spec", "ServiceSpec"),
    "Store": ("fondaco.store.store", "Store"),
    "errors": ("fondaco.core.errors", None),
    "features": ("fondaco.features", None),
    "graph": ("fondaco.graph", None),
    "schema": ("fondaco.schema", None),
}


def open(path: str | os.PathLike[str], *, create: bool = True) -> Platform:
    """Open the platform in a directory; an empty or new directory becomes one, unless `create` is False. See `Platform.open`.

    Raises:
        NotAPlatformError: the directory holds something else, or (not `create`) nothing. FormatVersionError: a newer Fondaco made it.
    """
    from fondaco.platform import Platform

    return Platform.open(path, create=create)


def connect(url: str | None = None, token: str | None = None, *, tls: ssl.SSLContext | None = None) -> RemotePlatform:
    """The platform behind a running `fondaco up` or node: the same names as `open` gives, over HTTP.

    Args:
        url: of the control API, as "http://127.0.0.1:7070"; or of a data-plane node, for reads and writes only. None: as FONDACO_URL says,
            which jobs get from the data service of a store.
        token: what an operator made with `fondaco token create`.
        tls: how to check an https server; None: by the certificates of the system.
    Raises:
        UnavailableError: nobody answers there. ProtocolError: somebody else does. AuthenticationError. InputError: no URL.
    """
    from fondaco.remote import RemotePlatform

    if url is None:
        url = os.environ.get("FONDACO_URL")
    if not url:
        from fondaco.core.errors import InputError

        raise InputError('fondaco.connect() needs a URL, as fondaco.connect("http://127.0.0.1:7070"), or the variable FONDACO_URL')
    return RemotePlatform(url, token, tls=tls)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    return __all__
