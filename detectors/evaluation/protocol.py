"""How a gap is measured. Part of every evaluation's key: rows of two protocols are never mixed."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.options import NOT_IDENTITY, Options


class Protocol(Options):
    """The rule that turns raw candidates into detections, without suppression and with it.

    Without: the `max_dets` best candidates of an image. With: suppression, then the `max_dets` best
    (`nms_then_cut`), or the other way round (`cut_then_nms`). Which candidates can suppress each
    other is narrowed by `class_wise`, `level_range` and `spatial_range`, as in Table 2 of POTO
    (Wang et al., 2021): there "1 x 1, not across scales" is `spatial_range: 1, level_range: 0`.
    """

    preset: str = Field("default", pattern=r"^[a-z0-9_-]+$", json_schema_extra=NOT_IDENTITY)
    """The name that stands in tables."""
    evaluator: Literal["coco", "crowd"] = "coco"
    """What AP means: COCO's, or CrowdHuman's (with its miss rate and recall)."""
    score_floor: float = Field(0.0, ge=0, lt=1)
    """Candidates with a score not above this are dropped first."""
    pre_nms_topk: int = Field(300, ge=1)
    """Candidates (point and class pairs) kept per pyramid level and image, by score."""
    suppression: Literal["nms", "max_filter"] = "nms"
    """`nms`: a candidate falls to a better one that is itself kept and overlaps it. `max_filter`:
    it falls to any better one in its neighbourhood (Eq. 6 of POTO as post-processing), whatever the
    boxes say."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """A candidate overlapping a kept one by more than this IoU is suppressed; unused by max_filter.
    """
    class_wise: bool = True
    """Only candidates of one class suppress each other."""
    level_range: int | None = Field(None, ge=0)
    """Only candidates at most so many pyramid levels apart suppress each other; null: all."""
    spatial_range: int | None = Field(None, ge=1)
    """Only candidates whose anchor points lie within so many grid cells (an odd number, the side of
    a square around the point) suppress each other; null: all."""
    order: Literal["nms_then_cut", "cut_then_nms"] = "nms_then_cut"
    """Whether the best `max_dets` are taken after suppression or before it."""
    max_dets: int = Field(100, ge=1)
    """Detections an image."""

    @field_validator("spatial_range")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError(f"must be odd (1, 3, 5, ...), got {value}")
        return value

    @model_validator(mode="after")
    def _max_filter_has_a_window(self) -> Self:
        if self.suppression == "max_filter" and self.spatial_range is None:
            raise ValueError("spatial_range: max_filter needs one, such as 3")
        return self


def _preset(name: str, **values: object) -> Protocol:
    return Protocol.model_validate({"preset": name, **values})


PROTOCOLS: dict[str, Protocol] = {
    protocol.preset: protocol
    for protocol in (
        Protocol(),
        _preset("defcn", score_floor=0.05, pre_nms_topk=1000, nms_iou=0.6),
        _preset("o2f", score_floor=0.05, pre_nms_topk=1000, nms_iou=0.6),
        _preset("onenet", pre_nms_topk=1000, nms_iou=0.5, order="cut_then_nms"),
        _preset("date", score_floor=0.01, pre_nms_topk=100, nms_iou=0.5),
        _preset(
            "crowdhuman",
            evaluator="crowd",
            score_floor=0.05,
            pre_nms_topk=1000,
            nms_iou=0.6,
            max_dets=500,
        ),
    )
}
"""Presets by name, each as the released code of its paper measures; all cut to 100 but crowdhuman.

`default` is POTO's NMS (IoU 0.6) with no score floor, 300 a level. `defcn` (POTO) and `o2f` hold
the same values. `onenet` cuts before NMS and has no floor (its 100 best of all pairs are among the
1,000 best of each level). `date` is DATE-F's; DATE-R keeps 1,000 a level. `crowdhuman` is DeFCN's.
"""
