"""What `gaplab status`, `logs` and `cancel` print."""

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gaplab.cli.render.tabular import plain_table
from gaplab.errors import UserError
from gaplab.formatting import duration, points, signed
from gaplab.ledger import Ledger
from gaplab.ledger.views import TrialView
from gaplab.results.status import Status
from gaplab.storage.filesystem import Storage

if TYPE_CHECKING:
    from gaplab.launch.ray.jobs import Job

FILES = ("traceback.txt",)


def print_status(found: Status, console: Console, json: bool) -> None:
    """A page about a sweep as it is now."""
    if json:
        sys.stdout.write(jsonlib.dumps(found.plain(), indent=2, default=str) + "\n")
        return
    counts = [f"{n} {state}" for state, n in found.sweep.counts.items() if n]
    console.print(f"sweep {found.sweep.id}: {found.sweep.total} trials, {', '.join(counts)}")
    for driver in found.drivers:
        lease = (driver.lease_until - found.at).total_seconds()
        where = f"{driver.node}, process {driver.pid}"
        console.print(f"driver {driver.id[:8]} on {where}, believed for {duration(lease)} more")
    if found.running:
        console.print(_running(found))
    if found.waiting:
        console.print(found.waiting, soft_wrap=True)
    for group in found.failures:
        console.print(group.line(), soft_wrap=True)


def print_jobs(jobs: "Sequence[Job]", console: Console, json: bool) -> None:
    """One line a job."""
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(job) for job in jobs], indent=2) + "\n")
        return
    for job in jobs:
        console.print(f"{job.id}: {job.state.lower()}. {job.message}".strip(), soft_wrap=True)
    if not jobs:
        console.print("no jobs of gaplab there; `gaplab submit SPEC` starts one")


def trial_log(ledger: Ledger, trial: TrialView, storage: Storage) -> str:
    """How each attempt went, and the stacks that were kept."""
    lines = [f"trial {trial.id}: {trial.assignment}, seed {trial.seed}, {trial.state}"]
    for each in ledger.attempts(trial.id):
        where = f"on {each.node} ({each.device})" if each.node else "claimed"
        ended = f", {each.state} {each.ended_at:%H:%M:%S}" if each.ended_at else ", runs"
        begun = f"{each.started_at:%Y-%m-%d %H:%M:%S}"
        reason = f": {each.reason}" if each.reason else ""
        lines.append(f"attempt {each.number} {where}, begun {begun} UTC{ended}{reason}")
        lines += [f"  note: {note}" for note in each.notes]
    return "\n".join([*lines, *_kept(trial.id, storage)]) + "\n"


def cancel_all(ledger: Ledger, names: Sequence[str]) -> Iterator[str]:
    """Cancel sweeps and trials; one line each. Raises UserError before any is cancelled."""
    for sweep, trials in [_meant(ledger, name) for name in names]:
        ledger.cancel(sweep, trials)
        what = f"trial {trials[0]} of sweep {sweep}" if trials else f"sweep {sweep}"
        alive = [each for each in ledger.drivers() if each.sweep == sweep]
        who = f"{len(alive)} drivers hear it within seconds" if alive else "no driver runs it"
        yield f"{what}: cancelled; {who}"


def _meant(ledger: Ledger, name: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the sweep that `name` means and None, or a trial with the sweep it was last run for."""
    try:
        return ledger.find_sweep(name).id, None
    except UserError as no_sweep:
        try:
            trial = ledger.find_trial(name).id
        except UserError as no_trial:
            raise UserError(*no_trial.problems, *no_sweep.problems) from None
    holders = {each.sweep for each in ledger.drivers()} | {
        each.sweep for each in ledger.attempts(trial)[-1:]
    }
    held = [s for s in sorted(holders) if trial in {t.id for t in ledger.trials(s)}]
    if not held:
        raise UserError(f"trial {trial}: no driver has it, so there is nothing to cancel")
    return held[0], (trial,)


def _running(found: Status) -> Table:
    table = plain_table(
        "trial", "assignment", "seed", "epoch", "AP", "gap", "attempt", "node", "for"
    )
    for each in found.running:
        metrics = each.evaluation.metrics if each.evaluation else {}
        epoch = each.evaluation.epoch if each.evaluation else 0
        seconds = (found.at - each.attempt.started_at).total_seconds()
        table.add_row(
            *(each.trial.id, each.trial.assignment, str(each.trial.seed)),
            *(
                f"{epoch}/{each.trial.epochs}",
                points(metrics.get("ap")),
                signed(metrics.get("gap")),
            ),
            *(str(each.attempt.number), each.attempt.node or "starting", duration(seconds)),
        )
    return table


def _kept(trial: str, storage: Storage) -> Iterator[str]:
    """Stacks that were written when an attempt failed or hung."""
    folders = {f"trials/{trial}": FILES, f"trials/{trial}/hang": None}
    for folder, wanted in folders.items():
        for name in storage.names(folder):
            if wanted is None or name in wanted:
                yield f"--- {storage.uri}/{folder}/{name}"
                yield storage.read(f"{folder}/{name}").decode(errors="replace").rstrip("\n")
