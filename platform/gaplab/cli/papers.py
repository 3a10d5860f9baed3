"""`gaplab table`: a paper's table beside our own."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gaplab.cli.options import HomeOption, JsonOption, ProfileOption, SetOption, SpecArgument
from gaplab.cli.results import CsvOption
from gaplab.storage.home import DEFAULT_HOME, Home


def table(  # noqa: PLR0913 - every argument is an option of the command
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    paper: Annotated[
        Path | None,
        typer.Option(
            help="The paper's numbers [default: paper_results.json beside the spec or above]."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this metric too, such as mmr; repeatable."),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A Markdown table on standard output.")
    ] = False,
) -> None:
    """One line a row of a spec: AP without NMS, with NMS and the gap, beside the paper's own."""
    from gaplab.cli.papertable import Asked, make_table, notes, text_table, to_text

    asked = Asked(spec, profile, tuple(overrides or ()), tuple(dict.fromkeys(metric or ())))
    made = make_table(asked, paper, Home(home))
    form: Literal["json", "csv", "markdown"] | None
    form = "json" if json else "csv" if csv else "markdown" if markdown else None
    if form is None:
        console = Console(markup=False)
        console.print(text_table(made, console.width), crop=False)
    else:
        sys.stdout.write(to_text(made, form))
    for note in notes(made, asked, Home(home)):
        (sys.stderr if form else sys.stdout).write(f"{note}\n")
