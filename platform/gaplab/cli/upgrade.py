"""`gaplab upgrade`: bring a ledger to the schema of this gaplab."""

import sys
from pathlib import Path

from gaplab.cli.options import HomeOption
from gaplab.ledger import Ledger, Reader
from gaplab.ledger.migrate import HEAD
from gaplab.ledger.readonly import OutdatedError
from gaplab.storage.home import DEFAULT_HOME, Home


def upgrade(home: HomeOption = Path(DEFAULT_HOME)) -> None:
    """Upgrade a ledger that an older gaplab has written.

    Commands that only read refuse such a ledger; `run`, `resume`, `cancel` and `reevaluate` upgrade
    it, too. An older gaplab can't use it afterwards.
    """
    folder = Home(home).check_ledger()
    try:
        Reader.open(folder.ledger_url).close()
        done = f"is up to date (version {HEAD})"
    except OutdatedError:
        Ledger.open(folder.ledger_url, create=False).close()
        done = f"upgraded to version {HEAD}"
    sys.stdout.write(f"ledger {done}\n")
