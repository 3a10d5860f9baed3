"""The mask loss, and the masks of candidates: what is computed with the output of CondInst."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detectors.criterion import Criterion
from detectors.data.loader import Batch
from detectors.data.mask_views import COARSE
from detectors.losses import dice
from detectors.models.condinst import enlarged, mask_logits
from detectors.structures import Assignment, Points, Predictions
from detectors.synchronisations import on_host


@dataclass(frozen=True)
class MaskTargets:
    """The masks of the O objects of a batch, one pixel of COARSE x COARSE.

    Attributes:
        masks: [O, h, w] float, 1 for pixels of the object.
        labels: [O] int64.
        first: [B] int64, index of the first object of each image.
    """

    masks: Tensor
    labels: Tensor
    first: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Self:
        """Pad the masks of each image, and copy them to `device` without waiting.

        Raises:
            ValueError: the batch has no masks.
        """
        if not batch.masks:
            raise ValueError("a detector that predicts masks needs batches with masks")
        masks, labels, first = cls._on_host(batch)
        return cls(
            masks.to(device, non_blocking=True),
            labels.to(device, non_blocking=True),
            first.to(device, non_blocking=True),
        )

    @staticmethod
    @on_host
    def _on_host(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        counts = [len(each) for each in batch.masks]
        size = [-(-side // COARSE) for side in batch.images.shape[2:]]
        padded = torch.zeros(sum(counts), *size)
        for rows, each in zip(torch.split(padded, counts), batch.masks, strict=True):
            rows[:, : each.shape[1], : each.shape[2]] = each
        first = torch.tensor([0, *counts]).cumsum(0)[:-1]
        return padded, torch.cat([each.labels for each in batch.targets]), first


def mask_loss(
    criterion: Criterion,
    points: Points,
    predictions: Predictions,
    assignment: Assignment,
    features: Tensor,
    targets: MaskTargets,
) -> Tensor:
    """Compute the weighted mean dice loss of positive points; see `LossOptions.mask_weight`.

    Masks are compared at one pixel of COARSE x COARSE. The loss is NaN if any parameter of a mask
    or any mask feature is not finite, even without positive points.

    Args:
        criterion: its options and ranks.
        points: the N points.
        predictions: with parameters of masks [B, N, P].
        assignment: that of the batch.
        features: [B, C, h, w], mask features at the stride of the finest level.
        targets: the masks of the objects.
    """
    assert predictions.masks is not None
    image, point = assignment.located().positives()
    owner = targets.first[image] + assignment.object[image, point]
    score = predictions.logits.detach()[image, point, targets.labels[owner]]
    chosen = _best(criterion.options.mask_points, assignment.located().counts, owner, score)
    image, point, owner = image[chosen], point[chosen], owner[chosen]
    logits = coarse_logits(features, image, predictions.masks[image, point], points.take(point))
    wanted = targets.masks[owner]
    logits = logits[:, : wanted.shape[1], : wanted.shape[2]]
    unused = 0 * predictions.masks.sum() + 0 * features.float().sum()
    return criterion.options.mask_weight * criterion.mean(dice(logits, wanted)) + unused


def _best(most: int, counts: Sequence[int], owner: Tensor, score: Tensor) -> Tensor:
    """Return which positive points are used: [K'] int64; see `LossOptions.mask_points`.

    Nothing waits for the device: the numbers of points are known.

    Args:
        most: the limit per image; 0: none.
        counts: the number of positive points of each image.
        owner: [K], index of the object of each point in the batch; the points are sorted by image.
        score: [K].
    """
    by_score = score.argsort(descending=True, stable=True)
    by_owner = by_score[owner[by_score].argsort(stable=True)]
    sorted_owner = owner[by_owner]
    position = torch.arange(len(owner), device=owner.device)
    rank = torch.empty_like(position)
    rank[by_owner] = position - torch.searchsorted(sorted_owner, sorted_owner)
    order = by_score[rank[by_score].argsort(stable=True)]
    starts, numbers = _starts(counts, most or sum(counts))
    image = torch.bucketize(order, starts.to(owner.device, non_blocking=True), right=True)
    within = numbers.to(owner.device, non_blocking=True)
    return order[image.argsort(stable=True)][within]


@on_host
def _starts(counts: Sequence[int], most: int) -> tuple[Tensor, Tensor]:
    """Return where images but the first start among their points, and `most` places of each."""
    starts = torch.tensor([0, *counts]).cumsum(0)
    pairs = zip(starts[:-1].tolist(), counts, strict=True)
    first = [range(start, start + min(count, most)) for start, count in pairs]
    return starts[1:-1], torch.tensor([at for each in first for at in each], dtype=torch.int64)


def coarse_logits(features: Tensor, image: Tensor, parameters: Tensor, points: Points) -> Tensor:
    """Return the masks of K points as logits [K, h, w], one of COARSE x COARSE pixels.

    Args:
        features: [B, C, h', w'], mask features.
        image: [K], index of the image in the batch.
        parameters: [K, P].
        points: the K points.
    """
    finest = round(points.extent[0] / features.shape[-1])
    logits = mask_logits(features, image, parameters, points.xy, points.stride, finest)
    return enlarged(logits, max(1, finest // COARSE))


def masks_at(
    features: Tensor,
    image: Tensor,
    parameters: Tensor,
    points: Points,
    scale: tuple[float, float],
    size: tuple[int, int],
) -> Tensor:
    """Compute the masks of K points of one image in its original size: [K, height, width] bool.

    Args:
        features: [B, C, h, w], mask features.
        image: [K], index of the image in the batch.
        parameters: [K, P].
        points: the K points.
        scale: (x, y) factors from pixels of the original to those of the input.
        size: (width, height) of the original.
    """
    if not len(image):
        return torch.zeros(0, size[1], size[0], dtype=torch.bool, device=features.device)
    return placed(coarse_logits(features, image, parameters, points).sigmoid(), scale, size)


def placed(coarse: Tensor, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Return masks in the original size of their image: [K, height, width] bool.

    A pixel belongs to the mask if its probability, interpolated bilinearly, is above 0.5. A cell
    has the value of the pixel of the input from which its target is read, as in CondInst.

    Args:
        coarse: [K, h, w], probabilities (K at least 1), one of COARSE x COARSE pixels of the input.
        scale: (x, y) factors from pixels of the original to those of the input.
        size: (width, height) of the original.
    """
    down, across = (
        _weights(side, cells, factor).to(coarse)
        for side, cells, factor in zip(
            reversed(size), coarse.shape[1:], reversed(scale), strict=True
        )
    )
    return down @ coarse @ across.T > 0.5


def _weights(side: int, cells: int, factor: float) -> Tensor:
    """Return the weight of each cell for each pixel of one side of the original: [side, cells]."""
    pixel = (torch.arange(side) + 0.5) * factor - 0.5
    at = ((pixel - COARSE // 2) / COARSE).clamp(0, cells - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)
