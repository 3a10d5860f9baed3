"""Protocols: how a gap is measured. Results of two protocols are never mixed."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.options import NOT_IDENTITY, Options


class Protocol(Options):
    """How detections are selected from raw candidates, without suppression and with suppression.

    Without suppression, they are the `max_dets` best candidates of an image. With suppression, they
    are the `max_dets` best that are left after it (`nms_then_cut`), or those of the `max_dets` best
    that it leaves (`cut_then_nms`). `class_wise`, `level_range` and `spatial_range` restrict which
    candidates can suppress each other, as in Table 2 of POTO (Wang et al., 2021): its "1 x 1, not
    across scales" is `spatial_range: 1, level_range: 0`.
    """

    preset: str = Field("default", pattern=r"^[a-z0-9_-]+$", json_schema_extra=NOT_IDENTITY)
    """The name shown in tables."""
    evaluator: Literal["coco", "crowd"] = "coco"
    """Definition of AP: COCO's, or CrowdHuman's (with its miss rate and recall)."""
    score_floor: float = Field(0.0, ge=0, lt=1)
    """Candidates with a score of at most this are removed first."""
    pre_nms_topk: int = Field(300, ge=1)
    """Maximum number of candidates (pairs of point and class) per pyramid level and image."""
    cap_at_points: bool = False
    """Whether a level keeps at most one candidate per anchor point on average: not more than
    `pre_nms_topk`, and not more than it has points (detectron2, cvpods)."""
    clip: Literal["before", "after"] = "before"
    """When boxes are clipped to their image. `before`: before suppression (mmdetection). `after`:
    after suppression and the cut, and boxes that are then empty are removed (detectron2,
    cvpods)."""
    suppression: Literal["nms", "max_filter"] = "nms"
    """`nms`: a candidate is suppressed by a better one that is kept and overlaps it. `max_filter`:
    it is suppressed by any better one in its neighbourhood, whatever their boxes (Eq. 6 of POTO as
    post-processing)."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    """A candidate whose IoU with a kept one is greater than this is suppressed; not used by
    max_filter."""
    class_wise: bool = True
    """Whether only candidates of the same class suppress each other."""
    level_range: int | None = Field(None, ge=0)
    """Maximum distance in pyramid levels at which candidates suppress each other; null: any."""
    spatial_range: int | None = Field(None, ge=1)
    """Side, in grid cells, of the square around an anchor point in which candidates suppress each
    other; an odd number; null: no limit."""
    order: Literal["nms_then_cut", "cut_then_nms"] = "nms_then_cut"
    """Whether the best `max_dets` are taken after suppression or before it."""
    max_dets: int = Field(100, ge=1)
    """Maximum number of detections per image."""

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


_CVPODS: dict[str, object] = {"pre_nms_topk": 1000, "cap_at_points": True, "clip": "after"}
"""What DeFCN's detectors share before suppression."""

PROTOCOLS: dict[str, Protocol] = {
    protocol.preset: protocol
    for protocol in (
        Protocol(),
        _preset("defcn", score_floor=0.05, nms_iou=0.6, **_CVPODS),
        _preset("o2f", score_floor=0.05, pre_nms_topk=1000, nms_iou=0.6),
        _preset("onenet", pre_nms_topk=1000, clip="after", nms_iou=0.5, order="cut_then_nms"),
        _preset("date", score_floor=0.01, pre_nms_topk=100, nms_iou=0.5),
        _preset(
            "crowdhuman",
            evaluator="crowd",
            score_floor=0.05,
            nms_iou=0.6,
            max_dets=500,
            **_CVPODS,
        ),
        _preset(
            "centernet",
            pre_nms_topk=1000,
            clip="after",
            suppression="max_filter",
            level_range=0,
            spatial_range=3,
        ),
    )
}
"""Presets by name, each as the released code of its paper measures, with 100 detections per image
(500 for `crowdhuman`).

`default` is POTO's NMS (IoU 0.6) without score floor, with 300 candidates per level. It clips boxes
before NMS, because the boxes in files of other tools are clipped, and both can then be measured
alike. `defcn` (POTO) suppresses boxes that are not clipped, `o2f` clipped ones. `onenet` cuts
before NMS and has no floor (its 100 best pairs of all levels are among the 1,000 best of each
level).
`date` is that of DATE-F; DATE-R keeps 1,000 candidates per level. `crowdhuman` is DeFCN's.
`centernet` is CenterNet's: peaks of the score map of a class in 3 x 3 cells, then the 100 best of
them.
"""
