"""Ray Tune as the scheduler of one sweep. Its own state is disposable: the ledger is the truth."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from gaplab.events import from_text, to_text
from gaplab.launch.attempt import attempt, run_alone
from gaplab.launch.group import run_group
from gaplab.launch.recorder import Recorder
from gaplab.records import Event, TrialRecord
from gaplab.spec import Resources
from gaplab.storage import Storage

HEAD = {"node:__internal_head__": 0.001}
"""What the Tune actor of a worker group holds: no CPU, so that it can't starve its own workers."""


class Stop(tune.Stopper):  # type: ignore[misc]
    """Ends the sweep once `requested` is set."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """End the sweep soon."""
        self.requested = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Trials end by themselves."""
        return False

    def stop_all(self) -> bool:
        """See `tune.Stopper.stop_all`."""
        return self.requested


def run_with_tune(
    trials: Sequence[TrialRecord], at_once: int, home: Path, recorder: Recorder, stop: Stop
) -> None:
    """Run `trials`, at most `at_once` side by side, and hand every event to `recorder`.

    Returns when all have ended or `stop` was requested.
    """
    texts = [json.dumps(asdict(trial)) for trial in trials]
    space = {"trial": tune.grid_search(texts), "storage": str(home)}
    with tempfile.TemporaryDirectory(prefix="gaplab-tune-") as scratch:
        _tuner(space, at_once, scratch, [_Listen(recorder)], stop).fit()


def _tuner(
    space: dict[str, Any], at_once: int, scratch: str, callbacks: list[tune.Callback], stop: Stop
) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(_trainable, _resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=scratch, callbacks=callbacks, stop=stop, verbose=0
        ),
    )


def _trainable(config: dict[str, Any]) -> None:
    trial, storage = TrialRecord(**json.loads(config["trial"])), Storage(config["storage"])
    body = run_alone if _need(config).workers == 1 else run_group
    attempt(trial, storage, _report, body)


def _report(event: Event) -> None:
    tune.report({"event": to_text(event)})


def _need(config: dict[str, Any]) -> Resources:
    return Resources.model_validate(json.loads(config["trial"])["config"]["resources"])


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    need = _need(config)
    if need.workers > 1:
        return tune.PlacementGroupFactory([HEAD])
    own = {"CPU": float(need.cpus_per_worker), "GPU": need.gpus_per_worker}
    return tune.PlacementGroupFactory([{name: n for name, n in own.items() if n}])


def _name(trial: Any) -> str:
    return str(json.loads(trial.config["trial"])["id"])


class _Listen(tune.Callback):  # type: ignore[misc]
    """Passes events from Tune's loop, which runs in the driver, to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a state that is never restored."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        if "event" in result:
            self._recorder.handle(from_text(result["event"]))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        error = (trial.error_file and Path(trial.error_file).read_text().strip()) or "no message"
        self._recorder.lost(_name(trial), f"its process died: {error.splitlines()[-1]}")
