"""Options that several commands share, and how they are read."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from gaplab.errors import UserError

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
RerunOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rerun",
        metavar="TRIAL",
        help="Train a finished trial once more, or `all` of the sweep; repeatable. What it gave "
        "before moves to the home folder's trials/TRIAL/replaced.",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(help='Ray cluster to use: "local" starts one here; else "auto" or HOST:PORT.'),
]


def image_size(text: str) -> tuple[int, int]:
    """Height and width from `800x1280`. Raises UserError."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise UserError(f"--size {text}: not height x width in pixels; write it as 800x1280")
    return int(found[1]), int(found[2])


def cores() -> int:
    """CPU cores of this process."""
    return len(os.sched_getaffinity(0))
