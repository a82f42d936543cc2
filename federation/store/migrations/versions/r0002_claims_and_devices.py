"""Claims of waiting jobs, the GPUs that a lease holds one by one, and how long a hub gives a preempted guest.

What was leased before says nothing of devices, and a hub that said nothing of its reclaim time gives a minute.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; rows that are there keep all they had."""
    op.add_column("jobs", sa.Column("claim", sa.Text(), nullable=True))
    op.add_column("leases", sa.Column("devices", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("agents", sa.Column("reclaim_ms", sa.BigInteger(), nullable=False, server_default="60000"))
    op.add_column("agents", sa.Column("takes_back", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Remove the columns, and with them every claim."""
    columns = (("agents", "takes_back"), ("agents", "reclaim_ms"), ("leases", "devices"), ("jobs", "claim"))
    for table, column in columns:
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
