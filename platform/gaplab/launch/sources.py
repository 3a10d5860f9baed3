"""Sources of initial weights (`training.init_from`): another trial, or a file."""

from collections.abc import Sequence
from pathlib import Path

from torch.random import fork_rng

from detectors.cost import without_weights
from detectors.data.base import DataError
from detectors.models.extractor import load_extractor
from detectors.models.weights import read_weights
from gaplab.errors import UserError
from gaplab.identity import is_trial_id
from gaplab.ledger import Ledger
from gaplab.records import TrialRecord
from gaplab.spec.sweep import experiment_of
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


def check_weights(trials: Sequence[TrialRecord]) -> None:
    """Check that trials can start from the files that their `init_from` names.

    Names and shapes are compared with those of the detector, whose predictors are left out.

    Raises:
        UserError: with every file that can't be read or is not of the detector.
    """
    alike = {
        (source, str(trial.config["detector"]), trial.family): trial
        for trial in trials
        if parent(trial) is None and (source := trial.config["training"]["init_from"])
    }
    problems = [line for (source, *_), trial in alike.items() for line in _unfit(source, trial)]
    if problems:
        raise UserError(*dict.fromkeys(f"training.init_from: {line}" for line in problems))


def _unfit(source: str, trial: TrialRecord) -> list[str]:
    """Return why the detector of a trial can't start from a file."""
    experiment = experiment_of(trial)
    options, branches = experiment.detector, tuple(experiment.assignment.branches())
    try:
        with fork_rng(devices=[]):
            detector = without_weights(options).build(1, branches)
    except DataError:  # timm may be installed where the trial runs, and only there
        return []
    try:
        load_extractor(detector, read_weights(source, "init_from"), source)
    except DataError as error:
        return error.problems
    return []


def _files(trial: TrialRecord) -> list[tuple[str, str]]:
    """Return the weights files that a trial reads, each with its key in the spec."""
    source = trial.config["training"]["init_from"] if parent(trial) is None else ""
    backbone = trial.config.get("detector", {}).get("backbone", {}).get("weights", "")
    named = {"training.init_from": source, "detector.backbone.weights": backbone}
    return [(key, path) for key, path in named.items() if path]
