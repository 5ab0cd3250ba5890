"""What was signed is found by its patient's day and by its services, and not by its own visit alone.

Filled at start for what is there already (same_day.index_older): the keys for it are not the database's.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("decision", sa.Column("day", sa.String(64)))
    op.create_index("ix_decision_day", "decision", ["day"])
    op.create_table(
        "charged_service",
        sa.Column("service", sa.String(64), primary_key=True),
        sa.Column("decision", sa.String(32), sa.ForeignKey("decision.id"), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("charged_service")
    op.drop_index("ix_decision_day", "decision")
    op.drop_column("decision", "day")
