"""Running the decode kernel: buffers before, growth during, errors after.

Buffers of the rows are of exact size and lie in one piece of memory, which the columns share. How much text or how many items a batch
holds is known only once it is read, so the other buffers begin with a guess and grow by doubling while the kernel waits at the
instruction that did not fit. No buffer exceeds what the bytes of the rows can fill: every count was checked against the bytes that
remain. Thread rule: any thread; the kernel runs without the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fondaco.core.errors import DataError
from fondaco.schema import _ops as o
from fondaco.schema._code import CompiledCode, RowsLayout
from fondaco.schema._faults import decode_fault
from fondaco.schema._nodes import ROWS, Role

OFFSET_MAX: Final = (1 << 31) - 1  # Arrow's strings and lists have 32-bit offsets
GUESS_BYTES_MAX: Final = 64 << 20  # first guesses together; larger batches grow into what they need

Words = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(eq=False, slots=True)
class Decoded:
    """What a batch was decoded into. `counts[scope]`: entries written."""

    counts: list[int]
    _layout: RowsLayout
    _rows: Bytes  # the buffers of scope ROWS, one after the other
    _places: Words  # of each of them in `_rows`, in the layout's order
    _sizes: Words
    _grown: dict[int, Bytes]

    def buffer(self, number: int) -> Bytes:
        """Buffer `number` of the code's plan."""
        slot = self._layout.slots.get(number)
        if slot is None:
            return self._grown[number]
        place = self._places[slot]
        return self._rows[place : place + self._sizes[slot]]


def run(compiled: CompiledCode, starts: Words, ends: Words, missing: bool) -> Decoded:
    """Decode rows at absolute addresses.

    Args:
        starts, ends: int64, contiguous, shape [rows]; a start of 0 is a missing row. `missing`: whether there is one.
    Raises:
        DecodeError: bytes that are not a row of the schema; names row, byte and field.
        DataError: more than 2 GiB of text or 2**31 items in one column of the batch.
    """
    from fondaco.schema._decode_kernels import decode_rows
    from fondaco.schema._kernels import SOURCES, current

    decode = current(decode_rows, 11)
    batch = _Batch(compiled, starts, ends, missing)
    state, words, count = batch.state, batch.base, len(starts)
    first_start, first_end = starts.ctypes.data, ends.ctypes.data
    while True:
        decode(
            SOURCES,
            compiled.code_address,
            compiled.tables_address,
            compiled.fill_pc,
            first_start,
            first_end,
            count,
            words + 8 * batch.addresses_at,
            words + 8 * batch.capacity_at,
            words + 8 * batch.scope_used_at,
            words + 8 * batch.scope_capacity_at,
            words + 8 * batch.stack_at,
            words,
        )
        status = int(state[o.STATUS])
        if status == o.DONE:
            return batch.finish()
        if status not in (o.GROW_DATA, o.GROW_SCOPE):
            raise decode_fault(compiled, state, int(starts[state[o.ROW]]))
        grow = batch.grow_data if status == o.GROW_DATA else batch.grow_scope
        grow(int(state[o.DETAIL]), int(state[o.NEEDED]), compiled.paths[int(state[o.PC]) // o.WIDTH])


class _Batch:
    """The memory of one batch while it is decoded: all tables of the kernel in one array, the buffers beside it."""

    def __init__(self, compiled: CompiledCode, starts: Words, ends: Words, missing: bool) -> None:
        self._compiled, self._rows, self._zero_all = compiled, len(starts), missing
        buffers, scopes = len(compiled.buffers), compiled.scope_count
        self.addresses_at = o.STATE_WORDS
        self.capacity_at = self.addresses_at + buffers
        self.scope_used_at = self.capacity_at + buffers
        self.scope_capacity_at = self.scope_used_at + scopes
        self.stack_at = self.scope_capacity_at + scopes
        self._words = np.zeros(self.stack_at + compiled.stack_words, np.int64)
        self.base = self._words.ctypes.data
        self.state = self._words[: o.STATE_WORDS]
        self._words[self.scope_capacity_at : self.stack_at] = OFFSET_MAX  # a scope without buffers only counts
        self._words[self.scope_capacity_at + ROWS] = self._rows
        self._grown: dict[int, Bytes] = {}
        self._allocate_rows()
        if compiled.growing:
            self._allocate_growing(starts, ends)

    def _allocate_rows(self) -> None:
        """Place the buffers of the rows: those that must begin as zeros first, then the others."""
        layout = self._compiled.rows_layout
        self._placed = placed = layout.placed(self._rows)
        self._memory = memory = np.empty(placed.total, np.uint8)
        if self._zero_all or placed.zeroed:
            memory[: placed.total if self._zero_all else placed.zeroed] = 0
        for place in placed.offsets:
            memory[place : place + 4] = 0
        self._words[self.addresses_at + layout.numbers] = placed.places + memory.ctypes.data

    def _allocate_growing(self, starts: Words, ends: Words) -> None:
        row_bytes = int((ends - starts).sum(where=starts != 0)) if self._zero_all else int((ends - starts).sum())
        widths = self._compiled.scope_widths
        sharers = self._compiled.growing
        share = row_bytes if row_bytes * sharers <= GUESS_BYTES_MAX else row_bytes // sharers
        for scope, width in widths.items():
            # Items whose columns are as long as the rows' bytes, and at least one a row.
            self._words[self.scope_capacity_at + scope] = min(max(share // width if width else 0, self._rows, 8), OFFSET_MAX)
        for number, plan in enumerate(self._compiled.buffers):
            if plan.role is Role.DATA:
                self._words[self.capacity_at + number] = min(share, OFFSET_MAX)
                self._allocate(number)
            elif plan.scope != ROWS:
                self._allocate(number)

    def grow_data(self, number: int, needed: int, path: str) -> None:
        """Make room for `needed` bytes in the string data `number`."""
        capacity = self._words[self.capacity_at :]
        capacity[number] = _grown(int(capacity[number]), needed, path)
        self._allocate(number)

    def grow_scope(self, scope: int, needed: int, path: str) -> None:
        """Make room for `needed` entries in all buffers of `scope`."""
        capacity = self._words[self.scope_capacity_at :]
        capacity[scope] = _grown(int(capacity[scope]), needed, path)
        for number, plan in enumerate(self._compiled.buffers):
            if plan.scope == scope and plan.role is not Role.DATA:
                self._allocate(number)

    def _allocate(self, number: int) -> None:
        """Give buffer `number` the size that its capacity asks for, keeping what it holds."""
        plan = self._compiled.buffers[number]
        if plan.role is Role.DATA:
            size = int(self._words[self.capacity_at + number])
        else:
            size = (int(self._words[self.scope_capacity_at + plan.scope]) + (plan.role is Role.OFFSETS)) * plan.width
        new = np.zeros(size, np.uint8) if plan.holes or self._zero_all else np.empty(size, np.uint8)
        if plan.role is Role.OFFSETS:
            new[:4] = 0
        old = self._grown.get(number)
        if old is not None:
            new[: len(old)] = old
        self._grown[number] = new
        self._words[self.addresses_at + number] = new.ctypes.data

    def finish(self) -> Decoded:
        """What was decoded, once the kernel is done."""
        counts = self._words[self.scope_used_at : self.scope_capacity_at].tolist()
        counts[ROWS] = self._rows
        return Decoded(counts, self._compiled.rows_layout, self._memory, self._placed.places, self._placed.sizes, self._grown)


def _grown(capacity: int, needed: int, path: str) -> int:
    if needed > OFFSET_MAX:
        raise DataError(f"column {path!r} of this batch holds more than 2 GiB of text or 2**31 items; decode fewer rows at a time")
    return min(max(needed, 2 * capacity), OFFSET_MAX)
