"""Jobs, how far each EHR was looked through, and who and what a visit on the worklist is about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.alter_column("lease", "encounter", new_column_name="name")
    op.create_table(
        "job",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("asked_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False, index=True),
        sa.Column("given_up_at", INSTANT),
        sa.Column("problem", sa.LargeBinary),
        sa.Column("progress", sa.LargeBinary),
    )
    op.create_table(
        "ehr",
        sa.Column("issuer", sa.String(500), primary_key=True),
        sa.Column("next_at", INSTANT),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("watermark", INSTANT),
    )
    op.create_table(
        "furnished",
        sa.Column("visit", sa.String(64), primary_key=True),
        sa.Column("performer", sa.String(64), primary_key=True, index=True),
    )
    op.add_column("known_visit", sa.Column("patient", sa.String(64)))
    op.add_column("known_visit", sa.Column("encounter", sa.String(64)))
    op.create_index("ix_known_visit_patient", "known_visit", ["patient"])
    op.create_index("ix_known_visit_encounter", "known_visit", ["encounter"])


def downgrade() -> None:
    op.drop_index("ix_known_visit_encounter", "known_visit")
    op.drop_index("ix_known_visit_patient", "known_visit")
    op.drop_column("known_visit", "encounter")
    op.drop_column("known_visit", "patient")
    for table in ("furnished", "ehr", "job"):
        op.drop_table(table)
    op.alter_column("lease", "name", new_column_name="encounter")
