"""Opening a sweep's data once before anything starts, so that bad data costs no training."""

from collections.abc import Iterable, Iterator, Sequence

from detectors.data.base import DataError, DataOptions, Split
from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.sweep import altered, experiment_of

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


def check_unaltered(trials: Sequence[TrialRecord]) -> None:
    """Raise UserError for trials of a stored sweep that aren't what their ids say any more."""
    if found := altered(trials):
        ids = ", ".join(trial.id for trial in found[:3]) + (", ..." if len(found) > 3 else "")
        sets = " and ".join(sorted({trial.dataset for trial in found}))
        raise UserError(
            f"{len(found)} trials ({ids}): {sets} has changed since the sweep was planned, or what "
            "this gaplab makes of the settings; restore what was there, or run the spec again, "
            "which makes new trials"
        )


def _distinct(trials: Iterable[TrialRecord]) -> Iterator[DataOptions]:
    seen = {str(trial.config["data"]): trial for trial in trials}
    return (experiment_of(trial).data for trial in seen.values())
