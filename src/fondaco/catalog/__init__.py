"""Catalog: SQL tables of everything that has a name: stores, their schemas, versions and pushes, feature sets, training sets; tokens,
quotas, nodes, placements, replicas; graphs.

It knows names and rows, no data and no files but its own. `Catalog` hands out transactions; the modules `stores`, `versions`, `pushes`,
`records`, `tokens`, `quotas`, `nodes`, `placements`, `replicas` and `graphs` are functions on an open transaction, so that a caller can
make several changes one atomic step.
"""

from fondaco.catalog.catalog import CATALOG_FILE, Catalog
from fondaco.catalog.rows import (
    EVERY,
    OVER,
    RETAINED,
    ROLES,
    FeatureSetRow,
    GraphRow,
    GraphVersionRow,
    NodeRow,
    PlacementRow,
    PushRow,
    QuotaRow,
    ReplicaRow,
    ReplicaState,
    Role,
    StoreRow,
    TokenRow,
    TrainingSetRow,
    ValueSchemaRow,
    VersionRow,
    VersionState,
)

__all__ = [
    "CATALOG_FILE",
    "EVERY",
    "OVER",
    "RETAINED",
    "ROLES",
    "Catalog",
    "FeatureSetRow",
    "GraphRow",
    "GraphVersionRow",
    "NodeRow",
    "PlacementRow",
    "PushRow",
    "QuotaRow",
    "ReplicaRow",
    "ReplicaState",
    "Role",
    "StoreRow",
    "TokenRow",
    "TrainingSetRow",
    "ValueSchemaRow",
    "VersionRow",
    "VersionState",
]
