"""Features: defined once, joined to labels as of each label's time, published to a store, and read back with the same meaning.

    from fondaco import features as ft

    class Plane(ft.Entity):
        tailnum: str

    flights = ft.Table("flights.parquet", time="scheduled_at", known_at="departed_at", key=Plane)
    f = flights.c

    class PlaneHistory(ft.View[Plane], source=flights, refresh="stream"):
        mean_delay_7d: ft.Float32 = f.dep_delay.mean(window="7d")
        late_1d: ft.Int64 = ft.count(where=f.dep_delay > 15, window="1d")

    late = ft.FeatureSet("late_departure", [PlaneHistory])

The rules are in docs/concepts-features.md, their implementation in docs/internals/feature-plan.md.
"""

from fondaco.features.answers import FeatureColumns, FeatureRow
from fondaco.features.entity import Entity
from fondaco.features.expressions import Expression, coalesce, concat, count, greatest, least, when
from fondaco.features.feature import (
    Bool,
    Bytes,
    Feature,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    List,
    String,
    Timestamp,
)
from fondaco.features.featureset import FeatureSet
from fondaco.features.online import OnlineReader, close_readers, get, get_many
from fondaco.features.publish import publish
from fondaco.features.record import TrainingRecord
from fondaco.features.table import Sql, Table
from fondaco.features.training import TrainingSet, training_set
from fondaco.features.view import View
from fondaco.features.why import Reason, why

__all__ = [
    "Bool",
    "Bytes",
    "Entity",
    "Expression",
    "Feature",
    "FeatureColumns",
    "FeatureRow",
    "FeatureSet",
    "Float32",
    "Float64",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "List",
    "OnlineReader",
    "Reason",
    "Sql",
    "String",
    "Table",
    "Timestamp",
    "TrainingRecord",
    "TrainingSet",
    "View",
    "close_readers",
    "coalesce",
    "concat",
    "count",
    "get",
    "get_many",
    "greatest",
    "least",
    "publish",
    "training_set",
    "when",
    "why",
]
