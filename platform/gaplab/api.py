"""Run a sweep from Python: what `gaplab run` does, without a terminal and without MLflow."""

import sys
from collections.abc import Callable

from gaplab.launch import driver
from gaplab.launch.search import with_proposed
from gaplab.ledger import Ledger
from gaplab.ledger.retry import OUTAGE_SECONDS, RetryPolicy
from gaplab.records import Event, SweepRecord
from gaplab.results.opened import open_home
from gaplab.spec.sweep import inspect_data
from gaplab.states import TrialState
from gaplab.storage.home import Home


def run_sweep(
    sweep: SweepRecord,
    home: Home | None = None,
    address: str = "local",
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, TrialState]:
    """Train the unfinished trials of a sweep, each from its last checkpoint.

    The call returns when all trials have ended, or after Ctrl-C or SIGTERM, which it handles (so
    call it from the main thread). Results stay in the ledger, and another call continues. Nothing
    is copied to MLflow: `gaplab mirror` does that. The settings of `sweep` (what is no part of the
    trials' ids, such as resources) replace those that the ledger has for it.

    Args:
        sweep: the sweep, as `expand` returns it.
        home: where results are stored; None: `open_home()`.
        address: the Ray cluster: `local` starts one on this machine; else `auto` or HOST:PORT.
        on_event: called with every event of every attempt; `print` shows them.

    Returns:
        The state of every trial, by id.

    Raises:
        UserError: data can't be used, a trial doesn't fit the cluster or starts from weights that
            don't exist, or the ledger can't be written.

    Examples:
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
        if not sweep.from_ledger and (before := ledger.known_sweep(sweep.id)) is not None:
            sweep = with_proposed(sweep, before, ledger)
        if todo := ledger.unfinished(sweep):
            for note in inspect_data(todo):
                sys.stdout.write(f"{note}\n")
            driver.run_sweep(home, ledger, sweep, address, driver.Listeners([on_event]))
        else:
            ledger.add_sweep(sweep)
        return ledger.states([trial.id for trial in ledger.trials(sweep.id)])
