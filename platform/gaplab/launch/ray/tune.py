"""Ray Tune as the executor of one sweep: it starts what the scheduler gives it, and passes events.

Tune's own state is disposable, since the ledger holds the results: nothing of it is restored.
"""

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from gaplab.events import from_text, to_text
from gaplab.launch.attempt import LostError, end_of_dead_process, run_attempt, run_in_process
from gaplab.launch.ray.orders import OrdersControl
from gaplab.launch.ray.private import HEAD_RESOURCE, log_level
from gaplab.launch.ray.train import run_group
from gaplab.launch.scheduler import LEAVING, Scheduler
from gaplab.records import AttemptEnd, Cost, Event, TrialRecord
from gaplab.spec.models import Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage

HEAD = {HEAD_RESOURCE: 0.001}
"""Resources of the Tune actor of a worker group: no CPU, so that its workers can always start."""


def run_with_tune(scheduler: Scheduler, storage: str, board: str, judged: bool) -> None:
    """Start the trials of `scheduler` until it has finished, and pass it every event.

    Args:
        scheduler: gives the trials.
        storage: path or URI of the home folder.
        board: name of the order board's actor.
        judged: whether the sweep has a stopping rule.
    """
    source = _TrialSource(scheduler, {"storage": storage, "board": board, "judged": judged})
    # An actor that is just ending may still write into the folder while it is deleted.
    folder = tempfile.TemporaryDirectory(prefix="gaplab-tune-", ignore_cleanup_errors=True)
    # Tune would print tracebacks of attempts that died; the scheduler reports them in one line.
    with folder as scratch, log_level(logging.CRITICAL, "ray.tune"):
        _tuner(source, scheduler, scratch).fit()


def _tuner(source: "_TrialSource", scheduler: Scheduler, scratch: str) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(_trainable, _resources),
        tune_config=tune.TuneConfig(
            search_alg=source,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            callbacks=[_EventListener(scheduler)],
            stop=_SchedulerStopper(scheduler),
            verbose=0,
        ),
    )


class _Stateless:
    """Base of our objects inside Tune, which pickles them into a state that is never restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _TrialSource(_Stateless, Searcher):  # type: ignore[misc]
    """Gives Tune the trials of the scheduler one by one.

    Args:
        scheduler: claims the trials.
        shared: what the configuration of every trial holds beside the trial and its attempt.
    """

    def __init__(self, scheduler: Scheduler, shared: dict[str, Any]) -> None:
        super().__init__()
        self._scheduler, self._shared = scheduler, shared

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, None to be asked again soon, or FINISHED at the end."""
        if self._scheduler.finished:
            return str(Searcher.FINISHED)
        claimed = self._scheduler.next_trial()
        if claimed is None:
            return None
        trial = json.dumps(asdict(claimed.trial))
        return {"trial": trial, "attempt": claimed.attempt, **self._shared}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler receives events."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Return True: the scheduler limits how many trials run at once."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger holds the results."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing."""

    def get_state(self) -> dict[str, Any]:
        """Return no state."""
        return {}


class _SchedulerStopper(_Stateless, tune.Stopper):  # type: ignore[misc]
    """Ends Tune when a stopped sweep has finished; single trials end by themselves."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._scheduler.stopped is not None and self._scheduler.finished


class _EventListener(_Stateless, tune.Callback):  # type: ignore[misc]
    """Passes events from Tune's loop, which runs in the driver, to the scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        self._scheduler.tick()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        if "event" in result:
            self._scheduler.handle(trial.config["attempt"], from_text(result["event"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        if self._scheduler.stopped is None:  # else it was Tune that ended the process
            reason = "its process ended without reporting a result"
            end = AttemptEnd(TrialState.FAILED, reason, Cost(), "lost")
            self._scheduler.handle_death(trial.config["attempt"], end)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        file = Path(trial.error_file or "")
        error = (file.read_text().strip() if file.is_file() else "") or "no message"
        storage = Storage(trial.config["storage"])
        end = end_of_dead_process(error, _trial(trial.config), storage)
        self._scheduler.handle_death(trial.config["attempt"], end)


def _trainable(config: dict[str, Any]) -> None:
    trial, storage = _trial(config), Storage(config["storage"])
    control = OrdersControl(config["board"], config["attempt"], config["judged"])
    body = run_in_process if _need(config).workers == 1 else run_group
    run_attempt(trial, storage, _report, body, control)
    if control.leaving:  # else Tune would give this process, on a node that leaves, another trial
        raise LostError(LEAVING.reason)


def _report(event: Event) -> None:
    tune.report({"event": to_text(event)})


def _trial(config: dict[str, Any]) -> TrialRecord:
    return TrialRecord(**json.loads(config["trial"]))


def _need(config: dict[str, Any]) -> Resources:
    return Resources.model_validate(_trial(config).config["resources"])


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    need = _need(config)
    if need.workers > 1:
        return tune.PlacementGroupFactory([HEAD])
    own = {"CPU": float(need.cpus_per_worker), "GPU": need.gpus_per_worker}
    return tune.PlacementGroupFactory([{name: n for name, n in own.items() if n}])


def _name(trial: Any) -> str:
    return f"{_trial(trial.config).id}-{trial.config['attempt']}"
