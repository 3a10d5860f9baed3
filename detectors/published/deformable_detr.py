"""Deformable DETR as released by its authors."""

from collections.abc import Mapping

from torch import Tensor

from detectors.models.deformable_detr import DeformableDetrOptions
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

SAMPLING = ("sampling_offsets", "attention_weights")
ENCODER = {
    **{f"self_attn.{name}": f"itself.{name}" for name in SAMPLING},
    "self_attn.value_proj": "itself.value",
    "self_attn.output_proj": "itself.output",
    "norm1": "itself.norm",
    "linear1": "feed.first",
    "linear2": "feed.second",
    "norm2": "feed.norm",
}
DECODER = {
    "self_attn": "itself.attention",
    "norm2": "itself.norm",
    **{f"cross_attn.{name}": f"cross.{name}" for name in SAMPLING},
    "cross_attn.value_proj": "cross.value",
    "cross_attn.output_proj": "cross.output",
    "norm1": "cross.norm",
    "linear1": "feed.first",
    "linear2": "feed.second",
    "norm3": "feed.norm",
}
NAMES: Names = {
    "backbone.0.body": "backbone",
    **{f"input_proj.{i}": f"neck.projections.{i}" for i in range(3)},
    "input_proj.3": "neck.extras.0",
    "transformer.level_embed": "head.level_embed",
    **{
        f"transformer.encoder.layers.{{}}.{a}": f"head.encoder.{{}}.{b}" for a, b in ENCODER.items()
    },
    **{
        f"transformer.decoder.layers.{{}}.{a}": f"head.decoder.{{}}.{b}" for a, b in DECODER.items()
    },
    "query_embed.weight": "head.initial.queries",
    "transformer.reference_points": "head.initial.reference_points",
    "transformer.enc_output": "head.initial.output",
    "transformer.enc_output_norm": "head.initial.norm",
    "transformer.pos_trans": "head.initial.place",
    "transformer.pos_trans_norm": "head.initial.place_norm",
}


class DeformableDetr(PublishedDetector):
    """Deformable DETR with four levels; also with iterative refinement, and in two stages.

    Predictors are stored once per decoder layer, and again inside of the decoder with refinement.
    Without refinement all are copies of one. With two stages, one more is that of the proposals;
    only its first class is trained. The class layers have an output per category id of COCO, 0 to
    90, of which ours have the 80 classes.
    """

    source = (
        "fundamentalvision/Deformable-DETR: models/deformable_detr.py, deformable_transformer.py, "
        "ops/modules/ms_deform_attn.py, backbone.py"
    )
    signs = ("class_embed.0.weight", "transformer.level_embed")

    def options(self, weights: Mapping[str, Tensor]) -> DeformableDetrOptions:
        """See `PublishedDetector.options`."""
        two_stage = "transformer.enc_output.weight" in weights
        depth = depth_of(count(weights, "backbone.0.body.layer3.{}"))
        sizes = {
            "encoder_layers": count(weights, "transformer.encoder.layers.{}"),
            "decoder_layers": count(weights, "transformer.decoder.layers.{}"),
            "refine": "transformer.decoder.bbox_embed.0.layers.0.weight" in weights,
            "two_stage": two_stage,
            "queries": 300 if two_stage else len(weights["query_embed.weight"]),
        }
        backbone = {"name": "resnet", "depth": depth, **NORMAL}
        published = {**DeformableDetrOptions.published, "backbone": backbone}
        return DeformableDetrOptions.model_validate({**published, **sizes})

    def names(self, weights: Mapping[str, Tensor]) -> Names:
        """See `PublishedDetector.names`."""
        options, head = self.options(weights), f"head.predictors.{BRANCH}"
        number = "{}" if options.refine else "0"
        layers = {"{}": f"{head}.{number}"}
        if options.two_stage:
            layers = {f"{options.decoder_layers}": "head.initial.predictor"} | layers
        names = dict(NAMES)
        for prefix in ("", "transformer.decoder."):
            for layer, ours in layers.items():
                names[f"{prefix}class_embed.{layer}"] = f"{ours}.cls"
                for i in range(3):
                    names[f"{prefix}bbox_embed.{layer}.layers.{i}"] = f"{ours}.box.{2 * i}"
        return names

    def values(self, found: Weights, where: str) -> Weights:
        """See `PublishedDetector.values`."""
        own = {key: value for key, value in found.items() if ".cls." in key}
        return found | {
            key: value[:1] if key.startswith("head.initial.") else of_classes(value, 0, where)
            for key, value in own.items()
        }
