"""Drivers with leases, requests to cancel, and more about each attempt and how it ended."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OLD = ("succeeded", "failed", "interrupted")
_ADDED = ("preempted", "cancelled", "stopped")
_COLUMNS = ("token", "fault", "notes", "provenance")


def upgrade() -> None:
    op.create_table(
        "driver",
        *_texts("id", "sweep_id", "node", "machine"),
        *_integers("pid"),
        sa.Column("born", sa.BigInteger(), nullable=False),
        *_texts("cluster"),
        *_integers("priority", "wants"),
        *_texts("waits_for"),
        _time("started_at"),
        _time("lease_until"),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_driver"),
    )
    op.create_index("ix_driver_ended_at", "driver", ["ended_at"])
    op.create_table(
        "cancellation",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        *_texts("sweep_id", "trial_id"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_cancellation"),
    )
    op.create_index("ix_cancellation_sweep_id", "cancellation", ["sweep_id"])
    _states("trial", "'waiting', 'running'", _OLD + _ADDED)
    _attempts()


def downgrade() -> None:
    """Turn attempts and trials in one of the added states into interrupted ones."""
    for name in ("trial", "attempt"):
        found = sa.table(name, sa.column("state"))
        change = sa.update(found).where(found.c.state.in_(_ADDED)).values(state="interrupted")
        op.execute(change)
    op.drop_index("ix_attempt_driver_state", "attempt")
    _states("trial", "'waiting', 'running'", _OLD)
    _states("attempt", "'running'", _OLD)
    with op.batch_alter_table("attempt") as table:
        table.drop_constraint("uq_attempt_token", type_="unique")
        for column in _COLUMNS:
            table.drop_column(column)
    op.drop_table("cancellation")
    op.drop_table("driver")


def _attempts() -> None:
    _states("attempt", "'running'", _OLD + _ADDED)
    with op.batch_alter_table("attempt") as table:
        for name in ("token", "fault"):
            table.add_column(sa.Column(name, sa.Text(), nullable=False, server_default=""))
        for name, empty in (("notes", "[]"), ("provenance", "{}")):
            table.add_column(sa.Column(name, sa.JSON(), nullable=False, server_default=empty))
    attempt = sa.table("attempt", sa.column("id"), sa.column("token"))
    op.execute(sa.update(attempt).values(token=sa.cast(attempt.c.id, sa.Text())))
    with op.batch_alter_table("attempt") as table:
        for name in _COLUMNS:  # the defaults were only for existing rows
            table.alter_column(name, server_default=None)
        table.create_unique_constraint("uq_attempt_token", ["token"])
    op.create_index("ix_attempt_driver_state", "attempt", ["driver", "state"])


def _states(table: str, first: str, ends: tuple[str, ...]) -> None:
    """Replace the states that the column `state` may hold."""
    name = op.f(f"ck_{table}_state")
    listed = ", ".join([first, *map(repr, ends)])
    with op.batch_alter_table(table) as changed:
        changed.drop_constraint(name, type_="check")
        changed.create_check_constraint(name, f"state IN ({listed})")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), autoincrement=False, nullable=False) for name in names]


def _time(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
