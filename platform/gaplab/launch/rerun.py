"""Training finished trials once more; what they gave before is set aside, not lost."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage

ALL = "all"


def chosen(names: Sequence[str], trials: Sequence[str]) -> list[str]:
    """The ids in `trials` that begin with one of `names`; all of them for `all`.

    Raises UserError for names that fit no trial, or several.
    """
    if ALL in names:
        return list(trials)
    found = {name: [each for each in trials if each.startswith(name)] for name in names}
    if wrong := [name for name, fitting in found.items() if len(fitting) != 1]:
        raise UserError(*(_not_one(name, found[name]) for name in wrong))
    return list(dict.fromkeys(each for fitting in found.values() for each in fitting))


def _not_one(name: str, fitting: Sequence[str]) -> str:
    what = f"begins {', '.join(fitting[:5])}" if fitting else "no trial of this sweep"
    return f"--rerun {name}: {what}; give the id of one trial, or `{ALL}`"


def rerun(ledger: Ledger, storage: Storage, trials: Sequence[str]) -> list[str]:
    """Set those of `trials` that have succeeded waiting again; their ids.

    Their evaluations and files move to `trials/<trial>/replaced/attempt=<n>` in the storage: first
    copied or moved there, then dropped in the ledger. After a crash in between, the trial counts as
    finished still, and asking once more completes it. Raises StorageError.
    """
    states = ledger.states(trials)
    finished = [trial for trial in trials if states.get(trial) == TrialState.SUCCEEDED]
    for trial in finished:
        _set_aside(ledger, storage, trial)
        ledger.rerun(trial)
    return finished


def _set_aside(ledger: Ledger, storage: Storage, trial: str) -> None:
    home, number = f"trials/{trial}", ledger.attempts(trial)[-1].number
    aside = f"{home}/replaced/attempt={number:04d}"
    found = [asdict(each) for each in ledger.evaluations(trial)]
    text = json.dumps(found, default=str, indent=1, ensure_ascii=False)
    moved = text.replace(f"{storage.uri}/{home}/", f"{storage.uri}/{aside}/")
    storage.save_text(f"{aside}/evaluations.json", moved)
    for name in storage.below(home):
        if not name.startswith("replaced/"):
            storage.move(f"{home}/{name}", f"{aside}/{name}")
