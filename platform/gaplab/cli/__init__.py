"""The command `gaplab`."""

import sys

from gaplab.cli.app import app
from gaplab.errors import UserError
from gaplab.formatting import printable


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 on success, 1 if something failed, 2 if the input is wrong, and 128 plus the
    number of a signal that stopped a sweep.
    """
    try:
        app(prog_name="gaplab")
    except UserError as error:
        for problem in error.problems:
            sys.stderr.write(f"gaplab: {printable(problem)}\n")
        sys.exit(2)
