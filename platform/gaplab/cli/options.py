"""Options that several commands share, and how they are read."""

import os
from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", envvar="GAPLAB_HOME", help="Folder of ledger, checkpoints and MLflow data."
    ),
]
SpecArgument = Annotated[Path, typer.Argument(help="The spec, a YAML file.")]
ProfileOption = Annotated[
    str | None, typer.Option(help="Profile of the spec to lay over it [default: laptop].")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a dotted key of the spec; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
AddressOption = Annotated[
    str,
    typer.Option(help='Ray cluster to use: "local" starts one here; else "auto" or HOST:PORT.'),
]


def cores() -> int:
    """CPU cores of this process."""
    return len(os.sched_getaffinity(0))
