"""`gaplab submit`, `status`, `logs` and `cancel`: sweeps on a cluster, from any machine."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gaplab.cli.options import HomeOption, JsonOption, ProfileOption, SetOption, SpecArgument
from gaplab.storage.home import DEFAULT_HOME, Home

JobsOption = Annotated[
    str, typer.Option("--address", help="The cluster's dashboard, http://HEAD:8265.")
]
MaybeJobsOption = Annotated[
    str | None,
    typer.Option("--address", help="A cluster's dashboard, http://HEAD:8265: ask its jobs."),
]


def submit(
    spec: SpecArgument,
    address: JobsOption,
    cluster_home: Annotated[
        str,
        typer.Option(
            envvar="GAPLAB_CLUSTER_HOME",
            help="Home folder on the cluster, one that all its nodes share.",
        ),
    ],
    profile: ProfileOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Start a spec's sweep on a Ray cluster, with this code, and leave it to run there."""
    from gaplab.launch.ray.jobs import Jobs, Order
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import to_mapping
    from gaplab.spec.yaml_text import dump_yaml

    loaded = load_spec(spec, profile, overrides or []).spec
    order = Order(loaded.name, dump_yaml(to_mapping(loaded)), cluster_home)
    job = Jobs(address).submit(order)
    if json:
        sys.stdout.write(jsonlib.dumps({"job": job, "address": address}) + "\n")
        return
    sys.stdout.write(
        f"submitted as {job}; it goes on without this machine\n"
        f"  gaplab logs {job} --address {address} --follow\n"
        f"  gaplab status {job} --address {address}\n"
        f"  gaplab cancel {job} --address {address}\n"
    )


def status(
    name: Annotated[
        str | None,
        typer.Argument(help="A sweep [default: the newest]; with --address a job [all of them]."),
    ] = None,
    address: MaybeJobsOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Show what a sweep is doing: what runs where, what waits and why, what failed."""
    from gaplab.cli.statuses import print_jobs, print_status
    from gaplab.ledger import Ledger
    from gaplab.results.status import status as find

    console = Console(markup=False, highlight=False)
    if address is not None:
        from gaplab.launch.ray.jobs import Jobs

        jobs = Jobs(address)
        print_jobs([jobs.find(name)] if name else jobs.all(), console, json)
        return
    with Ledger.open(Home(home).ledger_url) as ledger:
        print_status(find(ledger, name), console, json)


def logs(
    name: Annotated[str, typer.Argument(help="A trial; with --address a job or its sweep's name.")],
    address: MaybeJobsOption = None,
    follow: Annotated[bool, typer.Option(help="With --address: until the job ends.")] = False,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Print what a job's driver printed, or why a trial's attempts ended and where they hung."""
    if address is not None:
        from gaplab.launch.ray.jobs import Jobs

        jobs = Jobs(address)
        job = jobs.find(name)
        for text in jobs.follow(job) if follow else [jobs.logs(job)]:
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    from gaplab.cli.statuses import trial_log
    from gaplab.ledger import Ledger
    from gaplab.storage.filesystem import Storage

    place = Home(home)
    with Ledger.open(place.ledger_url) as ledger:
        sys.stdout.write(trial_log(ledger, ledger.find_trial(name), Storage(str(place.path))))


def cancel(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="A sweep or trials; with --address a job."),
    ],
    address: MaybeJobsOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Ask a sweep's drivers to leave it, or single trials, alone; what is done is kept."""
    if address is not None:
        from gaplab.launch.ray.jobs import Jobs

        jobs = Jobs(address)
        for name in names:
            job = jobs.find(name)
            said = "asked to end" if jobs.stop(job) else f"has ended already ({job.state})"
            sys.stdout.write(f"{job.id}: {said}\n")
        return
    from gaplab.cli.statuses import cancel_all
    from gaplab.ledger import Ledger

    with Ledger.open(Home(home).ledger_url) as ledger:
        for line in cancel_all(ledger, names):
            sys.stdout.write(f"{line}\n")
