"""Sources of initial weights (`training.init_from`): another trial, or a file."""

from collections.abc import Sequence
from pathlib import Path

from gaplab.errors import UserError
from gaplab.identity import is_trial_id
from gaplab.ledger import Ledger
from gaplab.records import TrialRecord
from gaplab.states import TrialState


def parent(trial: TrialRecord) -> str | None:
    """Return the id of the trial that `trial` starts from, or None."""
    source: str = trial.config["training"]["init_from"]
    return source if is_trial_id(source) else None


def check_sources(ledger: Ledger, trials: Sequence[TrialRecord]) -> None:
    """Check that all weights that `trials` start from exist or will exist.

    Raises:
        UserError: for every parent trial that has neither succeeded nor is one of `trials`, and for
            every file of weights that is not on this disk.
    """
    running = {trial.id for trial in trials}
    parents = sorted({found for trial in trials if (found := parent(trial))} - running)
    states = ledger.states(parents)
    unknown = [each for each in parents if states.get(each) != TrialState.SUCCEEDED]
    files = {named for trial in trials for named in _files(trial)}
    problems = [
        f"training.init_from: trial {each} has not succeeded here; run it first" for each in unknown
    ]
    problems += [
        f"{key}: {path}: no such file; correct the path (relative to the working directory)"
        for key, path in sorted(files)
        if not Path(path).is_file()
    ]
    if problems:
        raise UserError(*problems)


def _files(trial: TrialRecord) -> list[tuple[str, str]]:
    """Return the weights files that a trial reads, each with its key in the spec."""
    source = trial.config["training"]["init_from"] if parent(trial) is None else ""
    backbone = trial.config.get("detector", {}).get("backbone", {}).get("weights", "")
    named = {"training.init_from": source, "detector.backbone.weights": backbone}
    return [(key, path) for key, path in named.items() if path]
