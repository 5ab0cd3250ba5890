"""What was signed is found by its patient's day and by its encounter, and not by its own visit alone.

Filled at start for what is there already (same_day.index_older): the keys for it are not the database's.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

COLUMNS = ("day", "encounter")


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("decision", sa.Column(column, sa.String(64)))
        op.create_index(f"ix_decision_{column}", "decision", [column])


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_index(f"ix_decision_{column}", "decision")
        op.drop_column("decision", column)
