"""From raw predictions to candidates: what the evaluation keeps of an image, before any NMS."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors import boxes as box
from detectors.structures import Candidates, Points, Predictions


def not_finite(predictions: Predictions, image_ids: Sequence[int]) -> str:
    """What is wrong with a batch (logits [B, N, C], boxes [B, N, 4]) that holds NaN or infinity.

    Names the images and which of the two outputs is at fault; empty if all is well.
    """
    outputs = {"logits": predictions.logits, "boxes": predictions.boxes}
    if predictions.centerness is not None:
        outputs["centerness"] = predictions.centerness
    problems = []
    for name, values in outputs.items():
        bad = ~values.isfinite().flatten(1).all(dim=1)
        if bad.any():
            images = [image_ids[i] for i in bad.nonzero()[:, 0].tolist()]
            problems.append(f"{name} of images {images} are not finite")
    return ", ".join(problems)


@dataclass(frozen=True)
class Frame:
    """An image as candidates see it: its index in the data set, (x, y) factors from original to
    input pixels, and its original (width, height).
    """

    index: int
    scale: tuple[float, float]
    size: tuple[int, int]


def candidates(
    scores_NC: Tensor, boxes_N4: Tensor, points: Points, topk: int, frame: Frame
) -> Candidates:
    """The `topk` best (point, class) pairs of each level of one image, sorted by falling score.

    scores [N, C] in [0, 1], boxes [N, 4] in input pixels; boxes are moved to the pixels of the
    original image and clipped to it. Of equal scores the lower level comes first, then the lower
    point, then the lower class.
    """
    num_classes, scores = scores_NC.shape[-1], scores_NC.flatten()
    pairs = _best_of_levels(scores, points.level, num_classes, topk)
    pairs = pairs[scores[pairs].argsort(descending=True, stable=True)]
    point = pairs // num_classes
    boxes = boxes_N4[point] / boxes_N4.new_tensor([*frame.scale, *frame.scale])
    width, height = frame.size
    return Candidates(
        image=torch.full_like(pairs, frame.index),
        boxes=box.clip(boxes, height, width),
        scores=scores[pairs],
        labels=pairs % num_classes,
        levels=points.level[point],
        points=points.xy[point],
        strides=points.stride[point],
    )


def _best_of_levels(scores: Tensor, level: Tensor, num_classes: int, k: int) -> Tensor:
    """Rising flat indices of the k best scores [N * C] of every level; levels are contiguous."""
    lengths = (level.bincount() * num_classes).tolist()
    best, start = [], 0
    for part in torch.split(scores, lengths):
        best.append(_best(part, k) + start)
        start += len(part)
    return torch.cat(best) if best else level.new_empty(0)


def _best(scores: Tensor, k: int) -> Tensor:
    """Rising indices of the k highest of scores [n]; of equal ones the first (topk alone may not).

    All n when there are no more than k.
    """
    if len(scores) <= k:
        return torch.arange(len(scores), device=scores.device)
    cut = scores.topk(k, sorted=False).values.min()
    above = (scores > cut).nonzero()[:, 0]
    tied = (scores == cut).nonzero()[:, 0]
    return torch.cat([above, tied[: k - len(above)]]).sort().values
