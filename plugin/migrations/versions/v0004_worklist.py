"""The visits that were looked at here, so that what waits can be found without the EHR."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "known_visit",
        sa.Column("visit", sa.String(64), primary_key=True),
        sa.Column("issuer", sa.String(500), nullable=False, index=True),
        sa.Column("person", sa.String(64), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, index=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("known_visit")
