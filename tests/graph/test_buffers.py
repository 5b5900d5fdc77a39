"""Buffers come back by themselves, and never while somebody looks at them."""

from __future__ import annotations

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fondaco.graph.buffers import ALIGNMENT, POOLED_BYTES_MIN, BufferPool

SIZE = 4 * POOLED_BYTES_MIN


def test_a_buffer_is_used_again_once_it_is_gone() -> None:
    pool = BufferPool()
    first = pool.take(SIZE)
    address = first.ctypes.data
    assert pool.kept_bytes == 0
    del first
    assert pool.kept_bytes >= SIZE
    assert pool.take(SIZE).ctypes.data == address


def test_a_view_keeps_its_buffer() -> None:
    pool = BufferPool()
    array = pool.take(SIZE).view(np.float32).reshape(-1, 16)
    row = array[3]
    row[:] = 7
    del array
    gc.collect()
    assert pool.kept_bytes == 0
    other = pool.take(SIZE)
    other[:] = 0
    assert row.tolist() == [7.0] * 16


def test_small_ones_are_not_kept() -> None:
    pool = BufferPool()
    pool.take(POOLED_BYTES_MIN - 1)
    assert pool.kept_bytes == 0


def test_what_is_kept_is_bounded() -> None:
    pool = BufferPool(kept_bytes_max=3 * SIZE)
    held = [pool.take(SIZE) for _ in range(10)]
    held.clear()
    assert 0 < pool.kept_bytes <= 3 * SIZE


def test_a_much_larger_buffer_is_left_for_others() -> None:
    pool = BufferPool()
    large = pool.take(16 * SIZE)
    address = large.ctypes.data
    del large
    assert pool.take(SIZE).ctypes.data != address
    assert pool.take(15 * SIZE).ctypes.data == address


@given(st.integers(0, 3 * POOLED_BYTES_MIN))
def test_memory_is_aligned_writable_and_of_the_size_asked_for(size: int) -> None:
    memory = BufferPool().take(size)
    assert (memory.dtype, memory.shape, memory.flags.writeable) == (np.uint8, (size,), True)
    assert size == 0 or memory.ctypes.data % ALIGNMENT == 0
    memory[:] = 1
