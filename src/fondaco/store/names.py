"""Names: finishing what a crash left of creating or deleting a store or a graph. The catalog decides, the directories follow.

A directory that holds versions is no such leftover. If the catalog does not know it, the catalog is the older one of the two (restored from
a backup), so it is left alone, and said so through `logging`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fondaco.catalog import Catalog
from fondaco.core.files import remove_tree
from fondaco.store.layout import VersionsLayout

DELETED_PREFIX: Final = ".deleted-"
"""`.deleted-<name>-<id>` is the directory of something deleted, on its way out."""

_LOGGER = logging.getLogger(__name__)


def recover_names(catalog: Catalog, directory: Path, layout: type[VersionsLayout], live: Callable[[], Mapping[str, int]]) -> None:
    """Put the entries of `<platform>/stores` or `<platform>/graphs` in order.

    Args:
        layout: of one of them. live: the names that the catalog has now, with their ids.
    """
    if not directory.is_dir() or not _strays(directory, live()):
        return
    with catalog.write():  # nothing is created or deleted meanwhile
        names = live()
        trash_of = {f"{DELETED_PREFIX}{name}-{number}": name for name, number in names.items()}
        for entry in _strays(directory, names):
            path = directory / entry
            if entry in trash_of:
                os.rename(path, directory / trash_of[entry])  # its deletion was not committed
            elif entry.startswith(DELETED_PREFIX):
                remove_tree(path)
            elif layout(path).is_blank():
                trash = directory / f"{DELETED_PREFIX}{entry}-0"
                os.rename(path, trash)
                remove_tree(trash)
            else:
                _LOGGER.warning("%s is left alone: the catalog does not know it; was an older one restored?", path)


def _strays(directory: Path, names: Mapping[str, int]) -> list[str]:
    return [entry for entry in os.listdir(directory) if entry not in names]
