"""One attempt at a trial, whatever runs it: it always ends with an Ended event."""

import errno
import socket
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch

from detectors.data.base import DataError
from detectors.engine import NonFiniteLossError
from detectors.inference import NonFinitePredictionsError
from detectors.world import LocalWorld
from gaplab.errors import StorageError, UserError
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, Fault, Machine, TrialRecord
from gaplab.spec.models import Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import FREE, Control, Stopped
from gaplab.trial.run import Place, run_trial
from gaplab.trial.watchdog import clear, hang_reason, watched

Emit = Callable[[Event], None]
Body = Callable[[TrialRecord, Storage, Emit, Control], None]
EXPECTED = (DataError, NonFiniteLossError, NonFinitePredictionsError, UserError)
_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory")
"""What PyTorch says in a plain RuntimeError when memory is short."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class LostError(Exception):
    """A process of the trial died without a word; the message is what Ray knows of it."""


def attempt(
    trial: TrialRecord, storage: Storage, emit: Emit, body: Body, control: Control = FREE
) -> None:
    """Run `body`, then emit Ended: succeeded, stopped by an order, or failed with its fault and a
    reason of one line.

    The traceback of an unexpected error is kept beside the trial's checkpoints.
    """
    last = Cost()

    def remember(event: Event) -> None:
        nonlocal last
        if isinstance(event, EpochDone):
            last = event.cost
        emit(event)

    try:
        clear(trial.id, storage)
        body(trial, storage, remember, control)
    except Stopped as order:
        end = AttemptEnd(order.stop.state, order.stop.reason, order.cost or last)
    except Exception as error:
        end = _failure(error, trial, storage, last)
    else:
        end = AttemptEnd(TrialState.SUCCEEDED, "", last)
    emit(Ended(trial.id, end))


def run_alone(trial: TrialRecord, storage: Storage, emit: Emit, control: Control = FREE) -> None:
    """The body for a trial with one worker: in this process."""
    resources = Resources.model_validate(trial.config["resources"])
    device = pick_device(resources)
    machine = describe_machine(resources, device)
    with watched(control, trial.id, storage, resources.hang_seconds) as watched_control:
        place = Place(LocalWorld(), device, storage, machine, control=watched_control)
        run_trial(trial, place, emit)


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


def _failure(error: Exception, trial: TrialRecord, storage: Storage, cost: Cost) -> AttemptEnd:
    if isinstance(error, LostError):
        return replace(how_it_died(str(error), trial, storage), cost=cost)
    return AttemptEnd(TrialState.FAILED, _reason(error, trial, storage), cost, fault_of(error))


def fault_of(error: Exception) -> Fault:
    """What an attempt failed of that `error` ended."""
    match error:
        case StorageError():
            return "storage"
        case OSError() if error.errno in _FULL:
            return "storage"
        case torch.OutOfMemoryError() | MemoryError():
            return "memory"
        case RuntimeError() if any(said in str(error) for said in _MEMORY):
            return "memory"
        case _:
            return "input" if isinstance(error, EXPECTED) else "error"


def _reason(error: Exception, trial: TrialRecord, storage: Storage) -> str:
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split("\n"))
    first = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {first}"
    text = "".join(traceback.format_exception(error))
    try:
        uri = storage.save_text(f"trials/{trial.id}/traceback.txt", text)
    except UserError as unwritten:
        return f"{said} (no traceback: {unwritten})"
    return f"{said} (traceback in {uri})"


_RAY_MEMORY = ("OutOfMemoryError", "NODE_OUT_OF_MEMORY")
"""Of these Ray is sure; of any process that was killed it says that it may have been memory."""


def how_it_died(error: str, trial: TrialRecord, storage: Storage) -> AttemptEnd:
    """The end of its attempt, from the error that Ray tells; costs are not known here."""
    if hang := hang_reason(trial.id, storage):
        return AttemptEnd(TrialState.FAILED, hang, Cost(), "hang")
    fault: Fault = "memory" if any(word in error for word in _RAY_MEMORY) else "lost"
    return AttemptEnd(
        TrialState.FAILED, f"its process died: {error.splitlines()[-1]}", Cost(), fault
    )
