"""Sparse R-CNN as released by its authors, on detectron2."""

from collections.abc import Mapping

from torch import Tensor

from detectors.models.sparse_rcnn import SparseRcnnOptions
from detectors.published.base import BRANCH, NORMAL, Names, PublishedDetector, count, depth_of
from detectors.published.resnet import detectron2_pyramid, detectron2_resnet

STAGE = {
    "self_attn": "itself.attention",
    "norm1": "itself.norm",
    "inst_interact.dynamic_layer": "interact.weights",
    "inst_interact.norm1": "interact.inner",
    "inst_interact.norm2": "interact.outer",
    "inst_interact.out_layer": "interact.merge",
    "inst_interact.norm3": "interact.norm",
    "norm2": "norm",
    "linear1": "feed.first",
    "linear2": "feed.second",
    "norm3": "feed.norm",
}
PREDICTOR = {
    **{f"cls_module.{i}": f"cls.0.{i}" for i in range(2)},
    "class_logits": "cls.1",
    **{f"reg_module.{3 * layer + i}": f"box.{layer}.{i}" for layer in range(3) for i in range(2)},
    "bboxes_delta": "box.3",
}
NAMES: Names = {
    **detectron2_resnet("backbone.bottom_up"),
    **detectron2_pyramid("backbone", (2, 3, 4, 5)),
    "init_proposal_features.weight": "head.queries",
    "init_proposal_boxes.weight": "head.boxes",
    **{f"head.head_series.{{}}.{a}": f"head.stages.{{}}.{b}" for a, b in STAGE.items()},
    **{
        f"head.head_series.{{}}.{a}": f"head.predictors.{BRANCH}.{{}}.{b}"
        for a, b in PREDICTOR.items()
    },
}


class SparseRcnn(PublishedDetector):
    """Sparse R-CNN with a ResNet-50 or ResNet-101 and focal loss; classes are the 80 of COCO."""

    source = "PeizeSun/SparseR-CNN: projects/SparseRCNN/sparsercnn/detector.py, head.py"
    signs = ("init_proposal_boxes.weight", "head.head_series.0.bboxes_delta.weight")

    def options(self, weights: Mapping[str, Tensor]) -> SparseRcnnOptions:
        """See `PublishedDetector.options`."""
        published = SparseRcnnOptions.published
        depth = depth_of(count(weights, "backbone.bottom_up.res4.{}"))
        return SparseRcnnOptions.model_validate(
            {
                **published,
                "backbone": {
                    "name": "resnet",
                    "depth": depth,
                    **published["backbone"],
                    **NORMAL,
                },
                "stages": count(weights, "head.head_series.{}"),
                "queries": len(weights["init_proposal_boxes.weight"]),
            }
        )

    def names(self, weights: Mapping[str, Tensor]) -> Names:
        """See `PublishedDetector.names`."""
        return NAMES
