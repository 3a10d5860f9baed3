"""Evaluations against other ground truth than that of the trial's own data, beside those of it."""

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = ["trial_id", "epoch", "branch", "protocol"]
_INDEXED = ["protocol", "is_primary", "trial_id", "branch", "epoch"]


def upgrade() -> None:
    """Add the column `truth` to the key. It is empty for the evaluations so far."""
    _drop_index(_INDEXED)
    with op.batch_alter_table("evaluation") as table:
        table.add_column(sa.Column("truth", sa.Text(), nullable=False, server_default=""))
        _replace_key(table, [*_KEY, "truth"])
    with op.batch_alter_table("evaluation") as table:
        table.alter_column("truth", server_default=None)  # it was only for existing rows
    _create_index([*_INDEXED, "truth"])


def downgrade() -> None:
    """Delete the evaluations against other ground truth."""
    evaluation = sa.table("evaluation", sa.column("truth", sa.Text()))
    op.execute(sa.delete(evaluation).where(evaluation.c.truth != ""))
    _drop_index([*_INDEXED, "truth"])
    with op.batch_alter_table("evaluation") as table:
        _replace_key(table, _KEY)
        table.drop_column("truth")
    _create_index(_INDEXED)


def _replace_key(table: BatchOperations, columns: list[str]) -> None:
    table.drop_constraint("pk_evaluation", type_="primary")
    table.create_primary_key("pk_evaluation", columns)


def _drop_index(columns: list[str]) -> None:
    op.drop_index(f"ix_evaluation_{'_'.join(columns)}", "evaluation")


def _create_index(columns: list[str]) -> None:
    op.create_index(f"ix_evaluation_{'_'.join(columns)}", "evaluation", columns)
