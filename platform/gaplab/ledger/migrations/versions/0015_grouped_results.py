"""An index with all that groups of results are computed from; in SQLite, statistics of tables."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_COLUMNS = (
    *("protocol", "chosen", "is_primary", "assignment", "dataset", "epochs", "results_version"),
    *("seed", "truth", "ap", "ap_nms", "gap", "ar", "trial_id"),
)


def upgrade() -> None:
    op.create_index("ix_chosen_evaluation_grouped", "chosen_evaluation", _COLUMNS)
    if op.get_bind().dialect.name == "sqlite":  # PostgreSQL keeps statistics by itself
        op.execute("PRAGMA analysis_limit = 400")
        op.execute("ANALYZE")


def downgrade() -> None:
    op.drop_index("ix_chosen_evaluation_grouped", "chosen_evaluation")
