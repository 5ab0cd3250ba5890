"""Which visits on the worklist are closed, so that no number of them hides one that waits."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("known_visit", sa.Column("closed", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("known_visit", "closed")
