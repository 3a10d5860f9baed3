"""`gaplab.open_home`: a home folder whose results are read from Python."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from gaplab.ledger import Reader
from gaplab.storage.home import Home, check_is_path, default_path

if TYPE_CHECKING:
    from gaplab.results.comparison.leaderboard import Query
    from gaplab.results.use.trained import StoredTrial
    from gaplab.storage.parquet import Table


class OpenHome(Home):
    """A home folder and what its ledger and its files answer. See `Home` for paths and URLs."""

    def trial(self, name: str) -> "StoredTrial":
        """Return a trial, for example to use its detector.

        Args:
            name: the id of the trial, or its beginning.

        Raises:
            UserError: there is no ledger, or no such trial.
        """
        from gaplab.results.use.trained import StoredTrial  # imports torch

        with self.reader() as reader:
            return StoredTrial(reader.find_trial(name), self)

    def trials(self, sweep: str | None = None) -> "Table":
        """Return every trial as an Arrow table, with a column `config.KEY` per key of the spec.

        `to_pandas()` converts the table, as `polars.from_arrow` does.

        Args:
            sweep: id or name of a sweep, for its trials only.

        Raises:
            UserError: there is no ledger, or no such sweep.
        """
        from gaplab.results.export import trials_table  # imports NumPy and PyArrow

        with self.reader() as reader:
            return trials_table(reader, sweep)

    def evaluations(self, sweep: str | None = None, truth: str | None = "") -> "Table":
        """Return every evaluation as an Arrow table: one row per epoch, branch and protocol.

        Metrics are percent points. Args and errors as for `trials`.

        Args:
            sweep: id or name of a sweep, for evaluations of its trials only.
            truth: digest of the ground truth, empty for the trials' own data; None: any.
        """
        from gaplab.results.export import evaluations_table

        with self.reader() as reader:
            return evaluations_table(reader, sweep, truth)

    def leaderboard(self, columns: Sequence[str] = (), **query: "Unpack[Query]") -> "Table":
        """Return a leaderboard as an Arrow table: one row per trial, highest AP first.

        Besides the metrics, it has a column for each key of the spec in which the trials differ.

        Args:
            columns: names of further columns, as for `gaplab leaderboard --metric`.
            query: as for `gaplab.leaderboard`, such as `where="alpha == 0.5 and ap > 35", top=20`.

        Raises:
            UserError: as for `gaplab.leaderboard`.

        Examples:
            After `gaplab run experiments/quickstart.yaml`, or the example of `gaplab.run_sweep`:

            >>> import gaplab
            >>> table = gaplab.open_home().leaderboard(sweep="quickstart", where="seed == 0")
            >>> table.num_rows
            2
        """
        from gaplab.results.comparison.columns import with_columns
        from gaplab.results.comparison.leaderboard import board, plain_row
        from gaplab.storage.parquet import plain_table

        with self.reader() as reader:
            found = board(reader, **query)
            rows = with_columns(reader, found.rows, columns, found.wanted)
        return plain_table([plain_row(row, found.varied) for row in rows])

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
