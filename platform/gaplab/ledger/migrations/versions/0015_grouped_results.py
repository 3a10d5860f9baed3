"""An index with all that groups of results are computed from; in SQLite, statistics of tables."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_COLUMNS = (
    *("protocol", "chosen", "is_primary", "assignment", "dataset", "epochs", "results_version"),
    *("seed", "truth", "ap", "ap_nms", "gap", "ar", "trial_id"),
)

_LARGE = (
    (
        "chosen_evaluation",
        "ix_chosen_evaluation_grouped",
        "170108 401 401 401 401 401 401 401 81 81 1 1 1 1 1",
    ),
    (
        "chosen_evaluation",
        "ix_chosen_evaluation_protocol_chosen_is_primary_ap_trial_id",
        "242880 401 401 401 20 1",
    ),
    ("chosen_evaluation", "sqlite_autoindex_chosen_evaluation_1", "191760 2 2 2 2 1"),
    ("trial_section", "ix_trial_section_section_id_trial_id", "554400 401 1"),
    ("trial_section", "sqlite_autoindex_trial_section_1", "535296 5 1"),
    ("setting", "ix_setting_key_number_section_id", "632 7 5 1"),
    ("setting", "ix_setting_key_value_section_id", "616 7 5 1"),
    ("setting", "sqlite_autoindex_setting_1", "560 9 1"),
)
"""Table, index and statistics of a ledger with 100,000 trials."""


def upgrade() -> None:
    op.create_index("ix_chosen_evaluation_grouped", "chosen_evaluation", _COLUMNS)
    if op.get_bind().dialect.name == "sqlite":  # PostgreSQL keeps statistics by itself
        op.execute("PRAGMA analysis_limit = 400")
        op.execute("ANALYZE")
        _assume_many_trials()


def downgrade() -> None:
    op.drop_index("ix_chosen_evaluation_grouped", "chosen_evaluation")


def _assume_many_trials() -> None:
    """Give empty tables the statistics of large ones, whose plans are fast for few rows, too."""
    table = sa.table("sqlite_stat1", *map(sa.column, ("tbl", "idx", "stat")))
    known = set(op.get_bind().scalars(sa.select(table.c.tbl)).all())
    rows = [dict(zip(("tbl", "idx", "stat"), row, strict=True)) for row in _LARGE]
    if rows := [row for row in rows if row["tbl"] not in known]:
        op.get_bind().execute(sa.insert(table), rows)
