"""Run migrations on the open connection that `gaplab.ledger.migrate` passes to Alembic."""

from alembic import context

from gaplab.ledger.migrate import VERSION_TABLE
from gaplab.ledger.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
