"""`gaplab.open_home`: a home folder whose results are read from Python."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gaplab.ledger import Reader
from gaplab.storage.home import Home, check_is_path, default_path

if TYPE_CHECKING:
    from gaplab.results.trained import StoredTrial


class OpenHome(Home):
    """A home folder and what its ledger and its files answer. See `Home` for paths and URLs."""

    def trial(self, name: str) -> "StoredTrial":
        """Return a trial, for example to use its detector.

        Args:
            name: the id of the trial, or its beginning.

        Raises:
            UserError: there is no ledger, or no such trial.
        """
        from gaplab.results.trained import StoredTrial  # imports torch

        with self.reader() as reader:
            return StoredTrial(reader.find_trial(name), self)

    def reader(self) -> Reader:
        """Open the ledger for reading, as a context manager. Raises UserError."""
        return Reader.open(self.check_ledger().ledger_url)


def open_home(path: str | os.PathLike[str] | None = None, create: bool = True) -> OpenHome:
    """Open the folder that holds the ledger, checkpoints and MLflow's data.

    Args:
        path: the folder. None: the environment variable GAPLAB_HOME, or else `.gaplab` in the
            working directory.
        create: whether to create the folder if it does not exist.

    Returns:
        The home folder. `Ledger.open(home.ledger_url)` opens its ledger, `home.trial(id)` finds
        one of its trials.

    Raises:
        UserError: the folder can't be created or read; or, without `create`, it holds no ledger.

    Examples:
        >>> import gaplab
        >>> home = gaplab.open_home("results/first")
        >>> home.path.name
        'first'
    """
    if path is not None:
        check_is_path(os.fspath(path))
    home = OpenHome(default_path() if path is None else Path(path))
    if not create:
        return home.check_ledger()
    return home.create() if home.missing else home.check()
