"""Source: where a server learns which stores it has, who may call, and which nodes there are: a platform's catalog, and a node's directory.

`Source.look` is called once a second in a worker thread; it reads one number of the catalog, and the rest only when that has changed. A
catalog that does not answer changes nothing: the server goes on with what it knew, because reads need no catalog.

A node of a cluster serves its own directory: the stores that lie in it, and the routing table that its agent keeps there. Tokens and quotas
are the catalog's, for all nodes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fondaco.catalog import Catalog, StoreRow, quotas, stores, tokens
from fondaco.catalog.rows import QuotaRow, TokenRow
from fondaco.core.errors import FondacoError
from fondaco.store.layout import StoreLayout, read_cell
from fondaco.store.mirror import read_store
from fondaco.store.partial import HELD_FILE

ROUTING_FILE: Final = "routing.json"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found.

    Attributes:
        epoch: the catalog's change counter. held: for each store when the list of its partitions changed last, where it has some only.
        routing: a node's routing table; None: this server has everything.
    """

    epoch: int
    stores: tuple[StoreRow, ...]
    tokens: tuple[TokenRow, ...]
    quotas: tuple[QuotaRow, ...]
    held: Mapping[str, tuple[int, int]]
    routing: bytes | None


class Source:
    """Looks at the catalog, and for a node at its directory."""

    def __init__(self, catalog: Catalog, directory: Path, *, is_node: bool) -> None:
        self._catalog, self.directory, self._is_node = catalog, directory, is_node
        self._seen: Seen | None = None

    def look(self) -> Seen:
        """What there is now; at a failure what there was, if there was anything.

        Raises:
            FondacoError: the first look failed.
        """
        try:
            self._seen = self._look()
        except FondacoError as exc:
            if self._seen is None:
                raise
            _LOGGER.warning("the catalog cannot be read, so stores, tokens and quotas stay as they were: %s", exc)
        return self._seen

    def _look(self) -> Seen:
        before = self._seen
        epoch = self._catalog.change_counter()
        if before is not None and before.epoch == epoch and not self._is_node:
            return before
        with self._catalog.read() as connection:
            known = tuple(tokens.all_of(connection))
            rates = tuple(quotas.all_of(connection))
            rows = () if self._is_node else tuple(stores.all_live(connection))
        if not self._is_node:
            return Seen(epoch, rows, known, rates, {}, None)
        rows = tuple(self._held_stores())
        return Seen(epoch, rows, known, rates, {row.name: self._held_stamp(row) for row in rows}, self._routing())

    def _held_stores(self) -> Sequence[StoreRow]:
        rows = []
        for entry in sorted((self.directory / "stores").iterdir()):
            with contextlib.suppress(FondacoError, OSError):
                mirror = read_store(entry)
                current = read_cell(StoreLayout(entry).current_cell)
                if current is not None and current >= 0 and not entry.name.startswith("."):
                    settings = msgspec.to_builtins(mirror.settings)
                    rows.append(StoreRow(mirror.id, mirror.name, mirror.key_schema, settings, current, 0))
        return rows

    def _held_stamp(self, row: StoreRow) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            status = (StoreLayout(self.directory / "stores" / row.name).version(row.current) / HELD_FILE).stat()
            return status.st_mtime_ns, status.st_ino
        return 0, 0

    def _routing(self) -> bytes | None:
        with contextlib.suppress(OSError):
            return (self.directory / ROUTING_FILE).read_bytes()
        return None
