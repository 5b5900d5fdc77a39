"""Agent: the loop that makes a node hold what it should, and says what it holds.

Each pass reads the catalog and the directory, plans (`plan`), and carries the plan out: level-based and idempotent, so nothing is lost when
a pass is cut off by a crash. A pass takes milliseconds; files are fetched in threads of their own, which the next passes look after. The
lease is renewed by yet another thread, and only while the serving process answers: a node that hangs leaves routing by itself.

While the catalog cannot be reached the node goes on serving what it has, by the last routing table; a pass does nothing then.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from fondaco.catalog import Catalog, ReplicaRow, ReplicaState, nodes, placements, replicas, stores, versions
from fondaco.cluster.blob import BlobFolder
from fondaco.cluster.directory import NodeDirectory
from fondaco.cluster.fetch import FetchStoppedError, Source, fetch_file, fetch_manifest
from fondaco.cluster.peers import FileServer, Peer
from fondaco.cluster.plan import NodePlan, make_plan
from fondaco.cluster.routing import Router
from fondaco.cluster.state import ClusterState, PlacedStore, ReplicaKey, read_state
from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import FondacoError, UnavailableError
from fondaco.dataplane.routing import RoutingTable
from fondaco.store.manifest import MANIFEST_FILE

_LOGGER = logging.getLogger(__name__)
_REPORT_S: Final = 1.0  # between two reports of how far a fetch is
_BACKOFF_S: Final = (0.5, 30.0)  # after a fetch that failed: the first pause, and the longest


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What a node says of itself."""

    name: str
    address: str
    zone: str = "default"
    cluster: str = "main"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Times of an agent, in seconds."""

    lease_s: float = 3.0
    interval_s: float = 0.25
    drain_s: float = 5.0
    settle_s: float = 1.5  # before a partition of the version being served is reported: the serving process looks once a second
    forget_s: float = 60.0
    fetchers: int = 2


@dataclass(slots=True)
class _Fetch:
    """A fetch under way, or resting after it failed."""

    future: Future[None]
    stop: threading.Event = field(default_factory=threading.Event)
    bytes: int = 0
    failures: int = 0
    retry_at: float = 0.0
    reported: tuple[float, int, str | None] = (0.0, -1, None)


class NodeAgent:
    """Looks after one node. `run` until told to stop, or `reconcile` once at a time; one thread."""

    def __init__(
        self,
        identity: NodeIdentity,
        directory: NodeDirectory,
        catalog: Catalog,
        blob: BlobFolder,
        *,
        files: FileServer | None = None,
        is_serving: Callable[[], bool] = lambda: True,
        has_writes: Callable[[str], bool] = lambda store: True,
        settings: AgentSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            directory: created, and its lock held.
            files: gives this node's files to others; None: nobody can fetch from here.
            is_serving: whether the serving process answers; asked before each renewal of the lease.
            has_writes: whether what was written to a store in real time can be read here; asked before its partitions are reported.
        """
        self._identity, self._directory, self._catalog, self._blob = identity, directory, catalog, blob
        self._files, self._is_serving, self._has_writes = files, is_serving, has_writes
        self._settings, self._clock = settings or AgentSettings(), clock or SystemClock()
        self._pool = ThreadPoolExecutor(self._settings.fetchers, thread_name_prefix="fondaco-fetch")
        self._fetches: dict[ReplicaKey, _Fetch] = {}
        self._manifests = threading.Lock()
        self._reached_at = time.monotonic()  # when a pass last had the catalog's answer
        self._grace = (0.0, 0)  # until when leases are believed longer, and how much
        self._arrived: dict[ReplicaKey, float] = {}  # when a partition came, on the monotonic clock
        self._followed: dict[int, tuple[int, float]] = {}  # by store: the version that is served, and since when
        self._state: ClusterState | None = None
        self._routing: RoutingTable | None = None
        self._stopped = threading.Event()
        self._lease = threading.Thread(target=self._keep_lease, name="fondaco-lease", daemon=True)

    # -- running ----------------------------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, tick: Callable[[], None] = lambda: None) -> None:
        """Keep the lease and reconcile until `stop` is set.

        Args:
            tick: called before each pass.
        """
        self._lease.start()
        while not stop.is_set():
            try:
                tick()
                self.reconcile()
            except UnavailableError as exc:
                _LOGGER.warning("node %r goes on with what it knows: %s", self._identity.name, exc)
            except FondacoError:
                _LOGGER.exception("node %r could not reconcile; it tries again", self._identity.name)
            stop.wait(self._settings.interval_s)

    def close(self) -> None:
        """End the lease, so that readers are sent elsewhere at once, and stop fetching; what was fetched is kept."""
        self._stopped.set()
        for fetch in self._fetches.values():
            fetch.stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._lease.is_alive():
            self._lease.join()
        try:
            with self._catalog.write() as connection:
                nodes.renew(connection, self._identity.name, self._identity.address, self._clock.now_us())
        except FondacoError as exc:
            _LOGGER.warning("node %r could not give its lease back: %s", self._identity.name, exc)

    def __enter__(self) -> NodeAgent:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- the lease --------------------------------------------------------------------------------------------------------------------

    def _keep_lease(self) -> None:
        while not self._stopped.wait(self._settings.lease_s / 3):
            try:
                self.renew_lease()
            except FondacoError as exc:
                _LOGGER.warning("node %r could not renew its lease: %s", self._identity.name, exc)

    def renew_lease(self) -> bool:
        """Prolong the lease if the serving process answers, registering if need be; whether it was prolonged.

        Raises:
            AlreadyExistsError: another live node has this name or address. UnavailableError: the catalog does not answer.
        """
        if not self._is_serving():
            return False
        me = self._identity
        with self._catalog.write(quiet=True) as connection:
            if nodes.renew(connection, me.name, me.address, self._lease_until_us()):
                return True
        self.register()
        return True

    def register(self) -> None:
        """Enter the node into the catalog, without a lease while the serving process does not answer.

        Raises:
            as `renew_lease`.
        """
        me, now_us = self._identity, self._clock.now_us()
        with self._catalog.write() as connection:
            nodes.register(
                connection,
                me.name,
                me.address,
                zone=me.zone,
                cluster=me.cluster,
                lease_until_us=self._lease_until_us() if self._is_serving() else now_us,
                now_us=now_us,
                files_address=self._files.address if self._files else None,
                files_secret=self._files.secret if self._files else None,
            )

    def _lease_until_us(self) -> int:
        return self._clock.now_us() + round(self._settings.lease_s * 1e6)

    # -- one pass ---------------------------------------------------------------------------------------------------------------------

    def reconcile(self) -> NodePlan:
        """One pass; returns what was to do.

        Raises:
            UnavailableError: the catalog does not answer; nothing was changed.
        """
        state = self._state = read_state(self._catalog, self._state)
        router = self._router(state)
        if adopted := router.adoptions():
            self._adopt(adopted)
            state = self._state = read_state(self._catalog)
            router = self._router(state)
        self._prepare_stores(router)
        held = self._directory.held()
        plan = make_plan(router, self._identity.name, held.keys(), drain_s=self._settings.drain_s)
        self._report(router, plan, held)
        self._fetch(router, plan)
        self._remove(plan)
        self._follow(router)
        return plan

    def _router(self, state: ClusterState) -> Router:
        return Router(state, self._clock.now_us(), forget_s=self._settings.forget_s, grace_us=self._grace_us())

    def _grace_us(self) -> int:
        """How much longer leases are believed. While nobody could reach the catalog all leases ran out; for one lease after that it is not
        known who is gone, and who has not come to renewing his."""
        now, lease_s = time.monotonic(), self._settings.lease_s
        missed_s = now - self._reached_at
        self._reached_at = now
        if missed_s > lease_s / 2:
            self._grace = (now + lease_s, round((missed_s + lease_s) * 1e6))
        until, grace_us = self._grace
        return grace_us if now < until else 0

    def _adopt(self, adopted: dict[int, int]) -> None:
        """Write down which versions readers are sent to; decided again under the write lock, for another node may just have done so."""
        with self._catalog.write() as connection:
            for store_id, version in adopted.items():
                placement = placements.find(connection, store_id)
                if placement is not None and placement.routed != version and versions.current(connection, store_id) == version:
                    placements.adopt(connection, store_id, version)

    def _prepare_stores(self, router: Router) -> None:
        """Give each store that this node should hold a part of its directory, with the schemas that the catalog knows now."""
        name = self._identity.name
        for store in router.state.stores.values():
            wanted = (
                ReplicaKey(store.row.id, version, partition) for version in store.wanted() for partition in range(store.partitions(version))
            )
            if any(name in router.assigned(key) for key in wanted):
                with self._catalog.read() as connection:
                    schemas = stores.value_schemas(connection, store.row.id)
                self._directory.prepare_store(store.row, schemas)

    def _report(self, router: Router, plan: NodePlan, held: dict[ReplicaKey, int]) -> None:
        """Say what is here and what is not; only where something changed is the catalog written to."""
        now_us, me = self._clock.now_us(), self._identity.name
        rows = router.state.of_node(me)
        changed = [
            ReplicaRow(*key, me, ReplicaState.READY, held[key], None, now_us)
            for key in plan.report
            if key not in self._fetches and self._is_settled(router, key)
        ]
        changed += [ReplicaRow(*key, me, ReplicaState.DRAINING, held.get(key, 0), None, now_us) for key in plan.drain]
        changed += self._on_their_way(plan, rows, now_us)
        forgotten = [key for key in plan.forget if key in rows]
        if not changed and not forgotten:
            return
        progress = [
            row for row in changed if row.state is ReplicaState.FETCHING and ReplicaKey(row.store_id, row.version, row.partition) in rows
        ]
        steady = not forgotten and len(progress) == len(changed)
        with self._catalog.write(quiet=steady) as connection:
            for key in forgotten:
                replicas.remove(connection, *key, me)
            replicas.report(connection, changed)

    def _is_settled(self, router: Router, key: ReplicaKey) -> bool:
        """Whether the tailer has indexed the store's writes, and the serving process has seen what it serves of this version: it looks once
        a second. Other versions it opens when asked for, with all that is there by then."""
        store = router.state.stores.get(key.store_id)
        if store is not None and not self._has_writes(store.row.name):
            return False
        if store is None or self._version_to_follow(store) != key.version:
            return True
        version, since = self._followed.get(key.store_id, (None, 0.0))
        return version == key.version and time.monotonic() - max(since, self._arrived.get(key, 0.0)) >= self._settings.settle_s

    def _on_their_way(self, plan: NodePlan, rows: dict[ReplicaKey, ReplicaRow], now_us: int) -> list[ReplicaRow]:
        reports = []
        for key in plan.fetch:
            fetch, row = self._fetches.get(key), rows.get(key)
            size, error = (fetch.bytes, _error_of(fetch.future)) if fetch is not None else (0, None)
            said = (time.monotonic(), size, error)
            if row is None or (fetch is not None and fetch.reported[1:] != said[1:] and said[0] - fetch.reported[0] >= _REPORT_S):
                reports.append(ReplicaRow(*key, self._identity.name, ReplicaState.FETCHING, size, error, now_us))
                if fetch is not None:
                    fetch.reported = said
        return reports

    # -- fetching ---------------------------------------------------------------------------------------------------------------------

    def _fetch(self, router: Router, plan: NodePlan) -> None:
        """Start what is to be fetched, stop what is not wanted any more, and forget what is done."""
        for key, fetch in list(self._fetches.items()):
            if key not in plan.fetch:
                fetch.stop.set()
            if not fetch.future.done():
                continue
            if fetch.stop.is_set() or _error_of(fetch.future) is None:
                del self._fetches[key]
            elif fetch.retry_at == 0.0:
                first, longest = _BACKOFF_S
                pause = min(longest, first * 2.0**fetch.failures) * random.uniform(0.5, 1.0)
                fetch.failures, fetch.retry_at = fetch.failures + 1, time.monotonic() + pause
                _LOGGER.warning("node %r: %s", self._identity.name, _error_of(fetch.future))
        for key in plan.fetch:
            if key.version == 0:
                continue  # there is no file; `_prepare_stores` makes what it takes
            before = self._fetches.get(key)
            if before is None or (before.future.done() and 0 < before.retry_at <= time.monotonic()):
                self._start_fetch(router, key, before)

    def _start_fetch(self, router: Router, key: ReplicaKey, before: _Fetch | None) -> None:
        fetch = _Fetch(Future(), failures=before.failures if before else 0)
        if before is not None:
            fetch.reported = before.reported
        self._fetches[key] = fetch
        store = router.state.stores[key.store_id].row.name
        fetch.future = self._pool.submit(self._fetch_one, store, key, self._sources(router, key), fetch)

    def _sources(self, router: Router, key: ReplicaKey) -> list[Source]:
        """The blob folder, and the live nodes that have the file."""
        sources: list[Source] = [self._blob]
        for row in router.ready(key):
            node = router.state.nodes[row.node]
            if node.name != self._identity.name and node.files_address:
                with self._catalog.read() as connection:
                    secret = nodes.files_secret(connection, node.name)
                if secret:
                    sources.append(Peer(node.name, node.files_address, secret))
        return sources

    def _fetch_one(self, store: str, key: ReplicaKey, sources: list[Source], fetch: _Fetch) -> None:
        if fetch.stop.is_set():
            raise FetchStoppedError(f"version {key.version} of store {store!r} is not wanted any more")

        def progress(size: int) -> None:
            fetch.bytes = size

        directory, building = self._directory.begin(store, key.version)
        with self._manifests:  # the partitions of a version come at the same time, and its manifest once
            manifest = fetch_manifest(sources, store, key.version, directory, building)
        entry = manifest.files[key.partition]
        fetch_file(sources, store, key.version, entry, directory, building, progress=progress, stop=fetch.stop.is_set)
        self._directory.hold(store, key.version, key.partition)
        self._arrived[key] = time.monotonic()
        _LOGGER.info("node %r has partition %d of version %d of store %r", self._identity.name, key.partition, key.version, store)

    # -- removing, following ----------------------------------------------------------------------------------------------------------

    def _remove(self, plan: NodePlan) -> None:
        names = {store_id: name for name, store_id in self._directory.store_ids().items()}
        gone: dict[tuple[str, int], set[int]] = {}
        for key in plan.remove:
            if key.version and key.store_id in names:
                gone.setdefault((names[key.store_id], key.version), set()).add(key.partition)
        for (store, version), partitions in gone.items():
            self._directory.let_go(store, version, partitions)

    def _follow(self, router: Router) -> None:
        """Let the serving process read what is routed, give out the routing table, and remove stores that are not held any more."""
        left = {key.store_id for key in self._directory.held() if key.version} | {key.store_id for key in self._fetches}
        by_id = router.state.stores
        for name, store_id in self._directory.store_ids().items():
            store = by_id.get(store_id)
            if store_id not in left and not self._is_wanted(router, store_id):
                self._directory.remove_store(name)
            elif store is not None and self._has_manifest(name, version := self._version_to_follow(store)):
                changed = self._directory.set_current(name, version)
                if changed or self._followed.get(store_id, (None,))[0] != version:
                    self._followed[store_id] = (version, time.monotonic())
        keep: dict[str, set[int]] = {store.row.name: {self._version_to_follow(store)} for store in by_id.values()}
        for key in self._fetches:
            if key.store_id in by_id:
                keep[by_id[key.store_id].row.name].add(key.version)
        self._directory.clean({name: frozenset(numbers) for name, numbers in keep.items()})
        table = router.table()
        if self._routing is None or (table.epoch, table.stores) != (self._routing.epoch, self._routing.stores):
            self._directory.write_routing(table.encode())
            self._routing = table

    @staticmethod
    def _version_to_follow(store: PlacedStore) -> int:
        """What the serving process is to serve: what is routed; before anything is, what will be, so that it is open by then."""
        return store.row.current if store.placement.routed is None else store.placement.routed

    def _has_manifest(self, store: str, version: int) -> bool:
        """Whether a version can be followed here. One of which this node holds nothing is known by its manifest: readers who come all the
        same are told that they are wrong here, rather than answered from the version before."""
        if version == 0 or (self._directory.layout(store).version(version) / MANIFEST_FILE).exists():
            return True
        directory, building = self._directory.begin(store, version)
        try:
            with self._manifests:
                fetch_manifest([self._blob], store, version, directory, building)
        except FondacoError as exc:
            _LOGGER.info("node %r: %s", self._identity.name, exc)
            return False
        return True

    def _is_wanted(self, router: Router, store_id: int) -> bool:
        store = router.state.stores.get(store_id)
        if store is None:
            return any(key.store_id == store_id for key in router.state.of_node(self._identity.name))
        keys = (ReplicaKey(store_id, version, partition) for version in store.wanted() for partition in range(store.partitions(version)))
        mine = router.state.of_node(self._identity.name)
        return any(key in mine or self._identity.name in router.assigned(key) for key in keys)


def _error_of(future: Future[None]) -> str | None:
    """Why a fetch failed; None: it did not, or is under way."""
    if not future.done() or future.cancelled():
        return None
    error = future.exception()
    return None if error is None else str(error)
