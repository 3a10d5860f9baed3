"""Mean losses of each epoch. Epochs that earlier versions trained have none."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "epoch_losses",
        sa.Column("trial_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("losses", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "epoch", name="pk_epoch_losses"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_epoch_losses_trial_id"),
    )


def downgrade() -> None:
    op.drop_table("epoch_losses")
