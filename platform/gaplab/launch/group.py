"""A trial on several workers: the same `run_trial` in a Ray Train group."""

import json
import secrets
from dataclasses import asdict
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectors.world import TorchWorld
from gaplab.events import to_text
from gaplab.launch.attempt import Emit, describe_machine
from gaplab.records import Event, TrialRecord
from gaplab.spec import Resources
from gaplab.storage import Storage
from gaplab.trial import Place, last_words, run_trial


def run_group(trial: TrialRecord, storage: Storage, emit: Emit) -> None:
    """The body for a trial with several workers; must run inside a Tune session.

    Events of rank 0 travel through Train to Tune. Train may lose the last one, so the trial's
    last checkpoint is read afterwards and its evaluations are said again.
    """
    need = Resources.model_validate(trial.config["resources"])
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"trial": json.dumps(asdict(trial)), "storage": storage.uri},
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
        ),
    )
    trainer.fit()
    emit(last_words(trial, storage))


def _worker(config: dict[str, Any]) -> None:
    trial = TrialRecord(**json.loads(config["trial"]))
    need, device = Resources.model_validate(trial.config["resources"]), get_device()
    place = Place(
        TorchWorld(), device, Storage(config["storage"]), describe_machine(need, device), _wrap
    )
    run_trial(trial, place, _report)


def _wrap(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module)


def _report(event: Event) -> None:
    ray.train.report({"event": to_text(event)})


def _per_worker(need: Resources) -> dict[str, float]:
    held = {"CPU": float(need.cpus_per_worker), "GPU": need.gpus_per_worker}
    return {name: amount for name, amount in held.items() if amount}
