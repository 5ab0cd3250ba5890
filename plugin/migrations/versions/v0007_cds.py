"""Tokens of CDS clients that were used, and the cards that were given with what became of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "cds_token",
        sa.Column("jti", sa.String(64), primary_key=True),
        sa.Column("until", INSTANT, nullable=False, index=True),
    )
    op.create_table(
        "cds_card",
        sa.Column("card", sa.String(36), primary_key=True),
        sa.Column("finding", sa.String(60), primary_key=True),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("service", sa.String(60), nullable=False),
        sa.Column("given_at", INSTANT, nullable=False, index=True),
        sa.Column("outcome", sa.String(12)),
        sa.Column("reason", sa.String(40)),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("told_at", INSTANT),
    )


def downgrade() -> None:
    op.drop_table("cds_card")
    op.drop_table("cds_token")
