"""Copy the ledger to MLflow, whose pages show it. Nothing is read back but what MLflow lacks.

Sweeps of one name share an experiment. In it each sweep has a run, which is the parent of a run
per trial that was ever started. This is the only module that imports mlflow; it does so on first
use, because the import takes seconds.
"""

import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from queue import SimpleQueue
from types import ModuleType

from gaplab.errors import UserError
from gaplab.ledger import Reader
from gaplab.ledger.views import MeasurementView, SweepView
from gaplab.mirror.content import (
    MEASURED,
    keys_of,
    measurement_content,
    shared_view,
    sweep_content,
    trial_content,
)
from gaplab.mirror.database import exclusive_access, mirror_error
from gaplab.mirror.environment import OWN_SETTINGS, settings_of_mlflow
from gaplab.mirror.runs import Runs
from gaplab.records import EpochDone, Event
from gaplab.storage.home import Home

_PAUSE = 2.0  # seconds between two replays of the thread


class Mirror:
    """Writes to MLflow what it lacks of the ledger.

    Remembers what it has written, so repeated replays are cheap. Mirrors of one home, also in
    other processes, wait for each other. A Mirror must not be shared by threads.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._experiments: dict[str, Runs] = {}

    def replay(self, ledger: Reader, sweep: str, only: Collection[str] | None = None) -> int:
        """Make MLflow equal to the ledger for one sweep.

        May be repeated, also after a replay that was killed: no run is created and no metric is
        logged twice.

        Args:
            ledger: an open ledger.
            sweep: the id of the sweep.
            only: the only trials to look at; the sweep's own run is then left as it is. None: all.

        Returns:
            The number of items (runs, tags, params, metrics, files, ends) that were written.

        Raises:
            UserError: the sweep is unknown, or MLflow or its database fails.
        """
        view = ledger.sweep(sweep)
        with self._access(view.id) as mlflow:
            return self._replay_sweep(ledger, view, self._runs(mlflow, view.name), only)

    def replay_measurements(self, ledger: Reader) -> int:
        """Make MLflow equal to the ledger for measurements: one run for each set of detections.

        Returns:
            The number of items that were written.

        Raises:
            UserError: MLflow or its database fails.
        """
        found = defaultdict[str, list[MeasurementView]](list)
        for each in ledger.measurements():
            found[each.id].append(each)
        if not found:
            return 0
        with self._access(MEASURED) as mlflow:
            runs = self._runs(mlflow, MEASURED)
            return sum(runs.write(measurement_content(views)) for views in found.values())

    def link(self, base_url: str, sweep: SweepView | None) -> str:
        """Return the URL of the page with the runs of a sweep, its varied keys and results.

        Args:
            base_url: the URL of a running server.
            sweep: the sweep; None, or a sweep that is not in MLflow yet: all experiments.

        Raises:
            UserError: MLflow or its database fails.
        """
        found = self.experiment_id(sweep.name) if sweep else None
        if sweep is None or found is None:
            return f"{base_url}/#/experiments"
        query = f"workflowType=machine_learning&viewStateShareKey={sweep.id}"
        return f"{base_url}/#/experiments/{found}/runs?{query}"

    def experiment_id(self, name: str) -> str | None:
        """Return MLflow's id of the experiment for the sweeps called `name`; None without one."""
        uri = self._home.mlflow_uri
        with self._access(name) as mlflow:
            found = mlflow.MlflowClient(uri, uri).get_experiment_by_name(name)
        return None if found is None else str(found.experiment_id)

    def _runs(self, mlflow: ModuleType, name: str) -> Runs:
        """Return the runs of an experiment, opened on first use."""
        if name not in self._experiments:
            folder = self._home.mlflow_artifacts / name
            if name == ".." or folder.parent != self._home.mlflow_artifacts:
                raise UserError(f"sweep {name!r}: leads out of the home folder; rename it")
            self._experiments[name] = Runs(mlflow, self._home.mlflow_uri, name, folder)
        return self._experiments[name]

    def _replay_sweep(
        self, ledger: Reader, view: SweepView, runs: Runs, only: Collection[str] | None
    ) -> int:
        parent, written = runs.ensure(sweep_content(view, view.created_at))
        ended, varied = view.created_at, keys_of(view)
        written += runs.set_view(view.id, shared_view(view.id, varied))
        for trial in ledger.trials(view.id):
            attempts = ledger.attempts(trial.id) if only is None or trial.id in only else []
            if not attempts:
                continue
            measured = ledger.evaluations(trial.id), list(ledger.all_losses(trial=trial.id))
            content = trial_content(view.id, trial, attempts, *measured, varied)
            tags = content.tags | {"mlflow.parentRunId": parent}
            written += runs.write(replace(content, tags=tags))
            ended = max(ended, attempts[-1].ended_at or ended)
        if only is None:
            content = sweep_content(view, ended)
            files = content.files | self._report(view.id)
            written += runs.write(replace(content, files=files))
        return written

    def _report(self, sweep: str) -> dict[str, str]:
        """Return the report of a sweep as a file of its run; empty if there is none."""
        path = self._home.report_path(sweep)
        return {"report.html": path.read_text(encoding="utf-8")} if path.is_file() else {}

    @contextmanager
    def _access(self, sweep: str) -> Iterator[ModuleType]:
        """Yield MLflow while no other process writes to the database.

        After a failure, forget what was written, and name `sweep` in the command to run later.
        """
        with _silent_mlflow() as mlflow:
            try:
                with exclusive_access(self._home, sweep):
                    yield mlflow
            except BaseException as error:
                self._experiments.clear()
                if isinstance(error, mlflow.exceptions.MlflowException | OSError):
                    raise mirror_error(self._home, str(error), sweep) from error
                raise


class MirrorThread:
    """Replays a running sweep into MLflow in a thread, so that a slow MLflow delays nobody.

    The thread starts with the first event. An error is kept for `close`.
    """

    def __init__(self, home: Home, sweep: str) -> None:
        self._home, self._sweep = home, sweep
        self._changed: SimpleQueue[str] = SimpleQueue()
        self._closing = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)

    def notify(self, event: Event) -> None:
        """Handle an event of a trial; returns at once.

        Must be called from one thread, the one that calls `close`.
        """
        if isinstance(event, EpochDone) and not event.evaluations:
            return
        self._changed.put(event.trial)
        self._start()

    def close(self, timeout: float = 60.0) -> str | None:
        """Wait up to `timeout` seconds for a last replay of everything.

        Returns:
            One line that says why MLflow is not up to date; None if it is.
        """
        self._closing.set()
        self._changed.put("")  # no trial: only wakes the thread up
        self._start()
        self._thread.join(timeout)
        if self._thread.is_alive():
            command = self._home.command("mirror", self._sweep)
            return f"MLflow was not up to date after {timeout:g} s; run `{command}` later"
        return self._problem

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _run(self) -> None:
        try:
            with Reader.open(self._home.ledger_url) as ledger:
                self._replay_changes(Mirror(self._home), ledger)
        except Exception as error:  # the sweep goes on without its mirror
            self._store_problem(error)

    def _replay_changes(self, mirror: Mirror, ledger: Reader) -> None:
        only: Collection[str] | None = None
        while not self._closing.is_set():
            self._replay(mirror, ledger, only)
            only = {self._changed.get()}
            self._closing.wait(_PAUSE)
            while not self._changed.empty():
                only.add(self._changed.get())
        self._replay(mirror, ledger, None)

    def _replay(self, mirror: Mirror, ledger: Reader, only: Collection[str] | None) -> None:
        try:
            mirror.replay(ledger, self._sweep, only)
            self._problem = None
        except Exception as error:  # the next replay may succeed
            self._store_problem(error)

    def _store_problem(self, error: Exception) -> None:
        if isinstance(error, UserError):
            self._problem = str(error)
            return
        why = f"{type(error).__name__}: {error}"
        self._problem = str(mirror_error(self._home, why, self._sweep))


@contextmanager
def _silent_mlflow() -> Iterator[ModuleType]:
    """Yield MLflow with its log silenced and without a person's settings, and restore both."""
    mlflow = _import_mlflow()
    logger = logging.getLogger("mlflow")
    level = logger.level
    with settings_of_mlflow({}):
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield mlflow
        finally:
            logger.setLevel(level)


def _import_mlflow() -> ModuleType:
    """Import MLflow. On import it decides whether it sends telemetry from this process."""
    imported = "mlflow" in sys.modules  # or another thread is importing it: then wait for it
    with nullcontext() if imported else settings_of_mlflow(OWN_SETTINGS):
        import mlflow  # noqa: F401
    return sys.modules["mlflow"]
