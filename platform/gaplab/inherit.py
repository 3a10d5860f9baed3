"""Trials that start from the weights of another trial, or of a file (`training.init_from`)."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from detectors.models.weights import read_weights
from gaplab.checkpoints import newest
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.records import TrialRecord
from gaplab.storage import Storage

_TRIAL = re.compile(r"[0-9a-f]{12}")
_AVERAGED = "module."


def parent(trial: TrialRecord) -> str | None:
    """The id of the trial that `trial` starts from, if there is one."""
    source = trial.config["training"]["init_from"]
    return source if _TRIAL.fullmatch(source) else None


def check_sources(ledger: Ledger, trials: Sequence[TrialRecord]) -> None:
    """Refuse trials that start from a trial that is neither finished nor about to run, or from
    weights that are not on this disk (UserError).
    """
    running = {trial.id for trial in trials}
    parents = sorted({found for trial in trials if (found := parent(trial))} - running)
    states = ledger.states(parents)
    unknown = [each for each in parents if states.get(each) != "succeeded"]
    files = {named for trial in trials for named in _files(trial)}
    problems = [
        f"training.init_from: trial {each} has not succeeded here; run it first" for each in unknown
    ]
    problems += [
        f"{key}: {path}: no such file; correct the path, which starts at the working directory"
        for key, path in sorted(files)
        if not Path(path).is_file()
    ]
    if problems:
        raise UserError(*problems)


def _files(trial: TrialRecord) -> list[tuple[str, str]]:
    """The files of weights that a trial reads: (key of the spec, path)."""
    source = trial.config["training"]["init_from"] if parent(trial) is None else ""
    trunk = trial.config.get("detector", {}).get("backbone", {}).get("weights", "")
    named = {"training.init_from": source, "detector.backbone.weights": trunk}
    return [(key, path) for key, path in named.items() if path]


def initial_weights(source: str, storage: Storage) -> Mapping[str, Tensor]:
    """The state dict of a detector that `init_from` means; a trial's is that of its average.

    Raises UserError where there is no such trial, WeightsError for a file that can't be used.
    """
    if not _TRIAL.fullmatch(source):
        return read_weights(source, "init_from")
    found = newest(storage, source)
    state = found.state
    event = json.loads(state["event"]) if state else {"epoch": 0, "epochs": 1}
    if state is None or event["epoch"] < event["epochs"]:
        unfinished = f"training.init_from: trial {source} is not finished in {storage.uri}"
        raise UserError(unfinished, *found.notes)
    averaged = state["learner"]["averaged"]
    return {
        key.removeprefix(_AVERAGED): value
        for key, value in averaged.items()
        if key.startswith(_AVERAGED)
    }
