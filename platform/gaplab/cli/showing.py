"""What `gaplab show` prints: a trial, a sweep, or all sweeps."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from detectors.evaluation.metrics import LABELS
from gaplab.cli.attempts import print_attempts
from gaplab.cli.render.tabular import plain_table
from gaplab.errors import UserError
from gaplab.formatting import points, signed
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView, SweepView, TrialView
from gaplab.spec.yaml_text import dump_yaml
from gaplab.states import TrialState


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
    table = plain_table("sweep", "trials", "succeeded", "failed", "begun")
    for sweep in sweeps:
        counts = (sweep.total, sweep.counts[TrialState.SUCCEEDED], sweep.counts[TrialState.FAILED])
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
    table = plain_table("trial", "assignment", "data set", "seed", "epochs", "state")
    for trial in found.trials:
        facts = (trial.assignment, trial.dataset, str(trial.seed), str(trial.epochs))
        table.add_row(trial.id, *facts, trial.state)
    console.print(table)
    console.print(found.sweep.spec, markup=False)


def _print_trial(found: TrialDetails, console: Console) -> None:
    trial = found.trial
    console.print(f"trial {trial.id}: {trial.assignment} on {trial.dataset}, {trial.state}")
    console.print(dump_yaml(trial.config), markup=False)
    print_attempts(found.attempts, console)
    _print_evaluations(found.evaluations, console)
    if not found.evaluations:
        return
    own = _own(found)
    _print_last(own, console)
    alike = [e for e in found.evaluations if e.protocol == own.protocol]
    for evaluation in _last_of_branches(alike):
        console.print(_heading(evaluation))
        console.print(_classes(evaluation))


def _own(found: TrialDetails) -> EvaluationView:
    """The last evaluation of the branch kept at inference, under the trial's own protocol if any.

    Of what there is, at least one.
    """
    own = found.trial.config["evaluation"]["protocol"]["preset"]
    return max(found.evaluations, key=lambda e: (e.primary, e.protocol == own, e.epoch))


def _print_evaluations(evaluations: list[EvaluationView], console: Console) -> None:
    """Each once; the crowd evaluator knows other metrics, so its own are in a second table."""
    crowd = [e for e in evaluations if "mmr" in e.metrics]
    coco = [e for e in evaluations if "mmr" not in e.metrics]
    if coco or not crowd:
        console.print(_evaluations(coco, "ar"))
    if crowd:
        console.print(_evaluations(crowd, "mmr", "recall"))


def _evaluations(evaluations: list[EvaluationView], *others: str) -> Table:
    """others: metrics shown beside AP."""
    keys = [key for metric in others for key in (metric, f"{metric}_nms")]
    heads = [f"{LABELS[metric]}{nms}" for metric in others for nms in ("", "\nNMS")]
    table = plain_table("epoch", "branch", "protocol", "AP", "AP\nNMS", "gap", *heads)
    for e in evaluations:
        m = e.metrics
        numbers = (points(m["ap"]), points(m["ap_nms"]), signed(m["gap"]))
        more = [points(m.get(key)) for key in keys]
        table.add_row(str(e.epoch), e.branch, e.protocol, *numbers, *more)
    return table


def _print_last(evaluation: EvaluationView, console: Console) -> None:
    """All metrics but AP, and where the candidates are."""
    m, rule = evaluation.metrics, evaluation.rule
    names = LABELS | ({"ar": f"AR@{rule['max_dets']}"} if rule else {})
    table = plain_table("metric", "without", "with NMS", "gap")
    for name in _further(m):
        numbers = (points(m[name]), points(m.get(f"{name}_nms")), signed(m.get(f"{name}_gap")))
        table.add_row(names.get(name, name), *numbers)
    if table.row_count:
        console.print(_heading(evaluation))
        console.print(table)
    if evaluation.candidates:
        console.print(f"candidates: {evaluation.candidates}", markup=False, soft_wrap=True)


def _further(metrics: Mapping[str, float | None]) -> list[str]:
    """The metrics but AP, each once: with NMS (`_nms`) and the gap (`_gap`) belong to the first."""
    ap = {"ap", "ap_nms", "gap"}
    found = [m for m in metrics if m not in ap and _without_suffix(m) not in metrics]
    known = list(LABELS)
    return sorted(found, key=lambda m: known.index(m) if m in LABELS else len(known))


def _without_suffix(metric: str) -> str | None:
    base, _, suffix = metric.rpartition("_")
    return base if suffix in ("nms", "gap") else None


def _classes(evaluation: EvaluationView) -> Table:
    table = plain_table("class", "AP", "AP NMS", "gap")
    for c in evaluation.classes:
        table.add_row(c.name, points(c.ap), points(c.ap_nms), signed(c.gap))
    return table


def _last_of_branches(evaluations: list[EvaluationView]) -> list[EvaluationView]:
    last = {(e.branch, e.protocol): e for e in sorted(evaluations, key=lambda e: e.epoch)}
    return list(last.values())


def _heading(of: EvaluationView) -> str:
    return f"branch {of.branch}, epoch {of.epoch}, protocol {of.protocol}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return dataclasses.asdict(value)
