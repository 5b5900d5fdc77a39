"""Merging in a tailer: deferred log records become states, one per key, as records of the side heap or slots to a single log record.

Every key's records of a step are merged with what its slot leads to now. If the outcome is what one log record says by itself, the slot
leads there; else the state is written to the side heap, framed as a log record is (so the same kernel checks and compares it):

    bytes u32, checksum u32, zero i64, timestamp of its newest write i64, key bytes i32, state bytes i32, zeros 8, key, state, zeros to 8

States that were decoded lately are kept, since hot keys are patched again and again. Belongs to one partition's tailer; not thread-safe.
"""

from __future__ import annotations

import ctypes
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, DecodeError
from fondaco.store import _overlay_kernels as probes
from fondaco.store import _tailer_kernels as kernels
from fondaco.store._overlay_view import OverlayView
from fondaco.store.basefile import address_of
from fondaco.store.merge import NOTHING, State, encode_state, merge, state_of
from fondaco.store.writes import decode_write

I64Array = npt.NDArray[np.int64]

_RECORD: Final = Struct("<IIqqiiq")
_ALWAYS: Final = -(1 << 63)
_U64: Final = (1 << 64) - 1
_CACHED: Final = 4096


class Outcome(NamedTuple):
    """What to write to the side heap, and where slots then lead: key address, key bytes, hash, offset, 1 if in the side heap."""

    heap: npt.NDArray[np.uint8]
    slots: list[tuple[int, int, int, int, int]]
    garbage: int  # bytes of the side heap that nothing leads to any more
    skipped: int  # records that could not be decoded
    damaged: int  # records that could not be merged because what they belong to is damaged


class _Deferred(NamedTuple):
    key_address: int
    hash: int
    writes: list[tuple[int, State]]  # log position, and what it says


class Merger:
    """Merges for one partition."""

    def __init__(self) -> None:
        self._states: dict[bytes, tuple[int, State]] = {}  # key -> address of the bytes that it was decoded from, state

    def forget(self) -> None:
        """Maps have changed, so addresses mean nothing any more."""
        self._states.clear()

    def run(self, view: OverlayView, deferred: I64Array, *, origin: int, side_offset: int) -> Outcome:
        """Merge records.

        Args:
            view: of this partition alone, with all of them in it.
            deferred: int64 [n, 4]: address, log position, hash, bytes.
            origin: log position that slots count from. side_offset: where the first new record of the side heap will lie.
        """
        keys, skipped = _by_key(deferred)
        heap = bytearray()
        slots: list[tuple[int, int, int, int, int]] = []
        garbage = damaged = 0
        side_memory = len(view.memories) - 1
        for key, (key_address, hash_, written) in keys.items():
            kind, memory, start, end, _, timestamp_ms = probes.find(key_address, len(key), np.uint64(hash_), view.table, _ALWAYS)
            before = NOTHING
            if kind != probes.NONE:
                found = self._state(view, key, kind, memory, start, end, timestamp_ms)
                if found is None:
                    damaged += len(written)
                    continue
                before = found
            state = before
            for _, write in written:
                state = merge(state, write)
            if state == before:
                continue
            if kind == probes.MERGE and memory == side_memory:
                garbage += _aligned(probes.RECORD_BYTES + len(key) + end - start)
            position = next((position for position, write in reversed(written) if write == state), None)
            if position is not None:
                self._states.pop(key, None)
                slots.append((key_address, len(key), hash_, position - origin, 0))
                continue
            offset = side_offset + len(heap)
            data = encode_state(state)
            content = probes.RECORD_BYTES + len(key) + len(data)
            length = _aligned(content)
            heap += _RECORD.pack(length, 0, 0, state.newest_ms, len(key), len(data), 0)
            heap += key
            heap += data
            heap += bytes(length - content)
            slots.append((key_address, len(key), hash_, offset, 1))
            self._keep(key, view.bases[side_memory] + offset + probes.RECORD_BYTES + len(key), state)
        array = np.frombuffer(heap, np.uint8)
        kernels.seal_records(address_of(array), address_of(array) + len(heap))
        return Outcome(array, slots, garbage, skipped, damaged)

    def _state(self, view: OverlayView, key: bytes, kind: int, memory: int, start: int, end: int, timestamp_ms: int) -> State | None:
        if kind < 0:
            return None
        kept = self._states.get(key)
        if kept is not None and kept[0] == start:
            return kept[1]
        try:
            state = view.state_at(memory, start, end, timestamp_ms, kind=kind)
        except CorruptFileError:
            return None
        self._keep(key, start, state)
        return state

    def _keep(self, key: bytes, address: int, state: State) -> None:
        if len(self._states) >= _CACHED:
            self._states.clear()
        self._states[key] = address, state


def _by_key(deferred: I64Array) -> tuple[dict[bytes, _Deferred], int]:
    """Records by key, in the order of the log, and how many could not be decoded."""
    keys: dict[bytes, _Deferred] = {}
    skipped = 0
    for address, position, hash_, length in deferred.tolist():
        raw = ctypes.string_at(address, length)
        _, _, _, timestamp_ms, key_bytes, value_bytes, _ = _RECORD.unpack_from(raw)
        value_at = probes.RECORD_BYTES + key_bytes
        key = raw[probes.RECORD_BYTES : value_at]
        try:
            state = state_of(decode_write(raw[value_at : value_at + value_bytes] if value_bytes >= 0 else None, timestamp_ms))
        except DecodeError:
            skipped += 1
            continue
        found = keys.get(key)
        if found is None:
            found = keys[key] = _Deferred(address + probes.RECORD_BYTES, hash_ & _U64, [])
        found.writes.append((position, state))
    return keys, skipped


def _aligned(count: int) -> int:
    return -(-count // 8) * 8
