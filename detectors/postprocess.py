"""Select the candidates of an image from its raw predictions, before any NMS."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.structures import Candidates, Points, Predictions


def describe_non_finite(predictions: Predictions, image_ids: Sequence[int]) -> str:
    """Describe which predictions of a batch are NaN or infinite: the output and its images.

    Args:
        predictions: of a batch, with a leading dimension B.
        image_ids: B ids, for the message.

    Returns:
        The description, or an empty text if all predictions are finite.
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
    """How the input of a detector relates to the original image."""

    index: int
    """Index of the image in the data set."""
    scale: tuple[float, float]
    """(x, y) factors from pixels of the original image to pixels of the input."""


def select_candidates(
    scores_NC: Tensor, boxes_N4: Tensor, points: Points, topk: int, frame: Frame
) -> Candidates:
    """Return the `topk` best (point, class) pairs per level of one image, by descending score.

    Pairs with equal scores are in the order of level, point and class.

    Args:
        scores_NC: [N, C] in [0, 1].
        boxes_N4: [N, 4] xyxy, pixels of the input; they are scaled to the original image, but
            not clipped to it.
        points: the N anchor points.
        topk: number of candidates per level.
        frame: how the input relates to the original image.
    """
    num_classes, scores = scores_NC.shape[-1], scores_NC.flatten()
    pairs = _best_of_levels(scores, points.level, num_classes, topk)
    pairs = pairs[scores[pairs].argsort(descending=True, stable=True)]
    point = pairs // num_classes
    boxes = boxes_N4[point] / boxes_N4.new_tensor([*frame.scale, *frame.scale])
    return Candidates(
        image=torch.full_like(pairs, frame.index),
        boxes=boxes,
        scores=scores[pairs],
        labels=pairs % num_classes,
        levels=points.level[point],
        points=points.xy[point],
        strides=points.stride[point],
        level_points=points.level.bincount()[points.level[point]],
    )


def _best_of_levels(scores: Tensor, level: Tensor, num_classes: int, k: int) -> Tensor:
    """Return the indices of the k best scores [N * C] of every level, in ascending order.

    The points of a level are contiguous.
    """
    lengths = (level.bincount() * num_classes).tolist()
    best, start = [], 0
    for part in torch.split(scores, lengths):
        best.append(_best(part, k) + start)
        start += len(part)
    return torch.cat(best) if best else level.new_empty(0)


def _best(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k highest of scores [n], in ascending order; all n if n <= k.

    Among equal scores, the first are taken; `Tensor.topk` does not guarantee that.
    """
    if len(scores) <= k:
        return torch.arange(len(scores), device=scores.device)
    cut = scores.topk(k, sorted=False).values.min()
    above = (scores > cut).nonzero()[:, 0]
    tied = (scores == cut).nonzero()[:, 0]
    return torch.cat([above, tied[: k - len(above)]]).sort().values
