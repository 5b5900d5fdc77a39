"""Inputs: how a caller says which columns of a table mean what. Light: these values need neither Arrow nor numba.

Without `Nodes` and `Edges`, the names of columns say it:

    node table   `id` (or else the first column), `weight`, `time`
    edge table   `src` and `dst` (or else the first two columns), `weight`, `time`; a column `id` means nothing

and every other column is a feature. `tables` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StoreFeature:
    """A feature that lies in a store, in `field` of the row whose key is the node's id. Nothing is copied into the graph."""

    store: str
    field: str


FeatureSource: TypeAlias = str | Sequence[str] | StoreFeature
Features: TypeAlias = Mapping[str, FeatureSource] | Sequence[str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """A node table with its columns named.

    Args:
        table: the table, or None for a type whose nodes are the endpoints of its edges.
        id: column of the ids, whole numbers or texts. weight: for global sampling. time: when each node came to be.
        features: by name, the column; or several columns of numbers that are to be one vector; or a `StoreFeature`. As a list: columns that
            are features by their own names. None: every column that means nothing else.
        tz: the zone of times that have none.
    """

    table: object
    id: str | None = None
    weight: str | None = None
    time: str | None = None
    features: Features = None
    tz: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """An edge table with its columns named: ids of both ends, and the others as for `Nodes`."""

    table: object
    src: str | None = None
    dst: str | None = None
    weight: str | None = None
    time: str | None = None
    features: Features = None
    tz: str | None = None
