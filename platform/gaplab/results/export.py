"""The ledger's trials and evaluations as Parquet files, for people's own tools."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gaplab.errors import UserError
from gaplab.formatting import flat
from gaplab.ledger import Ledger
from gaplab.ledger.views import EvaluationView, TrialView
from gaplab.storage.filesystem import Storage
from gaplab.storage.parquet import Column, Kind, Layout, Values, write_table

FILES = ("trials.parquet", "evaluations.parquet", "classes.parquet")
_ROWS = 65_536
"""Rows of a row group."""
_KEY: dict[str, Column] = {
    "trial": Column("text"),
    "epoch": Column("int64"),
    "branch": Column("text"),
    "protocol": Column("text"),
}
_TRIALS: dict[str, Column] = {
    "id": Column("text"),
    "assignment": Column("text"),
    "family": Column("text"),
    "dataset": Column("text"),
    "seed": Column("int64"),
    "epochs": Column("int64"),
    "state": Column("text"),
    "results_version": Column("int64"),
    "created_at": Column("time"),
    "config": Column("text"),
}
_EVALUATIONS: dict[str, Column] = {
    **_KEY,
    "is_primary": Column("bool"),
    "attempt": Column("int64"),
    "rule": Column("text", null=True),
    "candidates": Column("text", null=True),
    "matches": Column("text", null=True),
    "created_at": Column("time"),
}
_CLASSES: dict[str, Column] = {
    **_KEY,
    "class": Column("text"),
    **{name: Column("float64", null=True) for name in ("ap", "ap_nms", "gap")},
}


def export(
    ledger: Ledger, folder: Path, sweep: str | None = None, force: bool = False
) -> dict[Path, int]:
    """Write `FILES` into `folder`, of all trials or of those of a sweep; rows of each file.

    sweep: its id or name. force: replace files that are there. A file is written whole or left as
    it was. Raises UserError.
    """
    there = [folder / name for name in FILES if (folder / name).exists()]
    if there and not force:
        raise UserError(*(f"{path}: is there already; --force replaces it" for path in there))
    identity = None if sweep is None else ledger.find_sweep(sweep).id
    storage, evaluations = Storage(str(folder.resolve())), _Evaluations()
    # Trials last: then those of all evaluations are among them, whatever is being trained.
    watched = evaluations.watch(ledger.all_evaluations(identity))
    classes = _write(storage, "classes", _CLASSES, _class_groups(watched))
    measured = _write(storage, "evaluations", *evaluations.table())
    trials = _write(storage, "trials", *_trials(list(ledger.all_trials(identity))))
    rows = (trials, measured, classes)
    return {folder / name: count for name, count in zip(FILES, rows, strict=True)}


def _write(
    storage: Storage,
    name: str,
    columns: Mapping[str, Column],
    groups: Iterable[Mapping[str, Values]],
) -> int:
    layout = Layout(name, 1, columns, "export again")
    return write_table(storage, f"{name}.parquet", layout, {}, groups).rows


def _class_groups(evaluations: Iterable[EvaluationView]) -> Iterator[dict[str, Values]]:
    rows = (
        (e.trial, e.epoch, e.branch, e.protocol, c.name, c.ap, c.ap_nms, c.gap)
        for e in evaluations
        for c in e.classes
    )
    while some := list(islice(rows, _ROWS)):
        yield dict(zip(_CLASSES, zip(*some, strict=True), strict=True))


class _Evaluations:
    """Columns of evaluations; metrics are kept small, for there may be many and of any name."""

    def __init__(self) -> None:
        self._own: list[tuple[Any, ...]] = []
        self._metrics: dict[str, array[float]] = {}

    def watch(self, evaluations: Iterable[EvaluationView]) -> Iterator[EvaluationView]:
        """The same evaluations, each taken up as it passes."""
        for e in evaluations:
            for name, value in e.metrics.items():
                column = self._metrics.setdefault(name, array("d"))
                self._fill(column).append(math.nan if value is None else value)
            rule = json.dumps(e.rule) if e.rule else None
            files = (e.candidates or None, e.matches or None)
            key = (e.trial, e.epoch, e.branch, e.protocol, e.primary, e.attempt)
            self._own.append((*key, rule, *files, e.created_at))
            yield e

    def table(self) -> tuple[dict[str, Column], list[dict[str, Values]]]:
        """Types, and one row group of everything that has passed."""
        metrics = {n: np.array(self._fill(self._metrics[n])) for n in sorted(self._metrics)}
        columns = _EVALUATIONS | dict.fromkeys(metrics, Column("float64", null=True, varied=True))
        own = zip(*self._own, strict=True) if self._own else [()] * len(_EVALUATIONS)
        return columns, [{**dict(zip(_EVALUATIONS, own, strict=True)), **metrics}]

    def _fill(self, column: "array[float]") -> "array[float]":
        """NaN for the evaluations before that had no such metric."""
        column.extend([math.nan] * (len(self._own) - len(column)))
        return column


def _trials(trials: list[TrialView]) -> tuple[dict[str, Column], list[dict[str, Values]]]:
    own = {name: [getattr(trial, name) for trial in trials] for name in _TRIALS}
    own["config"] = [json.dumps(trial.config) for trial in trials]
    rows = [flat(t.config, "config.") for t in trials]
    keys = sorted({key for each in rows for key in each})
    settings = {key: _setting([each.get(key) for each in rows]) for key in keys}
    columns = _TRIALS | {key: Column(kind, null=True) for key, (kind, _) in settings.items()}
    values = {key: found for key, (_, found) in settings.items()}
    return columns, [{**own, **values}]


def _setting(values: list[Any]) -> tuple[Kind, list[Any]]:
    """A column for one key's values, None where a trial hasn't got the key: its kind, its values.

    JSON text where they are lists, or of several types; whole numbers among others are no reason.
    """
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return "bool", values
    if types == {int} and all(v is None or abs(v) < 2**63 for v in values):
        return "int64", values
    if float in types and types <= {int, float} and all(_exact(v) for v in values):
        return "float64", values
    if types == {str}:
        return "text", values
    return "text", [None if value is None else json.dumps(value) for value in values]


def _exact(value: Any) -> bool:
    """Whether it is the same number as a float64."""
    return value is None or isinstance(value, float) or abs(value) <= 2**53
