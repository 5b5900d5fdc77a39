"""Graphs and their versions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "graphs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("keep", sa.Integer, nullable=False),
        sa.Column("current", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("next_version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
    )
    live = sa.text("deleted_us IS NULL")
    op.create_index("graphs_live_name", "graphs", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "graph_versions",
        sa.Column("graph_id", sa.Integer, sa.ForeignKey("graphs.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("build_id", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("nodes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("edges", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("ready_us", sa.BigInteger),
        sa.Column("promoted_us", sa.BigInteger),
        sa.Column("rolled_back_us", sa.BigInteger),
        sa.Column("error_class", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.PrimaryKeyConstraint("graph_id", "number"),
    )


def downgrade() -> None:
    for table in ("graph_versions", "graphs"):
        op.drop_table(table)
