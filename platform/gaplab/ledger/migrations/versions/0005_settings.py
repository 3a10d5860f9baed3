"""Settings that are no part of a trial's id: those of each sweep, and those of each attempt.

NULL stands for the configuration of the trial, with which earlier versions ran every attempt.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("sweep_trial", "attempt")


def upgrade() -> None:
    for name in _TABLES:
        op.add_column(name, sa.Column("config", sa.JSON(), nullable=True))


def downgrade() -> None:
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.drop_column("config")
