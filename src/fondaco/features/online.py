"""Online: features of entities as they are now, read from the stores that `publish` filled.

`get` answers for one row, `get_many` for many at once; both read each entity's store with one call. What decides is compiled once per
platform and set (`OnlineReader`): stores, fields, types, defaults. A reader follows new versions by itself, and refuses one that was
published from another definition of the set, because its values would mean something else.

Missing keys, expired lookups and defaults come out as in training sets. Readers may be used from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, InputError, StateError, StoreNotFoundError
from fondaco.features import oracle
from fondaco.features.answers import FeatureColumns, FeatureRow, Output, Read
from fondaco.features.entity import Entity, check_key
from fondaco.features.feature import DType
from fondaco.features.featureset import FeatureSet, check_set
from fondaco.features.keys import as_arrow, is_missing, key_column, present, selected
from fondaco.features.kinds import TIMESTAMP
from fondaco.features.moments import moment_us
from fondaco.features.plan import Aggregate, Binding, SetPlan
from fondaco.features.publish import EntityStore, StorePlatform, describe_built_from, entity_stores
from fondaco.features.table import to_arrow

if TYPE_CHECKING:
    from fondaco.store.reader import EmbeddedReader


class OnlineReader:
    """Reads one feature set of one platform. A context manager; `get` and `get_many` (the functions) keep one per platform and set."""

    def __init__(self, platform: StorePlatform, feature_set: FeatureSet) -> None:
        """
        Raises:
            StoreNotFoundError: the set was not published yet. DefinitionError and its kin.
        """
        self._platform = platform
        self._plan = check_set(feature_set).plan()
        stores = {store.key.entity: store for store in entity_stores(self._plan)}
        self._bindings = self._plan.bindings
        self._kinds = {
            column: kind
            for binding in self._bindings
            for column, kind in zip(binding.columns, stores[binding.entity].key.kinds, strict=True)
        }
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

    def get(self, *entities: Entity | Mapping[str, Any], at: datetime | str | int | None = None) -> FeatureRow:
        """The features of one row; a key that the stores do not have gives missing features, not an error.

        Args:
            entities: one instance of each entity of the set, in any order (several of one entity: in the order of the set's bindings); or
                one mapping of label columns to values.
            at: the moment by which `max_age` is judged, an aware datetime, ISO text with a zone, or microseconds; default: now.
        Raises:
            InputError: an entity is missing, or one too many. KeyTypeError. NoCurrentVersionError.
            StateError: the store was published from another definition of the set.
        """
        at_us = None if at is None else self._at(at)
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
                        at_us = self._at(None)
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
            if is_missing(row[column]):
                return None
            values.append(check_key(f"{binding.entity}.{member}", kind, row[column]))
        return values[0] if store.single else tuple(values)

    def _asked(self) -> str:
        return ", ".join(f"{binding.entity}({', '.join(binding.columns)})" for binding in self._bindings)

    # -- many rows -------------------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Any, *, at: datetime | str | int | None = None) -> FeatureColumns:
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
            found = self._columns_of_rows(keys)
        else:
            table = to_arrow(keys)
            found = {name: table[name] for name in table.column_names}
        for column in wanted:
            if column not in found:
                raise ColumnNotFoundError(column, list(found), "the keys")
        return {column: key_column(f"the keys' column {column!r}", self._kinds[column], found[column]) for column in wanted}

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

    def _read(self, number: int, columns: Mapping[str, Any]) -> Read:
        binding, store = self._bindings[number], self._stores[number]
        parts = [columns[column] for column in binding.columns]
        counts = {len(part) for part in parts}
        if len(counts) > 1:
            raise InputError(f"the key columns {', '.join(binding.columns)} have different lengths")
        keyed = np.ones(counts.pop(), np.bool_)
        for part in parts:
            keyed &= present(part)
        if not keyed.all():
            parts = [selected(part, keyed) for part in parts]
        keys = parts[0] if store.single else pa.table([as_arrow(part) for part in parts], names=list(store.key.fields))
        if isinstance(keys, pa.ChunkedArray):
            keys = keys.combine_chunks()
        return Read(self._reader(number).get_columns(keys, self._fields[number]), keyed)

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _at(self, at: datetime | str | int | None) -> int:
        return moment_us("at", at, self._platform.clock)

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
                        f"({str(made_of)[:12]}, yours is {self._plan.version[:12]}); publish it again, or use that definition"
                    )
        self._checked[number] = version


class _Nothing:
    """Marks a key that was not given; None is a null key."""


_NOTHING = _Nothing()


def _outputs(plan: SetPlan, bindings: Sequence[Binding], stores: Sequence[EntityStore]) -> Iterator[Output]:
    for selection in plan.selections:
        number = bindings.index(selection.binding)
        view = plan.views[selection.view]
        stored = stores[number].find(selection.view, selection.feature)
        node = view.feature(selection.feature).value
        default = None
        if stored.event_field is not None and isinstance(node, Aggregate) and node.default is not None:
            default = _python(oracle.as_dtype(node.default.value, stored.dtype.name), stored.dtype)
        empty = _python(oracle.empty_value(view, selection.feature), stored.dtype)
        yield Output(selection.output, number, stored.field, stored.dtype, stored.event_field, stored.max_age_us, empty, default)


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


# -- functions ----------------------------------------------------------------------------------------------------------------------

_OPENING = threading.Lock()
_CACHE = "_online_readers"  # kept on the platform itself, so that they live as long as it does


def online_reader(platform: StorePlatform, feature_set: FeatureSet) -> OnlineReader:
    """The reader that `get` and `get_many` use: opened once per platform and set, kept as long as both are."""
    readers: WeakKeyDictionary[FeatureSet, OnlineReader] | None = vars(platform).get(_CACHE)
    found = readers.get(check_set(feature_set)) if readers is not None else None
    if found is None:
        check_set(feature_set)
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
    platform: StorePlatform, feature_set: FeatureSet, *entities: Entity | Mapping[str, Any], at: datetime | str | int | None = None
) -> FeatureRow:
    """The features of one row, as `OnlineReader.get`."""
    return online_reader(platform, feature_set).get(*entities, at=at)


def get_many(platform: StorePlatform, feature_set: FeatureSet, keys: Any, *, at: datetime | str | int | None = None) -> FeatureColumns:
    """The features of many rows, as `OnlineReader.get_many`."""
    return online_reader(platform, feature_set).get_many(keys, at=at)
