"""`gaplab doctor`: run every check and print the findings."""

import json as jsonlib
import os
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from gaplab.cli.doctor.files import check_files, inspect_files
from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.home import check_home, inspect_home
from gaplab.cli.doctor.ledger import check_ledger
from gaplab.cli.doctor.machine import check_machine, inspect_machine
from gaplab.cli.doctor.mlflow import check_mlflow
from gaplab.cli.doctor.network import check_ports, listeners
from gaplab.cli.doctor.packages import check_packages, installed
from gaplab.cli.doctor.ray import check_access, inspect_access
from gaplab.cli.options import AddressOption, HomeOption, JsonOption
from gaplab.formatting import printable
from gaplab.storage.home import DEFAULT_HOME, Home

PROBLEM = 1
"""Exit code when at least one finding is a problem."""


def doctor(
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Check versions, home, ledger, Ray, MLflow and open ports.

    Nothing is changed. The exit code is 1 if there is a problem.
    """
    found = examine(home, address)
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(each) for each in found], indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{printable(str(each))}\n" for each in found)
    raise typer.Exit(PROBLEM if any(each.level == "problem" for each in found) else 0)


def examine(home: Path, address: str) -> list[Finding]:
    """Run every check on this machine.

    Args:
        home: The home folder, which need not exist.
        address: A Ray address as `gaplab run --address` takes it.
    """
    named = Home(home)
    return [
        *check_machine(inspect_machine()),
        *check_packages(installed()),
        *check_home(inspect_home(named)),
        *check_ledger(named),
        *check_files(inspect_files(named)),
        *check_access(inspect_access(address, os.environ)),
        *check_ports(listeners()),
        *check_mlflow(os.environ, named.mlflow_uri),
    ]
