"""`gaplab leaderboard`, `compare` and `show`: what the ledger knows. None of them imports torch."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from gaplab.cli.options import HomeOption, JsonOption
from gaplab.cli.render.plain import COMPARE_COLUMNS, metric_names, to_csv, to_json
from gaplab.cli.render.tables import compare_table, leaderboard_table
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.results.compare import compare as compare_groups
from gaplab.results.leaderboard import leaderboard as find_rows
from gaplab.results.leaderboard import unknown_keys
from gaplab.storage.home import DEFAULT_HOME, Home

CsvOption = Annotated[bool, typer.Option("--csv", help="CSV on standard output.")]
SweepOption = Annotated[str | None, typer.Option(help="Only this sweep (id or name).")]
DatasetOption = Annotated[str | None, typer.Option(help="Only this data set.")]
AssignmentOption = Annotated[str | None, typer.Option(help="Only this assignment.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE", help="Only trials with this value of a spec key; repeatable."
    ),
]
EpochOption = Annotated[str, typer.Option(help='"last", "best" (AP without NMS), or a number.')]
ProtocolOption = Annotated[str, typer.Option(help="How the gap was measured.")]
BranchOption = Annotated[
    str | None, typer.Option(help="o2o, o2m or o2f [default: the one kept at inference].")
]


def leaderboard(  # noqa: PLR0913 - every argument is an option of the command
    sort: Annotated[
        Literal["gap", "ap", "ap_nms"], typer.Option(help="Best first by this number.")
    ] = "gap",
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this metric too, such as ap_small; repeatable."),
    ] = None,
    sweep: SweepOption = None,
    dataset: DatasetOption = None,
    assignment: AssignmentOption = None,
    where: WhereOption = None,
    epoch: EpochOption = "last",
    protocol: ProtocolOption = "default",
    branch: BranchOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """One row a trial: AP without NMS, with NMS, and the gap, in percent points."""
    at = _epoch(epoch)
    with Ledger.open(Home(home).ledger_url) as ledger:
        rows = find_rows(
            ledger,
            sort=sort,
            sweep=sweep,
            dataset=dataset,
            assignment=assignment,
            where=where or (),
            epoch=at,
            protocol=protocol,
            branch=branch,
        )
    if rows and (error := unknown_keys(metric or [], metric_names(rows))):
        raise error
    _print(
        to_json(rows) if json else to_csv(rows) if csv else leaderboard_table(rows, metric or [])
    )


def compare(  # noqa: PLR0913 - every argument is an option of the command
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Group by this spec key; repeatable [default: assignment]."
        ),
    ] = None,
    sort: Annotated[
        Literal["gap", "ap", "ap_nms"], typer.Option(help="Best group by this mean.")
    ] = "ap",
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples of the images for intervals; 0: none.")
    ] = 1000,
    sweep: SweepOption = None,
    dataset: DatasetOption = None,
    where: WhereOption = None,
    epoch: EpochOption = "last",
    protocol: ProtocolOption = "default",
    branch: BranchOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
) -> None:
    """Groups of trials: means, and differences to the best, with 95 % intervals.

    Intervals are over seeds where there are several, else over images (paired bootstrap).
    """
    from gaplab.cli.resampling import Resampling

    at = _epoch(epoch)
    with Ledger.open(Home(home).ledger_url) as ledger:
        rows = find_rows(
            ledger,
            sweep=sweep,
            dataset=dataset,
            where=where or (),
            epoch=at,
            protocol=protocol,
            branch=branch,
        )
    resampled, keys = Resampling(resamples), by or ["assignment"]
    groups = compare_groups(rows, keys, sort, resampled)
    for problem in resampled.problems():
        sys.stderr.write(f"gaplab: {problem}\n")
    if json:
        _print(to_json(groups))
    else:
        header = [*keys, *COMPARE_COLUMNS]
        table = compare_table(groups, sort, Console().width)
        _print(to_csv(groups, header) if csv else table)


def show(
    name: Annotated[
        str | None,
        typer.Argument(help="Id (or its beginning) of a trial, or a sweep [default: all sweeps]."),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Everything the ledger knows of one trial or sweep, or the list of sweeps."""
    from gaplab.cli.showing import details, details_json, print_details, print_sweeps

    with Ledger.open(Home(home).ledger_url) as ledger:
        found = ledger.sweeps() if name is None else details(ledger, name)
    console = Console(highlight=False, markup=False)
    if json:
        _print(details_json(found))
    elif isinstance(found, list):
        print_sweeps(found, console)
    else:
        print_details(found, console)


def _epoch(text: str) -> Literal["last", "best"] | int:
    if text == "last" or text == "best":
        return text  # type: ignore[return-value]
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UserError(f'--epoch {text}: must be "last", "best" or a number from 1')


def _print(what: str | Table) -> None:
    if isinstance(what, str):
        sys.stdout.write(what.rstrip("\n") + "\n")
    else:
        Console(markup=False).print(what)
