"""Slots of shared memory: given back when nobody looks, never written again under a child, and only sealed ones are mapped."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest

from fondaco.core.errors import LimitError, ProtocolError
from fondaco.graph.buffers import BufferPool
from fondaco.graph.service.ring import SLOT_BYTES_MIN, SLOTS_MAX, AnswerMemory, Attached, Budget, Ring, room_of

SIZE = 1 << 20


def test_a_slot_comes_back_when_the_last_view_of_it_is_gone() -> None:
    ring = Ring(Budget())
    slot = ring.take(SIZE)
    assert slot is not None
    whole = ring.lend(slot)
    part = whole[64:128].view(np.int64)
    del whole
    other = ring.take(SIZE)
    assert other is not None
    assert other is not slot
    del part
    gc.collect()
    assert ring.take(SIZE) is slot
    ring.close()
    other.sent()


def test_views_may_end_in_any_thread() -> None:
    ring = Ring(Budget())
    slot = ring.take(SIZE)
    assert slot is not None
    held = [ring.lend(slot)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert ring.take(SIZE) is slot
    slot.sent()


def test_without_room_in_the_budget_there_is_no_slot_until_one_is_given_back() -> None:
    ring = Ring(Budget(3 * SIZE))
    slots = [ring.take(SIZE) for _ in range(4)]
    lent = [ring.lend(slot) for slot in slots if slot is not None]
    assert [slot is not None for slot in slots] == [True, True, False, False]
    lent.pop()
    again = ring.take(SIZE)
    assert again is slots[1]
    ring.close()
    for slot in slots[:2]:
        assert slot is not None
        slot.sent()


def test_a_budget_counts_slots_of_closed_connections_as_long_as_their_views_live() -> None:
    budget = Budget(3 * SIZE)
    ring = Ring(budget)
    slot = ring.take(SIZE)
    assert slot is not None
    lent = ring.lend(slot)
    slot.sent()
    ring.close()
    size = slot.size
    del ring, slot
    assert budget.used() == size
    lent[:] = 7
    assert lent[-1] == 7
    del lent
    gc.collect()
    assert budget.used() == 0


def test_small_slots_give_way_to_larger_ones_and_their_numbers_are_told() -> None:
    ring = Ring(Budget(3 * SIZE))
    small = ring.take(SIZE)
    assert small is not None
    number = small.number
    ring.put_back(small)
    del small
    large = ring.take(2 * SIZE)
    assert large is not None
    assert ring.take_dropped() == [number]
    assert ring.take_dropped() == []
    assert ring.take(SLOT_BYTES_MIN - 1) is None
    large.sent()


def test_what_a_forked_child_looks_at_is_never_written_again() -> None:
    ring = Ring(Budget())
    slot = ring.take(SIZE)
    assert slot is not None
    lent = ring.lend(slot)
    lent[:] = 1
    tell, hear = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(tell[0], 1)
        os.write(hear[1], bytes([int(lent[0])]))
        os._exit(0)
    del lent
    again = ring.take(SIZE)
    assert again is not None
    assert again is not slot
    again.array[:] = 2
    os.write(tell[1], b"x")
    assert os.read(hear[0], 1) == b"\x01"
    os.waitpid(child, 0)
    for descriptor in (*tell, *hear):
        os.close(descriptor)
    again.sent()
    slot.sent()


# -- the server's side ----------------------------------------------------------------------------------------------------------------


def memfd(size: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def test_memory_that_could_be_cut_short_is_not_mapped() -> None:
    attached, descriptor = Attached(), memfd(SIZE)
    with pytest.raises(ProtocolError, match="not sealed"):
        attached.attach(0, SIZE, descriptor, "client")
    os.close(descriptor)
    pipe = os.pipe()
    with pytest.raises(ProtocolError, match="no sealed memory"):
        attached.attach(0, SIZE, pipe[0], "client")
    for descriptor in pipe:
        os.close(descriptor)


def test_memory_of_another_size_than_it_is_said_to_have_is_not_mapped() -> None:
    slot = Ring(Budget()).take(SIZE)
    assert slot is not None
    assert slot.descriptor is not None
    attached = Attached()
    with pytest.raises(ProtocolError, match="another size"):
        attached.attach(0, slot.size + 1, slot.descriptor, "client")
    with pytest.raises(LimitError):
        attached.attach(0, 1 << 50, slot.descriptor, "client")
    attached.attach(0, slot.size, slot.descriptor, "client")
    with pytest.raises(ProtocolError, match="there already"):
        attached.attach(0, slot.size, slot.descriptor, "client")
    for number in range(1, SLOTS_MAX):
        attached.attach(number, slot.size, slot.descriptor, "client")
    with pytest.raises(LimitError, match="slots of shared memory"):
        attached.attach(SLOTS_MAX, slot.size, slot.descriptor, "client")
    attached.detach(3)
    attached.detach(3)
    attached.attach(3, slot.size, slot.descriptor, "client")
    attached.close()
    assert attached.find(3) is None
    slot.sent()


def test_arrays_of_an_answer_are_placed_in_the_slot_as_far_as_they_fit() -> None:
    slot = np.zeros(1024, np.uint8)
    memory = AnswerMemory(slot, BufferPool())
    inside = memory(200).view(np.float32)
    inside[:] = 3
    too_large = memory(4096)
    arrays = {
        "inside": inside,
        "view": inside[16:20],
        "copied": np.arange(10),
        "too large": too_large,
        "empty": np.zeros((0, 4), np.float32),
        "misaligned": inside[1:3],
    }
    placed = memory.place(arrays)
    assert set(placed) == {"inside", "view", "copied", "misaligned"}
    assert (placed["inside"], placed["view"]) == (0, 64)
    for name, offset in placed.items():
        found = slot[offset : offset + arrays[name].nbytes].view(arrays[name].dtype)
        assert found.tolist() == arrays[name].tolist()
        assert offset % 64 == 0
    assert room_of(arrays) >= 4096
    assert AnswerMemory(None, BufferPool()).place(arrays) == {}
