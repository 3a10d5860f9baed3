"""`gaplab report`: pictures and tables of a sweep or of some trials as one HTML file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gaplab.cli.opening import read_ledger
from gaplab.cli.options import HomeOption
from gaplab.cli.render.progress import progress_line
from gaplab.errors import UserError
from gaplab.formatting import printable
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SWEEP|TRIALS...", help="A sweep, or trials [default: the newest sweep]."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write [default: reports/SWEEP.html in the home folder].",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Protocol under which the gap was measured [default: the trials' own]."),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Write a report with pictures: one HTML file for a browser.

    It needs no network and no other file. A report of a sweep in the home folder is also copied to
    MLflow, by `gaplab mirror` and `gaplab ui`.
    """
    from gaplab.results.report.evidence import gather
    from gaplab.results.report.write import page

    folder = Home(home)
    if output is not None and output.is_dir():
        raise UserError(f"-o {output}: is a folder; give the name of a file, such as report.html")
    with read_ledger(folder) as ledger, progress_line("reading the ledger") as show:
        chosen = names or [ledger.stored_sweep().id]
        evidence = gather(ledger, folder, chosen, protocol)
        content = page(evidence, lambda title: show(f"report: {title}"))
    path = Path(os.path.abspath(output or folder.report_path(evidence.identity)))
    Storage(str(path.parent)).save_text(path.name, content)
    sys.stdout.write(f"{printable(str(path))}\n")
