"""Publish: the latest values of a feature set's features, pushed into one store per entity, from where `online` reads them.

The store is called `<set>.<Entity>`; its key is the entity's field (a record of its fields, if there are several), its row holds every
feature of the set about that entity. Values are computed by the same engine as training sets, for every key that the sources know at
`as_of`: what `get` returns is what `training_set` gives for a label at that time.

A lookup with `max_age` is stored with the time of its event, so that a read can tell whether it is still young enough then.
Keys are worked off in shares by hash, so memory depends on the rows of a share and not on how many there are. One thread per call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pyarrow as pa
from sqlglot import exp

from fondaco.core.clock import Clock
from fondaco.core.errors import DefinitionError
from fondaco.features.engine import Engine, Options, Share
from fondaco.features.feature import DType, dtype_named
from fondaco.features.featureset import FeatureSet, check_set
from fondaco.features.kinds import BOOL, BYTES, INT, STRING, TIMESTAMP, Kind
from fondaco.features.moments import moment_us
from fondaco.features.order import arrow_array
from fondaco.features.plan import (
    Aggregate,
    Binding,
    Call,
    Column,
    FeaturePlan,
    Key,
    Node,
    Selection,
    SetPlan,
    ViewPlan,
    aggregates_of,
    to_json,
)
from fondaco.features.sqlnodes import Sql, all_of, constant, fn, not_null, op, source_column, text_of
from fondaco.features.table import Table, connect

if TYPE_CHECKING:
    from fondaco.catalog import Catalog
    from fondaco.store.report import PushReport
    from fondaco.store.store import Store

ROWS_PER_SHARE: Final = 1 << 17  # source rows whose keys are worked off at once: some 100 MB with ten features
SHARES_MAX: Final = 128  # every share reads the sources once more; beyond 16M rows shares grow instead
PUBLISH_MEMORY: Final = "1GB"  # DuckDB spills to a temporary directory beyond it
_AT: Final = "as of"  # the time column of the labels; no identifier, so no entity has such a field
_FIELD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AVRO: Final = {
    "bool": "boolean",
    **dict.fromkeys(("int8", "int16", "int32"), "int"),
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "string": "string",
    "bytes": "bytes",
}
_KEY_TYPES: Final[dict[Kind, str]] = {STRING: "string", INT: "long", BYTES: "bytes", BOOL: "boolean"}


class StorePlatform(Protocol):
    """A platform: what publishing and reading need of it."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def clock(self) -> Clock: ...

    def create_store(self, name: str, key: object = ..., value: object = ...) -> Store: ...

    def store(self, name: str) -> Store: ...

    def stores(self) -> list[str]: ...


# -- what a store of features holds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """One feature in a store: its field, and for a lookup with `max_age` the field of its event's time (microseconds) and the rule."""

    view: int
    feature: str
    field: str
    dtype: DType
    event_field: str | None
    max_age_us: int | None


@dataclass(frozen=True)
class EntityStore:
    """The store of one entity of a set."""

    name: str
    key: Key
    stored: tuple[Stored, ...]

    def find(self, view: int, feature: str) -> Stored:
        """Where a feature is; the caller knows that it is."""
        return next(stored for stored in self.stored if (stored.view, stored.feature) == (view, feature))

    def key_schema(self) -> object:
        """As `create_store` takes it: the bare type for one field, a record for several (and for a boolean)."""
        fields = [{"name": name, "type": _KEY_TYPES[kind]} for name, kind in zip(self.key.fields, self.key.kinds, strict=True)]
        if self.single:
            return fields[0]
        return {"type": "record", "name": self.key.entity, "fields": fields}

    @property
    def single(self) -> bool:
        """Whether a key is one plain value."""
        return len(self.key.fields) == 1 and self.key.kinds[0] != BOOL

    def value_schema(self) -> dict[str, Any]:
        """The Avro record of the values: every field may be null, and is for writers that do not know it."""
        fields: list[dict[str, Any]] = []
        for stored in self.stored:
            fields.append({"name": stored.field, "type": ["null", avro_type(stored.dtype)], "default": None})
            if stored.event_field is not None:
                fields.append({"name": stored.event_field, "type": ["null", "long"], "default": None})
        return {"type": "record", "name": "Features", "namespace": f"fondaco.{self.key.entity}", "fields": fields}


def avro_type(dtype: DType) -> object:
    """The Avro type that holds a feature's values."""
    if dtype.kind == TIMESTAMP:
        return {"type": "long", "logicalType": "timestamp-micros"}
    if dtype.kind.item is not None:
        return {"type": "array", "items": ["null", avro_type(dtype_named(dtype.name[5:-1]))]}
    return _AVRO[dtype.name]


def entity_stores(plan: SetPlan) -> list[EntityStore]:
    """The stores of a set, in the order of its entities.

    Raises:
        DefinitionError: a feature that cannot be read online.
    """
    found: dict[str, dict[tuple[int, str], Stored]] = {}
    keys: dict[str, Key] = {}
    for selection in plan.selections:
        view = plan.views[selection.view]
        keys.setdefault(view.key.entity, view.key)
        members = found.setdefault(view.key.entity, {})
        if (selection.view, selection.feature) not in members:
            members[selection.view, selection.feature] = _stored(view, selection)
    stores = []
    for entity, members in found.items():
        _check_fields(plan, keys[entity], tuple(members.values()))
        stores.append(EntityStore(f"{plan.name}.{entity}", keys[entity], tuple(members.values())))
    return stores


def _stored(view: ViewPlan, selection: Selection) -> Stored:
    feature = view.feature(selection.feature)
    aged = [node for node in aggregates_of(feature.value) if node.max_age_us is not None]
    if aged and not isinstance(feature.value, Aggregate):
        raise DefinitionError(
            f"{view.name}.{feature.name} computes with a lookup that has a max_age; what it becomes when that expires cannot be stored. "
            "Make the lookup a feature of its own"
        )
    event = f"{selection.output}__event_us" if aged else None
    return Stored(
        selection.view, selection.feature, selection.output, dtype_named(feature.dtype), event, aged[0].max_age_us if aged else None
    )


def _check_fields(plan: SetPlan, key: Key, members: tuple[Stored, ...]) -> None:
    names = [name for stored in members for name in (stored.field, stored.event_field) if name is not None]
    for name in names:
        if not _FIELD_NAME.fullmatch(name):
            raise DefinitionError(
                f"feature set {plan.name!r}: {name!r} cannot name a field of a store; use letters, digits and '_', as in "
                f'.alias("{_field_like(name)}")'
            )
        if name in key.fields or names.count(name) > 1:
            raise DefinitionError(
                f"feature set {plan.name!r}: the name {name!r} is taken in the store of {key.entity}; rename the feature with .alias(...)"
            )


def _field_like(name: str) -> str:
    """The nearest name that a field can have."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return found if _FIELD_NAME.fullmatch(found) else f"_{found}"


# -- publishing ---------------------------------------------------------------------------------------------------------------------


def publish(
    platform: StorePlatform,
    feature_set: FeatureSet,
    *,
    as_of: datetime | str | int | None = None,
    memory_limit: str = PUBLISH_MEMORY,
    threads: int | None = None,
    progress: bool | None = None,
) -> list[PushReport]:
    """Compute every feature of the set as of a moment, for every key the sources know by then, and push one store per entity.

    Args:
        as_of: an aware datetime, ISO text with a zone, or microseconds since the epoch; default: now.
        memory_limit: of DuckDB; beyond it, it spills to a temporary directory.
        progress: as in `Store.push`.
    Returns:
        One push report per entity, in the order of the set. A version is current as soon as its push is done; stores of several entities
        are swapped one after the other.
    Raises:
        DefinitionError and its kin: before anything runs. SchemaResolutionError: a feature has changed its type since the last publish;
            give it another name, or delete the store. As `Store.push`; its version is then not current, and the old one still is.
    """
    plan = check_set(feature_set).plan()
    stores = entity_stores(plan)
    as_of_us = moment_us("as_of", as_of, platform.clock)
    tables = [definition.table for definition in feature_set.definitions]
    options = Options(memory_limit=memory_limit, threads=threads)
    reports = []
    for target in stores:
        store = _ensure_store(platform, target)
        built_from = {"feature_set": plan.name, "plan_hash": plan.version, "as_of_us": as_of_us}
        batches = _Batches(plan, target, tables, as_of_us, options)
        first = next(batches, None)
        if first is None:
            reports.append(store.push_empty(as_of=as_of_us))
        else:
            reports.append(store.push(_chain(first, batches), as_of=as_of_us, built_from=built_from, progress=progress))
    _record_plan(platform, plan)  # last: the catalog lists what was published, not what was tried
    return reports


def _ensure_store(platform: StorePlatform, target: EntityStore) -> Store:
    """The store with the newest value schema being the set's own."""
    if target.name not in platform.stores():
        return platform.create_store(target.name, key=target.key_schema(), value=target.value_schema())
    store = platform.store(target.name)
    store.add_schema(target.value_schema())
    return store


def _record_plan(platform: StorePlatform, plan: SetPlan) -> None:
    from fondaco.catalog import records

    document = to_json(plan)
    assert isinstance(document, dict)
    with platform.catalog.write() as connection:
        records.record_feature_set(connection, plan.name, plan_hash=plan.version, plan=document, now_us=platform.clock.now_us())


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


class _Batches(Iterator[pa.RecordBatch]):
    """Rows of one entity's store, share by share; an iterator, so that a push holds one share at a time."""

    def __init__(self, plan: SetPlan, target: EntityStore, tables: list[Table], as_of_us: int, options: Options) -> None:
        self._plan, self._target, self._as_of_us, self._options = plan, target, as_of_us, options
        self._views = list(dict.fromkeys(stored.view for stored in target.stored))
        self._tables = [tables[view] for view in self._views]
        self._work = publish_plan(plan, target)
        self._rows = self._produce()

    def __next__(self) -> pa.RecordBatch:
        return next(self._rows)

    def _produce(self) -> Iterator[pa.RecordBatch]:
        with contextlib.closing(connect(threads=2)) as connection:
            for number, table in enumerate(self._tables):
                table.register(connection, f"source_{number}")
            rows = max(connection.sql(text_of(_count_rows(number))).fetchall()[0][0] for number in range(len(self._tables)))
            count = min(SHARES_MAX, max(1, -(-rows // ROWS_PER_SHARE)))
            for index in range(count):
                share = Share(index, count) if count > 1 else None
                keys = connection.sql(text_of(self._keys(share))).to_arrow_table()
                if keys.num_rows:
                    yield from self._compute(keys, share)

    def _compute(self, keys: pa.Table, share: Share | None) -> Iterator[pa.RecordBatch]:
        moments = arrow_array(np.full(keys.num_rows, self._as_of_us, np.int64), pa.int64()).view(pa.timestamp("us", tz="UTC"))
        labels = keys.append_column(_AT, moments)
        with Engine(self._tables, self._work, labels, _AT, self._options, share) as engine:
            columns = engine.run()
        table = pa.table({**{name: keys[name] for name in self._target.key.fields}, **columns})
        for stored in self._target.stored:
            if stored.event_field is not None:
                table = _as_integers(table, stored.event_field)
            if stored.dtype.name in ("int8", "int16"):
                place = table.schema.get_field_index(stored.field)
                table = table.set_column(place, stored.field, table[stored.field].cast(pa.int32()))
        yield from table.to_batches(max_chunksize=1 << 16)

    def _keys(self, share: Share | None) -> exp.Query:
        """Every key that some source knows at the moment, once."""
        parts = []
        for number, index in enumerate(self._views):
            view, table = self._plan.views[index], self._tables[number]
            schema = table.schema()
            values = [source_column(column, schema[column], view.scan.tz) for column in view.key.columns]
            conditions = [not_null(value.copy()) for value in values]
            moment = constant_us(view.refresh.floor(self._as_of_us))
            times = [column for column in (view.scan.time, view.scan.known_at) if column is not None]
            conditions += [op(exp.LTE, source_column(column, schema[column], view.scan.tz), moment.copy()) for column in times]
            if share is not None:
                conditions.append(share.condition(view, schema))
            named = [exp.alias_(value, name, quoted=True) for value, name in zip(values, view.key.fields, strict=True)]
            parts.append(exp.select(*named).distinct().from_(exp.to_table(f"source_{number}")).where(all_of(conditions)))
        query: exp.Query = parts[0]
        for part in parts[1:]:
            query = query.union(part, distinct=True)
        return query


def _count_rows(number: int) -> exp.Select:
    return exp.select(fn("count", exp.Star())).from_(exp.to_table(f"source_{number}"))


def _as_integers(table: pa.Table, name: str) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, table[name].cast(pa.int64()))


def constant_us(us: int) -> Sql:
    """A moment as SQL."""
    from fondaco.features.plan import Literal

    return constant(Literal(us, INT))


def publish_plan(plan: SetPlan, target: EntityStore) -> SetPlan:
    """The plan of one store's rows: the features of one entity, lookups with `max_age` without it and beside the time of their event."""
    binding = Binding(target.key.entity, target.key.fields)
    views: list[ViewPlan] = []
    selections: list[Selection] = []
    for number, index in enumerate(dict.fromkeys(stored.view for stored in target.stored)):
        view = plan.views[index]
        features: list[FeaturePlan] = []
        for stored in (stored for stored in target.stored if stored.view == index):
            feature = view.feature(stored.feature)
            if stored.event_field is not None:
                assert isinstance(feature.value, Aggregate)
                feature = dataclasses.replace(feature, value=dataclasses.replace(feature.value, max_age_us=None, default=None))
                assert isinstance(feature.value, Aggregate)
                features.append(FeaturePlan(stored.event_field, "timestamp", _event_of(view, feature.value)))
                selections.append(Selection(number, stored.event_field, stored.event_field, binding))
            features.append(feature)
            selections.append(Selection(number, feature.name, stored.field, binding))
        views.append(dataclasses.replace(view, features=tuple(features)))
    return SetPlan(plan.name, tuple(views), tuple(selections))


def _event_of(view: ViewPlan, lookup: Aggregate) -> Aggregate:
    """The event time of the row that a lookup finds."""
    assert view.scan.time is not None
    assert lookup.value is not None
    where: Node | None = lookup.where
    if lookup.skip_null:
        present = Call("not", (Call("is_null", (lookup.value,)),))
        where = present if where is None else Call("and", (where, present))
    return dataclasses.replace(lookup, value=Column(view.scan.time), where=where, skip_null=False)


def describe_built_from(built_from: object) -> Mapping[str, Any]:
    """What a push was built from, as a mapping; empty for stores that were not published."""
    if isinstance(built_from, str):
        built_from = json.loads(built_from)
    return built_from if isinstance(built_from, Mapping) else {}
