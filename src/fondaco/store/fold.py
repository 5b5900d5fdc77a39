"""Fold: the rows of a store as they are now, base and writes together, as the input of a new version.

Every key is read as a reader of the current version reads it, so the new version answers as the old one did. Its moment is when the fold
began: writes from before its window are in its base now and count no more, which is what lets the log be trimmed. Writes within the window
are in the base and in the overlay, and laying a write over a row that has it changes nothing (merge is idempotent); so whatever arrives
while the fold runs is neither lost nor doubled.

In a store with a TTL rows must not grow younger by being moved: there the new version's moment is that of the old one, or `ttl` ago,
whichever is later. No row alive is older than that, and rows that are over are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fondaco.catalog import stores
from fondaco.schema import full_form, superset
from fondaco.store import _kernels
from fondaco.store.basefile import BaseFile, address_of
from fondaco.store.context import StoreContext
from fondaco.store.encoder import Encoded
from fondaco.store.keys import EncodedKeys
from fondaco.store.manifest import read_manifest
from fondaco.store.mirror import write_mirror
from fondaco.store.reader import EmbeddedReader

APPLY_TIMEOUT_S = 120.0  # for what was written before the fold began to be readable
BATCH_KEYS = 8192


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """What a fold builds: the moment it stands for, and the value schema that its rows are written in."""

    as_of_us: int
    schema_number: int
    value_schema: str
    record_count: int  # of the base, for progress


def fold_schema(context: StoreContext) -> tuple[int, str]:
    """Number and text of the schema that can hold every row: the superset of all value schemas, registered if none of them is."""
    with context.catalog.write() as connection:
        stores.check_live(connection, context.row)
        known = stores.value_schemas(connection, context.id)
        text = full_form(superset([row.schema for row in known]))
        for row in reversed(known):
            if full_form(row.schema) == text:
                return row.number, row.schema
        number = stores.add_value_schema(connection, context.id, text, now_us=context.clock.now_us())
        write_mirror(context.layout.directory, context.row, stores.value_schemas(connection, context.id))
        return number, text


class Fold:
    """One fold at work. Close it, or use it as a context manager."""

    def __init__(self, context: StoreContext, *, began_us: int) -> None:
        """
        Raises:
            NoCurrentVersionError: there is no version, and nothing was written.
            DeadlineExceededError: what was written before does not become readable: no tailer runs.
        """
        self._context = context
        number, schema = fold_schema(context)
        self.reader = EmbeddedReader.open(context.layout.directory, context.name, schema=schema, clock=context.clock)
        try:
            self._catch_up()
            self._serving = serving = self.reader.serving()
            self.version = serving.number
            manifest = read_manifest(context.layout.version(serving.number)) if serving.number else None
        except BaseException:
            self.reader.close()
            raise
        as_of_us = began_us
        ttl_ms = context.settings.ttl_ms
        if ttl_ms is not None:
            as_of_us = max(manifest.as_of_us if manifest else 0, began_us - 1000 * ttl_ms)
        self.plan = FoldPlan(as_of_us, number, schema, manifest.records if manifest else 0)
        self._manifest = manifest

    def _catch_up(self) -> None:
        """Wait until every write that is in the log can be read."""
        context = self._context
        topic = context.topic
        if not context.has_topic():
            return
        log = context.log.open()
        last = {number: log.high_watermark(topic, number) - 1 for number in range(log.describe_topic(topic).partitions)}
        written = {number: offset for number, offset in last.items() if offset >= 0}
        self.reader.get_many([], min_position=written, timeout_s=APPLY_TIMEOUT_S)

    def rows(self) -> Iterator[Encoded]:
        """Every row, in the plan's schema: those with a row in the base, then those that were only written. A key may come twice, with
        equal rows or with one that was written meanwhile; the later one counts."""
        first_row = 0
        for keys in self._keys():
            values, offsets, found = self._serving.rows_as_read(keys)
            if found.all():
                kept = keys
            else:
                kept, offsets = _picked(keys, np.flatnonzero(found)), np.append(offsets[:-1][found], offsets[-1])
            if len(kept):
                yield Encoded(first_row, kept, values, offsets)
                first_row += len(kept)

    def _keys(self) -> Iterator[EncodedKeys]:
        yield from self._base_keys()
        for keys in self._serving.written_keys(self._context.config.batch_bytes // 16):
            for part in _parts(keys):
                fresh = np.flatnonzero(~self._serving.in_base(part))
                if len(fresh):
                    yield part if len(fresh) == len(part) else _picked(part, fresh)

    def _base_keys(self) -> Iterator[EncodedKeys]:
        if self._manifest is None:
            return
        directory = self._context.layout.version(self.version)
        for entry in self._manifest.files:
            for batch in BaseFile.open(directory / entry.name).scan(batch_records=BATCH_KEYS, batch_bytes=self._context.config.batch_bytes):
                hashes = np.empty(len(batch.key_offsets) - 1, np.uint64)
                _kernels.hash_many(address_of(batch.keys), batch.key_offsets, hashes)
                yield EncodedKeys(batch.keys, batch.key_offsets, hashes)

    def close(self) -> None:
        """Let go of the files."""
        self.reader.close()

    def __enter__(self) -> Fold:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _parts(keys: EncodedKeys) -> Iterator[EncodedKeys]:
    for first in range(0, len(keys), BATCH_KEYS):
        last = min(first + BATCH_KEYS, len(keys))
        yield EncodedKeys(keys.data, keys.offsets[first : last + 1], keys.hashes[first:last])


def _picked(keys: EncodedKeys, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> EncodedKeys:
    starts, ends = keys.offsets[:-1][which] + address_of(keys.data), keys.offsets[1:][which] + address_of(keys.data)
    data, offsets = np.empty(int((ends - starts).sum()) + 1, np.uint8), np.empty(len(which) + 1, np.int64)
    _kernels.gather(starts, ends, address_of(data), offsets)
    return EncodedKeys(data, offsets, keys.hashes[which])
