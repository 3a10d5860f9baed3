"""`gaplab submit`, `status`, `logs` and `cancel`: sweeps that run in another process or cluster.

Without `--address` they read the ledger; with it they talk to the jobs of a Ray cluster.
"""

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gaplab.cli.opening import read_ledger
from gaplab.cli.options import (
    HomeOption,
    JsonOption,
    ProfileOption,
    RowOption,
    SetOption,
    SpecArgument,
)
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.cli.render.varied import EPOCHS, VariedColumns
from gaplab.errors import UserError
from gaplab.formatting import duration, plural, points, signed
from gaplab.launch.process import has_died
from gaplab.ledger import Ledger, Reader
from gaplab.ledger.views import SweepView, TrialView
from gaplab.results.status import Running, Status
from gaplab.results.status import status as find_status
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home, check_is_path

if TYPE_CHECKING:
    from gaplab.launch.ray.jobs import Job, Jobs

JobsOption = Annotated[
    str, typer.Option("--address", help="Dashboard of the cluster, http://HEAD:8265.")
]
MaybeJobsOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="Dashboard of a cluster, http://HEAD:8265, to use its jobs instead."
    ),
]
TRACEBACK = "traceback.txt"
"""File that the worker of a failed attempt leaves in the folder of its trial."""


def submit(  # noqa: PLR0913 - every argument is an option of the command
    spec: SpecArgument,
    address: JobsOption,
    cluster_home: Annotated[
        str,
        typer.Option(
            envvar="GAPLAB_CLUSTER_HOME",
            help="Home folder on the cluster, shared by all of its nodes.",
        ),
    ],
    profile: ProfileOption = None,
    overrides: SetOption = None,
    row: RowOption = None,
    json: JsonOption = False,
) -> None:
    """Start a sweep on a Ray cluster and leave it running there.

    The spec and the installed code of gaplab are sent to the cluster.
    """
    check_is_path(cluster_home, "--cluster-home")
    from gaplab.launch.ray.jobs import JobRequest
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import to_mapping
    from gaplab.spec.yaml_text import dump_yaml

    loaded = load_spec(spec, profile, overrides or []).only(row or []).spec
    job = _jobs(address).submit(
        JobRequest(loaded.name, dump_yaml(to_mapping(loaded)), cluster_home)
    )
    if json:
        sys.stdout.write(jsonlib.dumps({"job": job, "address": address}) + "\n")
        return
    sys.stdout.write(
        f"submitted job {job}; it keeps running when this machine is switched off\n"
        f"  gaplab logs {job} --address {address} --follow\n"
        f"  gaplab status {job} --address {address}\n"
        f"  gaplab cancel {job} --address {address}\n"
    )


def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A sweep [default: the newest]; with --address, a job [default: all of them].",
        ),
    ] = None,
    address: MaybeJobsOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Show the running, waiting and failed trials of a sweep."""
    console = open_console()
    if address is not None:
        jobs = _jobs(address)
        print_jobs([jobs.find(name)] if name else jobs.all(), console, json)
        return
    folder = Home(home)
    with read_ledger(folder) as ledger:
        found = find_status(ledger, name, has_died, partial(folder.command, "resume"))
        print_status(found, console, json)


def logs(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A trial; with --address, a job or the name of its sweep."
        ),
    ],
    address: MaybeJobsOption = None,
    follow: Annotated[
        bool, typer.Option(help="With --address: print new output until the job ends.")
    ] = False,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Show how the attempts of a trial ended, or a job's output.

    For a trial, the stacks of attempts that failed or hung are printed, too.
    """
    if address is not None:
        jobs = _jobs(address)
        job = jobs.find(name)
        for output in jobs.follow(job) if follow else [jobs.logs(job)]:
            sys.stdout.write(output)
            sys.stdout.flush()
        return
    folder = Home(home)
    with read_ledger(folder) as ledger:
        trial = ledger.find_trial(name)
        log = trial_log(ledger, trial, Storage(str(folder.path)))
        open_console(soft_wrap=True).print(log, end="")


def cancel(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="A sweep or trials; with --address, jobs."),
    ],
    address: MaybeJobsOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Stop a sweep or single trials; finished results stay.

    `gaplab resume` trains cancelled trials again, each from its last checkpoint.
    """
    if address is not None:
        jobs = _jobs(address)
        for name in names:
            job = jobs.find(name)
            result = "stopping" if jobs.stop(job) else f"has already ended ({job.state})"
            sys.stdout.write(f"{job.id}: {result}\n")
        return
    with Ledger.open(Home(home).check_ledger().ledger_url, create=False) as ledger:
        for line in cancel_all(ledger, names):
            sys.stdout.write(f"{line}\n")


def print_status(found: Status, console: Console, json: bool) -> None:
    """Print the status of a sweep."""
    if json:
        sys.stdout.write(jsonlib.dumps(found.plain(), indent=2, default=str) + "\n")
        return
    counts = [f"{n} {state}" for state, n in found.sweep.counts.items() if n]
    total = plural(found.sweep.total, "trial")
    console.print(f"sweep {found.sweep.id}: {total}, {', '.join(counts)}")
    for driver in found.drivers:
        lease = (driver.lease_until - found.at).total_seconds()
        where = f"{driver.node}, process {driver.pid}"
        console.print(f"driver {driver.id[:8]} on {where}; its lease ends in {duration(lease)}")
    for lost in found.lost:
        where = f"{lost.driver.node}, process {lost.driver.pid}"
        console.print(f"driver {lost.driver.id[:8]} on {where}, {lost.reason}")
    if found.running:
        console.print(_running(found))
    if found.waiting:
        console.print(found.waiting, soft_wrap=True)
    for group in found.failures:
        console.print(group.line(), soft_wrap=True)


def print_jobs(jobs: "Sequence[Job]", console: Console, json: bool) -> None:
    """Print one line per job."""
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(job) for job in jobs], indent=2) + "\n")
        return
    for job in jobs:
        console.print(f"{job.id}: {job.state.lower()}. {job.message}".strip(), soft_wrap=True)
    if not jobs:
        console.print("no jobs of gaplab on this cluster; start one with: gaplab submit SPEC")


def trial_log(ledger: Reader, trial: TrialView, storage: Storage) -> str:
    """Return how each attempt at a trial ended, followed by the stored stacks."""
    lines = [f"trial {trial.id}: {trial.assignment}, seed {trial.seed}, {trial.state}"]
    for each in ledger.attempts(trial.id):
        where = f"on {each.node} ({each.device})" if each.node else "not started yet"
        ended = f"{each.state} {each.ended_at:%H:%M:%S}" if each.ended_at else "running"
        claimed = f"{each.started_at:%Y-%m-%d %H:%M:%S}"
        reason = f": {each.reason}" if each.reason else ""
        lines.append(f"attempt {each.number} {where}, claimed {claimed} UTC, {ended}{reason}")
        lines += [f"  note: {note}" for note in each.notes]
    return "\n".join([*lines, *_stacks(trial.id, storage)]) + "\n"


def cancel_all(ledger: Ledger, names: Sequence[str]) -> Iterator[str]:
    """Cancel sweeps and trials, and yield one message for each.

    Raises:
        UserError: A name is unknown. Then nothing is cancelled.
    """
    for sweep, trial in [_sweep_and_trial(ledger, name) for name in names]:
        ledger.cancel(sweep, None if trial is None else [trial])
        what = f"sweep {sweep}" if trial is None else f"trial {trial} of sweep {sweep}"
        drivers = sum(each.sweep == sweep for each in ledger.drivers())
        result = "nothing to stop, no driver is running the sweep"
        if drivers:
            result = f"cancelled; {plural(drivers, 'driver')} will stop within seconds"
        yield f"{what}: {result}"


def _sweep_and_trial(ledger: Reader, name: str) -> tuple[str, str | None]:
    """Return the id of the sweep that `name` means, and None.

    If it means a trial, return the sweep for which the trial was last attempted, or that a driver
    is running now, and the id of the trial.
    """
    found = ledger.find(name)
    if isinstance(found, SweepView):
        return found.id, None
    candidates = {each.sweep for each in ledger.drivers()} | {
        each.sweep for each in ledger.attempts(found.id)[-1:]
    }
    sweeps = [s for s in sorted(candidates) if found.id in {t.id for t in ledger.trials(s)}]
    if not sweeps:
        raise UserError(f"trial {found.id}: no driver runs it, so there is nothing to cancel")
    return sweeps[0], found.id


def _running(found: Status) -> PlainTable:
    heads = ["trial", "assignment", "seed", "epoch", "AP", "gap", "attempt", "node", "for"]
    configs = [each.trial.config for each in found.running]
    varied = VariedColumns(found.varied, configs, (EPOCHS,), heads)
    columns = [
        *(text("trial", wrap=False), text("assignment", rank=0), *varied.columns()),
        *(number(heading, rank=0) for heading in ("seed", "epoch", "AP", "gap")),
        *(number("attempt", rank=2), text("node", rank=2)),
        number("for"),
    ]
    return plain_table(columns, (_cells(found, each, varied) for each in found.running))


def _cells(found: Status, each: Running, varied: VariedColumns) -> list[str]:
    """Return the cells of one running trial."""
    metrics = each.evaluation.metrics if each.evaluation else {}
    epoch = each.evaluation.epoch if each.evaluation else 0
    seconds = (found.at - each.attempt.started_at).total_seconds()
    return [
        *(each.trial.id, each.trial.assignment, *varied.cells(each.trial.config)),
        *(str(each.trial.seed), f"{epoch}/{each.trial.epochs}"),
        *(points(metrics.get("ap")), signed(metrics.get("gap"))),
        *(str(each.attempt.number), each.attempt.node or "starting", duration(seconds)),
    ]


def _stacks(trial: str, storage: Storage) -> Iterator[str]:
    """Yield the stacks that were stored when attempts failed or hung."""
    folder = f"trials/{trial}"
    files = [f"{folder}/{name}" for name in storage.names(folder) if name == TRACEBACK]
    files += [f"{folder}/hang/{name}" for name in storage.names(f"{folder}/hang")]
    for file in files:
        yield f"--- {storage.uri}/{file}"
        yield storage.read(file).decode(errors="replace").rstrip("\n")


def _jobs(address: str) -> "Jobs":
    """Connect to the jobs of a cluster."""
    from gaplab.launch.ray.jobs import Jobs

    return Jobs(address)
