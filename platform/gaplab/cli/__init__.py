"""The command `gaplab`. Heavy imports wait for the command that needs them."""

import sys

from gaplab.cli.app import app
from gaplab.errors import UserError
from gaplab.formatting import printable


def main() -> None:
    """Run the command line: exit code 0, 1 (something failed), 2 (the input is wrong)."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            sys.stderr.write(f"gaplab: {printable(problem)}\n")
        sys.exit(2)
