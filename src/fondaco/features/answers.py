"""Answers: what an online read gives: one row of typed features, or columns of many.

Both hold what was read and apply what can only be known at the read: which keys were missing, which lookups are too old by now, which
defaults stand in. Immutable but for caches; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fondaco.core.errors import FeatureNotFoundError
from fondaco.features.feature import DType, Feature
from fondaco.features.kinds import TIMESTAMP

if TYPE_CHECKING:
    from fondaco.features.expressions import Expression
    from fondaco.schema.columns import Columns

T = TypeVar("T")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the answer: which binding's row holds it, where, and what it is without one."""

    name: str
    binding: int
    field: str
    dtype: DType
    event_field: str | None
    max_age_us: int | None
    empty: Any  # of a key that the store does not have
    default: Any  # of an expired lookup


class FeatureRow(Mapping[str, Any]):
    """The features of one row: `row["name"]`, or typed `row[View.feature]`. A value is None if there is none."""

    __slots__ = ("_outputs", "_states", "_values")

    def __init__(self, values: dict[str, Any], states: dict[str, str] | Sequence[str], outputs: Mapping[str, Output]) -> None:
        self._values, self._states, self._outputs = values, states, outputs

    @overload
    def __getitem__(self, name: Expression) -> Any: ...  # a feature without annotation; only a run knows its type

    @overload
    def __getitem__(self, name: Feature[T]) -> T | None: ...

    @overload
    def __getitem__(self, name: str) -> Any: ...

    def __getitem__(self, name: object) -> Any:
        """The value of a feature.

        Raises:
            FeatureNotFoundError: with the near name.
        """
        key = name.output if isinstance(name, Feature) else name
        try:
            return self._values[key]  # type: ignore[index]
        except KeyError:
            raise FeatureNotFoundError(str(key), list(self._values), "the row") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return (name.output if isinstance(name, Feature) else name) in self._values

    def __repr__(self) -> str:
        return f"FeatureRow({self._values!r})"

    def status(self, name: str | Feature[Any]) -> str:
        """Why the value is what it is: "present"; "missing" (no such key or no row); "expired" (older than max_age); "default"."""
        key = name.output if isinstance(name, Feature) else name
        if key not in self._values:
            raise FeatureNotFoundError(key, list(self._values), "the row")
        state = self._states[self._outputs[key].binding] if not isinstance(self._states, dict) else self._states.get(key, "present")
        return "missing" if state in ("present", "default") and self._values[key] is None else state


class FeatureColumns(Mapping[str, Array]):
    """The features of many rows, in the order of the keys.

    `columns["name"]` (or `columns[View.feature]`) is a NumPy array, a `numpy.ma.MaskedArray` where values are missing; `arrow(name)` has
    nulls there. `found` is bool [rows]: whether every entity of the row has a row in its store.
    """

    def __init__(self, outputs: Mapping[str, Output], reads: Sequence[Read], at_us: int) -> None:
        self._outputs, self._reads, self._at_us = outputs, reads, at_us
        self._arrays: dict[str, Array] = {}

    @property
    def row_count(self) -> int:
        """How many rows were asked for."""
        return self._reads[0].row_count

    @property
    def found(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """bool [rows]."""
        found = self._reads[0].found
        for read in self._reads[1:]:
            found = found & read.found
        return found

    def __getitem__(self, name: object) -> Array:
        """The column of a feature, as NumPy.

        Raises:
            FeatureNotFoundError: with the near name.
        """
        output = self._output(name)
        if output.name not in self._arrays:
            self._arrays[output.name] = self._numpy(output)
        return self._arrays[output.name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        """How many features (not rows, see `row_count`)."""
        return len(self._outputs)

    def __contains__(self, name: object) -> bool:
        return (name.output if isinstance(name, Feature) else name) in self._outputs

    def arrow(self, name: str | Feature[Any]) -> pa.Array:
        """The column of a feature, as Arrow, in the feature's type."""
        output = self._output(name)
        read = self._reads[output.binding]
        values = read.arrow(output.field)
        values = values if values.type == output.dtype.arrow else values.cast(output.dtype.arrow)
        expired = self._expired(output)
        if output.event_field is not None:
            if output.default is not None:
                values = pc.if_else(pa.array(self._usable(output)), values, pa.scalar(output.default, values.type))
            elif expired is not None:
                values = pc.if_else(pa.array(expired), pa.scalar(None, values.type), values)
        elif output.empty is not None and not read.found.all():
            values = pc.if_else(pa.array(read.found), values, pa.scalar(output.empty, values.type))
        return _nulled(values, read)

    def to_arrow(self) -> pa.Table:
        """All columns."""
        return pa.table({name: self.arrow(name) for name in self})

    def rows(self) -> list[FeatureRow]:
        """One `FeatureRow` per key."""
        columns = {}
        for name, output in self._outputs.items():
            simple = output.dtype.kind != TIMESTAMP and output.dtype.kind.item is None
            columns[name] = self[name].tolist() if simple else self.arrow(name).to_pylist()
        states = list(zip(*(read.states() for read in self._reads), strict=True))
        aged = [output for output in self._outputs.values() if output.event_field is not None]
        expired = {output.name: self._expired(output) for output in aged}
        rows = []
        for number, values in enumerate(zip(*columns.values(), strict=True)):
            row_states: Any = states[number]
            if aged or "missing" in row_states:
                row_states = {
                    name: _state(output, states[number][output.binding], expired.get(name), number)
                    for name, output in self._outputs.items()
                }
            rows.append(FeatureRow(dict(zip(columns, values, strict=True)), row_states, self._outputs))
        return rows

    def __repr__(self) -> str:
        return f"FeatureColumns({self.row_count} rows: {', '.join(self)})"

    def _output(self, name: object) -> Output:
        key = name.output if isinstance(name, Feature) else name
        if key not in self._outputs:
            raise FeatureNotFoundError(str(key), list(self._outputs), "the columns")
        return self._outputs[key]  # type: ignore[index]

    def _numpy(self, output: Output) -> Array:
        read = self._reads[output.binding]
        values = read.numpy(output.field)
        if output.event_field is not None:
            usable = self._usable(output)
            if output.default is not None:
                return (
                    np.where(usable, np.ma.getdata(values), output.default)
                    if not np.ma.is_masked(values[usable])
                    else _masked(values, usable, output.default)
                )
            return np.ma.masked_where(~usable, values) if not usable.all() else values
        if output.empty is None or read.found.all():
            return values
        return _masked(values, read.found & read.keyed | ~read.keyed, output.empty)

    def _usable(self, output: Output) -> Array:
        """Where a lookup with max_age was found, young enough (labels without a key count as usable: they stay null)."""
        read = self._reads[output.binding]
        assert output.event_field is not None
        assert output.max_age_us is not None
        events = read.numpy(output.event_field)
        usable: Array = ~np.ma.getmaskarray(events) & (np.ma.getdata(events) >= self._at_us - output.max_age_us)
        return usable | ~read.keyed if output.default is not None else usable

    def _expired(self, output: Output) -> Array | None:
        if output.event_field is None or output.max_age_us is None:
            return None
        events = self._reads[output.binding].numpy(output.event_field)
        expired: Array = ~np.ma.getmaskarray(events) & (np.ma.getdata(events) < self._at_us - output.max_age_us)
        return expired


def _state(output: Output, state: str, expired: Array | None, number: int) -> str:
    if state == "missing":
        return "default" if output.empty is not None else "missing"
    if expired is not None and expired[number]:
        return "default" if output.default is not None else "expired"
    return state


def _masked(values: Array, keep: Array, other: Any) -> Array:
    """The values where `keep`, `other` elsewhere; what was masked and is kept stays masked."""
    mask = np.ma.getmaskarray(values) & keep
    data = np.where(keep, np.ma.getdata(values), np.asarray(other, dtype=values.dtype))
    return np.ma.MaskedArray(data, mask) if mask.any() else data


def _nulled(values: pa.Array, read: Read) -> pa.Array:
    return values if read.keyed.all() else pc.if_else(pa.array(read.keyed), values, pa.scalar(None, values.type))


class Read:
    """One binding's columns; rows whose key is null were not asked for, and are null."""

    def __init__(self, columns: Columns, keyed: Array) -> None:
        self._columns, self.keyed = columns, keyed
        self._positions: Array | None = None
        if not keyed.all():
            self._positions = np.where(keyed, np.cumsum(keyed) - 1, -1)

    @property
    def row_count(self) -> int:
        return len(self.keyed)

    @property
    def found(self) -> Array:
        return self._columns.found if self._positions is None else _spread(self._columns.found, self._positions, False)

    def numpy(self, field: str) -> Array:
        values = self._columns[field]
        if self._positions is None:
            return values
        missing = self._positions < 0
        if len(values) == 0:
            return np.ma.MaskedArray(np.zeros(len(missing), values.dtype), missing)
        taken = values[np.maximum(self._positions, 0)]
        return np.ma.MaskedArray(np.ma.getdata(taken), np.ma.getmaskarray(taken) | missing)

    def arrow(self, field: str) -> pa.Array:
        values = self._columns.arrow(field)
        if self._positions is None:
            return values
        return values.take(pa.array(self._positions, mask=self._positions < 0))

    def states(self) -> list[str]:
        """ "present" or "missing" per row."""
        return ["present" if found else "missing" for found in self.found.tolist()]


def _spread(values: Array, positions: Array, other: Any) -> Array:
    if len(values) == 0:
        return np.full(len(positions), other)
    return np.where(positions >= 0, values[np.maximum(positions, 0)], other)
