"""The leaderboard: one row per trial, all measured under one protocol, least need of NMS first."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from detectors import RESULTS_VERSION
from gaplab.errors import UserError
from gaplab.formatting import flat
from gaplab.ledger import Reader
from gaplab.ledger.lookup import suggestion
from gaplab.ledger.views import Coverage, ResultRow, RowFilter

Sort = Literal["gap", "ap", "ap_nms"]
Epoch = Literal["last", "best"] | int

_COLUMNS = ("assignment", "family", "dataset", "seed", "epochs", "results_version")


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow(ResultRow):
    """One trial. A trial that has not succeeded is shown at the last epoch that was evaluated."""

    stale: bool
    """Whether another version of the training code measured it: don't compare it with others."""
    chosen: Literal["last", "best", "given"]
    """How `epoch` was chosen."""


def leaderboard(  # noqa: PLR0913 - every argument is a filter, and all have defaults
    ledger: Reader,
    *,
    protocol: str = "default",
    sweep: str | None = None,
    sort: Sort = "gap",
    where: str | Sequence[str] = (),
    epoch: Epoch = "last",
    branch: str | None = None,
    dataset: str | None = None,
    assignment: str | None = None,
    truth: str = "",
) -> list[LeaderboardRow]:
    """Return one row per trial, best first. A trial without a matching evaluation has no row.

    Args:
        ledger: an open ledger.
        protocol: the name of the protocol under which the gap was measured.
        sweep: the id of a sweep, the beginning of one, or a name; None: the trials of all sweeps.
        sort: the metric to sort by, descending. `gap` therefore puts the least need of NMS first.
            Rows with equal values are sorted by AP without NMS.
        where: conditions `key=value` that must all hold. A key is a dotted key of the spec, or
            assignment, family, dataset, seed, epochs or results_version. A value is compared both
            as text and as JSON.
        epoch: `last` evaluated, `best` (highest AP without NMS), or a number.
        branch: o2o, o2m or o2f; None: the branch kept at inference.
        dataset: only trials on this data set.
        assignment: only trials with this assignment.
        truth: digest, or its beginning, of other ground truth that trials were measured against;
            empty: the trials' own data.

    Raises:
        UserError: the sweep or the ground truth is unknown, a condition is malformed or has an
            unknown key, or there are evaluations but none of them matches protocol, branch, epoch,
            data set and assignment.

    Examples:
        After `gaplab run experiments/quickstart.yaml`, or the example of `gaplab.run_sweep`:

        >>> import gaplab
        >>> home = gaplab.open_home()
        >>> with gaplab.Ledger.open(home.ledger_url) as ledger:
        ...     rows = gaplab.leaderboard(ledger, sweep="quickstart", where="seed=0")
        >>> [abs(row.ap - row.ap_nms - row.gap) < 1e-6 for row in rows]
        [True, True]
    """
    query = RowFilter(
        protocol=protocol,
        branch=branch,
        epoch=epoch,
        sweep=None if sweep is None else ledger.find_sweep(sweep).id,
        dataset=dataset,
        assignment=assignment,
        truth=_find_truth(ledger, truth),
    )
    found = ledger.rows(query)
    if not found:
        _raise_if_others_match(ledger, query)
    chosen: Literal["last", "best", "given"] = "given" if isinstance(epoch, int) else epoch
    rows = [
        LeaderboardRow(**vars(row), stale=row.results_version != RESULTS_VERSION, chosen=chosen)
        for row in _matching(found, listed(where))
    ]
    return sorted(rows, key=lambda row: (-getattr(row, sort), -row.ap, row.trial))


def settings(row: ResultRow) -> dict[str, Any]:
    """Return the settings of a row's trial: dotted keys of its spec, and the table's columns."""
    return {**flat(row.config), **{name: getattr(row, name) for name in _COLUMNS}}


def listed(texts: str | Sequence[str]) -> Sequence[str]:
    """Return a list of texts; a single text is a list of one."""
    return [texts] if isinstance(texts, str) else texts


def unknown_keys(keys: Iterable[str], known: Iterable[str]) -> UserError | None:
    """Return an error that names each of `keys` that is not `known`, with the nearest known keys.

    None if all are known.
    """
    known = set(known)
    lines = [f"{key}: no such key; {suggestion(key, known)}" for key in keys if key not in known]
    return UserError(*lines) if lines else None


def _find_truth(ledger: Reader, text: str) -> str:
    """Return the digest of ground truth that begins with `text`. Raises UserError."""
    known = ledger.truths() if text else []
    found = [each for each in known if each.startswith(text)]
    if text and len(found) != 1:
        listed = f"known: {', '.join(known)}" if known else "none is known"
        raise UserError(
            f"--truth {text}: the digest of one other ground truth is needed ({listed}); measure "
            "against one with: gaplab reevaluate TRIAL --other-truth"
        )
    return found[0] if found else ""


def _matching(rows: list[ResultRow], conditions: Sequence[str]) -> list[ResultRow]:
    """Return the rows for which all conditions hold."""
    if not conditions or not rows:
        return rows
    parsed = [_parse_condition(each) for each in conditions]
    kept, known = [], set[str]()
    for row in rows:
        values = settings(row)
        known |= values.keys()
        if all(key in values and values[key] in accepted for key, accepted in parsed):
            kept.append(row)
    if error := unknown_keys([key for key, _ in parsed], known):
        raise error
    return kept


def _parse_condition(text: str) -> tuple[str, tuple[Any, ...]]:
    """Return the key of a condition and the accepted values: the text, and its value as JSON."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text!r}: not a condition; write key=value")
    value = value.strip()
    try:
        return key.strip(), (value, json.loads(value))
    except (ValueError, RecursionError):  # not JSON, or a number or a nesting without end
        return key.strip(), (value,)


def _raise_if_others_match(ledger: Reader, query: RowFilter) -> None:
    """Raise UserError if there are evaluations, but only others than those of `query`."""
    others = ledger.rows(replace(query, dataset=None, assignment=None))
    lines = []
    for name, value in (("dataset", query.dataset), ("assignment", query.assignment)):
        known = {str(getattr(row, name)) for row in others}
        if value is not None and known and value not in known:
            lines.append(f"{name} {value!r}: no evaluations; {suggestion(value, known)}")
    if lines:
        raise UserError(*lines)
    if present := ledger.coverage(query):
        raise _not_measured(query, present)


def _not_measured(query: RowFilter, present: Sequence[Coverage]) -> UserError:
    """Return the error for trials that were measured, but not as `query` asks."""
    shown = ", ".join(f"{c.protocol}/{c.branch} (epochs {c.first} to {c.last})" for c in present)
    if query.protocol not in {each.protocol for each in present}:
        return UserError(f"{_how_to_measure(query)} (protocol/branch measured so far: {shown})")
    return UserError(
        f"protocol {query.protocol!r}, branch {query.branch or 'primary'}, epoch {query.epoch}: "
        f"no evaluations; choose one of protocol/branch {shown}"
    )


def _how_to_measure(query: RowFilter) -> str:
    """Return the remedy for a protocol without evaluations; a name may also be misspelt."""
    from detectors.evaluation.protocol import PROTOCOLS  # not at the top: it imports pydantic

    protocol = query.protocol
    if protocol not in PROTOCOLS:
        return f"protocol {protocol!r}: no evaluations; {suggestion(protocol, PROTOCOLS)}"
    command = f"gaplab reevaluate {query.sweep or 'SWEEP'} --protocol {protocol}"
    return f"Not measured under {protocol!r} yet. Run: {command}"
