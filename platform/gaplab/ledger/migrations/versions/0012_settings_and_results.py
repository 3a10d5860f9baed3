"""Settings of trials by key, the chosen evaluations of each trial, and classes in their own table.

Filters, orders and groups of results are then index look-ups, and no scan reads configurations or
the values of classes.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_KEY = ("trial_id", "epoch", "branch", "protocol", "truth")
_FACTS = ("assignment", "family", "dataset", "seed", "epochs", "results_version")
_METRICS = (
    *("ap", "ap_nms", "gap", "ap50", "ap50_nms", "ap75", "ap75_nms"),
    *("ar", "ar_nms", "ar_gap"),
)
_REQUIRED = ("ap", "ap_nms", "gap")
_LONG, _BATCH = 200, 1000
_VIEWS = {
    "trials": "SELECT id AS trial, assignment, family, dataset, seed, epochs, results_version, "
    "state, created_at, (SELECT count(*) FROM attempt WHERE trial_id = trial.id) AS attempts, "
    "(SELECT sum(wall_seconds) / 3600 FROM attempt WHERE trial_id = trial.id) AS wall_hours, "
    "(SELECT sum(cpu_seconds) / 3600 FROM attempt WHERE trial_id = trial.id) AS cpu_hours, "
    "(SELECT sum(gpu_seconds) / 3600 FROM attempt WHERE trial_id = trial.id) AS gpu_hours "
    "FROM trial",
    "settings": "SELECT s.trial_id AS trial, v.key, v.value, v.number "
    "FROM trial_section AS s JOIN setting AS v ON v.section_id = s.section_id",
    "evaluations": f"SELECT trial_id AS trial, epoch, branch, is_primary, protocol, truth, "
    f"{', '.join(_METRICS)}, more, candidates, matches, created_at FROM evaluation",
    "results": "SELECT trial_id AS trial, chosen, epoch, branch, is_primary, protocol, truth, "
    f"{', '.join((*_FACTS, *_METRICS))} FROM chosen_evaluation",
}
"""Views for people who write their own SQL; `classes` is added by `_create_views`."""


def upgrade() -> None:
    _create_classes()
    _create_chosen()
    _create_settings()
    for chosen, order in (("last", "epoch DESC"), ("best", "ap DESC, epoch DESC")):
        _choose_evaluations(chosen, order)
        _choose_measurements(chosen)
    _fill_settings()
    _create_views()


def downgrade() -> None:
    for name in ("classes", *_VIEWS):
        op.execute(f"DROP VIEW {name}")
    op.add_column("evaluation", sa.Column("classes", sa.JSON(), nullable=True))
    same = " AND ".join(f"evaluation_classes.{name} = evaluation.{name}" for name in _KEY)
    op.execute(
        f"UPDATE evaluation SET classes = (SELECT classes FROM evaluation_classes WHERE {same})"
    )
    op.execute("UPDATE evaluation SET classes = '[]' WHERE classes IS NULL")
    with op.batch_alter_table("evaluation") as table:
        table.alter_column("classes", existing_type=sa.JSON(), nullable=False)
    for name in ("trial_section", "setting", "chosen_evaluation", "evaluation_classes"):
        op.drop_table(name)


def _create_views() -> None:
    for name, query in _VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
    if op.get_bind().dialect.name == "sqlite":
        each, field = "json_each(e.classes) AS c", "json_extract(c.value, '$.{}')"
    else:
        each, field = "json_array_elements(e.classes) AS c(value)", "(c.value ->> '{}')"
    name, numbers = field.format("name"), []
    for metric in _REQUIRED:
        numbers.append(f"CAST({field.format(metric)} AS DOUBLE PRECISION) AS {metric}")
    op.execute(
        "CREATE VIEW classes AS SELECT e.trial_id AS trial, e.epoch, e.branch, e.protocol, "
        f"e.truth, {name} AS class, {', '.join(numbers)} FROM evaluation_classes AS e, {each}"
    )


def _create_classes() -> None:
    """Move the classes of evaluations into a table of their own."""
    op.create_table(
        "evaluation_classes",
        sa.Column("trial_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("branch", "protocol", "truth")),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint(*_KEY, name="pk_evaluation_classes"),
    )
    key = ", ".join(_KEY)
    op.execute(
        f"INSERT INTO evaluation_classes ({key}, classes) SELECT {key}, classes FROM evaluation"
    )
    op.drop_column("evaluation", "classes")


def _create_chosen() -> None:
    texts = ("trial_id", "branch", "protocol", "truth", "chosen")
    op.create_table(
        "chosen_evaluation",
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _FACTS[:3]),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("results_version", sa.Integer(), nullable=False),
        *(sa.Column(n, sa.Double(), nullable=n not in _REQUIRED) for n in _METRICS),
        sa.CheckConstraint("chosen IN ('last', 'best')", name=op.f("ck_chosen_evaluation_chosen")),
        sa.PrimaryKeyConstraint(*texts, name="pk_chosen_evaluation"),
    )
    order = ["protocol", "chosen", "is_primary", "ap", "trial_id"]
    op.create_index(f"ix_chosen_evaluation_{'_'.join(order)}", "chosen_evaluation", order)


def _create_settings() -> None:
    op.create_table(
        "setting",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("section_id", "key", "value")),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("section_id", "key", name="pk_setting"),
    )
    for kind in ("value", "number"):
        op.create_index(f"ix_setting_key_{kind}_section_id", "setting", ["key", kind, "section_id"])
    op.create_table(
        "trial_section",
        *(sa.Column(n, sa.Text(), nullable=False) for n in ("trial_id", "name", "section_id")),
        sa.PrimaryKeyConstraint("trial_id", "name", name="pk_trial_section"),
    )
    pair = ["section_id", "trial_id"]
    op.create_index("ix_trial_section_section_id_trial_id", "trial_section", pair)


def _choose_evaluations(chosen: str, order: str) -> None:
    """Insert the evaluation of rank 1 of each trial, branch, protocol and ground truth."""
    own = (*_KEY, "is_primary", *_METRICS)
    names = ", ".join((*own, "chosen", *_FACTS))
    found = ", ".join((*(f"e.{name}" for name in own), f"'{chosen}'", *(f"t.{n}" for n in _FACTS)))
    op.execute(
        f"INSERT INTO chosen_evaluation ({names}) SELECT {found} FROM (SELECT {', '.join(own)}, "
        f"ROW_NUMBER() OVER (PARTITION BY trial_id, branch, protocol, truth ORDER BY {order}) "
        "AS place FROM evaluation) AS e JOIN trial AS t ON t.id = e.trial_id WHERE e.place = 1"
    )


def _choose_measurements(chosen: str) -> None:
    """Insert each measurement of detections that gaplab did not produce, as of epoch 0."""
    names = ("id", "protocol", "name", "family", "dataset", "truth", "results_version")
    stored = sa.table("measurement", *map(sa.column, names), sa.column("metrics", sa.JSON()))
    rows = [
        {"trial_id": row.id, "protocol": row.protocol, "truth": row.truth, "chosen": chosen}
        | {"branch": row.family, "epoch": 0, "is_primary": True, "assignment": row.name}
        | {"family": row.family, "dataset": row.dataset, "seed": 0, "epochs": 0}
        | {"results_version": row.results_version}
        | {name: row.metrics.get(name) for name in _METRICS}
        for row in op.get_bind().execute(sa.select(stored))
    ]
    if rows:
        target = sa.table("chosen_evaluation", *map(sa.column, rows[0]))
        op.get_bind().execute(sa.insert(target), rows)


def _fill_settings() -> None:
    """Insert the settings of every configuration, each distinct section of them once."""
    setting = sa.table("setting", *map(sa.column, ("section_id", "key", "value", "number")))
    link = sa.table("trial_section", *map(sa.column, ("trial_id", "name", "section_id")))
    known, bind = set[str](), op.get_bind()
    rows = _configs()
    while batch := list(islice(rows, _BATCH)):
        links, settings = [], []
        for trial, config in batch:
            for name, value in config.items():
                section = _section_id(name, value)
                links.append({"trial_id": trial, "name": name, "section_id": section})
                if section not in known:
                    known.add(section)
                    settings += [{"section_id": section, **each} for each in _flat(name, value)]
        if settings:
            bind.execute(sa.insert(setting), settings)
        if links:
            bind.execute(sa.insert(link), links)


def _configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ids and configurations of trials and measurements, read in batches."""
    trial = sa.table("trial", sa.column("id"), sa.column("config", sa.JSON()))
    last, bind = "", op.get_bind()
    while True:
        query = sa.select(trial).where(trial.c.id > last).order_by(trial.c.id).limit(_BATCH)
        found = bind.execute(query).all()
        yield from ((row.id, row.config) for row in found)
        if len(found) < _BATCH:
            break
        last = found[-1].id
    names = (
        sa.column("id", sa.Text()),
        sa.column("source", sa.JSON()),
        sa.column("about", sa.JSON()),
    )
    rows = bind.execute(sa.select(sa.table("measurement", *names)))
    for identity, row in {row.id: row for row in rows}.items():
        yield identity, {"source": row.source, "findings": row.about.get("findings", {})}


def _section_id(name: str, value: Any) -> str:
    text = json.dumps([name, value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _flat(key: str, value: Any) -> Iterator[dict[str, Any]]:
    """Yield key, value and number of each setting in a section."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield {"key": key, "value": _value(value), "number": _number(value)}


def _value(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONG else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
