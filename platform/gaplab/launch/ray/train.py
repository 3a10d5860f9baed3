"""A trial on several workers: the same `run_trial` in a Ray Train group."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectors.world import TorchWorld
from gaplab.events import to_text
from gaplab.launch.attempt import Emit, LostError, describe_machine, fault_of
from gaplab.records import Event, TrialRecord
from gaplab.spec.models import Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import Control, Stop, Stopped
from gaplab.trial.run import Place, last_words, run_trial
from gaplab.trial.watchdog import watched


def run_group(trial: TrialRecord, storage: Storage, emit: Emit, control: Control) -> None:
    """The body for a trial with several workers; must run inside a Tune session.

    Events of rank 0 travel through Train to Tune. Train may lose the last one, so the trial's
    last checkpoint is read afterwards and its evaluations are said again. Raises what a worker
    raised, LostError for one that died, and Stopped.
    """
    need = Resources.model_validate(trial.config["resources"])
    told = {"trial": json.dumps(asdict(trial)), "storage": storage.uri, "control": control}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=told,
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
            # Another attempt is the driver's to make, not Train's.
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.PreemptionError as error:
        raise Stopped(
            Stop(TrialState.PREEMPTED, "a machine of its group was taken away"), None
        ) from error
    except ray.train.WorkerGroupError as error:
        raise cause(error.worker_failures.values()) from error
    if result.return_value is not None:
        raise result.return_value
    emit(last_words(trial, storage))


def cause(failures: Iterable[Exception]) -> Exception:
    """Why a group failed, of what became of its workers: an error of a worker that says what is
    wrong, else the death of one, else whatever else happened, which may only follow from a death.
    """
    said = list(failures)
    clear = [each for each in said if fault_of(each) != "error"]
    deaths = [LostError(str(each)) for each in said if type(each).__module__.startswith("ray.")]
    return [*clear, *deaths, *said][0]


def _worker(config: dict[str, Any]) -> Stopped | None:
    trial = TrialRecord(**json.loads(config["trial"]))
    need, device = Resources.model_validate(trial.config["resources"]), get_device()
    storage, machine = Storage(config["storage"]), describe_machine(need, device)
    with watched(config["control"], trial.id, storage, need.hang_seconds) as control:
        place = Place(TorchWorld(), device, storage, machine, _wrap, control)
        try:
            run_trial(trial, place, _report)
        except Stopped as stopped:  # on every rank; what rank 0 returns reaches the group's actor
            return stopped
    return None


def _wrap(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module)


def _report(event: Event) -> None:
    ray.train.report({"event": to_text(event)})


def _per_worker(need: Resources) -> dict[str, float]:
    held = {"CPU": float(need.cpus_per_worker), "GPU": need.gpus_per_worker}
    return {name: amount for name, amount in held.items() if amount}
