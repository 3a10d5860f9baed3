"""Open the ledger of a home folder for commands that only read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gaplab.errors import UserError
from gaplab.ledger import Reader
from gaplab.ledger.readonly import OutdatedError
from gaplab.storage.home import Home


@contextmanager
def read_ledger(home: Home) -> Iterator[Reader]:
    """Open the ledger for reading; nothing is created, and no permission to write is needed.

    Raises:
        UserError: there is no ledger, it can't be read, or it has to be upgraded first.
    """
    home.check_ledger()
    try:
        reader = Reader.open(home.ledger_url)
    except OutdatedError as error:
        what = str(error).partition("; ")[0]
        command = home.command("upgrade")
        raise UserError(
            f"{what}; somebody who may write to it upgrades it with: {command}"
        ) from error
    with reader:
        yield reader


@contextmanager
def read_ledger_if_any(home: Home) -> Iterator[Reader]:
    """Open the ledger like `read_ledger`, or an empty one, with a note, if there is none yet.

    For commands that make sense before the first sweep.
    """
    if home.has_ledger:
        with read_ledger(home) as reader:
            yield reader
        return
    if not home.missing:
        home.check()
    sys.stderr.write(f"gaplab: --home {home.path}: no ledger there yet, so no results are known\n")
    with Reader.empty() as reader:
        yield reader
