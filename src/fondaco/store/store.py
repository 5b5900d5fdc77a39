"""Store: a named key-value data set, its versions, and everything one does with them.

A `Store` is a light handle: it holds no file open and no lock, may be used from any thread and pickled, and is good as long as its
platform is open.
What is true of the store is read from the catalog at each call, so several processes may steer one store.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from fondaco.catalog import ValueSchemaRow, VersionState, pushes, stores, versions
from fondaco.core.clock import to_us
from fondaco.core.errors import InputError, NoCurrentVersionError, ReadOnlyError, StateError
from fondaco.core.ids import check_version_number, new_push_id
from fondaco.store import swap as _swap
from fondaco.store.context import StoreContext
from fondaco.store.mirror import write_mirror
from fondaco.store.progress import PushProgress
from fondaco.store.report import IncrementalReport, PushReport, PushTable, VersionInfo
from fondaco.store.settings import check_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from fondaco.store.builder import VersionBuilder
    from fondaco.store.encoder import Encoded
    from fondaco.store.freshness import Freshness
    from fondaco.store.governor import Governor
    from fondaco.store.keys import KeyCodec
    from fondaco.store.push import Fill, PushRequest
    from fondaco.store.reader import EmbeddedReader
    from fondaco.store.store_reader import StoreReader
    from fondaco.store.tails import TailSource
    from fondaco.store.writer import StoreWriter


class Store:
    """One store. Get it from `Platform.create_store` or `Platform.store`."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def __getstate__(self) -> dict[str, Any]:
        return {"_context": self._context}  # a pickled handle opens the catalog again where it arrives; what it caches is made again

    def __repr__(self) -> str:
        return f"<Store {self.name!r}>"

    @property
    def name(self) -> str:
        """The store's name."""
        return self._context.name

    # -- what it is -----------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def key(self) -> KeyCodec:
        """The key's codec; the key schema never changes."""
        from fondaco.store.keys import KeyCodec

        return KeyCodec(self._context.row.key_schema)

    @property
    def value_schema(self) -> dict[str, Any]:
        """The newest value schema, as Avro JSON; pushes write it."""
        schema: dict[str, Any] = msgspec.json.decode(self._value_schemas()[-1].schema)
        return schema

    def _value_schemas(self) -> list[ValueSchemaRow]:
        with self._context.catalog.read() as connection:
            stores.check_live(connection, self._context.row)
            return stores.value_schemas(connection, self._context.id)

    def describe(self) -> dict[str, Any]:
        """Name, schemas, settings, and the size of the current version, as JSON-like values. Times in microseconds since the epoch."""
        context = self._context
        with context.catalog.read() as connection:
            stores.check_live(connection, context.row)
            retained = versions.retained(connection, context.id)
            schemas = stores.value_schemas(connection, context.id)
        current = next((row for row in retained if row.state is VersionState.CURRENT), None)
        return {
            "name": context.name,
            "key": msgspec.json.decode(context.row.key_schema),
            "value": msgspec.json.decode(schemas[-1].schema),
            "schema_number": schemas[-1].number,
            **msgspec.to_builtins(context.settings),
            "current": current.number if current else None,
            "records": current.records if current else 0,
            "bytes": current.bytes if current else 0,
            "as_of_us": current.as_of_us if current else None,
            "versions": [row.number for row in retained],
            "created_us": context.row.created_us,
        }

    def add_schema(self, value: object) -> int:
        """Register the next value schema, which pushes write from now on; return its number. The newest one again changes nothing.

        Args:
            value: Avro dict or JSON, or a `pa.Schema`.
        Raises:
            SchemaError: rows of an earlier schema could not be read with it, or the reverse; names the field.
        """
        from fondaco.schema.evolution import check_evolution
        from fondaco.store.values import value_schema_json

        text = value_schema_json(value)
        with self._context.catalog.write() as connection:
            stores.check_live(connection, self._context.row)
            known = stores.value_schemas(connection, self._context.id)
            if known[-1].schema == text:
                return known[-1].number
            check_evolution([row.schema for row in known], text)
            number = stores.add_value_schema(connection, self._context.id, text, now_us=self._context.clock.now_us())
            # before anything is written in it: whoever reads a row of this schema finds its text
            write_mirror(self._context.layout.directory, self._context.row, stores.value_schemas(connection, self._context.id))
            return number

    # -- versions -------------------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> int | None:
        """Number of the current version, None when there is none."""
        with self._context.catalog.read() as connection:
            stores.check_live(connection, self._context.row)
            return versions.current(connection, self._context.id) or None

    def versions(self, *, all: bool = False) -> list[VersionInfo]:
        """The versions one can read, oldest first; with `all`, also those that failed, are at work, or were retired."""
        with self._context.catalog.read() as connection:
            stores.check_live(connection, self._context.row)
            listed = (versions.all_of if all else versions.retained)(connection, self._context.id)
        return [VersionInfo.of(row) for row in listed]

    def swap(self, version: int) -> int:
        """Make a READY or BACKUP version current, at once for every reader; return its number. Then the `keep` rule retires old versions.

        Raises:
            VersionNotFoundError: its files do not exist. InputError: not a number.
        """
        number = check_version_number(version)
        _swap.swap_to(self._context, number)
        return number

    def rollback(self) -> int:
        """Return to the newest backup, at once for every reader; return its number. The version left becomes a backup, marked
        `rolled_back`: no later rollback returns to it, `swap` does. Nothing is retired.

        Raises:
            StateError: there is no backup; nothing changed.
        """
        return _swap.roll_back(self._context)

    def retire(self, version: int) -> None:
        """Remove the files of a version that is not current; readers that have it open keep it until they let go.

        Raises:
            VersionNotFoundError: its files do not exist; StateError: it is current.
        """
        _swap.retire(self._context, check_version_number(version))

    # -- pushes ---------------------------------------------------------------------------------------------------------------------

    def push(
        self,
        data: object,
        push_id: str | None = None,
        as_of: datetime | int | str | None = None,
        swap: bool = True,
        on_duplicate: Literal["fail", "keep_first", "keep_last"] = "fail",
        built_from: Mapping[str, Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> PushReport:
        """Build a version from `data` and make it current.

        Args:
            data: an Arrow, pandas or Polars table, a DuckDB relation, batches, mappings, a dict of columns, or paths of Parquet, CSV, Arrow
                or Avro files. It needs every field of the value schema as a column, the key's column(s), and no other.
            push_id: makes the push repeatable: the id of a push that ended well returns that push's report and does nothing.
            as_of: the moment that the data describes: an aware datetime, ISO 8601 text with a zone, or microseconds since the epoch;
                default: now.
            swap: False leaves the version READY, and the current one current. One READY version waits at a time: a newer version, READY or
                current, retires it.
            on_duplicate: what to do with two different values for one key. Equal rows always collapse.
            built_from: kept in the manifest and the report, JSON-like; default: a description of `data`.
            progress: False is silent. Else a bar on stderr; where it is no terminal, a line every 5 seconds (so none for a short push).
        Raises:
            RowError: the first value that does not fit: row, field, value, expectation. DuplicateKeyError.
            InputError: no rows, missing or unknown columns. PushInProgressError, PushKilledError, DiskFullError, ReadOnlyError.
            Whatever it is, the current version is as it was and nothing is left on disk.
        """
        from fondaco.store.encoder import RowEncoder
        from fondaco.store.inputs import open_input
        from fondaco.store.push import find_finished
        from fondaco.store.values import columns_of, value_codec

        request = self._request(push_id, as_of, swap, on_duplicate, built_from)
        finished = find_finished(self._context, request.push_id)
        if finished is not None:
            return finished
        bar = self._progress(progress)

        def fill(builder: VersionBuilder, on_chunk: Callable[[int], None]) -> dict[str, Any]:
            codec = value_codec(request.value_schema)
            opened = open_input(data, batch_bytes=self._context.config.batch_bytes, columns=lambda: columns_of(codec, self.key))
            bar.expect(opened.row_count)
            builder.write_all(opened, RowEncoder(self.name, self.key, codec, opened.schema), on_chunk)
            opened.check_unchanged()
            return opened.described()

        return self._run(request, fill, bar)

    def push_empty(self, push_id: str | None = None, as_of: datetime | int | str | None = None, swap: bool = True) -> PushReport:
        """Push a version without rows: every key is missing from it. A plain push of nothing is refused as a mistake; this is not."""
        from dataclasses import replace

        request = replace(self._request(push_id, as_of, swap, "fail", None), may_be_empty=True)
        return self._run(request, lambda builder, on_chunk: {"source": "nothing"}, self._progress(False))

    def repush(
        self,
        push_id: str | None = None,
        *,
        partitions: int | None = None,
        compression: Literal["auto", "none", "zstd"] | None = None,
        swap: bool = True,
        fold: bool = False,
        progress: bool | None = None,
    ) -> PushReport:
        """Build a new version from the rows of the current one, with other settings. Rows, `as_of` and value schema stay.

        Args:
            fold: build it from what a reader sees now, real-time writes included. Every key has the row it had before; `as_of` is the
                moment the fold began, so that writes from before its window need not be kept in the log.
        Raises:
            NoCurrentVersionError: there is none to build from (`fold`: and no write). Otherwise as `push`.
            DeadlineExceededError: `fold`, and writes made before do not become readable.
        """
        if fold:
            return self._fold(push_id, partitions, compression, swap, progress)
        from dataclasses import replace

        from fondaco.store.manifest import read_manifest
        from fondaco.store.push import find_finished
        from fondaco.store.values import stored_rows

        number = self.current
        if number is None:
            raise NoCurrentVersionError(self.name)
        directory = self._context.layout.version(number)
        manifest = read_manifest(directory)
        settings = check_settings(
            manifest.partition_count if partitions is None else partitions,
            self._context.settings.compression if compression is None else compression,
            "0s",
            1,
        )
        request = replace(
            self._request(
                push_id, manifest.as_of_us, swap, "fail", {"source": "repush", "version": number, "built_from": manifest.built_from}
            ),
            may_be_empty=True,
            partitions=settings.partitions,
            compression=settings.compression,
            schema_number=manifest.value_schema_id,
            value_schema=manifest.value_schema,
        )
        finished = find_finished(self._context, request.push_id)
        if finished is not None:
            return finished
        bar = self._progress(progress)

        def fill(builder: VersionBuilder, on_chunk: Callable[[int], None]) -> dict[str, Any]:
            self._check_still_current(number)
            bar.expect(manifest.records)
            rows: Iterator[Encoded] = stored_rows(directory, manifest, batch_bytes=self._context.config.batch_bytes)
            for encoded in rows:
                builder.write(encoded)
                on_chunk(builder.input_rows)
            return {"source": "repush", "version": number, "built_from": manifest.built_from}

        return self._run(request, fill, bar)

    def _fold(self, push_id: str | None, partitions: int | None, compression: str | None, swap: bool, progress: bool | None) -> PushReport:
        from dataclasses import replace

        from fondaco.store.basefile import OnDuplicate
        from fondaco.store.fold import Fold
        from fondaco.store.push import find_finished

        request = self._request(push_id, None, swap, "fail", None)
        finished = find_finished(self._context, request.push_id)
        if finished is not None:
            return finished
        bar = self._progress(progress)
        with self._tailing(), Fold(self._context, began_us=self._context.clock.now_us()) as fold:
            plan = fold.plan
            settings = check_settings(
                self._context.settings.partitions if partitions is None else partitions,
                self._context.settings.compression if compression is None else compression,
                "0s",
                1,
            )
            built_from = {"source": "fold", "version": fold.version, "positions": str(fold.reader.position)}
            request = replace(
                request, as_of_us=plan.as_of_us, on_duplicate=OnDuplicate.KEEP_LAST, may_be_empty=True, partitions=settings.partitions,
                compression=settings.compression, schema_number=plan.schema_number, value_schema=plan.value_schema, built_from=built_from,
            )  # fmt: skip

            def fill(builder: VersionBuilder, on_chunk: Callable[[int], None]) -> dict[str, Any]:
                self._check_still_current(fold.version)
                bar.expect(plan.record_count)
                for encoded in fold.rows():
                    builder.write(encoded)
                    on_chunk(builder.input_rows)
                return built_from

            return self._run(request, fill, bar)

    def push_incremental(
        self,
        data: object,
        push_id: str | None = None,
        as_of: datetime | int | str | None = None,
        durability: Literal["os", "disk"] = "disk",
        *,
        progress: bool | None = None,
    ) -> IncrementalReport:
        """Write the rows of a table as real-time writes, at a lower priority than live ones; no version is built.

        Args:
            data: as `push`, and fields may be missing: then the fields without a column stay as they are (each row is a patch). The last
                of several rows of one key wins.
            push_id: makes the push repeatable: again, after it ended well, it does nothing; after it broke off, it makes the same writes.
            as_of: the timestamp of the writes: newer writes to the same rows stay, whenever they are made; default: when the push was
                first tried.
            durability: "disk": synced when this returns; "os": they survive the end of the process.
        Raises:
            RowError, InputError, ColumnNotFoundError, FieldNotFoundError: what does not fit; rows before it may have been written.
            PushInProgressError: a push of this id is at work; PushKilledError. FondacoError: the log's error.
        """
        from fondaco.store import realtime
        from fondaco.store.push import check_push_id

        try:
            as_of_us = None if as_of is None else to_us(as_of)
        except ValueError as exc:
            raise InputError(f"as_of: {exc}") from None
        bar = self._progress(progress)
        with bar, self._tailing(), self._governor() as governor:
            return realtime.push_incremental(
                self._context,
                self.key,
                data,
                push_id=new_push_id() if push_id is None else check_push_id(push_id),
                as_of_us=as_of_us,
                durability=durability,
                pace=governor.pace,
                progress=bar.rows,
            )

    def kill(self, push_id: str) -> None:
        """Ask a push, in whatever process, to stop; it does at its next chunk, and cleans up. One killed already is left alone.

        Raises:
            PushNotFoundError: no push has this id; StateError: it ended well or failed before.
        """
        from fondaco.store.push import request_kill
        from fondaco.store.recovery import recover_if_needed

        push = request_kill(self._context, push_id)
        if push.finished_us is None:
            recover_if_needed(self._context)  # in case its process is dead; a live one holds the lock and is left to stop by itself
        elif push.state is not VersionState.KILLED:
            raise StateError(f"push {push_id!r} of store {self.name!r} is over ({push.state}); there is nothing to kill")

    def pushes(self) -> PushTable:
        """Every push of the store, oldest first, however it ended: a list of rows, and `.to_arrow()`.

        `state` is where the push's version stands now, so at most one push is CURRENT: one that ended well is READY, CURRENT, BACKUP or
        RETIRED, another is at work, FAILED or KILLED.
        """
        with self._context.catalog.read() as connection:
            stores.check_live(connection, self._context.row)
            return PushTable(pushes.all_of(connection, self._context.id))

    # -- reading --------------------------------------------------------------------------------------------------------------------

    @overload
    def reader(self, tier: Literal["embedded"] = "embedded", schema: object = None, *, tail: bool = True) -> EmbeddedReader: ...

    @overload
    def reader(self, tier: Literal["fast", "thin"], schema: object = None, *, tail: bool = True) -> StoreReader: ...

    def reader(
        self, tier: Literal["embedded", "fast", "thin"] = "embedded", schema: object = None, *, tail: bool = True
    ) -> EmbeddedReader | StoreReader:
        """Open a reader; close it, or use it as a context manager. It follows swaps, rollbacks and real-time writes by itself.

        Args:
            tier: where the data is read from: "embedded", the nearest, maps the files into this process; "fast" and "thin" ask the servers
                that `fondaco up` runs on this directory (those of another machine: `fondaco.connect`).
            schema: read every row with exactly this schema: Avro dict or JSON, or a `pa.Schema`. None: with every field of every value
                schema of the store, so that a rollback takes no field away; one that a row's version lacks has its default.
            tail: follow the log in this process where no other one does; False: another one does, as in servers.
        Raises:
            SchemaResolutionError: rows of a version cannot be read with `schema`. InputError: no such tier.
            StateError: "fast" or "thin", and no servers run on this directory.
        """
        from fondaco.store.reader import EmbeddedReader

        if tier in ("fast", "thin") and self._context.open_served is not None:
            return self._context.open_served(tier, self.name, schema)
        if tier != "embedded":
            raise InputError(f'the tier of a reader is "embedded", "fast" or "thin", not {tier!r}')
        known = {row.number: row.schema for row in self._value_schemas()}
        return EmbeddedReader.open(
            self._context.layout.directory,
            self.name,
            schema=schema,
            known_schemas=known,
            tail=self._tail_source() if tail else None,
            clock=self._context.clock,
        )

    # -- real-time writes -----------------------------------------------------------------------------------------------------------------

    def writer(
        self,
        writer_id: str = "default",
        *,
        durability: Literal["os", "disk"] | None = None,
        linger_ms: float = 5,
        buffer_bytes: int = 1 << 20,
        timeout_s: float = 30.0,
        tail: bool = True,
    ) -> StoreWriter:
        """Open a writer; close it, or use it as a context manager. What it wrote is readable within `freshness_ms`, by every reader.

        Args:
            writer_id: the same for the same job: of two writes of one moment the greater id's wins. Two jobs at once need two ids.
            durability: what a flushed write survives: "os" the end of the process, "disk" a loss of power; None: as configured.
            linger_ms: how long a write waits for company. buffer_bytes: what may wait in memory.
            timeout_s: how long a call waits for a log that takes no writes.
            tail: follow the log in this process where no other one does.
        Raises:
            InputError: an option that cannot be. StoreNotFoundError, ReadOnlyError, DiskFullError, UnavailableError.
        """
        from fondaco.store.realtime import open_writer

        if self._context.catalog.read_only:
            raise ReadOnlyError(str(self._context.platform_directory))
        return open_writer(
            self._context, self.key, writer_id, durability=durability, tail=self._tail_source() if tail else None,
            linger_ms=linger_ms, buffer_bytes=buffer_bytes, timeout_s=timeout_s,
        )  # fmt: skip

    def freshness(self) -> Freshness:
        """How far behind reads are: age of the newest write that can be read, time from append to readable, as the tailer counts them."""
        from fondaco.store.freshness import Freshness

        return Freshness.of(self._context.layout.overlay, target_ms=self._context.settings.freshness_ms)

    def _tail_source(self) -> TailSource:
        from fondaco.store.tails import TailSource

        context = self._context
        return TailSource(context.layout.directory, self.name, context.log, context.clock, context.log_config.kind == "embedded")

    @contextlib.contextmanager
    def _tailing(self) -> Iterator[None]:
        """Follow the log during a call that needs it followed, where no other process does."""
        tail = self._tail_source().acquire()
        try:
            yield
        finally:
            tail.release()

    def _governor(self) -> Governor:
        from fondaco.store.governor import Governor, PlatformRisk

        context = self._context
        return Governor(context.governor, PlatformRisk(context.platform_directory, context.governor, context.clock))

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _request(
        self, push_id: str | None, as_of: datetime | int | str | None, swap: bool, on_duplicate: str, built_from: Mapping[str, Any] | None
    ) -> PushRequest:
        from fondaco.store.basefile import OnDuplicate
        from fondaco.store.push import PushRequest, check_push_id

        try:
            rule = OnDuplicate(on_duplicate)
        except ValueError:
            raise InputError(
                f"on_duplicate is one of {', '.join(repr(rule.value) for rule in OnDuplicate)}, not {on_duplicate!r}"
            ) from None
        try:
            as_of_us = self._context.clock.now_us() if as_of is None else to_us(as_of)
        except ValueError as exc:
            raise InputError(f"as_of: {exc}") from None
        newest = self._value_schemas()[-1]
        return PushRequest(
            push_id=new_push_id() if push_id is None else check_push_id(push_id),
            as_of_us=as_of_us,
            swap=swap,
            on_duplicate=rule,
            may_be_empty=False,
            partitions=self._context.settings.partitions,
            compression=self._context.settings.compression,
            schema_number=newest.number,
            value_schema=newest.schema,
            built_from=dict(built_from or {}),
        )

    def _check_still_current(self, number: int) -> None:
        """With the push lock held: what is built from a version must not take the place of a later one.

        Raises:
            StateError: another one became current since the version was looked up.
        """
        current = self.current or 0
        if current != number:
            raise StateError(
                f"v{current} of store {self.name!r} became current while a repush of v{number} was about to begin; repush again"
            )

    def _progress(self, shown: bool | None) -> PushProgress:
        return PushProgress(f"push {self.name}", shown=shown is not False)

    def _run(self, request: PushRequest, fill: Fill, progress: PushProgress) -> PushReport:
        from fondaco.store.push import run_push

        return run_push(self._context, self.key, request, fill, progress)
