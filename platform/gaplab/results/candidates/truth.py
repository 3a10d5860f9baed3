"""The ground truth against which stored candidates are measured: that of the trial's own data, or
other ground truth on request. An evaluation carries the digest of other ground truth in its key.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.data.base import DataError, DataOptions
from detectors.data.mask_views import ground_truth
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.formatting import named_trials
from gaplab.identity import identity
from gaplab.records import TrialRecord
from gaplab.spec.overrides import parse_settings
from gaplab.spec.sweep import data_with, experiment_of, is_data_of

_DIGITS = 12
"""Number of hex digits of a digest."""


_MOVED = "; if the data has moved, give its folder with --set data.root=FOLDER"


@dataclass(frozen=True)
class TruthOptions:
    """Where the ground truth of trials comes from.

    Attributes:
        settings: `data.KEY=VALUE` texts, for data that has moved since the trial.
        other: whether to measure against this data whatever the trial's own was. The digest is then
            never empty, so that all trials measured against one ground truth have the same.
    """

    settings: tuple[str, ...] = ()
    other: bool = False


OWN = TruthOptions()
"""The data of each trial, at the place where it was."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of one trial.

    Attributes:
        digest: empty for that of the trial's own data, 12 hex digits if any other was allowed.
        data: the objects.
    """

    digest: str
    data: GroundTruth


def load_truths(
    trials: Iterable[tuple[TrialRecord, str]], options: TruthOptions, masks: Collection[str] = ()
) -> dict[str, Truth]:
    """Load the ground truth of trials, each data set once.

    Args:
        trials: each with the fingerprint of its data when it was trained; empty if unknown.
        options: where it comes from.
        masks: ids of the trials for which masks of objects are read, too.

    Returns:
        The ground truth by id of the trial.

    Raises:
        UserError: data can't be read, or has changed since the trial and `options.other` is False;
            with all problems of all trials.
    """
    settings = _data_settings(options.settings)
    loaded, problems = _Loaded(), list[str]()
    found, changed = dict[str, Truth](), defaultdict[DataOptions, list[str]](list)
    for trial, fingerprint in trials:
        try:
            data = data_with(trial, settings)
            if not options.other:
                _check_settings(trial, settings)
            if options.other or is_data_of(trial, data, fingerprint):
                truth = loaded.of(data, masks=trial.id in masks)
                digest = truth.digest()[:_DIGITS] if options.other else ""
                found[trial.id] = Truth(digest, truth)
            else:
                changed[data].append(trial.id)
        except UserError as error:
            problems += error.problems
        except DataError as error:
            problems += [each if settings else each + _MOVED for each in error.problems]
    problems += [_has_changed(data, ids) for data, ids in changed.items()]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return found


class _Loaded:
    """The ground truth of data sets that are loaded."""

    def __init__(self) -> None:
        self._truths = dict[tuple[DataOptions, bool], GroundTruth]()

    def of(self, options: DataOptions, *, masks: bool) -> GroundTruth:
        """Return the ground truth of a validation split. Raises DataError."""
        if (options, masks) not in self._truths:
            self._truths[options, masks] = ground_truth(options.load("val"), masks=masks)
        return self._truths[options, masks]


def _data_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse `--set` for stored trials. Raises UserError for keys outside of `data`."""
    settings = parse_settings(texts)
    outside = [key for key in settings if key.split(".")[0] != "data" or "." not in key]
    if outside:
        raise UserError(
            *(
                f"--set {key}: only keys of data can be set here, as in data.root=/new/folder"
                for key in outside
            )
        )
    return settings


def _check_settings(trial: TrialRecord, settings: Mapping[str, Any]) -> None:
    """Raise UserError for settings that can change the result of the trial."""
    own = identity(experiment_of(trial).data)
    wrong = [k for k, v in settings.items() if identity(data_with(trial, {k: v})) != own]
    if wrong:
        raise UserError(
            *(
                f"--set {key}: trial {trial.id} was trained with another value; leave it out, or "
                "measure against other ground truth with --other-truth"
                for key in wrong
            )
        )


def _has_changed(data: DataOptions, trials: Sequence[str]) -> str:
    return (
        f"{named_trials(trials)}: {data.source('val')}, the training split or an image has changed "
        "since training; restore the data, give the folder that has it with --set "
        "data.root=FOLDER, or measure against it as other ground truth with --other-truth"
    )
