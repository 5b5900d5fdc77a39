"""Memory that batches are put into, used again when nothing refers to it any more; pinned for copies to a device if asked.

A fresh array of 24 MB costs six thousand page faults, and pinning costs more than copying; so a loader keeps what it has allocated. A
buffer is lent until the last array or tensor over it is gone, whoever holds it: a trainer may keep batches as long as it likes, then more
buffers are made. `BatchBuffers(n)` is the `Allocator` that a graph takes. Any thread; not shared between processes (each makes its own).
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

_STEP: Final = 1 << 16
_SMALL: Final = 1 << 16  # below, the allocator of the C library is as good

_Bytes = npt.NDArray[np.uint8]


class BatchBuffers:
    """Lends memory. Keeps at most `spare` buffers that nobody uses."""

    def __init__(self, *, pin_memory: bool = False, spare: int = 8) -> None:
        self.pinned = pin_memory and torch.cuda.is_available()
        self._spare: deque[_Bytes] = deque(maxlen=spare)  # the oldest falls out
        self._lock = threading.Lock()

    def __call__(self, size: int) -> _Bytes:
        """Writable memory of `size` bytes, aligned to 64; what is in it is undefined."""
        if size < _SMALL and not self.pinned:
            return _new_bytes(size, pinned=False)
        buffer = self._take(size)
        if buffer is None:
            # An eighth more: batches differ a little in size, and a buffer that is just too small is of no use.
            buffer = _new_bytes(-(-(size + size // 8) // _STEP) * _STEP, self.pinned)
        return np.asarray(_Lease(self, buffer, size))

    def copy_of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`array`, copied into a buffer."""
        copied = self(array.nbytes).view(array.dtype).reshape(array.shape)
        np.copyto(copied, array)
        return copied

    @property
    def spare_count(self) -> int:
        """Buffers that nobody uses at this moment."""
        return len(self._spare)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same_kind, (self.pinned, self._spare.maxlen)

    def _take(self, size: int) -> _Bytes | None:
        with self._lock:
            seen = []
            while self._spare:  # taken out while one looks: a finalizer may append at any moment, even in this thread
                seen.append(self._spare.popleft())
            fitting = [buffer for buffer in seen if size <= buffer.nbytes <= 2 * size + _STEP]
            smallest = min(fitting, key=lambda buffer: buffer.nbytes, default=None)
            self._spare.extend(buffer for buffer in seen if buffer is not smallest)
            return smallest

    def _take_back(self, buffer: _Bytes) -> None:
        self._spare.append(buffer)  # atomic, and without the lock: this runs in whatever thread drops the last reference


class _Lease:
    """One loan. Arrays over it refer to it; when the last is gone it goes too, and its finalizer gives the buffer back."""

    def __init__(self, owner: BatchBuffers, buffer: _Bytes, size: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (buffer.ctypes.data, False), "shape": (size,), "typestr": "|u1"}
        weakref.finalize(self, owner._take_back, buffer).atexit = False


def _new_bytes(size: int, pinned: bool) -> _Bytes:
    if pinned:
        page_aligned: _Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return page_aligned
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _same_kind(pinned: bool, spare: int) -> BatchBuffers:
    return BatchBuffers(pin_memory=pinned, spare=spare)
