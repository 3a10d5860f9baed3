"""The leaderboard: one row per trial, all measured under one protocol, highest AP first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack

from detectors import RESULTS_VERSION
from gaplab.errors import UserError
from gaplab.formatting import flat, plural
from gaplab.ledger import Reader
from gaplab.ledger.expression import names, parse
from gaplab.ledger.grouping import GROUPED
from gaplab.ledger.lookup import suggestion
from gaplab.ledger.measurements import SECTIONS
from gaplab.ledger.selection import default_order
from gaplab.ledger.views import Coverage, GpuHours, GroupView, ResultRow, RowFilter, SweepView
from gaplab.spec.varied import in_fixed_order, varied_keys, varied_values
from gaplab.states import TrialState

Sort = str
Epoch = Literal["last", "best"] | int | GpuHours

_NAMED = 8
"""Protocols and branches that an error names."""
COLUMNS = ("assignment", "family", "dataset", "seed", "epochs", "results_version")
"""Fields of a row that are settings of its trial."""


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow(ResultRow):
    """One trial. A trial that has not succeeded is shown at the last epoch that was evaluated."""

    stale: bool
    """Whether another version of the training code measured it: don't compare it with others."""
    chosen: Literal["last", "best", "given"]
    """How `epoch` was chosen."""


@dataclass(frozen=True)
class Board:
    """A leaderboard, or the first rows of one."""

    rows: list[LeaderboardRow]
    total: int
    """Number of rows without `top`."""
    wanted: RowFilter
    varied: tuple[str, ...]
    """Keys of the spec in which the trials of all these rows differ, the seed apart."""
    notes: tuple[str, ...] = ()
    """What is worth knowing about the selection, one line each: which condition matches nothing,
    or that a sweep has not finished."""


class Query(TypedDict, total=False):
    """The arguments of `leaderboard`."""

    protocol: str | None
    sweep: str | None
    sort: Sort
    where: str | Sequence[str]
    epoch: Epoch
    branch: str | None
    dataset: str | None
    assignment: str | None
    truth: str
    top: int | None
    pareto: tuple[str, str] | None


def leaderboard(ledger: Reader, **query: Unpack[Query]) -> list[LeaderboardRow]:
    """Return one row per trial, best first. A trial without a matching evaluation has no row.

    Args:
        ledger: an open ledger.
        query: keyword arguments.

            - `protocol`: the name of the protocol under which the gap was measured; None: the one
              in the specs of the sweep, or else `default`.
            - `sweep`: the id of a sweep, the beginning of one, or a name; None: the trials of all
              sweeps.
            - `sort`: what rows are sorted by, best first: a metric, a cost such as `gpu_hours`, or
              a key of the spec. Equal rows are sorted by AP without NMS. Default: `ap`.
            - `where`: conditions that must all hold, such as
              `assignment.family == "o2f" and ap > 35`, or `key=value`. See `docs/measuring.md`.
            - `epoch`: `last` evaluated, `best` (highest AP without NMS), a number, or
              `GpuHours(2.5)`: the last one within so many GPU-hours.
            - `branch`: o2o, o2m or o2f; None: the branch kept at inference.
            - `dataset`, `assignment`: only trials on this data set, with this assignment.
            - `truth`: digest, or its beginning, of other ground truth that trials were measured
              against; empty: the trials' own data.
            - `top`: how many rows to return at most.
            - `pareto`: two names: only rows that no other row beats in both.

    Raises:
        UserError: the sweep or the ground truth is unknown, a condition is malformed or has an
            unknown name, the sweep has several protocols and none is given, or there are
            evaluations but none of them matches protocol, branch, epoch, data set and assignment.

    Examples:
        After `gaplab run experiments/quickstart.yaml`, or the example of `gaplab.run_sweep`:

        >>> import gaplab
        >>> home = gaplab.open_home()
        >>> with gaplab.Ledger.open(home.ledger_url) as ledger:
        ...     rows = gaplab.leaderboard(ledger, sweep="quickstart", where="seed == 0")
        >>> [abs(row.ap - row.ap_nms - row.gap) < 1e-6 for row in rows]
        [True, True]
    """
    wanted = row_filter(ledger, **query)
    found = ledger.rows(wanted)
    if not found:
        _check_nothing(ledger, wanted)
    return _rows(found, wanted)


def board(ledger: Reader, **query: Unpack[Query]) -> Board:
    """Return a leaderboard with what is to be said about it. Arguments as for `leaderboard`."""
    wanted = row_filter(ledger, **query)
    rows = _rows(ledger.rows(wanted), wanted)
    found = notes(ledger, wanted, nothing=not rows)
    total = len(rows) if len(rows) != wanted.top else ledger.count_rows(wanted)
    return Board(rows, total, wanted, varied(ledger, wanted), tuple(found))


def notes(ledger: Reader, wanted: RowFilter, *, nothing: bool) -> list[str]:
    """Return what is worth knowing about a selection, see `Board.notes`.

    Args:
        ledger: an open ledger.
        wanted: the filter that selects the rows.
        nothing: whether it selects none.

    Raises:
        UserError: there are evaluations, but none of the wanted ones even without conditions.
    """
    return (_check_nothing(ledger, wanted) if nothing else []) + _unfinished(ledger, wanted)


def groups(
    ledger: Reader, by: str | Sequence[str], **query: Unpack[Query]
) -> tuple[list[GroupView], RowFilter]:
    """Return mean and standard deviation of groups of trials, computed in the database.

    A group never mixes data sets, schedules or versions of the training code.

    Args:
        ledger: an open ledger.
        by: keys of the spec or columns.
        query: as for `leaderboard`.

    Returns:
        The groups, best mean first, and the filter that selected their trials.
    """
    wanted = row_filter(ledger, **query)
    metric = query.get("sort", "ap")
    if metric not in GROUPED:
        raise UserError(f"sort {metric}: groups are sorted by {', '.join(GROUPED)}")
    found = ledger.groups(wanted, listed(by), metric)
    if not found:
        _check_nothing(ledger, wanted)
    return found, wanted


def row_filter(ledger: Reader, **query: Unpack[Query]) -> RowFilter:
    """Return the filter of the ledger for the arguments of `leaderboard`."""
    named = query.get("sweep")
    sweep = None if named is None else ledger.find_sweep(named)
    return RowFilter(
        protocol=query.get("protocol") or _own_protocol(ledger, sweep),
        branch=query.get("branch"),
        epoch=query.get("epoch", "last"),
        sweep=None if sweep is None else sweep.id,
        dataset=query.get("dataset"),
        assignment=query.get("assignment"),
        truth=_find_truth(ledger, query.get("truth", "")),
        where=tuple(map(parse, listed(query.get("where", ())))),
        order=default_order(query.get("sort", "ap")),
        top=query.get("top"),
        pareto=query.get("pareto"),
    )


def varied(ledger: Reader, wanted: RowFilter) -> tuple[str, ...]:
    """Return the keys of the spec in which the trials of a filter differ."""
    found = [
        key
        for name, sections in ledger.sections(wanted).items()
        if name not in SECTIONS  # of measurements, which have no spec
        for key in varied_keys(sections)
    ]
    return tuple(in_fixed_order(found))


def plain_row(row: LeaderboardRow, keys: Sequence[str]) -> dict[str, Any]:
    """Return columns, all metrics and the values of keys of the spec of a row, side by side."""
    own = {name: value for name, value in vars(row).items() if name not in ("more", "config")}
    return own | {"state": str(row.state)} | row.more | varied_values(row.config, keys)


def settings(row: ResultRow) -> dict[str, Any]:
    """Return the settings of a row's trial: dotted keys of its spec, and the table's columns."""
    return {**flat(row.config), **{name: getattr(row, name) for name in COLUMNS}}


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


def _rows(found: Iterable[ResultRow], wanted: RowFilter) -> list[LeaderboardRow]:
    epoch = wanted.epoch
    chosen: Literal["last", "best", "given"] = "given"
    if epoch == "last" or epoch == "best":
        chosen = epoch
    return [
        LeaderboardRow(**vars(row), stale=row.results_version != RESULTS_VERSION, chosen=chosen)
        for row in found
    ]


def _own_protocol(ledger: Reader, sweep: SweepView | None) -> str:
    """Return the protocol of a sweep's spec. Raises UserError if its trials have several."""
    own = ledger.own_protocols(sweep.id) if sweep else []
    if sweep and len(own) > 1:
        raise UserError(
            f"sweep {sweep.name!r}: its trials are evaluated under {' and '.join(own)}, which are "
            f"never mixed; choose one, such as --protocol {own[0]}"
        )
    return own[0] if own else "default"


def _unfinished(ledger: Reader, wanted: RowFilter) -> list[str]:
    """Return a line about a sweep of which some trials have not succeeded."""
    if wanted.sweep is None:
        return []
    sweep = ledger.sweep(wanted.sweep)
    done = sweep.counts[TrialState.SUCCEEDED]
    if done == sweep.total:
        return []
    others = [
        f"{count} {state}"
        for state, count in sweep.counts.items()
        if count and state is not TrialState.SUCCEEDED
    ]
    return [
        f"sweep {sweep.name}: {done} of {sweep.total} trials have succeeded, {', '.join(others)}"
    ]


def _check_nothing(ledger: Reader, wanted: RowFilter) -> list[str]:
    """Return a line that says which condition matches nothing.

    Raises UserError if there are evaluations, but none of the wanted ones even without conditions.
    """
    counts = ledger.count_by_condition(wanted)
    if counts[0]:
        place = counts.index(0) - 1
        before = "that match the conditions before it " if place else ""
        text = next(names(wanted.where[place])).text.strip()
        return [f"no row: {text} holds for none of {plural(counts[place], 'row')} {before}".strip()]
    _raise_if_others_match(ledger, wanted)
    return []


def _raise_if_others_match(ledger: Reader, query: RowFilter) -> None:
    """Raise UserError if there are evaluations, but only others than those of `query`."""
    others = replace(query, dataset=None, assignment=None, where=(), top=None)
    lines = []
    for name, value in (("dataset", query.dataset), ("assignment", query.assignment)):
        known = set(ledger.values(others, name)) if value is not None else set()
        if value is not None and known and value not in known:
            lines.append(f"{name} {value!r}: no evaluations; {suggestion(value, known)}")
    if lines:
        raise UserError(*lines)
    if present := ledger.coverage(query):
        raise _not_measured(query, present)


def _not_measured(query: RowFilter, present: Sequence[Coverage]) -> UserError:
    """Return the error for trials that were measured, but not as `query` asks."""
    ordered = sorted(present, key=lambda c: c.protocol.startswith("custom-"))
    each = [f"{c.protocol}/{c.branch} (epochs {c.first} to {c.last})" for c in ordered]
    more = f" and {len(each) - _NAMED} more" if len(each) > _NAMED else ""
    shown = ", ".join(each[:_NAMED]) + more
    if query.protocol not in {each.protocol for each in present}:
        return UserError(f"{_how_to_measure(query)} (protocol/branch measured so far: {shown})")
    return UserError(
        f"protocol {query.protocol!r}, branch {query.branch or 'primary'}, epoch {_epoch(query)}: "
        f"no evaluations; choose one of protocol/branch {shown}"
    )


def _epoch(query: RowFilter) -> str:
    epoch = query.epoch
    return f"within {epoch.hours:g} GPU-hours" if isinstance(epoch, GpuHours) else str(epoch)


def _how_to_measure(query: RowFilter) -> str:
    """Return the remedy for a protocol without evaluations; a name may also be misspelt."""
    from detectors.evaluation.protocol import PROTOCOLS  # not at the top: it imports pydantic

    protocol = query.protocol
    if protocol not in PROTOCOLS:
        return f"protocol {protocol!r}: no evaluations; {suggestion(protocol, PROTOCOLS)}"
    command = f"gaplab reevaluate {query.sweep or 'SWEEP'} --protocol {protocol}"
    return f"Not measured under {protocol!r} yet. Run: {command}"
