"""What Alembic runs to carry out the steps: on the connection it is given, in the transaction that is open there."""

from __future__ import annotations

from alembic import context

from service.runs.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite too takes back a half-made step, as long as the transaction was begun by hand, which it was.
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
