"""Write the contents of a ledger to Parquet files, for other tools to read."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from detectors.evaluation.metrics import POSITIVES, names_of
from gaplab.errors import UserError
from gaplab.formatting import by_branch, flat
from gaplab.ledger import Reader
from gaplab.ledger.views import METRICS, EpochLossesView, MeasurementView, PlainRow, TrialView
from gaplab.storage.arrow_rows import (
    exploded,
    joined,
    regrouped,
    sliced,
    table_of_rows,
    with_column,
    with_numbers,
    without_empty,
)
from gaplab.storage.filesystem import Storage
from gaplab.storage.parquet import (
    Column,
    Layout,
    Table,
    Values,
    plain_column,
    table_of,
    write_table,
)

FILES = tuple(
    f"{name}.parquet"
    for name in ("trials", "evaluations", "classes", "losses", "positives", "measurements")
)
_ROWS = 65_536
"""Least number of rows in a row group, except for the last one."""
_AHEAD = 8
"""How many parts are read before they are converted."""
_KEY: dict[str, Column] = {
    "trial": Column("text"),
    "epoch": Column("int64"),
    "branch": Column("text"),
    "protocol": Column("text"),
    "truth": Column("text"),
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
_METRIC = Column("float64", null=True, varied=True)
_STORED: dict[str, Column] = {
    **{name: column for name, column in _EVALUATIONS.items() if name != "rule"},
    **dict.fromkeys(METRICS, _METRIC),
    "more": Column("text"),
}
"""The columns of `PLAIN_EVALUATION`."""
_CLASS: dict[str, Column] = {name: Column("float64", null=True) for name in names_of("ap")}
_CLASSES: dict[str, Column] = {**_KEY, "class": Column("text"), **_CLASS}

_MEASUREMENTS: dict[str, Column] = {
    **{n: Column("text") for n in ("id", "protocol", "name", "family", "dataset", "truth")},
    "results_version": Column("int64"),
    "created_at": Column("time"),
    "matches": Column("text", null=True),
    **{name: Column("text") for name in ("rule", "source", "about", "classes")},
}
"""The last four are JSON."""
_LOSSES: dict[str, Column] = {
    "trial": Column("text"),
    "epoch": Column("int64"),
    "loss": Column("text"),
    "value": Column("float64"),
}
_POSITIVES: dict[str, Column] = {
    "trial": Column("text"),
    "epoch": Column("int64"),
    "branch": Column("text"),
    **{name: Column("float64") for name in POSITIVES},
}


def export(
    ledger: Reader, folder: Path, sweep: str | None = None, force: bool = False
) -> dict[Path, int]:
    """Write `FILES` into `folder` and return the number of rows of each file.

    A file is either written completely or not changed.

    Args:
        ledger: an open ledger.
        folder: created if it does not exist.
        sweep: id or name of a sweep, to write its trials only; None: all trials and measurements.
        force: whether to replace existing files.

    Raises:
        UserError: the sweep is unknown, a file exists, or the folder can't be written.
    """
    existing = [folder / name for name in FILES if (folder / name).exists()]
    if existing and not force:
        raise UserError(*(f"{path}: already exists; --force replaces it" for path in existing))
    identity = _identity(ledger, sweep)
    storage = Storage(str(folder.resolve()))
    # Each file is read after those that refer to it, so that all they refer to is in it, also
    # during training.
    losses = _write(storage, "losses", _LOSSES, _loss_groups(ledger.all_losses(identity)))
    positives = _positive_groups(ledger.all_losses(identity))
    of_positives = _write(storage, "positives", _POSITIVES, positives)
    classes = _write(storage, "classes", _CLASSES, _class_groups(ledger, identity))
    measured = _write(storage, "evaluations", *_evaluations(ledger, identity, None))
    trials = _write(storage, "trials", *_trials(list(ledger.all_trials(identity))))
    views = ledger.measurements() if sweep is None else []
    measurements = _write(storage, "measurements", *_measurements(views))
    rows = (trials, measured, classes, losses, of_positives, measurements)
    return {folder / name: count for name, count in zip(FILES, rows, strict=True)}


def trials_table(ledger: Reader, sweep: str | None = None) -> Table:
    """Return the contents of `trials.parquet` as an Arrow table; `sweep` is an id or a name."""
    return table_of(*_trials(list(ledger.all_trials(_identity(ledger, sweep)))))


def evaluations_table(ledger: Reader, sweep: str | None = None, truth: str | None = None) -> Table:
    """Return the contents of `evaluations.parquet` as an Arrow table.

    Args:
        ledger: an open ledger.
        sweep: id or name of a sweep; None: evaluations of all trials.
        truth: digest of the ground truth, empty for the trials' own data; None: any.
    """
    columns, groups = _evaluations(ledger, _identity(ledger, sweep), truth)
    return table_of(columns, groups)


def _identity(ledger: Reader, sweep: str | None) -> str | None:
    return None if sweep is None else ledger.find_sweep(sweep).id


def _write(
    storage: Storage,
    name: str,
    columns: Mapping[str, Column],
    groups: Iterable[Mapping[str, Values] | Table],
) -> int:
    layout = Layout(name, 1, columns, "export again")
    return write_table(storage, f"{name}.parquet", layout, {}, groups).rows


def _evaluations(
    ledger: Reader, sweep: str | None, truth: str | None
) -> tuple[dict[str, Column], Iterator[Table]]:
    """Return the types of the columns of `evaluations.parquet`, and its row groups."""
    parts = _converted(_with_metrics, ledger.plain_evaluations(sweep, truth))
    table = joined([table_of_rows(_STORED, []).drop_columns([*METRICS, "more"]), *parts])
    rules = {name: json.dumps(rule) for name, rule in ledger.protocols().items() if rule}
    metrics = sorted({*table.column_names} - {*_EVALUATIONS})
    columns = _EVALUATIONS | dict.fromkeys(metrics, _METRIC)
    return columns, (_with_rule(each, rules) for each in sliced(table, _ROWS))


def _with_rule(evaluations: Table, rules: Mapping[str, str]) -> Table:
    found = [rules.get(protocol) for protocol in evaluations["protocol"].to_pylist()]
    return with_column(evaluations, "rule", _EVALUATIONS["rule"], found)


def _with_metrics(rows: Sequence[PlainRow]) -> Table:
    """Return evaluations with a column for each metric that was measured."""
    return with_numbers(without_empty(table_of_rows(_STORED, rows), METRICS), "more")


def _class_groups(ledger: Reader, sweep: str | None) -> Iterator[Table]:
    """Yield the row groups of `classes.parquet`, one row per evaluation and class."""
    return regrouped(_converted(_classes_of, ledger.plain_classes(sweep)), _ROWS)


def _classes_of(rows: Sequence[PlainRow]) -> Table:
    table = table_of_rows({**_KEY, "classes": Column("text")}, rows)
    found = exploded(table, "classes", {"name": Column("text"), **_CLASS})
    return found.rename_columns([*_CLASSES])


def _converted(
    convert: Callable[[Sequence[PlainRow]], Table], parts: Iterable[Sequence[PlainRow]]
) -> Iterator[Table]:
    """Yield a table for each part. A thread converts parts while the next ones are read."""
    with ThreadPoolExecutor(1) as thread:
        begun: deque[Future[Table]] = deque()
        for part in parts:
            begun.append(thread.submit(convert, part))
            if len(begun) > _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _loss_groups(epochs: Iterable[EpochLossesView]) -> Iterator[dict[str, Values]]:
    """Yield the row groups of `losses.parquet`, one row per epoch and loss."""
    rows = ((e.trial, e.epoch, name, value) for e in epochs for name, value in e.losses.items())
    return _groups(_LOSSES, rows)


def _positive_groups(epochs: Iterable[EpochLossesView]) -> Iterator[dict[str, Values]]:
    """Yield the row groups of `positives.parquet`, one row per epoch and branch."""
    rows = (
        (each.trial, each.epoch, branch, *(values[name] for name in POSITIVES))
        for each in epochs
        for branch, values in by_branch(each.positives).items()
    )
    return _groups(_POSITIVES, rows)


def _groups(
    columns: Mapping[str, Column], rows: Iterator[tuple[Any, ...]]
) -> Iterator[dict[str, Values]]:
    while chunk := list(islice(rows, _ROWS)):
        yield dict(zip(columns, zip(*chunk, strict=True), strict=True))


def _measurements(
    views: Sequence[MeasurementView],
) -> tuple[dict[str, Column], list[dict[str, Values]]]:
    """Return the types of the columns of `measurements.parquet`, and one row group."""
    own: dict[str, Any] = {name: [getattr(each, name) for each in views] for name in _MEASUREMENTS}
    own["matches"] = [each.matches or None for each in views]
    own |= {n: [json.dumps(value) for value in own[n]] for n in ("rule", "source", "about")}
    own["classes"] = [json.dumps([vars(c) for c in each.classes]) for each in views]
    names = sorted({name for each in views for name in each.metrics})
    metrics = {
        name: np.array([_or_nan(each.metrics.get(name)) for each in views]) for name in names
    }
    columns = _MEASUREMENTS | dict.fromkeys(names, Column("float64", null=True, varied=True))
    return columns, [{**own, **metrics}]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _trials(trials: list[TrialView]) -> tuple[dict[str, Column], list[dict[str, Values]]]:
    """Return the types of the columns of `trials.parquet`, and one row group."""
    own = {name: [getattr(trial, name) for trial in trials] for name in _TRIALS}
    own["config"] = [json.dumps(trial.config) for trial in trials]
    rows = [flat(t.config, "config.") for t in trials]
    keys = sorted({key for each in rows for key in each})
    settings = {key: plain_column([each.get(key) for each in rows]) for key in keys}
    columns = _TRIALS | {key: column for key, (column, _) in settings.items()}
    values = {key: found for key, (_, found) in settings.items()}
    return columns, [{**own, **values}]
