"""Detectors by the name a spec uses."""

from detectors.models.base import DetectorOptions
from detectors.models.fcos import FcosOptions

DETECTORS: dict[str, type[DetectorOptions]] = {"fcos": FcosOptions}
