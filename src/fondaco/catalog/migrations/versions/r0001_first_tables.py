"""First tables: stores, value schemas, versions, pushes, feature sets, training sets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stores",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_schema", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("current", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("next_version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
    )
    live = sa.text("deleted_us IS NULL")
    op.create_index("stores_live_name", "stores", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "value_schemas",
        sa.Column("store_id", sa.Integer, sa.ForeignKey("stores.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("schema", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("store_id", "number"),
    )
    op.create_table(
        "versions",
        sa.Column("store_id", sa.Integer, sa.ForeignKey("stores.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("push_id", sa.Text, nullable=False),
        sa.Column("schema_number", sa.Integer, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("compression", sa.Text, nullable=False, server_default=sa.text("'none'")),
        sa.Column("as_of_us", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("ready_us", sa.BigInteger),
        sa.Column("promoted_us", sa.BigInteger),
        sa.Column("rolled_back_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("store_id", "number"),
    )
    op.create_table(
        "pushes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("store_id", sa.Integer, nullable=False),
        sa.Column("push_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("finished_us", sa.BigInteger),
        sa.Column("kill_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("progress_rows", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("progress_us", sa.BigInteger),
        sa.Column("input_rows", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("records", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("duplicates", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("raw_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("partitions", sa.Integer, nullable=False),
        sa.Column("compression", sa.Text),
        sa.Column("compression_sample", sa.Text),
        sa.Column("steps", sa.Text),
        sa.Column("built_from", sa.Text),
        sa.Column("error_class", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("blame", sa.Text),
        sa.ForeignKeyConstraint(["store_id", "version"], ["versions.store_id", "versions.number"]),
    )
    op.create_index("pushes_push_id", "pushes", ["store_id", "push_id"])
    op.create_table(
        "feature_sets",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "plan_hash"),
    )
    op.create_table(
        "training_sets",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_index("training_sets_name", "training_sets", ["name"])


def downgrade() -> None:
    for table in ("training_sets", "feature_sets", "pushes", "versions", "value_schemas", "stores"):
        op.drop_table(table)
