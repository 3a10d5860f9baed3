"""Detectors with the weights that trials have stored in their checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.data.base import DataError
from detectors.models.weights import SAFETENSORS, WeightsError
from detectors.published import load_published
from detectors.trained import DetectorConfig, TrainedDetector, load_detector
from gaplab.errors import UserError
from gaplab.ledger.views import TrialView
from gaplab.records import TrialRecord
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import experiment_of
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.trial.checkpoints import LoadedCheckpoint, load_newest
from gaplab.trial.weights import averaged_weights


@dataclass(frozen=True)
class StoredTrial:
    """A trial of a home folder.

    Attributes:
        view: what the ledger has about it.
        home: the folder with its files.
    """

    view: TrialView
    home: Home

    @property
    def id(self) -> str:
        """Id of the trial."""
        return self.view.id

    @property
    def config(self) -> dict[str, Any]:
        """The experiment as plain JSON."""
        return self.view.config

    def detector(self, epoch: int | None = None) -> TrainedDetector:
        """Build the detector with the averaged weights of a checkpoint, in eval mode.

        Args:
            epoch: the end of this epoch; None: the newest undamaged checkpoint.

        Raises:
            UserError: there is no such checkpoint, or the weights can't be used.
        """
        storage = Storage(str(self.home.path))
        found = load_newest(storage, self.id, epoch)
        if found.state is None or (epoch is not None and found.state.get("middle") is not None):
            raise UserError(self._missing(found, epoch, storage))
        event = json.loads(found.state["event"])
        try:
            config = detector_config(experiment_of(self.view), event, self.view)
            return TrainedDetector.of(averaged_weights(found.state), config, found.uri)
        except WeightsError as error:
            raise UserError(*error.problems) from error
        except DataError as error:
            raise UserError(*(f"trial {self.id}: {line}" for line in error.problems)) from error

    def _missing(self, found: LoadedCheckpoint, epoch: int | None, storage: Storage) -> str:
        """Return why there is no checkpoint, as one line."""
        of_epoch = "" if epoch is None else f" of epoch {epoch}"
        damaged = f" ({len(found.damaged)} damaged)" if found.damaged else ""
        kept = "its options `checkpoints` say which epochs are kept; " if epoch is not None else ""
        return (
            f"trial {self.id}: no undamaged checkpoint{of_epoch} in {storage.uri}{damaged}, its "
            f"state is {self.view.state}; {kept}train it with gaplab resume, or again with --rerun"
        )


def is_file(name: str) -> bool:
    """Return whether a name is the path of a file of weights, not the id of a trial."""
    return "." in name or "/" in name


def detector_of_file(name: str) -> TrainedDetector:
    """Load a detector from what `gaplab weights` wrote, or from the checkpoint of a released one.

    Raises:
        UserError: the file can't be read or used.
    """
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file; name a file of weights, or the id of a trial")
    load = load_detector if name.endswith(SAFETENSORS) else load_published
    try:
        return load(name)
    except WeightsError as error:
        raise UserError(*error.problems) from error


def detector_config(
    experiment: Experiment, event: Mapping[str, Any], trial: TrialRecord
) -> DetectorConfig:
    """Return what the detector of a trial is built from.

    Args:
        experiment: the experiment of the trial.
        event: that of the checkpoint, as plain JSON; its evaluations name the classes. Before the
            first evaluation, they are those of the data.
        trial: the trial.

    Raises:
        DataError: the data has to be read and can't be.
    """
    evaluations = event["evaluations"]
    if evaluations:
        classes = tuple(each["name"] for each in evaluations[0]["classes"])
    else:
        classes = experiment.data.load("val").classes
    return DetectorConfig(
        detector=experiment.detector,
        branches=tuple(experiment.assignment.branches()),
        classes=classes,
        input=experiment.data.preparation(),
        protocol=experiment.evaluation.protocol,
        source={"trial": trial.id, "epoch": event["epoch"], "assignment": trial.assignment},
    )
