"""Tokens, quotas, nodes, placements, replicas, a counter of changes; pushes that build no version."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pushes") as pushes:  # SQLite cannot change a column: the table is made again
        pushes.add_column(sa.Column("kind", sa.Text, nullable=False, server_default=sa.text("'batch'")))
        pushes.alter_column("version", existing_type=sa.Integer, nullable=True)
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("counter", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO changes (id, counter) VALUES (1, 1)")
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text, nullable=False, unique=True),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("revoked_us", sa.BigInteger),
    )
    good = sa.text("revoked_us IS NULL")
    op.create_index("tokens_good_name", "tokens", ["name"], unique=True, sqlite_where=good, postgresql_where=good)
    op.create_table(
        "quotas",
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("reads_per_s", sa.Float),
        sa.Column("writes_per_s", sa.Float),
        sa.PrimaryKeyConstraint("store", "caller"),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("lease_until_us", sa.BigInteger, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("registered_us", sa.BigInteger, nullable=False),
        sa.Column("files_address", sa.Text),
        sa.Column("files_secret", sa.Text),
    )
    op.create_table(
        "placements",
        sa.Column("store_id", sa.Integer, sa.ForeignKey("stores.id"), primary_key=True, autoincrement=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("zone_spread", sa.Boolean, nullable=False),
        sa.Column("nodes", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("routed", sa.Integer),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("store_id", sa.Integer, sa.ForeignKey("stores.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("error", sa.Text),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("store_id", "version", "partition", "node"),
    )
    op.create_index("replicas_node", "replicas", ["node"])


def downgrade() -> None:
    for table in ("replicas", "placements", "nodes", "quotas", "tokens", "changes"):
        op.drop_table(table)
    op.execute("DELETE FROM pushes WHERE version IS NULL")
    with op.batch_alter_table("pushes") as pushes:
        pushes.alter_column("version", existing_type=sa.Integer, nullable=False)
        pushes.drop_column("kind")
