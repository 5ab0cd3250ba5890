"""Whose an entry of the audit trail is, so that the administrators of one EHR do not read another's."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("audit", sa.Column("issuer", sa.String(500)))
    op.create_index("ix_audit_issuer", "audit", ["issuer"])


def downgrade() -> None:
    op.drop_index("ix_audit_issuer", "audit")
    op.drop_column("audit", "issuer")
