"""Select the candidates of images from raw predictions, before any NMS.

`best_pairs` runs where the predictions are and never waits for the device. `Best.candidates` runs
on the CPU, with what was copied there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.structures import Candidates, Points, Predictions
from detectors.synchronisations import on_host


def finite_outputs(predictions: Predictions) -> dict[str, Tensor]:
    """Return for each output of a batch which of the B images have finite values only: [B] bool."""
    outputs = {"logits": predictions.logits, "boxes": predictions.boxes}
    if predictions.centerness is not None:
        outputs["centerness"] = predictions.centerness
    if predictions.masks is not None:
        outputs["masks"] = predictions.masks
    return {name: each.isfinite().flatten(1).all(dim=1) for name, each in outputs.items()}


def describe_non_finite(predictions: Predictions, image_ids: Sequence[int]) -> str:
    """Describe which predictions of a batch are NaN or infinite: the output and its images.

    Args:
        predictions: of a batch, with a leading dimension B.
        image_ids: B ids, for the message.

    Returns:
        The description, or an empty text if all predictions are finite.
    """
    return describe(finite_outputs(predictions), image_ids)


def describe(finite: dict[str, Tensor], image_ids: Sequence[int]) -> str:
    """Describe what `finite_outputs` returned, on the CPU; empty if all values are finite."""
    bad = {
        name: [i for i, sound in zip(image_ids, each.tolist(), strict=True) if not sound]
        for name, each in finite.items()
    }
    return ", ".join(f"{name} of images {ids} are not finite" for name, ids in bad.items() if ids)


@dataclass(frozen=True)
class Frame:
    """How the input of a detector relates to the original image."""

    index: int
    """Index of the image in the data set."""
    scale: tuple[float, float]
    """(x, y) factors from pixels of the original image to pixels of the input."""


@dataclass(frozen=True)
class Best:
    """The best pairs of point and class of B images, by descending score.

    Attributes:
        pairs: [B, K] int64: point * C + class.
        scores: [B, K] in [0, 1].
        boxes: [B, K, 4] xyxy, pixels of the input.
        classes: C.
    """

    pairs: Tensor
    scores: Tensor
    boxes: Tensor
    classes: int

    def to_host(self) -> "Best":
        """Return a copy on the CPU; it is complete when the device has done its work so far."""
        return Best(
            self.pairs.to("cpu", non_blocking=True),
            self.scores.to("cpu", non_blocking=True),
            self.boxes.to("cpu", non_blocking=True),
            self.classes,
        )

    @on_host
    def candidates(self, points: Points, frames: Sequence[Frame]) -> list[Candidates]:
        """Return the candidates of each image, with boxes in pixels of the original.

        Args:
            points: the N anchor points, on the CPU, as is this object.
            frames: how each input relates to its original image. Boxes are not clipped to it.
        """
        rows = zip(self.pairs, self.scores, self.boxes, frames, strict=True)
        return [self._image(points, *row) for row in rows]

    def _image(
        self, points: Points, pairs: Tensor, scores: Tensor, boxes: Tensor, frame: Frame
    ) -> Candidates:
        point = pairs // self.classes
        level = points.level[point]
        return Candidates(
            image=torch.full_like(pairs, frame.index),
            boxes=boxes / boxes.new_tensor([*frame.scale, *frame.scale]),
            scores=scores,
            labels=pairs % self.classes,
            levels=level,
            points=points.xy[point],
            strides=points.stride[point],
            level_points=torch.tensor(points.sizes, dtype=torch.int64)[level],
        )


def best_pairs(scores_BNC: Tensor, boxes_BN4: Tensor, sizes: Sequence[int], topk: int) -> Best:
    """Return the `topk` best (point, class) pairs per level of every image, by descending score.

    Pairs with equal scores are in the order of level, point and class. Scores must not be NaN.

    Args:
        scores_BNC: [B, N, C] in [0, 1].
        boxes_BN4: [B, N, 4] xyxy, pixels of the input.
        sizes: the number of points of each level.
        topk: number of pairs per level.
    """
    classes, start = scores_BNC.shape[2], 0
    scores = scores_BNC.flatten(1)
    found = [torch.zeros(len(scores), 0, dtype=torch.int64, device=scores.device)]
    for part in torch.split(scores, [size * classes for size in sizes], 1):
        found.append(_best(part, topk) + start)
        start += part.shape[1]
    pairs = torch.cat(found, 1)
    values = scores.gather(1, pairs)
    order = values.argsort(dim=1, descending=True, stable=True)
    pairs = pairs.gather(1, order)
    point = (pairs // classes)[..., None].expand(-1, -1, 4)
    return Best(pairs, values.gather(1, order), boxes_BN4.gather(1, point), classes)


def _best(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k highest of scores [B, n] of each row, in ascending order.

    All n are returned if n <= k. Among equal scores, the first are taken; `Tensor.topk` does not
    guarantee that. If a score is NaN, indices are arbitrary, but valid.
    """
    rows, size = scores.shape
    if size <= k:
        return torch.arange(size, device=scores.device).expand(rows, -1)
    cut = scores.topk(k, 1, sorted=False).values.amin(1, keepdim=True)
    above, tied = scores > cut, scores == cut
    spare = k - above.sum(1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= spare))
    return chosen.nonzero_static(size=rows * k, fill_value=0)[:, 1].reshape(rows, k)
