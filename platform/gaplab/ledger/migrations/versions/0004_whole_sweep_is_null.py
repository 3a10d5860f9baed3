"""A request to cancel a whole sweep has no trial: NULL, where an empty text stood before."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLE = sa.table("cancellation", sa.column("trial_id", sa.Text()))


def upgrade() -> None:
    with op.batch_alter_table("cancellation") as table:
        table.alter_column("trial_id", existing_type=sa.Text(), nullable=True)
    op.execute(sa.update(_TABLE).where(_TABLE.c.trial_id == "").values(trial_id=None))


def downgrade() -> None:
    op.execute(sa.update(_TABLE).where(_TABLE.c.trial_id.is_(None)).values(trial_id=""))
    with op.batch_alter_table("cancellation") as table:
        table.alter_column("trial_id", existing_type=sa.Text(), nullable=False)
