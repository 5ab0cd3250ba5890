"""One lease an encounter, the way a decision's charges leave by, what became of each, and corrections."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("encounter", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("until", INSTANT),
    )
    # Whatever was signed before went out as ChargeItems, one by one.
    op.add_column("decision", sa.Column("way", sa.String(20), nullable=False, server_default="charge-item"))
    op.add_column("decision", sa.Column("replaces", sa.String(32)))
    op.drop_column("decision", "leased_until")
    op.add_column("charge", sa.Column("how", sa.String(20)))
    op.add_column("charge", sa.Column("prepared", sa.LargeBinary))
    op.add_column("charge", sa.Column("due_at", INSTANT))


def downgrade() -> None:
    for column in ("due_at", "prepared", "how"):
        op.drop_column("charge", column)
    op.add_column("decision", sa.Column("leased_until", INSTANT))
    op.drop_column("decision", "replaces")
    op.drop_column("decision", "way")
    op.drop_table("lease")
