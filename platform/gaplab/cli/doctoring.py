"""`gaplab doctor`: what is wrong with this machine and its settings."""

import json as jsonlib
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from gaplab.cli.options import AddressOption, HomeOption, JsonOption
from gaplab.formatting import printable
from gaplab.storage.home import DEFAULT_HOME

PROBLEM = 1


def doctor(
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Check versions, home, ledger, Ray, MLflow and open ports; exit code 1 where one is wrong."""
    from gaplab.cli.doctor import examine

    found = examine(home, address)
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(each) for each in found], indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{printable(str(each))}\n" for each in found)
    raise typer.Exit(PROBLEM if any(each.level == "problem" for each in found) else 0)
