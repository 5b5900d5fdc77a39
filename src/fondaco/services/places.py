"""Places: the clusters of a platform's configuration, which of them may run a spec, and the provisioner of each, opened when first needed.

Any thread. A provisioner is not carried over a fork: the child opens its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fondaco.core.config import ClusterConfig, ServicesConfig
from fondaco.core.errors import FondacoError, InputError, NotFoundError
from fondaco.services.provisioner import Observed, Provisioner
from fondaco.services.settings import Placement

LOCAL = "local"
_AT_ONCE: Final = 16


class ClusterNotFoundError(NotFoundError):
    """The configuration has no cluster of this name."""

    noun = "cluster"


def configured(config: ServicesConfig) -> dict[str, ClusterConfig]:
    """The clusters by name, in the order in which they are tried; "local" is there in any case."""
    return ({} if LOCAL in config.clusters else {LOCAL: ClusterConfig()}) | config.clusters


class Places:
    """The clusters, and their provisioners."""

    def __init__(self, config: ServicesConfig, open_provisioner: Mapping[str, Callable[[], Provisioner]]) -> None:
        """
        Args:
            open_provisioner: by cluster; called at most once in a process.
        """
        self._config = config
        self._clusters = configured(config)
        self._openers = open_provisioner
        self._opened: dict[str, Provisioner] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def names(self) -> list[str]:
        """Every cluster, in order."""
        return list(self._openers)

    def candidates(self, placement: Placement) -> list[str]:
        """The clusters that a new service may go to, the first choice first.

        Raises:
            ClusterNotFoundError: none of that name; suggests the nearest. InputError: none has these labels; names what there is.
        """
        if placement.cluster is not None or not placement.labels:
            name = placement.cluster if placement.cluster is not None else self._config.default
            if name not in self._openers:
                where = "" if placement.cluster is not None else "fondaco.toml ([services] default)"
                raise ClusterNotFoundError(name, self.names(), where)
            return [name]
        chosen = [
            name for name in self._openers if name in self._clusters and placement.labels.items() <= self._clusters[name].labels.items()
        ]
        if not chosen:
            there_are = "; ".join(f"{name}: {cluster.labels}" for name, cluster in self._clusters.items() if cluster.labels)
            raise InputError(
                f"placement.labels: no cluster has {placement.labels}; there are: {there_are or 'none with labels'} "
                "(fondaco.toml, [services.clusters.NAME] labels)"
            )
        return chosen

    def provisioner(self, cluster: str) -> Provisioner:
        """The provisioner of a cluster.

        Raises:
            ClusterNotFoundError: it is not configured (any more). UnavailableError, InputError: it cannot be opened.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._opened = os.getpid(), {}
            if cluster not in self._opened:
                if cluster not in self._openers:
                    raise ClusterNotFoundError(cluster, self.names(), "fondaco.toml ([services.clusters])")
                self._opened[cluster] = self._openers[cluster]()
            return self._opened[cluster]

    def observe_all(self, clusters: Iterable[str]) -> dict[str, Mapping[str, Observed] | FondacoError]:
        """What runs in each, asked at the same time: one that hangs keeps nobody waiting for another. Or why that could not be seen."""

        def look(cluster: str) -> Mapping[str, Observed] | FondacoError:
            try:
                return self.provisioner(cluster).observe_all()
            except FondacoError as exc:
                return exc

        names = list(clusters)
        if len(names) < 2:
            return {name: look(name) for name in names}
        with ThreadPoolExecutor(min(len(names), _AT_ONCE), "fondaco-look") as pool:
            return dict(zip(names, pool.map(look, names), strict=True))

    def close(self) -> None:
        """Close what was opened here; services go on."""
        with self._lock:
            opened, self._opened = (self._opened if self._pid == os.getpid() else {}), {}
        for provisioner in opened.values():
            provisioner.close()
