"""The first tables: sweeps, trials, attempts, evaluations, checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ENDED = "'succeeded', 'failed', 'interrupted'"
_METRICS = ["ap", "ap_nms", "gap", "ap50", "ap50_nms", "ap75", "ap75_nms", "ar", "ar_nms", "ar_gap"]


def upgrade() -> None:
    _sweep_and_trial()
    _sweep_trial()
    _attempt()
    _evaluation()
    _checkpoint()


def downgrade() -> None:
    for table in ("checkpoint", "evaluation", "attempt", "sweep_trial", "trial", "sweep"):
        op.drop_table(table)


def _sweep_and_trial() -> None:
    op.create_table(
        "sweep",
        *_texts("id", "name", "spec"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
    )
    op.create_index("ix_sweep_name", "sweep", ["name"])
    op.create_table(
        "trial",
        *_texts("id"),
        sa.Column("config", sa.JSON(), nullable=False),
        *_texts("assignment", "family", "dataset"),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        *_integers("epochs", "results_version"),
        *_texts("state"),
        _time("created_at"),
        _state("ck_trial_state", f"'waiting', 'running', {_ENDED}"),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
    )


def _sweep_trial() -> None:
    op.create_table(
        "sweep_trial",
        *_texts("sweep_id", "trial_id"),
        *_integers("position"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_sweep_trial_sweep_id"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_sweep_trial_trial_id"),
        sa.PrimaryKeyConstraint("sweep_id", "trial_id", name="pk_sweep_trial"),
    )
    op.create_index("ix_sweep_trial_trial_id", "sweep_trial", ["trial_id"])


def _attempt() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        *_texts("trial_id", "sweep_id"),
        *_integers("number"),
        *_texts("state", "reason"),
        _time("started_at"),
        _time("ended_at", nullable=True),
        *_texts("node", "device"),
        *_integers("workers"),
        sa.Column("gpus", sa.Double(), nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=True)
            for name in ("cpu_seconds", "gpu_seconds", "wall_seconds", "peak_memory_mib")
        ),
        *_texts("driver"),
        _state("ck_attempt_state", f"'running', {_ENDED}"),
        sa.ForeignKeyConstraint(
            ["sweep_id", "trial_id"],
            ["sweep_trial.sweep_id", "sweep_trial.trial_id"],
            name="fk_attempt_sweep_id_trial_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
        sa.UniqueConstraint("trial_id", "id", name="uq_attempt_trial_id_id"),
        sa.UniqueConstraint("trial_id", "number", name="uq_attempt_trial_id_number"),
    )
    op.create_index("ix_attempt_state", "attempt", ["state"])


def _evaluation() -> None:
    op.create_table(
        "evaluation",
        *_texts("trial_id"),
        *_integers("epoch"),
        *_texts("branch", "protocol"),
        *_integers("attempt_id"),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in _METRICS),
        sa.Column("classes", sa.JSON(), nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt_id"],
            ["attempt.trial_id", "attempt.id"],
            name="fk_evaluation_trial_id_attempt_id",
        ),
        sa.PrimaryKeyConstraint("trial_id", "epoch", "branch", "protocol", name="pk_evaluation"),
    )
    op.create_index(
        "ix_evaluation_protocol_is_primary_trial_id_branch_epoch",
        "evaluation",
        ["protocol", "is_primary", "trial_id", "branch", "epoch"],
    )


def _checkpoint() -> None:
    op.create_table(
        "checkpoint",
        *_texts("trial_id"),
        *_integers("epoch"),
        *_texts("uri"),
        _time("created_at"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_checkpoint_trial_id"),
        sa.PrimaryKeyConstraint("trial_id", "epoch", name="pk_checkpoint"),
    )


def _state(name: str, states: str) -> sa.CheckConstraint:
    # op.f: without it the naming convention of the models would be applied on top of the name.
    return sa.CheckConstraint(f"state IN ({states})", name=op.f(name))


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), autoincrement=False, nullable=False) for name in names]


def _time(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
