"""One attempt at a trial, whatever runs it: it always ends with an Ended event."""

import socket
import traceback
from collections.abc import Callable

import torch

from detectors.data.base import DataError
from detectors.engine import NonFiniteLossError
from detectors.world import LocalWorld
from gaplab.errors import UserError
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, Machine, TrialRecord
from gaplab.spec import Resources
from gaplab.storage import Storage
from gaplab.trial import Place, run_trial

Emit = Callable[[Event], None]
Body = Callable[[TrialRecord, Storage, Emit], None]
EXPECTED = (DataError, NonFiniteLossError, UserError)


def attempt(trial: TrialRecord, storage: Storage, emit: Emit, body: Body) -> None:
    """Run `body`, then emit Ended: succeeded, or failed with a one-line reason.

    The traceback of an unexpected error is kept beside the trial's checkpoint.
    """
    last = Cost()

    def remember(event: Event) -> None:
        nonlocal last
        if isinstance(event, EpochDone):
            last = event.cost
        emit(event)

    try:
        body(trial, storage, remember)
    except Exception as error:
        emit(Ended(trial.id, AttemptEnd("failed", _reason(error, trial, storage), last)))
    else:
        emit(Ended(trial.id, AttemptEnd("succeeded", "", last)))


def run_alone(trial: TrialRecord, storage: Storage, emit: Emit) -> None:
    """The body for a trial with one worker: in this process."""
    resources = Resources.model_validate(trial.config["resources"])
    device = pick_device(resources)
    machine = describe_machine(resources, device)
    run_trial(trial, Place(LocalWorld(), device, storage, machine), emit)


def pick_device(resources: Resources) -> torch.device:
    """CUDA where GPUs were asked for, else the CPU. Raises UserError where there is no CUDA."""
    if not resources.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources.gpus_per_worker is {resources.gpus_per_worker:g} but PyTorch sees no GPU "
            f"on {socket.gethostname()}; install a CUDA build or set it to 0"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe_machine(resources: Resources, device: torch.device) -> Machine:
    """Where this process runs, with what the whole trial holds."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    gpus = resources.workers * resources.gpus_per_worker
    return Machine(socket.gethostname(), name, resources.workers, gpus)


def _reason(error: Exception, trial: TrialRecord, storage: Storage) -> str:
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split("\n"))
    text = "".join(traceback.format_exception(error))
    uri = storage.save_text(f"trials/{trial.id}/traceback.txt", text)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} (traceback in {uri})"
