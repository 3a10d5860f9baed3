"""The command `gaplab`."""

import atexit
import gc
import sys

from gaplab.cli.app import app
from gaplab.cli.streams import OutputError, standard_streams
from gaplab.errors import UserError
from gaplab.formatting import printable

COLLECT_AFTER = 100_000
"""New objects after which Python looks for garbage. With its default of 700, a third of the time
that it takes to import PyTorch or to expand a large spec goes into searching."""


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 on success, 1 if something failed or the output could not be written, 2 if
    the input is wrong, and 128 plus the number of a signal that stopped a sweep; for a closed pipe
    that of SIGPIPE.
    """
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)  # or Python searches all objects of PyTorch once more
    with standard_streams() as output_code:
        code = _run()
    sys.exit(code or output_code())


def _run() -> str | int | None:
    """Run the command line and return the exit code, apart from failures of standard output."""
    try:
        app(prog_name="gaplab")
    except UserError as error:
        for problem in error.problems:
            sys.stderr.write(f"gaplab: {printable(problem)}\n")
        return 2
    except SystemExit as stop:
        return stop.code
    except OutputError:
        pass  # `standard_streams` has the exit code
    return None
