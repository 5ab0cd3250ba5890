"""What a person worked on is found without reading everybody's; what was settled by hand is not "acknowledged"."""

from alembic import op

revision = "0010"
down_revision = "0009"

TABLES = ("draft", "decision", "known_visit")


def upgrade() -> None:
    for table in TABLES:
        op.create_index(f"ix_{table}_person", table, ["person"])
    # Only a person's word left no reference: every acknowledgement names its message.
    op.execute("UPDATE charge SET how = 'by-hand' WHERE how = 'acknowledged' AND reference IS NULL")


def downgrade() -> None:
    op.execute("UPDATE charge SET how = 'acknowledged' WHERE how = 'by-hand'")
    for table in TABLES:
        op.drop_index(f"ix_{table}_person", table)
