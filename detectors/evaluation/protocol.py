"""How a gap is measured. Part of every evaluation's key: rows of two protocols are never mixed."""

from typing import Literal

from pydantic import Field

from detectors.options import NOT_IDENTITY, Options


class Protocol(Options):
    """The rule that turns raw candidates into detections, with NMS and without.

    Without NMS: the `max_dets` best candidates of an image. With NMS: greedy class-wise NMS at
    `nms_iou`, then the `max_dets` best (`nms_then_cut`), or the other way round (`cut_then_nms`).
    """

    preset: str = Field("default", pattern=r"^[a-z0-9_-]+$", json_schema_extra=NOT_IDENTITY)
    """The name that stands in tables."""
    score_floor: float = Field(0.0, ge=0, lt=1)
    """Candidates with a score not above this are dropped first."""
    pre_nms_topk: int = Field(300, ge=1)
    """Candidates (point and class pairs) kept per pyramid level and image, by score."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """A candidate overlapping a kept one of its class by more than this IoU is suppressed."""
    order: Literal["nms_then_cut", "cut_then_nms"] = "nms_then_cut"
    max_dets: int = Field(100, ge=1)
    """Detections an image."""


PROTOCOLS: dict[str, Protocol] = {"default": Protocol()}
"""Presets by name. `default` is 003's NMS (IoU 0.6) with no score floor and the cut after NMS."""
