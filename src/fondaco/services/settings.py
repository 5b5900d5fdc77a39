"""Settings: the parts of a spec: resources, readiness, volumes, placement, what only Kubernetes knows, what is served. Plain values; `spec`
checks them as a whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one instance is given (`requests`) and may not exceed (`limits`), in Kubernetes' quantities: cpu "500m" or 2, memory "2Gi".

    Keys: "cpu", "memory", "ephemeral-storage", and devices as "nvidia.com/gpu" (whole numbers; a limit of a device is its request).
    """

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Readiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an instance is asked whether it can do its work; exactly one of `http`, `tcp`, `command`. Without any: its process runs.

    Attributes:
        http: path that is answered with 200 to 399. tcp: True: the port takes connections. command: ends with 0; run beside the process.
        port: name of the port asked; None: the first.
        every_s, timeout_s: between two questions; for one answer. start_s: it has failed if it was not ready by then.
        hang_s: without an answer for so long after it was ready, it is started again; None: never for that reason.
    """

    http: str | None = None
    tcp: bool = False
    command: tuple[str, ...] = ()
    port: str | None = None
    every_s: Seconds = 1.0
    timeout_s: Seconds = 5.0
    start_s: Seconds = 600.0
    hang_s: Seconds | None = 60.0


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A folder that instances see at `path`; exactly one source.

    Attributes:
        path: absolute, where the process sees it. Locally nothing is mounted: `host` must be the same path, the others are refused,
            except `empty`, which is made.
        claim: a PersistentVolumeClaim. host: a folder of the machine. secret, config: of the namespace. empty: scratch, gone with the pod;
            True, or a size as "10Gi".
    """

    path: str
    claim: str | None = None
    host: str | None = None
    secret: str | None = None
    config: str | None = None
    empty: bool | str | None = None
    read_only: bool = True


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a service may run. Neither: on the default cluster. `labels`: on any cluster that has all of these, in the configured order."""

    cluster: str | None = None
    labels: dict[str, str] = {}


class PodSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What only Kubernetes knows; other provisioners leave it alone.

    Attributes:
        template: merged into the pod template last, as a strategic merge would (lists of named things by name), for all that has no name
            here; e.g. {"spec": {"hostNetwork": True}}. `selector` labels and the names of our containers cannot be changed by it.
        security: merged into the container's security context; the default drops all capabilities, runs as uid 1000, not root, with a
            read-only root and RuntimeDefault seccomp.
        spread: "prefer" (default) or "require" instances on different nodes, or "none".
        disruption: how many instances a voluntary disruption may take at once (maxUnavailable); 0: none; None: no budget.
        publish_unready: whether DNS names instances before they are ready, so that they find each other while they start.
    """

    service_account: str | None = None
    pull_secrets: tuple[str, ...] = ()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = {}
    priority_class: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    security: dict[str, Any] = {}
    spread: Literal["prefer", "require", "none"] = "prefer"
    disruption: int | None = 1
    publish_unready: bool = True
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30
    template: dict[str, Any] = {}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a ready-made service serves. `version` None: the one that is current when the service is ensured, which then is in its identity;
    `follow`: whichever is current, at any time."""

    kind: Literal["graph", "store"]
    name: str
    version: int | None = None
    follow: bool = False
