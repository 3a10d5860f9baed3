"""Detectors. `DETECTORS` maps the name in a spec to the options of a detector."""

from detectors.models.base import DetectorOptions
from detectors.models.deformable_detr import DeformableDetrOptions
from detectors.models.detr import DetrOptions
from detectors.models.fcos import FcosOptions
from detectors.models.onenet import OneNetOptions
from detectors.models.retinanet import RetinaNetOptions
from detectors.models.sparse_rcnn import SparseRcnnOptions

DETECTORS: dict[str, type[DetectorOptions]] = {
    "fcos": FcosOptions,
    "retinanet": RetinaNetOptions,
    "onenet": OneNetOptions,
    "detr": DetrOptions,
    "sparse_rcnn": SparseRcnnOptions,
    "deformable_detr": DeformableDetrOptions,
}
