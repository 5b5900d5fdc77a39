"""Place: what the configuration says of one cluster and no spec knows: where {directory} is, which image has Fondaco, how DNS is called."""

from __future__ import annotations

from typing import Any

import msgspec

from fondaco.services.settings import Volume

Object = dict[str, Any]  # an object of Kubernetes as JSON carries it

MANAGER = "fondaco"  # of fields, and of objects (label app.kubernetes.io/managed-by)
NAME, INSTANCE, MANAGED_BY = "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"
PREFIX = "fondaco.dev/"
INCARNATION, IDENTITY, PLATFORM = PREFIX + "incarnation", PREFIX + "identity", PREFIX + "platform"
SPEC, REPLICAS, APPLIED = PREFIX + "spec", PREFIX + "replicas", PREFIX + "applied"
PORT_FIRST = 7080  # of ports that a spec leaves open


class Place(msgspec.Struct, frozen=True):
    """One namespace of one cluster, and what services find there. Attributes as the arguments of `KubernetesProvisioner`."""

    cluster: str
    namespace: str
    platform: str = "default"
    image: str | None = None
    python: str = "python3"
    directory: str = "/var/lib/fondaco"
    volumes: tuple[Volume, ...] = ()
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    domain: str | None = None
    log_url: str | None = None

    @property
    def selector(self) -> str:
        """Of everything of ours here."""
        return f"{MANAGED_BY}={MANAGER},{PLATFORM}={self.platform}"

    def host(self, service: str, pod: str) -> str:
        """The name by which DNS knows a pod."""
        return f"{pod}{self.host_suffix(service)}"

    def host_suffix(self, service: str) -> str:
        """What follows a pod's name in its host name."""
        return f".{service}.{self.namespace}.svc" + (f".{self.domain}" if self.domain else "")


def pod_name(service: str, index: int) -> str:
    return f"{service}-{index}"


def selected_by(service: str, incarnation: int) -> dict[str, str]:
    """The labels by which the objects of one service find its pods; they never change while it lives."""
    return {INSTANCE: service, INCARNATION: str(incarnation)}
