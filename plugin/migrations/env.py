"""Alembic's entry: runs on the connection that database.py hands over, or makes a script offline."""

from alembic import context

from quarterhour.plugin.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
