"""`gaplab export`: the ledger as files for pandas, polars, DuckDB and the like."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gaplab.cli.options import HomeOption
from gaplab.ledger import Ledger
from gaplab.storage.home import DEFAULT_HOME, Home


def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; created if need be.")],
    sweep: Annotated[str | None, typer.Option(help="Only this sweep (id or name).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Write trials, evaluations and AP by class as Parquet files, for your own tools."""
    from gaplab.results.export import export

    with Ledger.open(Home(home).ledger_url) as ledger:
        for path, rows in export(ledger, folder, sweep, force).items():
            sys.stdout.write(f"{path}: {rows} rows\n")
