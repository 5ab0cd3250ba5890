"""What was signed is found by its patient's day, and by its encounter and services, not by its own visit alone.

Filled at start for what is there already (same_day.index_older): the keys for it are not the database's.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "day": sa.String(64),
    "place": sa.Integer(),
    "encounter": sa.String(64),
    "services": sa.Text(),
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("decision", sa.Column(name, kind))
    op.create_index("ix_decision_day", "decision", ["day", "place"], unique=True)
    op.create_index("ix_decision_encounter", "decision", ["encounter"])


def downgrade() -> None:
    op.drop_index("ix_decision_encounter", "decision")
    op.drop_index("ix_decision_day", "decision")
    for name in COLUMNS:
        op.drop_column("decision", name)
