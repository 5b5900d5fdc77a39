"""Context: what every part of a store needs to act on it, made once by `Platform` and passed down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from fondaco.catalog import Catalog, StoreRow, VersionRow, stores, versions
from fondaco.catalog.generations import Generations
from fondaco.core.clock import Clock
from fondaco.core.config import GovernorConfig, LogConfig, StoreConfig
from fondaco.store.layout import StoreLayout
from fondaco.store.log_handle import LogHandle, topic_of
from fondaco.store.settings import StoreSettings

if TYPE_CHECKING:
    from fondaco.store.store_reader import StoreReader


@dataclass(frozen=True, slots=True)
class StoreContext:
    """One store of one open platform. `row` is as it was when the store was looked up; `row.current` is not kept up to date."""

    catalog: Catalog
    row: StoreRow
    settings: StoreSettings
    layout: StoreLayout
    config: StoreConfig
    clock: Clock
    log: LogHandle
    log_config: LogConfig
    governor: GovernorConfig
    open_served: Callable[[str, str, object], StoreReader] | None = None  # (tier, store, schema): through the servers of this directory

    @property
    def id(self) -> int:
        """The store's number in the catalog."""
        return self.row.id

    @property
    def name(self) -> str:
        """The store's name."""
        return self.row.name

    @property
    def keep(self) -> int:
        """How many versions are kept, the current one included."""
        return self.settings.keep

    @property
    def generations(self) -> Generations[VersionRow]:
        """The store's versions in the catalog."""
        return versions.GENERATIONS

    def check_live(self, connection: Connection) -> None:
        """
        Raises:
            StoreNotFoundError: the store was deleted.
        """
        stores.check_live(connection, self.row)

    @property
    def topic(self) -> str:
        """The topic of the store's real-time writes."""
        return topic_of(self.row.name)

    @property
    def platform_directory(self) -> Path:
        """The platform that the store is part of."""
        return self.layout.directory.parent.parent

    def has_topic(self) -> bool:
        """Whether anybody ever opened a writer to the store; asks an embedded log's directory without opening the log."""
        if self.log_config.kind == "embedded":
            return (self.log.directory / self.topic).exists()
        return self.topic in self.log.open().topics()
