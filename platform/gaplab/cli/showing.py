"""What `gaplab show` prints: a trial, a sweep, or all sweeps."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView, SweepView, TrialView
from gaplab.text import duration, points, signed
from gaplab.yamlfile import dump_yaml


@dataclass(frozen=True)
class TrialDetails:
    """A trial with all its attempts and evaluations."""

    trial: TrialView
    attempts: list[AttemptView]
    evaluations: list[EvaluationView]


@dataclass(frozen=True)
class SweepDetails:
    """A sweep with its trials."""

    sweep: SweepView
    trials: list[TrialView]


Details = TrialDetails | SweepDetails


def details(ledger: Ledger, name: str) -> Details:
    """The trial or sweep that `name` means. Raises UserError naming near matches of both."""
    try:
        sweep = ledger.find_sweep(name)
    except UserError as no_sweep:
        try:
            trial = ledger.find_trial(name)
        except UserError as no_trial:
            raise UserError(*no_trial.problems, *no_sweep.problems) from None
        return TrialDetails(trial, ledger.attempts(trial.id), ledger.evaluations(trial.id))
    return SweepDetails(sweep, ledger.trials(sweep.id))


def details_json(found: Details | list[SweepView]) -> str:
    """The same as JSON; datetimes in ISO 8601."""
    plain = [dataclasses.asdict(s) for s in found] if isinstance(found, list) else found.__dict__
    return json.dumps(plain, indent=2, default=_plain)


def print_sweeps(sweeps: list[SweepView], console: Console) -> None:
    """One line a sweep, newest first."""
    table = _table("sweep", "trials", "succeeded", "failed", "begun")
    for sweep in sweeps:
        counts = (sweep.total, sweep.counts["succeeded"], sweep.counts["failed"])
        table.add_row(sweep.id, *map(str, counts), f"{sweep.created_at:%Y-%m-%d %H:%M} UTC")
    console.print(table if sweeps else "no sweeps yet; `gaplab run SPEC` starts one")


def print_details(found: Details, console: Console) -> None:
    """A page about one trial or sweep."""
    if isinstance(found, SweepDetails):
        _print_sweep(found, console)
    else:
        _print_trial(found, console)


def _print_sweep(found: SweepDetails, console: Console) -> None:
    console.print(f"sweep {found.sweep.id}, begun {found.sweep.created_at:%Y-%m-%d %H:%M} UTC")
    table = _table("trial", "assignment", "data set", "seed", "epochs", "state")
    for trial in found.trials:
        facts = (trial.assignment, trial.dataset, str(trial.seed), str(trial.epochs))
        table.add_row(trial.id, *facts, trial.state)
    console.print(table)
    console.print(found.sweep.spec, markup=False)


def _print_trial(found: TrialDetails, console: Console) -> None:
    trial = found.trial
    console.print(f"trial {trial.id}: {trial.assignment} on {trial.dataset}, {trial.state}")
    console.print(dump_yaml(trial.config), markup=False)
    console.print(_attempts(found.attempts))
    console.print(_evaluations(found.evaluations))
    for evaluation in _last_of_branches(found.evaluations):
        console.print(_classes(evaluation))


def _attempts(attempts: list[AttemptView]) -> Table:
    table = _table("attempt", "state", "node", "device", "wall", "CPU", "memory", "reason")
    for a in attempts:
        cost = [duration(s) if s is not None else "-" for s in (a.wall_seconds, a.cpu_seconds)]
        memory = "-" if a.peak_memory_mib is None else f"{a.peak_memory_mib:.0f} MiB"
        table.add_row(str(a.number), a.state, a.node, a.device, *cost, memory, a.reason)
    return table


def _evaluations(evaluations: list[EvaluationView]) -> Table:
    table = _table("epoch", "branch", "protocol", "AP", "AP NMS", "gap", "AR", "AR NMS")
    for e in evaluations:
        m = e.metrics
        numbers = (points(m["ap"]), points(m["ap_nms"]), signed(m["gap"]))
        recall = (points(m["ar"]), points(m["ar_nms"]))
        table.add_row(str(e.epoch), e.branch, e.protocol, *numbers, *recall)
    return table


def _classes(evaluation: EvaluationView) -> Table:
    table = _table("class", "AP", "AP NMS", "gap")
    table.title, table.title_justify = (
        f"branch {evaluation.branch}, epoch {evaluation.epoch}",
        "left",
    )
    for c in evaluation.classes:
        table.add_row(c.name, points(c.ap), points(c.ap_nms), signed(c.gap))
    return table


def _last_of_branches(evaluations: list[EvaluationView]) -> list[EvaluationView]:
    last = {(e.branch, e.protocol): e for e in sorted(evaluations, key=lambda e: e.epoch)}
    return list(last.values())


def _table(*columns: str) -> Table:
    words = {"trial", "assignment", "data set", "state", "sweep", "branch", "protocol", "class"}
    table = Table(box=SIMPLE_HEAD)
    for name in columns:
        left = name in words | {"node", "device", "reason", "begun"}
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return dataclasses.asdict(value)
