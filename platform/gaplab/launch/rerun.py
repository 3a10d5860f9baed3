"""Train finished trials once more; their earlier results are moved aside and stay available."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage

ALL = "all"


def match_trials(names: Sequence[str], trials: Sequence[str]) -> list[str]:
    """Return the ids in `trials` that start with one of `names`; all of them for `all`.

    Raises:
        UserError: for every name that matches no trial, or several.
    """
    if ALL in names:
        return list(trials)
    found = {name: [each for each in trials if each.startswith(name)] for name in names}
    if wrong := [name for name, matching in found.items() if len(matching) != 1]:
        raise UserError(*(_not_one(name, found[name]) for name in wrong))
    return list(dict.fromkeys(each for matching in found.values() for each in matching))


def rerun(ledger: Ledger, storage: Storage, trials: Sequence[str]) -> list[str]:
    """Set those of `trials` that have succeeded to waiting, and return their ids.

    Their evaluations and files go to `trials/<trial>/replaced/attempt=<n>` in the storage. They are
    copied or moved there first and deleted from the ledger afterwards: after a crash in between,
    the trial still counts as finished, and a second call completes the first.

    Raises:
        StorageError: if a file can't be written.
    """
    states = ledger.states(trials)
    finished = [trial for trial in trials if states.get(trial) == TrialState.SUCCEEDED]
    for trial in finished:
        _move_aside(ledger, storage, trial)
        ledger.rerun(trial)
    return finished


def _not_one(name: str, matching: Sequence[str]) -> str:
    what = f"matches {', '.join(matching[:5])}" if matching else "matches no trial of this sweep"
    return f"--rerun {name}: {what}; give the id of one trial, or `{ALL}`"


def _move_aside(ledger: Ledger, storage: Storage, trial: str) -> None:
    home, number = f"trials/{trial}", ledger.attempts(trial)[-1].number
    aside = f"{home}/replaced/attempt={number:04d}"
    evaluations = [
        asdict(each)
        | {name: _moved(getattr(each, name), home, aside) for name in ("candidates", "matches")}
        for each in ledger.evaluations(trial, truth=None)
    ]
    text = json.dumps(evaluations, default=str, indent=1, ensure_ascii=False)
    storage.save_text(f"{aside}/evaluations.json", text)
    for name in storage.below(home):
        if not name.startswith("replaced/"):
            storage.move(f"{home}/{name}", f"{aside}/{name}")


def _moved(stored: str, old: str, new: str) -> str:
    """Return the path of a file after its folder was moved; others are returned as they are."""
    return f"{new}{stored.removeprefix(old)}" if stored.startswith(f"{old}/") else stored
