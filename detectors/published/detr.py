"""DETR as released by its authors."""

from collections.abc import Mapping

from torch import Tensor

from detectors.models.detr import DetrOptions
from detectors.published.base import (
    BRANCH,
    NORMAL,
    Names,
    PublishedDetector,
    Weights,
    count,
    depth_of,
)
from detectors.published.coco import of_classes

ATTENTION = {"self_attn": "itself.attention", "norm1": "itself.norm"}
"""Names in layers of encoder and decoder."""
ENCODER = {**ATTENTION, "linear1": "feed.first", "linear2": "feed.second", "norm2": "feed.norm"}
DECODER = {
    **ATTENTION,
    "multihead_attn": "cross.attention",
    "norm2": "cross.norm",
    "linear1": "feed.first",
    "linear2": "feed.second",
    "norm3": "feed.norm",
}
NAMES: Names = {
    "backbone.0.body": "backbone",
    "input_proj": "neck.project",
    **{
        f"transformer.encoder.layers.{{}}.{a}": f"head.encoder.{{}}.{b}" for a, b in ENCODER.items()
    },
    **{
        f"transformer.decoder.layers.{{}}.{a}": f"head.decoder.{{}}.{b}" for a, b in DECODER.items()
    },
    "transformer.decoder.norm": "head.norm",
    "query_embed.weight": "head.queries",
    "class_embed": f"head.predictors.{BRANCH}.cls",
    "bbox_embed.layers.0": f"head.predictors.{BRANCH}.box.0",
    "bbox_embed.layers.1": f"head.predictors.{BRANCH}.box.2",
    "bbox_embed.layers.2": f"head.predictors.{BRANCH}.box.4",
}


class Detr(PublishedDetector):
    """DETR with a ResNet-50 or ResNet-101 of stride 32.

    Its class layer has an output per category id of COCO, 0 to 90, and one for "no object", of
    which it takes the softmax. Ours are the differences of the 80 classes to "no object", so the
    score of a class is p(class) / (p(class) + p(no object)).

    The variants DC5 have the same names, but other strides; they can't be told apart.
    """

    source = "facebookresearch/detr: models/detr.py, transformer.py, backbone.py"
    signs = ("class_embed.weight", "query_embed.weight", "transformer.decoder.norm.weight")

    def options(self, weights: Mapping[str, Tensor]) -> DetrOptions:
        """See `PublishedDetector.options`."""
        layers = "transformer.{}.layers".format
        depth = depth_of(count(weights, "backbone.0.body.layer3.{}"))
        sizes = {
            "encoder_layers": count(weights, layers("encoder") + ".{}"),
            "decoder_layers": count(weights, layers("decoder") + ".{}"),
            "queries": len(weights["query_embed.weight"]),
        }
        backbone = {"name": "resnet", "depth": depth, **NORMAL}
        return DetrOptions.model_validate({**DetrOptions.published, "backbone": backbone, **sizes})

    def names(self, weights: Mapping[str, Tensor]) -> Names:
        """See `PublishedDetector.names`."""
        return NAMES

    def values(self, found: Weights, where: str) -> Weights:
        """See `PublishedDetector.values`."""
        head = f"head.predictors.{BRANCH}.cls"
        own = {key: found[key] for key in (f"{head}.weight", f"{head}.bias") if key in found}
        return found | {key: of_classes(value, 1, where) - value[-1] for key, value in own.items()}
