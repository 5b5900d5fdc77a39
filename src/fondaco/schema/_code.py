"""Compiled code: the instructions of one program for one choice of fields, and the buffers they write. Never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fondaco.schema._nodes import ROWS, BufferPlan, Node, Role

Words = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """`RowsLayout` for a number of rows: bytes and place of each buffer, bytes of all, those that begin as zeros, places of offsets."""

    sizes: Words
    places: Words
    total: int
    zeroed: int
    offsets: tuple[int, ...]


_PLACED_MAX: Final = 64


@dataclass(frozen=True, eq=False, slots=True)
class RowsLayout:
    """The buffers with one entry a row, whose sizes are known before a row is read. int64 arrays, one element a buffer.

    Those that must begin as zeros come first: the first `zeroed` of them. A buffer has `widths * rows + extra` bytes.
    """

    numbers: Words
    slots: dict[int, int]  # number of a buffer -> its place in these arrays
    widths: Words
    extra: Words
    is_offsets: np.ndarray[Any, np.dtype[np.bool_]]
    zeroed: int
    _placed: dict[int, Placed] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, buffers: Sequence[BufferPlan]) -> RowsLayout:
        """The layout of `buffers`."""
        numbers = [number for number, plan in enumerate(buffers) if plan.scope == ROWS and plan.role is not Role.DATA]
        numbers.sort(key=lambda number: not buffers[number].holes)
        plans = [buffers[number] for number in numbers]
        is_offsets = np.array([plan.role is Role.OFFSETS for plan in plans], np.bool_)
        widths = np.array([plan.width for plan in plans], np.int64)
        slots = {number: slot for slot, number in enumerate(numbers)}
        return cls(np.array(numbers, np.int64), slots, widths, widths * is_offsets, is_offsets, sum(plan.holes for plan in plans))

    def placed(self, rows: int) -> Placed:
        """Where the buffers of so many rows lie in one piece of memory. Kept: batches tend to be of few sizes."""
        found = self._placed.get(rows)
        if found is None:
            sizes = self.widths * rows + self.extra
            places = np.zeros(len(sizes) + 1, np.int64)
            np.cumsum((sizes + 63) & -64, out=places[1:])
            offsets = tuple(places[:-1][self.is_offsets].tolist())
            found = Placed(sizes, places[:-1], int(places[-1]), int(places[self.zeroed]), offsets)
            if len(self._placed) >= _PLACED_MAX:
                self._placed.clear()
            self._placed[rows] = found
        return found


@dataclass(eq=False, slots=True)
class CompiledCode:
    """Op-codes for one choice of fields, and the buffers they write. Never changes."""

    code: Words
    tables: Words
    fill_pc: int  # where the code for a missing row begins
    nodes: dict[str, Node]  # the columns, in the order asked for
    buffers: tuple[BufferPlan, ...]
    scope_count: int
    stack_words: int
    paths: tuple[str, ...]  # of each instruction
    reasons: tuple[str, ...]  # of REFUSE instructions
    constants: tuple[bytes, ...]  # kept alive: the code holds their addresses
    rows_layout: RowsLayout = field(init=False)
    scope_widths: dict[int, int] = field(init=False)  # bytes of an entry in all buffers of a scope other than the rows
    default_bytes: int = field(init=False)  # of all defaults that the writer's rows lack, in one row
    growing: int = field(init=False)  # how many scopes and texts grow while a batch is read
    code_address: int = field(init=False)
    tables_address: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows_layout = RowsLayout.of(self.buffers)
        self.scope_widths = {}
        for plan in self.buffers:
            if plan.scope != ROWS and plan.role is not Role.DATA:
                self.scope_widths[plan.scope] = self.scope_widths.get(plan.scope, 0) + plan.width
        self.default_bytes = sum(map(len, self.constants))
        self.growing = len(self.scope_widths) + sum(plan.role is Role.DATA for plan in self.buffers)
        self.code_address, self.tables_address = self.code.ctypes.data, self.tables.ctypes.data
