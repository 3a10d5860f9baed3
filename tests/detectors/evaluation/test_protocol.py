from typing import Any

import pytest
from pydantic import ValidationError

from detectors.evaluation.protocol import PROTOCOLS, TOOLS, Protocol

# Score floor, candidates per level and whether they are capped, clipping, NMS IoU, order and
# detections of each paper's released code, and of each tool.
PRESETS = {
    "default": (0.0, 300, False, "before", 0.6, "nms_then_cut", 100),
    "defcn": (0.05, 1000, True, "after", 0.6, "nms_then_cut", 100),
    "o2f": (0.05, 1000, False, "before", 0.6, "nms_then_cut", 100),
    "onenet": (0.0, 1000, False, "after", 0.5, "cut_then_nms", 100),
    "date": (0.01, 100, False, "before", 0.5, "nms_then_cut", 100),
    "crowdhuman": (0.05, 1000, True, "after", 0.6, "nms_then_cut", 500),
    "condinst": (0.05, 1000, False, "before", 0.6, "nms_then_cut", 100),
    "centernet": (0.0, 1000, False, "after", 0.6, "nms_then_cut", 100),
    "ultralytics": (0.001, 30_000, False, "after", 0.7, "nms_then_cut", 300),
    "roboflow": (0.0, 30_000, False, "after", 0.7, "nms_then_cut", 100),
    "detr": (0.0, 1000, False, "never", 0.5, "cut_then_nms", 100),
    "deepstream": (0.25, 30_000, False, "before", 0.45, "nms_then_cut", 300),
    "torchvision": (0.05, 30_000, False, "before", 0.5, "nms_then_cut", 100),
}
FIELDS = (
    "score_floor",
    "pre_nms_topk",
    "cap_at_points",
    "clip",
    "nms_iou",
    "order",
    "max_dets",
)


def test_presets() -> None:
    found = {name: tuple(vars(p)[f] for f in FIELDS) for name, p in PROTOCOLS.items()}
    assert found == PRESETS
    for name, protocol in PROTOCOLS.items():
        assert protocol.preset == name
        evaluators = {"crowdhuman": "crowd", "condinst": "masks"}
        assert protocol.evaluator == evaluators.get(name, "coco")
        assert protocol.class_wise
        peaks = ("max_filter", 0, 3) if name == "centernet" else ("nms", None, None)
        assert (protocol.suppression, protocol.level_range, protocol.spatial_range) == peaks


def test_tools_are_the_presets_that_no_paper_has() -> None:
    assert sorted(TOOLS) == ["deepstream", "detr", "roboflow", "torchvision", "ultralytics"]
    assert next(iter(PROTOCOLS)) == "default"


@pytest.mark.parametrize("side", [1, 3, 99])
def test_an_odd_window_is_accepted(side: int) -> None:
    assert Protocol(spatial_range=side).spatial_range == side
    assert Protocol(spatial_range=side, suppression="max_filter").suppression == "max_filter"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spatial_range": 2}, "must be odd"),
        ({"spatial_range": 0}, "greater than or equal to 1"),
        ({"level_range": -1}, "greater than or equal to 0"),
        ({"suppression": "max_filter"}, "max_filter needs one"),
        ({"suppression": "soft"}, "'nms' or 'max_filter'"),
        ({"evaluator": "voc"}, "'coco', 'crowd' or 'masks'"),
        ({"score_floor": 1.0}, "less than 1"),
        ({"score_floor": float("nan")}, "finite"),
        ({"nms_iou": 0.0}, "greater than 0"),
        ({"nms_iou": 1.01}, "less than or equal to 1"),
        ({"max_dets": 0}, "greater than or equal to 1"),
        ({"pre_nms_topk": 0}, "greater than or equal to 1"),
        ({"pre_nms_topk": 1.5}, "valid integer"),
        ({"clip": "later"}, "'before', 'after' or 'never'"),
        ({"order": "cut"}, "'nms_then_cut' or 'cut_then_nms'"),
        ({"nms_threshold": 0.6}, "Extra inputs are not permitted"),
    ],
)
def test_invalid_values_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate(values)


def test_only_the_name_is_not_part_of_the_identity() -> None:
    extras = {name: field.json_schema_extra for name, field in Protocol.model_fields.items()}
    marked = {
        name
        for name, extra in extras.items()
        if isinstance(extra, dict) and extra.get("identity") is False
    }
    assert marked == {"preset"}
