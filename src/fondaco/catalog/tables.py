"""Tables of the catalog, as SQLAlchemy Core sees them.

The tables in the database are made by the migrations in `migrations/versions`, never by `MetaData.create_all`; a test compares the two.
Times are microseconds since the epoch, documents are JSON text. Nothing is ever deleted from `stores`, `versions`, `pushes`, `graphs`,
`graph_versions`, `services` and `runs`: a number that was given once is never given again, also not to a store or graph of the same name
created after this one was deleted. The same definitions serve SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

stores = Table(
    "stores",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key_schema", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("current", Integer, nullable=False, server_default=text("0")),  # 0: none
    Column("next_version", Integer, nullable=False, server_default=text("1")),
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
)
_LIVE = stores.c.deleted_us.is_(None)
Index("stores_live_name", stores.c.name, unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)

value_schemas = Table(
    "value_schemas",
    metadata,
    Column("store_id", Integer, ForeignKey("stores.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("schema", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("store_id", "number"),
)

versions = Table(
    "versions",
    metadata,
    Column("store_id", Integer, ForeignKey("stores.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("push_id", Text, nullable=False),
    Column("schema_number", Integer, nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("records", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("compression", Text, nullable=False, server_default=text("'none'")),
    Column("as_of_us", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("ready_us", BigInteger),
    Column("promoted_us", BigInteger),  # when it last became current
    Column("rolled_back_us", BigInteger),  # when a rollback left it; a rollback never returns to such a version
    PrimaryKeyConstraint("store_id", "number"),
)

pushes = Table(
    "pushes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("store_id", Integer, nullable=False),
    Column("push_id", Text, nullable=False),
    Column("version", Integer),  # that it builds; null: an incremental push, which builds none
    Column("kind", Text, nullable=False, server_default=text("'batch'")),  # or 'incremental'
    Column("state", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("finished_us", BigInteger),
    Column("kill_requested", Boolean, nullable=False, server_default=false()),
    Column("progress_rows", BigInteger, nullable=False, server_default=text("0")),
    Column("progress_us", BigInteger),
    Column("input_rows", BigInteger, nullable=False, server_default=text("0")),
    Column("records", BigInteger, nullable=False, server_default=text("0")),
    Column("duplicates", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("raw_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("partitions", Integer, nullable=False),
    Column("compression", Text),
    Column("compression_sample", Text),
    Column("steps", Text),
    Column("built_from", Text),
    Column("error_class", Text),
    Column("error_message", Text),
    Column("blame", Text),
    ForeignKeyConstraint(["store_id", "version"], ["versions.store_id", "versions.number"]),
)
Index("pushes_push_id", pushes.c.store_id, pushes.c.push_id)

graphs = Table(
    "graphs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("keep", Integer, nullable=False),  # versions to keep, the current one included
    Column("current", Integer, nullable=False, server_default=text("0")),  # 0: none
    Column("next_version", Integer, nullable=False, server_default=text("1")),
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
)
_LIVE_GRAPH = graphs.c.deleted_us.is_(None)
Index("graphs_live_name", graphs.c.name, unique=True, sqlite_where=_LIVE_GRAPH, postgresql_where=_LIVE_GRAPH)

graph_versions = Table(
    "graph_versions",
    metadata,
    Column("graph_id", Integer, ForeignKey("graphs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("build_id", Text, nullable=False),  # the folder in which it is, or was, built
    Column("pid", Integer, nullable=False),  # of the process that builds, or built it
    Column("partitions", Integer, nullable=False, server_default=text("0")),  # this and the next three: 0 until it is READY
    Column("nodes", BigInteger, nullable=False, server_default=text("0")),
    Column("edges", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("created_us", BigInteger, nullable=False),
    Column("ready_us", BigInteger),
    Column("promoted_us", BigInteger),  # when it last became current
    Column("rolled_back_us", BigInteger),  # when a rollback left it; a rollback never returns to such a version
    Column("error_class", Text),
    Column("error_message", Text),
    PrimaryKeyConstraint("graph_id", "number"),
)

feature_sets = Table(
    "feature_sets",
    metadata,
    Column("name", Text, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "plan_hash"),
)

training_sets = Table(
    "training_sets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)
Index("training_sets_name", training_sets.c.name)

changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("counter", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", Text, nullable=False, unique=True),  # SHA-256 of the secret, hexadecimal
    Column("roles", Text, nullable=False),  # {"<store>" or "*": "read" | "write" | "admin"}
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
)
_GOOD = tokens.c.revoked_us.is_(None)
Index("tokens_good_name", tokens.c.name, unique=True, sqlite_where=_GOOD, postgresql_where=_GOOD)

quotas = Table(
    "quotas",
    metadata,
    Column("store", Text, nullable=False),  # a name, or "*"
    Column("caller", Text, nullable=False),  # a token's name, or "*"
    Column("reads_per_s", Float),  # null: no bound
    Column("writes_per_s", Float),
    PrimaryKeyConstraint("store", "caller"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("address", Text, nullable=False),  # http://host:port
    Column("zone", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("lease_until_us", BigInteger, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("registered_us", BigInteger, nullable=False),
    Column("files_address", Text),  # where other nodes fetch version files from; null: nowhere
    Column("files_secret", Text),  # what they must show there
)

placements = Table(
    "placements",
    metadata,
    Column("store_id", Integer, ForeignKey("stores.id"), primary_key=True, autoincrement=False),
    Column("cluster", Text, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("zone_spread", Boolean, nullable=False),
    Column("nodes", Text, nullable=False, server_default=text("'[]'")),  # only these, in this order; []: any of the cluster
    Column("routed", Integer),  # the version that routing has adopted; 0: only real-time writes; null: none yet
    Column("updated_us", BigInteger, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("store_id", Integer, ForeignKey("stores.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("node", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),  # how much of its file is there
    Column("error", Text),  # why it is not ready; null: it is, or on its way
    Column("updated_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("store_id", "version", "partition", "node"),
)
Index("replicas_node", replicas.c.node)

services = Table(
    "services",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # the incarnation (catalog/services.py says how it is chosen)
    Column("name", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("spec", Text, nullable=False),  # resolved: versions and what the cluster's configuration adds are in it
    Column("cluster", Text, nullable=False),
    Column("replicas", Integer, nullable=False),  # wanted now; the spec's is what it began with
    Column("state", Text, nullable=False),
    Column("ttl_us", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("idle_since_us", BigInteger),  # null: somebody holds a lease
    Column("removed_us", BigInteger),  # nothing of it is left since then
    Column("reason", Text, nullable=False, server_default=text("''")),  # of its last change of state, in words
)
_LIVE_SERVICE = services.c.state == text("'LIVE'")
Index("services_live_name", services.c.name, unique=True, sqlite_where=_LIVE_SERVICE, postgresql_where=_LIVE_SERVICE)
_THERE = services.c.removed_us.is_(None)
Index("services_there", services.c.name, sqlite_where=_THERE, postgresql_where=_THERE)

service_leases = Table(
    "service_leases",
    metadata,
    Column("service_id", BigInteger, ForeignKey("services.id"), nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),  # null: holds until it is released
    Column("note", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("service_id", "holder"),
)
Index("service_leases_expires", service_leases.c.expires_us)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),  # "run-<12 hex digits>"
    Column("name", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("directory", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("heartbeat_us", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("graphs", Text, nullable=False),  # {name: version}
    Column("features", Text, nullable=False),  # {set: version}
    Column("services", Text, nullable=False),  # [name]
    Column("environment", Text, nullable=False),  # what the programs were: python, platform, digest of the packages
    Column("variables", Text, nullable=False),  # names of the variables that were set, with the values that are no secrets
)
Index("runs_started", runs.c.started_us)
