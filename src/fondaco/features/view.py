"""Views: features of one entity from one source, as the attributes of a class.

    class PlaneHistory(ft.View[Plane], source=flights, refresh="stream"):
        mean_delay_7d: ft.Float32 = f.dep_delay.mean(window="7d")

Defining the class computes nothing: it checks the definitions against the source's schema (if the source exists already; if not, the
first run does) and makes every attribute a typed `Feature`. A view's version is the hash of its plan. Immutable; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, get_args, get_origin

from fondaco.core.errors import ColumnNotFoundError, DefinitionError, FeatureNotFoundError
from fondaco.core.units import parse_duration_us
from fondaco.features import checks
from fondaco.features.entity import Entity, entity_fields, evaluate_annotations
from fondaco.features.expressions import Expression
from fondaco.features.feature import DType, Feature, dtype_of, natural_dtype
from fondaco.features.plan import Column, FeaturePlan, Node, Refresh, ViewPlan, walk
from fondaco.features.table import Table

E = TypeVar("E", bound=Entity)
_DAILY: Final = re.compile(r"daily@([01]?\d|2[0-3]):([0-5]\d)")
_DAY_US: Final = 86_400_000_000
_FEATURE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnknownFeatureError(FeatureNotFoundError, AttributeError):  # type: ignore[misc]  # both have a `name`, and it means the same
    """`View.nmae`: also an AttributeError, so that tools that look for optional attributes are not stopped."""


@dataclass(frozen=True)
class Definition:
    """What a view class was defined with; `nodes` and `declared` are by feature name."""

    name: str
    entity: type[Entity]
    table: Table
    refresh: Refresh
    nodes: dict[str, Node]
    declared: dict[str, tuple[type[Feature[Any]], DType] | None]

    def plan(self, names: tuple[str, ...] | None = None) -> ViewPlan:
        """The checked plan of the view, or of some of its features.

        Raises:
            DefinitionError and its kin: the definitions do not fit the source as it is now.
        """
        schema = self.table.schema(fresh=True)
        scan, key = self.table.scan(), self.table.key_of(self.entity)
        checks.check_key(key, schema, self.table.name)
        features = []
        for name in names if names is not None else tuple(self.nodes):
            dtype = self._dtype(name)
            kind = checks.check_feature(f"{self.name}.{name}", self.nodes[name], dtype, schema, scan, self.table.name)
            features.append(FeaturePlan(name, (dtype or natural_dtype(kind)[1]).name, self.nodes[name]))
        return ViewPlan(self.name, key, scan, self.refresh, tuple(features))

    def _dtype(self, name: str) -> DType | None:
        declared = self.declared[name]
        return declared[1] if declared is not None else None


@dataclass(frozen=True)
class ViewSelection:
    """All features of a view, for the entity that other label columns name; made by `View.on`."""

    view: ViewType
    columns: tuple[tuple[str, str], ...]
    prefix: str

    @property
    def features(self) -> list[Feature[Any]]:
        """The features, renamed and bound."""
        return [feature._with(columns=self.columns, output=self.prefix + feature.name) for feature in features_of(self.view).values()]


class ViewType(type):
    """The type of view classes: what can be asked of a view, beside its features."""

    def on(cls, columns: Mapping[str, str] | str, *, prefix: str = "") -> ViewSelection:
        """The view for the entity that other label columns name: `WeatherAt.on({"code": "dest"}, prefix="dest_")`."""
        return ViewSelection(cls, ViewType.bind(cls, columns), prefix)

    def bind(cls, columns: Mapping[str, str] | str) -> tuple[tuple[str, str], ...]:
        """Field of the entity -> label column, checked, in the order of the fields.

        Raises:
            ColumnNotFoundError: the entity has no such field; DefinitionError: one column for several fields, or no column.
        """
        entity = definition_of(cls).entity
        fields = list(entity_fields(entity))
        if isinstance(columns, str):
            if len(fields) != 1:
                raise DefinitionError(f"{entity.__name__} has the fields {', '.join(fields)}: give a mapping of each to a label column")
            columns = {fields[0]: columns}
        if not isinstance(columns, Mapping) or not all(isinstance(column, str) for column in columns.values()):
            raise DefinitionError(f"on({columns!r}): give a label column, or a mapping of each field to one")
        for field in columns:
            if field not in fields:
                raise ColumnNotFoundError(field, fields, f"entity {entity.__name__}")
        return tuple((field, columns.get(field, field)) for field in fields)

    if not TYPE_CHECKING:  # a type checker that sees it would take every misspelt feature for one

        def __getattr__(cls, name: str) -> Any:
            definition = cls.__dict__.get("__definition__")
            if name.startswith("_") or definition is None:
                raise AttributeError(name)
            raise UnknownFeatureError(name, list(definition.nodes), f"view {cls.__name__}")

    def __repr__(cls) -> str:
        return f"<view {cls.__name__}>"


class View(Generic[E], metaclass=ViewType):
    """Base of views: `class V(ft.View[MyEntity], source=table, refresh="stream")`.

    Class arguments:
        source: the `ft.Table` that the features are computed from.
        refresh: how fresh serving is: "stream" (default), "daily@HH:MM" (UTC) or an interval such as "1h". Training floors the label's
            time to the last refresh, so that it sees what serving saw.
    """

    __definition__: Definition

    def __init_subclass__(cls, source: Table | None = None, refresh: str = "stream", **options: Any) -> None:
        super().__init_subclass__(**options)
        if source is None:
            raise DefinitionError(f"view {cls.__name__} has no source; write class {cls.__name__}(ft.View[...], source=table)")
        if not isinstance(source, Table):
            raise DefinitionError(f"view {cls.__name__}: source= is a {type(source).__name__}, expected an ft.Table")
        annotations = evaluate_annotations(cls, 2)
        nodes: dict[str, Node] = {}
        declared: dict[str, tuple[type[Feature[Any]], DType] | None] = {}
        for name, value in list(vars(cls).items()):
            if not isinstance(value, Expression):
                continue
            where = f"{cls.__name__}.{name}"
            if not _FEATURE_NAME.fullmatch(name) or name.startswith("__"):
                raise DefinitionError(f"{name!r} cannot name a feature: use letters, digits and '_', and no '__' at its beginning")
            _check_columns(where, value.node, source)
            nodes[name] = checks.normalise(value.node, where)
            declared[name] = dtype_of(annotations[name]) if name in annotations else None
        for name in annotations:
            if not name.startswith("_") and name not in nodes:
                raise DefinitionError(f"{cls.__name__}.{name} is declared without an expression; write {name}: ... = table.c.column")
        if not nodes:
            raise DefinitionError(f"view {cls.__name__} has no feature")
        cls.__definition__ = Definition(cls.__name__, _entity_of(cls), source, parse_refresh(refresh), nodes, declared)
        kinds: dict[str, tuple[type[Feature[Any]], DType]] = {}
        if source.schema_if_known() is not None:
            plan = cls.__definition__.plan()
            from fondaco.features.feature import SCALARS, List, dtype_named

            for feature in plan.features:
                kinds[feature.name] = (SCALARS.get(feature.dtype, List), dtype_named(feature.dtype))
        for name in nodes:
            kind, dtype = kinds.get(name) or declared[name] or (Feature, None)
            made = kind.__new__(kind)
            made.__dict__.update(view=cls, name=name, output=name, columns=())
            if dtype is not None:
                made.__dict__["dtype"] = dtype
            setattr(cls, name, made)

    def __init__(self) -> None:
        raise DefinitionError(f"view {type(self).__name__} is not instantiated; its attributes are the features")


def definition_of(view: type) -> Definition:
    """What a view class was defined with."""
    return view.__definition__  # type: ignore[attr-defined,no-any-return]


def features_of(view: type) -> dict[str, Feature[Any]]:
    """The features of a view by name, in the order of definition."""
    return {name: view.__dict__[name] for name in definition_of(view).nodes}


def parse_refresh(text: str) -> Refresh:
    """The plan node of `refresh=`.

    Raises:
        DefinitionError: neither stream, daily@HH:MM nor an interval.
    """
    if text == "stream":
        return Refresh()
    match = _DAILY.fullmatch(text)
    if match is not None:
        return Refresh(_DAY_US, (int(match[1]) * 60 + int(match[2])) * 60_000_000)
    try:
        interval = parse_duration_us(text)
    except Exception as exc:
        raise DefinitionError(f'refresh={text!r}: write "stream", "daily@00:00" or an interval such as "1h"') from exc
    if interval == 0:
        raise DefinitionError(f'refresh={text!r}: an interval is longer than nothing; "stream" is as fresh as can be')
    return Refresh(interval)


def _entity_of(cls: type) -> type[Entity]:
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is View:
            (entity,) = get_args(base)
            if isinstance(entity, type) and issubclass(entity, Entity):
                return entity
    raise DefinitionError(f"view {cls.__name__} names no entity; write class {cls.__name__}(ft.View[MyEntity], source=...)")


def _check_columns(where: str, node: Node, table: Table) -> None:
    for part in walk(node):
        if isinstance(part, Column) and part.table is not table:
            raise DefinitionError(
                f"{where} reads column {part.name!r} of {part.table!r}, but the view's source is {table!r}; one view has one source"
            )
