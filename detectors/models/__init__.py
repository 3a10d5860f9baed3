"""Detectors by the name a spec uses."""

from detectors.models.base import DetectorOptions
from detectors.models.fcos import FcosOptions
from detectors.models.onenet import OneNetOptions
from detectors.models.retinanet import RetinaNetOptions

DETECTORS: dict[str, type[DetectorOptions]] = {
    "fcos": FcosOptions,
    "retinanet": RetinaNetOptions,
    "onenet": OneNetOptions,
}
