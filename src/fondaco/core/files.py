"""Files: atomic replacement, durable directories, locks, and operating-system errors turned into ours.

Everything here is synchronous and safe to call from any thread; a lock belongs to the object that took it and dies with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from fondaco.core.errors import DiskFullError, LockedError, ReadOnlyError


@contextlib.contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn "no space", "quota" and "read-only" from the operating system into errors that say what to do."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(str(path)) from exc
        if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(str(path)) from exc
        raise


def sync_directory(path: Path) -> None:
    """Make names in `path` durable: on ext4 a new file's name can vanish after power loss although its bytes were synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace `path` by `data` so that a crash leaves the old or the new content, never a mixture.

    Args:
        mode: permissions of the new file from its first byte on, less the process's umask.
    Raises:
        DiskFullError, ReadOnlyError: nothing was replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # not the process's id: threads write the same file too
    with os_errors(path):
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; absent is fine. Files that readers have mapped stay readable to them until they let go."""
    shutil.rmtree(path, ignore_errors=True)


class FileLock:
    """An exclusive lock between processes, released by the kernel when its holder dies (flock(2)).

    The file holds the pid of the holder, for messages only. Use as a context manager, or `acquire` and `release`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            LockedError: another process (or another FileLock of this one) holds it.
            ReadOnlyError: the directory cannot be written.
        """
        with os_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0)
            os.close(descriptor)
            raise LockedError(str(self.path), int(holder) if holder.strip().isdigit() else None) from None
        with contextlib.suppress(OSError):  # the pid is for messages; a full disk must not stop a clean-up that makes room
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; without it, nothing happens."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self._descriptor is not None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.release()
