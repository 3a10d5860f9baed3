"""One attempt at a trial, whatever runs it: it always ends with an `Ended` event.

`run_attempt` turns errors into the end of the attempt. `end_of_dead_process` builds the end of an
attempt whose process died.
"""

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
from gaplab.trial.control import NO_CONTROL, Control, Stopped
from gaplab.trial.run import TrialContext, run_trial
from gaplab.trial.watchdog import clear_hangs, hang_reason, watch

Emit = Callable[[Event], None]
Body = Callable[[TrialRecord, Storage, Emit, Control], None]
"""Runs a trial in some way: in this process, or in a group of workers."""
EXPECTED = (DataError, NonFiniteLossError, NonFinitePredictionsError, UserError)
"""Errors that are about the input of a trial and need no traceback."""
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory")
"""Texts of PyTorch's plain RuntimeErrors about memory."""
_RAY_OUT_OF_MEMORY = ("OutOfMemoryError", "NODE_OUT_OF_MEMORY")
"""Texts of Ray's errors that are certainly about memory; of every process that was killed Ray says
that memory may have been the reason."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class LostError(Exception):
    """A process of the trial died; the message is what Ray says about it."""


def run_attempt(
    trial: TrialRecord, storage: Storage, emit: Emit, body: Body, control: Control = NO_CONTROL
) -> None:
    """Run `body`, then emit `Ended`: succeeded, stopped by an order, or failed.

    A failure has a fault and a reason of one line. The traceback of an unexpected error is stored
    beside the checkpoints of the trial.
    """
    last = Cost()

    def remember_cost(event: Event) -> None:
        nonlocal last
        if isinstance(event, EpochDone):
            last = event.cost
        emit(event)

    try:
        clear_hangs(trial.id, storage)
        body(trial, storage, remember_cost, control)
    except Stopped as order:
        end = AttemptEnd(order.stop.state, order.stop.reason, order.cost or last)
    except Exception as error:
        end = _failure(error, trial, storage, last)
    else:
        end = AttemptEnd(TrialState.SUCCEEDED, "", last)
    emit(Ended(trial.id, end))


def run_in_process(
    trial: TrialRecord, storage: Storage, emit: Emit, control: Control = NO_CONTROL
) -> None:
    """Run a trial with one worker in this process. A `Body`."""
    resources = Resources.model_validate(trial.config["resources"])
    device = pick_device(resources)
    machine = describe_machine(resources, device)
    with watch(control, trial.id, storage, resources.hang_seconds) as watched:
        run_trial(
            trial, TrialContext(LocalWorld(), device, storage, machine, control=watched), emit
        )


def pick_device(resources: Resources) -> torch.device:
    """Return the current CUDA device if the trial asks for GPUs, else the CPU.

    Raises:
        UserError: if it asks for GPUs and PyTorch sees none.
    """
    if not resources.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources.gpus_per_worker is {resources.gpus_per_worker:g} but PyTorch sees no GPU "
            f"on {socket.gethostname()}; install a CUDA build or set it to 0"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe_machine(resources: Resources, device: torch.device) -> Machine:
    """Return where this process runs, with the workers and GPUs of the whole trial."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    gpus = resources.workers * resources.gpus_per_worker
    return Machine(socket.gethostname(), name, resources.workers, gpus)


def fault_of(error: Exception) -> Fault:
    """Return the fault of an attempt that ended with `error`."""
    match error:
        case StorageError():
            return "storage"
        case OSError() if error.errno in _DISK_FULL:
            return "storage"
        case torch.OutOfMemoryError() | MemoryError():
            return "memory"
        case RuntimeError() if any(text in str(error) for text in _OUT_OF_MEMORY):
            return "memory"
        case _:
            return "input" if isinstance(error, EXPECTED) else "error"


def end_of_dead_process(error: str, trial: TrialRecord, storage: Storage) -> AttemptEnd:
    """Return the end of an attempt whose process died, from Ray's error; its cost is not known."""
    if hang := hang_reason(trial.id, storage):
        return AttemptEnd(TrialState.FAILED, hang, Cost(), "hang")
    fault: Fault = "memory" if any(text in error for text in _RAY_OUT_OF_MEMORY) else "lost"
    reason = f"its process died: {error.splitlines()[-1]}"
    return AttemptEnd(TrialState.FAILED, reason, Cost(), fault)


def _failure(error: Exception, trial: TrialRecord, storage: Storage, cost: Cost) -> AttemptEnd:
    if isinstance(error, LostError):
        return replace(end_of_dead_process(str(error), trial, storage), cost=cost)
    return AttemptEnd(TrialState.FAILED, _reason(error, trial, storage), cost, fault_of(error))


def _reason(error: Exception, trial: TrialRecord, storage: Storage) -> str:
    """Return one line about an error; stores the traceback of an unexpected one."""
    if isinstance(error, EXPECTED):
        return " ".join(str(error).split("\n"))
    first = (str(error).strip().splitlines() or [""])[0]
    line = f"{type(error).__name__}: {first}"
    text = "".join(traceback.format_exception(error))
    name = f"trials/{trial.id}/traceback.txt"
    try:
        storage.save_text(name, text)
    except UserError as unwritten:
        return f"{line} (no traceback: {unwritten})"
    return f"{line} (traceback in {name} of the home folder)"
