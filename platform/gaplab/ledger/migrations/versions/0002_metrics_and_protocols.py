"""Evaluations with any number of metrics and the URIs of their inputs; protocols."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPTIONAL = ["ap50", "ap50_nms", "ap75", "ap75_nms", "ar", "ar_nms", "ar_gap"]
_NEW = ["more", "candidates", "matches"]


def upgrade() -> None:
    with op.batch_alter_table("evaluation") as table:
        table.add_column(sa.Column("more", sa.JSON(), nullable=False, server_default="{}"))
        for name in ("candidates", "matches"):
            table.add_column(sa.Column(name, sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("evaluation") as table:
        for name in _NEW:  # the defaults were only for existing rows
            table.alter_column(name, server_default=None)
        for name in _OPTIONAL:
            table.alter_column(name, nullable=True)
    op.create_table(
        "protocol",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("rule", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_protocol"),
    )


def downgrade() -> None:
    """Delete the evaluations without one of the metrics that version 0001 requires."""
    op.drop_table("protocol")
    columns: list[sa.ColumnClause[float]] = [sa.column(name) for name in _OPTIONAL]
    lacking = sa.or_(*(column.is_(None) for column in columns))
    op.execute(sa.delete(sa.table("evaluation", *columns)).where(lacking))
    with op.batch_alter_table("evaluation") as table:
        for name in _NEW:
            table.drop_column(name)
        for name in _OPTIONAL:
            table.alter_column(name, nullable=False)
