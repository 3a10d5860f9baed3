"""POTO as released by its authors (DeFCN), on cvpods."""

from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.models.backbone_base import STD
from detectors.models.fcos import FcosOptions
from detectors.published.base import (
    BRANCH,
    NORMAL,
    Names,
    PublishedDetector,
    Weights,
    count,
    depth_of,
)
from detectors.published.resnet import detectron2_pyramid, detectron2_resnet

TOWERS = {"cls_subnet": "cls", "bbox_subnet": "box"}
SCALES = "head.scales."
NAMES: Names = {
    **detectron2_resnet("backbone.bottom_up"),
    **detectron2_pyramid("backbone", (3, 4, 5)),
    "backbone.top_block.p6": "neck.extras.0",
    "backbone.top_block.p7": "neck.extras.1",
    **{
        f"head.{theirs}.{3 * conv + i}": f"head.towers.shared.{ours}.{conv}.0.{i}"
        for theirs, ours in TOWERS.items()
        for conv in range(4)
        for i in range(2)
    },
    "head.cls_score": f"head.predictors.{BRANCH}.cls",
    "head.bbox_pred": f"head.predictors.{BRANCH}.box",
    "head.scales.{}.scale": f"{SCALES}{{}}",
}


class Poto(PublishedDetector):
    """FCOS without centerness, with POTO (003) and without 3D max filtering.

    Pictures are BGR there, with a deviation of 1, which is folded into the first convolution. The
    factors of the five levels are one weight here. Variants of the repository with other labels
    have the same names.
    """

    source = (
        "Megvii-BaseDetection/DeFCN: playground/detection/coco/poto.res50.fpn.coco.800size.6x_ms/"
        "fcos.py, net.py, config.py; Megvii-BaseDetection/cvpods: cvpods/modeling/backbone/"
        "resnet.py, fpn.py, cvpods/configs/base_detection_config.py"
    )
    signs = ("head.cls_subnet.0.weight", "head.bbox_pred.weight", "head.scales.4.scale")

    def options(self, weights: Mapping[str, Tensor]) -> FcosOptions:
        """See `PublishedDetector.options`."""
        depth = depth_of(count(weights, "backbone.bottom_up.res4.{}"))
        return FcosOptions.model_validate(
            {
                "backbone": {"name": "resnet", "depth": depth, "stride_in": "1x1", **NORMAL},
                "channels": 256,
                "tower_convs": 4,
                "groups": 32,
                "extra_levels": 2,
                "box": "relu",
            }
        )

    def names(self, weights: Mapping[str, Tensor]) -> Names:
        """See `PublishedDetector.names`."""
        return NAMES

    def values(self, found: Weights, where: str) -> Weights:
        """See `PublishedDetector.values`."""
        scales = {key: found[key] for key in sorted(found) if key.startswith(SCALES)}
        rest = {key: value for key, value in found.items() if key not in scales}
        first = rest["backbone.conv1.weight"]
        std = torch.tensor(STD, device=first.device)[:, None, None]
        return rest | {
            "head.scales": torch.cat([*scales.values()]),
            "backbone.conv1.weight": first.flip(1) * std,
        }
