"""Measurements of detections that gaplab did not produce: stored, found, and as rows of results."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from detectors.evaluation.metrics import ClassGap
from gaplab.errors import UserError
from gaplab.ledger.chosen import choose_measurements
from gaplab.ledger.clock import now
from gaplab.ledger.models import Measurement, Protocol, TrialSection
from gaplab.ledger.queries import AnyRow, Query
from gaplab.ledger.settings import add_settings
from gaplab.ledger.views import (
    METRICS,
    Coverage,
    EvaluationView,
    MeasurementView,
    ResultRow,
    RowFilter,
)
from gaplab.ledger.writes import check_metrics, check_rule
from gaplab.records import MeasurementRecord
from gaplab.states import TrialState

_PLAIN = (
    *("id", "protocol", "name", "family", "dataset", "truth"),
    *("matches", "source", "about", "results_version"),
)
SECTIONS = ("source", "findings")
"""The sections that a measurement has where trials have those of a spec."""


def add_measurement(connection: Connection, measured: MeasurementRecord) -> None:
    """Insert a measurement, or replace the stored one of the same key.

    Name, family, data set and source are those of all protocols of the same detections.
    """
    check_metrics(f"measurement {measured.id}", measured.metrics, measured.classes)
    check_rule(connection, measured.protocol, measured.rule)
    values: dict[str, Any] = {name: getattr(measured, name) for name in _PLAIN}
    values |= {"metrics": dict(measured.metrics)}
    values |= {"classes": [dict(vars(each)) for each in measured.classes]}
    mine = Measurement.id == measured.id
    connection.execute(delete(Measurement).where(mine, Measurement.protocol == measured.protocol))
    connection.execute(insert(Measurement), values | {"created_at": now(connection)})
    shared = {name: values[name] for name in ("name", "family", "dataset", "source")}
    connection.execute(update(Measurement).where(mine).values(**shared))
    choose_measurements(connection, measured.id)
    connection.execute(delete(TrialSection).where(TrialSection.trial_id == measured.id))
    add_settings(connection, {measured.id: _config(measured)})


def measurements() -> Query:
    """Select every measurement with the rule of its protocol, ordered by its key."""
    columns = [getattr(Measurement, column.key) for column in Measurement.__table__.columns]
    return (
        select(*columns, Protocol.rule.label("rule"))
        .outerjoin(Protocol, Protocol.id == Measurement.protocol)
        .order_by(Measurement.id, Measurement.protocol)
    )


def measurement_view(row: AnyRow) -> MeasurementView:
    """Convert a row of `measurements`."""
    values: dict[str, Any] = {**row._mapping}
    values["classes"] = tuple(ClassGap(**each) for each in row.classes)
    return MeasurementView(**{**values, "rule": row.rule or {}})


def as_evaluation(each: MeasurementView) -> EvaluationView:
    """Return a measurement as an evaluation of epoch 0 that no attempt has made."""
    return EvaluationView(
        trial=each.id,
        epoch=0,
        branch=each.family,
        primary=True,
        protocol=each.protocol,
        metrics=each.metrics,
        classes=each.classes,
        matches=each.matches,
        rule=each.rule,
        truth=each.truth,
        attempt=0,
        created_at=each.created_at,
    )


def named(found: Sequence[MeasurementView], text: str) -> list[MeasurementView]:
    """Return the measurements of the detections that `text` means: an id, its beginning or a name.

    Empty if there are none. Raises UserError if `text` means those of several detections.
    """
    ids = {each.id for each in found if each.name == text}
    ids = ids or {each.id for each in found if text and each.id.startswith(text)}
    if len(ids) > 1:
        raise UserError(
            f"measurement {text!r}: several are meant ({', '.join(sorted(ids))}); type an id"
        )
    return [each for each in found if each.id in ids]


def coverage(found: Sequence[MeasurementView], wanted: RowFilter) -> list[Coverage]:
    """Return the protocols and families of measurements. See `Reader.coverage`."""
    held = {
        (each.protocol, each.family)
        for each in found
        if wanted.dataset in (None, each.dataset) and wanted.assignment in (None, each.name)
    }
    return [Coverage(protocol, family, 0, 0) for protocol, family in sorted(held)]


def as_row(each: MeasurementView) -> ResultRow:
    """Return a measurement as a row of results."""
    columns: dict[str, Any] = {name: each.metrics.get(name) for name in METRICS}
    more = {name: value for name, value in each.metrics.items() if columns.get(name) is None}
    return ResultRow(
        trial=each.id,
        sweep="",
        sweep_name="",
        assignment=each.name,
        family=each.family,
        dataset=each.dataset,
        seed=0,
        state=TrialState.SUCCEEDED,
        epoch=0,
        epochs=0,
        branch=each.family,
        protocol=each.protocol,
        **columns,
        more=more,
        matches=each.matches,
        truth=each.truth,
        results_version=each.results_version,
        config=_config(each),
    )


def _config(each: MeasurementRecord) -> dict[str, Any]:
    """Return what takes the place of a trial's configuration."""
    return dict(zip(SECTIONS, (each.source, each.about.get("findings", {})), strict=True))
