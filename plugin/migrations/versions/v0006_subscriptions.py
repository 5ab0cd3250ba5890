"""Subscriptions at EHRs, and which of their events came in."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "subscription",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("issuer", sa.String(500), nullable=False, index=True),
        sa.Column("path", sa.String(64), nullable=False, unique=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("criteria", sa.String(500), nullable=False),
        sa.Column("ehr_id", sa.String(64)),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("through", sa.BigInteger, nullable=False),
        sa.Column("made_at", INSTANT, nullable=False),
        sa.Column("checked_at", INSTANT),
        sa.Column("heard_at", INSTANT),
        sa.Column("event_at", INSTANT),
        sa.Column("problem", sa.LargeBinary),
    )
    op.create_table(
        "received_event",
        sa.Column(
            "subscription",
            sa.String(32),
            sa.ForeignKey("subscription.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("received_event")
    op.drop_table("subscription")
