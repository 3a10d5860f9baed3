"""What `gaplab plan` shows."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gaplab.cli.options import cores
from gaplab.home import Home
from gaplab.launch.capacity import Node, concurrency
from gaplab.ledger import Ledger
from gaplab.plan import Estimate, estimate
from gaplab.records import SweepRecord, TrialState
from gaplab.spec import Resources
from gaplab.specfile import load_spec
from gaplab.sweep import expand
from gaplab.text import duration


@dataclass(frozen=True)
class Plan:
    """A sweep, the state of its trials in the ledger, and what is left to pay."""

    sweep: SweepRecord
    states: dict[str, TrialState]
    estimate: Estimate


def make_plan(spec: Path, profile: str | None, overrides: Sequence[str], home: Home) -> Plan:
    """Expand `spec` and look its trials up. Raises UserError."""
    sweep = expand(load_spec(spec, profile, overrides))
    with Ledger.open(home.ledger_url) as ledger:
        states, costs = ledger.states([trial.id for trial in sweep.trials]), ledger.costs()
    todo = [trial for trial in sweep.trials if states.get(trial.id) != "succeeded"]
    needs = {Resources.model_validate(trial.config["resources"]) for trial in todo}
    at_once = concurrency([Node(cores(), 0.0)], needs)
    return Plan(sweep, states, estimate(todo, costs, at_once))


def plan_json(plan: Plan) -> str:
    """The plan as one JSON object."""
    trials = [
        {
            "trial": trial.id,
            "assignment": trial.assignment,
            "family": trial.family,
            "dataset": trial.dataset,
            "seed": trial.seed,
            "state": plan.states.get(trial.id, "new"),
            "config": trial.config,
        }
        for trial in plan.sweep.trials
    ]
    whole = {
        "sweep": plan.sweep.id,
        "trials": trials,
        "estimate": dataclasses.asdict(plan.estimate)
        | {"gpu_hours": plan.estimate.gpu_seconds / 3600},
    }
    return json.dumps(whole, indent=2)


def print_plan(plan: Plan, console: Console, most: int) -> None:
    """A table of the first `most` trials, then counts and cost."""
    table = Table(box=SIMPLE_HEAD, title=f"sweep {plan.sweep.id}", title_justify="left")
    for name in ("trial", "assignment", "data set", "seed", "epochs", "ledger"):
        table.add_column(name, justify="right" if name in ("seed", "epochs") else "left")
    for trial in plan.sweep.trials[:most]:
        state = plan.states.get(trial.id, "new")
        facts = (trial.assignment, trial.dataset, str(trial.seed), str(trial.epochs))
        table.add_row(trial.id, *facts, state)
    console.print(table)
    if (rest := len(plan.sweep.trials) - most) > 0:
        console.print(f"... and {rest} more (--all lists them)")
    console.print(_counts(plan))
    console.print(_cost(plan.estimate), soft_wrap=True)


def _counts(plan: Plan) -> str:
    total, todo = len(plan.sweep.trials), plan.estimate.trials
    return f"{total} trials: {total - todo} already in the ledger, {todo} to run"


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
