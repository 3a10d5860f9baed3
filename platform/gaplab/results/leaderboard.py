"""Who needs NMS least: one row per trial, under one protocol."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from detectors import RESULTS_VERSION
from gaplab.errors import UserError
from gaplab.formatting import flat
from gaplab.ledger import Ledger
from gaplab.ledger.lookup import nearest
from gaplab.ledger.views import Coverage, ResultRow, RowFilter

_COLUMNS = ("assignment", "family", "dataset", "seed", "epochs", "results_version")


@dataclass(frozen=True, kw_only=True)
class LeaderboardQuery(RowFilter):
    """Which rows, and in which order. `sweep` is a sweep's id, the beginning of one, or a name."""

    sort: Literal["gap", "ap", "ap_nms"] = "gap"
    """Descending, so `gap` puts the least need of NMS first; of equals the higher AP is first."""
    where: tuple[str, ...] = ()
    """`key=value` each; the key is a dotted key of the spec, or assignment, family, dataset, seed,
    epochs, results_version. All must hold. A value is met as text or as the JSON it is."""


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow(ResultRow):
    """One trial. A trial not `succeeded` stands at the epoch it has reached so far."""

    stale: bool
    """Measured by an older (or newer) version of the training code; don't compare with others."""
    chosen: Literal["last", "best", "given"]
    """How `epoch` was chosen."""


def leaderboard(ledger: Ledger, query: LeaderboardQuery) -> list[LeaderboardRow]:
    """The rows that `query` describes, best first; trials without an evaluation have none.

    Raises UserError for an unknown sweep, for an unknown or malformed condition in `where`, and
    where nothing was evaluated under that protocol, branch and epoch but under others.
    """
    if query.sweep is not None:
        query = replace(query, sweep=ledger.find_sweep(query.sweep).id)
    found = ledger.rows(query)
    if not found:
        _explain(ledger, query)
    chosen: Literal["last", "best", "given"] = (
        "given" if isinstance(query.epoch, int) else query.epoch
    )
    rows = [
        LeaderboardRow(**vars(row), stale=row.results_version != RESULTS_VERSION, chosen=chosen)
        for row in _where(found, query.where)
    ]
    return sorted(rows, key=lambda row: (-getattr(row, query.sort), -row.ap, row.trial))


def settings(row: ResultRow) -> dict[str, Any]:
    """What the trial of `row` was set to: dotted keys of its spec, and what tables call it."""
    return {**flat(row.config), **{name: getattr(row, name) for name in _COLUMNS}}


def unknown_keys(keys: Iterable[str], known: Iterable[str]) -> UserError | None:
    """The error that names each of `keys` that is not `known`, with the nearest that is."""
    known = set(known)
    lines = [f"{key}: no such key; {nearest(key, known)}" for key in keys if key not in known]
    return UserError(*lines) if lines else None


def _where(rows: list[ResultRow], conditions: tuple[str, ...]) -> list[ResultRow]:
    """The rows for which all conditions hold."""
    if not conditions or not rows:
        return rows
    wanted = [_condition(each) for each in conditions]
    kept, known = [], set[str]()
    for row in rows:
        values = settings(row)
        known |= values.keys()
        if all(key in values and values[key] in accepted for key, accepted in wanted):
            kept.append(row)
    if error := unknown_keys([key for key, _ in wanted], known):
        raise error
    return kept


def _condition(text: str) -> tuple[str, tuple[Any, ...]]:
    """The key, and the values that fulfil the condition: the text itself and what it is as JSON."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text!r}: not a condition; write key=value")
    value = value.strip()
    try:
        return key.strip(), (value, json.loads(value))
    except json.JSONDecodeError:
        return key.strip(), (value,)


def _explain(ledger: Ledger, query: LeaderboardQuery) -> None:
    """Raise UserError if there are evaluations, only not of what was asked for."""
    others = ledger.rows(replace(query, dataset=None, assignment=None))
    lines = []
    for name, value in (("dataset", query.dataset), ("assignment", query.assignment)):
        known = {str(getattr(row, name)) for row in others}
        if value is not None and known and value not in known:
            lines.append(f"{name} {value!r}: no evaluations; {nearest(value, known)}")
    if lines:
        raise UserError(*lines)
    if present := ledger.coverage(query):
        raise _elsewhere(query, present)


def _elsewhere(query: LeaderboardQuery, present: list[Coverage]) -> UserError:
    """The error that says under which protocols, branches and epochs there are evaluations."""
    shown = ", ".join(f"{c.protocol}/{c.branch} (epochs {c.first} to {c.last})" for c in present)
    asked = f"protocol {query.protocol!r}, branch {query.branch or 'primary'}, epoch {query.epoch}"
    return UserError(f"{asked}: no evaluations; there are protocol/branch {shown}")
