"""Scores and ranks of the positive points of each epoch. NULL in epochs of earlier versions."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("epoch_losses", sa.Column("positives", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("epoch_losses") as table:
        table.drop_column("positives")
