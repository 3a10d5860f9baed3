"""The functions of the public API that need several rooms: open a home folder, run a sweep."""

import os
from collections.abc import Callable
from pathlib import Path

from gaplab.launch import driver
from gaplab.ledger import Ledger
from gaplab.ledger.retry import RetryPolicy
from gaplab.records import Event, SweepRecord
from gaplab.states import TrialState
from gaplab.storage.home import DEFAULT_HOME, Home

OUTAGE_SECONDS = 900.0
"""How long a running sweep waits for a ledger that does not answer."""


def open_home(path: str | os.PathLike[str] | None = None) -> Home:
    """Open the folder that holds the ledger, checkpoints and MLflow's data.

    Args:
        path: the folder, created if it does not exist. None: the environment variable
            GAPLAB_HOME, or else `.gaplab` in the working directory.

    Returns:
        The home folder. `Ledger.open(home.ledger_url)` opens its ledger.

    Raises:
        UserError: the folder can't be created.

    Example:
        >>> import gaplab
        >>> home = gaplab.open_home("results/first")
        >>> home.path.name
        'first'
    """
    return Home(Path(path or os.environ.get("GAPLAB_HOME", DEFAULT_HOME)))


def run_sweep(
    sweep: SweepRecord,
    home: Home | None = None,
    address: str = "local",
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, TrialState]:
    """Train the unfinished trials of a sweep, each from its last checkpoint.

    The call returns when all trials have ended, or after Ctrl-C or SIGTERM. Results stay in the
    ledger, and another call continues. Nothing is copied to MLflow: `gaplab mirror` does that.

    Args:
        sweep: the sweep, as `expand` returns it.
        home: where results are stored; None: `open_home()`.
        address: the Ray cluster: `local` starts one on this machine; else `auto` or HOST:PORT.
        on_event: called with every event of every attempt; `print` shows them.

    Returns:
        The state of every trial, by id.

    Raises:
        UserError: a trial doesn't fit the cluster, starts from weights that don't exist, or the
            ledger can't be written.

    Example:
        >>> import gaplab
        >>> tiny = ["data.train_images=16", "data.val_images=4", "training.epochs=1"]
        >>> tiny += ["grid.assignment=[{name: poto}, {name: center}]"]
        >>> spec = gaplab.load_spec("experiments/quickstart.yaml", overrides=tiny)
        >>> states = gaplab.run_sweep(gaplab.expand(spec))
        >>> [state.value for state in states.values()]
        ['succeeded', 'succeeded']
    """
    home = home or open_home()
    with Ledger.open(home.ledger_url, RetryPolicy(OUTAGE_SECONDS, print)) as ledger:
        if ledger.unfinished(sweep):
            driver.run_sweep(home, ledger, sweep, address, driver.Listeners([on_event]))
        else:
            ledger.add_sweep(sweep)
        return ledger.states([trial.id for trial in ledger.trials(sweep.id)])
