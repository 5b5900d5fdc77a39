"""Catalog: SQL tables of everything that has a name: stores, their schemas, versions and pushes, feature sets, training sets.

It knows names and rows, no data and no files but its own. `Catalog` hands out transactions; the modules `stores`, `versions`, `pushes`
and `records` are functions on an open transaction, so that a caller can make several changes one atomic step.
"""

from fondaco.catalog.catalog import CATALOG_FILE, Catalog
from fondaco.catalog.rows import OVER, RETAINED, FeatureSetRow, PushRow, StoreRow, TrainingSetRow, ValueSchemaRow, VersionRow, VersionState

__all__ = [
    "CATALOG_FILE",
    "OVER",
    "RETAINED",
    "Catalog",
    "FeatureSetRow",
    "PushRow",
    "StoreRow",
    "TrainingSetRow",
    "ValueSchemaRow",
    "VersionRow",
    "VersionState",
]
