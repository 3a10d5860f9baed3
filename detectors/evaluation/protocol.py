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
    evaluator: Literal["coco", "crowd", "masks"] = "coco"
    """Definition of AP: COCO's, CrowdHuman's (with its miss rate and recall), or COCO's with the
    IoU of masks instead of boxes. Suppression always compares boxes."""
    score_floor: float = Field(0.0, ge=0, lt=1)
    """Candidates with a score of at most this are removed first."""
    pre_nms_topk: int = Field(300, ge=1)
    """Maximum number of candidates (pairs of point and class) per pyramid level and image."""
    cap_at_points: bool = False
    """Whether a level keeps at most one candidate per anchor point on average: not more than
    `pre_nms_topk`, and not more than it has points (detectron2, cvpods)."""
    clip: Literal["before", "after", "never"] = "before"
    """When boxes are clipped to their image. `before`: before suppression (mmdetection). `after`:
    after suppression and the cut, and boxes that are then empty are removed (detectron2,
    cvpods). `never`: not at all (DETR)."""
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

    @property
    def masks(self) -> bool:
        """Whether AP compares masks instead of boxes."""
        return self.evaluator == "masks"

    @property
    def matched(self) -> bool:
        """Whether AP follows from COCO's matching, so that images can be resampled."""
        return self.evaluator in ("coco", "masks")

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

_PAPERS = (
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
    _preset("condinst", evaluator="masks", score_floor=0.05, pre_nms_topk=1000, nms_iou=0.6),
    _preset(
        "centernet",
        pre_nms_topk=1000,
        clip="after",
        suppression="max_filter",
        level_range=0,
        spatial_range=3,
    ),
)
"""Each as the released code of its paper measures."""

_TOOLS = (
    _preset(
        "ultralytics",
        score_floor=0.001,
        pre_nms_topk=30_000,
        clip="after",
        nms_iou=0.7,
        max_dets=300,
    ),
    _preset("roboflow", pre_nms_topk=30_000, clip="after", nms_iou=0.7),
    _preset("detr", pre_nms_topk=1000, clip="never", nms_iou=0.5, order="cut_then_nms"),
    _preset("deepstream", score_floor=0.25, pre_nms_topk=30_000, nms_iou=0.45, max_dets=300),
    _preset("torchvision", score_floor=0.05, pre_nms_topk=30_000, nms_iou=0.5),
)
"""Each as a tool that people deploy or compare detectors with measures."""

PROTOCOLS: dict[str, Protocol] = {protocol.preset: protocol for protocol in (*_PAPERS, *_TOOLS)}
"""Presets by name. Those of papers keep 100 detections per image (`crowdhuman` 500).

`default` is POTO's NMS (IoU 0.6) without score floor, with 300 candidates per level. It clips boxes
before NMS, because the boxes in files of other tools are clipped, and both can then be measured
alike. `defcn` (POTO) suppresses boxes that are not clipped, `o2f` clipped ones. `onenet` cuts
before NMS and has no floor (its 100 best pairs of all levels are among the 1,000 best of each
level).
`date` is that of DATE-F; DATE-R keeps 1,000 candidates per level. `crowdhuman` is DeFCN's.
`condinst` is that of `o2f` with the AP of masks (002 Table 9), for detectors that predict masks.
`centernet` is CenterNet's: peaks of the score map of a class in 3 x 3 cells, then the 100 best of
them.

Presets of tools:

- `ultralytics`: `model.val()` of Ultralytics (`cfg/default.yaml`: `conf` 0.001 for validation,
  `iou` 0.7, `max_det` 300; `non_max_suppression`: `max_nms` 30,000 candidates per image). NMS is
  class-wise, and boxes are clipped afterwards.
- `roboflow`: Roboflow's benchmark of RF-DETR against exported YOLO models
  (single_artifact_benchmarking): no floor, NMS with Ultralytics' IoU 0.7, and the 100 detections
  that COCO's AP uses. Its YOLO models are exported with a floor of 0.001, which is not applied
  here, so that all models have the same one.
- `detr`: `PostProcess` of Deformable DETR and its successors: the 100 best pairs of a query and a
  class, no floor, no clipping. None of them has NMS: the column with NMS applies it at IoU 0.5 to
  these 100, as OneNet's code does.
- `deepstream`: the detectors of DeepStream-Yolo (`config_infer_primary_*.txt`:
  `pre-cluster-threshold` 0.25, `nms-iou-threshold` 0.45, `topk` 300, `cluster-mode` 2, which is
  class-wise NMS). Its parser clips boxes before NMS. Deviations: it keeps 300 detections per class,
  not per image, and only the best class of a box.
- `torchvision`: Faster R-CNN of torchvision (`box_score_thresh` 0.05, `box_nms_thresh` 0.5,
  `box_detections_per_img` 100). Boxes are clipped before NMS.
"""

TOOLS = frozenset(protocol.preset for protocol in _TOOLS)
"""Names of the presets of tools. Some need more candidates than a trial stores."""
