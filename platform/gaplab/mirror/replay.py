"""MLflow as a mirror of the ledger, for its pages: nothing is read from it but what it lacks.

One experiment for the sweeps of one name; in it a run for each sweep, the parent of a run for each
of its trials that was ever started. The only importer of mlflow, which takes seconds to import:
it is imported on first use.
"""

import logging
import os
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from queue import SimpleQueue
from types import ModuleType

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import SweepView
from gaplab.mirror.content import VIEW, of_sweep, of_trial
from gaplab.mirror.database import broken, environment, turn
from gaplab.mirror.runs import Runs
from gaplab.records import EpochDone, Event
from gaplab.storage.home import Home

_PAUSE = 2.0  # seconds between two replays of the thread


class Mirror:
    """Writes what MLflow lacks. Remembers what it has written, so repeated replays are cheap.

    Mirrors of one home take turns, also those of other processes. Not to be shared by threads.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._experiments: dict[str, Runs] = {}

    def replay(self, ledger: Ledger, sweep: str, only: Collection[str] | None = None) -> int:
        """Make MLflow equal to the ledger for the sweep of this id; how many things were written.

        Safe to repeat, also after one that was killed: no run is made and no metric logged twice.
        With `only`, those of its trials alone are looked at, and the sweep's own run is left as is.
        Raises UserError for an unknown sweep, and when MLflow or its database fails.
        """
        view = ledger.sweep(sweep)
        with self._turn(view.id) as mlflow:
            return self._sweep(ledger, view, self._runs(mlflow, view.name), only)

    def link(self, base_url: str, sweep_name: str | None) -> str:
        """Where a browser shows the runs of the sweeps of this name; all experiments for None.

        base_url: of a running server. Raises UserError when MLflow or its database fails.
        """
        found = self.experiment_id(sweep_name) if sweep_name else None
        if found is None:
            return f"{base_url}/#/experiments"
        query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
        return f"{base_url}/#/experiments/{found}/runs?{query}"

    def experiment_id(self, name: str) -> str | None:
        """MLflow's id of the experiment that holds the sweeps called `name`, if it has one."""
        uri = self._home.mlflow_uri
        with self._turn(name) as mlflow:
            found = mlflow.MlflowClient(uri, uri).get_experiment_by_name(name)
        return None if found is None else str(found.experiment_id)

    def _runs(self, mlflow: ModuleType, name: str) -> Runs:
        if name not in self._experiments:
            place = self._home.mlflow_artifacts / name
            if name == ".." or place.parent != self._home.mlflow_artifacts:
                raise UserError(f"sweep {name!r}: leads out of the home folder; rename it")
            self._experiments[name] = Runs(mlflow, self._home.mlflow_uri, name, place)
        return self._experiments[name]

    def _sweep(
        self, ledger: Ledger, view: SweepView, runs: Runs, only: Collection[str] | None
    ) -> int:
        parent, written = runs.ensure(of_sweep(view, view.created_at))
        ended = view.created_at
        for trial in ledger.trials(view.id):
            attempts = ledger.attempts(trial.id) if only is None or trial.id in only else []
            if not attempts:
                continue
            content = of_trial(view.id, trial, attempts, ledger.evaluations(trial.id))
            tags = content.tags | {"mlflow.parentRunId": parent}
            written += runs.write(replace(content, tags=tags))
            ended = max(ended, attempts[-1].ended_at or ended)
        if only is None:
            written += runs.write(of_sweep(view, ended))
        return written

    @contextmanager
    def _turn(self, sweep: str) -> Iterator[ModuleType]:
        """MLflow, for this process alone; after a failure forget what it held and say how to go on.

        sweep: what a person would replay later.
        """
        mlflow = _mlflow()
        try:
            with turn(self._home, sweep):
                yield mlflow
        except BaseException as error:
            self._experiments.clear()
            if isinstance(error, mlflow.exceptions.MlflowException | OSError):
                raise broken(self._home, str(error), sweep) from error
            raise


class MirrorThread:
    """Mirrors one sweep while its driver runs, in a thread that disturbs nobody.

    Whatever goes wrong is kept for `close`; the process's end waits for it no longer than that.
    """

    def __init__(self, home: Home, sweep: str) -> None:
        self._home, self._sweep = home, sweep
        self._changed: SimpleQueue[str] = SimpleQueue()
        self._closing = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)

    def notify(self, event: Event) -> None:
        """Listen to an event; returns at once. Events come from one thread, which also closes."""
        if isinstance(event, EpochDone) and not event.evaluations:
            return
        self._changed.put(event.trial)
        self._start()

    def close(self, patience: float = 60.0) -> str | None:
        """Wait up to `patience` seconds for a last replay; in one line what kept MLflow behind."""
        self._closing.set()
        self._changed.put("")
        self._start()
        self._thread.join(patience)
        if self._thread.is_alive():
            again = self._home.command("mirror", self._sweep)
            return f"MLflow was not up to date after {patience:g} s; try `{again}` later"
        return self._problem

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _work(self) -> None:
        try:
            with Ledger.open(self._home.ledger_url) as ledger:
                self._follow(Mirror(self._home), ledger)
        except Exception as error:  # the sweep goes on without its mirror
            self._keep(error)

    def _follow(self, mirror: Mirror, ledger: Ledger) -> None:
        only: Collection[str] | None = None
        while not self._closing.is_set():
            self._replay(mirror, ledger, only)
            only = {self._changed.get()}
            self._closing.wait(_PAUSE)
            while not self._changed.empty():
                only.add(self._changed.get())
        self._replay(mirror, ledger, None)

    def _replay(self, mirror: Mirror, ledger: Ledger, only: Collection[str] | None) -> None:
        try:
            mirror.replay(ledger, self._sweep, only)
            self._problem = None
        except Exception as error:  # the next replay may do better
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        if isinstance(error, UserError):
            self._problem = str(error)
            return
        why = f"{type(error).__name__}: {error}"
        self._problem = str(broken(self._home, why, self._sweep))


@cache
def _mlflow() -> ModuleType:
    """MLflow with its log silenced and, if nobody else here uses it, without a person's settings.

    Those are meant for other servers; some can't be overruled by what a client is told.
    """
    if "mlflow" not in sys.modules:
        own = environment()
        for name in os.environ.keys() - own.keys():
            del os.environ[name]
        os.environ.update(own)
    import mlflow.exceptions  # noqa: F401  (and `mlflow` with it)

    logging.getLogger("mlflow").setLevel(logging.CRITICAL + 1)
    return sys.modules["mlflow"]
