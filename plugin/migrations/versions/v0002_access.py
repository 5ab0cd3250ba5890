"""Launches: the visit that was chosen, the person's roles, and who is renewing the token."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("launch", sa.Column("encounter", sa.LargeBinary))
    op.add_column("launch", sa.Column("roles", sa.LargeBinary))
    op.add_column("launch", sa.Column("renewing_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    for column in ("renewing_until", "roles", "encounter"):
        op.drop_column("launch", column)
