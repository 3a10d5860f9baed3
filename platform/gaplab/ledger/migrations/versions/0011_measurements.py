"""Measurements of detections that gaplab did not produce."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "measurement",
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("id", "protocol", "name", "family", "dataset", "truth")
        ),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("matches", sa.Text(), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("results_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", "protocol", name="pk_measurement"),
    )


def downgrade() -> None:
    op.drop_table("measurement")
