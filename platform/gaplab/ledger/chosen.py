"""The last and the best evaluation of each trial, kept by the writes of evaluations.

Results are filtered, sorted and grouped in this table: it is narrow, and has one row per trial
where `evaluation` has one per epoch.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, and_, bindparam, delete, insert, or_, select

from gaplab.ledger.models import Base, ChosenEvaluation, Measurement
from gaplab.ledger.statements import insert_of
from gaplab.ledger.views import METRICS

KEY = ("trial_id", "epoch", "branch", "protocol", "truth")
"""Columns that identify an evaluation."""
FACTS = ("assignment", "family", "dataset", "seed", "epochs", "results_version")
"""Columns of a trial that never change."""
CHOSEN = ("last", "best")
"""Rules by which the evaluation of a trial is chosen in advance."""
_PRIMARY_KEY = ("trial_id", "branch", "protocol", "truth", "chosen")
_TRIALS, _EVALUATIONS, _CHOSEN = (
    Base.metadata.tables[name] for name in ("trial", "evaluation", "chosen_evaluation")
)


def choose_evaluation(connection: Connection, key: Mapping[str, Any]) -> None:
    """Choose a stored evaluation where it is later, or better, than the chosen one.

    Args:
        connection: a connection in a transaction.
        key: values of `KEY`.
    """
    values = {f"of_{name}": value for name, value in key.items()}
    statement = _statement(connection.dialect.name)
    connection.execute(statement, [values | {"rule": rule} for rule in CHOSEN])


@cache
def _statement(dialect: str) -> Insert:
    """Build the statement that copies an evaluation unless the stored copy stays chosen."""
    own = (*KEY, "is_primary", *METRICS)
    found = select(
        *(_EVALUATIONS.c[name] for name in own),
        *(_TRIALS.c[name] for name in FACTS),
        bindparam("rule", type_=_CHOSEN.c.chosen.type).label("chosen"),
    )
    same = (_EVALUATIONS.c[name] == bindparam(f"of_{name}") for name in KEY)
    found = found.join(_TRIALS, _TRIALS.c.id == _EVALUATIONS.c.trial_id).where(*same)
    query = insert_of(dialect, _CHOSEN).from_select([*own, *FACTS, "chosen"], found)
    new = query.excluded
    later = new.epoch > _CHOSEN.c.epoch
    better = or_(new.ap > _CHOSEN.c.ap, and_(new.ap == _CHOSEN.c.ap, later))
    replaces = or_(and_(new.chosen == "last", later), and_(new.chosen == "best", better))
    changed = {name: new[name] for name in (*own, *FACTS) if name not in _PRIMARY_KEY}
    return query.on_conflict_do_update(
        index_elements=list(_PRIMARY_KEY), set_=changed, where=replaces
    )


def choose_measurements(connection: Connection, identity: str) -> None:
    """Replace the rows of the measurements of the detections with this id."""
    connection.execute(delete(ChosenEvaluation).where(ChosenEvaluation.trial_id == identity))
    columns = [getattr(Measurement, column.key) for column in Measurement.__table__.columns]
    found = connection.execute(select(*columns).where(Measurement.id == identity)).all()
    rows = [_of_measurement(each) | {"chosen": rule} for each in found for rule in CHOSEN]
    if rows:
        connection.execute(insert(ChosenEvaluation), rows)


def _of_measurement(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """Return the columns of a measurement: an evaluation of epoch 0 whose branch is the family."""
    return {
        "trial_id": row.id,
        "branch": row.family,
        "protocol": row.protocol,
        "truth": row.truth,
        "epoch": 0,
        "is_primary": True,
        "assignment": row.name,
        "family": row.family,
        "dataset": row.dataset,
        "seed": 0,
        "epochs": 0,
        "results_version": row.results_version,
        **{name: row.metrics.get(name) for name in METRICS},
    }
