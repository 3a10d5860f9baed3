"""What `gaplab plan` shows."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gaplab.cli.options import cores
from gaplab.formatting import duration
from gaplab.launch.capacity import Node, concurrency
from gaplab.launch.costs import Estimate, compute_line, estimate
from gaplab.launch.search import open_search
from gaplab.launch.search_history import seen
from gaplab.ledger import Ledger
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import Resources, Spec
from gaplab.spec.sampling import remarks
from gaplab.spec.sweep import Outline, outline
from gaplab.states import TrialState
from gaplab.storage.home import Home


@dataclass(frozen=True)
class Plan:
    """A sweep, the state of its trials in the ledger, and what is left to pay.

    problems: what is wrong with the data; then ids that hang on it are empty, and states unknown.
    compute: what the trials cost in arithmetic, in one line. notes: about a search, a line each.
    """

    sweep: SweepRecord
    states: dict[str, TrialState]
    estimate: Estimate
    problems: tuple[str, ...] = ()
    compute: str | None = None
    notes: tuple[str, ...] = ()


def make_plan(spec: Path, profile: str | None, overrides: Sequence[str], home: Home) -> Plan:
    """Expand `spec` as far as its data is here, and look its trials up. Raises UserError."""
    loaded = load_spec(spec, profile, overrides)
    found = outline(loaded)
    with Ledger.open(home.ledger_url) as ledger:
        found = _with_proposed(found, loaded.spec, ledger)
        trials = found.sweep.trials
        states, costs = ledger.states([trial.id for trial in trials if trial.id]), ledger.costs()
        todo = ledger.missing(found.sweep)
    needs = {Resources.model_validate(trial.config["resources"]) for trial in todo}
    at_once = concurrency([Node(cores(), 0.0)], needs)
    cost = estimate(todo, costs, at_once)
    compute = compute_line(todo) if cost.unknown else None
    return Plan(found.sweep, states, cost, found.problems, compute, found.notes)


def _with_proposed(found: Outline, spec: Spec, ledger: Ledger) -> Outline:
    """With the trials that a search proposed when the sweep ran before."""
    search = open_search(spec)
    known = seen(ledger, found.sweep.id) if search is not None else []
    if search is None or not known:
        return found
    sweep = replace(found.sweep, trials=tuple(each.trial for each in known))
    return replace(found, sweep=sweep, notes=remarks(spec.search, search.left(known)))


def plan_json(plan: Plan) -> str:
    """The plan as one JSON object."""
    trials = [
        {
            "trial": trial.id or None,
            "assignment": trial.assignment,
            "family": trial.family,
            "dataset": trial.dataset,
            "seed": trial.seed,
            "epochs": trial.epochs,
            "state": _state(plan, trial),
            "config": trial.config,
        }
        for trial in plan.sweep.trials
    ]
    whole = {
        "sweep": plan.sweep.id or None,
        "trials": trials,
        "problems": plan.problems,
        "notes": plan.notes,
        "compute": plan.compute,
        "estimate": dataclasses.asdict(plan.estimate)
        | {"gpu_hours": plan.estimate.gpu_seconds / 3600},
    }
    return json.dumps(whole, indent=2)


def print_plan(plan: Plan, console: Console, most: int) -> None:
    """A table of the first `most` trials, then counts and cost."""
    title = f"sweep {plan.sweep.id or plan.sweep.name}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("trial", "assignment", "data set", "seed", "epochs", "ledger"):
        table.add_column(name, justify="right" if name in ("seed", "epochs") else "left")
    for trial in plan.sweep.trials[:most]:
        facts = (trial.assignment, trial.dataset, str(trial.seed), str(trial.epochs))
        table.add_row(trial.id or "?", *facts, _state(plan, trial) or "?")
    console.print(table)
    if (rest := len(plan.sweep.trials) - most) > 0:
        console.print(f"... and {rest} more (--all lists them)")
    for line in (_counts(plan), *plan.notes, *_unknown(plan), _cost(plan.estimate), plan.compute):
        if line is not None:
            console.print(line, soft_wrap=True)


def _state(plan: Plan, trial: TrialRecord) -> TrialState | Literal["new"] | None:
    """The trial's state; None where it can't be known."""
    return plan.states.get(trial.id, "new") if trial.id else None


def _counts(plan: Plan) -> str:
    trials, todo = plan.sweep.trials, plan.estimate.trials
    unknown = sum(not trial.id for trial in trials)
    if unknown == len(trials):
        return f"{unknown} trials"
    parts = [f"{len(trials) - todo} already in the ledger", f"{todo - unknown} to run"]
    parts += [f"{unknown} unknown"] if unknown else []
    return f"{len(trials)} trials: {', '.join(parts)}"


def _unknown(plan: Plan) -> list[str]:
    """What is wrong with the data and what follows from it, in one line, without the remedies."""
    if not plan.problems:
        return []
    what = "; ".join(problem.partition("; ")[0] for problem in plan.problems)
    return [f"{what}: ids, and what is in the ledger already, can't be known here"]


def _cost(cost: Estimate) -> str:
    if not cost.trials:
        return "nothing to run"
    if cost.unknown == cost.trials:
        return "no estimate: the ledger holds no finished attempt on this data to go by"
    if not cost.at_once:
        where = "this machine can't hold one of its trials; one after another elsewhere"
    else:
        where = f"{cost.at_once} at once on this machine"
    left_out = f", {cost.unknown} trials without precedent left out" if cost.unknown else ""
    return (
        f"about {duration(cost.wall_seconds)} ({where}), {cost.cpu_seconds / 3600:.2f} CPU-hours, "
        f"{cost.gpu_seconds / 3600:.2f} GPU-hours, by {cost.basis} earlier attempts{left_out}"
    )
