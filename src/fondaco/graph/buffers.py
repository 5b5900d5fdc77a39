"""Buffers: memory for big arrays that is used again once nobody looks at it.

Memory fresh from the system is zeroed page by page when it is first touched, which costs about as much as gathering features into it. A
`BufferPool` hands out arrays over buffers that it has had before; a buffer comes back when the last array (or view) over it is gone, so
there is nothing to release. Any thread; a forked child may go on with it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ALIGNMENT: Final = 64
POOLED_BYTES_MIN: Final = 64 << 10  # smaller ones are the allocator's own affair
KEPT_BYTES_MAX: Final = 512 << 20
_KEPT_MAX: Final = 32
_WASTE_MAX: Final = 2  # a buffer may be so many times larger than what is asked for


class BufferPool:
    """Buffers that come back by themselves."""

    def __init__(self, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._kept: deque[npt.NDArray[np.uint8]] = deque()  # its methods are atomic: no lock that a fork could leave locked
        self._kept_bytes_max = kept_bytes_max

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Writable memory of `size` bytes, aligned to 64. What it holds is left from before."""
        if size < POOLED_BYTES_MIN:
            return _aligned(size)
        buffer = self._find(size)
        if buffer is None:
            buffer = _aligned(size + (size >> 3))  # answers of one kind differ a little in size
        lease = _Lease(buffer)
        array = np.asarray(lease)
        weakref.finalize(lease, self._give_back, buffer).atexit = False
        return array[:size]

    @property
    def kept_bytes(self) -> int:
        """Bytes of buffers that nobody uses now."""
        return sum(buffer.nbytes for buffer in list(self._kept))

    def _find(self, size: int) -> npt.NDArray[np.uint8] | None:
        for _ in range(len(self._kept)):
            try:
                buffer = self._kept.popleft()
            except IndexError:
                return None
            if size <= buffer.nbytes <= _WASTE_MAX * size:
                return buffer
            self._kept.append(buffer)
        return None

    def _give_back(self, buffer: npt.NDArray[np.uint8]) -> None:
        self._kept.append(buffer)
        while len(self._kept) > _KEPT_MAX or self.kept_bytes > self._kept_bytes_max:
            try:
                self._kept.popleft()
            except IndexError:
                return


class _Lease:
    """What an array over a buffer holds on to; when it goes, the buffer comes back."""

    __slots__ = ("__array_interface__", "__weakref__", "buffer")

    def __init__(self, buffer: npt.NDArray[np.uint8]) -> None:
        self.buffer = buffer
        self.__array_interface__: dict[str, Any] = buffer.__array_interface__


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
