"""A trial on several workers: the same `run_trial`, in a Ray Train worker group."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback

from detectors.world import TorchWorld, distributed
from gaplab.events import to_text
from gaplab.launch.attempt import Emit, LostError, describe_machine, fault_of
from gaplab.records import Event, TrialRecord
from gaplab.spec.models import Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import Control, Stop, Stopped
from gaplab.trial.run import TrialContext, final_event, run_trial
from gaplab.trial.watchdog import watch


def run_group(trial: TrialRecord, storage: Storage, emit: Emit, control: Control) -> None:
    """Run a trial with several workers, inside a Tune session. A `Body`, see `launch.attempt`.

    The events of rank 0 travel through Train to Tune. Train may lose the last one, so the final
    event is read from the last checkpoint and emitted once more.

    Raises:
        Stopped: after an order to stop, and if a machine of the group was taken away.
        LostError: if a worker died.
        Exception: the error of a worker.
    """
    try:
        result = _trainer(trial, storage, control).fit()
    except ray.train.PreemptionError as error:
        raise Stopped(
            Stop(TrialState.PREEMPTED, "a machine of its group was taken away"), None
        ) from error
    except ray.train.WorkerGroupError as error:
        raise find_cause(error.worker_failures.values()) from error
    if result.return_value is not None:
        raise result.return_value
    emit(final_event(trial, storage))


def _trainer(trial: TrialRecord, storage: Storage, control: Control) -> TorchTrainer:
    need = Resources.model_validate(trial.config["resources"])
    config = {"trial": json.dumps(asdict(trial)), "storage": storage.uri, "control": control}
    return TorchTrainer(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if need.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=need.workers,
            use_gpu=need.gpus_per_worker > 0,
            resources_per_worker=_per_worker(need),
        ),
        run_config=ray.train.RunConfig(
            name=f"{trial.id}-{secrets.token_hex(4)}",  # a name used twice resumes the earlier run
            storage_path=f"{storage.uri}/ray/train",
            callbacks=[TuneReportCallback()],
            # The driver decides about another attempt, not Train.
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )


def find_cause(failures: Iterable[Exception]) -> Exception:
    """Return the failure of a worker that explains why its group failed.

    That is an error with a known fault, else the death of a worker, else any other error, which may
    only be a consequence of a death.
    """
    errors = list(failures)
    known = [each for each in errors if fault_of(each) != "error"]
    deaths = [LostError(str(each)) for each in errors if type(each).__module__.startswith("ray.")]
    return [*known, *deaths, *errors][0]


def _worker(config: dict[str, Any]) -> Stopped | None:
    trial = TrialRecord(**json.loads(config["trial"]))
    need, device = Resources.model_validate(trial.config["resources"]), get_device()
    storage, machine = Storage(config["storage"]), describe_machine(need, device)
    with watch(config["control"], trial.id, storage, need.hang_seconds) as control:
        context = TrialContext(TorchWorld(), device, storage, machine, distributed, control)
        try:
            run_trial(trial, context, _report)
        except Stopped as stopped:  # on every rank; what rank 0 returns is the group's result
            return stopped
    return None


def _report(event: Event) -> None:
    ray.train.report({"event": to_text(event)})


def _per_worker(need: Resources) -> dict[str, float]:
    held = {"CPU": float(need.cpus_per_worker), "GPU": need.gpus_per_worker}
    return {name: amount for name, amount in held.items() if amount}
