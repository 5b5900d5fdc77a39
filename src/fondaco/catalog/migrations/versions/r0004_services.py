"""Data services and their leases; runs of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "services",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("ttl_us", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("idle_since_us", sa.BigInteger),
        sa.Column("removed_us", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False, server_default=sa.text("''")),
    )
    live, there = sa.text("state = 'LIVE'"), sa.text("removed_us IS NULL")
    op.create_index("services_live_name", "services", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_index("services_there", "services", ["name"], sqlite_where=there, postgresql_where=there)
    op.create_table(
        "service_leases",
        sa.Column("service_id", sa.BigInteger, sa.ForeignKey("services.id"), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("acquired_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("note", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("service_id", "holder"),
    )
    op.create_index("service_leases_expires", "service_leases", ["expires_us"])
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("directory", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("signal", sa.Integer),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("heartbeat_us", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("graphs", sa.Text, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
        sa.Column("services", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("variables", sa.Text, nullable=False),
    )
    op.create_index("runs_started", "runs", ["started_us"])


def downgrade() -> None:
    for table in ("runs", "service_leases", "services"):
        op.drop_table(table)
