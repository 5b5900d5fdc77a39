"""Positions: read, written, compared."""

from __future__ import annotations

import json
import pickle

import pytest

from fondaco.core.errors import InputError
from fondaco.store.positions import Position, Positions


def test_a_position_is_written_as_partition_and_offset() -> None:
    assert str(Position(3, 1812)) == "3:1812"
    assert Position.parse("3:1812") == Position(3, 1812)
    assert json.loads(json.dumps(str(Position(3, 1812)))) == "3:1812"
    assert pickle.loads(pickle.dumps(Position(3, 1812))) == Position(3, 1812)
    assert hash(Position(3, 1812)) == hash(Position.parse("3:1812"))


def test_positions_are_ordered_within_a_partition_only() -> None:
    assert Position(1, 5) < Position(1, 6)
    assert Position(1, 6) >= Position(1, 6)
    with pytest.raises(InputError, match="different partitions"):
        assert Position(1, 5) < Position(2, 6)
    assert Position(1, 5) != "1:5"
    with pytest.raises(TypeError):
        assert Position(1, 5) < "1:5"  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "3:x", "-1:3", "3:1,4", "1:2:3", "٣:1", f"1:{1 << 63}", "65536:1", None, 3])
def test_what_is_no_position_is_refused(text: object) -> None:
    with pytest.raises(InputError, match="position"):
        Position.parse(text)  # type: ignore[arg-type]
    if text != "":
        with pytest.raises(InputError, match="position"):
            Positions.of(text)  # type: ignore[arg-type]


def test_positions_keep_the_greatest_offset_of_each_partition() -> None:
    positions = Positions.parse("3:1812, 0:17,3:5")
    assert str(positions) == "0:17,3:1812"
    assert dict(positions) == {0: 17, 3: 1812}
    assert str(positions | Position(3, 2000) | {1: 4} | "0:3") == "0:17,1:4,3:2000"
    assert Positions.of(Position(2, 1)) == {2: 1}
    assert Positions.of(positions) is positions
    assert Positions.parse("") == {}
    assert hash(Positions({1: 2})) == hash(Positions.parse("1:2"))
    assert repr(Positions({1: 2})) == "Positions('1:2')"


def test_a_pending_position_is_resolved_once_when_it_is_asked_for() -> None:
    asked = []

    def resolve(index: int) -> tuple[int, int]:
        asked.append(index)
        return 2, 40 + index

    position = Position.pending(resolve, 7)
    assert repr(position) == "Position(not flushed)"
    assert asked == []
    assert (position.partition, position.offset, str(position)) == (2, 47, "2:47")
    assert asked == [7]
    assert pickle.loads(pickle.dumps(Position.pending(resolve, 1))) == Position(2, 41)
