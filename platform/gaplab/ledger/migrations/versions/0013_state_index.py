"""An index that finds the trials that have not finished without reading configurations."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_trial_state_id", "trial", ["state", "id"])


def downgrade() -> None:
    op.drop_index("ix_trial_state_id", "trial")
