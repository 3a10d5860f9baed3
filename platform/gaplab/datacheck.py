"""Opening a sweep's data once before anything starts, so that bad data costs no training."""

from collections.abc import Iterable, Iterator

from detectors.data.base import DataError, DataOptions, Split
from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.sweep import experiment_of

SPLITS: tuple[Split, Split] = ("train", "val")


def inspect_data(trials: Iterable[TrialRecord]) -> list[str]:
    """What was left out while loading the data of `trials`, one line each, every data set once.

    Raises UserError with every problem of every split.
    """
    notes: list[str] = []
    problems: list[str] = []
    for options in _distinct(trials):
        for split in SPLITS:
            try:
                notes += options.load(split).notes
            except DataError as error:
                problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return list(dict.fromkeys(notes))


def _distinct(trials: Iterable[TrialRecord]) -> Iterator[DataOptions]:
    seen = {str(trial.config["data"]): trial for trial in trials}
    return (experiment_of(trial).data for trial in seen.values())
