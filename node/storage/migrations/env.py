"""What Alembic runs: always on the connection, and inside the transaction, of the store that is being opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
