"""Kernel cache: compiled kernels that were shipped with an installation which its user cannot write to.

Numba keeps compiled code in the `__pycache__` beside the source, and only where it may write there. In a container image the kernels are
compiled when the image is made, by root, and used by another user, often on a root that nobody can write: there Numba would look for
another folder, compile everything again in each new container, and refuse to be imported where it finds none.

    NUMBA_CACHE_LOCATOR_CLASSES=UserProvidedCacheLocator,fondaco.core.kernel_cache.SeededLocator

(deploy/Dockerfile sets it) makes Numba ask this class instead. Where the folder beside the source can be written, it is that folder. Else
it is one of the user's own, in the cache directory or in the temporary one, which begins as a copy of what was shipped: what is there is
used, and what is missing is compiled once. Code is loaded from this folder, so it must be the user's and closed to others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from numba.core.caching import InTreeCacheLocator


class SeededLocator(InTreeCacheLocator):  # type: ignore[misc]  # numba carries no types
    """Where the compiled code of one function is; asked by Numba when a function is decorated."""

    _cache_path: str

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Self | None:
        """The locator of a function in a file; None: it has no file, or no folder can be written."""
        if not os.path.exists(py_file):
            return None
        locator = cls(py_func, py_file)
        shipped = Path(locator._cache_path)
        for folder in (shipped, *_folders_of_user(shipped)):
            locator._cache_path = str(folder)
            with contextlib.suppress(OSError):
                if folder != shipped:
                    _seed(folder, shipped, f"{Path(py_file).stem}.")
                locator.ensure_cache_path()
                return locator
        return None


def _folders_of_user(shipped: Path) -> Iterator[Path]:
    """Folders for what cannot be kept in `shipped`, best first."""
    name = f"{shipped.parent.name}-{hashlib.sha256(os.fsencode(shipped)).hexdigest()[:16]}"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    yield Path(cache) / "fondaco" / "kernels" / name
    yield Path(tempfile.gettempdir()) / f"fondaco-kernels-{os.geteuid()}" / name


def _seed(folder: Path, shipped: Path, prefix: str) -> None:
    """Copy the shipped kernels of one module that `folder` lacks.

    Raises:
        OSError: it cannot be written, or belongs to somebody else.
    """
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = made.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{made} must be a folder of user {os.geteuid()} that nobody else can write")
    with contextlib.suppress(FileNotFoundError), os.scandir(shipped) as entries:
        # An index names files of code: it comes last, so that whoever sees it finds them.
        wanted = (entry for entry in entries if entry.name.startswith(prefix) and entry.name.endswith((".nbc", ".nbi")))
        for entry in sorted(wanted, key=lambda entry: entry.name.endswith(".nbi")):
            target = folder / entry.name
            if not target.exists():
                new = target.with_name(f"{entry.name}.{os.getpid()}")  # another process may copy it at the same time
                shutil.copyfile(entry.path, new)
                new.replace(target)
