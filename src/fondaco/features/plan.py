"""The plan: what a feature set means, as a small tree of plain values. Its canonical JSON is hashed, and the hash *is* the version.

Engines (`sql`), the judge (`oracle`), the checks and the record of a training set all read this tree and nothing else, so a rule that is
not written in it does not exist. Twelve node types: `Column`, `Literal`, `Call`, `Aggregate` (expressions); `Scan`, `Key`, `Refresh`,
`FeaturePlan`, `ViewPlan` (a view); `Binding`, `Selection`, `SetPlan` (what a model reads). Immutable; any thread.

Two definitions that mean the same write the same JSON: options left out and options at their default are the same, durations are
microseconds, and the name of a Python class or variable counts only where it is a name in the data (a view's, an entity's).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from typing import Literal as OneOf

from fondaco.features.kinds import Kind

PLAN_FORMAT: Final = 1  # raised when the meaning of a node changes, so that no old hash is taken for a new meaning

Scalar = bool | int | float | str | None
Closed = OneOf["left", "right"]


# -- expressions --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the view's source. `table` says which table the author took it from; it is no part of the meaning."""

    name: str
    table: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; a timestamp is its microseconds with kind timestamp."""

    value: Scalar
    kind: Kind


@dataclass(frozen=True, slots=True)
class Call:
    """One of `operators.OPERATORS` applied to its arguments. Settings such as the digits of `round` are literal arguments."""

    op: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One value from the rows of a key that are visible at the label's time.

    op: `latest` (a lookup) or one of `aggregates.AGGREGATES`. `value` None only for count. `window_us` None: the whole history up to t.
    `k`: the newest k values as a list, for last. `max_age_us`: for latest, measured from the label's own time (not from the floored one).
    """

    op: str
    value: Node | None
    where: Node | None = None
    window_us: int | None = None
    closed: Closed = "right"
    skip_null: bool = False
    k: int | None = None
    max_age_us: int | None = None
    default: Literal | None = None


Node = Column | Literal | Call | Aggregate


# -- views --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """Where rows come from: `source` identifies them (paths, SQL text, or the name of a table in memory)."""

    source: tuple[str, ...]
    time: str | None = None
    known_at: str | None = None
    tz: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """Fields of an entity and the columns of the source that hold them, in the order of the entity's fields."""

    entity: str
    fields: tuple[str, ...]
    kinds: tuple[Kind, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """How fresh serving is: `stream`, or every `interval_us` counted from `offset_us` after 1970-01-01T00:00:00Z."""

    interval_us: int | None = None
    offset_us: int = 0

    def floor(self, t_us: int) -> int:
        """The last refresh at or before `t_us`."""
        return t_us if self.interval_us is None else (t_us - self.offset_us) // self.interval_us * self.interval_us + self.offset_us


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A named, typed value: an expression over aggregates. `dtype` is the name of the feature's type, such as `float32`."""

    name: str
    dtype: str
    value: Node


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """Features of one entity from one source."""

    name: str
    key: Key
    scan: Scan
    refresh: Refresh
    features: tuple[FeaturePlan, ...]

    @property
    def version(self) -> str:
        """Hash of the canonical JSON."""
        return plan_hash(self)

    def feature(self, name: str) -> FeaturePlan:
        """The feature of this name; the caller knows that it exists."""
        return next(feature for feature in self.features if feature.name == name)


# -- sets ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binding:
    """Which label columns hold the entity's fields, in the order of its fields."""

    entity: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """One output column: feature `feature` of view number `view`, for the entity that `binding` finds, under the name `output`."""

    view: int
    feature: str
    output: str
    binding: Binding


@dataclass(frozen=True, slots=True)
class SetPlan:
    """What one model reads, in order. `views` holds each view once, with the features that are selected."""

    name: str
    views: tuple[ViewPlan, ...]
    selections: tuple[Selection, ...]

    @property
    def version(self) -> str:
        """Hash of the canonical JSON."""
        return plan_hash(self)

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Each binding once, in order of first use."""
        return tuple(dict.fromkeys(selection.binding for selection in self.selections))

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Label columns that hold keys, each once, in order of first use."""
        return tuple(dict.fromkeys(column for binding in self.bindings for column in binding.columns))


Plan = Node | Scan | Key | Refresh | FeaturePlan | ViewPlan | Binding | Selection | SetPlan


# -- canonical form -----------------------------------------------------------------------------------------------------------------


def to_json(value: object) -> object:
    """The canonical JSON value of a plan, or of a part of it: defaults are left out, sequences are arrays, kinds are their names."""
    if isinstance(value, Kind):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no word for it
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    members: dict[str, object] = {"node": type(value).__name__}
    for member in dataclasses.fields(value):
        content = getattr(value, member.name)
        if member.compare and not (content == member.default and type(content) is type(member.default)):
            members[member.name] = to_json(content)
    return members


def canonical_json(plan: Plan) -> str:
    """One text per meaning: sorted names, no spaces, ASCII."""
    return json.dumps({"plan": PLAN_FORMAT, "root": to_json(plan)}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def plan_hash(plan: Plan) -> str:
    """SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


def diff(old: Plan, new: Plan) -> list[str]:
    """What changed, one line each (`+` new, `-` gone, `~` different), named by its path; empty when the two mean the same."""
    return list(_diff("", to_json(old), to_json(new)))


def _diff(path: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _diff_member(f"{path}.{name}" if path else name, old, new, name)
    elif isinstance(old, list) and isinstance(new, list):
        olds, news = _by_name(old), _by_name(new)
        for name in list(dict.fromkeys([*olds, *news])):
            yield from _diff_member(f"{path}[{name}]", olds, news, name)
    elif old != new or type(old) is not type(new):
        yield f"~ {path}: {_short(old)} -> {_short(new)}"


def _diff_member(path: str, old: dict[str, object], new: dict[str, object], name: str) -> Iterator[str]:
    if name not in new:
        yield f"- {path}: {_short(old[name])}"
    elif name not in old:
        yield f"+ {path}: {_short(new[name])}"
    else:
        yield from _diff(path, old[name], new[name])


def _by_name(items: list[object]) -> dict[str, object]:
    """Named members are compared by name, so that a feature put in the middle is one line; others by position."""
    names = [str(item.get("output", item.get("name", index))) if isinstance(item, dict) else str(index) for index, item in enumerate(items)]
    return dict(zip(names, items, strict=True)) if len(set(names)) == len(names) else {str(i): item for i, item in enumerate(items)}


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


# -- walking ------------------------------------------------------------------------------------------------------------------------


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, parents first."""
    yield node
    children: tuple[Node | None, ...] = ()
    if isinstance(node, Call):
        children = node.args
    elif isinstance(node, Aggregate):
        children = (node.value, node.where)
    for child in children:
        if child is not None:
            yield from walk(child)


def aggregates_of(node: Node) -> list[Aggregate]:
    """The aggregates in an expression, each once, in order."""
    return list(dict.fromkeys(part for part in walk(node) if isinstance(part, Aggregate)))


def columns_of(node: Node) -> list[str]:
    """Names of the source columns that an expression reads, each once, in order."""
    return list(dict.fromkeys(part.name for part in walk(node) if isinstance(part, Column)))
