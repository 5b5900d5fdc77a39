"""Ring: shared memory that answers are written into by a server on the same machine, so that a batch is never copied.

The client owns it. A *slot* is a sealed memfd that goes to the server once, as a descriptor over the Unix socket; each request names a free
slot, the server writes the answer's arrays straight into it, and the client's arrays are views of it. When the last view is gone, the slot
is free again. So flow control is the client's alone and nobody waits: without a free slot, or with one too small, the answer comes through
the socket. A client killed at any moment leaves nothing: the memory dies with its last holder.

The server maps only what is sealed against shrinking (a file cut short under its mapping would kill it), and of a stated size.
A `Ring` serves one connection and one exchange at a time; views may die in any thread. After a fork, what was lent before is never written
again by the parent, because the child may still look at it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import weakref
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import LimitError, ProtocolError
from fondaco.graph.buffers import BufferPool
from fondaco.graph.service.frames import Array, aligned, total_bytes

Bytes = npt.NDArray[np.uint8]

SLOT_BYTES_MIN: Final = 256 << 10  # what is smaller comes through the socket as fast
BUDGET_BYTES: Final = 1 << 30  # of one client's answers in rings; what it keeps beyond lies in memory of its own
SLOTS_MAX: Final = 64  # of a connection, in the server
ATTACHED_BYTES_MAX: Final = 8 << 30
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_HUGE: Final = 2 << 20


class Budget:
    """How much memory the slots of several rings may hold together. Any thread."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self.limit = limit
        self._slots: weakref.WeakSet[Slot] = weakref.WeakSet()  # a slot counts as long as its memory is mapped
        self._lock = threading.Lock()

    def used(self) -> int:
        """Bytes of living slots."""
        with self._lock:
            return sum(slot.size for slot in self._slots)

    def take(self, slot: Slot) -> None:
        """Count a slot until it dies."""
        with self._lock:
            self._slots.add(slot)


class Slot:
    """One piece of memory. `descriptor` is open until the server has it."""

    __slots__ = ("__weakref__", "array", "descriptor", "number", "retired", "size")

    def __init__(self, number: int, size: int) -> None:
        """
        Raises:
            OSError: there is no memory for it.
        """
        self.number, self.size, self.retired = number, size, False
        descriptor = os.memfd_create("fondaco-graph", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.descriptor: int | None = descriptor
        try:
            os.posix_fallocate(descriptor, 0, size)  # now, where it is an error; on a write by the server it would be its end
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self.array = _map(descriptor, size)
        except BaseException:
            self.sent()
            raise

    def sent(self) -> None:
        """Close the descriptor: the server has its own, or will never have one."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class _Lease:
    """What the arrays of an answer stand on. It keeps the slot's memory; its end gives the slot back."""

    __slots__ = ("__array_interface__", "__weakref__", "_slot")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.__array_interface__ = slot.array.__array_interface__


class Ring:
    """The slots of one connection."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._free: list[Slot] = []
        self._lent: set[Slot] = set()
        self._returned: deque[Slot] = deque()  # filled by ends of views, in whatever thread and moment; so no lock
        self._dropped: list[int] = []
        self._made = 0
        _rings.add(self)

    def take(self, size: int) -> Slot | None:
        """A slot for so many bytes that nobody looks at; None: there is none, and no room for one, or it would not pay."""
        if size < SLOT_BYTES_MIN:
            return None
        self._collect()
        fitting = [slot for slot in self._free if size <= slot.size <= 8 * size]  # what is small shall not hold what is big
        if fitting:
            slot = min(fitting, key=lambda slot: slot.size)
            self._free.remove(slot)
            return slot
        return self._make(_rounded(size))

    def lend(self, slot: Slot) -> Bytes:
        """The slot's bytes; it comes back when this array and all views of it are gone."""
        lease = _Lease(slot)
        self._lent.add(slot)
        weakref.finalize(lease, self._returned.append, slot).atexit = False
        return np.asarray(lease)

    def put_back(self, slot: Slot) -> None:
        """Take a slot back that was never lent."""
        self._free.append(slot)

    def take_dropped(self) -> list[int]:
        """Numbers of slots that are no more, for the server; each once."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def close(self) -> None:
        """Forget the slots; those that are lent live as long as their views."""
        self._collect()
        for slot in self._free:
            slot.sent()
        self._free.clear()
        self._lent.clear()

    def retire_lent(self) -> None:
        """Never use again what is lent now."""
        for slot in tuple(self._lent):
            slot.retired = True

    def _collect(self) -> None:
        while self._returned:
            slot = self._returned.popleft()
            self._lent.discard(slot)
            if slot.retired:
                self._drop(slot)
            else:
                self._free.append(slot)

    def _drop(self, slot: Slot) -> None:
        slot.sent()
        self._dropped.append(slot.number)

    def _make(self, size: int) -> Slot | None:
        while len(self._free) + len(self._lent) >= SLOTS_MAX - 1 or self._budget.used() + size > self._budget.limit:
            if not self._free:
                return None
            self._drop(self._free.pop(0))
        try:
            slot = Slot(self._made, size)
        except OSError:
            return None
        self._made += 1
        self._budget.take(slot)
        return slot


_rings: weakref.WeakSet[Ring] = weakref.WeakSet()


def _after_fork_in_parent() -> None:
    for ring in tuple(_rings):
        ring.retire_lent()


os.register_at_fork(after_in_parent=_after_fork_in_parent)


def _rounded(size: int) -> int:
    """A quarter more than is needed, in steps of an eighth of it: answers to alike questions differ a little."""
    wanted = size + size // 4
    step = max(1 << (wanted.bit_length() - 4), 64 << 10)
    return -(-wanted // step) * step


def _map(descriptor: int, size: int) -> Bytes:
    memory = mmap.mmap(descriptor, size)
    if size >= _HUGE:
        with contextlib.suppress(OSError):  # advice; some kernels have none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


# -- the server's side ----------------------------------------------------------------------------------------------------------------


class Attached:
    """The slots of one connection, as its server maps them. One thread."""

    def __init__(self) -> None:
        self._slots: dict[int, Bytes] = {}

    def attach(self, number: int, size: int, descriptor: int, peer: str) -> None:
        """Map a slot; the descriptor stays the caller's.

        Raises:
            ProtocolError: the memory is not what it is said to be, or could be taken away. LimitError: there is too much of it.
        """
        if len(self._slots) >= SLOTS_MAX:
            raise LimitError("slots of shared memory on one connection", len(self._slots) + 1, SLOTS_MAX)
        held = sum(slot.nbytes for slot in self._slots.values())
        if held + size > ATTACHED_BYTES_MAX:
            raise LimitError("shared memory of one connection, in bytes", held + size, ATTACHED_BYTES_MAX)
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            raise ProtocolError(peer, "a descriptor that is no sealed memory") from None
        if seals & _SEALS != _SEALS or os.fstat(descriptor).st_size != size or number in self._slots or size < 1:
            raise ProtocolError(peer, f"slot {number} of {size} bytes, which is not sealed, of another size, or there already")
        try:
            self._slots[number] = _map(descriptor, size)
        except OSError as exc:
            raise ProtocolError(peer, f"slot {number}, which cannot be mapped: {exc.strerror}") from None

    def detach(self, number: int) -> None:
        """Unmap a slot; unknown is fine."""
        self._slots.pop(number, None)

    def find(self, number: int) -> Bytes | None:
        """The bytes of a slot."""
        return self._slots.get(number)

    def close(self) -> None:
        """Unmap all."""
        self._slots.clear()


class AnswerMemory:
    """Where the arrays of one answer go: into the slot as long as there is room, then into the pool. An `Allocator`. One thread."""

    def __init__(self, slot: Bytes | None, pool: BufferPool) -> None:
        self._slot, self._pool = slot, pool
        self._end = 0

    def __call__(self, size: int) -> Bytes:
        if self._slot is not None and self._end + size <= self._slot.nbytes:
            return self._take(self._slot, size)
        return self._pool.take(size)

    def _take(self, slot: Bytes, size: int) -> Bytes:
        found = slot[self._end : self._end + size]
        self._end = aligned(self._end + size)
        return found

    def place(self, arrays: dict[str, Array]) -> dict[str, int]:
        """Offsets of the arrays that lie in the slot, after copying those into it that do not and fit."""
        if self._slot is None:
            return {}
        begin, placed = _address(self._slot), {}
        for name, array in arrays.items():
            if not array.nbytes:
                continue
            offset = _address(array) - begin
            if not (offset >= 0 and offset + array.nbytes <= self._end and offset % 64 == 0):
                if self._end + array.nbytes > self._slot.nbytes:
                    continue
                offset = self._end
                self._take(self._slot, array.nbytes).view(array.dtype)[:] = array.reshape(-1)
            placed[name] = offset
        return placed


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def room_of(arrays: dict[str, Array]) -> int:
    """Bytes of a slot that holds all of them."""
    return total_bytes(arrays.values())
