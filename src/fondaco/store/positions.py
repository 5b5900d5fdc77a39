"""Positions: where writes lie in a store's log, so that a read can ask to see them.

A `Position` is one write's partition and offset, `str` "3:1812"; `Positions` holds one offset for each of several partitions,
"0:17,3:1812": everything up to and with these. A write that still waits in its writer's buffer gets its position when somebody asks for
it: asking flushes.

Thread rule: a resolved position and `Positions` are immutable; resolving takes the writer's lock. Imports no numba.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import total_ordering
from typing import Any, Final

from fondaco.core.errors import InputError

PARTITIONS_MAX: Final = 1 << 16  # of a topic; a number above it in a text is no partition
_OFFSETS_MAX: Final = 1 << 63


@total_ordering
class Position:
    """Where one write lies. Positions of one partition are ordered; those of different partitions are not comparable."""

    __slots__ = ("_index", "_offset", "_partition", "_resolve")

    def __init__(self, partition: int, offset: int) -> None:
        self._partition, self._offset, self._index = partition, offset, 0
        self._resolve: Callable[[int], tuple[int, int]] | None = None

    @classmethod
    def pending(cls, resolve: Callable[[int], tuple[int, int]], index: int) -> Position:
        """The position of a write that is not in the log yet; `resolve(index)` puts it there and gives partition and offset."""
        position = cls.__new__(cls)
        position._resolve, position._index = resolve, index
        return position

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` wrote, as "3:1812".

        Raises:
            InputError: it is none.
        """
        return cls(*_parse(text, text))

    @property
    def partition(self) -> int:
        """The partition; flushes the write, if it still waits.

        Raises:
            FondacoError: whatever the log raises.
        """
        if self._resolve is not None:
            self._settle()
        return self._partition

    @property
    def offset(self) -> int:
        """The offset in the partition; flushes the write, if it still waits.

        Raises:
            FondacoError: whatever the log raises.
        """
        if self._resolve is not None:
            self._settle()
        return self._offset

    def _settle(self) -> None:
        resolve = self._resolve
        if resolve is not None:  # another thread may have been faster
            settled = resolve(self._index)
            self._partition, self._offset = settled
            self._resolve = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        return (self.partition, self.offset) == (other.partition, other.offset)

    def __lt__(self, other: Position) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        if self.partition != other.partition:
            raise InputError(f"positions {self} and {other} lie in different partitions, which have no common order")
        return self.offset < other.offset

    def __hash__(self) -> int:
        return hash((self.partition, self.offset))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    def __repr__(self) -> str:
        return f"Position({str(self)!r})" if self._resolve is None else "Position(not flushed)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Position, (self.partition, self.offset)


class Positions(Mapping[int, int]):
    """The greatest offset of each partition; `a | b` is what covers both."""

    __slots__ = ("_offsets",)

    def __init__(self, offsets: Mapping[int, int] | None = None) -> None:
        self._offsets = dict(sorted((offsets or {}).items()))

    @classmethod
    def of(cls, given: Position | Mapping[int, int] | str) -> Positions:
        """What `min_position=` takes, as positions.

        Raises:
            InputError: something else, or a text that is no position.
        """
        if isinstance(given, Positions):
            return given
        if isinstance(given, Position):
            return cls({given.partition: given.offset})
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, Mapping):
            return cls.parse(",".join(f"{partition}:{offset}" for partition, offset in given.items()))
        raise InputError(f"a position is what a write returned, or a text like '3:1812', not {given!r}")

    @classmethod
    def parse(cls, text: str) -> Positions:
        """What `str` wrote, as "0:17,3:1812"; "" is none. Of a partition named twice, the greater offset.

        Raises:
            InputError: something else.
        """
        if not isinstance(text, str):
            raise InputError(f"positions are written like '0:17,3:1812', not {text!r}")
        offsets: dict[int, int] = {}
        for part in text.split(",") if text else ():
            partition, offset = _parse(part, text)
            offsets[partition] = max(offset, offsets.get(partition, 0))
        return cls(offsets)

    def __getitem__(self, partition: int) -> int:
        return self._offsets[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __or__(self, other: Position | Mapping[int, int] | str) -> Positions:
        joined = dict(self._offsets)
        for partition, offset in Positions.of(other).items():
            joined[partition] = max(offset, joined.get(partition, 0))
        return Positions(joined)

    def __hash__(self) -> int:
        return hash(tuple(self._offsets.items()))

    def __str__(self) -> str:
        return ",".join(f"{partition}:{offset}" for partition, offset in self._offsets.items())

    def __repr__(self) -> str:
        return f"Positions({str(self)!r})"


def _parse(part: str, text: str) -> tuple[int, int]:
    numbers = part.strip().split(":") if isinstance(part, str) else ()
    if len(numbers) == 2 and all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        partition, offset = map(int, numbers)
        if partition < PARTITIONS_MAX and offset < _OFFSETS_MAX:
            return partition, offset
    raise InputError(f"{text!r} is no position; it is written partition:offset, as '3:1812', several with commas")
