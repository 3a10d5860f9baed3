"""`gaplab plan` and `gaplab models`: the trials of a spec, and what they cost. Nothing is run."""

import dataclasses
import json as jsonlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from gaplab.cli.opening import read_ledger_if_any
from gaplab.cli.options import (
    HomeOption,
    JsonOption,
    ProfileOption,
    RowOption,
    SetOption,
    SpecArgument,
)
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tabular import number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.cli.render.varied import trial_table
from gaplab.errors import UserError
from gaplab.formatting import duration, plural
from gaplab.ledger import Reader
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec.varied import varied_keys, varied_values
from gaplab.states import TrialState
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from gaplab.launch.costs import DetectorCost, Estimate
    from gaplab.spec.resolve import ResolvedSpec
    from gaplab.spec.sweep import Outline

SHOWN = 20
"""Trials that a plan lists unless all are asked for."""


def plan(  # noqa: PLR0913 - every argument is an option of the command
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    row: RowOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    every: Annotated[
        bool, typer.Option("--all", help=f"List every trial, not only the first {SHOWN}.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the trials of a spec with their expected cost; run nothing."""
    with progress_line(f"expanding {spec}") as show:
        made = make_plan(spec, profile, overrides or [], Home(home), show, row or [])
    if json:
        sys.stdout.write(plan_json(made) + "\n")
    else:
        print_plan(made, open_console(), len(made.sweep.trials) if every else SHOWN)


def models(
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of the images [default: that of the data]."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the weights and multiply-adds of a spec's detectors."""
    from gaplab.launch.costs import detector_costs
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import outline

    image = _image_size(size) if size else None
    lines = detector_costs(outline(load_spec(spec, profile, overrides or [])), image)
    if json:
        sys.stdout.write(jsonlib.dumps([line.plain() for line in lines], indent=2) + "\n")
    else:
        print_models(lines, open_console())


@dataclass(frozen=True)
class Plan:
    """A sweep, the states of its trials in the ledger, and the expected cost of the rest."""

    sweep: SweepRecord
    states: dict[str, TrialState]
    estimate: "Estimate"
    problems: tuple[str, ...] = ()
    """What is wrong with the data. Trials on such data have empty ids and no known state."""
    compute: str | None = None
    """The cost in arithmetic operations, in one line; None if the ledger has precedents for all."""
    notes: tuple[str, ...] = ()
    """What `gaplab run` will refuse, and remarks about the grid and the search, one line each."""


def make_plan(
    spec: Path,
    profile: str | None,
    overrides: Sequence[str],
    home: Home,
    show: Callable[[str], None] = lambda line: None,
    rows: Sequence[str] = (),
) -> Plan:
    """Expand a spec as far as its data can be read, and look up its trials in the ledger.

    `show` is called with what is being done, in one line. With `rows`, only these are planned.

    Raises:
        UserError: The spec has problems, or the ledger can't be read.
    """
    from gaplab.launch.capacity import Node, concurrency
    from gaplab.launch.costs import compute_line, estimate
    from gaplab.spec.files import load_spec
    from gaplab.spec.models import Resources
    from gaplab.spec.remarks import remarks_on
    from gaplab.spec.sweep import foreseen, outline

    resolved = load_spec(spec, profile, overrides).only(rows)
    show(f"{plural(len(resolved.variants), 'combination')}: computing the ids of trials")
    found = outline(resolved)
    show(f"{plural(len(found.sweep.trials), 'trial')}: looking them up in the ledger")
    with read_ledger_if_any(home) as ledger:
        found = _with_proposed(found, resolved, ledger)
        trials = found.sweep.trials
        states, costs = ledger.states([trial.id for trial in trials if trial.id]), ledger.costs()
        todo = ledger.unfinished(found.sweep, states)
    cores = len(os.sched_getaffinity(0))
    resources = {id(each): each for each in (trial.config["resources"] for trial in todo)}
    demand = {Resources.model_validate(each) for each in resources.values()}
    cost = estimate(todo, costs, concurrency([Node(cores, 0.0)], demand))
    compute = compute_line(todo) if cost.unknown else None
    refused = (f"gaplab run will refuse: {line}" for line in foreseen(todo))
    notes = (*refused, *found.notes, *remarks_on(trials))
    return Plan(found.sweep, states, cost, found.problems, compute, notes)


def _with_proposed(found: "Outline", resolved: "ResolvedSpec", ledger: Reader) -> "Outline":
    """Add the trials that a search proposed when the sweep ran before."""
    from gaplab.launch.search import open_search
    from gaplab.launch.search_history import trial_results
    from gaplab.spec.sampling import remarks

    spec, search = resolved.spec, open_search(resolved.spec)
    known = trial_results(ledger, found.sweep.id) if search is not None else []
    if search is None or not known:
        return found
    sweep = replace(found.sweep, trials=tuple(each.trial for each in known))
    left = remarks(spec.search, search.remaining(known))
    return replace(found, sweep=sweep, notes=(*resolved.notes, *left))


def plan_json(plan: Plan) -> str:
    """Return the plan as one JSON object."""
    keys = varied_keys(trial.config for trial in plan.sweep.trials)
    trials = [
        {
            "trial": trial.id or None,
            "assignment": trial.assignment,
            "varied": varied_values(trial.config, keys),
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
        "varied": keys,
        "trials": trials,
        "problems": plan.problems,
        "notes": plan.notes,
        "compute": plan.compute,
        "estimate": dataclasses.asdict(plan.estimate)
        | {"gpu_hours": plan.estimate.gpu_seconds / 3600},
    }
    return jsonlib.dumps(whole, indent=2)


def print_plan(plan: Plan, console: Console, most: int) -> None:
    """Print a table of the first `most` trials, then counts and cost."""
    trials = plan.sweep.trials
    states = [_state(plan, trial) or "?" for trial in trials[:most]]
    title = f"sweep {plan.sweep.id or plan.sweep.name}"
    console.print(trial_table(trials, states, ("ledger", title)))
    if (rest := len(trials) - most) > 0:
        console.print(f"... and {rest} more (--all lists them)")
    for line in (_counts(plan), *plan.notes, *_unknown(plan), _cost(plan.estimate), plan.compute):
        if line is not None:
            console.print(line, soft_wrap=True)


def _state(plan: Plan, trial: TrialRecord) -> TrialState | Literal["new"] | None:
    """Return the state of a trial; None if it can't be known."""
    return plan.states.get(trial.id, "new") if trial.id else None


def _counts(plan: Plan) -> str:
    trials, todo = plan.sweep.trials, plan.estimate.trials
    unknown = sum(not trial.id for trial in trials)
    total = plural(len(trials), "trial")
    if unknown == len(trials):
        return total
    parts = [f"{len(trials) - todo} already in the ledger", f"{todo - unknown} to run"]
    parts += [f"{unknown} unknown"] if unknown else []
    return f"{total}: {', '.join(parts)}"


def _unknown(plan: Plan) -> list[str]:
    """Return what is wrong with the data, and the consequence, in one line without remedies."""
    if not plan.problems:
        return []
    what = "; ".join(problem.partition("; ")[0] for problem in plan.problems)
    return [f"{what}: ids of trials, and which of them are finished, can't be known here"]


def _cost(cost: "Estimate") -> str:
    if not cost.trials:
        return "nothing to run"
    if cost.unknown == cost.trials:
        return "no estimate: the ledger has no finished attempt on this data to compare with"
    if not cost.at_once:
        where = "one trial after another, elsewhere: this machine is too small for one of them"
    else:
        where = f"{cost.at_once} at once on this machine"
    left_out = ""
    if cost.unknown:
        left_out = f"; without {plural(cost.unknown, 'trial')} that nothing can be compared with"
    gpu = f" and {duration(cost.gpu_seconds)} of GPU time" if cost.gpu_seconds else ""
    return (
        f"about {duration(cost.wall_seconds)} ({where}), {duration(cost.cpu_seconds)} of CPU time"
        f"{gpu}, estimated from {plural(cost.basis, 'earlier attempt')}{left_out}"
    )


def _image_size(value: str) -> tuple[int, int]:
    """Parse height and width from `800x1280`. Raises UserError."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", value)
    if found is None:
        raise UserError(f"--size {value}: must be height x width in pixels, such as 800x1280")
    return int(found[1]), int(found[2])


def print_models(lines: "Sequence[DetectorCost]", console: Console) -> None:
    """Print weights in millions and multiply-adds in 10^9: with all branches, then with one."""
    headings = ("weights\nM", "trainable\nM", "multiply-\nadds G", "inference\nM")
    sizes = dict.fromkeys(f"{height} x {width}" for height, width in (line.size for line in lines))
    table = plain_table(
        [
            *(text(heading) for heading in ("used by", "detector")),
            *(number(heading) for heading in (*headings, "inference\nmultiply-\nadds G")),
        ],
        ([_names(line), line.detector, *_costs(line)] for line in lines),
        caption="first in training, with all branches, then at inference; multiply-adds: of "
        f"convolutions and matrix products for one image of {' or '.join(sizes)}",
    )
    console.print(table)
    for line in lines:
        if line.problem:
            console.print(f"{', '.join(line.names)}: {line.problem}", soft_wrap=True)


def _names(line: "DetectorCost") -> str:
    more = len(line.names) - 1
    return line.names[0] + (f" and {more} more" if more else "")


def _costs(line: "DetectorCost") -> list[str]:
    """Return the cells of one detector in the order of the columns."""
    training, inference = line.training, line.inference
    if training is None or inference is None:
        return ["-"] * 5
    weights = (training.parameters, training.trainable, inference.parameters)
    total, trainable, kept = (f"{count / 1e6:.2f}" for count in weights)
    forward, single = (f"{cost.multiply_adds / 1e9:.4g}" for cost in (training, inference))
    return [total, trainable, forward, kept, single]
