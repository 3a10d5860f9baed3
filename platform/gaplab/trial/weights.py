"""The initial weights of a trial: those of another trial, or of a file (`training.init_from`)."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detectors.models.weights import read_weights
from gaplab.errors import UserError
from gaplab.identity import is_trial_id
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import load_newest

_AVERAGED = "module."


def initial_weights(source: str, storage: Storage) -> Mapping[str, Tensor]:
    """Load the state dict that `init_from` names; for a trial, that of its averaged weights.

    Args:
        source: id of a trial, or path of a file.
        storage: where the checkpoints of trials are.

    Raises:
        UserError: if there is no finished trial of this id.
        WeightsError: if the file can't be used.
    """
    if not is_trial_id(source):
        return read_weights(source, "init_from")
    found = load_newest(storage, source)
    state = found.state
    event = json.loads(state["event"]) if state else {"epoch": 0, "epochs": 1}
    if state is None or event["epoch"] < event["epochs"]:
        unfinished = f"training.init_from: trial {source} is not finished in {storage.uri}"
        raise UserError(unfinished, *found.notes)
    return averaged_weights(state)


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights in the state of a checkpoint, by their names in the detector."""
    averaged = state["learner"]["averaged"]
    return {
        key.removeprefix(_AVERAGED): value
        for key, value in averaged.items()
        if key.startswith(_AVERAGED)
    }
