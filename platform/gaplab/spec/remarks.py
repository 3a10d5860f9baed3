"""Remarks on the trials of a sweep: what trains, but hardly as its author means it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from detectors.data.base import DataError, DataOptions, Split
from detectors.losses import LossOptions
from detectors.training import Training
from gaplab.records import TrialRecord
from gaplab.spec.sweep import experiment_of

_TRAINING, _LOSS = Training(), LossOptions()
_EFFECTS: Mapping[
    str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[TrialRecord], bool], str]
] = {
    "training.o2m_loss": (
        lambda training: training["o2m_loss"] is not None,
        lambda trial: trial.family == "dual",
        "only dual assignments have a second branch",
    ),
    "training.sampling_lr": (
        lambda training: training["sampling_lr"] != _TRAINING.sampling_lr,
        lambda trial: trial.config["detector"]["name"] == "deformable_detr",
        "only deformable_detr samples positions",
    ),
    "training.loss.mask_weight": (
        lambda training: training["loss"]["mask_weight"] != _LOSS.mask_weight,
        lambda trial: trial.config["detector"].get("masks") is not None,
        "no detector has detector.masks",
    ),
}
"""Key -> whether it is set, whether it has an effect on a trial, and why it has none."""


def remarks_on(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Return one line per remark, such as on fewer queries than an image has objects."""
    return (*dict.fromkeys(_few_queries(trials)), *_without_effect(trials))


def _few_queries(trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield detectors with fewer queries than an image of their data may have objects."""
    pairs = {
        (id(trial.config["data"]), trial.config["detector"]["queries"]): trial
        for trial in trials
        if "queries" in trial.config["detector"]
    }
    most = dict[int, int]()
    for (data, queries), trial in pairs.items():
        if data not in most:
            most[data] = _most(experiment_of(trial).data)
        if queries < most[data]:
            yield (
                f"detector.queries: {queries}, but an image of {trial.dataset} may have "
                f"{most[data]} objects, of which the detector finds at most {queries}"
            )


def _most(data: DataOptions) -> int:
    """Return the largest number of objects that an image may have; 0 if it is unknown."""
    try:
        return max(data.listed(split).most for split in get_args(Split))
    except DataError:
        return 0


def _without_effect(trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield keys that are set but change nothing in any trial that sets them."""
    for key, (is_set, has_effect, why) in _EFFECTS.items():
        setting = [trial for trial in trials if is_set(trial.config["training"])]
        if setting and not any(map(has_effect, setting)):
            yield f"{key}: has no effect on any trial, because {why}"
