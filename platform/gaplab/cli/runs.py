"""`gaplab plan`, `models`, `run` and `resume`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gaplab.cli.options import (
    AddressOption,
    HomeOption,
    JsonOption,
    ProfileOption,
    RerunOption,
    SetOption,
    SpecArgument,
    image_size,
)
from gaplab.storage.home import DEFAULT_HOME, Home


def plan(
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    every: Annotated[
        bool, typer.Option("--all", help="List every trial, not the first 20.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print the trials a spec stands for and what they would cost; run nothing."""
    from gaplab.cli.planning import make_plan, plan_json, print_plan

    made = make_plan(spec, profile, overrides or [], Home(home))
    if json:
        sys.stdout.write(plan_json(made) + "\n")
    else:
        print_plan(made, Console(markup=False), 20 if not every else len(made.sweep.trials))


def models(
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of an image [default: the data's].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the weights and the multiply-adds of a spec's detectors; run nothing."""
    from gaplab.cli.modelling import models_json, print_models
    from gaplab.launch.costs import model_lines
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import outline

    image = image_size(size) if size else None
    lines = model_lines(outline(load_spec(spec, profile, overrides or [])), image)
    if json:
        sys.stdout.write(models_json(lines) + "\n")
    else:
        print_models(lines, Console(markup=False))


def run(  # noqa: PLR0913 - every argument is an option of the command
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    rerun: RerunOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Train what is missing of a spec's sweep, watch it, and print the leaderboard."""
    from gaplab.cli.running import SweepRun
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import expand

    sweep = expand(load_spec(spec, profile, overrides or []))
    raise typer.Exit(SweepRun(sweep, Home(home), address, json).execute(rerun or []))


def resume(
    sweep: Annotated[
        str | None, typer.Argument(help="Id or name of a sweep [default: the newest].")
    ] = None,
    rerun: RerunOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Train the trials of a sweep that have not succeeded, each from its last checkpoint."""
    from gaplab.cli.running import SweepRun
    from gaplab.ledger import Ledger
    from gaplab.spec.sweep import check_unchanged

    place = Home(home)
    with Ledger.open(place.ledger_url) as ledger:
        stored = ledger.stored_sweep(sweep)
        check_unchanged(ledger.unfinished(stored))
    raise typer.Exit(SweepRun(stored, place, address, json).execute(rerun or []))
