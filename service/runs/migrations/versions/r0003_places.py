"""Where the job of an attempt is: a backend's name alone does not tell one cluster from the next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; of attempts that are there nobody knows."""
    op.add_column("attempts", sa.Column("place", sa.Text()))
