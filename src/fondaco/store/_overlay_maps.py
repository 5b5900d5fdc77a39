"""Maps of files that grow while they are mapped: address space is reserved beyond the file's end, and bytes appear in it as they come.

Touching a page beyond the end of the file kills the process, so readers stay below what the tailer's cells say is there. Python's own
`mmap` refuses to reserve beyond the end; therefore this one. The memory stays mapped as long as anything refers to `memory` (a row that
views it, a view of the overlay); removing the file does not take it away. Any thread.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fondaco.core.files import os_errors

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.restype = ctypes.c_int
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.restype = ctypes.c_int
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED: Final = ctypes.c_void_p(-1).value
_UNMAP: Final[Callable[[int, int], int]] = _LIBC.munmap


class GrowingMap:
    """A mapped file: `address`, `bytes` reserved (at least the file's), and `memory`, a memoryview of them."""

    __slots__ = ("address", "bytes", "identity", "memory")

    def __init__(self, path: Path, *, reserve_bytes: int = 0, writable: bool = False, random: bool = True) -> None:
        """
        Args:
            reserve_bytes: address space to take; less than the file has, or nothing, means as much as the file has.
            random: advise the kernel not to read ahead: neighbours in a log are not asked for together.
        Raises:
            FileNotFoundError. OSError: no address space is left.
        """
        with os_errors(path):
            descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            self.identity = (status.st_dev, status.st_ino)
            self.bytes = max(_pages(reserve_bytes), _pages(status.st_size), mmap.PAGESIZE)
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            address = _LIBC.mmap(None, self.bytes, access, mmap.MAP_SHARED, descriptor, 0)
            if address == _FAILED:  # address space is short (ulimit -v): then without a reserve, and mapped again when the file grows
                self.bytes = max(_pages(status.st_size), mmap.PAGESIZE)
                address = _LIBC.mmap(None, self.bytes, access, mmap.MAP_SHARED, descriptor, 0)
            if address == _FAILED:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(path))
        finally:
            os.close(descriptor)
        if random:
            _LIBC.madvise(address, self.bytes, mmap.MADV_RANDOM)
        holder: Any = (ctypes.c_ubyte * self.bytes).from_address(address)
        weakref.finalize(holder, _UNMAP, address, self.bytes).atexit = False  # at exit other threads may still read
        self.address: int = address
        self.memory = memoryview(holder).cast("B")


def _pages(count: int) -> int:
    return -(-count // mmap.PAGESIZE) * mmap.PAGESIZE
