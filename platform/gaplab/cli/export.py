"""`gaplab export`: the ledger as Parquet files for pandas, polars, DuckDB and other tools."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gaplab.cli.opening import read_ledger
from gaplab.cli.options import HomeOption
from gaplab.formatting import plural
from gaplab.results.export import export as write_files
from gaplab.storage.home import DEFAULT_HOME, Home


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write to; created if missing.")
    ],
    sweep: Annotated[str | None, typer.Option(help="Only this sweep (id or name).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Write all results of the ledger as Parquet files.

    AP per class is in a file of its own.
    """
    with read_ledger(Home(home)) as ledger:
        for path, rows in write_files(ledger, folder, sweep, force).items():
            sys.stdout.write(f"{path}: {plural(rows, 'row')}\n")
