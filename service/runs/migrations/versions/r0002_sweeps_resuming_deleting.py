"""Sweeps beside runs, where each has its folder, runs that go on after their end, deleted ones, and how far each is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_LISTED = ("state", "project", "owner")


def upgrade() -> None:
    """Add what is new; runs that are there are no sweeps, have never been resumed, and are not deleted."""
    op.add_column("runs", sa.Column("kind", sa.String(16), nullable=False, server_default="run"))
    op.add_column("runs", sa.Column("storage", sa.Text(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("budget_from", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("deleted", _MOMENT))
    op.drop_index("ix_runs_created_id", "runs")
    for column in _LISTED:
        op.drop_index(f"ix_runs_{column}_created_id", "runs")
    # Lists show no deleted runs: in an index without them, a page costs the same however many there are.
    there = sa.text("deleted IS NULL")
    paged = [["created", "id"], *([column, "created", "id"] for column in (*_LISTED, "kind"))]
    for columns in (*paged, ["name", "state"]):  # the last to count those of a name without reading their specs
        name = f"ix_runs_{'_'.join(columns)}"
        op.create_index(name, "runs", columns, sqlite_where=there, postgresql_where=there)
    op.create_index("ix_attempts_ended", "attempts", ["ended"])
    op.create_table(
        "progress",
        sa.Column("run_id", sa.String(160), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_progress_run_id_runs"),
        sa.PrimaryKeyConstraint("run_id", name="pk_progress"),
    )
