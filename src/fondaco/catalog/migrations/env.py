"""Alembic's entry point: runs the migrations on the connection that `Catalog` hands over, inside its transaction."""

from alembic import context

from fondaco.catalog.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
