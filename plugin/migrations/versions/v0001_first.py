"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "keyring",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "pending",
        sa.Column("state", sa.String(64), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False, index=True),
    )
    op.create_table(
        "launch",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("browser", sa.String(64), nullable=False),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("person", sa.String(64), nullable=False),
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("chart", sa.LargeBinary),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
    )
    op.create_table(
        "draft",
        sa.Column("visit", sa.String(64), primary_key=True),
        sa.Column("person", sa.String(64), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("visit", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("person", sa.String(64), nullable=False),
        sa.Column("signed_at", INSTANT, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("leased_until", INSTANT),
        sa.UniqueConstraint("visit", "revision"),
    )
    op.create_table(
        "charge",
        sa.Column("identifier", sa.String(36), primary_key=True),
        sa.Column("decision", sa.String(32), sa.ForeignKey("decision.id"), nullable=False, index=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.String(12), nullable=False, index=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("reference", sa.LargeBinary),
        sa.Column("problem", sa.LargeBinary),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("action", sa.String(40), nullable=False, index=True),
        sa.Column("visit", sa.String(64), index=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for table in ("audit", "charge", "decision", "draft", "launch", "pending", "keyring"):
        op.drop_table(table)
