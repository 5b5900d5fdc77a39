"""Online: features of entities as they are now, read from the stores that `publish` filled.

`get` answers for one row, `get_many` for many at once; both read each entity's store with one call. What decides is compiled once per
platform and set (`OnlineReader`): stores, fields, types, defaults. A reader follows new versions by itself, and refuses one that was
published from another definition of the set, because its values would mean something else.

Missing keys, expired lookups and defaults come out as in training sets. Readers may be used from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fondaco.core.clock import to_us
from fondaco.core.errors import ColumnNotFoundError, FeatureNotFoundError, InputError, StateError, StoreNotFoundError
from fondaco.features import oracle
from fondaco.features.entity import Entity, check_key
from fondaco.features.feature import DType, Feature
from fondaco.features.featureset import FeatureSet
from fondaco.features.kinds import TIMESTAMP
from fondaco.features.plan import Aggregate, Binding, SetPlan
from fondaco.features.publish import EntityStore, StorePlatform, describe_built_from, entity_stores
from fondaco.features.table import to_arrow

if TYPE_CHECKING:
    from fondaco.schema.columns import Columns
    from fondaco.store.reader import EmbeddedReader

T = TypeVar("T")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Output:
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

    def __init__(self, values: dict[str, Any], states: dict[str, str] | Sequence[str], outputs: Mapping[str, _Output]) -> None:
        self._values, self._states, self._outputs = values, states, outputs

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

    def __init__(self, outputs: Mapping[str, _Output], reads: Sequence[_Read], at_us: int) -> None:
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

    def _output(self, name: object) -> _Output:
        key = name.output if isinstance(name, Feature) else name
        if key not in self._outputs:
            raise FeatureNotFoundError(str(key), list(self._outputs), "the columns")
        return self._outputs[key]  # type: ignore[index]

    def _numpy(self, output: _Output) -> Array:
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

    def _usable(self, output: _Output) -> Array:
        """Where a lookup with max_age was found, young enough (labels without a key count as usable: they stay null)."""
        read = self._reads[output.binding]
        assert output.event_field is not None and output.max_age_us is not None
        events = read.numpy(output.event_field)
        usable: Array = ~np.ma.getmaskarray(events) & (np.ma.getdata(events) >= self._at_us - output.max_age_us)
        return usable | ~read.keyed if output.default is not None else usable

    def _expired(self, output: _Output) -> Array | None:
        if output.event_field is None or output.max_age_us is None:
            return None
        events = self._reads[output.binding].numpy(output.event_field)
        expired: Array = ~np.ma.getmaskarray(events) & (np.ma.getdata(events) < self._at_us - output.max_age_us)
        return expired


def _state(output: _Output, state: str, expired: Array | None, number: int) -> str:
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


def _nulled(values: pa.Array, read: _Read) -> pa.Array:
    return values if read.keyed.all() else pc.if_else(pa.array(read.keyed), values, pa.scalar(None, values.type))


class _Read:
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


# -- readers ------------------------------------------------------------------------------------------------------------------------


class OnlineReader:
    """Reads one feature set of one platform. A context manager; `get` and `get_many` (the functions) keep one per platform and set."""

    def __init__(self, platform: StorePlatform, feature_set: FeatureSet) -> None:
        """
        Raises:
            StoreNotFoundError: the set was not published yet. DefinitionError and its kin.
        """
        self._platform = platform
        self._plan = feature_set.plan()
        stores = {store.key.entity: store for store in entity_stores(self._plan)}
        self._bindings = self._plan.bindings
        self._stores = [stores[binding.entity] for binding in self._bindings]
        self._outputs = {output.name: output for output in _outputs(self._plan, self._bindings, self._stores)}
        self._fields = [list(dict.fromkeys(_fields_of(number, self._outputs.values()))) for number in range(len(self._bindings))]
        self._readers: list[EmbeddedReader] = []
        opened: dict[str, EmbeddedReader] = {}
        try:
            for store in self._stores:
                if store.name not in opened:
                    opened[store.name] = self._open(store)
                self._readers.append(opened[store.name])
        except BaseException:
            for reader in opened.values():
                reader.close()
            raise
        self._checked = [0] * len(self._bindings)
        self._by_entity = _positions_of_entities(feature_set, self._bindings)
        self._row_plan = [
            [output for output in self._outputs.values() if output.binding == number] for number in range(len(self._bindings))
        ]

    def close(self) -> None:
        """Let go of the stores' files."""
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> OnlineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one row ---------------------------------------------------------------------------------------------------------------------

    def get(self, *entities: Entity | Mapping[str, Any], at: datetime | int | None = None) -> FeatureRow:
        """The features of one row; a key that the stores do not have gives missing features, not an error.

        Args:
            entities: one instance of each entity of the set, in any order (several of one entity: in the order of the set's bindings); or
                one mapping of label columns to values.
            at: the moment by which `max_age` is judged; default: now.
        Raises:
            InputError: an entity is missing, or one too many. KeyTypeError. NoCurrentVersionError.
            StateError: the store was published from another definition of the set.
        """
        at_us = None
        found: dict[str, Any] = {}
        states: dict[str, str] = {}
        for number, key in enumerate(self._keys_of(entities)):
            reader = self._reader(number)
            row = None if key is None else reader.get(key)
            if row is None:
                for output in self._row_plan[number]:
                    found[output.name] = None if key is None else output.empty
                    states[output.name] = "default" if key is not None and output.empty is not None else "missing"
                continue
            for output in self._row_plan[number]:
                value = row[output.field]
                if output.event_field is not None:
                    if at_us is None:
                        at_us = self._at(at)
                    event = row[output.event_field]
                    if event is None or event < at_us - output.max_age_us:  # type: ignore[operator]
                        value = output.default
                        states[output.name] = "default" if value is not None else "missing" if event is None else "expired"
                elif isinstance(value, np.ndarray):
                    value = value.tolist()
                found[output.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return FeatureRow({name: found[name] for name in self._outputs}, states, self._outputs)

    def _keys_of(self, entities: Sequence[Entity | Mapping[str, Any]]) -> list[Any]:
        if len(entities) == 1 and isinstance(entities[0], Mapping):
            return [self._key_in(entities[0], number) for number in range(len(self._bindings))]
        keys: list[Any] = [_NOTHING] * len(self._bindings)
        for entity in entities:
            places = self._by_entity.get(type(entity))
            if places is None:
                raise InputError(f"feature set {self._plan.name!r} has no features of {type(entity).__name__}; it asks for {self._asked()}")
            free = next((place for place in places if keys[place] is _NOTHING), None)
            if free is None:
                raise InputError(f"more {type(entity).__name__} than feature set {self._plan.name!r} asks for: {self._asked()}")
            values = tuple(entity.__dict__.values())
            keys[free] = values[0] if self._stores[free].single else values
        if _NOTHING in keys:
            place = keys.index(_NOTHING)
            binding = self._bindings[place]
            raise InputError(
                f"feature set {self._plan.name!r} needs {binding.entity}({', '.join(binding.columns)}); it asks for {self._asked()}"
            )
        return keys

    def _key_in(self, row: Mapping[str, Any], number: int) -> Any:
        binding, store = self._bindings[number], self._stores[number]
        values = []
        for column, member, kind in zip(binding.columns, store.key.fields, store.key.kinds, strict=True):
            if column not in row:
                raise ColumnNotFoundError(column, list(row), f"the keys ({binding.entity}.{member})")
            if row[column] is None:
                return None
            values.append(check_key(f"{binding.entity}.{member}", kind, row[column]))
        return values[0] if store.single else tuple(values)

    def _asked(self) -> str:
        return ", ".join(f"{binding.entity}({', '.join(binding.columns)})" for binding in self._bindings)

    # -- many rows -------------------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Any, *, at: datetime | int | None = None) -> FeatureColumns:
        """The features of many rows, one read per entity.

        Args:
            keys: a table (Arrow, pandas, Polars) or mapping of label columns; or a list of rows: mappings of label columns, entities (for
                a set of one entity), or tuples of entities. Null keys give missing features.
            at: as `get`.
        """
        columns = self._key_columns(keys)
        reads = [self._read(number, columns) for number in range(len(self._bindings))]
        return FeatureColumns(self._outputs, reads, self._at(at))

    def _key_columns(self, keys: Any) -> Mapping[str, Any]:
        """Label column -> values (a list, or Arrow)."""
        wanted = self._plan.key_columns
        if isinstance(keys, Mapping):
            found: Mapping[str, Any] = keys
        elif isinstance(keys, (list, tuple)):
            return self._columns_of_rows(keys)
        else:
            table = to_arrow(keys)
            found = {name: table[name] for name in table.column_names}
        for column in wanted:
            if column not in found:
                raise ColumnNotFoundError(column, list(found), "the keys")
        return found

    def _columns_of_rows(self, rows: Sequence[Any]) -> Mapping[str, Any]:
        columns: dict[str, list[Any]] = {column: [] for column in self._plan.key_columns}
        for position, row in enumerate(rows):
            if isinstance(row, Mapping):
                for column, values in columns.items():
                    if column not in row:
                        raise ColumnNotFoundError(column, list(row), f"row {position} of the keys")
                    values.append(row[column])
                continue
            filled: dict[str, Any] = {}
            for key, binding, store in zip(
                self._keys_of(row if isinstance(row, tuple) else (row,)), self._bindings, self._stores, strict=True
            ):
                for column, value in zip(binding.columns, (key,) if store.single else key, strict=True):
                    if filled.setdefault(column, value) != value:
                        raise InputError(
                            f"row {position} of the keys has two values for column {column!r}: {filled[column]!r} and {value!r}"
                        )
            for column, values in columns.items():
                values.append(filled[column])
        return columns

    def _read(self, number: int, columns: Mapping[str, Any]) -> _Read:
        binding, store = self._bindings[number], self._stores[number]
        parts = [columns[column] for column in binding.columns]
        counts = {len(part) for part in parts}
        if len(counts) > 1:
            raise InputError(f"the key columns {', '.join(binding.columns)} have different lengths")
        keyed = np.ones(counts.pop(), np.bool_)
        for part in parts:
            keyed &= _not_null(part)
        if not keyed.all():
            parts = [_select(part, keyed) for part in parts]
        keys = parts[0] if store.single else pa.table([_column(part) for part in parts], names=list(store.key.fields))
        if isinstance(keys, pa.ChunkedArray):
            keys = keys.combine_chunks()
        return _Read(self._reader(number).get_columns(keys, self._fields[number]), keyed)

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _at(self, at: datetime | int | None) -> int:
        try:
            return self._platform.clock.now_us() if at is None else to_us(at)
        except ValueError as exc:
            raise InputError(f"at: {exc}") from None

    def _open(self, store: EntityStore) -> EmbeddedReader:
        try:
            return self._platform.store(store.name).reader()
        except StoreNotFoundError as exc:
            raise StoreNotFoundError(
                store.name, exc.available, f"the platform (feature set {self._plan.name!r} is published with publish(...))"
            ) from None

    def _reader(self, number: int) -> EmbeddedReader:
        reader = self._readers[number]
        version = reader.version
        if version != self._checked[number]:
            self._check_version(number, version)
        return reader

    def _check_version(self, number: int, version: int) -> None:
        """Refuse a version that another definition of the set made."""
        store = self._stores[number]
        for push in self._platform.store(store.name).pushes():
            if push.version == version:
                made_of = describe_built_from(push.built_from).get("plan_hash")
                if made_of is not None and made_of != self._plan.version:
                    raise StateError(
                        f"store {store.name!r} v{version} was published from another definition of feature set {self._plan.name!r} "
                        f"({str(made_of)[:12]}, yours is {self._plan.version[:12]}); publish it again, or use the definition that it was published with"
                    )
        self._checked[number] = version


class _Nothing:
    """Marks a key that was not given; None is a null key."""


_NOTHING = _Nothing()


def _outputs(plan: SetPlan, bindings: Sequence[Binding], stores: Sequence[EntityStore]) -> Iterator[_Output]:
    for selection in plan.selections:
        number = bindings.index(selection.binding)
        view = plan.views[selection.view]
        stored = stores[number].find(selection.view, selection.feature)
        node = view.feature(selection.feature).value
        default = None
        if stored.event_field is not None and isinstance(node, Aggregate) and node.default is not None:
            default = _python(oracle.as_dtype(node.default.value, stored.dtype.name), stored.dtype)
        empty = _python(oracle.empty_value(view, selection.feature), stored.dtype)
        yield _Output(selection.output, number, stored.field, stored.dtype, stored.event_field, stored.max_age_us, empty, default)


def _python(value: Any, dtype: DType) -> Any:
    """A value of the plan as readers give it: timestamps as datetimes."""
    if value is None or dtype.kind != TIMESTAMP:
        return value
    from fondaco.core.clock import from_us

    return from_us(value).astimezone(UTC)


def _fields_of(number: int, outputs: Any) -> Iterator[str]:
    for output in outputs:
        if output.binding == number:
            yield output.field
            if output.event_field is not None:
                yield output.event_field


def _positions_of_entities(feature_set: FeatureSet, bindings: Sequence[Binding]) -> dict[type, list[int]]:
    names = {entity.__name__: entity for entity in feature_set.entities}
    found: dict[type, list[int]] = {}
    for number, binding in enumerate(bindings):
        found.setdefault(names[binding.entity], []).append(number)
    return found


def _not_null(part: Any) -> Array:
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return np.asarray(part.is_valid()) if part.null_count else np.ones(len(part), np.bool_)
    if isinstance(part, np.ndarray) and part.dtype != object:
        return np.ones(len(part), np.bool_)
    return np.fromiter((value is not None for value in part), np.bool_, len(part))


def _select(part: Any, keep: Array) -> Any:
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return part.filter(pa.array(keep))
    if isinstance(part, np.ndarray):
        return part[keep]
    return [value for value, kept in zip(part, keep.tolist(), strict=True) if kept]


def _column(part: Any) -> Any:
    return part if isinstance(part, (pa.Array, pa.ChunkedArray)) else pa.array(part)


# -- functions ----------------------------------------------------------------------------------------------------------------------

_OPENING = threading.Lock()
_CACHE = "_online_readers"  # kept on the platform itself, so that they live as long as it does


def online_reader(platform: StorePlatform, feature_set: FeatureSet) -> OnlineReader:
    """The reader that `get` and `get_many` use: opened once per platform and set, kept as long as both are."""
    readers: WeakKeyDictionary[FeatureSet, OnlineReader] | None = vars(platform).get(_CACHE)
    found = readers.get(feature_set) if readers is not None else None
    if found is None:
        with _OPENING:
            readers = vars(platform).setdefault(_CACHE, WeakKeyDictionary())
            found = readers.get(feature_set)
            if found is None:
                found = readers[feature_set] = OnlineReader(platform, feature_set)
    return found


def close_readers(platform: StorePlatform) -> None:
    """Close the readers that `get` and `get_many` opened on a platform; for its own `close`."""
    with _OPENING:
        for reader in list(vars(platform).pop(_CACHE, {}).values()):
            reader.close()


def get(
    platform: StorePlatform, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | int | None = None
) -> FeatureRow:
    """The features of one row, as `OnlineReader.get`."""
    return online_reader(platform, feature_set).get(*entities, at=at)


def get_many(platform: StorePlatform, feature_set: FeatureSet, keys: Any, *, at: datetime | int | None = None) -> FeatureColumns:
    """The features of many rows, as `OnlineReader.get_many`."""
    return online_reader(platform, feature_set).get_many(keys, at=at)
