"""Owner: whose a service is, where several platforms share a cluster: none of them sees, adopts or removes what is another's.

It must outlive the catalog, so that what runs is found again when a catalog was lost: configured ([services] owner), or that of the
PostgreSQL database that is the catalog, or a name kept in a file beside the catalog.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from fondaco.core.config import Config
from fondaco.core.errors import InputError, ReadOnlyError
from fondaco.core.files import os_errors

OWNER_FILE: Final = "owner"
_OWNER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")  # a label's value in Kubernetes


def owner_of(directory: Path, config: Config) -> str:
    """The owner of a platform's services.

    Raises:
        InputError: the configured one cannot be a label. ReadOnlyError: it has none yet, and the directory cannot be written.
    """
    configured = config.services.owner
    if configured is not None:
        if not _OWNER.fullmatch(configured):
            raise InputError(f"[services] owner: {configured!r} must be letters, digits, '-', '_' and '.', 63 at most, as 'production'")
        return configured
    if config.catalog.url is not None:
        from sqlalchemy.engine import make_url

        url = make_url(config.catalog.url)
        return hashlib.sha256(f"{url.host}:{url.port or 5432}/{url.database}".encode()).hexdigest()[:12]
    path = directory / "services" / OWNER_FILE
    with os_errors(path):
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pass
    if not os.access(directory, os.W_OK, effective_ids=True):
        raise ReadOnlyError(str(directory))
    return _choose(path)


def _choose(path: Path) -> str:
    """Make the file, whole from the start, unless another process is first."""
    chosen = secrets.token_hex(6)
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{OWNER_FILE}.{chosen}")
        draft.write_text(chosen + "\n", encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text(encoding="ascii").strip()
