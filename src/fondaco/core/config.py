"""Configuration: `fondaco.toml` in the platform's directory, a dozen settings with defaults that were measured or argued for.

A key that is not known, or a value of the wrong type, is refused with its path: a misspelt setting must not be a silent default.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from fondaco.core.errors import InputError

CONFIG_FILE = "fondaco.toml"


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: defaults of new stores and bounds of pushes."""

    partitions: int = 8
    compression: str = "auto"
    rewind: str = "24h"
    keep: int = 2
    batch_bytes: int = 16 << 20  # rows of a push in flight at once; the memory bound of store/builder.py counts it
    sample_bytes: int = 32 << 20  # head of a push, kept to train the dictionary and to choose the compression


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: where real-time writes go. `kind` is "embedded" (segments in the platform's directory) or "kafka"."""

    kind: str = "embedded"
    durability: str = "os"  # of writers that do not say: "os" survives the process, "disk" is synced before it is acknowledged
    segment_bytes: int = 64 << 20
    retention: str | None = None  # of topics of stores; None: as long as a version's window needs it. Shorter than `rewind` is refused.
    bootstrap: str | None = None  # kafka: "host:port,host:port"
    options: dict[str, str] = {}  # kafka: passed to librdkafka, as {"security.protocol": "SASL_SSL", ...}


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: the data plane and the control API of `fondaco up`."""

    host: str = "127.0.0.1"
    port: int = 7071  # data plane
    control_port: int = 7070
    request_bytes_max: int = 64 << 20
    batch_keys_max: int = 100_000
    connections_max: int = 4096
    idle_s: float = 60.0  # a connection that sends nothing for so long is closed
    header_s: float = 10.0  # and one whose request does not become complete
    certificate: str | None = None  # PEM files; both or none
    private_key: str | None = None
    push_bytes_max: int = 64 << 30  # body of a push through the control API, spooled to disk
    require_token: bool = False  # True by itself on an address that others can reach


class CatalogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[catalog]`: where names and versions are kept. `url` as "postgresql://user@host:5432/database"; None: SQLite in the directory."""

    url: str | None = None


class GovernorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[governor]`: pushes give way when freshness or reads are at risk."""

    enabled: bool = True
    read_p99_ms: float = 10.0  # of served single gets; above it a build slows down
    slowest: float = 0.05  # share of its full speed below which a build is not slowed further


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[services.clusters.NAME]`: a place where data services run. All but `kind` and `labels` is Kubernetes'.

    `image`, `volumes`, `env` and `secrets` are given to services that serve a graph or a store, unless their spec has its own; `python` and
    `directory` are what {python} and {directory} mean in a command there.
    """

    kind: Literal["local", "kubernetes"] = "local"
    labels: dict[str, str] = {}  # what `placement.labels` of a spec asks for
    context: str | None = None  # of the kubeconfig; None: its current one, or the cluster this process runs in
    kubeconfig: str | None = None  # None: KUBECONFIG, else ~/.kube/config, else in the cluster
    namespace: str = "default"
    image: str | None = None
    python: str = "python3"
    directory: str = "/var/lib/fondaco"
    volumes: tuple[dict[str, Any], ...] = ()  # as in a spec: {path = "/var/lib/fondaco", claim = "fondaco"}
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    domain: str | None = None  # endpoints are <pod>.<service>.<namespace>.svc[.<domain>]
    log_url: str | None = None  # a template for people: "https://logs/{namespace}/{pod}"


class ServicesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[services]`: where data services run. The cluster "local" (processes of this machine) is there without being configured."""

    default: str = "local"  # for specs without a placement
    reap_s: float = 5.0  # between two looks for services whose time is over
    lease: str = "60s"  # of jobs that do not say; renewed three times in that time
    owner: str | None = None  # whose a service is, where platforms share a cluster; None: one of this platform's own
    clusters: dict[str, ClusterConfig] = {}  # in the order in which they are tried


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    store: StoreConfig = msgspec.field(default_factory=StoreConfig)
    log: LogConfig = msgspec.field(default_factory=LogConfig)
    server: ServerConfig = msgspec.field(default_factory=ServerConfig)
    catalog: CatalogConfig = msgspec.field(default_factory=CatalogConfig)
    governor: GovernorConfig = msgspec.field(default_factory=GovernorConfig)
    services: ServicesConfig = msgspec.field(default_factory=ServicesConfig)


def load_config(directory: Path) -> Config:
    """Read `fondaco.toml` of a platform directory; an absent file means defaults.

    Raises:
        InputError: not TOML, an unknown key, or a value of the wrong type; the message names the path.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        return Config()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise InputError(f"{path}: {exc}") from exc
