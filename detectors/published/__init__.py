"""Detectors that their authors released with weights, by the names of our detectors."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor

from detectors.data.preparation import Preparation
from detectors.models.weights import WeightsError, read_weights
from detectors.published.base import BRANCH, PublishedDetector
from detectors.published.coco import CLASSES
from detectors.published.deformable_detr import DeformableDetr
from detectors.published.detr import Detr
from detectors.published.poto import Poto
from detectors.published.sparse_rcnn import SparseRcnn
from detectors.trained import DetectorConfig, TrainedDetector

PUBLISHED: Mapping[str, PublishedDetector] = {
    "detr": Detr(),
    "deformable_detr": DeformableDetr(),
    "sparse_rcnn": SparseRcnn(),
    "poto": Poto(),
}


def load_published(path: str | PathLike[str]) -> TrainedDetector:
    """Load a checkpoint that the authors of a detector trained on COCO; see `PUBLISHED`.

    Pictures are resized as in the papers: the shorter side to 800 pixels, the longer one to at most
    1333.

    Raises:
        WeightsError: the file can't be read, or is none of these detectors.
    """
    return published_detector(read_weights(str(path), "FILE"), str(path))


def published_detector(weights: Mapping[str, Tensor], where: str) -> TrainedDetector:
    """Build the detector of a published state dict from the file `where`; see `load_published`."""
    name = recognise(weights)
    if name is None:
        raise WeightsError(
            [
                f"{where}: not the weights that were released for DETR, Deformable DETR, Sparse "
                "R-CNN or POTO; name another file"
            ]
        )
    system = PUBLISHED[name]
    config = DetectorConfig(
        detector=system.options(weights),
        branches=(BRANCH,),
        classes=CLASSES,
        input=Preparation(height=800, width=1333, portrait="turn"),
        source={"published": name, "file": Path(where).name},
    )
    return TrainedDetector.of(system.convert(weights, where), config, where)


def recognise(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the system that a published state dict is of; None if it is unknown."""
    for name, system in PUBLISHED.items():
        if all(sign in weights for sign in system.signs):
            return name
    return None
