"""Platform: one directory, opened; wires catalog, stores and graphs, and stands above every part but the command line.

The directory is ours if it holds the marker file FONDACO with a format we know. An empty or new directory becomes one; any other is
refused before anything is written. Where the directory cannot be written, reading works and every change raises ReadOnlyError.
Layout: docs/internals/ARCHITECTURE.md. A platform may be used from any thread and by any number of processes at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from fondaco.catalog import Catalog, StoreRow, VersionState, stores, versions
from fondaco.core.clock import Clock, SystemClock
from fondaco.core.config import CONFIG_FILE, ClusterConfig, Config, LogConfig, load_config
from fondaco.core.errors import AlreadyExistsError, FormatVersionError, InputError, NotAPlatformError, ReadOnlyError, StateError
from fondaco.core.files import os_errors, remove_tree, sync_directory, write_atomically
from fondaco.core.ids import check_name
from fondaco.core.runfile import find_run_file
from fondaco.store.context import StoreContext
from fondaco.store.layout import DELETED, StoreLayout, write_cell
from fondaco.store.log_handle import LOG_DIRECTORY, LogHandle, topic_of
from fondaco.store.mirror import write_mirror
from fondaco.store.names import DELETED_PREFIX, recover_names
from fondaco.store.recovery import recover_if_needed
from fondaco.store.settings import FRESHNESS_MS, StoreSettings, check_retention, check_settings
from fondaco.store.store import Store

if TYPE_CHECKING:
    from fondaco.features import Entity, FeatureColumns, FeatureRow, FeatureSet, Reason, TrainingSet
    from fondaco.graph.context import GraphContext
    from fondaco.graph.handle import GraphHandle
    from fondaco.graph.pacing import Pacing
    from fondaco.graph.registry import GraphRegistry
    from fondaco.graph.report import BuildReport
    from fondaco.graph.versions import GraphVersions
    from fondaco.log import Log
    from fondaco.services.manager import Services
    from fondaco.services.provisioner import Provisioner
    from fondaco.store.report import PushReport
    from fondaco.store.store_reader import StoreReader

MARKER_FILE: Final = "FONDACO"
PLATFORM_FORMAT: Final = 1
STORES_DIRECTORY: Final = "stores"
GRAPHS_DIRECTORY: Final = "graphs"
RESERVED_ENDING: Final = ".rt"  # `<store>.rt` is the topic of a store's real-time writes
_LOGGER = logging.getLogger(__name__)
_MAY_BE_THERE: Final = frozenset({CONFIG_FILE, "lost+found"})  # settings written before the first start; the root of a fresh file system


class _Marker(msgspec.Struct):
    format: Annotated[int, msgspec.Meta(ge=1)]


class Platform:
    """One platform directory. Close it when done, or use it as a context manager; `fondaco.open` makes it."""

    def __init__(self, directory: Path, config: Config, catalog: Catalog, clock: Clock) -> None:
        """Use `Platform.open`."""
        self.directory = directory
        self.config = config
        self.catalog = catalog
        self.clock = clock
        opener = functools.partial(open_log, config=config.log, clock=clock, read_only=catalog.read_only)
        self._log = LogHandle(directory / LOG_DIRECTORY, opener)
        self._services: Services | None = None
        self._services_lock = threading.Lock()
        self._reads_features = False  # whether there are readers of feature sets to close; DuckDB is not imported to find out

    def __reduce__(self) -> tuple[object, ...]:
        return Platform, (self.directory, self.config, self.catalog, self.clock)  # the catalog is opened again where it arrives

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = True, clock: Clock | None = None) -> Platform:
        """Open the platform in a directory; an empty or new one becomes a platform. What a crash left in its stores is put in order.

        Args:
            create: False refuses an empty or new directory.
        Raises:
            NotAPlatformError: the directory holds something else, or cannot be one; nothing was written.
            FormatVersionError: a newer Fondaco made it; nothing was changed.
            CorruptFileError: there are stores, and the catalog that explains them is missing or empty; nothing was touched.
            ReadOnlyError: it is new and cannot be written. InputError: a mistake in fondaco.toml.
        """
        try:
            directory = Path(path).absolute()
        except TypeError:
            raise InputError(f"a platform is a directory, named by its path, not by {path!r}") from None
        is_new = _check_marker(directory)
        if is_new and not create:
            state = "it is empty" if directory.exists() else "it does not exist"
            raise NotAPlatformError(
                str(directory), state, "Name one that Fondaco made, or make one (`fondaco.open(path)`, `fondaco store create`)."
            )
        read_only = not is_new and not os.access(directory, os.W_OK, effective_ids=True)
        config = load_config(directory)
        if is_new:
            _create(directory)
        holds_data = _holds_data(directory)  # before the catalog is looked at: it is there before any store or graph is
        catalog = Catalog.open(directory, url=config.catalog.url, read_only=read_only, must_exist=holds_data)
        platform = cls(directory, config, catalog, clock or SystemClock())
        try:
            if not read_only:
                platform._recover()
        except BaseException:
            platform.close()
            raise
        return platform

    def close(self) -> None:
        """Close the catalog, the log, and the readers behind `get` and `get_many`; release the leases of data services that this process
        renews. Readers and writers that you opened are yours to close; readers stay good until then."""
        if self._reads_features:
            from fondaco.features import close_readers

            close_readers(self)
        if self._services is not None:
            self._services.close()
        self._log.close()
        self.catalog.close()

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Platform {str(self.directory)!r}>"

    @property
    def read_only(self) -> bool:
        """Whether the directory cannot be written."""
        return self.catalog.read_only

    @property
    def log(self) -> Log:
        """The log that real-time writes go through: topics, partitions, offsets. Opened at the first use, closed with the platform."""
        return self._log.open()

    # -- stores ---------------------------------------------------------------------------------------------------------------------

    def create_store(
        self,
        name: str,
        key: object = "long",
        value: object = None,
        partitions: int | None = None,
        compression: str | None = None,
        rewind: str | timedelta | None = None,
        keep: int | None = None,
        *,
        ttl: str | timedelta | None = None,
        freshness_ms: int | None = None,
    ) -> Store:
        """Create a store, or return the one of this name if it was created alike.

        Args:
            key: "long", "int", "string", "bytes"; a record (Avro dict or JSON, or `pa.Schema`) for a key of several columns; one named key
                as `pa.Field` or `{"name": "member_id", "type": "long"}`. It never changes.
            value: schema of the rows: an Avro record as dict or JSON, or a `pa.Schema`.
            partitions: files of each version, 1 to 1024; more than a store's keys deserve cost time, fewer cost parallelism.
            compression: "auto" measures a sample of each push; "none"; "zstd".
            rewind: how far before a version's `as_of` real-time writes still apply, as "24h" or a timedelta.
            keep: versions to keep, the current one included.
                These four default to the configuration (8, "auto", "24h", 2).
            ttl: a row is absent so long after its last write (a pushed row: after its version's `as_of`); default: rows stay.
            freshness_ms: how soon a write is to be readable, at the 99th percentile (default 1000); pushes slow down when it is at risk.
                Settings that are left out are not compared with those of an existing store.
        Raises:
            AlreadyExistsError: the name is taken by a store that differs; names the difference.
            SchemaError, InputError: a schema or a setting is wrong. ReadOnlyError.
        """
        from fondaco.store.keys import KeyCodec
        from fondaco.store.overlay import Overlay
        from fondaco.store.values import value_codec, value_schema_json

        check_name("store", name)
        if name.endswith(RESERVED_ENDING):
            raise InputError(
                f"{name!r} cannot name a store: names that end in {RESERVED_ENDING!r} are those of the stores' real-time topics"
            )
        if value is None:
            raise InputError(f"store {name!r} needs value=, the schema of its rows: an Avro record, or a pyarrow.Schema")
        key_schema, value_schema = KeyCodec(key).to_json(), value_schema_json(value)
        value_codec(value_schema)
        defaults = self.config.store
        settings = check_settings(
            defaults.partitions if partitions is None else partitions,
            defaults.compression if compression is None else compression,
            defaults.rewind if rewind is None else rewind,
            defaults.keep if keep is None else keep,
            ttl,
            FRESHNESS_MS if freshness_ms is None else freshness_ms,
        )
        check_retention(name, self.config.log.retention, settings)
        given = {
            "partitions": partitions, "compression": compression, "rewind": rewind, "keep": keep, "ttl": ttl, "freshness_ms": freshness_ms,
        }  # fmt: skip
        chosen = [setting for setting, argument in given.items() if argument is not None]
        with self.catalog.write() as connection:
            row = stores.find(connection, name)
            if row is None:
                if not StoreLayout(self._stores / name).is_blank():
                    raise AlreadyExistsError(
                        "store", name, f"{self._stores / name} holds versions that the catalog does not know; move it away"
                    )
                row = stores.create(
                    connection,
                    name,
                    key_schema=key_schema,
                    value_schema=value_schema,
                    settings=msgspec.to_builtins(settings),
                    now_us=self.clock.now_us(),
                )
                self._remove_topic(name, leftover=True)
                # inside the transaction, so that whoever finds the name finds the directory; `_recover` removes one without a name
                layout = self._context(row).layout
                layout.create()
                write_mirror(layout.directory, row, stores.value_schemas(connection, row.id))
                Overlay.open(layout.overlay, self._log.directory, topic_of(name)).close()  # makes its cells, which readers map once
            else:
                known = [schema.schema for schema in stores.value_schemas(connection, row.id)]
                _check_same(row, known, key_schema, value_schema, settings, chosen)
        return Store(self._context(row))

    def store(self, name: str) -> Store:
        """The store called `name`.

        Raises:
            StoreNotFoundError: there is none; suggests the nearest name. InputError: not a name.
        """
        if not isinstance(name, str):
            raise InputError(f"a store is named by a text, not by {name!r}")
        with self.catalog.read() as connection:
            return Store(self._context(stores.get(connection, name)))

    def stores(self) -> list[str]:
        """Names of all stores, in order."""
        with self.catalog.read() as connection:
            return [row.name for row in stores.all_live(connection)]

    def delete_store(self, name: str) -> None:
        """Delete a store, all its versions and its real-time writes. Its version numbers are not given again, should a store of this name
        come back; its writes begin with none.

        Readers that have it open raise NoCurrentVersionError from then on.

        Raises:
            StoreNotFoundError; PushInProgressError: a push is at work, wait for it or kill it.
        """
        from fondaco.store.push import push_lock

        context = self._context(self.store(name)._context.row)
        trash = self._stores / f"{DELETED_PREFIX}{name}-{context.id}"
        with push_lock(context):
            with self.catalog.write() as connection:
                stores.check_live(connection, context.row)
                for version in versions.retained(connection, context.id):
                    versions.update(connection, context.id, version.number, state=VersionState.RETIRED)
                stores.delete(connection, context.id, now_us=self.clock.now_us())
                with os_errors(context.layout.directory):
                    os.rename(context.layout.directory, trash)
            write_cell(StoreLayout(trash).current_cell, DELETED)
            self._remove_topic(name)
        remove_tree(trash)

    # -- graphs ---------------------------------------------------------------------------------------------------------------------

    def build_graph(
        self,
        name: str,
        *,
        nodes: Mapping[str, object] | None = None,
        edges: Mapping[tuple[str, str, str], object] | None = None,
        partitions: int = 1,
        directions: Literal["out", "in", "both"] = "out",
        undirected: bool = False,
        keep: int | None = None,
        swap: bool = True,
        memory: int | str = "1GB",
        progress: bool | None = None,
    ) -> BuildReport:
        """Build a version of a graph from tables; the first one makes the graph. Nothing is visible before all of it is complete.

        Tables may be Arrow, pandas, Polars, record batches one after another, or paths of Parquet or CSV files, larger than memory. Their
        columns' names say what they are; `fondaco.graph.Nodes` and `Edges` say it precisely.

        Args:
            nodes: by type, a table with a column `id` (or else its first): whole numbers or texts; `weight`, `time`, and features: every
                other column. A type that is left out has the endpoints of its edges as nodes.
            edges: by (source type, relation, target type), a table with `src` and `dst` (or else its first two); else as for nodes.
            partitions: shares of the nodes, by hash, for servers to hold; no answer depends on it.
            directions: which way edges can be followed: "out" from their source, "in" from their target, "both".
            undirected: each edge leads both ways (its mirror is added), where both its types are one.
            keep: versions to keep, the current one included; None: as it is, 2 for a new graph.
            swap: make the version current once it is complete.
            memory: bytes for buffers and sorting, as "1GB"; what is larger goes through temporary files.
            progress: False: say nothing on stderr.
        Raises:
            GraphBuildError: a row that cannot be taken: table, row, column and why. InputError, SchemaError: tables that cannot be read.
            BuildInProgressError: another process builds. DiskFullError, ReadOnlyError. The current version stays what it was.
        """
        from fondaco.graph.build.version import build_graph_version
        from fondaco.graph.building import run_build

        if self.read_only:
            raise ReadOnlyError(str(self.directory))

        def build(context: GraphContext) -> BuildReport:
            with _GraphHome(self.directory, self).pacing(f"build {name}", progress is not False) as pacing:
                return run_build(
                    context,
                    lambda directory: build_graph_version(
                        directory,
                        nodes=nodes,
                        edges=edges,
                        partitions=partitions,
                        directions=directions,
                        undirected=undirected,
                        memory=memory,
                        on_step=pacing.step,
                        store_field=self._store_field,
                    ),
                    swap=swap,
                )

        return self._graphs.build(name, keep, build)

    def graph(self, name: str, *, version: int | None = None) -> GraphHandle:
        """The graph called `name`, answered in this process; close it, or use it as a context manager.

        Args:
            version: stay on this one, whatever becomes current; None: each call is answered from the current one.
        Raises:
            GraphNotFoundError: there is none; suggests the nearest name. VersionNotFoundError.
            CorruptFileError, FormatVersionError: the version cannot be read; names file and section.
        """
        self._graphs.get(name)
        from fondaco.graph.handle import GraphHandle

        return GraphHandle(_GraphHome(self.directory, self), name, version)

    def graph_versions(self, name: str) -> GraphVersions:
        """The versions of a graph, without opening any: which there are, swap, rollback, retire. `graph(name)` has the same methods.

        Raises:
            GraphNotFoundError: there is none; suggests the nearest name.
        """
        from fondaco.graph.versions import GraphVersions

        context = self._graphs.get(name)
        return GraphVersions(name, context.layout.directory, lambda: context, _GraphHome(self.directory, self).pacing)

    def graphs(self) -> list[str]:
        """Names of all graphs, in order."""
        return self._graphs.names()

    def delete_graph(self, name: str) -> None:
        """Delete a graph and all its versions. Its version numbers are not given again, should a graph of this name come back.

        Those who have it open read on with the call they make, and raise NoCurrentVersionError from then on.

        Raises:
            GraphNotFoundError; BuildInProgressError: a version is being built. ReadOnlyError.
        """
        self._graphs.delete(name)

    def _store_field(self, store: str, field: str) -> tuple[str, tuple[int, ...]]:
        """dtype and shape of a store's field as a feature of nodes."""
        from fondaco.graph.store_fields import feature_of_field

        return feature_of_field(store, self.store(store).value_schema, field)

    # -- features -------------------------------------------------------------------------------------------------------------------

    def training_set(
        self,
        feature_set: FeatureSet,
        labels: object,
        *,
        at: str,
        tz: str | None = None,
        memory_limit: str | None = None,
        threads: int | None = None,
    ) -> TrainingSet:
        """Join features to labels, each as of its label's time. Checked now, computed when it is asked for (`.to_arrow()`).

        Args:
            labels: an Arrow, pandas or Polars table, or a path of Parquet or CSV files; it holds the keys of the set's entities.
            at: the column of the labels' times. tz: their zone, if they have none.
            memory_limit, threads: of DuckDB, as "1GB".
        Raises:
            ColumnNotFoundError, NaiveTimestampError, DefinitionError: what cannot work, found before anything runs.
        """
        from fondaco import features

        return features.training_set(self, feature_set, labels, at=at, tz=tz, memory_limit=memory_limit, threads=threads)

    def publish(
        self, feature_set: FeatureSet, *, as_of: datetime | str | int | None = None, progress: bool | None = None
    ) -> list[PushReport]:
        """Compute every feature as of a moment (default: now) for every key known by then, and push one store per entity.

        Raises:
            as `features.publish`.
        """
        from fondaco import features

        return features.publish(self, feature_set, as_of=as_of, progress=progress)

    def get(self, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | str | int | None = None) -> FeatureRow:
        """The features of one row, from what was published: `platform.get(late, Plane("N14228"), Carrier("UA"))`.

        Args:
            entities: one of each entity of the set; or one mapping with all their fields.
            at: the moment to judge `max_age` at; default: now.
        Raises:
            as `features.OnlineReader.get`.
        """
        from fondaco import features

        self._reads_features = True
        return features.get(self, feature_set, *entities, at=at)

    def get_many(self, feature_set: FeatureSet, keys: object, *, at: datetime | str | int | None = None) -> FeatureColumns:
        """The features of many rows, as columns.

        Args:
            keys: entities, mappings, a mapping of columns, or a table: one row of keys each. at: as `get`.
        Raises:
            as `features.OnlineReader.get_many`.
        """
        from fondaco import features

        self._reads_features = True
        return features.get_many(self, feature_set, keys, at=at)

    def why(
        self, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | str | int | None = None
    ) -> dict[str, Reason]:
        """The source rows that make each feature what it is at a moment (default: now).

        `print(platform.why(late, Plane("N14228"))["seats"])` prints them.

        Raises:
            as `features.why`.
        """
        from fondaco import features

        return features.why(self, feature_set, *entities, at=at)

    # -- data services --------------------------------------------------------------------------------------------------------------

    @property
    def services(self) -> Services:
        """The platform's data services: `with platform.services.ensure(spec) as lease: ...`."""
        with self._services_lock:
            if self._services is None:
                self._services = _open_services(self)
            return self._services

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    @property
    def _stores(self) -> Path:
        return self.directory / STORES_DIRECTORY

    def _context(self, row: StoreRow) -> StoreContext:
        settings = msgspec.convert(row.settings, StoreSettings)
        return StoreContext(
            self.catalog, row, settings, StoreLayout(self._stores / row.name), self.config.store, self.clock, self._log,
            self.config.log, self.config.governor, functools.partial(_open_served, self.directory),
        )  # fmt: skip

    def _remove_topic(self, store: str, *, leftover: bool = False) -> None:
        """Delete the topic of a store's writes. A `leftover` one is of a store of this name whose deletion a crash cut short."""
        topic = topic_of(store)
        if self.config.log.kind == "embedded" and not (self._log.directory / topic).exists():
            return  # without opening the log, which most platforms never need
        if topic in self.log.topics():
            if leftover:
                _LOGGER.warning("topic %r was left by an earlier store of this name; it is deleted", topic)
            self.log.delete_topic(topic)

    def _recover(self) -> None:
        recover_names(self.catalog, self._stores, StoreLayout, self._live_stores)
        if (self.directory / GRAPHS_DIRECTORY).is_dir():
            self._graphs.recover()
        with self.catalog.read() as connection:
            rows = [(row, stores.value_schemas(connection, row.id)) for row in stores.all_live(connection)]
        for row, schemas in rows:
            context = self._context(row)
            recover_if_needed(context)
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                write_mirror(context.layout.directory, row, schemas)
            self._check_retention(context)

    def _check_retention(self, context: StoreContext) -> None:
        """Refuse a log that forgets what a version of the store still shows."""
        if self.config.log.retention is None:
            return
        with self.catalog.read() as connection:
            retained = versions.retained(connection, context.id)
        oldest_ms = min((row.as_of_us // 1000 for row in retained), default=None)
        window_ms = 0 if oldest_ms is None else self.clock.now_us() // 1000 - oldest_ms + context.settings.rewind_ms
        check_retention(context.name, self.config.log.retention, context.settings, window_ms)

    def _live_stores(self) -> dict[str, int]:
        with self.catalog.read() as connection:
            return {row.name: row.id for row in stores.all_live(connection)}

    @functools.cached_property
    def _graphs(self) -> GraphRegistry:
        from fondaco.graph.registry import GraphRegistry

        return GraphRegistry(self.directory, self.catalog, self.clock)


class _GraphHome:
    """The platform as a graph's handle needs it (`graph.handle.GraphHome`). Where a pickled one arrives, the platform is opened when it is
    first needed: answering from files needs none."""

    def __init__(self, directory: Path, platform: Platform | None = None) -> None:
        self.directory = directory
        self._opened = platform
        self._closes = platform is None

    def __reduce__(self) -> tuple[object, ...]:
        return _GraphHome, (self.directory,)

    @property
    def _platform(self) -> Platform:
        if self._opened is None:
            self._opened = Platform.open(self.directory, create=False)
        return self._opened

    def graph_context(self, name: str) -> GraphContext:
        return self._platform._graphs.get(name)

    def pacing(self, title: str, shown: bool) -> Pacing:
        from fondaco.graph.pacing import Pacing

        return Pacing(self.directory, self._platform.config.governor, self._platform.clock, title, shown=shown)

    def close(self) -> None:
        if self._closes and self._opened is not None:
            self._opened.close()

    def open_store(self, name: str) -> StoreReader:
        return self._platform.store(name).reader()


def _check_marker(directory: Path) -> bool:
    """Whether the directory is new (absent or empty); False if it is a platform of a format we know.

    Raises:
        NotAPlatformError, FormatVersionError.
    """
    with _possible(directory):
        if not directory.exists():
            return True
    if not directory.is_dir():
        raise NotAPlatformError(str(directory), "it is a file")
    marker = directory / MARKER_FILE
    if not marker.exists():
        with os_errors(directory):
            others = [entry for entry in os.listdir(directory) if entry not in _MAY_BE_THERE and not entry.startswith(f".{MARKER_FILE}.")]
        if others and not marker.exists():  # it may have come while we looked
            raise NotAPlatformError(str(directory), f"it has no {MARKER_FILE} file, but holds {sorted(others)[0]!r}")
        return not marker.exists()
    try:
        found = msgspec.json.decode(marker.read_bytes(), type=_Marker).format
    except msgspec.MsgspecError as exc:
        raise NotAPlatformError(str(directory), f"its {MARKER_FILE} file is not ours ({exc})") from exc
    if found > PLATFORM_FORMAT:
        raise FormatVersionError(str(directory), found, PLATFORM_FORMAT)
    return False


def _holds_data(directory: Path) -> bool:
    for name in (STORES_DIRECTORY, GRAPHS_DIRECTORY):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.listdir(directory / name):
                return True
    return False


@contextlib.contextmanager
def _possible(directory: Path) -> Iterator[None]:
    """Refuse a path that no directory can have: below a file, too long, in a file system of the kernel."""
    try:
        with os_errors(directory):
            yield
    except (OSError, ValueError) as exc:
        raise NotAPlatformError(str(directory), f"it cannot be made ({getattr(exc, 'strerror', None) or exc})") from exc


def _create(directory: Path) -> None:
    with _possible(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK, effective_ids=True):
            raise ReadOnlyError(str(directory))
        write_atomically(directory / MARKER_FILE, msgspec.json.encode(_Marker(PLATFORM_FORMAT)) + b"\n")
        (directory / STORES_DIRECTORY).mkdir(exist_ok=True)
        sync_directory(directory)


def open_log(directory: Path, *, config: LogConfig, clock: Clock, read_only: bool) -> Log:
    """Open the log that the configuration names.

    Args:
        directory: `<platform>/log`: its segments, or the mirror of a broker's partitions.
    Raises:
        InputError: no such kind of log. MissingExtraError: Kafka's client is not installed. UnavailableError: the broker does not answer.
    """
    if config.kind == "embedded":
        from fondaco.log import EmbeddedLog

        return EmbeddedLog(directory, clock=clock, read_only=read_only)
    if config.kind == "kafka":
        from fondaco.adapters.kafka import open_kafka_log

        return open_kafka_log(directory, config, clock)
    raise InputError(f'[log] kind is "embedded" or "kafka", not {config.kind!r}')


def _open_services(platform: Platform) -> Services:
    """The manager of a platform's data services, over the clusters that its configuration names."""
    from fondaco.services.manager import Services
    from fondaco.services.places import configured

    openers = {name: _opener(platform, name, cluster) for name, cluster in configured(platform.config.services).items()}
    return Services(platform.catalog, platform.config.services, platform.clock, openers)


def _opener(platform: Platform, name: str, cluster: ClusterConfig) -> Callable[[], Provisioner]:
    def open_local() -> Provisioner:
        from fondaco.services.local.provisioner import LocalProvisioner

        return LocalProvisioner(platform.directory, cluster=name)

    def open_kubernetes() -> Provisioner:
        from fondaco.adapters.kubernetes import KubernetesProvisioner
        from fondaco.services.owner import owner_of

        return KubernetesProvisioner(
            name,
            context=cluster.context,
            kubeconfig=cluster.kubeconfig,
            namespace=cluster.namespace,
            platform=owner_of(platform.directory, platform.config),
            image=cluster.image,
            python=cluster.python,
            directory=cluster.directory,
            volumes=cluster.volumes,
            env=cluster.env,
            secrets=cluster.secrets,
            domain=cluster.domain,
            log_url=cluster.log_url,
        )

    return open_local if cluster.kind == "local" else open_kubernetes


def _open_served(directory: Path, tier: str, store: str, schema: object) -> StoreReader:
    """A reader through the data plane that runs on a platform's directory.

    Raises:
        StateError: none does. Otherwise as the readers of `fondaco.connect`.
    """
    from fondaco.dataplane.tiers import open_reader

    running = find_run_file(directory)
    if running is None:
        raise StateError(
            f'the tier "{tier}" reads through servers, and none run on {directory}: start `fondaco up --dir {directory}`, '
            'or take the tier "embedded"'
        )
    return open_reader(tier, running.data, store, schema=schema)


def _check_same(row: StoreRow, known: list[str], key: str, value: str, settings: StoreSettings, given: list[str]) -> None:
    """Raises AlreadyExistsError if an existing store differs from the definition. Any of its value schemas will do: they may have grown."""
    if key != row.key_schema:
        raise AlreadyExistsError("store", row.name, f"its key is {row.key_schema}, not {key}")
    for setting in given:
        existing, asked = getattr(msgspec.convert(row.settings, StoreSettings), setting), getattr(settings, setting)
        if existing != asked:
            raise AlreadyExistsError("store", row.name, f"its {setting} is {existing!r}, not {asked!r}")
    if value not in known:
        raise AlreadyExistsError("store", row.name, f"its value schema is {known[-1]}, not {value}; add_schema() registers the next one")
