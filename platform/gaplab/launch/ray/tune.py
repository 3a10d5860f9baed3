"""Ray Tune as the scheduler of one sweep. Its own state is disposable: the ledger is the truth."""

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from gaplab.events import from_text, to_text
from gaplab.launch.attempt import LostError, attempt, how_it_died, run_alone
from gaplab.launch.ray.orders import DeskControl
from gaplab.launch.ray.train import run_group
from gaplab.launch.scheduler import Conductor
from gaplab.records import AttemptEnd, Cost, Event, TrialRecord
from gaplab.spec.models import Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage

HEAD = {"node:__internal_head__": 0.001}
"""What the Tune actor of a worker group holds: no CPU, so that it can't starve its own workers."""


class Unsaved:
    """Something of ours inside Tune, which pickles all it has into a state that nobody restores."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Source(Unsaved, Searcher):  # type: ignore[misc]
    """Where Tune gets its next trial from: the conductor.

    given: what every trial's configuration holds beside the trial and its attempt.
    """

    def __init__(self, conductor: Conductor, given: dict[str, Any]) -> None:
        super().__init__()
        self._conductor, self._given = conductor, given

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None to be asked again soon; FINISHED at the end."""
        if self._conductor.over:
            return str(Searcher.FINISHED)
        claimed = self._conductor.next()
        if claimed is None:
            return None
        trial = json.dumps(asdict(claimed.trial))
        return {"trial": trial, "attempt": claimed.attempt, **self._given}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The conductor hears of it through the events."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """True: the conductor knows how many there may be."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing."""

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Over(Unsaved, tune.Stopper):  # type: ignore[misc]
    """Ends the sweep when the conductor says so; trials end by themselves."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never."""
        return False

    def stop_all(self) -> bool:
        """See `tune.Stopper.stop_all`."""
        return self._conductor.stopped is not None and self._conductor.over


def run_with_tune(conductor: Conductor, storage: str, desk: str, judged: bool) -> None:
    """Run what `conductor` gives until it is over, and hand it every event.

    desk: name of the actor that trials listen to; judged: whether a stopping rule is asked.
    """
    # What died, the conductor tells in a line of its own; Tune would print tracebacks.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    source = Source(conductor, {"storage": storage, "desk": desk, "judged": judged})
    # An actor that is just ending may still write there while it is deleted.
    place = tempfile.TemporaryDirectory(prefix="gaplab-tune-", ignore_cleanup_errors=True)
    with place as scratch:
        _tuner(source, conductor, scratch).fit()


def _tuner(source: Source, conductor: Conductor, scratch: str) -> tune.Tuner:
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
            callbacks=[_Listen(conductor)],
            stop=Over(conductor),
            verbose=0,
        ),
    )


def _trainable(config: dict[str, Any]) -> None:
    trial, storage = _trial(config), Storage(config["storage"])
    control = DeskControl(config["desk"], config["attempt"], config["judged"])
    body = run_alone if _need(config).workers == 1 else run_group
    attempt(trial, storage, _report, body, control)
    if control.leaving:  # Tune gives the process of a trial that ends well to the next one
        raise LostError("its machine is about to be taken away")


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


class _Listen(Unsaved, tune.Callback):  # type: ignore[misc]
    """Passes events from Tune's loop, which runs in the driver, to the conductor."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        self._conductor.tick()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        if "event" in result:
            self._conductor.heard(trial.config["attempt"], from_text(result["event"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        if self._conductor.stopped is None:  # else it was Tune that ended it
            end = AttemptEnd(TrialState.FAILED, "its process ended without a word", Cost(), "lost")
            self._conductor.died(trial.config["attempt"], end)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        file = Path(trial.error_file or "")
        error = (file.read_text().strip() if file.is_file() else "") or "no message"
        storage = Storage(trial.config["storage"])
        end = how_it_died(error, _trial(trial.config), storage)
        self._conductor.died(trial.config["attempt"], end)
